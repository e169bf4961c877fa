/** The other side of `client.js`: a `Segmenter` in a Web Worker. */

import { InputError, packError } from "./errors.js";
import { SupportMemory } from "./memory.js";
import { Segmenter } from "./segmenter.js";

/** @typedef {import("./client.js").Call} Call */
/** @typedef {import("./client.js").MemoryReference} MemoryReference */
/** @typedef {import("./memory.js").MemoryFields} MemoryFields */

/** @type {Segmenter | null} */
let opened = null;
// memories stay here, so that each travels once
/** @type {Map<string, SupportMemory>} */
const memories = new Map();
/** @type {Map<string, import("./segmenter.js").EncodedShot>} */
const shots = new Map();
let made = 0;

/** @param {SupportMemory} memory */
function keep(memory) {
  const id = `w${made++}`;
  memories.set(id, memory);
  return { id, fields: { ...memory } };
}

/** @param {MemoryReference} reference */
function recall({ id, fields }) {
  if (fields) memories.set(id, new SupportMemory(fields));
  const found = memories.get(id);
  if (!found)
    throw new InputError("A support memory is expected; make one with `encodeSupport` or `SupportMemory.fromBytes`.");
  return found;
}

function segmenter() {
  if (!opened) throw new InputError("No bundle is open; call `WorkerSegmenter.load` first.");
  return opened;
}

/** @type {{ [K in keyof Call]: (args: Call[K]) => unknown }} */
const calls = {
  async load({ url, options }) {
    opened = await Segmenter.load(url, { ...options, onProgress: (progress) => postMessage({ progress }) });
    const { engine, precision, threads, reason, model, inputSize } = opened;
    return { engine, precision, threads, reason, model, inputSize };
  },
  async encode({ classes, options }) {
    return (await segmenter().encodeSupports(classes, options)).map(keep);
  },
  async shot({ shot, name, options }) {
    const id = `w${made++}`;
    shots.set(id, await segmenter().encodeShot(shot, name, options));
    return id;
  },
  async join({ classes, options }) {
    /** @type {[string, import("./segmenter.js").EncodedShot[]][]} */
    const encoded = classes.map(([name, ids]) => [
      name,
      ids.map((id) => /** @type {import("./segmenter.js").EncodedShot} */ (shots.get(id))),
    ]);
    return (await segmenter().joinShots(encoded, options)).map(keep);
  },
  async segment({ image, references, options }) {
    const result = await segmenter().segment(image, references.map(recall), options);
    const { labels, names, logits, box } = result;
    return { labels, names, logits, box, scores: options.scores ? result.scores : null };
  },
  forget({ id }) {
    memories.delete(id);
    shots.delete(id);
  },
  async close() {
    await opened?.close();
    opened = null;
  },
};

addEventListener("message", async ({ data: { number, call, args } }) => {
  try {
    const value = await calls[/** @type {keyof Call} */ (call)](args);
    const labels = /** @type {{ labels?: Uint8Array<ArrayBuffer> } | undefined} */ (value)?.labels;
    postMessage({ number, value }, { transfer: labels ? [labels.buffer] : [] });
  } catch (error) {
    postMessage({ number, error: packError(error) });
  }
});
