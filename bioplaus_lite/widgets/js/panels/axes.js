// What plots share: axes with their ticks, lines of reference, and the looks of a series.

import { clamp, LINE, TICK, ticks } from "../drawing.js";

export const DASHES = [null, "8 3", "2 3", "9 3 2 3", "5 2", "14 4", "1 3"]; // so that colour is never the only cue

const MARKERS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", // disc
  "M-3.7 -3.7H3.7V3.7H-3.7Z", // square
  "M0 -4.8L4.6 3.6H-4.6Z", // triangle
  "M0 -5.2L5.2 0L0 5.2L-5.2 0Z", // diamond
  "M0 4.8L4.6 -3.6H-4.6Z", // triangle, point down
  "M-1.5 -4.7H1.5V-1.5H4.7V1.5H1.5V4.7H-1.5V1.5H-4.7V-1.5H-1.5Z", // plus
  "M0 -5L1.5 -1.6L5 -1.5L2.3 .9L3.2 4.5L0 2.5L-3.2 4.5L-2.3 .9L-5 -1.5L-1.5 -1.6Z", // star
];

/**
 * Axes, grid, ticks and axis labels. The y label stands above its axis: no one has to tilt the head.
 *
 * A limit that is left out leaves its axis without ticks (bands of bars). `above`, `headroom` and `below` keep room
 * for a legend, for what stands on the plot, and for band labels; `side` asks for a square of at most that size.
 * Returns the box, the scales X and Y, the height used, and a layer that cuts off what lies outside the limits.
 */
export function axes(page, {
  xlim, ylim, xlabel = "", ylabel = "", above = 0, headroom = 0, below = 0, right = 12, side = 0, whole = false,
}) {
  const ylines = page.wrap(ylabel, page.width - 4);
  const top = above + LINE * ylines.length + headroom + 10;
  let height = clamp(0.56 * page.width, 170, 260);
  const yticks = ylim ? ticks(ylim, side ? 5 : height / 34, { degrees: /°|degree/.test(ylabel) }) : [];
  const left = Math.max(6, ...yticks.map((t) => page.measure(t.label) + 10));
  let width = page.width - left - right;
  if (side) width = height = Math.min(width, side); // equal scales
  const xticks = xlim ? ticks(xlim, side ? 5 : width / 64, { whole, degrees: /°|degree/.test(xlabel) }) : [];
  const box = { left, top, right: left + width, bottom: top + height, width, height };
  const X = xlim && ((v) => left + (width * (v - xlim[0])) / (xlim[1] - xlim[0]));
  const gridClass = (v) => (v === 0 ? "bp-zero" : "bp-grid");
  const Y = ylim && ((v) => top + (height * (ylim[1] - v)) / (ylim[1] - ylim[0]));

  page.write(ylines, 0, above + 4 + TICK, "bp-label");
  for (const t of xticks) {
    page.add("line", { x1: X(t.value), x2: X(t.value), y1: top, y2: box.bottom, class: gridClass(t.value) });
    page.write(t.label, X(t.value), box.bottom + 17, "bp-tick", "middle");
  }
  for (const t of yticks) {
    page.add("line", { x1: left, x2: box.right, y1: Y(t.value), y2: Y(t.value), class: gridClass(t.value) });
    page.write(t.label, left - 6, Y(t.value) + 4, "bp-tick", "end");
  }
  if (ylim) page.add("line", { x1: left, x2: left, y1: top, y2: box.bottom, class: "bp-axis" });
  if (xlim) page.add("line", { x1: left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "bp-axis" });
  let used = box.bottom + below + (xticks.length ? 22 : 4);
  const xlines = page.wrap(xlabel, width + left);
  page.write(xlines, Math.max(left + width / 2, page.longest(xlines) / 2), used + 13, "bp-label", "middle");
  used += LINE * xlines.length + 4;
  // A little wider than the box: a stroke or marker on the limit is still whole.
  return { box, X, Y, used, data: page.clip(left - 5, top - 5, width + 10, height + 10) };
}

/** A dashed line at each fixed value, across the plot. */
export function references(page, { box, X, Y }, list) {
  for (const [value] of list) {
    page.add("line", Y ? { x1: box.left, x2: box.right, y1: Y(value), y2: Y(value), class: "bp-reference" }
      : { x1: X(value), x2: X(value), y1: box.top, y2: box.bottom, class: "bp-reference" });
  }
}

export const series = (i) => `bp-s${i % 7}`;

/** An arrow's head with its tip at (x, y), along the unit vector (ux, uy). */
export function arrowHead(x, y, ux, uy, size) {
  const [bx, by, wing] = [x - size * ux, y - size * uy, 0.45 * size];
  return `${trace([[x, y], [bx - wing * uy, by + wing * ux], [bx + wing * uy, by - wing * ux]])}Z`;
}

export const trace = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
export const marker = (page, i, x = 0, y = 0) => page.add("path", {
  d: MARKERS[i % 7], transform: `translate(${x} ${y})`, class: `bp-fill bp-marker ${series(i)}`,
});
