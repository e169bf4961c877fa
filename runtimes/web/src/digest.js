/** SHA-256, which browsers give to pages of https and of localhost alone. */

import { EngineError } from "./errors.js";

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<string>} 64 lower-case hexadecimal digits
 */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) {
    throw new EngineError(
      "This page has no SubtleCrypto, with which files are checked; serve it over https or from localhost.",
    );
  }
  const digest = await crypto.subtle.digest("SHA-256", /** @type {Uint8Array<ArrayBuffer>} */ (bytes));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
