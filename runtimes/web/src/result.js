/** What was found in one image. */

import { InputError } from "./errors.js";
import { classScores, probabilityMap } from "./labels.js";

/** @typedef {import("./labels.js").Logits} Logits */
/** @typedef {import("./letterbox.js").Letterbox} Letterbox */

/**
 * @typedef {object} ResultFields
 * @property {Uint8Array} labels
 * @property {string[]} names
 * @property {Logits} logits
 * @property {Letterbox} box
 * @property {number[] | null} [scores]
 */

/** The label map of an image, with scores and more computed when they are asked for first. */
export class Result {
  /** @type {number[] | null} */
  #scores;
  /** @type {number[] | null} */
  #areas = null;

  /** @param {ResultFields} fields */
  constructor({ labels, names, logits, box, scores = null }) {
    /** [height, width]: 0 background, n the n-th class */
    this.labels = labels;
    this.width = box.width;
    this.height = box.height;
    /** of the classes */
    this.names = names;
    /** at feature resolution, calibrated */
    this.logits = logits;
    /** geometry that the logits belong to */
    this.box = box;
    this.#scores = scores;
  }

  /** For each class the mean probability over its pixels, in [0, 1]; 0 without any. */
  get scores() {
    return (this.#scores ??= classScores(this.labels, this.logits, this.box));
  }

  /** Number of pixels of each class. */
  get areas() {
    if (!this.#areas) {
      const counts = new Uint32Array(256);
      for (const label of this.labels) counts[label]++;
      this.#areas = Array.from(counts.subarray(1, this.names.length + 1));
    }
    return this.#areas;
  }

  /**
   * [height, width] of 0 and 1: the pixels of one class, by its name or its number from 1 on.
   * @param {string | number} name
   * @throws {InputError} there is no such class
   */
  mask(name) {
    const number = typeof name === "string" ? this.names.indexOf(name) + 1 : name;
    if (!Number.isInteger(number) || number < 1 || number > this.names.length) {
      throw new InputError(`There is no class '${name}'; there is ${this.names.join(", ")}.`);
    }
    return Uint8Array.from(this.labels, (label) => (label === number ? 1 : 0));
  }

  /**
   * float32 [height, width], in [0, 1]: how clear each pixel's label is, its share in the softmax of all margins and 0.
   */
  probabilities() {
    return probabilityMap(this.logits, this.box);
  }
}
