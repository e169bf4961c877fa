/**
 * The manifest of a bundle: typed, versioned, and read as the hostile file that it may be; as Python's
 * `runtime.manifest`.
 */

import { InputError } from "./errors.js";

/** @typedef {import("./letterbox.js").InputSpec} InputSpec */

/**
 * @typedef {object} FileEntry one file of the bundle
 * @property {string} name plain file name inside the bundle's folder
 * @property {string} role `support`, `query`, `self-test` or `reference`
 * @property {string} engine the engine that it was made for, such as `onnx`
 * @property {string} precision found in the file that was built
 * @property {number} size bytes
 * @property {string} sha256
 */

/**
 * @typedef {object} ModelEntry the network behind the graphs
 * @property {string} id identifies weights and input size; a support memory belongs to one id
 * @property {number} prototypeChannels C
 * @property {number} keyChannels D
 * @property {number[]} featureSize (h, w) of the logits
 */

/**
 * @typedef {object} Manifest
 * @property {string} name
 * @property {ModelEntry} model
 * @property {InputSpec} input
 * @property {FileEntry[]} files
 */

const FORMAT = "ntre-bundle";
// 1 had keys of one length for all shots in the query graph's input
const SCHEMA = 2;
export const MANIFEST = "manifest.json";
const SIGNATURE = "manifest.sig";
// how the runtime prepares an image; another version may know others, and must not be misread by this one
const CONVENTION = {
  channels: "RGB",
  scale: "(pixel - mean) / std, pixels in 0..255",
  protocol: "exact",
  resize: "letterbox at the top left, bilinear with pixel centres aligned, area average below factor 0.5",
};
const MAX_INPUT_SIZE = 4097;
const MAX_NUMBER = 1e6;
// no separators, drive letters, hidden names or line breaks
const PLAIN_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}$/;

/**
 * @param {string} where the manifest's address, for messages
 * @param {Uint8Array} bytes
 * @returns {Manifest}
 * @throws {InputError} another schema version, a missing or wrong entry, or a name that leaves the folder
 */
export function parseManifest(where, bytes) {
  let content;
  try {
    content = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (error) {
    throw new InputError(
      `${where} is not readable JSON (${/** @type {Error} */ (error).message}); export the bundle again.`,
    );
  }
  if (typeof content !== "object" || content === null || content.format !== FORMAT) {
    throw new InputError(`${where} is not the manifest of an ntre bundle.`);
  }
  if (content.schema !== SCHEMA) {
    throw new InputError(
      `${where} has schema version ${shown(content.schema)}; this version of ntre reads ${SCHEMA}: install the version that wrote ` +
        "it, or export the checkpoint again.",
    );
  }
  try {
    return parse(content);
  } catch (error) {
    if (error instanceof InputError) throw new InputError(`${where}: ${error.message} Export the bundle again.`);
    throw error;
  }
}

/**
 * @param {Record<string, unknown>} content
 * @returns {Manifest}
 */
function parse(content) {
  const model = object(content, "model"),
    spec = object(content, "input");
  const files = list(content, "files").map(parseFile);
  if (new Set(files.map(({ name }) => name)).size !== files.length) throw new InputError("a file is listed twice.");
  const kinds = files.map(({ role, engine, precision }) => JSON.stringify([role, engine, precision]));
  if (new Set(kinds).size !== kinds.length) throw new InputError("two files have the same role, engine and precision.");
  const size = positive(spec, "size", "input.size");
  if (size > MAX_INPUT_SIZE) throw new InputError(`input.size is ${size}; at most ${MAX_INPUT_SIZE} is supported.`);
  for (const [key, value] of Object.entries(CONVENTION)) {
    if (member(spec, key) !== value) {
      throw new InputError(`input.${key} is ${shown(spec[key])}, which this version of ntre does not know.`);
    }
  }
  const std = numbers(spec, "std");
  if (Math.min(...std) <= 0) throw new InputError("std must be above 0.");
  return {
    name: text(content, "name"),
    model: {
      id: text(model, "id", "model.id"),
      prototypeChannels: positive(model, "prototype_channels"),
      keyChannels: positive(model, "key_channels"),
      featureSize: list(model, "feature_size", 2).map((side) => positive({ side }, "side", "feature_size")),
    },
    input: { size, mean: numbers(spec, "mean"), std },
    files,
  };
}

/**
 * @param {unknown} given
 * @returns {FileEntry}
 */
function parseFile(given) {
  const entry = object({ given }, "given", "a file");
  const name = text(entry, "name", "file name");
  // a manifest may come from anywhere: its names must not reach outside the folder
  if (!PLAIN_NAME.test(name) || [MANIFEST, SIGNATURE].includes(name.toLowerCase())) {
    throw new InputError(`the file name ${shown(name)} leaves the bundle's folder or is not allowed.`);
  }
  return {
    name,
    role: text(entry, "role"),
    engine: text(entry, "engine"),
    precision: text(entry, "precision_found"),
    size: positive(entry, "size"),
    sha256: text(entry, "sha256"),
  };
}

/** @param {unknown} value */
function shown(value) {
  const found = JSON.stringify(value) ?? "missing";
  return found.length <= 80 ? found : `${found.slice(0, 77)}...`;
}

/**
 * @param {Record<string, unknown>} parent
 * @param {string} key
 */
function member(parent, key) {
  if (!Object.hasOwn(parent, key)) throw new InputError(`it lacks the entry '${key}'.`);
  return parent[key];
}

/**
 * @param {Record<string, unknown>} parent
 * @param {string} key
 * @returns {Record<string, unknown>}
 */
function object(parent, key, what = key) {
  const value = member(parent, key);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new InputError(`${what} is ${shown(value)} where an object is expected.`);
  }
  return /** @type {Record<string, unknown>} */ (value);
}

/**
 * @param {Record<string, unknown>} parent
 * @param {string} key
 * @param {number} [length]
 * @returns {unknown[]}
 */
function list(parent, key, length) {
  const value = member(parent, key);
  if (!Array.isArray(value) || (length !== undefined && value.length !== length)) {
    throw new InputError(
      `${key} is ${shown(value)} where a list${length === undefined ? "" : ` of ${length}`} is expected.`,
    );
  }
  return value;
}

/**
 * @param {Record<string, unknown>} parent
 * @param {string} key
 */
function text(parent, key, what = key) {
  const value = member(parent, key);
  if (typeof value !== "string") throw new InputError(`${what} is ${shown(value)} where a text is expected.`);
  return value;
}

/**
 * @param {Record<string, unknown>} parent
 * @param {string} key
 */
function numbers(parent, key) {
  return list(parent, key, 3).map((value) => {
    if (typeof value !== "number" || !(Math.abs(value) < MAX_NUMBER)) {
      throw new InputError(`${key} holds ${shown(value)} where a number is expected.`);
    }
    return value;
  });
}

/**
 * @param {Record<string, unknown>} parent
 * @param {string} key
 */
function positive(parent, key, what = key) {
  const value = member(parent, key);
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) {
    throw new InputError(`${what} is ${shown(value)} where a whole number from 1 on is expected.`);
  }
  return value;
}
