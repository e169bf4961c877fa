// Photos come in: dropped, chosen, pasted, or from the camera; folders are walked through.

import { Offline } from "./http.js";
import { $, breath, toast } from "./parts.js";

const PHOTO = /\.(jpe?g|png|webp|bmp|tiff?|heic|heif|hif|avif)$/i;
const ENDINGS = { "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/bmp": ".bmp", "image/tiff": ".tif", "image/avif": ".avif" };

/** All files of a dropped folder. @param {FileSystemEntry} entry @returns {Promise<File[]>} */
async function walk(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) break;
    found.push(...part);
  }
  found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  const files = [];
  for (const inner of found) if (!inner.name.startsWith(".")) files.push(...(await walk(inner)));
  return files;
}

export class Intake {
  constructor(store, editor, busy) {
    Object.assign(this, { store, editor, busy });
    for (const id of ["files", "folder"]) $(id).addEventListener("change", (event) => this.#chosen(event.target));
    let depth = 0;
    const over = (is) => { depth = is ? depth + 1 : Math.max(0, depth - 1); $("dropping").hidden = depth === 0; };
    addEventListener("dragenter", (event) => { if (event.dataTransfer?.types.includes("Files")) over(true); });
    addEventListener("dragleave", (event) => { if (event.dataTransfer?.types.includes("Files")) over(false); });
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => { event.preventDefault(); depth = 0; $("dropping").hidden = true; this.#dropped(event.dataTransfer); });
    addEventListener("paste", (event) => this.#pasted(event));
  }

  choose() { $("files").click(); }
  chooseFolder() { $("folder").click(); }

  async #chosen(input) {
    const files = [...input.files].filter((file) => input.id === "files" || PHOTO.test(file.name));
    input.value = "";
    await this.add(files);
  }

  async #dropped(transfer) {
    // entries are gone after the first pause
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean), plain = [...transfer.files];
    const files = [];
    try {
      for (const entry of entries) {
        const inside = await walk(entry);
        files.push(...(entry.isDirectory ? inside.filter((file) => PHOTO.test(file.name)) : inside));
      }
    } catch { files.push(...plain); }
    if (!files.length && entries.some((entry) => entry.isDirectory)) toast("There are no photos in this folder.", "bad");
    await this.add(files);
  }

  async #pasted(event) {
    if (event.target.matches?.("input")) return;
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type in ENDINGS || PHOTO.test(file.name));
    if (!files.length) return;
    event.preventDefault();
    const stamp = Date.now().toString(36);
    await this.add(files.map((file, n) => (PHOTO.test(file.name) && file.name !== "image.png" ? file : new File([file], `pasted-${stamp}-${n}${ENDINGS[file.type]}`))));
  }

  /** Add files one after the other; those that cannot be used are named. @param {File[]} files */
  async add(files) {
    const added = [], refused = [];
    for (const [n, file] of files.entries()) {
      this.busy(files.length > 1 ? `Adding photo ${n + 1} of ${files.length}` : "Adding the photo");
      try {
        added.push(await this.store.add(file.name, file));
      } catch (error) {
        if (!(error instanceof Offline)) refused.push(error.message);
      }
      if (!this.editor.photo && added.length) this.editor.open(added[0].id);
      await breath();
    }
    this.busy(null);
    if (refused.length > 3) toast(`${refused.length} files were left out. The first: ${refused[0]}`, "bad");
    else for (const text of refused) toast(text, "bad");
    return added;
  }
}
