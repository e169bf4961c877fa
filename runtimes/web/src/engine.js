/** The two graphs of a bundle on onnxruntime-web, one run after the other. */

import { EngineError, InputError, explained, firstLine } from "./errors.js";
import { checkSelfContained } from "./onnxfile.js";
import { loadRuntime } from "./ort.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./labels.js").Logits} Logits */
/** @typedef {import("./ort.js").EngineName} EngineName */
/** @typedef {import("./ort.js").Ort} Ort */
/** @typedef {import("./stacked.js").Stacked} Stacked */
/** @typedef {import("onnxruntime-web").InferenceSession} InferenceSession */
/** @typedef {import("onnxruntime-web").Tensor} Tensor */

const PRECISIONS = ["fp32", "fp16", "int8"];

/** Sessions over the support and the query graph. */
export class Engine {
  /** @type {Promise<unknown>} */
  #turn = Promise.resolve();
  /** @type {WeakMap<Stacked, Record<string, Tensor>>} */
  #kept = new WeakMap();

  /**
   * @param {EngineName} name
   * @param {string} precision
   * @param {number} threads
   * @param {Ort} ort
   * @param {{ support: InferenceSession, query: InferenceSession }} sessions
   */
  constructor(name, precision, threads, ort, sessions) {
    this.name = name;
    this.precision = precision;
    this.threads = threads;
    this.ort = ort;
    this.sessions = sessions;
  }

  /**
   * @param {EngineName} name
   * @param {Bundle} bundle
   * @param {{ precision: string, source: string | Ort, threads?: number }} options
   * @throws {InputError} the bundle has no such graphs, or they were changed
   * @throws {EngineError} they cannot be loaded
   */
  static async open(name, bundle, { precision, source, threads }) {
    if (!PRECISIONS.includes(precision)) {
      throw new EngineError(`${name} does not run ${precision}; it runs ${PRECISIONS.join(", ")}.`);
    }
    /** @param {string} role */
    const read = async (role) => {
      const entry = bundle.entry(role, "onnx", precision);
      if (!entry) throw new InputError(`${bundle.url} has no ${role} graph in ${precision}; export it again.`);
      const content = await bundle.read(entry);
      checkSelfContained(content, entry.name);
      return content;
    };
    const [runtime, support, query] = await Promise.all([
      loadRuntime(name, source, threads),
      read("support"),
      read("query"),
    ]);
    /** @type {InferenceSession[]} */
    const made = [];
    try {
      // one after the other: the first one starts WebAssembly
      for (const content of [support, query]) {
        made.push(
          await runtime.ort.InferenceSession.create(content, { executionProviders: [name], logSeverityLevel: 3 }),
        );
      }
      return new Engine(name, precision, runtime.threads, runtime.ort, { support: made[0], query: made[1] });
    } catch (error) {
      for (const session of made) await session.release();
      throw explained(
        error,
        (reason) => new EngineError(`onnxruntime-web cannot load the graph on ${name}: ${reason}`),
      );
    }
  }

  /**
   * @param {Float32Array} image [3, size, size]
   * @param {Float32Array} mask [size, size] of 0 and 1
   * @param {number} size
   * @returns {Promise<{ prototype: Float32Array, keys: Float32Array, depth: number }>} [C], [D, places]
   */
  async support(image, mask, size) {
    const { Tensor } = this.ort;
    const inputs = {
      image: new Tensor("float32", image, [1, 3, size, size]),
      mask: new Tensor("float32", mask, [1, 1, size, size]),
    };
    const { prototype, keys } = await this.#run(this.sessions.support, inputs, ["prototype", "keys"]);
    return { prototype: prototype.data, keys: keys.data, depth: keys.dims[1] };
  }

  /**
   * @param {Float32Array} image [3, size, size]
   * @param {number} size
   * @param {Stacked} stacked
   * @returns {Promise<Logits>}
   */
  async query(image, size, stacked) {
    const inputs = { image: new this.ort.Tensor("float32", image, [1, 3, size, size]), ...this.#tensors(stacked) };
    const { logits } = await this.#run(this.sessions.query, inputs, ["logits"]);
    const [, classes, , height, width] = logits.dims;
    return { data: logits.data, classes, height, width };
  }

  /** Free both sessions, when the runs before are done. */
  async release() {
    await this.#turn;
    for (const session of Object.values(this.sessions)) await session.release();
  }

  /**
   * Supports in the types of the graph, kept for the next query of the same classes.
   * @param {Stacked} stacked
   */
  #tensors(stacked) {
    let found = this.#kept.get(stacked);
    if (!found) {
      const { Tensor } = this.ort;
      const half = this.sessions.query.inputMetadata?.some(
        (entry) => entry.isTensor && entry.name === "keys" && entry.type === "float16",
      );
      found = {
        prototypes: new Tensor("float32", stacked.prototypes, stacked.prototypesShape),
        keys: half
          ? new Tensor("float16", halves(stacked.keys), stacked.keysShape)
          : new Tensor("float32", stacked.keys, stacked.keysShape),
        chunks: new Tensor("int32", stacked.chunks, stacked.chunksShape),
      };
      this.#kept.set(stacked, found);
    }
    return found;
  }

  /**
   * @param {InferenceSession} session
   * @param {Record<string, Tensor>} inputs
   * @param {string[]} names
   * @returns {Promise<Record<string, { data: Float32Array, dims: readonly number[] }>>}
   */
  #run(session, inputs, names) {
    // a session takes one run at a time
    const run = this.#turn.then(async () => {
      try {
        const outputs = await session.run(inputs, names);
        /** @type {Record<string, { data: Float32Array, dims: readonly number[] }>} */
        const found = {};
        for (const name of names) {
          found[name] = { data: /** @type {Float32Array} */ (await outputs[name].getData()), dims: outputs[name].dims };
        }
        return found;
      } catch (error) {
        throw new EngineError(`onnxruntime-web failed while it ran on ${this.name}: ${firstLine(error)}`);
      }
    });
    this.#turn = run.catch(() => {});
    return run;
  }
}

/**
 * @param {Float32Array} values
 * @returns {Uint16Array}
 */
function halves(values) {
  const Halves = /** @type {any} */ (globalThis).Float16Array;
  if (!Halves)
    throw new EngineError("This browser has no Float16Array, which graphs in 16 bits need; take precision fp32.");
  return Halves.from(values);
}
