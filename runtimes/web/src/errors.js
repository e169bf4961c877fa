/** Errors that a user can mend: what was given, what was expected and the next step, in one line. */

/** Base of all errors that are meant for the user. */
export class NtreError extends Error {
  name = "NtreError";
}

/** Bad input: a bundle, a memory, an image or a mask that cannot be used. */
export class InputError extends NtreError {
  name = "InputError";
}

/** An engine that was asked for is not available, failed while it ran, or failed the self-test. */
export class EngineError extends NtreError {
  name = "EngineError";
}

const KINDS = /** @type {const} */ ({ NtreError, InputError, EngineError });

/**
 * An error as it travels out of a worker, which keeps no classes.
 * @param {unknown} error
 * @returns {{ name: string, message: string, stack: string }}
 */
export function packError(error) {
  if (error instanceof Error) return { name: error.name, message: error.message, stack: error.stack ?? "" };
  return { name: "Error", message: String(error), stack: "" };
}

/**
 * The error that `packError` was given, with its class.
 * @param {{ name: string, message: string, stack: string }} packed
 * @returns {Error}
 */
export function unpackError({ name, message, stack }) {
  const Kind = Object.hasOwn(KINDS, name) ? KINDS[/** @type {keyof typeof KINDS} */ (name)] : Error;
  const error = new Kind(message);
  if (Kind === Error) error.name = name;
  if (stack) error.stack = stack;
  return error;
}

/**
 * Why something failed, in one line.
 * @param {unknown} error
 */
export function firstLine(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.split(/\s+/).join(" ").trim().slice(0, 300) || "unknown error";
}

/**
 * `error` itself where it is meant for the user, else what `wrap` makes of its first line.
 * @param {unknown} error
 * @param {(reason: string) => NtreError} wrap
 */
export function explained(error, wrap) {
  if (error instanceof NtreError) return error;
  if (error instanceof DOMException && error.name === "AbortError") return error;
  return wrap(firstLine(error));
}
