/**
 * safetensors files: a little-endian 64-bit length, a JSON header, and the bytes of the tensors.  Read as the hostile
 * files that
 * they may be: what is not exactly that is refused.
 */

/**
 * @typedef {object} Tensor
 * @property {string} dtype such as `F32`
 * @property {number[]} shape
 * @property {Uint8Array} bytes
 */

/** @typedef {{ tensors: Map<string, Tensor>, metadata: Record<string, string> }} Safetensors */

/** @type {Record<string, number>} */
const SIZES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
};
// as the reference implementation
const MAX_HEADER = 100_000_000;

/** What is wrong with a file; without its name. */
export class SafetensorsError extends Error {}

/**
 * @param {Uint8Array} file
 * @returns {Safetensors}
 * @throws {SafetensorsError}
 */
export function readSafetensors(file) {
  if (file.length < 8) throw new SafetensorsError("it is shorter than a header");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER)) throw new SafetensorsError("its header is too large");
  const begin = 8 + Number(length);
  if (begin > file.length) throw new SafetensorsError("its header runs past the end");
  const header = object(parse(file.subarray(8, begin)), "the header");
  /** @type {Record<string, string>} */
  const metadata = {};
  /** @type {{ name: string, dtype: string, shape: number[], from: number, to: number }[]} */
  const found = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") {
      for (const [key, value] of Object.entries(object(entry, "the metadata"))) {
        if (typeof value !== "string") throw new SafetensorsError("its metadata are no texts");
        metadata[key] = value;
      }
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = object(entry, name);
    if (typeof dtype !== "string" || !Object.hasOwn(SIZES, dtype))
      throw new SafetensorsError(`${name} has an unknown dtype`);
    if (!isSizes(shape)) throw new SafetensorsError(`${name} has no shape`);
    if (!isSizes(offsets) || offsets.length !== 2) throw new SafetensorsError(`${name} has no offsets`);
    const size = shape.reduce((product, side) => product * side, SIZES[dtype]);
    const [from, to] = offsets;
    if (!Number.isSafeInteger(size) || to - from !== size)
      throw new SafetensorsError(`${name} has another size than its shape`);
    found.push({ name, dtype, shape, from, to });
  }
  found.sort((a, b) => a.from - b.from || a.to - b.to);
  /** @type {Map<string, Tensor>} */
  const tensors = new Map();
  let at = 0;
  for (const { name, dtype, shape, from, to } of found) {
    if (from !== at || begin + to > file.length) throw new SafetensorsError(`${name} does not lie where it should`);
    tensors.set(name, { dtype, shape, bytes: file.subarray(begin + from, begin + to) });
    at = to;
  }
  if (begin + at !== file.length) throw new SafetensorsError("there are bytes that belong to no tensor");
  return { tensors, metadata };
}

/**
 * @param {[string, { shape: number[], data: Float32Array }][]} tensors
 * @param {Record<string, string>} metadata
 * @returns {Uint8Array}
 */
export function writeSafetensors(tensors, metadata) {
  /** @type {Record<string, unknown>} */
  const header = { __metadata__: metadata };
  let at = 0;
  for (const [name, { shape, data }] of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [at, (at += data.byteLength)] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  // tensors begin at a multiple of 8
  const begin = 8 + Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(begin + at);
  new DataView(file.buffer).setBigUint64(0, BigInt(begin - 8), true);
  file.fill(0x20, 8, begin).set(text, 8);
  at = begin;
  for (const [, { data }] of tensors) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return file;
}

/**
 * A float32 tensor's values, copied so that they are aligned.
 * @param {Tensor} tensor
 */
export function floats(tensor) {
  return new Float32Array(tensor.bytes.slice().buffer);
}

/** @param {Uint8Array} bytes */
function parse(bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    throw new SafetensorsError("its header is no JSON");
  }
}

/**
 * @param {unknown} value
 * @param {string} what
 * @returns {Record<string, unknown>}
 */
function object(value, what) {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new SafetensorsError(`${what} is no object`);
  return /** @type {Record<string, unknown>} */ (value);
}

/**
 * @param {unknown} value
 * @returns {value is number[]}
 */
function isSizes(value) {
  return Array.isArray(value) && value.every((side) => Number.isSafeInteger(side) && side >= 0);
}
