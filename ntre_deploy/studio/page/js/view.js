// The photo on the stage: zoom, pan, the label map over it, and what a tool draws on top.

import { paint } from "./paint.js";
import { breath } from "./parts.js";

// pixels that are painted at once
const BAND = 300_000;
const MOST_ZOOM = 24, MARGIN = 24;

export class View {
  scale = 1;
  x = 0;
  y = 0;
  width = 0;
  height = 0;
  /** What a tool draws, in pixels of the stage. @type {(context: CanvasRenderingContext2D, view: View) => void} */
  above = () => {};
  #image = null;
  #overlay = new OffscreenCanvas(1, 1);
  #pending = 0;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.#paper = this.#overlay.getContext("2d");
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }
  #paper;

  /** @param {CanvasImageSource | null} image @param {number} width @param {number} height of its label map */
  show(image, width, height) {
    this.#ticket++;
    const other = width !== this.width || height !== this.height || !this.#image;
    this.#image = image;
    this.width = width;
    this.height = height;
    this.#overlay.width = Math.max(1, width);
    this.#overlay.height = Math.max(1, height);
    if (other || !image) this.fit();
    this.draw();
  }

  /** Paint the label map, or the part of it that has changed; null takes it away. */
  marks(labels, colours, rect) {
    const { width, height } = this;
    this.#labels = labels;
    if (labels && rect) paint(this.#paper, labels, width, height, colours, rect);
    else {
      this.#ticket++;
      if (!labels) this.#paper.clearRect(0, 0, width, height);
      else this.#bands(colours, this.#ticket);
    }
    this.draw();
  }

  /** All of a label map, some rows at a time, so that the page answers in between. */
  async #bands(colours, ticket) {
    const { width, height } = this, rows = Math.max(16, Math.ceil(BAND / width));
    for (let y = 0; y < height; y += rows) {
      if (y) await breath();
      if (ticket !== this.#ticket) return;
      // an edit in between has put a newer map there
      paint(this.#paper, this.#labels, width, height, colours, { x: 0, y, width, height: Math.min(rows, height - y) });
      this.draw();
    }
  }
  #ticket = 0;
  #labels = null;

  fit() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    if (!this.width || !w) return;
    this.scale = this.#fitting();
    this.x = (w - this.width * this.scale) / 2;
    this.y = (h - this.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  #fitting() {
    const { clientWidth: w, clientHeight: h } = this.canvas, margin = Math.min(MARGIN, w / 30);
    return Math.min((w - 2 * margin) / this.width, (h - 2 * margin - 40) / this.height, 8);
  }

  /** Zoom so that the point of the stage stays where it is. */
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    if (!this.width) return;
    const scale = Math.min(MOST_ZOOM, Math.max(this.#fitting() / 3, this.scale * factor));
    const by = scale / this.scale;
    this.x = x - (x - this.x) * by;
    this.y = y - (y - this.y) * by;
    this.scale = scale;
    this.#kept();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#kept();
  }

  /** A part of the photo stays on the stage. */
  #kept() {
    const { clientWidth: w, clientHeight: h } = this.canvas, least = 60;
    this.x = Math.min(w - least, Math.max(least - this.width * this.scale, this.x));
    this.y = Math.min(h - least, Math.max(least - this.height * this.scale, this.y));
    this.fitted = false;
    this.draw();
  }

  /** A point of the photo, in its pixels, from an event. @param {PointerEvent | WheelEvent} event */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left - this.x) / this.scale, y: (event.clientY - box.top - this.y) / this.scale };
  }

  draw() { this.#pending ||= requestAnimationFrame(() => { this.#pending = 0; this.#paint(); }); }

  #resize() {
    const sharp = devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = this.canvas;
    this.canvas.width = Math.round(w * sharp);
    this.canvas.height = Math.round(h * sharp);
    if (this.fitted || this.fitted === undefined) this.fit();
    this.#paint();
  }

  #paint() {
    const c = this.context, sharp = devicePixelRatio || 1;
    // where the photo lies, for programs that look at the page
    this.canvas.dataset.place = [this.x, this.y, this.scale].map((v) => v.toFixed(3)).join(" ");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.setTransform(sharp, 0, 0, sharp, 0, 0);
    if (this.#image) {
      const at = [this.x, this.y, this.width * this.scale, this.height * this.scale];
      c.imageSmoothingEnabled = this.scale < 3;
      c.imageSmoothingQuality = "high";
      c.drawImage(this.#image, ...at);
      c.drawImage(this.#overlay, ...at);
    }
    this.above(c, this);
  }
}
