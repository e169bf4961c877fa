/** `WorkerSegmenter`: the methods of `Segmenter`, with the work in a Web Worker, so that the page never waits. */

import { folderOf } from "./bundle.js";
import { EngineError, InputError, unpackError } from "./errors.js";
import { SupportMemory } from "./memory.js";
import { usualFolder } from "./ort.js";
import { bitmapOf, plainPixels } from "./pixels.js";
import { Result } from "./result.js";

/** @typedef {import("./memory.js").MemoryFields} MemoryFields */
/** @typedef {import("./pixels.js").ImageSource} ImageSource */
/** @typedef {import("./segmenter.js").Classes} Classes */
/** @typedef {import("./segmenter.js").EncodeAllOptions} EncodeAllOptions */
/** @typedef {import("./segmenter.js").EncodeOptions} EncodeOptions */
/** @typedef {import("./segmenter.js").EngineOptions} EngineOptions */
/** @typedef {import("./segmenter.js").LoadOptions} LoadOptions */
/** @typedef {import("./segmenter.js").Shot} Shot */

/** @typedef {{ id: string, fields?: MemoryFields }} MemoryReference a memory that the worker has, or gets to keep */

/**
 * @typedef {object} Call what the worker is asked for, by name, with its arguments
 * @property {{ url: string, options: EngineOptions }} load
 * @property {{ classes: [string, Shot[]][], options: EncodeAllOptions }} encode
 * @property {{ image: ImageSource, references: MemoryReference[], options: { scores?: boolean } }} segment
 * @property {{ shot: Shot, name: string, options: { allowUnseen?: boolean } }} shot
 * @property {{ classes: [string, string[]][], options: { leaveOneOut?: boolean, calibrate?: boolean } }} join
 * @property {{ id: string }} forget
 * @property {{}} close
 */

/**
 * @typedef {object} Facts of the engine that was taken
 * @property {"webgpu" | "wasm"} engine
 * @property {string} precision
 * @property {number} threads
 * @property {string} reason
 * @property {string} model
 * @property {number} inputSize
 */

/** @typedef {{ readonly name: string }} EncodedShot what `encodeShot` gave; its arrays are with the worker */

/** @typedef {{ resolve: (value: any) => void, reject: (error: Error) => void }} Waiting */

/** Few-shot segmentation in a Web Worker of its own. */
export class WorkerSegmenter {
  /** @type {Worker} */
  #worker;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  #calls = 0;
  #sent = 0;
  /** @type {Error | null} */
  #over = null;
  /** @type {WeakMap<SupportMemory | EncodedShot, string>} */
  #ids = new WeakMap();
  /** @type {FinalizationRegistry<string>} */
  #gone;
  /** @type {LoadOptions["onProgress"]} */
  #onProgress;

  /**
   * @param {Worker} worker
   * @param {LoadOptions["onProgress"]} onProgress
   */
  constructor(worker, onProgress) {
    this.#worker = worker;
    this.#onProgress = onProgress;
    this.#gone = new FinalizationRegistry((id) => this.#over ?? void this.#call("forget", { id }).catch(() => {}));
    /** which engine that is, and why not a better one */
    this.reason = "";
    /** @type {"webgpu" | "wasm"} */
    this.engine = "wasm";
    this.precision = "";
    /** of WebAssembly */
    this.threads = 1;
    /** id of weights and input size, which a support memory carries */
    this.model = "";
    /** side of the network's square input in pixels */
    this.inputSize = 0;
    worker.addEventListener("message", ({ data }) => this.#hear(data));
    worker.addEventListener("messageerror", () => this.#end(new EngineError("The worker gave what cannot be read.")));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      const reason = event.message
        ? `failed: ${event.message}`
        : "cannot be loaded; serve the package's src/ whole, as JavaScript";
      this.#end(new EngineError(`The worker ${reason}.`));
    });
  }

  /**
   * Open a bundle with an engine, in a worker.
   * @param {string | URL} url of its folder
   * @param {LoadOptions & { worker?: Worker }} [options] as `Segmenter.load`; `worker` is one made of this package's
   *   `worker.js`,
   *   where a page has to make it in its own way
   * @throws {InputError} no bundle, or a file of it was changed
   * @throws {EngineError} the engine or the precision cannot be had here, or fails the self-test
   */
  static async load(url, options = {}) {
    const { worker, signal, onProgress, ort = usualFolder(), ...rest } = options;
    if (typeof ort !== "string" && !(ort instanceof URL)) {
      throw new InputError("`ort` must be the URL of a folder: a module cannot travel to a worker.");
    }
    signal?.throwIfAborted();
    const made = worker ?? new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "ntre" });
    const segmenter = new WorkerSegmenter(made, onProgress);
    const abort = () => segmenter.#end(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      /** @type {Facts} */
      const facts = await segmenter.#call("load", { url: folderOf(url), options: { ...rest, ort: folderOf(ort) } });
      return Object.assign(segmenter, facts);
    } catch (error) {
      segmenter.#end(/** @type {Error} */ (error));
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * Encode one class from its annotated images; see `Segmenter.encodeSupport`.
   * @param {Shot[]} shots
   * @param {string} [name]
   * @param {EncodeOptions} [options]
   */
  async encodeSupport(shots, name = "support", options = {}) {
    const [memory] = await this.encodeSupports([[name, shots]], { ...options, calibrate: false });
    return memory;
  }

  /**
   * Encode several classes that will be segmented together; see `Segmenter.encodeSupports`.
   * @param {Classes} classes
   * @param {EncodeAllOptions} [options]
   * @returns {Promise<SupportMemory[]>}
   */
  async encodeSupports(classes, options = {}) {
    /** @type {Transferable[]} */
    const transfer = [];
    /** @type {[string, Shot[]][]} */
    const sent = [];
    for (const [name, shots] of classes) {
      /** @type {Shot[]} */
      const own = [];
      for (const [number, shot] of (Array.isArray(shots) ? shots : []).entries()) {
        own.push(await packedShot(shot, `Support ${number + 1} of '${name}'`, transfer));
      }
      sent.push([name, own]);
    }
    /** @type {Required<MemoryReference>[]} */
    const found = await this.#call("encode", { classes: sent, options }, transfer);
    return found.map(({ id, fields }) => this.#known(new SupportMemory(fields), id));
  }

  /**
   * Encode one annotated image; see `Segmenter.encodeShot`.
   * @param {Shot} shot
   * @param {string} [name]
   * @param {{ allowUnseen?: boolean }} [options]
   * @returns {Promise<EncodedShot>}
   */
  async encodeShot(shot, name = "support", options = {}) {
    /** @type {Transferable[]} */
    const transfer = [];
    const sent = await packedShot(shot, `Support 1 of '${name}'`, transfer);
    const id = await this.#call("shot", { shot: sent, name, options }, transfer);
    return this.#known(Object.freeze({ name }), id);
  }

  /**
   * The memories of classes from what `encodeShot` gave; see `Segmenter.joinShots`.
   * @param {Map<string, EncodedShot[]> | [string, EncodedShot[]][]} classes
   * @param {{ leaveOneOut?: boolean, calibrate?: boolean }} [options]
   * @returns {Promise<SupportMemory[]>}
   */
  async joinShots(classes, options = {}) {
    /** @type {[string, string[]][]} */
    const sent = [...classes].map(([name, shots]) => [
      name,
      shots.map((shot) => {
        const id = this.#ids.get(shot);
        if (id === undefined) throw new InputError("A shot is expected that `encodeShot` of this segmenter gave.");
        return id;
      }),
    ]);
    /** @type {Required<MemoryReference>[]} */
    const found = await this.#call("join", { classes: sent, options });
    return found.map(({ id, fields }) => this.#known(new SupportMemory(fields), id));
  }

  /**
   * Segment one image; see `Segmenter.segment`.
   * @param {ImageSource} image
   * @param {SupportMemory | SupportMemory[]} memories
   * @param {{ scores?: boolean }} [options] scores that are not asked for here are computed on the page, when it looks
   *   at them
   */
  async segment(image, memories, options = {}) {
    /** @type {Transferable[]} */
    const transfer = [];
    const sent = await packed(image, "The image", transfer);
    const references = (memories instanceof SupportMemory ? [memories] : [...memories]).map((memory) =>
      this.#reference(memory),
    );
    return new Result(await this.#call("segment", { image: sent, references, options }, transfer));
  }

  /** Free the engine and end the worker. */
  async close() {
    if (this.#over) return;
    await this.#call("close", {});
    this.#end(new InputError("This segmenter is closed; load the bundle again."));
  }

  /** @param {SupportMemory} memory */
  #reference(memory) {
    if (!(memory instanceof SupportMemory)) {
      throw new InputError("A support memory is expected; make one with `encodeSupport` or `SupportMemory.fromBytes`.");
    }
    const id = this.#ids.get(memory);
    if (id !== undefined) return { id };
    const fresh = `p${this.#sent++}`;
    this.#known(memory, fresh);
    return { id: fresh, fields: { ...memory } };
  }

  /**
   * @template {SupportMemory | EncodedShot} T
   * @param {T} kept
   * @param {string} id under which the worker keeps it
   */
  #known(kept, id) {
    this.#ids.set(kept, id);
    this.#gone.register(kept, id);
    return kept;
  }

  /**
   * @template {keyof Call} K
   * @param {K} call
   * @param {Call[K]} args
   * @param {Transferable[]} [transfer]
   * @returns {Promise<any>}
   */
  #call(call, args, transfer = []) {
    return new Promise((resolve, reject) => {
      if (this.#over) throw this.#over;
      const number = this.#calls++;
      this.#worker.postMessage({ number, call, args }, transfer);
      this.#waiting.set(number, { resolve, reject });
    });
  }

  /** @param {any} message */
  #hear({ number, value, error, progress }) {
    if (progress) {
      this.#onProgress?.(progress);
      return;
    }
    const waiting = this.#waiting.get(number);
    this.#waiting.delete(number);
    if (error) waiting?.reject(unpackError(error));
    else waiting?.resolve(value);
  }

  /** @param {Error} error what everyone who waits, and every later call, hears */
  #end(error) {
    this.#over ??= error;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

/**
 * @param {Shot} shot
 * @param {string} what
 * @param {Transferable[]} transfer gets what moves
 * @returns {Promise<Shot>}
 */
async function packedShot(shot, what, transfer) {
  const { image, mask } = shot ?? {};
  // arrays are copied on the way
  const isArray = mask instanceof Uint8Array || mask instanceof Uint8ClampedArray;
  return {
    image: await packed(image, `${what}: the image`, transfer),
    mask: isArray ? mask : await packed(mask, `${what}: the mask`, transfer),
  };
}

/**
 * An image as it travels: pixels are copied once, what has to be drawn becomes a bitmap, and files are read over there.
 * @param {any} image
 * @param {string} what
 * @param {Transferable[]} transfer gets what moves
 * @returns {Promise<ImageSource>}
 */
async function packed(image, what, transfer) {
  const pixels = plainPixels(image, what);
  if (pixels) {
    const data = pixels.data.slice();
    transfer.push(data.buffer);
    return { data, width: pixels.width, height: pixels.height };
  }
  if (image instanceof Blob) return image;
  const bitmap = await bitmapOf(image, what);
  if (bitmap !== image) transfer.push(bitmap);
  return bitmap;
}
