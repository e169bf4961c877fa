// The web runtime in this page, as an engine: photos and marks come from the store, and a worker does the work.

import { Outdated } from "./http.js";
import { thinned } from "./labels.js";
import { IGNORE } from "./store.js";

const KEPT_PHOTOS = 24;
const MODULE = new URL("../web/index.js", import.meta.url).href;

/**
 * @typedef {{bundle: string, name: string, ort: string, engine: "auto" | "wasm", precision: string, note?: string | null}} WebSettings
 *   addresses of the folders of the bundle and of onnxruntime-web, and what is to be said of the model
 */

/** The mask of one class: 1 on it, and 255 where pixels are to be ignored. @param {Uint8Array} labels @param {number} number */
export function classMask(labels, number) {
  return labels.map((n) => (n === IGNORE ? IGNORE : n === number ? 1 : 0));
}

/** The classes that have shots, each with its shots, the newest last. @param {import("./store.js").Store} store */
export function plan(store) {
  const photos = [...store.photos.values()];
  const shots = (number) => photos.filter((photo) => photo.mark?.numbers.includes(number)).sort((a, b) => a.mark.order - b.mark.order);
  return store.classes.map((item) => ({ item, shots: shots(item.number) })).filter((one) => one.shots.length);
}

/** @implements {import("./engine.js").Engine} */
export class WebEngine {
  /** @type {import("./engine.js").EngineState} */ state = { state: "loading" };
  #segmenter = null;
  #photos = new Map();
  // by label maps, which are never written to: what was encoded of each
  #shots = new WeakMap();
  #last = null;

  /**
   * @param {import("./store.js").Store} store
   * @param {() => WebSettings | null} settings  asked when the bundle is loaded; null where the server gives none
   * @param {import("./engine.js").Engine | null} helper  does what the web runtime does not: cutting out, and exports
   */
  constructor(store, settings, helper) {
    Object.assign(this, { store, settings, helper });
    this.cuts = helper?.cuts ?? false;
  }

  async load() {
    this.state = await this.#load().catch((error) => ({ state: "failed", error: error.message }));
    return this.state;
  }

  async #load() {
    const settings = this.settings();
    if (!settings) throw new Error("This server has no web runtime to give: start it with --ort FOLDER, or take the native engine.");
    const { WorkerSegmenter } = await import(MODULE);
    const { bundle, ort, engine, precision, note } = settings, here = document.baseURI;
    this.#segmenter = await WorkerSegmenter.load(new URL(bundle, here), { ort: new URL(ort, here), engine, precision });
    return { state: "ready", reason: this.#segmenter.reason, note: note ?? null };
  }

  async encode(store) {
    const classes = [];
    for (const { item, shots } of plan(store)) {
      classes.push({ item, photos: shots.map((photo) => photo.id), encoded: await Promise.all(shots.map((photo) => this.#shot(photo, item))) });
    }
    const same = (a, b) => a.length === b.length && a.every((one, n) => one.item.number === b[n].item.number && one.encoded.length === b[n].encoded.length && one.encoded.every((shot, k) => shot === b[n].encoded[k]));
    if (this.#last && same(this.#last.classes, classes)) return this.#last;
    // several classes are compared by a calibration, which needs all that the scores need
    const scored = classes.length > 1;
    const joined = await this.#join(classes, scored), numbers = new Uint8Array(256);
    classes.forEach(({ item }, n) => { numbers[n + 1] = item.number; });
    return (this.#last = { classes, joined, scored, numbers });
  }

  #join(classes, leaveOneOut) {
    return this.#segmenter.joinShots(classes.map(({ item, encoded }) => [item.name, encoded]), { leaveOneOut });
  }

  async #shot(photo, item) {
    const labels = await this.store.marks(photo);
    if (!labels) throw new Outdated();
    if (!this.#shots.has(labels)) this.#shots.set(labels, new Map());
    const own = this.#shots.get(labels);
    if (!own.has(item.number)) {
      const mask = classMask(labels, item.number);
      const encoding = this.#image(photo).then((image) => this.#segmenter.encodeShot({ image, mask }, item.name));
      own.set(item.number, encoding);
      encoding.catch(() => own.delete(item.number));
    }
    try {
      return await own.get(item.number);
    } catch (error) {
      throw error.name === "InputError" ? new Error(`${photo.name}: ${error.message}`) : error;
    }
  }

  /** The file of a photo at its working size; the worker decodes it. */
  async #image(photo) {
    const found = this.#photos.get(photo.id) ?? this.store.image(photo);
    this.#photos.delete(photo.id);
    this.#photos.set(photo.id, found);
    if (this.#photos.size > KEPT_PHOTOS) this.#photos.delete(this.#photos.keys().next().value);
    found.catch(() => this.#photos.delete(photo.id));
    return found;
  }

  async segment(photo, memories, { side = 0 } = {}) {
    const began = performance.now();
    const { labels, width, height } = await this.#segmenter.segment(await this.#image(photo), memories.joined);
    return this.#numbered(side ? thinned(labels, width, height, side) : { labels, width, height }, memories, began);
  }

  async frame(pixels) {
    const began = performance.now(), memories = this.#last ?? (await this.encode(this.store));
    const { labels, width, height } = await this.#segmenter.segment(pixels, memories.joined);
    return this.#numbered({ labels, width, height }, memories, began);
  }

  #numbered({ labels, width, height }, { numbers }, began) {
    for (let i = 0; i < labels.length; i++) labels[i] = numbers[labels[i]];
    return { labels, width, height, ms: performance.now() - began };
  }

  async leaveOneOut(memories) {
    const joined = memories.scored ? memories.joined : await this.#join(memories.classes, true);
    const found = [];
    for (const [n, { item, photos, encoded }] of memories.classes.entries()) {
      const scores = joined[n].shotScores ?? [];
      let gained = null;
      if (encoded.length > 2) {
        const [alone] = await this.#join([{ item, encoded: encoded.slice(0, -1) }], true);
        const before = alone.shotScores;
        gained = before.reduce((sum, then, k) => sum + scores[k] - then, 0) / before.length;
      }
      found.push({ number: item.number, shots: photos, scores: [...scores], gained });
    }
    return found;
  }

  grabcut(photo, prompt) { return this.helper.grabcut(photo, prompt); }

  async save(kind, predicted) { return this.helper ? this.helper.save(kind, predicted) : (await this.#exports()).save(kind, predicted); }

  async script() { return this.helper ? this.helper.script() : (await this.#exports()).script(); }

  async #exports() {
    const { Exports } = await import("./local/exports.js");
    return new Exports(this.store, this.settings().name, this.#segmenter);
  }
}
