// What leaves the studio, as files.

import { Offline } from "./http.js";
import { $, icon, make, sheet, toast } from "./parts.js";

const KINDS = [
  ["session", "The whole session", "A folder of photos, masks and memories with a README, for ntre segment, tune and eval."],
  ["memories", "Support memories", "A safetensors file for each class: ntre segment --memory FILE."],
  ["masks", "Masks", "A label map (PNG) for each photo: 0, the number of the class, 255 to be ignored."],
  ["coco", "COCO", "Photos and coco.json with run-length codes."],
  ["labelme", "LabelMe", "Photos and a JSON of polygons for each."],
];

/** Hand a file to the user. @param {string} name @param {Blob} blob */
export function download(name, blob) {
  const address = URL.createObjectURL(blob), link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export class Exporting {
  constructor(store, engine) {
    Object.assign(this, { store, engine });
    this.dialog = sheet("export");
    const predicted = make("input", { type: "checkbox", id: "export-predicted" });
    const rows = KINDS.map(([kind, title, text]) => {
      const button = make("button", { class: kind === "session" ? "primary" : "plain", "data-kind": kind, onclick: () => this.#save(button, kind, predicted.checked) }, icon("download"), make("span", { text: "Download" }));
      return make("div", { class: "kind" }, make("h3", { text: title }), make("p", { text }), button);
    });
    this.code = make("pre", { tabindex: "0", "aria-label": "Python" });
    const copy = make("button", { class: "small plain", onclick: () => this.#copy() }, icon("copy"), make("span", { text: "Copy" }));
    this.details = make("details", {}, make("summary", { text: "The same in Python" }), make("p", { class: "quiet", text: "It lies in the session's folder as segment.py." }), this.code, copy);
    this.details.addEventListener("toggle", () => this.details.open && this.#script());
    this.nothing = make("p", { class: "quiet", text: "Nothing is marked yet; mark the object in one photo first." });
    $("export-body").append(this.nothing, make("label", { class: "check" }, predicted, "Masks and annotations of the photos that are no shots too, as the network finds them"), make("div", {}, ...rows), this.details);
  }

  open() {
    const marked = [...this.store.photos.values()].some((photo) => photo.mark?.numbers.length);
    this.nothing.hidden = marked;
    this.details.hidden = !marked;
    for (const button of this.dialog.querySelectorAll("[data-kind]")) button.disabled = !marked;
    this.details.open = false;
    this.dialog.showModal();
  }

  async #save(button, kind, predicted) {
    button.disabled = true;
    const spinner = make("span", { class: "spinner" });
    button.firstChild.replaceWith(spinner);
    try {
      await this.store.settled();
      const { name, blob } = await this.engine.save(kind, predicted);
      download(name, blob);
    } catch (error) {
      toast(error instanceof Offline ? "The server does not answer; export when it is back." : error.message, "bad");
    } finally {
      spinner.replaceWith(icon("download"));
      button.disabled = false;
    }
  }

  async #script() {
    this.code.textContent = "...";
    try {
      await this.store.settled();
      this.code.textContent = await this.engine.script();
    } catch (error) {
      this.code.textContent = error instanceof Offline ? "The server does not answer." : error.message;
    }
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.code.textContent);
      toast("Copied.");
    } catch {
      getSelection().selectAllChildren(this.code);
      toast("Press Ctrl C to copy.");
    }
  }
}
