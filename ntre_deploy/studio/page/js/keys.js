// Keys, and the sheet that tells them.

import { $, make, sheet } from "./parts.js";

const MAC = navigator.platform.startsWith("Mac"), CTRL = MAC ? "\u2318" : "Ctrl";
const groups = (tools) => [
  ["Tools", [...tools.map((tool) => [[tool.key], `${tool.name}: ${tool.says[0].toLowerCase()}${tool.says.slice(1)}`]), [["X"], "Add or erase"], [["["], ["]"], "Size of the brush"]]],
  ["Marks", [[["Enter"], "Take the prediction as a shot; close a polygon"], [["Esc"], "Give up what is not finished"], [["Delete"], "Start the photo empty"], [[`${CTRL} Z`], "Undo"], [[`${CTRL} Shift Z`], "Redo"], [["1"], ["9"], "Class 1 to 9"], [["Alt 0"], "Ignore"], [["N"], "New class"]]],
  ["View", [[["+"], ["-"], "Zoom; or the wheel, or two fingers"], [["0"], "Fit the photo"], [["Space"], "Hold to move the photo"], [["\u2190"], ["\u2192"], "Photo before, photo after"]]],
  ["Photos", [[["O"], "Add photos"], [[`${CTRL} V`], "Paste a picture"], [["C"], "Camera"], [["E"], "Export"], [["?"], "This sheet"]]],
];

export class Keys {
  /** @param {Record<string, any>} parts of the page */
  constructor(parts) {
    Object.assign(this, parts);
    this.help = sheet("help");
    const blocks = groups(this.tools.all).map(([title, rows]) => make("section", {}, make("h3", { text: title }), make("dl", {}, ...rows.flatMap((row) => {
      const keys = row.slice(0, -1).map(([key]) => make("kbd", { text: key }));
      return [make("dt", {}, ...keys.flatMap((key, n) => (n ? [" ", key] : [key]))), make("dd", { text: row.at(-1) })];
    }))));
    const how = make("p", { text: "Mark one object in one photo. All other photos show at once what the network finds. Open one where it is wrong and correct it: it becomes the next shot. Nothing leaves this computer." });
    $("help-body").append(how, make("div", { class: "keys" }, ...blocks));
    addEventListener("keydown", (event) => this.#down(event));
    addEventListener("keyup", (event) => { if (event.code === "Space") this.tools.hold(false); });
    addEventListener("blur", () => this.tools.hold(false));
  }

  openHelp() { this.help.showModal(); }

  #down(event) {
    const on = event.target, typing = on.matches?.("input:not([type=range]), select, textarea") || document.querySelector("dialog[open]");
    if (typing) return;
    const { tools, editor, view, strip, classes } = this, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const control = event.ctrlKey || event.metaKey, button = on.matches?.('button:not(.thumb[aria-current="true"]), summary');
    const act = (does) => { event.preventDefault(); does(); };
    if (control) {
      if (key === "z") act(() => (event.shiftKey ? editor.redo() : tools.undo()));
      else if (key === "y") act(() => editor.redo());
      return;
    }
    if (event.altKey) {
      if (event.code === "Digit0") act(() => classes.choose(255));
      return;
    }
    const tool = tools.all.find((one) => one.key.toLowerCase() === key);
    if (tool) return void act(() => tools.choose(tool.id));
    if (/^[1-9]$/.test(key)) return void act(() => classes.nth(Number(key) - 1));
    const does = {
      x: () => this.mode(!editor.erasing),
      "[": () => tools.setSize(tools.size / 1.2 - 1), "]": () => tools.setSize(tools.size * 1.2 + 1),
      "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8), 0: () => view.fit(),
      ArrowRight: () => strip.step(1), ArrowLeft: () => strip.step(-1),
      Escape: () => tools.cancel(), Delete: () => editor.clear(),
      Backspace: () => (tools.open ? tools.undo() : editor.clear()),
      n: () => classes.add(), o: () => this.intake.choose(), c: () => this.camera.open(), e: () => this.exporting.open(), "?": () => this.openHelp(),
      Enter: button ? undefined : () => (tools.open ? tools.finish() : editor.accept()),
      " ": button ? undefined : () => tools.hold(true),
    }[key];
    if (does && !(on.matches?.("input[type=range]") && key.startsWith("Arrow"))) act(does);
  }
}
