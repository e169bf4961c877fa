/** What makes the margins of several classes comparable, as Python's `runtime.calibration`, which says why. */

import { resizeAreaFloat } from "./resize.js";

/** @typedef {import("./labels.js").Logits} Logits */

/** @typedef {{ offset: number, scale: number }} Calibration a class's margin m becomes (m - offset) * scale */

// shares of the mean margins on the targets of the others and on the own ones
const OTHERS = 0.5,
  OWN = 0.05;
const { fround } = Math;

/**
 * Logits whose margins are calibrated; the same ones where there is nothing to do.
 * @param {Logits} logits
 * @param {(Calibration | null)[]} calibrations of each class; without one of all of several, none counts
 * @returns {Logits}
 */
export function calibrated(logits, calibrations) {
  if (calibrations.length < 2 || calibrations.some((own) => own === null)) return logits;
  const data = Float32Array.from(logits.data);
  const plane = logits.height * logits.width;
  for (const [n, own] of calibrations.entries()) {
    const offset = fround(own?.offset ?? 0),
      scale = fround(own?.scale ?? 1);
    const shift = fround(offset * scale);
    const rest = 2 * n * plane;
    for (let i = rest; i < rest + 2 * plane; i++) data[i] *= scale;
    for (let i = rest + plane; i < rest + 2 * plane; i++) data[i] -= shift;
  }
  return { ...logits, data };
}

/**
 * Mean margin of each class over a target.
 * @param {Logits} logits of a support image
 * @param {Float32Array} target [size, size] of 0 and 1
 * @param {number} size
 * @returns {number[] | null} null where nothing of the target is left
 */
function response(logits, target, size) {
  const { data, classes, height, width } = logits;
  const weights = resizeAreaFloat(target, 1, 1, size, size, width, height);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (!(total > 0)) return null;
  const plane = height * width;
  return Array.from({ length: classes }, (_, n) => {
    let sum = 0;
    for (let i = 0, rest = 2 * n * plane; i < plane; i++) {
      sum += fround(data[rest + plane + i] - data[rest + i]) * weights[i];
    }
    return sum / total;
  });
}

/**
 * Mean margin of each class over the targets of each class.
 * @param {Float32Array[][]} targets for each class the masks [size, size] of its supports
 * @param {number} size
 * @param {(d: number, k: number) => Promise<Logits>} logits of shot k of class d, where d is encoded without that shot
 *   if it has others
 * @returns {Promise<number[][]>} row c, column d: of class c over the targets of d; NaN where there are none
 */
export async function responses(targets, size, logits) {
  const table = targets.map(() => targets.map(() => NaN));
  for (const [d, own] of targets.entries()) {
    const found = [];
    // every shot is asked for: scores are made of the same logits
    for (const [k, target] of own.entries()) found.push(response(await logits(d, k), target, size));
    const seen = found.filter((means) => means !== null);
    for (const [c, row] of table.entries()) {
      if (seen.length) row[d] = seen.reduce((sum, means) => sum + means[c], 0) / seen.length;
    }
  }
  return table;
}

/**
 * Calibration of each class, from the result of `responses`.
 * @param {number[][]} table
 * @returns {Calibration[]}
 */
export function fitCalibrations(table) {
  return table.map((row, c) => {
    const others = row.filter((mean, d) => d !== c && Number.isFinite(mean));
    const mean = others.length ? others.reduce((sum, value) => sum + value, 0) / others.length : 0;
    const own = Number.isFinite(row[c]) ? row[c] : 0;
    return { offset: OTHERS * Math.max(mean, 0) + OWN * Math.max(own, 0), scale: 1 };
  });
}
