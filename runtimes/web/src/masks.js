/** Masks of one class as arrays: 1 is the target, 0 the rest, `IGNORE` what counts for nothing. */

import { InputError } from "./errors.js";

// as in PASCAL VOC: borders, and what nobody has marked
export const IGNORE = 255;
const SHOWN = 4;

/**
 * Bring a mask of 0/1, 0/255 or 0/1/255 to 0, 1 and 255 (ignore), and see that it shows something.
 * @param {Uint8Array | Uint8ClampedArray} given [height, width]
 * @param {string} what names the support in messages
 * @returns {Uint8Array} [height, width]
 */
export function normaliseMask(given, what) {
  const there = new Uint8Array(256);
  for (const value of given) there[value] = 1;
  const odd = [...there.keys()].filter((value) => there[value] && value > 1 && value !== IGNORE).slice(0, SHOWN);
  if (odd.length) {
    throw new InputError(
      `${what}: the mask holds the values [${odd.join(", ")}]; only 0, 1 (target) and 255 are allowed.`,
    );
  }
  if (!there[1] && !there[IGNORE]) {
    throw new InputError(`${what}: the mask is empty; mark the target with 1 or 255.`);
  }
  // without a 1, it is black and white
  return there[1] ? Uint8Array.from(given) : Uint8Array.from(given, (value) => (value === IGNORE ? 1 : 0));
}

/**
 * IoU of two masks where neither counts for nothing; 1 where both are empty.
 * @param {Uint8Array} found 0 for the rest
 * @param {Uint8Array} mask 1 on the target, 255 ignored
 */
export function maskIou(found, mask) {
  let both = 0,
    either = 0;
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] === IGNORE) continue;
    const a = found[i] > 0,
      b = mask[i] === 1;
    if (a && b) both++;
    if (a || b) either++;
  }
  return either ? both / either : 1;
}
