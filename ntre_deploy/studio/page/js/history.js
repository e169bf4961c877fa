// Undo and redo, photo by photo: what a step has changed, and whether the photo was a shot before.

const MOST_BYTES = 96_000_000;

/**
 * @typedef {object} Step
 * @property {import("./labels.js").Rect} rect @property {Uint8Array} before @property {Uint8Array} after
 * @property {boolean} first  the photo was no shot before
 */

export class History {
  /** @type {Map<string, {done: Step[], undone: Step[]}>} */ #photos = new Map();

  #of(id) {
    if (!this.#photos.has(id)) this.#photos.set(id, { done: [], undone: [] });
    return this.#photos.get(id);
  }

  /** @param {string} id @param {Step} step */
  push(id, step) {
    const { done, undone } = this.#of(id);
    done.push(step);
    undone.length = 0;
    let size = 0;
    for (let n = done.length - 1; n >= 0; n--) {
      size += done[n].before.length + done[n].after.length;
      if (size > MOST_BYTES && n < done.length - 1) {
        done.splice(0, n + 1);
        break;
      }
    }
  }

  /** @param {string} id @returns {Step | undefined} */
  undo(id) {
    const { done, undone } = this.#of(id), step = done.pop();
    if (step) undone.push(step);
    return step;
  }

  /** @param {string} id @returns {Step | undefined} */
  redo(id) {
    const { done, undone } = this.#of(id), step = undone.pop();
    if (step) done.push(step);
    return step;
  }

  /** @param {string} id */
  can(id) {
    const found = this.#photos.get(id);
    return { undo: Boolean(found?.done.length), redo: Boolean(found?.undone.length) };
  }

  /** Steps hold numbers of classes, which a deleted class takes with it. */
  clear() { this.#photos.clear(); }
}
