// Where this page comes from: `ntre studio`, whose server keeps the session and runs the engine, or a plain web host, where
// everything is in this browser. What differs is decided here, and nowhere else.

import { ServerEngine } from "./engine-server.js";
import { WebEngine } from "./engine-web.js";
import { answerHere, takeToken } from "./http.js";

/**
 * @typedef {object} Site
 * @property {boolean} local  no server: the session is in this browser alone
 * @property {"native" | "web"} engine
 * @property {import("./engine.js").Engine} open
 * @property {string} refused  why the page cannot begin; empty where it can
 */

/** @param {import("./store.js").Store} store @returns {Promise<Site>} */
export async function openSite(store) {
  const server = new ServerEngine();
  if (!document.querySelector('meta[name="ntre-studio"]')) {
    const web = new URLSearchParams(location.search).get("engine") === "web";
    const refused = takeToken() ? "" : "This page belongs to a running studio: open the address that `ntre studio` printed, with all that stands behind #.";
    return { local: false, engine: web ? "web" : "native", open: web ? new WebEngine(store, () => store.state.web ?? null, server) : server, refused };
  }
  let settings = null, refused = "";
  await isolate().catch(() => {});
  try {
    const answer = await fetch("studio.json", { cache: "no-cache" });
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    settings = await answer.json();
    const { LocalSession } = await import("./local/session.js");
    answerHere(await LocalSession.open(settings));
  } catch (error) {
    refused = `The studio cannot begin (${error.message}): serve the folder that \`ntre studio --static\` wrote whole, over https or on localhost.`;
  }
  return { local: true, engine: "web", open: new WebEngine(store, () => settings, null), refused };
}

const TRIED = "ntre-isolation", PATIENCE = 3000;

/** Have a service worker isolate the page where its host does not, and load it once more; browsers without one go on. */
async function isolate() {
  const { serviceWorker } = navigator;
  if (crossOriginIsolated || !serviceWorker || sessionStorage.getItem(TRIED)) return;
  sessionStorage.setItem(TRIED, "1");
  const controlled = new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  await serviceWorker.register("isolate.js");
  if (!serviceWorker.controller) await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
  if (!serviceWorker.controller) return;
  location.reload();
  await new Promise(() => {});
}

/** Open this page again with the other engine; the session stays. @param {"native" | "web"} engine */
export function switchEngine(engine) {
  const address = new URL(location.href);
  if (engine === "web") address.searchParams.set("engine", "web");
  else address.searchParams.delete("engine");
  location.assign(address);
}
