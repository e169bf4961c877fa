/**
 * Post-processing, as Python's `runtime.labels`: logits at feature resolution to labels at the image's own size,
 * through the
 * same two maps as on the way in, composed to one.
 */

import { InputError } from "./errors.js";

/** @typedef {import("./letterbox.js").Letterbox} Letterbox */

/**
 * @typedef {object} Logits float32 [N, 2, h, w]; channel 1 is the class, channel 0 the rest
 * @property {Float32Array} data
 * @property {number} classes N
 * @property {number} height h
 * @property {number} width w
 */

/**
 * @typedef {object} Axis one axis of the way back: of each pixel the features that it is a mean of
 * @property {number} taps most features of a pixel
 * @property {Int32Array} first the first feature of each pixel
 * @property {Float32Array} shares [length, taps], zero for features that a pixel does not have
 */

// label 0 is background, and labels are bytes
export const MAX_CLASSES = 255;
const MOST_AXES = 16;
const { fround } = Math;

/** @type {Map<string, Axis>} */
const axes = new Map();

/**
 * Two neighbours and the share of the second, float32.
 * @param {number} position
 * @param {number} nIn
 */
function tap(position, nIn) {
  const low = Math.min(Math.max(Math.floor(position), 0), Math.max(nIn - 2, 0));
  return { low, high: Math.min(low + 1, nIn - 1), share: fround(position - low) };
}

/**
 * Features are resized to the input's `size` with aligned corners, the first `inner` pixels of that to the original
 * `length`
 * with pixel centres aligned.
 * @param {number} length
 * @param {number} inner
 * @param {number} size
 * @param {number} features
 * @returns {Axis}
 */
export function backAxis(length, inner, size, features) {
  const key = [length, inner, size, features].join();
  const found = axes.get(key) ?? makeAxis(length, inner, size, features);
  // the last ones: a camera's frames have one size
  axes.delete(key);
  axes.set(key, found);
  if (axes.size > MOST_AXES) axes.delete(axes.keys().next().value ?? key);
  return found;
}

/**
 * @param {number} length
 * @param {number} inner
 * @param {number} size
 * @param {number} features
 * @returns {Axis}
 */
function makeAxis(length, inner, size, features) {
  // NumPy's linspace
  const step = size > 1 ? (features - 1) / (size - 1) : 0;
  /** @param {number} pixel of the input */
  const toFeatures = (pixel) => tap(pixel === size - 1 && size > 1 ? features - 1 : pixel * step, features);
  const first = new Int32Array(length),
    dense = new Float32Array(features);
  /** @type {number[][]} */
  const rows = [];
  let taps = 1;
  for (let i = 0; i < length; i++) {
    const position = Math.min(Math.max((i + 0.5) * (inner / length) - 0.5, 0), inner - 1);
    const outer = tap(position, inner);
    const used = new Set();
    for (const [pixel, weight] of [
      [outer.low, fround(1 - outer.share)],
      [outer.high, outer.share],
    ]) {
      const { low, high, share } = toFeatures(pixel);
      dense[low] += weight * fround(1 - share);
      dense[high] += weight * share;
      used.add(low).add(high);
    }
    const there = [...used].filter((feature) => dense[feature] !== 0);
    const from = Math.min(...there),
      to = Math.max(...there);
    first[i] = from;
    rows.push(Array.from(dense.subarray(from, to + 1)));
    taps = Math.max(taps, to - from + 1);
    for (const feature of used) dense[feature] = 0;
  }
  const shares = new Float32Array(length * taps);
  for (let i = 0; i < length; i++) {
    // a window that would pass the end begins earlier, with zeros
    const from = Math.min(first[i], features - taps);
    shares.set(rows[i], i * taps + first[i] - from);
    first[i] = from;
  }
  return { taps, first, shares };
}

/**
 * Margins [N, h, W] with the image's own columns, and the axis of rows that is left.
 * @param {Logits} logits
 * @param {Letterbox} box
 */
function across(logits, box) {
  const { data, classes, height: h, width: w } = logits;
  if (classes < 1 || classes > MAX_CLASSES) {
    throw new InputError(`${classes} classes were given; a label map holds 1 to ${MAX_CLASSES}.`);
  }
  const { taps, first, shares } = backAxis(box.width, box.innerWidth, box.size, w);
  const margin = new Float32Array(w);
  const margins = new Float32Array(classes * h * box.width);
  for (let n = 0, out = 0; n < classes; n++) {
    for (let y = 0; y < h; y++) {
      // the maps are linear, so the difference may go through them alone
      const rest = (2 * n * h + y) * w,
        own = rest + h * w;
      for (let x = 0; x < w; x++) margin[x] = data[own + x] - data[rest + x];
      for (let x = 0; x < box.width; x++) {
        let sum = 0;
        for (let t = 0, at = first[x]; t < taps; t++) sum += shares[x * taps + t] * margin[at + t];
        margins[out++] = sum;
      }
    }
  }
  return { margins, rows: backAxis(box.height, box.innerHeight, box.size, h) };
}

/**
 * Logits at feature resolution to labels at the image's own size.
 * @param {Logits} logits
 * @param {Letterbox} box
 * @returns {Uint8Array} [H, W]: 0 background, n the class of the n-th pair of logits (the largest margin wins, the
 *   first of equals)
 */
export function labelMap(logits, box) {
  const { classes, height: h } = logits;
  const W = box.width;
  const { margins, rows } = across(logits, box);
  const plane = h * W;
  const winners = new Uint8Array(plane);
  for (let i = 0; i < plane; i++) {
    let best = 0;
    for (let n = 0; n < classes; n++) {
      if (margins[n * plane + i] > best) {
        best = margins[n * plane + i];
        winners[i] = n + 1;
      }
    }
  }
  const labels = new Uint8Array(box.height * W);
  const { taps, first, shares } = rows;
  for (let y = 0, out = 0; y < box.height; y++) {
    const top = first[y] * W;
    for (let x = 0; x < W; x++, out++) {
      // a margin is a mean of features: who wins in all of them wins in between, and most pixels are such
      const winner = winners[top + x];
      let t = 1;
      while (t < taps && winners[top + t * W + x] === winner) t++;
      labels[out] = t === taps ? winner : decide(margins, plane, classes, top + x, W, shares, y * taps, taps);
    }
  }
  return labels;
}

/**
 * @param {Float32Array} margins
 * @param {number} plane
 * @param {number} classes
 * @param {number} at
 * @param {number} W
 * @param {Float32Array} shares
 * @param {number} from
 * @param {number} taps
 */
function decide(margins, plane, classes, at, W, shares, from, taps) {
  let best = 0,
    winner = 0;
  for (let n = 0; n < classes; n++, at += plane) {
    let value = 0;
    for (let t = 0; t < taps; t++) value += shares[from + t] * margins[at + t * W];
    value = fround(value);
    if (value > best) {
      best = value;
      winner = n + 1;
    }
  }
  return winner;
}

/**
 * How clear each pixel's label is: its share in the softmax of all margins and 0 for the background.
 * @param {Logits} logits
 * @param {Letterbox} box
 * @returns {Float32Array} [H, W], in [0, 1]
 */
export function probabilityMap(logits, box) {
  const { classes, height: h } = logits;
  const W = box.width,
    plane = h * W;
  const { margins, rows } = across(logits, box);
  const { taps, first, shares } = rows;
  const clear = new Float32Array(box.height * W);
  const values = new Float64Array(classes);
  for (let y = 0, out = 0; y < box.height; y++) {
    for (let x = 0; x < W; x++, out++) {
      let top = 0;
      for (let n = 0; n < classes; n++) {
        let value = 0;
        for (let t = 0, at = n * plane + first[y] * W + x; t < taps; t++)
          value += shares[y * taps + t] * margins[at + t * W];
        values[n] = value;
        if (value > top) top = value;
      }
      let sum = Math.exp(-top);
      for (let n = 0; n < classes; n++) sum += Math.exp(values[n] - top);
      clear[out] = 1 / sum;
    }
  }
  return clear;
}

/**
 * For each class the mean over its pixels of the probability of their label, in [0, 1]; 0 without pixels.
 * @param {Uint8Array} labels [H, W] of these logits
 * @param {Logits} logits
 * @param {Letterbox} box
 * @returns {number[]}
 */
export function classScores(labels, logits, box) {
  const clear = probabilityMap(logits, box);
  const sums = new Float64Array(logits.classes + 1),
    counts = new Float64Array(logits.classes + 1);
  for (let i = 0; i < labels.length; i++) {
    sums[labels[i]] += clear[i];
    counts[labels[i]]++;
  }
  return Array.from(sums.subarray(1), (sum, n) => (counts[n + 1] ? Math.min(sum / counts[n + 1], 1) : 0));
}
