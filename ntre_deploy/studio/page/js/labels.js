// Label maps: one byte a pixel, row after row; 0 is nothing, 1 to 254 classes, 255 to be ignored.

/** @typedef {{x: number, y: number, width: number, height: number}} Rect */

/** The numbers that occur, without 0. @param {Uint8Array} labels */
export function presentNumbers(labels) {
  const seen = new Uint8Array(256);
  for (let i = 0; i < labels.length; i++) seen[labels[i]] = 1;
  const found = new Set();
  for (let n = 1; n < 256; n++) if (seen[n]) found.add(n);
  return found;
}

/** Whether anything is marked; four pixels at a time where they lie so. @param {Uint8Array} labels */
export function anything(labels) {
  const words = labels.byteOffset % 4 ? null : new Uint32Array(labels.buffer, labels.byteOffset, labels.length >> 2);
  let from = 0;
  if (words) {
    for (let i = 0; i < words.length; i++) if (words[i]) return true;
    from = words.length << 2;
  }
  for (let i = from; i < labels.length; i++) if (labels[i]) return true;
  return false;
}

/** A rectangle of whole pixels inside the picture; null where nothing is left. @returns {Rect | null} */
export function clipped(x1, y1, x2, y2, width, height) {
  const left = Math.max(0, Math.floor(x1)), top = Math.max(0, Math.floor(y1));
  const right = Math.min(width, Math.ceil(x2)), bottom = Math.min(height, Math.ceil(y2));
  return right > left && bottom > top ? { x: left, y: top, width: right - left, height: bottom - top } : null;
}

let scratch = null;

/**
 * Fill a shape that a canvas draws; a pixel counts where it is covered by half.
 * @param {Uint8Array} labels @param {number} width of the picture @param {Rect} rect where the shape lies
 * @param {(context: OffscreenCanvasRenderingContext2D) => void} draw @param {number} value
 */
export function fill(labels, width, rect, draw, value) {
  scratch ??= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  if (scratch.canvas.width < rect.width || scratch.canvas.height < rect.height) {
    scratch.canvas.width = Math.max(scratch.canvas.width, rect.width);
    scratch.canvas.height = Math.max(scratch.canvas.height, rect.height);
  }
  scratch.save();
  scratch.clearRect(0, 0, rect.width, rect.height);
  scratch.translate(-rect.x, -rect.y);
  scratch.fillStyle = scratch.strokeStyle = "#000";
  draw(scratch);
  scratch.restore();
  const alpha = scratch.getImageData(0, 0, rect.width, rect.height).data;
  for (let y = 0, a = 3; y < rect.height; y++) {
    let i = (rect.y + y) * width + rect.x;
    for (let x = 0; x < rect.width; x++, i++, a += 4) if (alpha[a] > 127) labels[i] = value;
  }
}

/** Where two maps differ. @param {Uint8Array} a @param {Uint8Array} b @returns {Rect | null} */
export function difference(a, b, width, height) {
  let left = width, right = -1, top = -1, bottom = -1;
  for (let y = 0; y < height; y++) {
    const row = y * width;
    for (let x = 0; x < width; x++) {
      if (a[row + x] === b[row + x]) continue;
      if (top < 0) top = y;
      bottom = y;
      if (x < left) left = x;
      if (x > right) right = x;
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

/** @param {Uint8Array} labels @param {number} width @param {Rect} rect */
export function crop(labels, width, rect) {
  const out = new Uint8Array(rect.width * rect.height);
  for (let y = 0; y < rect.height; y++) {
    const from = (rect.y + y) * width + rect.x;
    out.set(labels.subarray(from, from + rect.width), y * rect.width);
  }
  return out;
}

/** @param {Uint8Array} labels @param {number} width @param {Rect} rect @param {Uint8Array} part */
export function paste(labels, width, rect, part) {
  for (let y = 0; y < rect.height; y++) {
    labels.set(part.subarray(y * rect.width, (y + 1) * rect.width), (rect.y + y) * width + rect.x);
  }
}

/** Every n-th pixel, for a thumbnail. @returns {{labels: Uint8Array, width: number, height: number}} */
export function thinned(labels, width, height, side) {
  const step = Math.ceil(Math.max(width, height) / side);
  if (step <= 1) return { labels, width, height };
  const half = step >> 1, w = Math.ceil((width - half) / step), h = Math.ceil((height - half) / step);
  const out = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) {
    const row = (half + y * step) * width + half;
    for (let x = 0; x < w; x++) out[y * w + x] = labels[row + x * step];
  }
  return { labels: out, width: w, height: h };
}
