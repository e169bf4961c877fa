/**
 * Pre-processing, as Python's `runtime.letterbox`: the image is scaled to fit the square input with its aspect ratio
 * kept,
 * put at the top left, and the rest is filled with the mean colour.
 */

import { nearestExact, resizeArea, resizeLinear, roundHalfEven } from "./resize.js";

/** @typedef {import("./resize.js").Pixels} Pixels */

/**
 * @typedef {object} InputSpec what the network takes: RGB, (pixel - mean) / std with pixels in 0..255
 * @property {number} size side of the square input in pixels
 * @property {number[]} mean
 * @property {number[]} std
 */

/**
 * @typedef {object} Letterbox where an image of `height` x `width` pixels lies in the square input of `size` pixels
 * @property {number} size
 * @property {number} height
 * @property {number} width
 * @property {number} innerHeight
 * @property {number} innerWidth
 */

// below this factor, bilinear sampling skips pixels and aliases
const AREA_BELOW = 0.5;

/**
 * The largest fit with the aspect ratio kept; a side never falls below one pixel.
 * @param {number} height
 * @param {number} width
 * @param {number} size
 * @returns {Letterbox}
 */
export function fitLetterbox(height, width, size) {
  const longer = Math.max(height, width);
  /** @param {number} side */
  const inner = (side) => Math.max(1, roundHalfEven((side * size) / longer));
  return { size, height, width, innerHeight: inner(height), innerWidth: inner(width) };
}

/**
 * Letterbox and normalise one image.
 * @param {Pixels} image
 * @param {InputSpec} spec
 * @returns {{ pixels: Float32Array, box: Letterbox }} pixels [3, size, size], zero (the mean colour) outside the image
 */
export function prepareImage(image, spec) {
  const { size } = spec;
  const box = fitLetterbox(image.height, image.width, size);
  const resize = size / Math.max(image.height, image.width) < AREA_BELOW ? resizeArea : resizeLinear;
  const small = resize(image, box.innerWidth, box.innerHeight);
  const pixels = new Float32Array(3 * size * size);
  for (let c = 0; c < 3; c++) {
    const mean = Math.fround(spec.mean[c]),
      scale = Math.fround(1 / spec.std[c]);
    const levels = Float32Array.from({ length: 256 }, (_, level) => Math.fround(level - mean) * scale);
    for (let y = 0, at = c; y < box.innerHeight; y++) {
      for (let x = 0, o = (c * size + y) * size; x < box.innerWidth; x++, at += 3) pixels[o++] = levels[small[at]];
    }
  }
  return { pixels, box };
}

/**
 * Letterbox a support mask.
 * @param {Uint8Array} mask [height, width]: 1 is the target, anything else is not
 * @param {Letterbox} box of its image
 * @returns {Float32Array} [size, size] of 0 and 1
 */
export function prepareMask(mask, box) {
  const rows = nearestExact(box.innerHeight, box.height),
    columns = nearestExact(box.innerWidth, box.width);
  const out = new Float32Array(box.size * box.size);
  for (let y = 0; y < box.innerHeight; y++) {
    for (let x = 0; x < box.innerWidth; x++)
      out[y * box.size + x] = mask[rows[y] * box.width + columns[x]] === 1 ? 1 : 0;
  }
  return out;
}
