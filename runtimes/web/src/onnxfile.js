/** A look into an ONNX file: does it refer to data outside itself?  As Python's `runtime.onnxfile`. */

import { InputError } from "./errors.js";

// ONNX protobuf field numbers: message -> {field: sub-message}; "tensor" is where external data is declared
/** @type {Record<string, Record<number, string>>} */
const CHILDREN = {
  model: { 7: "graph", 20: "training", 25: "function" },
  training: { 1: "graph", 2: "graph" },
  function: { 7: "node", 11: "attribute" },
  graph: { 1: "node", 5: "tensor", 15: "sparse" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse" },
  sparse: { 1: "tensor", 2: "tensor" },
};
const EXTERNAL_DATA = 13,
  DATA_LOCATION = 14;
const MAX_DEPTH = 64;
const VARINT = 0,
  FIXED64 = 1,
  BYTES = 2,
  FIXED32 = 5;

class Unreadable extends Error {}

/**
 * Check that an ONNX file holds all of its weights.
 * @param {Uint8Array} content
 * @param {string} name
 * @throws {InputError} it refers to external data, or is not ONNX
 */
export function checkSelfContained(content, name) {
  let external;
  try {
    external = isExternal(content, "model", 0);
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    throw new InputError(`${name} is not a readable ONNX file (${error.message}); export the bundle again.`);
  }
  if (external) {
    throw new InputError(
      `${name} keeps weights in external data files, which are refused; export it as a single file.`,
    );
  }
}

/**
 * @param {Uint8Array} data
 * @param {string} kind
 * @param {number} depth
 * @returns {boolean}
 */
function isExternal(data, kind, depth) {
  if (depth > MAX_DEPTH) throw new Unreadable("nested too deep");
  for (const [number, value] of fields(data)) {
    if (kind === "tensor") {
      if (number === EXTERNAL_DATA || (number === DATA_LOCATION && value !== 0n)) return true;
    } else if (value instanceof Uint8Array && CHILDREN[kind][number] !== undefined) {
      if (isExternal(value, CHILDREN[kind][number], depth + 1)) return true;
    }
  }
  return false;
}

/**
 * @param {Uint8Array} data
 * @returns {Generator<[number, Uint8Array | bigint]>}
 */
function* fields(data) {
  let at = 0;
  const varint = () => {
    for (let value = 0n, shift = 0n; shift < 70n; shift += 7n) {
      if (at >= data.length) throw new Unreadable("it ends in the middle of a number");
      const byte = data[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new Unreadable("varint is too long");
  };
  while (at < data.length) {
    const tag = varint();
    // protobuf drops the upper bits, and would see another field than this does
    if (tag >> 32n) throw new Unreadable("tag is too long");
    const number = Number(tag >> 3n),
      kind = Number(tag & 7n);
    if (kind === VARINT) {
      yield [number, varint()];
    } else if (kind === BYTES) {
      const length = varint();
      if (BigInt(at) + length > BigInt(data.length)) throw new Unreadable("field runs past the end");
      yield [number, data.subarray(at, (at += Number(length)))];
    } else if (kind === FIXED64 || kind === FIXED32) {
      at += kind === FIXED64 ? 8 : 4;
      if (at > data.length) throw new Unreadable("field runs past the end");
    } else {
      throw new Unreadable(`wire type ${kind}`);
    }
  }
}
