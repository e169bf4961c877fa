/** A conformance kit behind an address: each file is checked against what `kit.json` says of it. */

import { folderOf } from "./bundle.js";
import { sha256 } from "./digest.js";
import { InputError, explained } from "./errors.js";
import { SafetensorsError, readSafetensors } from "./safetensors.js";

/** @typedef {Float32Array | Uint8Array | Int32Array} Values */
/** @typedef {{ shape: number[], data: Values }} Numbers an array in C order */
/** @typedef {{ data: Uint8Array, width: number, height: number }} Picture of 3 bytes a pixel, or of one in a mask */
/** @typedef {{ file: string, width: number, height: number }} PictureEntry */

/**
 * @typedef {object} Operation of a patch
 * @property {string} op
 * @property {string} name
 * @property {string} [file]
 * @property {string} [hex]
 * @property {number} [at]
 * @property {number} [size]
 */

/** @typedef {{ offset: number, scale: number }} Calibration */

/**
 * @typedef {object} Fields of a memory
 * @property {string} name
 * @property {string} model
 * @property {number} shots
 * @property {Calibration | null} calibration
 * @property {number[] | null} shot_scores
 */

/**
 * @typedef {object} Case what it has goes by its kind; docs/conformance.md describes them
 * @property {string} name
 * @property {string} kind
 * @property {string[]} steps
 * @property {Record<string, number>} [tolerances]
 * @property {string[]} [needs]
 * @property {{ class: string, text: string[] }} [error]
 * @property {string} image
 * @property {string} [mask]
 * @property {number[]} box
 * @property {string} [expected]
 * @property {string} labels
 * @property {number} stride
 * @property {{ name: string, shots: { image: string, mask: string }[] }[]} classes
 * @property {boolean} calibrate
 * @property {string[]} memories
 * @property {string} memory
 * @property {Fields} fields
 * @property {boolean} warning
 * @property {Operation[]} patch
 */

/**
 * @typedef {object} KitContent of `kit.json`
 * @property {{ name: string, model: string, manifest_sha256: string }} bundle
 * @property {string} precision
 * @property {Record<string, Record<string, number>>} tolerances
 * @property {Record<string, { size: number, sha256: string }>} files
 * @property {Record<string, PictureEntry>} images
 * @property {Record<string, PictureEntry>} masks
 * @property {Case[]} cases
 */

const FORMAT = "ntre-conformance";
const VERSION = 1;

/** The kit itself cannot be used, which says nothing about a runtime. */
export class KitError extends InputError {
  name = "KitError";
}

/** An opened kit; files are fetched when they are asked for, and kept. */
export class Kit {
  /** @type {Map<string, Uint8Array>} */
  #files = new Map();

  /**
   * @param {string} url of the folder, with a slash at its end
   * @param {KitContent} content
   * @param {string} digest SHA-256 of the bytes of `kit.json`
   */
  constructor(url, content, digest) {
    this.url = url;
    this.content = content;
    this.digest = digest;
  }

  /**
   * @param {string | URL} url of the kit's folder
   * @throws {KitError} no kit, or one of another version
   */
  static async open(url) {
    const folder = folderOf(url);
    const where = `${folder}kit.json`;
    const bytes = await fetchedBytes(where);
    let content;
    try {
      content = JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      throw new KitError(`${where} is not readable JSON; make the kit again.`);
    }
    if (content?.format !== FORMAT) throw new KitError(`${where} is not that of a conformance kit.`);
    if (content.version !== VERSION) {
      throw new KitError(`${where} is of version ${content.version}; ${VERSION} is expected: make the kit again.`);
    }
    return new Kit(folder, content, await sha256(bytes));
  }

  /**
   * @param {string} path
   * @throws {KitError} the kit does not list it, or it was changed
   */
  async read(path) {
    const known = this.#files.get(path);
    if (known) return known;
    const entry = this.content.files[path];
    if (!entry) throw new KitError(`The kit does not list its file ${path}; make it again.`);
    const bytes = await fetchedBytes(new URL(path, this.url).href);
    if (bytes.length !== entry.size || (await sha256(bytes)) !== entry.sha256) {
      throw new KitError(`${path} has been changed: its SHA-256 is not that of kit.json; make the kit again.`);
    }
    this.#files.set(path, bytes);
    return bytes;
  }

  /**
   * @param {string} path of a safetensors file
   * @returns {Promise<Map<string, Numbers>>}
   */
  async tensors(path) {
    const bytes = await this.read(path);
    try {
      return new Map([...readSafetensors(bytes).tensors].map(([name, tensor]) => [name, numbers(tensor)]));
    } catch (error) {
      if (!(error instanceof SafetensorsError)) throw error;
      throw new KitError(`${path} cannot be read: ${error.message}; make the kit again.`);
    }
  }

  /** @param {string} name */
  async image(name) {
    return this.#picture(this.content.images[name], name, 3);
  }

  /** @param {string} name */
  async mask(name) {
    return this.#picture(this.content.masks[name], name, 1);
  }

  /**
   * A label map.
   * @param {string} path
   * @returns {Promise<Numbers>} [height, width]
   */
  async labels(path) {
    const { data, width, height } = parseNetpbm(await this.read(path), path, 1);
    return { shape: [height, width], data };
  }

  /**
   * @param {PictureEntry | undefined} entry
   * @param {string} name
   * @param {number} channels
   * @returns {Promise<Picture>}
   */
  async #picture(entry, name, channels) {
    if (!entry) throw new KitError(`The kit has no picture ${name}; make it again.`);
    const { width, height } = entry;
    const tile = parseNetpbm(await this.read(entry.file), entry.file, channels);
    if (tile.width === width && tile.height === height) return tile;
    const data = new Uint8Array(width * height * channels);
    const line = tile.width * channels;
    for (let y = 0; y < height; y++) {
      const from = (y % tile.height) * line,
        to = y * width * channels;
      for (let x = 0; x < width * channels; x += line) {
        const length = Math.min(line, width * channels - x);
        data.set(tile.data.subarray(from, from + length), to + x);
      }
    }
    return { data, width, height };
  }
}

/**
 * @param {string} where
 * @returns {Promise<Uint8Array>}
 */
export async function fetchedBytes(where) {
  try {
    const response = await fetch(where, { cache: "no-cache" });
    if (!response.ok) throw new KitError(`${where} cannot be read: the server says ${response.status}.`);
    return new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    throw explained(error, (reason) => new KitError(`${where} cannot be read: ${reason}.`));
  }
}

/**
 * Binary PPM (3 channels) or PGM (one).
 * @param {Uint8Array} bytes
 * @param {string} path names it in messages
 * @param {number} channels
 * @returns {Picture}
 */
export function parseNetpbm(bytes, path, channels) {
  const text = String.fromCharCode(...bytes.subarray(0, 64));
  const found = /^P([56])\s+(\d+)\s+(\d+)\s+255\s/.exec(text);
  const width = Number(found?.[2]),
    height = Number(found?.[3]);
  const data = bytes.subarray(found?.[0].length ?? 0);
  if (found?.[1] !== (channels === 3 ? "6" : "5") || data.length !== width * height * channels) {
    throw new KitError(`${path} is no binary ${channels === 3 ? "PPM" : "PGM"} of 255 levels; make the kit again.`);
  }
  return { data, width, height };
}

/**
 * @param {import("./safetensors.js").Tensor} tensor
 * @returns {Numbers}
 */
function numbers({ dtype, shape, bytes }) {
  // copied so that they are aligned
  const { buffer } = bytes.slice();
  if (dtype === "F32") return { shape, data: new Float32Array(buffer) };
  if (dtype === "I32") return { shape, data: new Int32Array(buffer) };
  if (dtype === "U8") return { shape, data: new Uint8Array(buffer) };
  throw new SafetensorsError(`${dtype} is no type of a kit`);
}
