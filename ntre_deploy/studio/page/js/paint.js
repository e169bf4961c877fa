// Label maps as pictures: each class tinted, with an outline.

import { clipped } from "./labels.js";
import { IGNORE } from "./store.js";

const FILL = 0.4;
const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

function pack(r, g, b, a) {
  return (little ? (a << 24) | (b << 16) | (g << 8) | r : (r << 24) | (g << 16) | (b << 8) | a) >>> 0;
}

/** Colours of the classes as tables of pixels. @param {{number: number, colour: string}[]} classes */
export function tables(classes) {
  const inner = new Uint32Array(256), edge = new Uint32Array(256);
  for (const { number, colour } of classes) {
    const value = parseInt(colour.slice(1), 16);
    const rgb = [value >> 16, (value >> 8) & 255, value & 255];
    inner[number] = pack(...rgb, Math.round(255 * FILL));
    edge[number] = pack(...rgb, 255);
  }
  edge[IGNORE] = pack(150, 160, 160, 255);
  return { inner, edge, hatch: [pack(170, 180, 180, 190), pack(30, 40, 40, 110)] };
}

/**
 * Paint a part of a label map.
 * @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context as large as the map
 * @param {Uint8Array} labels @param {number} width @param {number} height
 * @param {ReturnType<typeof tables>} colours
 * @param {import("./labels.js").Rect} [rect] what has changed; else all
 */
export function paint(context, labels, width, height, colours, rect) {
  // an outline that a person sees when the photo is fitted into the window
  const reach = Math.max(1, Math.round(Math.max(width, height) / 700));
  const part = rect
    ? clipped(rect.x - reach, rect.y - reach, rect.x + rect.width + reach, rect.y + rect.height + reach, width, height)
    : { x: 0, y: 0, width, height };
  if (!part) return;
  const picture = new ImageData(part.width, part.height);
  const out = new Uint32Array(picture.data.buffer);
  const { inner, edge, hatch } = colours, down = reach * width, period = Math.max(6, reach * 6);
  for (let y = 0, o = 0; y < part.height; y++) {
    const row = part.y + y, top = row >= reach, bottom = row < height - reach;
    let i = row * width + part.x;
    for (let x = 0; x < part.width; x++, i++, o++) {
      const label = labels[i];
      if (label === 0) continue;
      const column = part.x + x;
      const rim =
        (column >= reach && labels[i - reach] !== label) || (column < width - reach && labels[i + reach] !== label) ||
        (top && labels[i - down] !== label) || (bottom && labels[i + down] !== label);
      if (rim) out[o] = edge[label];
      else out[o] = label === IGNORE ? hatch[(column + row) % period < period / 2 ? 0 : 1] : inner[label];
    }
  }
  context.putImageData(picture, part.x, part.y);
}

/** A colour for the n-th class, spread over the hues by the golden ratio, as `ntre segment` does. @param {number} n */
export function classColour(n) {
  const hue = (0.89 + (n - 1) * 0.618033988749895) % 1, full = 1, low = 1 - 0.85;
  const sector = Math.floor(hue * 6), f = hue * 6 - sector;
  const fall = full * (1 - 0.85 * f), rise = full * (1 - 0.85 * (1 - f));
  const rgb = [[full, rise, low], [fall, full, low], [low, full, rise], [low, fall, full], [rise, low, full], [full, low, fall]];
  return "#" + rgb[sector % 6].map((v) => Math.round(255 * v).toString(16).padStart(2, "0")).join("");
}
