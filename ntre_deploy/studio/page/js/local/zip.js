// ZIP files of stored entries: photos are packed already, and the rest is small.

const UTF8 = 0x800, MOST = 0xffffffff, MOST_ENTRIES = 0xffff;

/**
 * @param {{name: string, blob: Blob, crc: number}[]} entries  names with / between folders
 * @param {Date} [when] that stands at all of them
 * @returns {Blob}
 */
export function zip(entries, when = new Date()) {
  const size = entries.reduce((sum, { blob }) => sum + blob.size + 400, 0);
  if (size > MOST || entries.length > MOST_ENTRIES) throw new Error("This is more than a ZIP file of 4 GB holds; export masks or memories alone, or take photos off the strip.");
  const time = (when.getHours() << 11) | (when.getMinutes() << 5) | (when.getSeconds() >> 1);
  const date = ((when.getFullYear() - 1980) << 9) | ((when.getMonth() + 1) << 5) | when.getDate();
  const parts = [], directory = [];
  let at = 0, length = 0;
  for (const { name, blob, crc } of entries) {
    const bytes = new TextEncoder().encode(name);
    // what both headers say: version needed, flags, stored, time, date, CRC-32, both sizes, lengths of name and more
    const both = [[2, 20], [2, UTF8], [2, 0], [2, time], [2, date], [4, crc], [4, blob.size], [4, blob.size], [2, bytes.length], [2, 0]];
    const head = numbers([[4, 0x04034b50], ...both]);
    parts.push(head, bytes, blob);
    const entry = numbers([[4, 0x02014b50], [2, 20], ...both, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]]);
    directory.push(entry, bytes);
    at += head.length + bytes.length + blob.size;
    length += entry.length + bytes.length;
  }
  const end = numbers([[4, 0x06054b50], [2, 0], [2, 0], [2, entries.length], [2, entries.length], [4, length], [4, at], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Little-endian numbers. @param {number[][]} fields bytes and value of each */
function numbers(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0)), view = new DataView(bytes.buffer);
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return bytes;
}
