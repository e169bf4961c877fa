// Tables in this browser's own database; in memory alone where there is none (some private windows).

/** @param {string} name @param {string[]} tables @returns {Promise<IDBDatabase>} */
function opened(name, tables) {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => tables.forEach((table) => request.result.createObjectStore(table));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Vault {
  /** @param {IDBDatabase | null} database @param {string[]} tables */
  constructor(database, tables) {
    this.database = database;
    this.memory = new Map(tables.map((table) => [table, new Map()]));
  }

  /** @param {string} name @param {string[]} tables */
  static async open(name, tables) { return new Vault(await opened(name, tables).catch(() => null), tables); }

  /** Whether what is written outlives the page. */
  get lasting() { return this.database !== null; }

  /** @param {string} table @param {string} key @returns {Promise<any>} undefined where there is none */
  get(table, key) { return this.database ? this.#read(table, (store) => store.get(key)) : Promise.resolve(this.memory.get(table).get(key)); }

  /** @param {string} table @returns {Promise<any[]>} */
  all(table) { return this.database ? this.#read(table, (store) => store.getAll()) : Promise.resolve([...this.memory.get(table).values()]); }

  #read(table, work) {
    return new Promise((resolve, reject) => {
      const request = work(this.database.transaction(table, "readonly").objectStore(table));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  }

  /**
   * All of these entries or none; undefined as a value removes.
   * @param {[table: string, key: string, value: any][]} entries
   * @returns {Promise<void>}
   */
  write(entries) {
    if (!this.database) {
      for (const [table, key, value] of entries) value === undefined ? this.memory.get(table).delete(key) : this.memory.get(table).set(key, value);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction([...new Set(entries.map(([table]) => table))], "readwrite");
      for (const [table, key, value] of entries) {
        const store = transaction.objectStore(table);
        value === undefined ? store.delete(key) : store.put(value, key);
      }
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the database gave up"));
    });
  }

  /** Remove everything. */
  async clear() {
    for (const table of this.memory.values()) table.clear();
    const { database } = this;
    if (!database) return;
    await new Promise((resolve, reject) => {
      const transaction = database.transaction([...database.objectStoreNames], "readwrite");
      for (const name of database.objectStoreNames) transaction.objectStore(name).clear();
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
  }
}
