// Requests to the server that has served this page. The token stands behind # in the address, so that it reaches neither
// logs nor other pages; it is kept for this tab alone.

/** The server does not answer: what is done now is kept here and sent later. */
export class Offline extends Error {}
/** Something newer was asked for in the meantime, or the marks have changed. */
export class Outdated extends Error {}
/** The server says what is wrong, in a sentence for people. */
export class Refused extends Error {
  /** @param {string} text @param {number} status */
  constructor(text, status) { super(text); this.status = status; }
}

const KEY = "ntre-token";

/** Take the token out of the address bar. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY) !== null;
}

let here = null;

/** Without a server, a session in this browser answers. @param {{answer: (method: string, path: string, more: {json?: any, body?: any}) => Promise<Response>}} session */
export function answerHere(session) { here = session; }

/**
 * @param {string} method
 * @param {string} path below /api/
 * @param {{json?: any, body?: BodyInit, signal?: AbortSignal}} [more]
 * @returns {Promise<Response>}
 */
export async function ask(method, path, more = {}) {
  if (here) return here.answer(method, path, more);
  const headers = { "X-Studio-Token": sessionStorage.getItem(KEY) ?? "" };
  let body = more.body;
  if (more.json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(more.json);
  }
  let answer;
  try {
    answer = await fetch("/api/" + path, { method, headers, body, signal: more.signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw new Outdated();
    throw new Offline();
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: `The server answers with ${answer.status}.` }));
  if (answer.status === 409) throw new Outdated(told.error);
  throw new Refused(told.error, answer.status);
}

/** A label map of an answer. @param {Response} answer */
export async function labelsOf(answer) {
  return {
    width: Number(answer.headers.get("x-width")),
    height: Number(answer.headers.get("x-height")),
    ms: Number(answer.headers.get("x-ms") ?? 0),
    labels: new Uint8Array(await answer.arrayBuffer()),
  };
}
