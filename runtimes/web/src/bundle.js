/** A bundle behind an address: nothing in it is trusted before its size and SHA-256 are those of the manifest. */

import { sha256 } from "./digest.js";
import { InputError, explained } from "./errors.js";
import { MANIFEST, parseManifest } from "./manifest.js";
import { SafetensorsError, floats, readSafetensors } from "./safetensors.js";

/** @typedef {import("./manifest.js").FileEntry} FileEntry */
/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./resize.js").Pixels} Pixels */

/** @typedef {{ name: string, loaded: number, total: number }} Progress bytes of one file of a bundle */

/**
 * @typedef {object} FetchOptions
 * @property {AbortSignal} [signal]
 * @property {(progress: Progress) => void} [onProgress]
 * @property {typeof fetch} [fetch] in place of the browser's, such as one that sends credentials; not for a worker
 */

/**
 * @typedef {object} SelfTest a small episode and what it must give
 * @property {Pixels} image
 * @property {Pixels} supportImage
 * @property {Uint8Array} supportMask
 * @property {Uint8Array} labels [H, W] of 0 and 1
 * @property {Float32Array} logits [2, h, w] of the PyTorch network in fp32
 * @property {number[]} logitsShape
 */

const MAX_MANIFEST = 4 << 20;

/** An opened bundle; contents are fetched and hashed when they are read. */
export class Bundle {
  /**
   * @param {string} url of the folder, with a slash at its end
   * @param {Manifest} manifest
   * @param {FetchOptions} options
   */
  constructor(url, manifest, options) {
    this.url = url;
    this.manifest = manifest;
    this.options = options;
  }

  /**
   * @param {string | URL} url of the bundle's folder
   * @param {FetchOptions} [options]
   * @throws {InputError} no bundle, or a bad manifest
   */
  static async open(url, options = {}) {
    const folder = folderOf(url);
    const where = new URL(MANIFEST, folder).href;
    const bytes = await fetched(where, MAX_MANIFEST, options, () => {
      return `${where} is larger than ${MAX_MANIFEST >> 20} MiB, as no manifest is; export the bundle again.`;
    });
    return new Bundle(folder, parseManifest(where, bytes), options);
  }

  /**
   * The content of one file, checked against its size and SHA-256 before anything looks into it.
   * @param {FileEntry} entry
   * @throws {InputError} it cannot be fetched, or is not the manifest's
   */
  async read(entry) {
    const where = new URL(entry.name, this.url).href;
    const { onProgress } = this.options;
    /** @param {number} size */
    const wrong = (size) =>
      `${where} has ${size > entry.size ? "more" : size} bytes where the manifest says ${entry.size}; copy the bundle whole or export it again.`;
    /** @param {number} loaded */
    const tell = (loaded) => onProgress?.({ name: entry.name, loaded, total: entry.size });
    const content = await fetched(where, entry.size, this.options, wrong, tell);
    if (content.length !== entry.size) throw new InputError(wrong(content.length));
    if ((await sha256(content)) !== entry.sha256) {
      throw new InputError(
        `${where} has been changed: its SHA-256 is not the manifest's; copy the bundle again or export it again.`,
      );
    }
    return content;
  }

  /**
   * @param {string} role
   * @param {string} [engine]
   * @param {string} [precision]
   */
  entry(role, engine = "", precision = "") {
    return this.manifest.files.find((f) => f.role === role && f.engine === engine && f.precision === precision);
  }

  /**
   * @returns {Promise<SelfTest>}
   * @throws {InputError} there is none, or it is damaged
   */
  async selfTest() {
    const entry = this.entry("self-test");
    if (!entry) throw new InputError(`Bundle ${this.url} has no self-test; export it again.`);
    const content = await this.read(entry);
    try {
      const { tensors } = readSafetensors(content);
      /** @param {string} name @param {string} dtype @param {number} axes */
      const tensor = (name, dtype, axes) => {
        const found = tensors.get(name);
        if (found?.dtype !== dtype || found.shape.length !== axes)
          throw new SafetensorsError(`${name} is not there as it should be`);
        return found;
      };
      /** @param {string} name */
      const picture = (name) => {
        const {
          shape: [height, width, channels],
          bytes,
        } = tensor(name, "U8", 3);
        if (channels !== 3) throw new SafetensorsError(`${name} is not RGB`);
        return { data: bytes, width, height, channels };
      };
      const logits = tensor("logits", "F32", 3);
      return {
        image: picture("image"),
        supportImage: picture("support_image"),
        supportMask: tensor("support_mask", "U8", 2).bytes,
        labels: tensor("labels", "U8", 2).bytes,
        logits: floats(logits),
        logitsShape: logits.shape,
      };
    } catch (error) {
      if (!(error instanceof SafetensorsError)) throw error;
      throw new InputError(`The self-test of ${this.url} is damaged: ${error.message}; export the bundle again.`);
    }
  }
}

/**
 * The address of a folder, absolute and with a slash at its end.
 * @param {string | URL} url
 */
export function folderOf(url) {
  let found;
  try {
    found = new URL(url, globalThis.location?.href);
  } catch {
    throw new InputError(`${url} is no address of a folder.`);
  }
  if (!found.pathname.endsWith("/")) found.pathname += "/";
  found.search = found.hash = "";
  return found.href;
}

/**
 * The body of a file, of at most `most` bytes: a server may send more than any memory holds.
 * @param {string} where
 * @param {number} most
 * @param {FetchOptions} options
 * @param {(size: number) => string} tooLarge
 * @param {(loaded: number) => void} [tell]
 */
async function fetched(where, most, { signal, fetch = globalThis.fetch }, tooLarge, tell) {
  const stop = new AbortController();
  const signals = [stop.signal, ...(signal ? [signal] : [])];
  try {
    // the manifest says which content is right, so an old copy in a cache would be refused for good
    const response = await fetch(where, { cache: "no-cache", signal: AbortSignal.any(signals) });
    if (!response.ok) {
      throw new InputError(
        `${where} cannot be read: the server says ${response.status}; serve the bundle's folder whole.`,
      );
    }
    // a length that an encoding has shrunk is not that of the file
    const parts = [];
    let size = 0;
    const reader = response.body?.getReader();
    for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
      size += part.value.length;
      if (size > most) throw new InputError(tooLarge(size));
      parts.push(part.value);
      tell?.(size);
    }
    const content = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
      content.set(part, at);
      at += part.length;
    }
    return content;
  } catch (error) {
    stop.abort();
    throw explained(error, (reason) => new InputError(`${where} cannot be read: ${reason}.`));
  }
}
