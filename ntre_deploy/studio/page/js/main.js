// Puts the page together.

import { Camera } from "./camera.js";
import { Classes } from "./classes.js";
import { Editor } from "./editor.js";
import { Exporting } from "./exporting.js";
import { Offline } from "./http.js";
import { Intake } from "./intake.js";
import { anything } from "./labels.js";
import { Keys } from "./keys.js";
import { $, drawIcons, icon, loadIcons, make, toast } from "./parts.js";
import { Predictor } from "./predict.js";
import { openSite, switchEngine } from "./site.js";
import { Store } from "./store.js";
import { Strip } from "./strip.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

loadIcons().catch(() => {});
drawIcons();
const busy = (text) => {
  $("busy").hidden = !text;
  if (text) $("busy-text").textContent = text;
};
const trouble = (error) => {
  if (error instanceof Offline) store.lost();
  else toast(error.message, "bad");
};

const store = new Store(), site = await openSite(store), engine = (store.engine = site.open), view = new View($("canvas"));
const editor = new Editor(store, view), tools = new Tools(editor, view, engine), predictor = new Predictor(store, editor, engine);
const strip = new Strip(store, editor, predictor, trouble), classes = new Classes(store, editor, predictor);
const intake = new Intake(store, editor, busy), camera = new Camera(store, editor, engine, intake), exporting = new Exporting(store, engine);
const mode = (erasing) => {
  editor.erasing = erasing;
  $("mode-add").setAttribute("aria-checked", String(!erasing));
  $("mode-erase").setAttribute("aria-checked", String(erasing));
};
const keys = new Keys({ tools, editor, view, strip, classes, intake, camera, exporting, mode });

// tools
for (const { id, key, name, says } of tools.all) {
  const button = make("button", { class: "tool", role: "radio", id: `tool-${id}`, "aria-label": name, title: `${says} (${key})`, onclick: () => tools.choose(id) }, icon(id), make("span", { text: name }));
  document.querySelector(".tools-row").append(button);
}
const drawTool = () => {
  for (const { id } of tools.all) $(`tool-${id}`).setAttribute("aria-checked", String(id === tools.tool));
  $("size-row").hidden = tools.tool !== "brush";
  drawStatus();
};
tools.addEventListener("tool", drawTool);
tools.addEventListener("size", () => { $("size").value = $("size-value").textContent = String(tools.size); });
for (const part of [tools, editor]) part.addEventListener("busy", (event) => busy(event.detail));
for (const part of [tools, editor, predictor]) part.addEventListener("trouble", (event) => trouble(event.detail));
store.addEventListener("trouble", (event) => toast(event.detail, "bad"));
$("size").addEventListener("input", (event) => tools.setSize(Number(event.target.value)));
$("mode-add").addEventListener("click", () => mode(false));
$("mode-erase").addEventListener("click", () => mode(true));

// the bar and the stage
const clicks = {
  undo: () => tools.undo(), redo: () => editor.redo(), add: () => intake.choose(), "camera-open": () => camera.open(),
  "export-open": () => exporting.open(), "help-open": () => keys.openHelp(), "empty-files": () => intake.choose(),
  "empty-folder": () => intake.chooseFolder(), "empty-camera": () => camera.open(), accept: () => editor.accept(),
  clear: () => editor.clear(), "zoom-in": () => view.zoom(1.25), "zoom-out": () => view.zoom(0.8), "zoom-fit": () => view.fit(),
};
for (const [id, does] of Object.entries(clicks)) $(id).addEventListener("click", does);

function drawStatus() {
  const { photo, marks, prediction, can } = editor, empty = store.photos.size === 0;
  $("undo").disabled = !can.undo;
  $("redo").disabled = !can.redo;
  $("empty").hidden = !empty || !store.state;
  $("status").hidden = $("zoom").hidden = !photo;
  $("canvas").setAttribute("aria-label", photo ? `${photo.name}: ${marks ? "marked by you" : prediction ? "as the network sees it" : "not marked"}` : "No photo");
  if (!photo) return;
  const found = prediction && anything(prediction), shots = [...store.photos.values()].some((one) => one.mark);
  const says = tools.all.find((tool) => tool.id === tools.tool).says;
  $("status-text").textContent = marks ? "Your shot" : found ? "Found by the network" : prediction ? `Nothing found. ${says}` : shots && store.state.engine.state === "ready" ? "Looking" : says;
  $("accept").hidden = Boolean(marks) || !found;
  $("clear").hidden = !marks && !found;
  $("clear").textContent = marks ? "Clear" : "Start empty";
}
for (const name of ["photo", "edit"]) editor.addEventListener(name, drawStatus);
store.addEventListener("marks", drawStatus);

store.addEventListener("photos", () => {
  if (!editor.photo && store.photos.size) editor.open(store.photos.keys().next().value);
  predictor.current();
  drawStatus();
});

// what the server and the engine say
function banner(id, text, kind = "", button) {
  document.querySelector(`.banner[data-id="${id}"]`)?.remove();
  if (text) $("banners").append(make("div", { class: `banner ${kind}`, "data-id": id }, icon("warn"), make("p", { text }), ...(button ? [button] : [])));
}
store.addEventListener("connection", () => {
  banner("server", store.online ? "" : "The server does not answer. What you mark is kept in this browser and sent when it is back: start `ntre studio` again with the same bundle and session.", "bad");
  if (store.online) toast("The server is back.");
  drawEngine();
});
function drawEngine() {
  const { reason, error, note } = store.state.engine, chip = $("engine"), state = store.online ? store.state.engine.state : "away";
  chip.className = `chip ${state}`;
  const text = { loading: "Loading the bundle", ready: store.state.bundle, failed: "No network", away: "No server" }[state];
  chip.replaceChildren(make("span", { class: "dot" }), make("span", { text }));
  chip.title = reason ?? error ?? "";
  const again = make("button", { class: "small plain", text: "Try again", onclick: () => load(true) });
  banner("engine", state === "failed" ? `The bundle cannot be used, so nothing is found; marks are kept all the same. ${error}` : "", "bad", again);
  const close = make("button", { class: "icon", "aria-label": "Close", onclick: () => banner("note", "") }, icon("close"));
  if (note && !drawEngine.noted) banner("note", note[0].toUpperCase() + note.slice(1) + ".", "", close);
  drawEngine.noted = Boolean(note);
}
store.addEventListener("engine", drawEngine);

/** In the help sheet: which engine, where there are two, and what this browser keeps, where there is no server. */
function drawSite() {
  if (site.local) {
    const forget = make("button", { class: "small plain", text: "Forget everything", onclick: () => confirm("Remove all photos and marks from this browser? This cannot be undone.") && store.forget().then(() => location.reload()).catch(trouble) });
    $("help-body").append(make("p", { text: "There is no server: the network runs in this page, and photos and marks are kept by this browser alone. Box and clicks need `ntre studio` on a computer; here brush and polygon mark." }), make("div", { class: "row" }, forget));
    if (!store.state.lasting) banner("lasting", "This browser keeps nothing for this page (a private window?): export before you close it.");
    if (store.state.shared) banner("shared", "This studio is open in another tab too: go on in one of them alone, as the last change wins.");
  } else if (store.state.web || site.engine === "web") {
    const choice = make("select", { id: "engine-choice", onchange: (event) => switchEngine(event.target.value) }, make("option", { value: "native", text: "native, on the server", selected: site.engine === "native" }), make("option", { value: "web", text: "the web runtime, in this page", selected: site.engine === "web" }));
    $("help-body").prepend(make("label", { class: "check" }, "Engine", choice));
  }
}

/** Wait for the bundle, or load it again. */
async function load(again = false) {
  try {
    store.state.engine = again || store.state.engine.state === "loading" ? (store.state.engine.state = "loading", drawEngine(), await engine.load()) : store.state.engine;
    drawEngine();
    drawStatus();
    predictor.start();
  } catch (error) {
    trouble(error);
  }
}
store.addEventListener("back", () => load());

async function start() {
  drawTool();
  if (site.refused) {
    banner("token", site.refused, "bad");
    return;
  }
  try {
    const { skipped } = await store.open();
    drawEngine();
    drawSite();
    classes.draw();
    if (skipped.length) toast(`${skipped.length} file${skipped.length === 1 ? " was" : "s were"} left out. ${skipped[0].name}: ${skipped[0].reason}`);
    await load();
  } catch (error) {
    banner("token", error instanceof Offline ? "The server does not answer." : error.message, "bad");
  }
}
addEventListener("beforeunload", (event) => { if (store.pending && !store.online) event.preventDefault(); });
start();

export { editor, predictor, store, tools, view };
