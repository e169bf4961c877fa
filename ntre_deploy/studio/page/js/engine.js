// What the page asks of an engine. The rest of the page knows this interface alone: the engine behind the server
// (engine-server.js) is one, the web runtime in the page (engine-web.js) is the other; site.js chooses.

/**
 * @typedef {{width: number, height: number, labels: Uint8Array, ms: number}} Labels
 *   one byte a pixel, row after row: 0 background, else the number of a class
 * @typedef {{box: number[]} | {points: number[][], background: number[][]}} Prompt
 *   x1, y1, x2, y2, or pairs x, y on the object and beside it, in pixels of the photo as it is shown
 * @typedef {{number: number, shots: string[], scores: number[], gained: number | null}} ClassScore
 *   IoU of each shot with what the others find in it; `gained` by the newest shot, on the others
 * @typedef {object} Memories
 *   what `encode` has made; only handed back
 *
 * @typedef {object} Engine
 * @property {boolean} cuts  whether it has `grabcut`; without it, brush and polygon are left
 * @property {EngineState} [state]  of an engine that the server knows nothing of
 * @property {() => Promise<EngineState>} load  load or try again
 * @property {(store: import("./store.js").Store) => Promise<Memories>} encode
 *   encode all shots of all classes; resolves when they can be used
 * @property {(photo: import("./store.js").Photo, memories: Memories, options?: {side?: number, now?: boolean, signal?: AbortSignal}) => Promise<Labels>} segment
 * @property {(pixels: ImageData, memories: Memories) => Promise<Labels>} frame
 * @property {(photo: import("./store.js").Photo, prompt: Prompt) => Promise<Uint8Array>} grabcut  1 inside
 * @property {(memories: Memories) => Promise<ClassScore[]>} leaveOneOut
 * @property {(kind: string, predicted: boolean) => Promise<{name: string, blob: Blob}>} save
 * @property {() => Promise<string>} script  Python that does the same
 *
 * @typedef {{state: "loading" | "ready" | "failed", reason?: string, error?: string, note?: string}} EngineState
 */

export {};
