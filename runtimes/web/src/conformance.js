/**
 * A conformance kit of `ntre conformance`, run by this runtime: does it give what Python's gives, and refuse what that
 * refuses?  docs/conformance.md describes the kit, the steps and the report.
 */

import { folderOf } from "./bundle.js";
import { calibrated } from "./calibration.js";
import { sha256 } from "./digest.js";
import { EngineError, InputError, NtreError } from "./errors.js";
import { Kit, KitError, fetchedBytes } from "./kit.js";
import { labelMap } from "./labels.js";
import { fitLetterbox, prepareImage, prepareMask } from "./letterbox.js";
import { SupportMemory } from "./memory.js";
import { flag, largest, levels, relative, share, worst } from "./measures.js";
import { Segmenter } from "./segmenter.js";
import { stackMemories } from "./stacked.js";

/** @typedef {import("./kit.js").Case} Case */
/** @typedef {import("./kit.js").Fields} Fields */
/** @typedef {import("./kit.js").Numbers} Numbers */
/** @typedef {import("./kit.js").Operation} Operation */
/** @typedef {import("./measures.js").Measure} Measure */
/** @typedef {Record<string, Measure>} Measures */

/** @typedef {{ name: string, measured: Measure, tolerance: number, passed: boolean }} StepResult */

/**
 * @typedef {object} CaseResult
 * @property {string} name
 * @property {string} kind
 * @property {boolean} passed
 * @property {string | null} skipped the need that this runtime does not meet
 * @property {StepResult[]} steps
 * @property {string | null} message of the error that was found
 */

/**
 * @typedef {object} KitResult
 * @property {string} format
 * @property {number} version
 * @property {{ model: string, sha256: string }} kit
 * @property {{ name: string, version: string, engine: string, precision: string }} runtime
 * @property {boolean} passed
 * @property {CaseResult[]} cases
 */

/**
 * @typedef {object} RunOptions
 * @property {string | URL} [ort] folder of onnxruntime-web's files
 * @property {"auto" | import("./ort.js").EngineName} [engine]
 * @property {string} [precision]
 * @property {number} [threads]
 * @property {(name: string) => void} [onCase]
 * @property {string} [version] of this package, for the report
 */

/**
 * Run a kit.
 * @param {string | URL} kitUrl of its folder
 * @param {string | URL} bundleUrl of the bundle that it was made of
 * @param {RunOptions} [options]
 * @returns {Promise<KitResult>}
 * @throws {InputError} the kit or the bundle cannot be used, or they do not belong together
 * @throws {EngineError} the engine cannot be had
 */
export async function runKit(kitUrl, bundleUrl, { onCase, version = "", ...options } = {}) {
  const kit = await Kit.open(kitUrl);
  const folder = folderOf(bundleUrl);
  const wanted = kit.content.bundle;
  if ((await sha256(await fetchedBytes(`${folder}manifest.json`))) !== wanted.manifest_sha256) {
    throw new KitError(
      `The kit was made of the bundle '${wanted.name}' (model ${wanted.model}), and ${folder} is another one or was ` +
        "changed since; make a kit of it with `ntre conformance BUNDLE --out KIT`.",
    );
  }
  // without the self-test: a runtime that differs is to be told in which step
  const segmenter = await Segmenter.load(folder, { ...options, selfTest: false });
  try {
    const runner = new Runner(kit, folder, segmenter, options);
    /** @type {CaseResult[]} */
    const cases = [];
    for (const one of kit.content.cases) {
      onCase?.(one.name);
      cases.push(await runner.run(one));
    }
    const { engine, precision } = segmenter;
    return {
      format: "ntre-conformance-result",
      version: 1,
      kit: { model: wanted.model, sha256: kit.digest },
      runtime: { name: "web", version, engine, precision },
      passed: cases.every(({ passed }) => passed),
      cases,
    };
  } finally {
    await segmenter.close();
  }
}

/** The cases of one kit on one engine. */
class Runner {
  /** @type {Map<string, Uint8Array>} files of the bundle */
  #whole = new Map();

  /**
   * @param {Kit} kit
   * @param {string} folder of the bundle
   * @param {Segmenter} segmenter
   * @param {import("./segmenter.js").LoadOptions} options that it was loaded with
   */
  constructor(kit, folder, segmenter, options) {
    this.kit = kit;
    this.folder = folder;
    this.segmenter = segmenter;
    this.options = options;
    /** @type {Record<string, (one: Case) => Promise<Measures>>} */
    this.kinds = {
      letterbox: (one) => this.#letterbox(one),
      encode: (one) => this.#encode(one),
      stack: (one) => this.#stack(one),
      segment: (one) => this.#segment(one),
      memory: (one) => this.#memory(one),
      bundle: (one) => this.#bundle(one),
    };
  }

  /**
   * @param {Case} one
   * @returns {Promise<CaseResult>}
   */
  async run(one) {
    const { name, kind, error: expected } = one;
    if (!Object.hasOwn(this.kinds, kind)) throw new KitError(`The kit has a case of the kind ${kind}, unknown here.`);
    // a page sees no folder, no links and no signature
    if (one.needs?.length) return { name, kind, passed: true, skipped: one.needs[0], steps: [], message: null };
    /** @type {Measures} */
    let measures = {};
    /** @type {string | null} */
    let message = null;
    try {
      measures = await this.kinds[kind](one);
      if (expected) {
        message = "an error was expected";
        measures = { error: flag(false) };
      }
    } catch (error) {
      if (!(error instanceof NtreError) || error instanceof KitError) throw error;
      message = error.message;
      if (expected) measures = { error: flag(isExpected(error, expected)) };
    }
    /** @type {Record<string, number>} */
    const limits = { ...this.kit.content.tolerances[this.segmenter.precision], ...one.tolerances };
    const steps = one.steps.map((step) => {
      const measured = measures[step] ?? null,
        tolerance = limits[step];
      if (tolerance === undefined) throw new KitError(`The kit has no tolerance for ${step}; make it again.`);
      // written so that NaN fails
      const passed = measured !== null && measured <= tolerance;
      return { name: step, measured: Number.isFinite(measured) ? measured : null, tolerance, passed };
    });
    return { name, kind, passed: steps.length > 0 && steps.every((s) => s.passed), skipped: null, steps, message };
  }

  /** @param {Case} one */
  async #letterbox(one) {
    const { input } = this.segmenter.manifest;
    const image = await this.kit.image(one.image);
    const expected = await this.kit.tensors(one.expected ?? "");
    const { pixels, box } = prepareImage({ ...image, channels: 3 }, input);
    const found = { shape: [3, input.size, input.size], data: pixels };
    const { off, differing } = levels(found, expected.get("input"), input.std);
    const inner = Int32Array.of(box.innerHeight, box.innerWidth);
    /** @type {Measures} */
    const measures = {
      box: largest({ shape: [2], data: inner }, { shape: [2], data: Int32Array.from(one.box) }),
      input: off,
      "input-share": differing,
    };
    if (one.mask !== undefined) {
      const { data, width, height } = await this.kit.mask(one.mask);
      const target = Uint8Array.from(prepareMask(data, fitLetterbox(height, width, input.size)));
      measures.target = share({ shape: [input.size, input.size], data: target }, expected.get("target"));
    }
    return measures;
  }

  /** @param {Case} one */
  async #encode(one) {
    /** @type {[string, import("./segmenter.js").Shot[]][]} */
    const classes = [];
    for (const { name, shots } of one.classes) {
      const own = [];
      for (const { image, mask } of shots) {
        const drawn = await this.kit.mask(mask);
        own.push({ image: await this.kit.image(image), mask: drawn.data });
      }
      classes.push([name, own]);
    }
    const found = await this.segmenter.encodeSupports(classes, { calibrate: one.calibrate });
    const wanted = await this.#loaded(one.memories);
    const pairs = wanted.map((memory, n) => /** @type {const} */ ([found[n], memory]));
    return {
      prototype: worst(pairs.map(([a, b]) => relative(line(a.prototype), line(b.prototype)))),
      keys: worst(
        pairs.flatMap(([a, b]) =>
          a.keys.length === b.keys.length ? b.keys.map((keys, k) => largest(ofKeys(a.keys[k]), ofKeys(keys))) : [null],
        ),
      ),
      calibration: worst(pairs.map(([a, b]) => apart(ofCalibration(a.calibration), ofCalibration(b.calibration)))),
      "shot-scores": worst(pairs.map(([a, b]) => apart(a.shotScores, b.shotScores))),
    };
  }

  /** @param {Case} one */
  async #stack(one) {
    const found = stackMemories(await this.#loaded(one.memories));
    const expected = await this.kit.tensors(one.expected ?? "");
    return {
      stack: worst([
        largest({ shape: found.prototypesShape, data: found.prototypes }, expected.get("prototypes")),
        largest({ shape: found.keysShape, data: found.keys }, expected.get("keys")),
        largest({ shape: found.chunksShape, data: found.chunks }, expected.get("chunks")),
      ]),
    };
  }

  /**
   * @param {Case} one
   * @returns {Promise<Measures>}
   */
  async #segment(one) {
    const image = await this.kit.image(one.image);
    const memories = await this.#loaded(one.memories);
    const result = await this.segmenter.segment(image, memories);
    if (one.expected === undefined) return {};
    const plain = await this.segmenter.segment(
      image,
      memories.map((memory) => memory.uncalibrated()),
    );
    const { data, classes, height, width } = plain.logits;
    const expected = (await this.kit.tensors(one.expected)).get("logits");
    const wanted = await this.kit.labels(one.labels);
    const given = /** @type {Float32Array} */ (expected?.data);
    const back = labelMap(
      calibrated(
        { ...plain.logits, data: given },
        memories.map(({ calibration }) => calibration),
      ),
      result.box,
    );
    /** @param {Uint8Array} labels */
    const kept = (labels) => every(labels, image.height, image.width, one.stride);
    return {
      logits: relative({ shape: [classes, 2, height, width], data }, expected),
      labels: share(kept(result.labels), wanted),
      "labels-from-logits": share(kept(back), wanted),
    };
  }

  /**
   * @param {Case} one
   * @returns {Promise<Measures>}
   */
  async #memory(one) {
    let told = 0;
    const memory = await SupportMemory.fromBytes(await this.kit.read(one.memory), one.memory, { warn: () => told++ });
    if (one.expected === undefined) return {};
    const expected = await this.kit.tensors(one.expected);
    const again = await SupportMemory.fromBytes(await memory.toBytes());
    return {
      fields: flag(hasFields(memory, one.fields)),
      arrays: arraysApart(memory, expected),
      warning: flag(told > 0 === one.warning),
      rewritten: flag(hasFields(again, one.fields) && arraysApart(again, expected) === 0),
    };
  }

  /** @param {Case} one */
  async #bundle(one) {
    const files = await this.#patched(one.patch);
    /** @type {typeof fetch} */
    const overlaid = async (where, init) => {
      const name = decodeURIComponent(new URL(String(where)).href.slice(this.folder.length));
      const content = files.get(name);
      if (content === undefined) return fetch(where, init);
      return content === null
        ? new Response(null, { status: 404 })
        : new Response(/** @type {Uint8Array<ArrayBuffer>} */ (content));
    };
    // the files that are patched are those of this precision, whatever the other cases run in
    const { engine } = this.segmenter;
    const loaded = await Segmenter.load(this.folder, {
      ...this.options,
      engine,
      precision: this.kit.content.precision,
      fetch: overlaid,
    });
    await loaded.close();
    return { loaded: flag(true) };
  }

  /**
   * Files that a patch changes, with what is then in them; null for one that is gone.
   * @param {Operation[]} operations
   */
  async #patched(operations) {
    /** @type {Map<string, Uint8Array | null>} */
    const files = new Map();
    for (const { op, name, file = "", hex = "", at = 0, size = 0 } of operations) {
      const present = async () => files.get(name) ?? (await this.#file(name));
      const bytes = Uint8Array.from(hex.match(/../g) ?? [], (digits) => parseInt(digits, 16));
      if (op === "write") files.set(name, await this.kit.read(file));
      else if (op === "append") files.set(name, joined(await present(), bytes));
      else if (op === "remove") files.set(name, null);
      else if (op === "overwrite") {
        const content = Uint8Array.from(await present());
        content.set(bytes, at);
        files.set(name, content);
      } else if (op === "resize") {
        const content = new Uint8Array(size);
        content.set((await present()).subarray(0, size));
        files.set(name, content);
      } else throw new KitError(`The kit has a patch with the operation ${op}, unknown here.`);
    }
    return files;
  }

  /** @param {string} name */
  async #file(name) {
    const content = this.#whole.get(name) ?? (await fetchedBytes(new URL(name, this.folder).href));
    this.#whole.set(name, content);
    return content;
  }

  /**
   * @param {string[]} paths
   * @returns {Promise<SupportMemory[]>}
   */
  async #loaded(paths) {
    /** @type {Map<string, SupportMemory>} */
    const known = new Map();
    for (const path of new Set(paths)) {
      known.set(path, await SupportMemory.fromBytes(await this.kit.read(path), path, { warn: () => {} }));
    }
    return paths.map((path) => /** @type {SupportMemory} */ (known.get(path)));
  }
}

/**
 * @param {NtreError} error
 * @param {{ class: string, text: string[] }} expected
 */
function isExpected(error, expected) {
  const Kind = { input: InputError, engine: EngineError }[expected.class];
  const text = error.message;
  const right = Kind !== undefined && error instanceof Kind && text.trim() !== "" && !text.includes("\n");
  return right && expected.text.every((words) => text.includes(words));
}

/**
 * Every n-th row and column.
 * @param {Uint8Array} labels
 * @param {number} height
 * @param {number} width
 * @param {number} stride
 * @returns {Numbers}
 */
function every(labels, height, width, stride) {
  const rows = Math.ceil(height / stride),
    columns = Math.ceil(width / stride);
  const data = new Uint8Array(rows * columns);
  for (let y = 0, o = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) data[o++] = labels[y * stride * width + x * stride];
  }
  return { shape: [rows, columns], data };
}

/**
 * @param {Uint8Array} first
 * @param {Uint8Array} second
 */
function joined(first, second) {
  const out = new Uint8Array(first.length + second.length);
  out.set(first);
  out.set(second, first.length);
  return out;
}

/**
 * @param {Float32Array} data
 * @returns {Numbers}
 */
function line(data) {
  return { shape: [data.length], data };
}

/**
 * @param {import("./memory.js").Keys} keys
 * @returns {Numbers}
 */
function ofKeys({ data, depth, count }) {
  return { shape: [depth, count], data };
}

/** @param {import("./memory.js").Calibration | null} calibration */
function ofCalibration(calibration) {
  return calibration && [calibration.offset, calibration.scale];
}

/**
 * @param {readonly number[] | null} found
 * @param {readonly number[] | null} expected
 * @returns {Measure}
 */
function apart(found, expected) {
  if (!found || !expected) return found === expected ? 0 : null;
  if (found.length !== expected.length) return null;
  return worst(expected.map((value, i) => Math.abs(found[i] - value)));
}

/**
 * @param {SupportMemory} memory
 * @param {Fields} fields
 */
function hasFields(memory, fields) {
  return (
    memory.name === fields.name &&
    memory.model === fields.model &&
    memory.shots === fields.shots &&
    apart(ofCalibration(memory.calibration), ofCalibration(fields.calibration)) === 0 &&
    apart(memory.shotScores, fields.shot_scores) === 0
  );
}

/**
 * @param {SupportMemory} memory
 * @param {Map<string, Numbers>} expected
 * @returns {Measure}
 */
function arraysApart(memory, expected) {
  if (expected.size !== memory.shots + 1) return null;
  return worst([
    largest(line(memory.prototype), expected.get("prototype")),
    ...memory.keys.map((keys, k) => largest(ofKeys(keys), expected.get(`keys.${k}`))),
  ]);
}
