// Regions of a label map and their outlines, exact to the pixel: Python's runtime/results/instances.py and polygons.py.

// parts of a pixel in which a keyhole's points are counted, one of them its distance to the edge of the pixel
const PARTS = 10;
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/**
 * @typedef {number[][]} Ring  corners x, y along the edges of pixels, not closed; around a hole the other way
 * @typedef {{label: number, area: number, outer: Ring, holes: Ring[]}} Region  connected by edges of its pixels
 */

/**
 * The regions of each class, the largest of a class first.
 * @param {Uint8Array} labels @param {number} width @param {number} height @param {number} classes
 * @returns {Region[]}
 */
export function regions(labels, width, height, classes) {
  const numbers = new Int32Array(labels.length), found = [], waiting = [];
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (!label || label > classes || numbers[i]) continue;
    const number = found.length + 1;
    let area = 0;
    numbers[i] = number;
    waiting.push(i);
    while (waiting.length) {
      const at = waiting.pop(), x = at % width;
      area++;
      const near = (next) => {
        if (labels[next] !== label || numbers[next]) return;
        numbers[next] = number;
        waiting.push(next);
      };
      if (x > 0) near(at - 1);
      if (x < width - 1) near(at + 1);
      if (at >= width) near(at - width);
      if (at + width < labels.length) near(at + width);
    }
    found.push({ label, area, number });
  }
  const rings = traced(numbers, width, height, found.length);
  found.sort((a, b) => a.label - b.label || b.area - a.area || a.number - b.number);
  return found.map(({ label, area, number }) => {
    const [outer, ...holes] = rings[number];
    return { label, area, outer, holes };
  });
}

/** The rings of all regions, the outer one first. @returns {Ring[][]} by the number of the region */
function traced(numbers, width, height, count) {
  /** @type {Ring[][]} */
  const rings = Array.from({ length: count + 1 }, () => []);
  const seen = new Uint8Array(numbers.length);
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : numbers[y * width + x]);
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i];
    if (!number || seen[i] || (i >= width && numbers[i - width] === number)) continue;
    // along the edges with the region to the right, from the upper edge of this pixel on
    const startX = i % width, startY = Math.floor(i / width), ring = [];
    let x = startX, y = startY, way = 0;
    do {
      if (way === 0) seen[y * width + x] = 1;
      x += STEPS[way][0];
      y += STEPS[way][1];
      const [right, left] = [[[x, y], [x, y - 1]], [[x - 1, y], [x, y]], [[x - 1, y - 1], [x - 1, y]], [[x, y - 1], [x - 1, y - 1]]][way];
      // where two pixels touch at a corner, the region holds together and what is around it does not
      const turn = at(...left) === number ? 3 : at(...right) === number ? 0 : 1;
      if (turn) ring.push([x, y]);
      way = (way + turn) % 4;
    } while (x !== startX || y !== startY || way !== 0);
    rings[number].push(ring);
  }
  return rings;
}

/** One ring for formats without holes, a tenth of a pixel inside the edges. @param {Region} region @returns {number[][]} */
export function keyhole({ outer, holes }) {
  let ring = inset(outer);
  const top = (points) => points.reduce((least, [, y]) => Math.min(least, y), Infinity);
  // what lies above a hole is joined before it
  for (const { hole } of holes.map((one) => inset(one)).map((hole) => ({ hole, y: top(hole) })).sort((a, b) => a.y - b.y)) ring = joined(ring, hole);
  return ring.map(([x, y]) => [x / PARTS, y / PARTS]);
}

/** A ring within the pixels of the region that it bounds, in parts of a pixel. @param {Ring} ring */
function inset(ring) {
  const goes = ring.map(([x, y], n) => {
    const [nextX, nextY] = ring[(n + 1) % ring.length];
    return [Math.sign(nextX - x), Math.sign(nextY - y)];
  });
  const points = ring.flatMap(([x, y], n) => {
    const [cameX, cameY] = goes[(n + ring.length - 1) % ring.length], [goesX, goesY] = goes[n];
    return [[x * PARTS - cameY - cameX, y * PARTS + cameX - cameY], [x * PARTS - goesY + goesX, y * PARTS + goesX + goesY]];
  });
  return points.filter(([x, y], n) => {
    const [beforeX, beforeY] = points[(n + points.length - 1) % points.length];
    return x !== beforeX || y !== beforeY;
  });
}

/** A hole joined to the ring above it by a cut of no width. @param {number[][]} ring @param {number[][]} hole */
function joined(ring, hole) {
  let start = 0;
  hole.forEach(([x, y], n) => {
    if (y < hole[start][1] || (y === hole[start][1] && x < hole[start][0])) start = n;
  });
  const [x, y] = hole[start];
  let at = -1;
  ring.forEach(([fromX, fromY], n) => {
    const [toX, toY] = ring[(n + 1) % ring.length];
    const above = fromY === toY && fromY < y && Math.min(fromX, toX) <= x && x <= Math.max(fromX, toX);
    // straight up, all pixels belong to the region until its next rim
    if (above && (at < 0 || fromY > ring[at][1])) at = n;
  });
  const foot = [x, ring[at][1]], around = [...hole.slice(start), ...hole.slice(0, start)];
  return [...ring.slice(0, at + 1), foot, ...around, around[0], foot, ...ring.slice(at + 1)];
}
