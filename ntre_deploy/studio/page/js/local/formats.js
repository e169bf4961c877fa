// Label maps as files: PNG, COCO's run-length code and LabelMe's polygons, with the content that Python writes.

import { keyhole, regions } from "./polygons.js";

// the last version of LabelMe whose files all later ones read
const LABELME = "5.0.0";
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** CRC-32 as PNG and ZIP have it. @param {Uint8Array} bytes @param {number} [before] of what stands in front */
export function crc32(bytes, before = 0) {
  let value = ~before;
  for (let i = 0; i < bytes.length; i++) value = TABLE[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/**
 * A label map of another size, each pixel the one that cv2.resize takes for INTER_NEAREST.
 * @param {Uint8Array} labels @param {number} width @param {number} height @param {number} toWidth @param {number} toHeight
 */
export function resized(labels, width, height, toWidth, toHeight) {
  if (width === toWidth && height === toHeight) return labels;
  const out = new Uint8Array(toWidth * toHeight), byX = 1 / (toWidth / width), byY = 1 / (toHeight / height);
  const columns = Int32Array.from({ length: toWidth }, (_, x) => Math.min(Math.floor(x * byX), width - 1));
  for (let y = 0, i = 0; y < toHeight; y++) {
    const row = Math.min(Math.floor(y * byY), height - 1) * width;
    for (let x = 0; x < toWidth; x++) out[i++] = labels[row + columns[x]];
  }
  return out;
}

/**
 * A PNG of one byte a pixel.
 * @param {Uint8Array} pixels @param {number} width @param {number} height
 * @param {Uint8Array} [palette] RGB of each value; grey without
 * @returns {Promise<Blob>}
 */
export async function png(pixels, width, height, palette) {
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) rows.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint8(8, 8);
  head.setUint8(9, palette ? 3 : 0);
  const parts = [chunk("IHDR", new Uint8Array(head.buffer)), ...(palette ? [chunk("PLTE", palette)] : []), chunk("IDAT", new Uint8Array(packed)), chunk("IEND", new Uint8Array(0))];
  return new Blob([new Uint8Array(SIGNATURE), ...parts], { type: "image/png" });
}

/** @param {string} kind @param {Uint8Array} content */
function chunk(kind, content) {
  const bytes = new Uint8Array(content.length + 12), view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(content, 8);
  view.setUint32(content.length + 8, crc32(bytes.subarray(4, content.length + 8)));
  return bytes;
}

/** COCO's code, box and area of one class; null where it has no pixels. @param {Uint8Array} labels @param {number} width @param {number} height @param {number} label */
export function runs(labels, width, height, label) {
  const lengths = [];
  let inside = false, length = 0, area = 0, left = width, right = -1, top = height, bottom = -1;
  // column after column
  for (let x = 0; x < width; x++) {
    for (let y = 0, i = x; y < height; y++, i += width) {
      const own = labels[i] === label;
      if (own !== inside) {
        lengths.push(length);
        length = 0;
        inside = own;
      }
      length++;
      if (!own) continue;
      area++;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
  }
  if (!area) return null;
  lengths.push(length);
  // from the fourth on, each run is written as the difference to the one of its kind before
  const counts = lengths.map((run, n) => characters(n < 3 ? run : run - lengths[n - 2])).join("");
  return { segmentation: { size: [height, width], counts }, area, bbox: [left, top, right - left + 1, bottom - top + 1] };
}

/** @param {number} value */
function characters(value) {
  let text = "";
  for (;;) {
    const part = value & 31;
    value >>= 5;
    // what is left is the sign alone, and the sixth bit of this part already says it
    const done = value === (part & 16 ? -1 : 0);
    text += String.fromCharCode(48 + (done ? part : part | 32));
    if (done) return text;
  }
}

/** The content of LabelMe's file. @param {Uint8Array} labels @param {number} width @param {number} height @param {string[]} names @param {string} file */
export function labelme(labels, width, height, names, file) {
  const shapes = regions(labels, width, height, names.length).map((region) => ({ label: names[region.label - 1], points: keyhole(region), group_id: null, shape_type: "polygon", flags: {} }));
  return { version: LABELME, flags: {}, shapes, imagePath: file, imageData: null, imageHeight: height, imageWidth: width };
}
