/** How far arrays are from what they should be: 0 where they are equal, null where they cannot be compared. */

/** @typedef {import("./kit.js").Numbers} Numbers */
/** @typedef {number | null} Measure */

const SMALLEST = 1e-6;
// grey levels by which float32 may miss a level that is the same
const SAME_LEVEL = 0.01;

/**
 * max |a - b|; null for another shape or type.
 * @param {Numbers} found
 * @param {Numbers | undefined} expected
 * @returns {Measure}
 */
export function largest(found, expected) {
  if (!alike(found, expected)) return null;
  let most = 0;
  for (let i = 0; i < found.data.length; i++) most = larger(most, Math.abs(found.data[i] - expected.data[i]));
  return most;
}

/**
 * max |a - b| / max |b|.
 * @param {Numbers} found
 * @param {Numbers | undefined} expected
 * @returns {Measure}
 */
export function relative(found, expected) {
  const off = largest(found, expected);
  if (off === null || !expected) return null;
  let most = SMALLEST;
  for (const value of expected.data) most = larger(most, Math.abs(value));
  return off / most;
}

/**
 * The share of elements that differ.
 * @param {Numbers} found
 * @param {Numbers | undefined} expected
 * @returns {Measure}
 */
export function share(found, expected) {
  if (!alike(found, expected)) return null;
  let count = 0;
  for (let i = 0; i < found.data.length; i++) if (found.data[i] !== expected.data[i]) count++;
  return count / Math.max(found.data.length, 1);
}

/**
 * Of two network inputs [3, S, S] the largest difference in grey levels, and the share of elements that differ.
 * @param {Numbers} found
 * @param {Numbers | undefined} expected
 * @param {number[]} std of each channel
 * @returns {{ off: Measure, differing: Measure }}
 */
export function levels(found, expected, std) {
  if (!alike(found, expected)) return { off: null, differing: null };
  const plane = found.data.length / 3;
  let off = 0,
    count = 0;
  for (let i = 0; i < found.data.length; i++) {
    const own = Math.abs(found.data[i] - expected.data[i]) * std[Math.floor(i / plane)];
    off = larger(off, own);
    // written so that NaN differs
    if (!(own <= SAME_LEVEL)) count++;
  }
  return { off, differing: count / found.data.length };
}

/**
 * 0 where something holds, else 1.
 * @param {boolean} holds
 */
export function flag(holds) {
  return holds ? 0 : 1;
}

/**
 * The largest of some measures; null where one of them is.
 * @param {Measure[]} measures
 * @returns {Measure}
 */
export function worst(measures) {
  let most = 0;
  for (const one of measures) {
    if (one === null) return null;
    most = larger(most, one);
  }
  return most;
}

/**
 * The larger of two numbers, or NaN where one is.
 * @param {number} a
 * @param {number} b
 */
function larger(a, b) {
  return a >= b ? a : b > a ? b : NaN;
}

/**
 * @param {Numbers} found
 * @param {Numbers | undefined} expected
 * @returns {expected is Numbers}
 */
function alike(found, expected) {
  return (
    expected !== undefined &&
    found.data.constructor === expected.data.constructor &&
    String(found.shape) === String(expected.shape) &&
    found.data.length === expected.data.length
  );
}
