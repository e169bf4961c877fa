// The strip: all photos, each with its marks or with what the network finds in it.

import { $, icon, make } from "./parts.js";
import { anything, thinned } from "./labels.js";
import { paint, tables } from "./paint.js";

const SIDE = 320;

export class Strip {
  #items = new Map();
  #sight = new Set();

  constructor(store, editor, predictor, trouble) {
    Object.assign(this, { store, editor, predictor, trouble });
    this.list = $("strip-list");
    predictor.inSight = () => this.#inSight();
    this.watch = new IntersectionObserver((entries) => this.#seen(entries), { root: this.list, rootMargin: "0px 200px" });
    store.addEventListener("photos", () => this.#sync());
    store.addEventListener("classes", () => { for (const id of this.#sight) this.#draw(id); });
    store.addEventListener("marks", (event) => this.#draw(event.detail));
    predictor.addEventListener("prediction", (event) => this.#draw(event.detail));
    predictor.addEventListener("working", () => this.#busy());
    editor.addEventListener("photo", () => this.#current());
    this.list.addEventListener("keydown", (event) => this.#keys(event));
  }

  #inSight() {
    const box = this.list.getBoundingClientRect(), middle = box.left + box.width / 2;
    const far = (id) => {
      const own = this.#items.get(id).button.getBoundingClientRect();
      return Math.abs(own.left + own.width / 2 - middle);
    };
    const all = [...this.#sight].filter((id) => this.#items.has(id)).map((id) => [id, far(id)]);
    return all.sort((a, b) => a[1] - b[1]).map(([id]) => id);
  }

  #sync() {
    for (const [id, item] of this.#items) {
      if (this.store.photos.has(id)) continue;
      this.watch.unobserve(item.row);
      item.row.remove();
      this.#items.delete(id);
      this.#sight.delete(id);
    }
    for (const photo of this.store.photos.values()) {
      if (!this.#items.has(photo.id)) this.#add(photo);
      this.#label(photo.id);
    }
    $("strip").hidden = this.store.photos.size === 0;
    for (const id of this.#sight) this.#draw(id);
  }

  #add(photo) {
    const canvas = make("canvas", { width: "1", height: "1", "aria-hidden": "true" });
    const tag = make("span", { class: "tag" });
    const button = make("button", { class: "thumb", onclick: () => this.editor.open(photo.id) }, canvas, tag);
    const remove = make("button", { class: "thumb-remove", "aria-label": `Remove ${photo.name} from the strip`, title: "Remove from the strip", onclick: () => this.#remove(photo.id) }, icon("close"));
    const row = make("li", { class: "thumb-item", "data-id": photo.id }, button, remove);
    this.#items.set(photo.id, { row, button, canvas, tag, image: null, loading: false });
    this.list.append(row);
    this.watch.observe(row);
  }

  async #remove(id) {
    try {
      await this.store.remove(id);
    } catch (error) {
      this.trouble(error);
    }
  }

  #seen(entries) {
    for (const entry of entries) {
      const id = entry.target.dataset.id, item = this.#items.get(id);
      if (!item) continue;
      if (entry.isIntersecting) {
        this.#sight.add(id);
        this.#load(id);
      } else {
        // thousands of pictures at once are more than a phone has memory for
        this.#sight.delete(id);
        item.image?.close();
        item.image = null;
        item.canvas.width = item.canvas.height = 1;
      }
    }
  }

  async #load(id) {
    const item = this.#items.get(id);
    if (item.image || item.loading) return;
    item.loading = true;
    try {
      item.image = await createImageBitmap(await this.store.thumb(this.store.photos.get(id)));
      this.#draw(id);
    } catch (error) {
      item.button.title = error.message;
    } finally {
      item.loading = false;
    }
  }

  async #draw(id) {
    const item = this.#items.get(id), photo = this.store.photos.get(id);
    if (!item || !photo) return;
    this.#label(id);
    if (!this.#sight.has(id) || !item.image) return;
    const { canvas, image } = item;
    let shown = this.predictor.thumbs.get(id);
    if (photo.mark) {
      const labels = await this.store.marks(photo).catch(() => null);
      shown = labels && thinned(labels, photo.width, photo.height, SIDE);
      if (!item.image) return;
    }
    canvas.width = image.width;
    canvas.height = image.height;
    const c = canvas.getContext("2d");
    c.drawImage(image, 0, 0);
    if (!shown) return;
    const over = new OffscreenCanvas(shown.width, shown.height);
    paint(over.getContext("2d"), shown.labels, shown.width, shown.height, tables(this.store.classes));
    c.drawImage(over, 0, 0, canvas.width, canvas.height);
  }

  #label(id) {
    const { button, tag } = this.#items.get(id), photo = this.store.photos.get(id);
    const found = this.predictor.thumbs.get(id), shot = Boolean(photo.mark);
    const what = shot ? "shot" : found ? (anything(found.labels) ? "found" : "nothing found") : "not marked";
    tag.replaceChildren(...(shot ? [icon("check"), "shot"] : what === "nothing found" ? ["nothing"] : []));
    button.setAttribute("aria-label", `${photo.name}, ${what}`);
    button.title = `${photo.name} (${photo.full[0]} x ${photo.full[1]}), ${what}`;
    button.dataset.what = what;
  }

  #busy() {
    const { round, thumbs } = this.predictor;
    for (const [id, { button }] of this.#items) {
      const waits = this.predictor.working && !this.store.photos.get(id)?.mark && thumbs.get(id)?.round !== round;
      button.classList.toggle("working", Boolean(waits));
    }
  }

  #current() {
    const current = this.editor.photo?.id;
    for (const [id, { button, row }] of this.#items) {
      button.setAttribute("aria-current", String(id === current));
      button.tabIndex = id === current || !current ? 0 : -1;
      if (id === current) row.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  /** The photo before or after the one on the stage. @param {number} by */
  step(by) {
    const ids = [...this.store.photos.keys()];
    if (!ids.length) return;
    const at = ids.indexOf(this.editor.photo?.id);
    this.editor.open(ids[(at + by + ids.length) % ids.length]);
  }

  #keys(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    this.step(by);
    this.#items.get(this.editor.photo?.id)?.button.focus();
  }
}
