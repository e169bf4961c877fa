// The list of classes: name, colour, shots, how well they explain each other, and what the newest shot has gained.

import { $, icon, make, toast } from "./parts.js";
import { classColour } from "./paint.js";
import { IGNORE } from "./store.js";

const NAME = /^[\p{L}\p{N}][\p{L}\p{N}_.+\- ]*$/u;
const percent = (value) => `${Math.round(value * 100)}`;

export class Classes {
  constructor(store, editor, predictor) {
    Object.assign(this, { store, editor, predictor });
    for (const name of ["classes", "marks", "photos"]) store.addEventListener(name, () => this.draw());
    editor.addEventListener("edit", () => this.#active());
    predictor.addEventListener("scores", () => this.draw());
    $("class-add").addEventListener("click", () => this.add());
    $("side-open").addEventListener("click", () => this.#open(!$("side").classList.contains("open")));
    $("side-close").addEventListener("click", () => this.#open(false));
  }

  #open(is) {
    $("side").classList.toggle("open", is);
    $("side-open").setAttribute("aria-expanded", String(is));
    if (is) $("side-close").focus();
  }

  add() {
    const { classes } = this.store;
    let number = 1;
    while (classes.some((c) => c.number === number)) number++;
    if (number >= IGNORE) return;
    let name = classes.length ? `object ${number}` : "object";
    while (classes.some((c) => c.name === name)) name += " new";
    this.editor.active = number;
    this.store.setClasses([...classes, { number, name, colour: classColour(number) }]);
    const field = document.querySelector(`[data-number="${number}"] input.class-name`);
    field?.focus();
    field?.select();
  }

  choose(number) {
    this.editor.active = number;
    this.#active();
  }

  /** The n-th class of the list, for keys. @param {number} n */
  nth(n) { if (this.store.classes[n]) this.choose(this.store.classes[n].number); }

  #change(number, what) { this.store.setClasses(this.store.classes.map((c) => (c.number === number ? { ...c, ...what } : c))); }

  #rename(item, field) {
    const name = field.value.trim().replace(/\s+/g, " ");
    if (name === item.name) return;
    const twice = this.store.classes.some((c) => c.number !== item.number && c.name.toLowerCase() === name.toLowerCase());
    const fits = NAME.test(name) && name.length <= 60 && name !== "images" && name !== "masks";
    if (twice || !fits) {
      toast(twice ? `There is a class '${name}' already.` : "Names hold letters, digits, spaces and _ . + - only.", "bad");
      field.value = item.name;
      return;
    }
    this.#change(item.number, { name });
  }

  #delete(item) {
    const shots = this.#shots(item.number);
    if (shots && !confirm(`Delete '${item.name}' and its marks in ${shots} photo${shots === 1 ? "" : "s"}? This cannot be undone.`)) return;
    this.editor.forget();
    this.store.setClasses(this.store.classes.filter((c) => c.number !== item.number));
    this.store.settled().then(() => this.store.refresh()).then(() => this.predictor.start()).catch(() => {});
  }

  #shots(number) { return [...this.store.photos.values()].filter((photo) => photo.mark?.numbers.includes(number)).length; }

  draw() {
    const focused = document.activeElement?.classList?.contains("class-name") ? document.activeElement : null;
    if (focused?.tagName === "INPUT") return void focused.addEventListener("blur", () => setTimeout(() => this.draw()), { once: true });
    const rows = this.store.classes.map((item, n) => this.#row(item, n));
    rows.push(this.#ignoreRow());
    $("classes").replaceChildren(...rows);
    this.#active();
    const shots = [...this.store.photos.values()].filter((photo) => photo.mark).length;
    $("side-note").textContent =
      shots === 0 ? "Mark one object in one photo. It is looked for in all the others at once."
      : !this.store.classes.some((c) => this.#shots(c.number) > 1) ? "Open a photo where the result is wrong and correct it: it becomes the next shot."
      : "The score says how well the shots of a class explain each other: each is found with the others alone (IoU).";
  }

  #row(item, n) {
    const shots = this.#shots(item.number), score = this.predictor.scores.get(item.number);
    const figures = make("div", { class: "class-figures" }, make("span", {}, make("b", { text: String(shots) }), shots === 1 ? " shot" : " shots"));
    const row = make("li", { class: "class", "data-number": String(item.number), onclick: () => this.choose(item.number) });
    const colour = make("input", { type: "color", class: "class-colour", value: item.colour, "aria-label": `Colour of ${item.name}`, onchange: (event) => this.#change(item.number, { colour: event.target.value }) });
    const name = make("input", { class: "class-name", value: item.name, maxlength: "60", spellcheck: "false", "aria-label": "Name of the class", onblur: (event) => this.#rename(item, event.target), onfocus: () => this.choose(item.number) });
    name.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") { if (event.key === "Escape") name.value = item.name; name.blur(); } });
    const trash = make("button", { class: "icon small", "aria-label": `Delete ${item.name}`, title: "Delete this class", onclick: (event) => { event.stopPropagation(); this.#delete(item); } }, icon("trash"));
    row.append(colour, name, trash);
    if (score?.scores.length && shots > 1) {
      const mean = score.scores.reduce((a, b) => a + b) / score.scores.length;
      figures.append(make("span", { class: "score", title: score.scores.map(percent).join(", ") }, "score ", make("b", { text: percent(mean) })));
      if (score.gained !== null) {
        const by = Math.round(score.gained * 1000) / 10, text = `${by > 0 ? "+" : by < 0 ? "\u2212" : "\u00b1"}${Math.abs(by)}`;
        figures.append(make("span", { class: `gain ${by > 0 ? "up" : by < 0 ? "down" : ""}`, title: "What the newest shot has added to the score of the others", text: `${text} by the newest` }));
      }
      const bar = make("i");
      bar.style.width = `${Math.max(2, mean * 100)}%`;
      row.append(figures, make("div", { class: "class-bar", "aria-hidden": "true" }, bar));
    } else row.append(figures);
    if (n < 9) figures.append(make("span", { class: "grow" }), make("span", { class: "key", title: `Key ${n + 1}`, text: String(n + 1) }));
    return row;
  }

  #ignoreRow() {
    return make("li", { class: "class", "data-number": String(IGNORE), onclick: () => this.choose(IGNORE) },
      make("span", { class: "class-colour hatched", "aria-hidden": "true" }),
      make("button", { class: "class-name small", text: "Ignore", onclick: () => this.choose(IGNORE), title: "Pixels that count for nothing, such as unclear borders" }),
      make("span", { class: "key", text: "Alt 0", title: "Alt and 0" }),
      make("div", { class: "class-figures", text: "Counts for nothing" }));
  }

  #active() {
    const { active } = this.editor;
    for (const row of $("classes").children) row.classList.toggle("active", Number(row.dataset.number) === active);
    const current = this.store.classes.find((c) => c.number === active), dot = make("span", { class: "dot" });
    if (current) dot.style.background = current.colour;
    $("side-open").replaceChildren(dot, make("span", { text: active === IGNORE ? "Ignore" : current?.name ?? "Classes" }));
  }
}
