/** Support memories: what the network keeps of annotated images; the files of Python's `runtime.support`. */

import { sha256 } from "./digest.js";
import { InputError } from "./errors.js";
import { SafetensorsError, floats, readSafetensors, writeSafetensors } from "./safetensors.js";

/** @typedef {import("./calibration.js").Calibration} Calibration */

/**
 * @typedef {object} Keys of one shot, L2-normalised columns, only positions inside the mask
 * @property {Float32Array} data [D, M]
 * @property {number} depth D
 * @property {number} count M
 */

/**
 * @typedef {object} MemoryFields
 * @property {string} name
 * @property {Float32Array} prototype
 * @property {readonly Keys[]} keys
 * @property {string} model
 * @property {Calibration | null} [calibration]
 * @property {readonly number[] | null} [shotScores]
 */

const FORMAT = "ntre-support";
// 1 had neither calibration nor shot scores, 2 no digest; both are still read
const VERSION = 3;
const READ = [1, 2, 3];
const KEY = "ntre";
const DIGEST = /^[0-9a-f]{64}$/;
// what stands in the digest's place while the file is hashed
const ZEROS = "0".repeat(64);
const MAX_FLOAT32 = 3.4028234663852886e38;

/** One class, from one or more annotated images. */
export class SupportMemory {
  /** @param {MemoryFields} fields */
  constructor({ name, prototype, keys, model, calibration = null, shotScores = null }) {
    /** of the class */
    this.name = name;
    /** float32 [C], mean over the shots */
    this.prototype = prototype;
    /** of each shot */
    this.keys = keys;
    /** id of the model that made it; another model's queries cannot use it */
    this.model = model;
    /**
     * what makes its margins comparable with those of the classes that it was encoded with; null where encoded alone
     */
    this.calibration = calibration;
    /**
     * for each shot the IoU of its mask with the one that the other shots give; null with one shot, or if not computed
     */
    this.shotScores = shotScores;
  }

  /** Number of annotated images. */
  get shots() {
    return this.keys.length;
  }

  /**
   * The same memory with other fields.
   * @param {Partial<MemoryFields>} fields
   */
  with(fields) {
    const { name, prototype, keys, model, calibration, shotScores } = this;
    return new SupportMemory({ name, prototype, keys, model, calibration, shotScores, ...fields });
  }

  /** The same memory without its calibration. */
  uncalibrated() {
    return this.with({ calibration: null });
  }

  /**
   * The safetensors file that Python reads too, with a SHA-256 of itself.
   * @returns {Promise<Uint8Array<ArrayBuffer>>}
   */
  async toBytes() {
    /** @type {[string, { shape: number[], data: Float32Array }][]} */
    const tensors = this.keys.map(({ data, depth, count }, i) => [`keys.${i}`, { shape: [depth, count], data }]);
    tensors.push(["prototype", { shape: [this.prototype.length], data: this.prototype }]);
    const content = {
      format: FORMAT,
      model: this.model,
      name: this.name,
      ...(this.calibration ?? {}),
      sha256: ZEROS,
      shot_scores: this.shotScores,
      version: VERSION,
    };
    const file = writeSafetensors(tensors, { [KEY]: JSON.stringify(content) });
    // JSON in JSON: inside a class name, the quotes would be escaped once more
    const name = String.raw`\"sha256\":\"`;
    file.set(new TextEncoder().encode(await sha256(file)), indexOf(file, name + ZEROS) + name.length);
    return /** @type {Uint8Array<ArrayBuffer>} */ (file);
  }

  /**
   * Read a memory that `toBytes` or Python wrote.
   * @param {Uint8Array | ArrayBuffer} bytes
   * @param {string} [what] names the file in messages
   * @param {{ warn?: (message: string) => void }} [options] `warn` hears of files of before there were digests
   * @throws {InputError} not such a file, its digest is not that of its bytes, or its arrays or figures are not those
   *   of a memory
   */
  static async fromBytes(bytes, what = "The support memory", { warn = console.warn } = {}) {
    const file = bytes instanceof ArrayBuffer ? new Uint8Array(bytes) : bytes;
    const { tensors, metadata } = opened(file, what);
    const content = contentOf(metadata[KEY] ?? "");
    const version = content.version;
    if (content.format !== FORMAT || typeof version !== "number" || !READ.includes(version)) {
      throw new InputError(
        `${what} is no support memory of version ${READ.slice(0, -1).join(", ")} or ${VERSION}; encode it again.`,
      );
    }
    await checkDigest(file, content, version, what, warn);
    const wrong = new InputError(`${what} does not hold the arrays of a support memory; make it again.`);
    const first = tensors.get("prototype");
    const shots = Array.from({ length: tensors.size - 1 }, (_, i) => tensors.get(`keys.${i}`));
    if (first?.dtype !== "F32" || first.shape.length !== 1 || first.shape[0] < 1 || !shots.length) throw wrong;
    const prototype = floats(first);
    const keys = shots.map((shot) => {
      if (shot?.dtype !== "F32" || shot.shape.length !== 2 || shot.shape[0] < 1 || shot.shape[0] !== shots[0]?.shape[0])
        throw wrong;
      return { data: floats(shot), depth: shot.shape[0], count: shot.shape[1] };
    });
    if (![prototype, ...keys.map(({ data }) => data)].every((values) => values.every(Number.isFinite))) throw wrong;
    return new SupportMemory({
      name: String(content.name ?? ""),
      prototype,
      keys,
      model: String(content.model ?? ""),
      calibration: calibrationOf(content, what),
      shotScores: scoresOf(content.shot_scores ?? null, keys.length, what),
    });
  }
}

/**
 * Drop the zero columns of keys, which never win a maximum.
 * @param {Float32Array} keys [D, places]
 * @param {number} depth
 * @returns {Keys}
 */
export function compactKeys(keys, depth) {
  const places = keys.length / depth;
  const used = new Uint8Array(places);
  for (let i = 0, d = 0; d < depth; d++) for (let m = 0; m < places; m++, i++) if (keys[i] !== 0) used[m] = 1;
  const kept = [...used.keys()].filter((m) => used[m]);
  const data = new Float32Array(depth * kept.length);
  for (let d = 0, out = 0; d < depth; d++) for (const m of kept) data[out++] = keys[d * places + m];
  return { data, depth, count: kept.length };
}

/**
 * @param {Uint8Array} file
 * @param {string} what
 */
function opened(file, what) {
  try {
    return readSafetensors(file);
  } catch (error) {
    if (error instanceof SafetensorsError)
      throw new InputError(`${what} is not a readable support memory: ${error.message}.`);
    throw error;
  }
}

/**
 * @param {string} text
 * @returns {Record<string, unknown>}
 */
function contentOf(text) {
  try {
    const content = JSON.parse(text);
    return typeof content === "object" && content !== null ? content : {};
  } catch {
    return {};
  }
}

/**
 * @param {Uint8Array} file
 * @param {Record<string, unknown>} content
 * @param {number} version
 * @param {string} what
 * @param {(message: string) => void} warn
 */
async function checkDigest(file, content, version, what, warn) {
  const digest = content.sha256;
  if ((digest === undefined || digest === null) && version !== VERSION) {
    warn(
      `${what} is of version ${version}, without a digest: damage to it would go unseen; write it anew with toBytes().`,
    );
    return;
  }
  // in lower case only, as every bit of the file counts
  if (typeof digest !== "string" || !DIGEST.test(digest)) {
    throw new InputError(
      `${what} lacks the digest of its content, so it is damaged; copy it again or encode it again.`,
    );
  }
  const zeroed = Uint8Array.from(file);
  zeroed.fill(0x30, indexOf(file, digest), indexOf(file, digest) + ZEROS.length);
  if ((await sha256(zeroed)) !== digest) {
    throw new InputError(
      `${what} has been changed: its SHA-256 is not the one that it carries; copy it again or encode it again.`,
    );
  }
}

/**
 * Where ASCII text stands first in a file.
 * @param {Uint8Array} file
 * @param {string} text
 */
function indexOf(file, text) {
  const wanted = new TextEncoder().encode(text);
  for (let at = file.indexOf(wanted[0]); at >= 0; at = file.indexOf(wanted[0], at + 1)) {
    if (wanted.every((byte, i) => file[at + i] === byte)) return at;
  }
  return file.length;
}

/**
 * @param {unknown} value
 * @returns {value is number}
 */
function isNumber(value) {
  return typeof value === "number" && Math.abs(value) <= MAX_FLOAT32;
}

/**
 * @param {Record<string, unknown>} content
 * @param {string} what
 * @returns {Calibration | null}
 */
function calibrationOf(content, what) {
  if (!("offset" in content) && !("scale" in content)) return null;
  const { offset = 0, scale = 1 } = content;
  if (!isNumber(offset) || !isNumber(scale) || scale <= 0) {
    throw new InputError(
      `${what} holds a calibration that cannot be (offset ${offset}, scale ${scale}); a finite offset and a scale above 0 are ` +
        "expected: make it again.",
    );
  }
  return { offset, scale };
}

/**
 * @param {unknown} values
 * @param {number} shots
 * @param {string} what
 * @returns {number[] | null}
 */
function scoresOf(values, shots, what) {
  if (values === null) return null;
  if (!Array.isArray(values) || values.length !== shots || !values.every((n) => isNumber(n) && n >= 0 && n <= 1)) {
    throw new InputError(
      `${what} holds shot scores that cannot be; ${shots} numbers from 0 to 1 are expected: make it again.`,
    );
  }
  return values;
}
