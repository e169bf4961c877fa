// The engine behind the server. It has the photos and the marks already, so that a revision of the session stands for
// the memories.

import { ask, labelsOf } from "./http.js";

/** @implements {import("./engine.js").Engine} */
export class ServerEngine {
  cuts = true;

  async load() {
    return (await (await ask("POST", "engine")).json()).engine;
  }

  async encode(store) {
    return { revision: await store.settled() };
  }

  async segment(photo, memories, { side = 0, now = false, signal } = {}) {
    const query = `revision=${memories.revision}${side ? `&side=${side}` : ""}${now ? "&now=1" : ""}`;
    return labelsOf(await ask("GET", `photos/${photo.id}/labels?${query}`, { signal }));
  }

  async frame(pixels) {
    const path = `frame?width=${pixels.width}&height=${pixels.height}`;
    return labelsOf(await ask("POST", path, { body: pixels.data.buffer }));
  }

  async grabcut(photo, prompt) {
    return (await labelsOf(await ask("POST", `photos/${photo.id}/grabcut`, { json: prompt }))).labels;
  }

  async leaveOneOut(memories) {
    return (await (await ask("GET", `scores?revision=${memories.revision}`)).json()).scores;
  }

  async save(kind, predicted) {
    const answer = await ask("POST", "export", { json: { kind, predicted } });
    return { name: `ntre_${kind}.zip`, blob: await answer.blob() };
  }

  async script() {
    return (await ask("GET", "script")).text();
  }
}
