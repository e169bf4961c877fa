// What the pointer does on the stage: box, clicks, brush, polygon and hand; two fingers and the wheel zoom.

import { clipped, fill } from "./labels.js";
import { Offline } from "./http.js";

const SMALL = 5, NEAR = 12;

// `cuts` tells those that need an engine which cuts out
export const TOOLS = [
  { id: "box", key: "B", name: "Box", cuts: true, says: "Draw a box around the object" },
  { id: "points", key: "P", name: "Clicks", cuts: true, says: "Click on the object; Alt or right click beside it" },
  { id: "brush", key: "R", name: "Brush", says: "Paint the object" },
  { id: "polygon", key: "L", name: "Polygon", says: "Click along the outline; close it at its first corner, with a double click or with Enter" },
  { id: "pan", key: "H", name: "Move", says: "Drag the photo" },
];

/** Events: `tool`, `busy` (detail: text or null), `trouble` (detail: error), `size`. */
export class Tools extends EventTarget {
  size = 28;
  #pointers = new Map();
  #drag = null;
  #cursor = null;
  #corners = [];
  #clicks = null;
  #held = false;
  #ticket = 0;

  /** @param {import("./editor.js").Editor} editor @param {import("./view.js").View} view @param {import("./engine.js").Engine} engine */
  constructor(editor, view, engine) {
    super();
    Object.assign(this, { editor, view, engine });
    /** those that this engine has, the first one chosen */
    this.all = TOOLS.filter((tool) => engine.cuts || !tool.cuts);
    this.tool = this.all[0].id;
    const canvas = view.canvas;
    view.above = (context) => this.#above(context);
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => { this.#cursor = null; view.draw(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.finish());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    editor.addEventListener("photo", () => this.cancel());
    editor.addEventListener("undone", () => this.cancel());
  }

  #tell(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  choose(tool) {
    this.cancel();
    this.tool = tool;
    this.#tell("tool");
    this.view.draw();
  }

  setSize(size) {
    this.size = Math.round(Math.min(240, Math.max(2, size)));
    this.#tell("size");
    this.view.draw();
  }

  /** Give up what is not finished. */
  cancel() {
    if (this.#drag?.labels) this.editor.revert();
    this.#drag = null;
    this.#corners = [];
    this.#clicks = null;
    this.#ticket++;
    this.#tell("busy", null);
    this.view.draw();
  }

  /** Whether something is not finished. */
  get open() { return this.#corners.length > 0 || this.#clicks !== null || this.#drag !== null; }

  /** Close the polygon, or begin with new clicks. */
  finish() {
    if (this.tool === "polygon" && this.#corners.length > 2) this.#fillPolygon();
    this.#clicks = null;
    this.view.draw();
  }

  /** The last corner of a polygon goes, or the last step. */
  undo() {
    if (this.#corners.pop()) this.view.draw();
    else this.editor.undo();
  }

  /** While the space bar is held, the pointer moves the photo. */
  hold(is) {
    this.#held = is;
    this.#shape();
  }

  get #panning() { return this.#held || this.tool === "pan"; }

  #shape() {
    const drawn = this.editor.photo && !this.#panning;
    this.view.canvas.style.cursor = !this.editor.photo ? "default" : drawn ? (this.tool === "brush" ? "none" : "crosshair") : "grab";
  }

  #wheel(event) {
    event.preventDefault();
    if (event.shiftKey) this.view.pan(-(event.deltaX || event.deltaY), 0);
    else {
      const box = this.view.canvas.getBoundingClientRect();
      const lines = event.deltaMode === 1 ? 16 : 1;
      this.view.zoom(Math.exp(-event.deltaY * lines * 0.0016), event.clientX - box.left, event.clientY - box.top);
    }
  }

  #down(event) {
    const { view, editor } = this;
    view.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.#pointers.size === 2) {
      // two fingers mean the photo, and not what the first of them has begun
      if (this.#drag?.labels) editor.revert();
      this.#drag = { kind: "pinch" };
      return;
    }
    if (!editor.photo || editor.ready !== editor.photo.id || this.#pointers.size > 1) return;
    if (event.button === 1 || this.#panning) {
      this.#drag = { kind: "pan" };
      view.canvas.style.cursor = "grabbing";
      return;
    }
    const at = view.at(event);
    if (this.tool === "box" && event.button === 0) this.#drag = { kind: "box", from: at, to: at };
    else if (this.tool === "brush" && event.button === 0) {
      editor.ensureClass();
      this.#drag = { kind: "brush", labels: editor.start(), last: at };
      this.#stroke([at]);
    } else if (this.tool === "points") this.#drag = { kind: "click", beside: event.altKey || event.button === 2 || editor.erasing, from: at };
    else if (this.tool === "polygon" && event.button === 0) this.#drag = { kind: "corner" };
  }

  #move(event) {
    const { view } = this, known = this.#pointers.get(event.pointerId);
    this.#cursor = view.at(event);
    if (!known) this.#shape();
    if (!known || !this.#drag) {
      view.draw();
      return;
    }
    const before = { ...known };
    Object.assign(known, { x: event.clientX, y: event.clientY });
    const dx = known.x - before.x, dy = known.y - before.y, drag = this.#drag;
    if (drag.kind === "pan") view.pan(dx, dy);
    else if (drag.kind === "pinch" && this.#pointers.size === 2) {
      const [a, b] = [...this.#pointers.values()], box = view.canvas.getBoundingClientRect();
      const other = known === a ? b : a;
      const was = Math.hypot(before.x - other.x, before.y - other.y), is = Math.hypot(known.x - other.x, known.y - other.y);
      view.pan(dx / 2, dy / 2);
      if (was > 0) view.zoom(is / was, (a.x + b.x) / 2 - box.left, (a.y + b.y) / 2 - box.top);
    } else if (drag.kind === "box") drag.to = this.#cursor;
    else if (drag.kind === "brush") {
      const all = event.getCoalescedEvents?.() ?? [];
      this.#stroke((all.length ? all : [event]).map((one) => view.at(one)));
    }
    view.draw();
  }

  #up(event) {
    const drag = this.#drag, at = this.view.at(event);
    this.#pointers.delete(event.pointerId);
    if (drag?.kind === "pinch") {
      if (!this.#pointers.size) this.#drag = null;
      return;
    }
    this.#drag = null;
    this.#shape();
    if (event.type === "pointercancel") {
      if (drag?.labels) this.editor.revert();
    } else if (drag?.kind === "box") this.#box(drag.from, at);
    else if (drag?.kind === "brush") this.editor.commit(drag.labels);
    else if (drag?.kind === "click") this.#click(drag.from, drag.beside);
    else if (drag?.kind === "corner") this.#corner(at);
    this.view.draw();
  }

  #inside({ x, y }) {
    const { width, height } = this.editor.photo;
    return { x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
  }

  #stroke(points) {
    const { editor } = this, { width, height } = editor.photo, drag = this.#drag, half = this.size / 2 / this.#fine;
    const way = [drag.last, ...points], xs = way.map((p) => p.x), ys = way.map((p) => p.y);
    drag.last = points.at(-1);
    const rect = clipped(Math.min(...xs) - half - 1, Math.min(...ys) - half - 1, Math.max(...xs) + half + 1, Math.max(...ys) + half + 1, width, height);
    if (!rect) return;
    fill(drag.labels, width, rect, (c) => {
      c.lineWidth = 2 * half;
      c.lineCap = c.lineJoin = "round";
      c.beginPath();
      c.moveTo(way[0].x, way[0].y);
      for (const p of way) c.lineTo(p.x, p.y + 0.01);
      c.stroke();
    }, editor.value);
    editor.preview(drag.labels, rect);
  }

  /** The brush has its size on the screen: zoomed in, it paints finer. */
  get #fine() { return this.view.scale; }

  async #box(from, to) {
    const a = this.#inside(from), b = this.#inside(to);
    const [x1, x2] = [a.x, b.x].sort((p, q) => p - q), [y1, y2] = [a.y, b.y].sort((p, q) => p - q);
    if ((x2 - x1) * this.view.scale < SMALL || (y2 - y1) * this.view.scale < SMALL) return;
    const { editor } = this, { width, height } = editor.photo;
    if (editor.erasing) {
      const labels = editor.start(), rect = clipped(x1, y1, x2, y2, width, height);
      fill(labels, width, rect, (c) => c.fillRect(x1, y1, x2 - x1, y2 - y1), 0);
      editor.commit(labels);
      return;
    }
    editor.ensureClass();
    await this.#cut({ box: [x1, y1, x2, y2] }, editor.start(), { box: [x1, y1, x2, y2] });
  }

  async #click(at, beside) {
    const { editor } = this, { width, height } = editor.photo;
    if (at.x < 0 || at.y < 0 || at.x >= width || at.y >= height) return;
    editor.ensureClass();
    const clicks = (this.#clicks ??= { base: editor.start(), points: [], background: [] });
    clicks[beside ? "background" : "points"].push([at.x, at.y]);
    if (!clicks.points.length) {
      this.#tell("trouble", new Error("Click on the object first; clicks beside it say what it is not."));
      this.#clicks = null;
      return;
    }
    await this.#cut({ points: clicks.points, background: clicks.background }, clicks.base, clicks);
  }

  /** Let the engine cut the object out, and write it over `base`. */
  async #cut(prompt, base, what) {
    const { editor } = this, ticket = ++this.#ticket, photo = editor.photo, value = editor.active;
    this.#waiting = what;
    this.#tell("busy", "Cutting out");
    try {
      const mask = await this.engine.grabcut(photo, prompt);
      if (ticket !== this.#ticket || editor.photo?.id !== photo.id) return;
      const labels = base.slice();
      for (let i = 0; i < mask.length; i++) if (mask[i]) labels[i] = value;
      editor.commit(labels);
    } catch (error) {
      if (ticket !== this.#ticket) return;
      if (error instanceof Offline) error = new Error("Box and clicks need the server, which does not answer; brush and polygon work on.");
      this.#clicks = null;
      this.#tell("trouble", error);
    } finally {
      if (ticket === this.#ticket) {
        this.#waiting = null;
        this.#tell("busy", null);
        this.view.draw();
      }
    }
  }
  #waiting = null;

  #corner(at) {
    const first = this.#corners[0], scale = this.view.scale, last = this.#corners.at(-1);
    if (first && this.#corners.length > 2 && Math.hypot(at.x - first.x, at.y - first.y) * scale < NEAR) this.#fillPolygon();
    // the second click of a double one
    else if (!last || Math.hypot(at.x - last.x, at.y - last.y) * scale > 3) this.#corners.push(this.#inside(at));
  }

  #fillPolygon() {
    const corners = this.#corners, { editor } = this, { width, height } = editor.photo;
    this.#corners = [];
    editor.ensureClass();
    const xs = corners.map((p) => p.x), ys = corners.map((p) => p.y);
    const rect = clipped(Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys), width, height);
    if (!rect) return;
    const labels = editor.start();
    fill(labels, width, rect, (c) => {
      c.beginPath();
      for (const p of corners) c.lineTo(p.x, p.y);
      c.closePath();
      c.fill("evenodd");
    }, editor.value);
    editor.commit(labels);
  }

  #above(c) {
    if (!this.editor.photo) return;
    const view = this.view, to = (p) => [view.x + p.x * view.scale, view.y + p.y * view.scale];
    const drag = this.#drag, both = (draw) => {
      // dark and light, so that it is seen on any photo
      for (const [colour, wide] of [["rgb(10 16 15 / 75%)", 3.5], ["#fff", 1.5]]) {
        c.strokeStyle = colour;
        c.lineWidth = wide;
        c.beginPath();
        draw();
        c.stroke();
      }
    };
    const box = drag?.kind === "box" ? [drag.from, drag.to] : this.#waiting?.box ? [{ x: this.#waiting.box[0], y: this.#waiting.box[1] }, { x: this.#waiting.box[2], y: this.#waiting.box[3] }] : null;
    if (box) {
      const [a, b] = box.map((p) => to(this.#inside(p)));
      both(() => c.rect(a[0], a[1], b[0] - a[0], b[1] - a[1]));
    }
    if (this.#corners.length) {
      const ends = [...this.#corners, ...(this.#cursor ? [this.#cursor] : [])].map(to);
      both(() => ends.forEach(([x, y]) => c.lineTo(x, y)));
      ends.slice(0, this.#corners.length).forEach(([x, y], n) => both(() => c.arc(x, y, n ? 3 : 6, 0, 7)));
    }
    for (const [kind, sign] of [["points", 1], ["background", 0]]) {
      for (const [x, y] of this.#clicks?.[kind] ?? []) {
        const [sx, sy] = to({ x, y });
        both(() => {
          c.arc(sx, sy, 7, 0, 7);
          c.moveTo(sx - 3.5, sy);
          c.lineTo(sx + 3.5, sy);
          if (sign) {
            c.moveTo(sx, sy - 3.5);
            c.lineTo(sx, sy + 3.5);
          }
        });
      }
    }
    if (this.tool === "brush" && this.#cursor && !this.#panning) {
      const [x, y] = to(this.#cursor);
      both(() => c.arc(x, y, this.size / 2, 0, 7));
    }
  }
}
