// The photo that is being marked: its label map, what the tools do to it, undo and redo.

import { History } from "./history.js";
import { anything, crop, difference, paste, presentNumbers } from "./labels.js";
import { classColour, tables } from "./paint.js";
import { IGNORE } from "./store.js";

const KEPT_IMAGES = 6;

/** Events: `photo` (another one is shown), `edit` (its marks, history or prediction have changed), `busy` (detail: text or null), `trouble`. */
export class Editor extends EventTarget {
  /** @type {import("./store.js").Photo | null} */ photo = null;
  /** @type {Uint8Array | null} the marks, or null where the photo is no shot */ marks = null;
  /** @type {Uint8Array | null} */ prediction = null;
  /** the number that tools write */ active = 1;
  erasing = false;
  #history = new History();
  #images = new Map();
  #ticket = 0;

  /** @param {import("./store.js").Store} store @param {import("./view.js").View} view */
  constructor(store, view) {
    super();
    this.store = store;
    this.view = view;
    this.colours = tables([]);
    store.addEventListener("classes", () => this.#recolour());
    store.addEventListener("photos", () => this.#photosChanged());
  }

  #tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  #recolour() {
    this.colours = tables(this.store.classes);
    const known = this.store.classes.some((c) => c.number === this.active) || this.active === IGNORE;
    if (!known) this.active = this.store.classes[0]?.number ?? 1;
    this.marks = this.#known(this.marks);
    this.prediction = this.#known(this.prediction);
    this.#paint();
    this.#tell("edit");
  }

  /** A label map without classes that are gone. */
  #known(labels) {
    if (!labels) return labels;
    const numbers = presentNumbers(labels), there = new Set([IGNORE, ...this.store.classes.map((c) => c.number)]);
    const gone = [...numbers].filter((n) => !there.has(n));
    if (!gone.length) return labels;
    return gone.length === numbers.size ? null : labels.map((n) => (gone.includes(n) ? 0 : n));
  }

  #photosChanged() {
    if (!this.photo) return;
    const now = this.store.photos.get(this.photo.id);
    if (!now) this.open(null);
    else this.photo = now;
  }

  /** Show a photo. @param {string | null} id */
  async open(id) {
    const ticket = ++this.#ticket, photo = id === null ? null : this.store.photos.get(id) ?? null;
    this.photo = photo;
    this.marks = this.prediction = null;
    if (!photo) {
      this.view.show(null, 0, 0);
      this.#tell("photo");
      return;
    }
    this.#tell("photo");
    const slow = setTimeout(() => ticket === this.#ticket && this.#tell("busy", "Loading the photo"), 250);
    try {
      const [image, marks] = await Promise.all([this.#image(photo), this.store.marks(photo)]);
      if (ticket !== this.#ticket) return;
      this.view.show(image, photo.width, photo.height);
      this.marks ??= marks && marks.slice();
      this.ready = photo.id;
      this.#paint();
      this.#tell("edit");
    } catch (error) {
      if (ticket === this.#ticket) this.#tell("trouble", error);
    } finally {
      clearTimeout(slow);
      if (ticket === this.#ticket) this.#tell("busy", null);
    }
  }

  async #image(photo) {
    let image = this.#images.get(photo.id);
    if (!image) image = await createImageBitmap(await this.store.image(photo));
    this.#images.delete(photo.id);
    this.#images.set(photo.id, image);
    for (const [id, old] of this.#images) {
      if (this.#images.size <= KEPT_IMAGES) break;
      this.#images.delete(id);
      old.close();
    }
    return image;
  }

  /** What the network finds in the photo; shown while it is no shot. */
  predicted(id, labels) {
    if (this.photo?.id !== id) return;
    this.prediction = labels;
    if (!this.marks) this.#paint();
    this.#tell("edit");
  }

  /** What is shown: marks, else the prediction. */
  get shown() { return this.marks ?? this.prediction; }

  get #size() { return this.photo.width * this.photo.height; }

  /** What an edit begins with: the marks, the prediction, or nothing. */
  start() { return this.shown ? this.shown.slice() : new Uint8Array(this.#size); }

  /** The class that is marked, made where there is none yet. */
  ensureClass() {
    if (this.active === IGNORE || this.store.classes.some((c) => c.number === this.active)) return;
    this.active = 1;
    this.store.setClasses([{ number: 1, name: "object", colour: classColour(1) }]);
  }

  get value() { return this.erasing ? 0 : this.active; }

  /** While a stroke goes on: paint what it has changed. */
  preview(labels, rect) { this.view.marks(labels, this.colours, rect); }

  /** Show what is kept again. */
  revert() { this.#paint(); }

  /** Take a label map as the photo's marks; one step of the history. @param {Uint8Array} labels */
  commit(labels) {
    const { id, width, height } = this.photo, first = !this.marks;
    const before = this.marks ?? new Uint8Array(this.#size), shown = this.shown;
    const rect = difference(before, labels, width, height);
    if (!rect) {
      this.#paint();
      return;
    }
    this.#history.push(id, { rect, before: crop(before, width, rect), after: crop(labels, width, rect), first });
    // of a prediction that was corrected, little is to be painted anew
    this.#set(labels, shown === this.marks ? rect : difference(shown ?? before, labels, width, height));
  }

  /** Take the prediction as it is. */
  accept() { if (!this.marks && this.prediction && anything(this.prediction)) this.commit(this.prediction.slice()); }

  /** Take all marks away; of a photo that is no shot, hide the prediction until something is marked. */
  clear() {
    if (!this.photo) return;
    if (this.marks) this.commit(new Uint8Array(this.#size));
    else {
      this.prediction = null;
      this.#paint();
      this.#tell("edit");
    }
  }

  /** @param {import("./labels.js").Rect | null} [rect] where it differs from what is shown; all of it without */
  #set(labels, rect) {
    const marked = anything(labels), painted = marked && rect !== undefined;
    this.marks = marked ? labels : null;
    // what is kept and sent is never written to again: an edit begins with a copy
    this.store.setMarks(this.photo.id, labels);
    if (!painted) this.#paint();
    else if (rect) this.view.marks(labels, this.colours, rect);
    this.#tell("edit");
  }

  undo() { this.#step(this.photo && this.#history.undo(this.photo.id), "before"); }
  redo() { this.#step(this.photo && this.#history.redo(this.photo.id), "after"); }

  #step(step, side) {
    if (!step) return;
    const labels = this.marks ? this.marks.slice() : new Uint8Array(this.#size);
    const whole = !this.marks;
    paste(labels, this.photo.width, step.rect, step[side]);
    this.#set(labels, whole ? undefined : step.rect);
    this.#tell("undone");
  }

  get can() { return this.photo ? this.#history.can(this.photo.id) : { undo: false, redo: false }; }

  forget() { this.#history.clear(); }

  #paint() { if (this.photo) this.view.marks(this.shown, this.colours); }
}
