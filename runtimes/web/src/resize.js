/**
 * OpenCV's resize written out, for the same grey levels as Python's `runtime.letterbox`, every one; the arithmetic is
 * that of
 * `kernels/reference.py`.  Pixels are bytes of `channels` each (3 RGB, 4 RGBA), of which the first three are taken.
 */

const ONE = 2048;
const { fround } = Math;

/**
 * @typedef {object} Pixels an image
 * @property {Uint8Array | Uint8ClampedArray} data row by row, `channels` bytes a pixel
 * @property {number} width
 * @property {number} height
 * @property {number} channels 3 or 4
 */

/**
 * Half to even, as Python's `round`, NumPy's `rint` and OpenCV's `cvRound`.
 * @param {number} value
 */
export function roundHalfEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

/**
 * Positions and fixed-point shares of bilinear interpolation with pixel centres aligned.
 * @param {number} nOut
 * @param {number} nIn
 * @param {boolean} isColumn OpenCV drops the share outside the image for columns, and only clamps the index for rows
 */
function linearTaps(nOut, nIn, isColumn) {
  const low = new Int32Array(nOut),
    high = new Int32Array(nOut);
  const lowShare = new Int32Array(nOut),
    highShare = new Int32Array(nOut);
  const last = nIn - 1;
  for (let i = 0; i < nOut; i++) {
    const at = fround(((2 * i + 1) * nIn - nOut) / (2 * nOut));
    let first = Math.floor(at);
    let share = fround(at - first);
    if (isColumn) {
      if (first < 0 || first >= last) share = 0;
      first = Math.min(Math.max(first, 0), last);
    }
    low[i] = Math.min(Math.max(first, 0), last);
    high[i] = Math.min(Math.max(first + 1, 0), last);
    lowShare[i] = roundHalfEven(fround(fround(1 - share) * ONE));
    highShare[i] = roundHalfEven(fround(share * ONE));
  }
  return { low, high, lowShare, highShare };
}

/**
 * `cv2.INTER_LINEAR` of bytes.
 * @param {Pixels} image
 * @param {number} width
 * @param {number} height
 * @returns {Uint8Array} RGB [height, width, 3]
 */
export function resizeLinear(image, width, height) {
  const { data, channels } = image;
  const stride = image.width * channels;
  const x = linearTaps(width, image.width, true),
    y = linearTaps(height, image.height, false);
  const out = new Uint8Array(width * height * 3);
  // the rows of the source that the last two lines were made of
  const kept = [-1, -1];
  const lines = [new Int32Array(width * 3), new Int32Array(width * 3)];
  /** @param {number} row @param {number} other a row that must stay */
  const line = (row, other) => {
    let place = kept.indexOf(row);
    if (place >= 0) return lines[place];
    place = kept[0] === other ? 1 : 0;
    kept[place] = row;
    const made = lines[place];
    for (let i = 0, o = 0; i < width; i++) {
      const a = row * stride + x.low[i] * channels,
        b = row * stride + x.high[i] * channels;
      const s = x.lowShare[i],
        t = x.highShare[i];
      made[o++] = (data[a] * s + data[b] * t) >> 4;
      made[o++] = (data[a + 1] * s + data[b + 1] * t) >> 4;
      made[o++] = (data[a + 2] * s + data[b + 2] * t) >> 4;
    }
    return made;
  };
  for (let j = 0, o = 0; j < height; j++) {
    const upper = line(y.low[j], y.high[j]),
      lower = line(y.high[j], y.low[j]);
    const s = y.lowShare[j],
      t = y.highShare[j];
    for (let i = 0; i < width * 3; i++) {
      // below 2^31: a share is at most 2^11 and a line 255 * 2^7
      out[o++] = (((s * upper[i]) >> 16) + ((t * lower[i]) >> 16) + 2) >> 2;
    }
  }
  return out;
}

/**
 * Of each output pixel the covered source pixels and their weights, in one list.
 * @param {number} nOut
 * @param {number} nIn
 * @param {boolean} whole every factor is a whole number: weights are 1, and the area divides at the end
 * @returns {{ starts: Int32Array, sources: Int32Array, weights: Float32Array }}
 */
function areaTaps(nOut, nIn, whole) {
  const starts = new Int32Array(nOut + 1);
  /** @type {number[]} */
  const sources = [];
  /** @type {number[]} */
  const weights = [];
  for (let i = 0; i < nOut; i++) {
    // in units of 1 / nOut pixel
    const begin = i * nIn,
      end = begin + nIn;
    for (let s = Math.floor(begin / nOut); s * nOut < end && s < nIn; s++) {
      const covered = Math.min((s + 1) * nOut, end) - Math.max(s * nOut, begin);
      // a pixel covered by less than 1/1000 is left out, as in OpenCV
      if (covered <= 0 || (covered < nOut && covered * 1000 <= nOut)) continue;
      sources.push(s);
      weights.push(whole ? 1 : fround(fround(covered) / fround(nIn)));
    }
    starts[i + 1] = sources.length;
  }
  return { starts, sources: Int32Array.from(sources), weights: Float32Array.from(weights) };
}

/**
 * `cv2.INTER_AREA` of planes or pixels of any kind, to float32 that is not rounded yet: one product and one sum at a
 * time, in
 * OpenCV's order, because it decides how ties round.
 * @param {ArrayLike<number>} data [inHeight, inWidth, channels]
 * @param {number} channels of the source
 * @param {number} taken of each pixel's channels, the first so many
 * @param {number} inWidth
 * @param {number} inHeight
 * @param {number} width
 * @param {number} height
 * @returns {Float32Array} [height, width, taken]
 */
export function resizeAreaFloat(data, channels, taken, inWidth, inHeight, width, height) {
  const whole = inWidth % width === 0 && inHeight % height === 0;
  const x = areaTaps(width, inWidth, whole),
    y = areaTaps(height, inHeight, whole);
  const out = new Float32Array(height * width * taken);
  const area = whole ? fround(1 / fround((inWidth / width) * (inHeight / height))) : 1;
  for (let j = 0; j < height; j++) {
    const target = out.subarray(j * width * taken, (j + 1) * width * taken);
    for (let n = y.starts[j]; n < y.starts[j + 1]; n++) {
      const row = y.sources[n] * inWidth * channels;
      const share = y.weights[n];
      for (let i = 0; i < width; i++) {
        const from = x.starts[i];
        const to = x.starts[i + 1];
        if (taken === 3) {
          // the usual case, three times as fast without a loop over channels
          let r = 0;
          let g = 0;
          let b = 0;
          for (let m = from; m < to; m++) {
            const at = row + x.sources[m] * channels;
            const weight = x.weights[m];
            r = fround(r + fround(data[at] * weight));
            g = fround(g + fround(data[at + 1] * weight));
            b = fround(b + fround(data[at + 2] * weight));
          }
          target[3 * i] += fround(r * share);
          target[3 * i + 1] += fround(g * share);
          target[3 * i + 2] += fround(b * share);
          continue;
        }
        for (let c = 0; c < taken; c++) {
          let sum = 0;
          for (let m = from; m < to; m++) {
            sum = fround(sum + fround(data[row + x.sources[m] * channels + c] * x.weights[m]));
          }
          target[i * taken + c] += fround(sum * share);
        }
      }
    }
    if (whole) for (let i = 0; i < target.length; i++) target[i] *= area;
  }
  return out;
}

/**
 * `cv2.INTER_AREA` of bytes.
 * @param {Pixels} image
 * @param {number} width
 * @param {number} height
 * @returns {Uint8Array} RGB [height, width, 3]
 */
export function resizeArea(image, width, height) {
  const found = resizeAreaFloat(image.data, image.channels, 3, image.width, image.height, width, height);
  // a Uint8ClampedArray rounds half to even and clamps, as OpenCV does
  return new Uint8Array(Uint8ClampedArray.from(found).buffer);
}

/**
 * Of each output pixel the source pixel of `cv2.INTER_NEAREST_EXACT`: where its centre lies.  OpenCV 5 adds up
 * positions in
 * double precision, which decides where a centre lies between two pixels.
 * @param {number} nOut
 * @param {number} nIn
 */
export function nearestExact(nOut, nIn) {
  const found = new Int32Array(nOut);
  const step = nIn / nOut;
  let at = 0.5 * step;
  for (let i = 0; i < nOut; i++, at += step) found[i] = Math.min(Math.floor(at), nIn - 1);
  return found;
}
