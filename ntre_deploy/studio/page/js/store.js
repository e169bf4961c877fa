// The session: classes, photos and marks as the page has them; what changes goes into the outbox and to the server.

import { Offline, Outdated, Refused, ask, labelsOf } from "./http.js";
import { Outbox } from "./outbox.js";
import { presentNumbers } from "./labels.js";

/**
 * @typedef {{number: number, name: string, colour: string}} StudioClass
 * @typedef {{id: string, name: string, width: number, height: number, full: number[], mark: {order: number, digest: string, numbers: number[]} | null, labels?: Uint8Array, blob?: Blob}} Photo
 *   `mark` tells whether it is a shot; `labels` are its marks where they were read; `blob` of a photo not sent yet
 */

export const IGNORE = 255;
const RETRY = 1500;

/** Events: `classes`, `photos`, `marks` (detail: photo id), `connection`, `engine`, `trouble` (detail: text). */
export class Store extends EventTarget {
  /** @type {StudioClass[]} */ classes = [];
  /** @type {Map<string, Photo>} */ photos = new Map();
  online = true;
  /** @type {import("./engine.js").Engine | null} */ engine = null;
  #revision = 0;
  #orders = 0;
  #sending = null;

  #tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  /** The first load; throws what `ask` throws. */
  async open() {
    const state = await (await ask("GET", "state")).json();
    this.outbox = new Outbox(state.id);
    this.#take(state);
    const left = await this.outbox.left();
    for (const entry of left) this.#apply(entry);
    if (left.length) this.#send();
    return state;
  }

  #take(state) {
    this.state = state;
    state.engine = this.engine?.state ?? state.engine;
    this.#revision = state.revision;
    if (!this.outbox.memory.has("classes")) this.classes = state.classes;
    const before = this.photos;
    this.photos = new Map();
    for (const photo of state.photos) {
      const known = before.get(photo.id);
      if (known && (this.outbox.memory.has(`marks/${photo.id}`) || known.mark?.digest === photo.mark?.digest)) {
        photo.labels = known.labels;
        photo.mark = known.mark && { ...known.mark, digest: photo.mark?.digest ?? known.mark.digest };
      }
      this.photos.set(photo.id, photo);
    }
    for (const [id, photo] of before) if (photo.blob && !this.photos.has(id)) this.photos.set(id, photo);
    this.#orders = Math.max(0, ...[...this.photos.values()].map((photo) => photo.mark?.order ?? 0));
    for (const name of ["classes", "photos", "engine"]) this.#tell(name);
  }

  #apply(entry) {
    if (entry.key === "classes") this.classes = entry.classes;
    else if (entry.kind === "marks" && this.photos.has(entry.id)) this.#setMarks(entry.id, entry.labels);
    else if (entry.kind === "photo") this.photos.set(entry.id, { ...entry.photo, blob: entry.blob });
    this.#tell("classes");
    this.#tell("photos");
  }

  #setMarks(id, labels) {
    const photo = this.photos.get(id), numbers = presentNumbers(labels);
    photo.labels = labels;
    const marked = numbers.size > 0;
    const order = photo.mark?.order ?? this.#orders + 1;
    if (marked) this.#orders = Math.max(this.#orders, order);
    photo.mark = marked ? { order, digest: "", numbers: [...numbers].filter((n) => n !== IGNORE) } : null;
  }

  /** @param {StudioClass[]} classes */
  setClasses(classes) {
    const gone = this.classes.filter((c) => !classes.some((d) => d.number === c.number)).map((c) => c.number);
    this.classes = classes;
    this.#queue("classes", { classes });
    // the server does the same with what it has
    for (const photo of this.photos.values()) {
      if (!photo.mark?.numbers.some((n) => gone.includes(n))) continue;
      photo.mark = { ...photo.mark, numbers: photo.mark.numbers.filter((n) => !gone.includes(n)) };
      photo.labels = photo.labels?.map((n) => (gone.includes(n) ? 0 : n));
      if (!photo.mark.numbers.length) photo.mark = null;
      this.#tell("marks", photo.id);
    }
    this.#tell("classes");
  }

  /** Keep the marks of a photo; all zeros unmark it. @param {string} id @param {Uint8Array} labels */
  setMarks(id, labels) {
    this.#setMarks(id, labels);
    this.#queue(`marks/${id}`, { kind: "marks", id, labels });
    this.#tell("marks", id);
  }

  /** The marks of a photo, or null. @param {Photo} photo */
  async marks(photo) {
    if (!photo.mark) return null;
    // a class that was deleted is still in what the server has
    if (!photo.labels && this.#sending) await this.#sending;
    photo.labels ??= (await labelsOf(await ask("GET", `photos/${photo.id}/marks`))).labels;
    return photo.labels;
  }

  /** Add a file; resolves to its photo. @param {string} name @param {Blob} blob @returns {Promise<Photo>} */
  async add(name, blob) {
    try {
      const answer = await ask("POST", `photos?name=${encodeURIComponent(name)}`, { body: blob });
      const { photo } = await answer.json();
      this.#online(true);
      if (!this.photos.has(photo.id)) this.photos.set(photo.id, photo);
      this.#tell("photos");
      return this.photos.get(photo.id);
    } catch (error) {
      if (!(error instanceof Offline)) throw error;
      this.#online(false);
      const kept = await this.outbox.put(`photo/${name}-${blob.size}`, { kind: "photo", name, blob });
      this.#tell("trouble", `${name} is kept in this browser until the server is back.`);
      this.#retry();
      throw error;
    }
  }

  /** @param {string} id */
  async remove(id) {
    await ask("DELETE", `photos/${id}`);
    const marked = this.photos.get(id)?.mark;
    this.photos.delete(id);
    await this.outbox.done(this.outbox.memory.get(`marks/${id}`) ?? { key: "" });
    this.#tell("photos");
    if (marked) {
      await this.refresh();
      this.#tell("marks", id);
    }
  }

  /** @param {Photo} photo */
  async image(photo) { return (await ask("GET", `photos/${photo.id}/image`)).blob(); }
  /** The file that came in, of a session in this browser. @param {Photo} photo */
  async file(photo) { return (await ask("GET", `photos/${photo.id}/file`)).blob(); }
  /** @param {Photo} photo */
  async thumb(photo) { return (await ask("GET", `photos/${photo.id}/thumb`)).blob(); }

  /** Remove everything; of a session in this browser. */
  async forget() {
    await this.settled();
    await ask("DELETE", "state");
  }

  /** Take what the server has, such as after another page has changed it. */
  async refresh() { this.#take(await (await ask("GET", "state")).json()); }

  /** The revision of the session once all changes have reached the server. @returns {Promise<number>} */
  async settled() {
    while (this.#sending) await this.#sending;
    if (!this.outbox.empty) throw new Offline();
    return this.#revision;
  }

  get pending() { return this.outbox ? this.outbox.memory.size : 0; }

  #queue(key, entry) {
    // in memory at once, so that `settled` waits for it
    const kept = this.outbox.put(key, entry);
    kept.catch(() => {});
    this.#send();
  }

  #send() {
    this.#sending ??= this.#drain().finally(() => {
      this.#sending = null;
      if (!this.outbox.empty && this.online) this.#send();
    });
  }

  async #drain() {
    for (;;) {
      const entry = [...this.outbox.memory.values()].sort((a, b) => a.stamp - b.stamp)[0];
      if (!entry) return;
      try {
        await this.#deliver(entry);
        // in memory it is done at once; the disk takes its time
        this.outbox.done(entry);
        this.#online(true);
      } catch (error) {
        if (error instanceof Offline) {
          this.#online(false);
          this.#retry();
          return;
        }
        // what the server will never take must not stand before the rest
        if (error instanceof Refused && error.status !== 401) {
          await this.outbox.done(entry);
          this.#tell("trouble", error.message);
          await this.refresh().catch(() => {});
        } else if (!(error instanceof Outdated)) {
          this.#tell("trouble", error.message);
          return;
        }
      }
    }
  }

  async #deliver(entry) {
    let answer;
    if (entry.key === "classes") answer = await ask("PUT", "classes", { json: entry.classes });
    else if (entry.kind === "marks") answer = await ask("PUT", `photos/${entry.id}/marks`, { body: entry.labels });
    else {
      answer = await ask("POST", `photos?name=${encodeURIComponent(entry.name)}`, { body: entry.blob });
      const { photo } = await answer.json();
      this.photos.set(photo.id, photo);
      this.#tell("photos");
      return;
    }
    this.#revision = (await answer.json()).revision;
  }

  #online(is) {
    if (this.online === is) return;
    this.online = is;
    this.#tell("connection");
  }

  /** Look every now and then whether the server is back. */
  #retry() {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      try {
        const state = await (await ask("GET", "state")).json();
        this.#take(state);
        this.#online(true);
        this.#send();
        this.#tell("back");
      } catch (error) {
        if (error instanceof Offline) this.#retry();
        else this.#tell("trouble", error.message);
      }
    }, RETRY);
  }

  /** Something else has seen that the server does not answer. */
  lost() {
    this.#online(false);
    this.#retry();
  }
}
