/** `Segmenter`: annotated images in, masks of every further image out; as Python's `runtime.segmenter`. */

import { Bundle, folderOf } from "./bundle.js";
import { calibrated, fitCalibrations, responses } from "./calibration.js";
import { Engine } from "./engine.js";
import { EngineError, InputError } from "./errors.js";
import { MAX_CLASSES, classScores, labelMap } from "./labels.js";
import { prepareImage, prepareMask } from "./letterbox.js";
import { maskIou, normaliseMask } from "./masks.js";
import { SupportMemory, compactKeys } from "./memory.js";
import { unavailable, usualFolder } from "./ort.js";
import { maskOf, pixelsOf } from "./pixels.js";
import { Result } from "./result.js";
import { stackMemories } from "./stacked.js";

/** @typedef {import("./bundle.js").FetchOptions} FetchOptions */
/** @typedef {import("./labels.js").Logits} Logits */
/** @typedef {import("./letterbox.js").Letterbox} Letterbox */
/** @typedef {import("./memory.js").Keys} Keys */
/** @typedef {import("./ort.js").EngineName} EngineName */
/** @typedef {import("./ort.js").Ort} Ort */
/** @typedef {import("./pixels.js").ImageSource} ImageSource */
/** @typedef {import("./stacked.js").Stacked} Stacked */

/**
 * @typedef {object} Shot an annotated image
 * @property {ImageSource} image
 * @property {Uint8Array | Uint8ClampedArray | ImageSource} mask 1 the target, 0 the rest, 255 ignored; 0 and 255 alone
 *   are black and white
 */

/**
 * @typedef {object} EngineOptions
 * @property {string | URL | Ort} [ort] folder of onnxruntime-web's files, or (not for a worker) the imported module
 * @property {"auto" | EngineName} [engine]
 * @property {string} [precision]
 * @property {number} [threads]
 * @property {boolean} [selfTest]
 */

/** @typedef {EngineOptions & FetchOptions} LoadOptions */

/**
 * @typedef {object} EncodeOptions
 * @property {boolean} [allowUnseen] take a target that vanishes at the network's resolution
 * @property {boolean} [leaveOneOut] segment each of two or more shots with the others, for `shotScores`; default true
 */

/** @typedef {EncodeOptions & { calibrate?: boolean }} EncodeAllOptions */

/** @typedef {Map<string, Shot[]> | [string, Shot[]][]} Classes for each name its shots */

/**
 * @typedef {object} EncodedShot
 * @property {Uint8Array} mask [H, W]: 1 on the target, 255 ignored
 * @property {Float32Array} pixels [3, size, size]
 * @property {Float32Array} target [size, size]
 * @property {Letterbox} box
 * @property {Float32Array} prototype
 * @property {Keys} keys
 */

// what an engine must reach on the self-test to be trusted: the share of equal pixels, and max |a - b| / max |b| of the
// logits
/** @type {Record<string, [number, number]>} */
const SELF_TEST = { fp32: [0.999, 1e-2], fp16: [0.98, 0.1], int8: [0.9, 0.5] };

/** Few-shot segmentation with one engine of a bundle. */
export class Segmenter {
  /** @type {{ memories: SupportMemory[], stacked: Stacked } | null} */
  #stacked = null;

  /**
   * @param {Engine} engine
   * @param {import("./manifest.js").Manifest} manifest
   * @param {string} reason
   */
  constructor(engine, manifest, reason) {
    this.runner = engine;
    this.manifest = manifest;
    /** which engine that is, and why not a better one */
    this.reason = reason;
  }

  /** `webgpu` or `wasm` */
  get engine() {
    return this.runner.name;
  }

  get precision() {
    return this.runner.precision;
  }

  /** of WebAssembly */
  get threads() {
    return this.runner.threads;
  }

  /** id of weights and input size, which a support memory carries */
  get model() {
    return this.manifest.model.id;
  }

  /** side of the network's square input in pixels */
  get inputSize() {
    return this.manifest.input.size;
  }

  /**
   * Open a bundle with an engine.
   * @param {string | URL} url of its folder
   * @param {LoadOptions} [options]
   * @throws {InputError} no bundle, or a file of it was changed
   * @throws {EngineError} the engine or the precision cannot be had here, or fails the self-test
   */
  static async load(url, options = {}) {
    const {
      ort = usualFolder(),
      engine = "auto",
      precision = "fp32",
      threads,
      selfTest = true,
      signal,
      onProgress,
      fetch,
    } = options;
    if (!["auto", "webgpu", "wasm"].includes(engine)) {
      throw new InputError(`engine '${engine}' is unknown; it must be one of auto, webgpu, wasm.`);
    }
    const source = typeof ort === "string" || ort instanceof URL ? folderOf(ort) : ort;
    const bundle = await Bundle.open(url, { signal, onProgress, fetch });
    /** @type {EngineName[]} */
    const tried = engine === "auto" ? ["webgpu", "wasm"] : [engine];
    /** @type {string[]} */
    const refused = [];
    for (const name of tried) {
      const reason = await unavailable(name, engine !== "auto");
      if (reason) {
        refused.push(`${name}: ${reason}`);
        continue;
      }
      try {
        return await Segmenter.#open(name, bundle, { precision, source, threads, selfTest }, refused);
      } catch (error) {
        // a bundle that is broken stays so on another engine
        if (!(error instanceof EngineError) || name === tried[tried.length - 1]) throw error;
        refused.push(`${name}: ${error.message}`);
      }
    }
    throw new EngineError(`No engine runs here (${refused.join("; ")}).`);
  }

  /**
   * @param {EngineName} name
   * @param {Bundle} bundle
   * @param {{ precision: string, source: string | Ort, threads?: number, selfTest: boolean }} options
   * @param {string[]} refused
   */
  static async #open(name, bundle, options, refused) {
    const engine = await Engine.open(name, bundle, options);
    const threads = name === "wasm" ? ` on ${engine.threads} thread${engine.threads === 1 ? "" : "s"}` : "";
    const segmenter = new Segmenter(
      engine,
      bundle.manifest,
      [`${name} ${engine.precision}${threads}`, ...refused].join("; "),
    );
    try {
      if (options.selfTest) await segmenter.runSelfTest(bundle);
      return segmenter;
    } catch (error) {
      await engine.release();
      throw error;
    }
  }

  /**
   * Encode one class from its annotated images.
   * @param {Shot[]} shots
   * @param {string} [name] of the class
   * @param {EncodeOptions} [options]
   * @throws {InputError} no shots, a mask of another size than its image, an empty mask, or one so small that nothing
   *   is left of it
   * @throws {EngineError} the engine failed
   */
  async encodeSupport(shots, name = "support", options = {}) {
    const [memory] = await this.encodeSupports([[name, shots]], { ...options, calibrate: false });
    return memory;
  }

  /**
   * Encode several classes that will be segmented together, so that their margins can be compared.
   * @param {Classes} classes
   * @param {EncodeAllOptions} [options]
   * @returns {Promise<SupportMemory[]>}
   */
  async encodeSupports(classes, { allowUnseen = false, ...options } = {}) {
    /** @type {[string, EncodedShot[]][]} */
    const encoded = [];
    for (const [name, shots] of classes) encoded.push([name, await this.#encodeShots(shots, name, allowUnseen)]);
    return this.joinShots(encoded, options);
  }

  /**
   * Encode one annotated image, for `joinShots`: a shot that stays the same needs no encoding again when others come.
   * @param {Shot} shot
   * @param {string} [name] of the class, for messages
   * @param {{ allowUnseen?: boolean }} [options]
   * @returns {Promise<EncodedShot>}
   * @throws {InputError} as `encodeSupport`
   * @throws {EngineError} the engine failed
   */
  async encodeShot(shot, name = "support", { allowUnseen = false } = {}) {
    return (await this.#encodeShots([shot], name, allowUnseen))[0];
  }

  /**
   * The memories of classes from what `encodeShot` gave.
   * @param {Map<string, EncodedShot[]> | [string, EncodedShot[]][]} classes
   * @param {{ leaveOneOut?: boolean, calibrate?: boolean }} [options] as of `encodeSupports`
   * @returns {Promise<SupportMemory[]>}
   * @throws {InputError} a class without shots
   * @throws {EngineError} the engine failed
   */
  async joinShots(classes, { leaveOneOut = true, calibrate = true } = {}) {
    const names = [...classes].map(([name]) => name);
    const encoded = [...classes].map(([, shots]) => shots);
    const bare = encoded.findIndex((shots) => !shots.length);
    if (bare >= 0) throw new InputError(`No support was given for '${names[bare]}'; one image and mask at least.`);
    const memories = encoded.map((shots, n) => join(names[n], shots, this.model));
    /** @type {number[][]} */
    const scores = memories.map(() => []);
    /** @param {number} d @param {number} k @param {boolean} together */
    const logits = async (d, k, together) => {
      const own = encoded[d],
        shot = own[k];
      const rest = join(names[d], own.length > 1 ? own.filter((_, other) => other !== k) : own, this.model);
      const present = together ? memories.map((memory, c) => (c === d ? rest : memory)) : [rest];
      const found = await this.#query(shot.pixels, stackMemories(present));
      if (leaveOneOut && own.length > 1) {
        scores[d].push(maskIou(labelMap(together ? pick(found, d) : found, shot.box), shot.mask));
      }
      return found;
    };
    /** @type {(import("./calibration.js").Calibration | null)[]} */
    let calibrations = memories.map(() => null);
    if (calibrate && memories.length > 1) {
      const targets = encoded.map((shots) => shots.map(({ target }) => target));
      calibrations = fitCalibrations(await responses(targets, this.inputSize, (d, k) => logits(d, k, true)));
    } else if (leaveOneOut) {
      for (const [d, shots] of encoded.entries()) {
        for (let k = 0; k < shots.length && shots.length > 1; k++) await logits(d, k, false);
      }
    }
    return memories.map((memory, n) =>
      memory.with({ calibration: calibrations[n], shotScores: scores[n].length ? scores[n] : null }),
    );
  }

  /**
   * Segment one image.
   * @param {ImageSource} image
   * @param {SupportMemory | SupportMemory[]} memories one class, or N of them: the image is encoded once for all.
   *   Where all of
   *   several carry a calibration, their margins are compared by it.
   * @param {{ scores?: boolean }} [options] whether to compute the scores at once
   * @throws {InputError} no image, no memory, or a memory of another model
   * @throws {EngineError} the engine failed or gave NaN
   */
  async segment(image, memories, { scores = false } = {}) {
    const all = memories instanceof SupportMemory ? [memories] : [...memories];
    const stacked = this.#stack(all);
    const { pixels, box } = prepareImage(await pixelsOf(image), this.manifest.input);
    const logits = calibrated(
      await this.#query(pixels, stacked),
      all.map(({ calibration }) => calibration),
    );
    const labels = labelMap(logits, box);
    const names = all.map(({ name }) => name);
    return new Result({ labels, names, logits, box, scores: scores ? classScores(labels, logits, box) : null });
  }

  /**
   * Run a bundle's self-test.
   * @param {Bundle} bundle
   * @throws {InputError} the bundle has none, or one that does not fit
   * @throws {EngineError} masks or logits are not those of the PyTorch network
   */
  async runSelfTest(bundle) {
    const test = await bundle.selfTest();
    const memory = await this.encodeSupport([{ image: test.supportImage, mask: test.supportMask }], "self-test");
    const { labels, logits } = await this.segment(test.image, memory);
    if (labels.length !== test.labels.length || String([2, logits.height, logits.width]) !== String(test.logitsShape)) {
      throw new InputError(`The self-test of ${bundle.url} does not fit its graphs; export the bundle again.`);
    }
    const equal = labels.reduce((sum, label, i) => sum + Number(label === test.labels[i]), 0) / labels.length;
    let off = 0,
      largest = 1e-6;
    for (const [i, wanted] of test.logits.entries()) {
      off = Math.max(off, Math.abs(logits.data[i] - wanted));
      largest = Math.max(largest, Math.abs(wanted));
    }
    const [leastEqual, mostOff] = SELF_TEST[this.precision];
    // written so that NaN fails
    if (!(equal >= leastEqual && off / largest <= mostOff)) {
      throw new EngineError(
        `${this.engine} ${this.precision} fails the bundle's self-test: ${(100 * equal).toFixed(2)}% of the pixels are right ` +
          `(${(100 * leastEqual).toFixed(1)}% demanded) and logits are off by ${(off / largest).toExponential(1)} ` +
          `(${mostOff} allowed); do not use it on this machine.`,
      );
    }
  }

  /** Free the engine. */
  async close() {
    await this.runner.release();
  }

  /**
   * @param {Shot[]} shots
   * @param {string} name
   * @param {boolean} allowUnseen
   */
  async #encodeShots(shots, name, allowUnseen) {
    if (!Array.isArray(shots) || !shots.length) {
      throw new InputError(`No support was given for '${name}'; one image and mask at least.`);
    }
    const { input } = this.manifest;
    /** @type {EncodedShot[]} */
    const encoded = [];
    for (const [number, shot] of shots.entries()) {
      const what = `Support ${number + 1} of '${name}'`;
      const image = await pixelsOf(shot?.image, `${what}: the image`);
      const mask = normaliseMask(await maskOf(shot.mask, image, `${what}: the mask`), what);
      const { pixels, box } = prepareImage(image, input);
      const target = prepareMask(mask, box);
      const found = await this.runner.support(pixels, target, input.size);
      if (![found.prototype, found.keys].every((values) => values.every(Number.isFinite))) {
        throw new EngineError(`${this.engine} ${this.precision} gave NaN or infinity for '${name}'.`);
      }
      const keys = compactKeys(found.keys, found.depth);
      if (!keys.count && !allowUnseen) {
        throw new InputError(
          `${what}: the target is too small to be seen at the network's ${input.size} pixels; crop the image around it.`,
        );
      }
      encoded.push({ mask, pixels, target, box, prototype: found.prototype, keys });
    }
    return encoded;
  }

  /**
   * @param {Float32Array} pixels
   * @param {Stacked} stacked
   */
  async #query(pixels, stacked) {
    const logits = await this.runner.query(pixels, this.inputSize, stacked);
    if (!logits.data.every(Number.isFinite)) {
      throw new EngineError(
        `${this.engine} ${this.precision} gave NaN or infinity; check the bundle with \`ntre bench\`.`,
      );
    }
    return logits;
  }

  /**
   * The memories of N classes as the query graph takes them, kept for the next image: a camera asks for the same
   * classes.
   * @param {SupportMemory[]} memories
   */
  #stack(memories) {
    const kept = this.#stacked;
    if (kept && kept.memories.length === memories.length && memories.every((own, n) => own === kept.memories[n])) {
      return kept.stacked;
    }
    if (!memories.length) throw new InputError("No support memory was given; make one with `encodeSupport`.");
    if (memories.length > MAX_CLASSES) {
      throw new InputError(`${memories.length} classes were given; a label map holds 1 to ${MAX_CLASSES}.`);
    }
    const { prototypeChannels, keyChannels } = this.manifest.model;
    for (const memory of memories) {
      if (!(memory instanceof SupportMemory)) {
        throw new InputError(
          "A support memory is expected; make one with `encodeSupport` or `SupportMemory.fromBytes`.",
        );
      }
      if (
        memory.model !== this.model ||
        memory.prototype.length !== prototypeChannels ||
        memory.keys[0].depth !== keyChannels
      ) {
        throw new InputError(
          `The support memory '${memory.name}' was made by another model or input size; encode it again.`,
        );
      }
    }
    const stacked = stackMemories(memories);
    this.#stacked = { memories, stacked };
    return stacked;
  }
}

/**
 * The memory of one class, from one or more shots.
 * @param {string} name
 * @param {EncodedShot[]} shots
 * @param {string} model
 */
function join(name, shots, model) {
  const prototype = new Float32Array(shots[0].prototype.length);
  for (const shot of shots) for (let i = 0; i < prototype.length; i++) prototype[i] += shot.prototype[i];
  for (let i = 0; i < prototype.length; i++) prototype[i] /= shots.length;
  return new SupportMemory({ name, prototype, keys: shots.map(({ keys }) => keys), model });
}

/**
 * The logits of one class.
 * @param {Logits} logits
 * @param {number} n
 * @returns {Logits}
 */
function pick({ data, height, width }, n) {
  const size = 2 * height * width;
  return { data: data.subarray(n * size, (n + 1) * size), classes: 1, height, width };
}
