// What leaves the studio without a server: the files that Python's studio/exports.py writes.

import { classMask, plan } from "../engine-web.js";
import { classColour } from "../paint.js";
import { IGNORE } from "../store.js";
import { freeName, parted, plainName } from "./names.js";
import { readme, script } from "./texts.js";
import { zip } from "./zip.js";

const MEMORIES = "_memories";

/** The encoding worker, while an export is made. */
class Encoder {
  #worker = new Worker(new URL("./encoder.js", import.meta.url), { type: "module", name: "ntre files" });
  #waiting = new Map();
  #calls = 0;

  constructor() {
    this.#worker.addEventListener("message", ({ data: { number, value, error } }) => {
      const { resolve, reject } = this.#waiting.get(number);
      this.#waiting.delete(number);
      error === undefined ? resolve(value) : reject(new Error(error));
    });
    this.#worker.addEventListener("error", (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`The export failed: ${event.message || "its worker cannot be loaded"}.`));
    });
  }

  /** @param {"crc" | "labelme" | "png" | "resized" | "runs"} call @param {...any} args */
  do(call, ...args) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(++this.#calls, { resolve, reject });
      this.#worker.postMessage({ number: this.#calls, call, args });
    });
  }

  close() { this.#worker.terminate(); }
}

export class Exports {
  /** @param {import("../store.js").Store} store @param {string} bundle its name @param {any} segmenter a `WorkerSegmenter`, or null where it failed */
  constructor(store, bundle, segmenter) {
    // beside the exported folder: in it, a folder would be a class
    Object.assign(this, { store, bundle: `../${bundle}`, segmenter });
  }

  /** @param {string} kind @param {boolean} predicted @returns {Promise<{name: string, blob: Blob}>} */
  async save(kind, predicted) {
    const classes = plan(this.store), name = `ntre_${kind}`;
    if (!classes.length) throw new Error("Nothing is marked yet; mark the object in one photo first.");
    this.encoder = new Encoder();
    this.entries = [];
    try {
      const does = { session: () => this.#session(classes, name), memories: () => this.#memories(classes, "") }[kind];
      await (does ? does() : this.#annotations(kind, classes, predicted));
      this.entries.sort((a, b) => (a.name < b.name ? -1 : 1));
      const entries = [];
      for (const { name: own, blob } of this.entries) entries.push({ name: `${name}/${own}`, blob, crc: await this.encoder.do("crc", blob) });
      return { name: `${name}.zip`, blob: zip(entries) };
    } finally {
      this.encoder.close();
    }
  }

  /** Python that does the same. */
  async script() { return script(this.bundle, pairNames(plan(this.store))); }

  #put(name, content) { this.entries.push({ name, blob: content instanceof Blob ? content : new Blob([content]) }); }

  async #session(classes, title) {
    const names = pairNames(classes);
    await this.#memories(classes, `${MEMORIES}/`);
    for (const { item, shots } of classes) {
      for (const [n, photo] of shots.entries()) {
        const [image, mask] = names.get(item.name)[n], [width, height] = photo.full;
        const values = classMask(await this.#full(photo), item.number);
        // white is easier to see than 1, but then nothing can be ignored
        const shown = values.includes(IGNORE) ? values : values.map((value) => value * 255);
        this.#put(`${item.name}/images/${image}`, await this.store.file(photo));
        this.#put(`${item.name}/masks/${mask}`, await this.encoder.do("png", shown, width, height));
      }
    }
    this.#put("segment.py", await script(this.bundle, names));
    this.#put("README.md", await readme(this.bundle, title, names));
  }

  async #memories(classes, folder) {
    for (const memory of await this.#encoded(classes)) this.#put(`${folder}${memory.name}.safetensors`, await memory.toBytes());
  }

  /** At the photos' own size, as `ntre segment` makes them of the same files. */
  async #encoded(classes) {
    if (!this.segmenter) throw new Error("The bundle cannot be used, so nothing can be encoded; export masks, or annotations of the shots alone.");
    const given = [];
    for (const { item, shots } of classes) {
      const pairs = [];
      for (const photo of shots) pairs.push({ image: await this.store.file(photo), mask: classMask(await this.#full(photo), item.number) });
      given.push([item.name, pairs]);
    }
    return this.segmenter.encodeSupports(given);
  }

  /** The label map of a marked photo at the photo's own size. */
  async #full(photo) {
    const labels = await this.store.marks(photo);
    return this.encoder.do("resized", labels, photo.width, photo.height, ...photo.full);
  }

  async #annotations(kind, classes, predicted) {
    const names = classes.map(({ item }) => item.name), taken = new Set();
    const memories = predicted ? await this.#encoded(classes) : [];
    const numbers = new Uint8Array(256), images = [], annotations = [];
    classes.forEach(({ item }, n) => { numbers[item.number] = n + 1; });
    // where a pixel is to be ignored is nothing that COCO or LabelMe can say
    numbers[IGNORE] = kind === "masks" ? IGNORE : 0;
    for (const photo of this.store.photos.values()) {
      let labels, scores = null;
      if (photo.mark) labels = (await this.#full(photo)).map((n) => numbers[n]);
      else if (memories.length) ({ labels, scores } = await this.segmenter.segment(await this.store.file(photo), memories, { scores: kind === "coco" }));
      else continue;
      const [stem, suffix] = parted(photo.name), own = freeName(plainName(stem), taken), file = `${own}${suffix.toLowerCase()}`, [width, height] = photo.full;
      if (kind === "masks") {
        this.#put(`${own}.png`, await this.encoder.do("png", labels, width, height, palette(names.length)));
      } else if (kind === "labelme") {
        this.#put(file, await this.store.file(photo));
        this.#put(`${own}.json`, JSON.stringify(await this.encoder.do("labelme", labels, width, height, names, file)));
      } else {
        this.#put(`images/${file}`, await this.store.file(photo));
        const image_id = images.push({ id: images.length + 1, file_name: file, width, height });
        for (const n of names.keys()) {
          const found = await this.encoder.do("runs", labels, width, height, n + 1);
          const score = scores && { score: Math.round(scores[n] * 1e6) / 1e6 };
          if (found) annotations.push({ id: annotations.length + 1, image_id, category_id: n + 1, ...found, iscrowd: 0, ...score });
        }
      }
    }
    const categories = names.map((name, n) => ({ id: n + 1, name }));
    if (kind === "coco") this.#put("coco.json", JSON.stringify({ images, annotations, categories }));
    if (kind === "masks") this.#put("classes.txt", names.map((name, n) => `${n + 1} ${name}\n`).join(""));
  }
}

/** Class -> names of the files of its photos and masks. @returns {Map<string, string[][]>} */
function pairNames(classes) {
  return new Map(classes.map(({ item, shots }) => {
    const taken = new Set();
    return [item.name, shots.map((photo) => {
      const [stem, suffix] = parted(photo.name), own = freeName(plainName(stem), taken);
      return [`${own}${suffix.toLowerCase()}`, `${own}.png`];
    })];
  }));
}

/** RGB of 256 values: black, the classes' colours, and grey for what is ignored. @param {number} classes */
function palette(classes) {
  const colours = new Uint8Array(768);
  for (let n = 1; n <= classes; n++) colours.set([1, 3, 5].map((at) => parseInt(classColour(n).slice(at, at + 2), 16)), 3 * n);
  colours.fill(128, 3 * IGNORE);
  return colours;
}
