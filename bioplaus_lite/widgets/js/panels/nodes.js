// The parts of a diagram: nodes, edges, their key and their scales.

import { svg } from "../controls.js";
import { clamp, colourBar, fixed, LINE, TICK } from "../drawing.js";
import { arrowHead, trace } from "./axes.js";

/** Two figures and at most four decimals, as in "−1.6", "0.026" and "0.0004"; below that a power of ten. */
export function brief(v) {
  if (v === 0) return "0";
  const power = Math.floor(Math.log10(Math.abs(v)));
  if (power >= -4) return fixed(v, clamp(1 - power, 0, 4));
  return fixed(v, 6).replace(/\.\d/, ""); // one figure is enough beside the power
}

/** Black or white, whichever is easier to read on a colour: one of them has a contrast of at least 4.5 : 1. */
export function inkOn(rgb) {
  const linear = (c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * linear(rgb[i]), 0);
  return light > 0.179 ? "#000000" : "#ffffff";
}

/** Half the width and height that a shape needs around a text, with a second line above it if there is a label. */
export function nodeSize(shape, text, label) {
  const half = text / 2;
  if (shape === "circle") { const r = Math.max(label ? half + 5 : half + 3, label ? 21 : 12); return { w: r, h: r }; }
  if (shape === "square") { const r = Math.max(half + 3, label ? 17 : 12); return { w: r, h: label ? 17 : 12 }; }
  return { w: Math.max(half, 6) + (shape === "ellipse" ? 6 : 9), h: label ? 19 : 12 };
}

/** The outline of a node around (x, y) as a path. */
export function outline(shape, x, y, { w, h }) {
  if (shape === "square") return `M${x - w} ${y - h}h${2 * w}v${2 * h}h${-2 * w}Z`;
  if (shape === "hexagon") return `M${x - w} ${y}l9 ${-h}h${2 * w - 18}l9 ${h}l-9 ${h}h${18 - 2 * w}Z`;
  return `M${x - w} ${y}a${w} ${h} 0 1 0 ${2 * w} 0a${w} ${h} 0 1 0 ${-2 * w} 0Z`;
}

export const wireClass = (kind, strong) => `bp-wire bp-wire-${kind}${strong ? " bp-on" : ""}`;

/** All edges of a bundle, each from the outline of one node to that of another. */
export function drawBundle({ kind, pairs }, { nodes, X, Y, size }) {
  const reach = (i, c, s) => { // from the centre of a node to its outline
    const { w, h } = size(i);
    return ["circle", "ellipse"].includes(nodes[i].shape) ? 1 / Math.hypot(c / w, s / h)
      : Math.min(w / Math.abs(c), h / Math.abs(s));
  };
  const lines = pairs.map(([from, to]) => {
    const [dx, dy] = [X(to) - X(from), Y(to) - Y(from)];
    const length = Math.hypot(dx, dy);
    const [c, s] = [dx / length, dy / length];
    const [start, end] = [reach(from, c, s), length - reach(to, c, s) - (kind === "trunk" ? 0 : 2)];
    return { c, s, start: [X(from) + start * c, Y(from) + start * s], end: [X(from) + end * c, Y(from) + end * s] };
  });
  return wire(kind, lines);
}

/** Shafts, and what stands at their ends: heads of arrows, bars, or nothing. */
function wire(kind, lines) {
  const back = { arrow: 7, bar: 1.5, trunk: 0 }[kind];
  const shafts = lines.map(({ c, s, start, end: [x, y] }) => trace([start, [x - back * c, y - back * s]])).join("");
  const ends = lines.map(({ c, s, end: [x, y] }) => ({
    arrow: () => arrowHead(x, y, c, s, 9),
    bar: () => trace([[x - 1.5 * c - 6 * s, y - 1.5 * s + 6 * c], [x - 1.5 * c + 6 * s, y - 1.5 * s - 6 * c]]),
    trunk: () => "",
  }[kind]())).join("");
  return svg("g", { class: wireClass(kind, true) },
    svg("path", { d: shafts, class: "bp-wire-shaft" }), svg("path", { d: ends, class: "bp-wire-end" }));
}

/** What shapes and edges stand for, in as many lines as it takes; gives where the next thing may begin. */
export function drawKey(page, key, y) {
  let [x, line] = [2, y + 8];
  for (const [mark, words] of key) {
    const width = 30 + page.measure(words);
    if (x > 2 && x + width > page.width) [x, line] = [2, line + LINE + 2];
    if (["arrow", "bar", "trunk"].includes(mark)) {
      page.root.append(wire(mark, [{ c: 1, s: 0, start: [x, line], end: [x + 23, line] }]));
    } else {
      const [shape, name] = { new: ["circle", " bp-new"], empty: ["circle", " bp-empty"] }[mark] ?? [mark, ""];
      const small = { w: { ellipse: 11, hexagon: 12 }[shape] ?? 6.5, h: 6.5 };
      page.add("path", { d: outline(shape, x + 12, line, small), class: `bp-body bp-sample${name}` });
    }
    page.write(words, x + 29, line + 4, "bp-tick");
    x += width + 14;
  }
  return key.length ? line + 20 : y;
}

/** The colour bar, with a row of ticks for each scale. */
export function drawScales(page, { scales, nodes, values, clabel }, y) {
  const lines = page.wrap(clabel, page.width - 4);
  page.write(lines, 2, y + TICK, "bp-label");
  const top = y + LINE * lines.length + 4;
  const named = scales.some((scale) => scale.name);
  const bar = { x: 26, y: top, width: Math.min(named ? 0.38 * page.width : page.width - 60, 220), height: 12 };
  colourBar(page, bar, "diverging");
  let row = top + 27;
  scales.forEach(({ name, limit }, k) => {
    const beyond = values.some((now, step) => now.some((v, i) => (
      nodes[i].scale === k && nodes[i].since <= step && Math.abs(v) > limit)));
    const end = (v) => `${beyond ? (v < 0 ? "≤ " : "≥ ") : ""}${brief(v)}`;
    page.write(end(-limit), bar.x - 24, row, "bp-tick");
    page.write("0", bar.x + bar.width / 2, row, "bp-tick", "middle");
    page.write(end(limit), bar.x + bar.width + 24, row, "bp-tick", "end");
    const words = page.wrap(name, page.width - bar.x - bar.width - 36, TICK);
    page.write(words, bar.x + bar.width + 34, row, "bp-tick");
    row += LINE * Math.max(1, words.length);
  });
  return row - 8;
}
