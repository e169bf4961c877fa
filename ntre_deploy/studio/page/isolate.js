// A service worker for web hosts that send no headers of one's own: it adds those that isolate the page, so that WebAssembly
// may have threads. Everything comes from the host each time; nothing is kept.

const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Resource-Policy": "same-origin" };

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { url, cache, mode } = event.request;
  if (new URL(url).origin !== location.origin || (cache === "only-if-cached" && mode !== "same-origin")) return;
  event.respondWith(isolated(event.request));
});

/** @param {Request} request */
async function isolated(request) {
  const found = await fetch(request);
  if (found.type === "opaqueredirect" || [101, 204, 205, 304].includes(found.status)) return found;
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
