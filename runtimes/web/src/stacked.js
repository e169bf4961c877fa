/** Supports of several classes as the query graph takes them, as Python's `runtime.stacked`. */

/** @typedef {import("./memory.js").SupportMemory} SupportMemory */
/** @typedef {import("./memory.js").Keys} Keys */

/**
 * @typedef {object} Stacked supports of N classes with up to K shots each
 * @property {Float32Array} prototypes [N, C]
 * @property {number[]} prototypesShape
 * @property {Float32Array} keys [P, 32, D]
 * @property {number[]} keysShape
 * @property {Int32Array} chunks [N, K, Q], the numbers of each shot's chunks; -1 all over for a shot that is not there
 * @property {number[]} chunksShape
 */

// keys of a chunk
export const CHUNK = 32;
// few distinct numbers of chunks mean few shapes for an engine to plan for
const QUARTERS = [4, 5, 6, 7];

/**
 * The number of chunks, of all shots or of the largest one, that so many are stacked to.
 * @param {number} chunks
 */
export function padded(chunks) {
  if (chunks <= QUARTERS[0]) return chunks;
  for (let octave = 1; ; octave *= 2) {
    for (const quarter of QUARTERS) if (quarter * octave >= chunks) return quarter * octave;
  }
}

/**
 * @param {{ prototype: Float32Array, keys: readonly Keys[] }[]} memories
 * @returns {Stacked}
 */
export function stackMemories(memories) {
  const depth = memories[0].keys[0].depth,
    channels = memories[0].prototype.length;
  // a target that vanished still takes part, with a chunk of zeros
  const needed = memories.map(({ keys }) => keys.map(({ count }) => Math.max(Math.ceil(count / CHUNK), 1)));
  const all = padded(needed.flat().reduce((sum, n) => sum + n, 0));
  const shots = Math.max(...needed.map((own) => own.length)),
    most = padded(Math.max(...needed.flat()));
  const prototypes = new Float32Array(memories.length * channels);
  const keys = new Float32Array(all * CHUNK * depth);
  const chunks = new Int32Array(memories.length * shots * most).fill(-1);
  let start = 0;
  for (const [n, memory] of memories.entries()) {
    prototypes.set(memory.prototype, n * channels);
    for (const [k, { data, count }] of memory.keys.entries()) {
      const base = start * CHUNK * depth;
      for (let d = 0; d < depth; d++) for (let m = 0; m < count; m++) keys[base + m * depth + d] = data[d * count + m];
      const row = (n * shots + k) * most;
      for (let q = 0; q < most; q++) chunks[row + q] = q < needed[n][k] ? start + q : start;
      start += needed[n][k];
    }
  }
  return {
    prototypes,
    prototypesShape: [memories.length, channels],
    keys,
    keysShape: [all, CHUNK, depth],
    chunks,
    chunksShape: [memories.length, shots, most],
  };
}
