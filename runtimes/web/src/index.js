/** Few-shot segmentation in the browser: bundles of `ntre export`, run by onnxruntime-web. */

export { WorkerSegmenter } from "./client.js";
export { EngineError, InputError, NtreError } from "./errors.js";
export { SupportMemory } from "./memory.js";
export { Result } from "./result.js";
export { Segmenter } from "./segmenter.js";
