// What has not reached the server yet, in this browser's own database: it outlives a reload and a server that went away.

const NAME = "ntre-studio", TABLE = "outbox";

/** @returns {Promise<IDBDatabase>} */
function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Entries of one session, by a key that a newer entry takes over. */
export class Outbox {
  /** @param {string} session */
  constructor(session) {
    this.session = session;
    this.stamp = 0;
    // without a database (a private window), memory is what is left
    this.memory = new Map();
    this.database = open().catch(() => null);
  }

  async #do(mode, work) {
    const database = await this.database;
    if (database === null) return undefined;
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(TABLE, mode, { durability: "relaxed" });
      const request = work(transaction.objectStore(TABLE));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    }).catch(() => undefined);
  }

  /** Keep an entry; resolves to its stamp. @param {string} key @param {any} entry */
  async put(key, entry) {
    const stamped = { ...entry, key, stamp: ++this.stamp };
    this.memory.set(key, stamped);
    await this.#do("readwrite", (table) => table.put(stamped, `${this.session}/${key}`));
    return stamped;
  }

  /** Forget an entry, unless a newer one has taken its place. @param {any} entry */
  async done(entry) {
    if (this.memory.get(entry.key)?.stamp !== entry.stamp) return;
    this.memory.delete(entry.key);
    await this.#do("readwrite", (table) => table.delete(`${this.session}/${entry.key}`));
  }

  /** All entries that an earlier page has left, the oldest first. */
  async left() {
    const range = IDBKeyRange.bound(`${this.session}/`, `${this.session}/\uffff`);
    const found = (await this.#do("readonly", (table) => table.getAll(range))) ?? [];
    found.sort((a, b) => a.stamp - b.stamp);
    for (const entry of found) {
      this.memory.set(entry.key, entry);
      this.stamp = Math.max(this.stamp, entry.stamp);
    }
    return found;
  }

  get empty() { return this.memory.size === 0; }
}
