// Small things of the page: icons, messages, elements.

/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/** Put icons.svg into the page, so that they are there when the server is not. */
export async function loadIcons() {
  const text = await (await fetch("icons.svg")).text();
  const sprite = document.importNode(new DOMParser().parseFromString(text, "image/svg+xml").documentElement, true);
  sprite.setAttribute("hidden", "");
  document.body.append(sprite);
}

/** An icon of icons.svg. @param {string} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("ic");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Give each element with data-icon its icon. */
export function drawIcons(root = document) {
  for (const element of root.querySelectorAll("[data-icon]")) {
    if (!element.querySelector(".ic")) element.prepend(icon(element.dataset.icon));
  }
}

/**
 * An element.
 * @param {string} tag @param {Record<string, any>} [attributes] `text`, `on*` and attributes
 * @param {...(Node | string)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A message that goes by itself; what went wrong stays longer. @param {string} text @param {"bad" | ""} kind */
export function toast(text, kind = "") {
  const all = $("toasts");
  for (const old of [...all.children]) if (old.dataset.text === text) old.remove();
  const one = make("div", { class: `toast ${kind}`, "data-text": text }, ...(kind ? [icon("warn")] : []), make("p", { text }));
  const close = make("button", { "aria-label": "Close", onclick: () => one.remove() }, icon("close"));
  one.append(close);
  all.append(one);
  while (all.children.length > 4) all.firstChild.remove();
  setTimeout(() => one.remove(), kind ? 12000 : 4500);
}

/** Let the page breathe between two pieces of work. */
export const breath = () => new Promise((resolve) => setTimeout(resolve));

/** A dialog opens; those with data-close close it. @param {string} id @param {() => void} [closed] */
export function sheet(id, closed = () => {}) {
  const dialog = $(id);
  for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", closed);
  return dialog;
}
