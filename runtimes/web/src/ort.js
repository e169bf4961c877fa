/** onnxruntime-web from a folder of the page's own, and what this browser lets it do. */

import { EngineError, explained } from "./errors.js";

/** @typedef {typeof import("onnxruntime-web")} Ort */

/** @typedef {"webgpu" | "wasm"} EngineName */

/**
 * @typedef {object} Runtime
 * @property {Ort} ort
 * @property {number} threads of WebAssembly; 1 of WebGPU
 */

const MODULES = { webgpu: "ort.webgpu.min.mjs", wasm: "ort.wasm.min.mjs" };
// beyond, memory is what is waited for
const MOST_THREADS = 4;

/** @type {Map<string | Ort, Promise<Runtime>>} */
const loaded = new Map();

/**
 * The folder where npm puts onnxruntime-web beside this package.
 */
export function usualFolder() {
  return new URL("../../onnxruntime-web/dist/", import.meta.url).href;
}

/**
 * onnxruntime-web, once in each page or worker: it has one number of threads.
 * @param {EngineName} engine
 * @param {string | Ort} source absolute URL of the folder of its files, with a slash at its end, or the imported module
 * @param {number | undefined} threads
 * @returns {Promise<Runtime>}
 * @throws {EngineError} it cannot be loaded, or not with so many threads
 */
export async function loadRuntime(engine, source, threads) {
  const wanted = engine === "webgpu" ? 1 : chosenThreads(threads);
  const key = typeof source === "string" ? source + MODULES[engine] : source;
  let opening = loaded.get(key);
  if (!opening) {
    opening = open(engine, source, wanted);
    loaded.set(key, opening);
    // what failed may be tried again
    opening.catch(() => loaded.delete(key));
  }
  const runtime = await opening;
  if (threads !== undefined && runtime.threads !== wanted) {
    throw new EngineError(
      `onnxruntime-web works on ${runtime.threads} threads here already, and ${wanted} were asked for; use a worker for each.`,
    );
  }
  return runtime;
}

/**
 * Why this browser cannot run an engine, or null.
 * @param {EngineName} engine
 * @param {boolean} software whether a GPU that the processor imitates will do
 */
export async function unavailable(engine, software) {
  if (engine === "wasm") return typeof WebAssembly === "object" ? null : "this browser has no WebAssembly";
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  if (!gpu) return "this browser has no WebGPU";
  try {
    const adapter = await gpu.requestAdapter();
    if (!adapter) return "this machine has no GPU for WebGPU";
    if (!software && (adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter))
      return "the GPU is one that the processor imitates";
    return null;
  } catch (error) {
    return `WebGPU fails (${explained(error, (reason) => new EngineError(reason)).message})`;
  }
}

/**
 * @param {number | undefined} threads
 */
function chosenThreads(threads) {
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
    throw new EngineError(`threads is ${threads}; a whole number from 1 on is expected.`);
  }
  const able = globalThis.crossOriginIsolated === true && typeof SharedArrayBuffer === "function";
  if (threads !== undefined && threads > 1 && !able) {
    throw new EngineError(
      `${threads} threads were asked for, and this page is not cross-origin isolated; serve it with the headers ` +
        "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.",
    );
  }
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  // half of them are the other side of a core already counted, as a rule
  return threads ?? (able ? Math.min(MOST_THREADS, cores, Math.max(2, Math.floor(cores / 2))) : 1);
}

/**
 * @param {EngineName} engine
 * @param {string | Ort} source
 * @param {number} threads
 * @returns {Promise<Runtime>}
 */
async function open(engine, source, threads) {
  const where = typeof source === "string" ? source + MODULES[engine] : "";
  try {
    /** @type {Ort} */
    const ort = typeof source === "string" ? await import(/* webpackIgnore: true */ /* @vite-ignore */ where) : source;
    if (typeof source === "string") ort.env.wasm.wasmPaths = source;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    return { ort, threads };
  } catch (error) {
    throw explained(
      error,
      (reason) =>
        new EngineError(`onnxruntime-web cannot be loaded from ${where} (${reason}); give its folder as \`ort\`.`),
    );
  }
}
