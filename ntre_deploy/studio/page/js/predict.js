// What the network finds in the photos that are no shots: the one on the stage first, then those in sight, then the rest.

import { Offline, Outdated } from "./http.js";
import { thinned } from "./labels.js";

const SIDE = 320, AT_ONCE = 2;

/** Events: `prediction` (detail: photo id), `scores`, `working` (detail: number of photos left), `trouble`, `timing`. */
export class Predictor extends EventTarget {
  /** @type {Map<string, {labels: Uint8Array, width: number, height: number, round: number}>} */ thumbs = new Map();
  /** @type {Map<number, import("./engine.js").ClassScore>} */ scores = new Map();
  round = 0;
  /** ids of photos in sight, the nearest first @type {() => string[]} */ inSight = () => [];
  #again = false;
  #running = false;

  /** @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {import("./engine.js").Engine} engine */
  constructor(store, editor, engine) {
    super();
    Object.assign(this, { store, editor, engine });
    store.addEventListener("marks", () => this.start());
    store.addEventListener("back", () => this.start());
    editor.addEventListener("photo", () => this.current());
  }

  #tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  get #shots() { return [...this.store.photos.values()].some((photo) => photo.mark?.numbers.length); }

  /** Begin anew: the marks have changed. */
  start() {
    this.round++;
    this.began = performance.now();
    this.#again = true;
    this.#run();
  }

  /** The photo on the stage is another one. */
  current() { this.#run(); }

  async #run() {
    this.#again = true;
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#again) {
        this.#again = false;
        await this.#pass(this.round);
      }
    } finally {
      this.#running = false;
      this.#tell("working", 0);
    }
  }

  async #pass(round) {
    if (this.store.state?.engine?.state !== "ready" && !this.ready) return;
    if (!this.#shots) {
      this.thumbs.clear();
      this.scores.clear();
      this.scored = round;
      this.editor.predicted(this.editor.photo?.id, null);
      this.#tell("scores");
      for (const id of this.store.photos.keys()) this.#tell("prediction", id);
      return;
    }
    try {
      const memories = await this.engine.encode(this.store);
      await this.#stage(memories);
      const wanted = () => this.#order().filter((id) => this.thumbs.get(id)?.round !== round && !this.store.photos.get(id).mark);
      const failed = new Set();
      const lane = async () => {
        for (;;) {
          const id = wanted().find((one) => !failed.has(one) && !this.#asked.has(one));
          if (!id || this.#again || round !== this.round) return;
          this.#asked.add(id);
          this.#tell("working", wanted().length);
          try {
            const found = await this.engine.segment(this.store.photos.get(id), memories, { side: SIDE });
            this.thumbs.set(id, { ...found, round });
            this.#tell("prediction", id);
          } catch (error) {
            if (error instanceof Offline || error instanceof Outdated) throw error;
            failed.add(id);
            this.#tell("trouble", error);
          } finally {
            this.#asked.delete(id);
          }
        }
      };
      const lanes = await Promise.allSettled(Array.from({ length: AT_ONCE }, lane));
      const broken = lanes.find((one) => one.status === "rejected");
      if (broken) throw broken.reason;
      if (this.#again || this.scored === round) return;
      const scores = await this.engine.leaveOneOut(memories);
      this.scores = new Map(scores.map((score) => [score.number, score]));
      this.scored = round;
      this.#tell("scores");
    } catch (error) {
      if (error instanceof Offline) this.store.lost();
      else if (error instanceof Outdated) {
        // another page has changed the session
        if (round === this.round && !this.#again) {
          await this.store.refresh().catch(() => {});
          this.#again = true;
        }
      } else this.#tell("trouble", error);
    }
  }
  #asked = new Set();

  /** The photo on the stage, at its full working size. */
  async #stage(memories) {
    const photo = this.editor.photo, round = this.round;
    if (!photo || photo.mark || (this.staged?.id === photo.id && this.staged.round === round && this.editor.prediction)) return;
    const found = await this.engine.segment(photo, memories, { now: true });
    this.staged = { id: photo.id, round };
    this.thumbs.set(photo.id, { ...thinned(found.labels, found.width, found.height, SIDE), round, ms: found.ms });
    this.#tell("prediction", photo.id);
    this.editor.predicted(photo.id, found.labels);
  }

  #order() {
    const near = this.inSight().filter((id) => this.store.photos.has(id));
    const rest = [...this.store.photos.keys()].filter((id) => !near.includes(id));
    return [...near, ...rest];
  }
}
