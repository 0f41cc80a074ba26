// Points of two classes in a plane, for the playground. All lie about within [-1, 1]; `noise` is the standard deviation
// of what is added to each coordinate. n points, the classes in turn, so that any batch of neighbours holds both.
//
//   POINTS[name]                                → { label, noise: a default, at(t, u, class) → [x, y] without noise }
//   scatter(name, n, { noise, random })         → { X, Y, classes: 2 };  `random` of mulberry32(seed), as in rules.js
//   digitsOf(packed)                            → { X, Y, classes: 10 }; packed: the train or test of small_digits in
//                                                 bioplaus_lite/widgets/players/playground.py; greys in [-1, 1]
//   inRange(X, [least, most])                   → X mapped from [-1, 1] and cut off there, for a rule with `inputs`

import { normal } from "./rules.js";

const circle = (turns, radius) => [radius * Math.cos(2 * Math.PI * turns), radius * Math.sin(2 * Math.PI * turns)];

export const POINTS = {
  moons: {
    label: "Two moons",
    noise: 0.06,
    at(t, u, k) { // two half circles, the second turned round and moved into the first
      const [x, y] = circle(t / 2, 0.6);
      return k ? [0.3 - x, 0.15 - y] : [x - 0.3, y - 0.15];
    },
  },
  circles: { label: "Circles", noise: 0.06, at: (t, u, k) => circle(t, k ? 0.85 : 0.35) },
  xor: {
    label: "XOR",
    noise: 0.02,
    at(t, u, k) { // opposite quadrants belong together
      const x = 2 * t - 1;
      return [x, Math.sign(x) * (k ? -u : u)];
    },
  },
  spirals: {
    label: "Spirals",
    noise: 0.02,
    at: (t, u, k) => circle(1.25 * Math.sqrt(t) + k / 2, 0.1 + 0.85 * Math.sqrt(t)), // the root: as dense everywhere
  },
};

export function scatter(name, n, { noise, random }) {
  if (!POINTS[name]) throw new Error(`data must be one of ${Object.keys(POINTS).join(", ")}, not ${name}`);
  const [shape, Y] = [POINTS[name], Array.from({ length: n }, (_, i) => i % 2)];
  const spread = noise ?? shape.noise;
  const X = Y.map((k) => Float64Array.from(shape.at(random(), random(), k), (v) => v + spread * normal(random)));
  return { X, Y, classes: 2 };
}

/** Pixels of two a byte in base64, image after image, and a string of labels. */
export function digitsOf({ side, greys, classes, images, labels }) {
  const pixels = Array.from(atob(images), (c) => c.charCodeAt(0)).flatMap((byte) => [byte >> 4, byte & 15]);
  const image = (i) => pixels.slice(i * side * side, (i + 1) * side * side);
  const X = Array.from(labels, (_, i) => Float64Array.from(image(i), (v) => (2 * v) / (greys - 1) - 1));
  return { X, Y: Array.from(labels, Number), classes };
}

export const inRange = (X, [least, most]) =>
  X.map((row) => row.map((v) => least + ((most - least) * (Math.min(Math.max(v, -1), 1) + 1)) / 2));
