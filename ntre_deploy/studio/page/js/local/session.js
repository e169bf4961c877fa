// The session without a server: it answers the same requests from this browser's own database.

import { Refused } from "../http.js";
import { presentNumbers } from "../labels.js";
import { IGNORE } from "../store.js";
import { parted, plainName } from "./names.js";
import { MAX_SIDE, MEGAPIXELS, THUMB, WORKING, decoded, scaled, sizeOf, workingSize } from "./pictures.js";
import { Vault } from "./vault.js";

const TABLES = ["classes", "photos", "files", "pictures", "marks"];
const MOST_PHOTOS = 2000;
// what Python reads too (runtime/imagefile.py); which of them a browser shows is its own
const SUFFIXES = [".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".heic", ".heif", ".hif", ".avif"];

/** Whether no other tab has this session open; true as long as this page lives. @param {string} id @returns {Promise<boolean>} */
function alone(id) {
  return new Promise((resolve) => {
    if (!navigator.locks) resolve(true);
    navigator.locks?.request(`ntre-studio ${id}`, { ifAvailable: true }, (lock) => {
      resolve(lock !== null);
      return lock && new Promise(() => {});
    }).catch(() => resolve(true));
  });
}

const json = (content) => new Response(JSON.stringify(content));

export class LocalSession {
  classes = [];
  photos = new Map();

  /** @param {Vault} vault @param {{name: string}} settings of the site */
  constructor(vault, settings) {
    this.vault = vault;
    this.settings = settings;
    // differs from that of an earlier page
    this.revision = Date.now();
    // sites of one host are told apart by their folder
    this.id = new URL(".", document.baseURI).pathname;
  }

  /** @param {{name: string}} settings of the site */
  static async open(settings) {
    const session = new LocalSession(await Vault.open(`ntre-studio ${new URL(".", document.baseURI).pathname}`, TABLES), settings);
    const { vault } = session;
    session.shared = !(await alone(session.id));
    session.classes = (await vault.get("classes", "all")) ?? [];
    const photos = await vault.all("photos");
    for (const photo of photos.sort((a, b) => a.added - b.added)) session.photos.set(photo.id, photo);
    return session;
  }

  /** As `ask` in http.js; throws `Refused`. @param {string} method @param {string} path @param {{json?: any, body?: any}} more @returns {Promise<Response>} */
  async answer(method, path, { json: given, body } = {}) {
    const address = new URL(path, "https://here.invalid/"), [, first, id, part] = address.pathname.split("/");
    const what = `${method} ${first}${id ? "/" : ""}${part ? `/${part}` : ""}`;
    const does = {
      "GET state": () => this.#state(),
      "DELETE state": () => this.#forget(),
      "PUT classes": () => this.#setClasses(given),
      "POST photos": () => this.#add(address.searchParams.get("name"), body),
      "DELETE photos/": () => this.#remove(id),
      "GET photos//image": () => this.#image(id),
      "GET photos//thumb": () => this.#thumb(id),
      "GET photos//file": async () => new Response(await this.#file(id)),
      "GET photos//marks": () => this.#marks(id),
      "PUT photos//marks": () => this.#mark(id, body),
    }[what];
    if (!does) throw new Refused(`${what} is not known here.`, 404);
    try {
      return await does();
    } catch (error) {
      if (error instanceof Refused) throw error;
      const full = error.name === "QuotaExceededError";
      throw new Refused(full ? "This browser gives the page no more room; take photos off the strip, or export the session and go on with fewer." : error.message, full ? 507 : 400);
    }
  }

  #state() {
    const photos = [...this.photos.values()].map(({ id, name, full, width, height, mark }) => ({ id, name, full, width, height, mark }));
    const { id, revision, classes, settings } = this;
    const skipped = [];
    return json({ id, revision, folder: "", classes, photos, bundle: settings.name, engine: { state: "loading" }, skipped, lasting: this.vault.lasting, shared: this.shared });
  }

  #changed() { return json({ revision: ++this.revision }); }

  #photo(id) {
    const photo = this.photos.get(id);
    if (!photo) throw new Refused("There is no such photo; reload the page.", 400);
    return photo;
  }

  async #setClasses(classes) {
    const gone = this.classes.map((c) => c.number).filter((n) => !classes.some((c) => c.number === n));
    const entries = [["classes", "all", classes]], changed = [];
    for (const photo of this.photos.values()) {
      if (!photo.mark?.numbers.some((n) => gone.includes(n))) continue;
      const labels = (await this.vault.get("marks", photo.id)).map((n) => (gone.includes(n) ? 0 : n));
      changed.push(this.#marked(photo, labels, entries));
    }
    await this.vault.write(entries);
    this.classes = classes;
    for (const photo of changed) this.photos.set(photo.id, photo);
    return this.#changed();
  }

  /** The photo with other marks, and the entries that keep them. */
  #marked(photo, labels, entries) {
    const numbers = [...presentNumbers(labels)].filter((n) => n !== IGNORE), any = labels.some((n) => n);
    const following = 1 + Math.max(0, ...[...this.photos.values()].map((one) => one.mark?.order ?? 0));
    // the digest tells maps apart, nothing more
    const mark = any ? { order: photo.mark?.order ?? following, digest: `${++this.revision}`, numbers } : null;
    const now = { ...photo, mark };
    entries.push(["photos", photo.id, now], ["marks", photo.id, any ? labels : undefined]);
    return now;
  }

  async #mark(id, labels) {
    const photo = this.#photo(id), entries = [];
    if (labels.length !== photo.width * photo.height) throw new Refused(`The marks of ${photo.name} must be ${photo.width} x ${photo.height} pixels.`, 400);
    const now = this.#marked(photo, labels, entries);
    await this.vault.write(entries);
    this.photos.set(id, now);
    return this.#changed();
  }

  async #marks(id) {
    const photo = this.#photo(id), labels = await this.vault.get("marks", id);
    if (!labels) throw new Refused(`${photo.name} is not marked.`, 400);
    return new Response(labels, { headers: { "x-width": String(photo.width), "x-height": String(photo.height) } });
  }

  async #add(given, blob) {
    const name = given ?? "", [stem, ending] = parted(name), suffix = ending.toLowerCase(), shown = `${plainName(stem)}${suffix}`;
    if (!SUFFIXES.includes(suffix)) throw new Refused(`${name.slice(0, 80)} is no photo; ${SUFFIXES.join(", ")} are.`, 400);
    if (this.photos.size >= MOST_PHOTOS) throw new Refused(`There are ${MOST_PHOTOS} photos already; a session takes no more.`, 400);
    let width, height;
    try {
      [width, height] = await sizeOf(blob);
    } catch {
      const common = [".jpg", ".jpeg", ".png", ".webp", ".bmp"].includes(suffix);
      throw new Refused(common ? `${shown} is not an image that can be read.` : `${shown} is of a kind that this browser does not show; save it as JPEG or PNG.`, 400);
    }
    if (width * height > MEGAPIXELS * 1e6) throw new Refused(`${shown} has ${width} x ${height} pixels (${Math.round((width * height) / 1e6)} megapixels); the studio takes up to ${MEGAPIXELS}: scale it down.`, 400);
    if (!width || !height || Math.max(width, height) > MAX_SIDE) throw new Refused(`${shown} has ${width} x ${height} pixels; a side is 1 to ${MAX_SIDE}.`, 400);
    const content = await blob.arrayBuffer(), digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const id = [...digest.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (!this.photos.has(id)) {
      // a copy of its own: the file on the disk may go or change
      const own = new Blob([content], { type: blob.type });
      // damage behind the header
      try {
        (await decoded(own)).close();
      } catch {
        throw new Refused(`${shown} is damaged or cut off; it cannot be read.`, 400);
      }
      const [w, h] = workingSize([width, height]);
      const photo = { id, name: shown, full: [width, height], width: w, height: h, added: Date.now() + this.photos.size / 1e4, mark: null };
      await this.vault.write([["files", id, own], ["photos", id, photo]]);
      this.photos.set(id, photo);
      // asked once there is something to lose; browsers may clear the rest when the disk is full
      if (this.photos.size === 1) navigator.storage?.persist?.().catch(() => {});
    }
    const { added: _, ...photo } = this.photos.get(id);
    return json({ photo, revision: this.revision });
  }

  async #remove(id) {
    const photo = this.#photo(id);
    await this.vault.write([["photos", id, undefined], ["files", id, undefined], ["marks", id, undefined], ...[WORKING, THUMB].map((side) => ["pictures", `${id}/${side}`, undefined])]);
    this.photos.delete(id);
    return photo.mark ? this.#changed() : json({ revision: this.revision });
  }

  async #file(id) {
    const photo = this.#photo(id), file = await this.vault.get("files", id);
    if (!file) throw new Refused(`${photo.name} is not there any more.`, 400);
    return file;
  }

  async #picture(id, side, width, height, quality) {
    let picture = await this.vault.get("pictures", `${id}/${side}`);
    if (!picture) {
      picture = await scaled(await this.#file(id), width, height, quality);
      await this.vault.write([["pictures", `${id}/${side}`, picture]]);
    }
    return new Response(picture);
  }

  async #image(id) {
    const { width, height, full } = this.#photo(id);
    return width === full[0] && height === full[1] ? new Response(await this.#file(id)) : this.#picture(id, WORKING, width, height, 0.92);
  }

  #thumb(id) {
    const { width, height } = this.#photo(id), scale = Math.min(1, THUMB / Math.max(width, height));
    return this.#picture(id, THUMB, Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)), 0.8);
  }

  async #forget() {
    await this.vault.clear();
    this.classes = [];
    this.photos.clear();
    return this.#changed();
  }
}
