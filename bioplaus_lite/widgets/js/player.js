// The step player: panels side by side that all show the same step. Runs in JupyterLab (anywidget) and, through
// static.py, in any page. A panel is drawn once for a width, in real pixels, so that text never shrinks below 12 px;
// `update(step)` then only moves what changes.

import { assign, html, stepControls, svg } from "./controls.js";
import {
  LABEL, LINE, TICK, clamp, colourBar, css, decimals, figurePanel, fixed, panelBox, picture, spread, ticks, tint,
} from "./drawing.js";

const DASHES = [null, "8 3", "2 3", "9 3 2 3", "5 2", "14 4", "1 3"]; // so that colour is never the only cue
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
function axes(page, {
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
function references(page, { box, X, Y }, list) {
  for (const [value] of list) {
    page.add("line", Y ? { x1: box.left, x2: box.right, y1: Y(value), y2: Y(value), class: "bp-reference" }
      : { x1: X(value), x2: X(value), y1: box.top, y2: box.bottom, class: "bp-reference" });
  }
}

const series = (i) => `bp-s${i % 7}`;
/** An arrow's head with its tip at (x, y), along the unit vector (ux, uy). */
function arrowHead(x, y, ux, uy, size) {
  const [bx, by, wing] = [x - size * ux, y - size * uy, 0.45 * size];
  return `${trace([[x, y], [bx - wing * uy, by + wing * ux], [bx + wing * uy, by - wing * ux]])}Z`;
}
const trace = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
const marker = (page, i, x = 0, y = 0) => page.add("path", {
  d: MARKERS[i % 7], transform: `translate(${x} ${y})`, class: `bp-fill bp-marker ${series(i)}`,
});

// ------------------------------------------------------------------------------------------------------ panels
// Each takes a sheet and the panel as Python wrote it; gives the height, update(step) and describe(step) for <desc>.

/** Curves over all steps: strong up to the current step, faint beyond, with the current values at a cursor. */
function drawLines(page, panel) {
  const { x, curves, at } = panel;
  const digits = decimals(curves.flatMap((c) => c.y));
  const xdigits = decimals(x);
  const names = Math.max(...curves.map((c) => page.measure(c.name, LABEL, 600)));
  const beside = names + 32 <= 0.38 * page.width; // else the names go above the drawing
  let above = 0;
  if (!beside) {
    let row = 2;
    curves.forEach((curve, i) => {
      const wide = page.measure(curve.name, LABEL, 600) + 46;
      if (row > 2 && row + wide > page.width) { row = 2; above += LINE; }
      const sample = { x1: row, x2: row + 26, y1: above + 10, y2: above + 10 };
      page.add("line", { ...sample, class: `bp-curve ${series(i)}`, "stroke-dasharray": DASHES[i] });
      marker(page, i, row + 13, above + 10);
      page.write(curve.name, row + 32, above + 14.5, `bp-label bp-name ${series(i)}`);
      row += wide;
    });
    above += LINE + 4;
  }
  const frame = axes(page, { ...panel, right: beside ? names + 36 : 14, above, whole: x.every(Number.isInteger) });
  const { box, X, Y } = frame;
  references(page, frame, panel.hline);
  const points = curves.map((c) => c.y.map((y, j) => [X(x[j]), Y(y)]));
  const curve = (i, d, name = "") => (
    frame.data.appendChild(svg("path", { d, class: `bp-curve ${name} ${series(i)}`, "stroke-dasharray": DASHES[i] })));
  if (panel.reveal) points.forEach((line, i) => curve(i, trace(line), "bp-faint"));
  const strong = points.map((line, i) => curve(i, trace(line)));
  const cursor = page.add("line", { y1: box.top, y2: box.bottom, class: "bp-cursor" });
  for (const [value, label] of panel.hline) { // named at the side where the curves are further away
    const wide = page.measure(label) + 12;
    const distances = (near) => points.flat().filter(([px]) => near(px)).map(([, py]) => Math.abs(py - Y(value)));
    const away = (near) => Math.min(...distances(near));
    const [x0, anchor] = away((px) => px > box.right - wide) > away((px) => px < box.left + wide)
      ? [box.right - 4, "end"] : [box.left + 6, "start"];
    page.write(label, x0, Y(value) - 5, "bp-tick bp-halo", anchor);
  }

  if (beside) {
    const end = x.indexOf(Math.max(...x));
    const ends = points.map((line) => clamp(line[end][1], box.top, box.bottom));
    spread(ends, 16, box.top, box.bottom).forEach((y, i) => {
      page.add("line", { x1: box.right + 5, y1: ends[i], x2: box.right + 16, y2: y, class: `bp-leader ${series(i)}` });
      marker(page, i, box.right + 21, y);
      page.write(curves[i].name, box.right + 29, y + 4.5, `bp-label bp-name ${series(i)}`);
    });
  }
  const markers = curves.map((_, i) => marker(page, i));
  // Values at the cursor, while there are few enough to read.
  const value = (_, i) => page.write("", 0, 0, `bp-tick bp-halo bp-name ${series(i)}`)[0];
  const values = curves.length > 4 ? [] : curves.map(value);

  return {
    height: frame.used,
    update(step) {
      const j = at[step];
      const px = X(x[j]);
      const ys = points.map((line) => clamp(line[j][1], box.top, box.bottom));
      assign(cursor, { x1: px, x2: px });
      const toLeft = px > (box.left + box.right) / 2;
      const levels = spread(ys.map((y) => y - 9), 14, box.top + 6, box.bottom - 6);
      curves.forEach((_, i) => {
        if (panel.reveal) assign(strong[i], { d: trace(points[i].slice(0, j + 1)) });
        assign(markers[i], { transform: `translate(${px} ${ys[i]})` });
        if (!values[i]) return;
        assign(values[i], { x: px + (toLeft ? -8 : 8), y: levels[i] + 4, "text-anchor": toLeft ? "end" : "start" });
        values[i].textContent = fixed(curves[i].y[j], digits);
      });
    },
    describe: (step) => {
      const j = at[step];
      const now = curves.map((c) => `${c.name} ${fixed(c.y[j], digits)}`).join(", ");
      return `Curves. ${panel.ylabel} at ${panel.xlabel} ${fixed(x[j], xdigits)}: ${now}.`;
    },
  };
}

/** One bar a label, upright where the words and values fit, lying down where they do not. */
function drawBars(page, panel) {
  const { labels, values, ylim, ylabel, hline } = panel;
  const digits = decimals([...values.flat(), ...ylim.filter((v) => !values.flat().every(Number.isInteger))]);
  const show = (v) => fixed(v, digits);
  const widest = (texts) => page.longest(texts, TICK);
  const valueWidth = widest(values.flat().map(show));
  const referenceWidth = Math.min(0.3 * page.width, widest(hline.map(([, label]) => label)));
  const room = (page.width - referenceWidth - widest(ticks(ylim, 5).map((t) => t.label)) - 20) / labels.length;
  const upright = Math.max(valueWidth, widest(labels.join(" ").split(" "))) + 2 <= room;
  const words = labels.map((label) => page.wrap(label, room - 4, TICK));
  const rows = Math.max(...words.map((lines) => lines.length));
  const foot = ylim[0] < 0 ? 12 : 0; // for the values under negative bars

  const frame = upright
    ? axes(page, { ylim, ylabel, right: 8 + referenceWidth, headroom: 10, below: foot + LINE * rows })
    : lyingAxes(page, panel, { valueWidth, labelWidth: widest(labels) });
  const { box, X, Y } = frame;
  const band = (upright ? box.width : box.height) / labels.length;
  const thick = Math.min(0.68 * band, 56);
  const middle = (i) => (upright ? box.left : box.top) + (i + 0.5) * band;
  const origin = clamp(0, ...ylim);
  const bars = labels.map(() => frame.data.appendChild(svg("rect", { class: "bp-bar bp-fill bp-s0" })));
  references(page, frame, hline);
  hline.forEach(([value, label]) => {
    if (upright) page.write(page.wrap(label, referenceWidth, TICK), box.right + 5, Y(value) + 4, "bp-tick");
    else page.write(label, Math.max(X(value), page.measure(label) / 2), box.top - 5, "bp-tick", "middle");
  });
  page.add("line", upright
    ? { x1: box.left, x2: box.right, y1: Y(origin), y2: Y(origin), class: "bp-axis" }
    : { x1: X(origin), x2: X(origin), y1: box.top, y2: box.bottom, class: "bp-axis" });
  labels.forEach((label, i) => {
    if (upright) page.write(words[i], middle(i), box.bottom + foot + 16, "bp-tick", "middle");
    else page.write(label, frame.names, middle(i) + 4, "bp-tick", "end");
  });
  const printed = labels.map(() => page.write("", 0, 0, "bp-tick bp-value bp-halo")[0]);

  return {
    height: frame.used,
    update(step) {
      values[step].forEach((value, i) => {
        const v = clamp(value, ...ylim);
        const m = middle(i);
        if (upright) {
          const height = Math.abs(Y(v) - Y(origin));
          assign(bars[i], { x: m - thick / 2, y: Math.min(Y(v), Y(origin)), width: thick, height });
          assign(printed[i], { x: m, y: v < origin ? Y(v) + 14 : Y(v) - 5, "text-anchor": "middle" });
        } else {
          const width = Math.abs(X(v) - X(origin));
          assign(bars[i], { x: Math.min(X(v), X(origin)), y: m - thick / 2, width, height: thick });
          const [gap, anchor] = v < origin ? [-5, "end"] : [5, "start"];
          assign(printed[i], { x: X(v) + gap, y: m + 4, "text-anchor": anchor });
        }
        printed[i].textContent = show(value);
      });
    },
    describe: (step) => `Bars. ${ylabel}: ${labels.map((l, i) => `${l} ${show(values[step][i])}`).join(", ")}.`,
  };
}

/** Axes for lying bars: one row of 24 px a label, values along the bottom, room for a value at each end. */
function lyingAxes(page, { ylim, ylabel, labels, hline }, { valueWidth, labelWidth }) {
  const names = labelWidth + 2; // where the labels end
  const left = names + 8 + (ylim[0] < 0 ? valueWidth + 4 : 0);
  const top = hline.some(([, label]) => label) ? 20 : 4;
  const width = page.width - left - (ylim[1] > 0 ? valueWidth + 8 : 10);
  const box = { left, top, right: left + width, bottom: top + 24 * labels.length, width, height: 24 * labels.length };
  const X = (v) => left + (width * (v - ylim[0])) / (ylim[1] - ylim[0]);
  for (const t of ticks(ylim, width / 50)) {
    page.add("line", { x1: X(t.value), x2: X(t.value), y1: top, y2: box.bottom, class: "bp-grid" });
    page.write(t.label, X(t.value), box.bottom + 17, "bp-tick", "middle");
  }
  const lines = page.wrap(ylabel, page.width);
  const half = page.longest(lines) / 2;
  page.write(lines, clamp(left + width / 2, half, page.width - half), box.bottom + 35, "bp-label", "middle");
  const data = page.clip(left - 2, top, width + 4, box.height);
  return { box, X, Y: null, names, used: box.bottom + 26 + LINE * lines.length, data };
}

/** Points that move from step to step on equal scales. */
function drawScatter(page, panel) {
  const { lim, x, y } = panel;
  const value = (k) => lim[0] + ((lim[1] - lim[0]) * k) / panel.grid; // Python sends positions on a grid
  const frame = axes(page, { ...panel, xlim: lim, ylim: lim, side: 330 });
  const { X, Y } = frame;
  if (panel.diagonal) {
    const corners = { x1: X(lim[0]), y1: Y(lim[0]), x2: X(lim[1]), y2: Y(lim[1]) };
    frame.data.append(svg("line", { ...corners, class: "bp-reference" }));
  }
  const r = x[0].length > 150 ? 2.4 : 3.2;
  const dots = x[0].map(() => frame.data.appendChild(svg("circle", { r, class: "bp-dot bp-fill bp-s0" })));
  if (panel.diagonal) page.write("y = x", frame.box.right - 20, frame.box.top + 12, "bp-tick bp-halo", "end");
  return {
    height: frame.used,
    update: (step) => dots.forEach((dot, i) => assign(dot, {
      cx: X(value(x[step][i])).toFixed(1), cy: Y(value(y[step][i])).toFixed(1),
    })),
    describe: (step) => {
      const correlation = panel.correlation[step];
      const relation = correlation === null ? "" : ` Their correlation is ${fixed(correlation, 2)}.`;
      return `Scatter of ${dots.length} points, ${panel.ylabel} against ${panel.xlabel}.${relation}`;
    },
  };
}

/** Arrows in the plane. */
function drawVectors(page, panel) {
  const { lim, arrows } = panel;
  const frame = axes(page, { ...panel, xlim: lim, ylim: lim, side: 330 });
  const { box, X, Y } = frame;
  const on = ([x, y]) => [X(x), Y(y)];
  const start = (arrow, step) => (arrow.from ? arrow.from[step] : [0, 0]);
  const tip = (arrow, step) => start(arrow, step).map((v, i) => v + arrow.xy[step][i]);
  const cut = page.clip(box.left, box.top, box.width, box.height);
  const half = panel.halfplane === null ? null : cut.appendChild(svg("path", { class: "bp-half" }));
  const layer = page.clip(box.left - 5, box.top - 5, box.width + 10, box.height + 10);
  const drawn = arrows.map((_, i) => ({
    path: layer.appendChild(svg("path", { class: `bp-path ${series(i)}` })),
    dots: layer.appendChild(svg("path", { class: `bp-path-dots ${series(i)}` })),
    shaft: layer.appendChild(svg("path", { class: `bp-arrow bp-shaft ${series(i)}`, "stroke-dasharray": DASHES[i] })),
    head: layer.appendChild(svg("path", { class: `bp-arrow bp-fill ${series(i)}` })),
  }));
  const names = arrows.map((_, i) => page.write("", 0, 0, `bp-label bp-name bp-halo ${series(i)}`, "middle")[0]);
  const now = (step) => arrows.map((arrow, i) => ({ arrow, i })).filter(({ arrow }) => arrow.since <= step);
  let height = frame.used;
  if (half) {
    const note = page.wrap(`shaded: within 90° of ${arrows[panel.halfplane].name}`, page.width - 26, TICK);
    page.add("rect", { x: box.left, y: height + 2, width: 16, height: 12, class: "bp-half bp-half-key" });
    page.write(note, box.left + 22, height + 12, "bp-tick");
    height += LINE * note.length + 2;
  }

  function drawArrow(arrow, parts, step) {
    const [x0, y0] = on(start(arrow, step));
    const [x1, y1] = on(tip(arrow, step));
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (length < 4) { // too short for an arrow: a dot
      assign(parts.shaft, { d: trace([[x0, y0], [x1, y1]]) });
      assign(parts.head, { d: `M${x1 - 3.5} ${y1}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z` });
      return { x0, y0, x1, y1, ux: 0, uy: 0 };
    }
    const head = Math.min(11, 0.6 * length);
    const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
    assign(parts.shaft, { d: trace([[x0, y0], [x1 - head * ux, y1 - head * uy]]) });
    assign(parts.head, { d: arrowHead(x1, y1, ux, uy, head) });
    return { x0, y0, x1, y1, ux, uy };
  }

  function drawPath(arrow, parts, step) {
    const past = Array.from({ length: step + 1 - arrow.since }, (_, k) => on(tip(arrow, arrow.since + k)));
    assign(parts.path, { d: trace(past) });
    assign(parts.dots, { d: past.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("") });
  }

  function shadeHalf(step) {
    const arrow = arrows[panel.halfplane];
    const [x, y] = on(start(arrow, step));
    const far = 4 * box.width / Math.max(1e-9, Math.hypot(...arrow.xy[step]));
    const [dx, dy] = [far * arrow.xy[step][0], -far * arrow.xy[step][1]]; // pixels grow downwards
    const corners = [[x - dy, y + dx], [x - dy + dx, y + dx + dy], [x + dy + dx, y - dx + dy], [x + dy, y - dx]];
    assign(half, { d: `${trace(corners)}Z` });
  }

  /** Put each name beyond its tip, at the first angle where it covers neither a shaft nor another name. */
  function placeNames(lines) { // one { i, x0, y0, x1, y1, ux, uy } an arrow
    const around = (x, y, r) => ({ left: x - r, right: x + r, top: y - r, bottom: y + r });
    const taken = lines.flatMap(({ x0, y0, x1, y1, ux, uy }) => {
      const head = around(x1 - 6 * ux, y1 - 6 * uy, 6);
      const count = Math.floor(Math.hypot(x1 - x0, y1 - y0) / 8);
      return [head, ...Array.from({ length: count }, (_, k) => around(x0 + 8 * k * ux, y0 + 8 * k * uy, 2))];
    });
    lines.forEach(({ i, x1, y1, ux, uy }) => {
      const [w, h] = [page.measure(arrows[i].name, LABEL, 600) + 8, LINE];
      const candidates = [4, 12, 20, 28, 36].flatMap((gap) => [0, 30, -30, 60, -60, 90, -90, 120, -120].map((turn) => {
        const angle = Math.atan2(uy, ux) + (turn * Math.PI) / 180;
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        const reach = gap + Math.min(w / 2 / Math.abs(c), h / 2 / Math.abs(s)); // the box just clears the tip
        const [cx, cy] = [x1 + reach * c, y1 + reach * s];
        return { cx, cy, left: cx - w / 2, right: cx + w / 2, top: cy - h / 2, bottom: cy + h / 2 };
      }));
      const inside = (b) => b.left >= box.left && b.right <= box.right && b.top >= box.top && b.bottom <= box.bottom;
      const meet = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
      const free = (b) => !taken.some((t) => meet(t, b));
      const best = candidates.find((b) => inside(b) && free(b)) ?? candidates.find(inside) ?? candidates[0];
      taken.push(best);
      assign(names[i], { x: best.cx, y: best.cy + 4.5 });
      names[i].textContent = arrows[i].name;
    });
  }

  const digits = decimals(arrows.flatMap((a) => [...a.xy, ...(a.from ?? [])].flat()));
  return {
    height,
    update(step) {
      drawn.forEach((parts) => Object.values(parts).forEach((part) => assign(part, { d: null })));
      // Places too: a step looks the same from whichever side it is reached.
      names.forEach((name) => { assign(name, { x: 0, y: 0 }).textContent = ""; });
      if (half) assign(half, { d: null });
      const lines = now(step).map(({ arrow, i }) => ({ i, ...drawArrow(arrow, drawn[i], step) }));
      if (panel.path) now(step).forEach(({ arrow, i }) => drawPath(arrow, drawn[i], step));
      if (half && arrows[panel.halfplane].since <= step) shadeHalf(step);
      if (panel.labels) placeNames(lines);
    },
    describe: (step) => {
      const list = now(step).map(({ arrow }) => {
        const moved = arrow.xy[step].some((v) => v !== 0);
        const pair = (moved ? arrow.xy[step] : start(arrow, step)).map((v) => fixed(v, digits)).join(", ");
        return `${arrow.name} ${moved ? "" : "at "}(${pair})`;
      }).join("; ");
      return `Arrows, ${panel.xlabel} and ${panel.ylabel}: ${list}.`;
    },
  };
}

/** A heat map with its colour bar; row 0 at the top. */
function drawImage(page, panel) {
  const { rows, cols, vlim, cmap } = panel;
  const half = page.width / 2 - 6;
  const ylines = page.wrap(panel.ylabel, half);
  const clines = page.wrap(panel.clabel, panel.ylabel ? half : page.width - 4);
  const top = 10 + LINE * Math.max(ylines.length, clines.length);
  const yticks = panel.ylabel ? ticks([0, rows - 1], 5, { whole: true }) : [];
  const xticks = panel.xlabel ? ticks([0, cols - 1], 5, { whole: true }) : [];
  const left = Math.max(5, ...yticks.map((t) => page.measure(t.label) + 10));
  const thick = 12; // of the colour bar
  const widest = page.longest(ticks(vlim, 7).map((t) => t.label), TICK);
  const room = page.width - left - 10 - thick - 8 - widest;
  // Square cells where the picture then has a readable shape, stretched cells where it has not.
  const height = clamp((room * rows) / cols, 110, Math.min(300, Math.max(room, 170)));
  const width = clamp((height * cols) / rows, Math.min(room, 110), room);
  const bar = left + width + 10;

  page.write(ylines, 0, 4 + TICK, "bp-label");
  // Ends above the colour bar, but never in the half that belongs to the y label.
  const least = page.longest(clines) + (panel.ylabel ? half + 12 : 0);
  page.write(clines, clamp(bar + thick + 8 + widest, least, page.width), 4 + TICK, "bp-label", "end");
  const shown = page.add("image", { x: left, y: top, width, height, preserveAspectRatio: "none", class: "bp-pixels" });
  page.add("rect", { x: left, y: top, width, height, class: "bp-edge" });
  const row = (t) => top + ((t.value + 0.5) * height) / rows;
  const column = (t) => left + ((t.value + 0.5) * width) / cols;
  yticks.forEach((t) => page.write(t.label, left - 6, row(t) + 4, "bp-tick", "end"));
  xticks.forEach((t) => page.write(t.label, column(t), top + height + 16, "bp-tick", "middle"));
  colourBar(page, { x: bar, y: top, width: thick, height }, cmap);
  for (const t of ticks(vlim, clamp(height / 34, 4, 7))) {
    const y = top + (height * (vlim[1] - t.value)) / (vlim[1] - vlim[0]);
    page.add("line", { x1: bar + thick, x2: bar + thick + 4, y1: y, y2: y, class: "bp-axis" });
    page.write(t.label, bar + thick + 8, y + 4, "bp-tick");
  }
  let used = top + height + (xticks.length ? 21 : 6);
  const xlines = page.wrap(panel.xlabel, page.width);
  const centre = Math.max(left + width / 2, page.longest(xlines) / 2);
  page.write(xlines, centre, used + 13, "bp-label", "middle");
  used += LINE * xlines.length + 4;
  const digits = decimals(panel.ranges.flat());
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const painted = panel.frames.map(() => null);
  return {
    height: used,
    update(step) {
      painted[step] ??= picture(decode(panel.frames[step]), rows, cols, cmap);
      assign(shown, { href: painted[step] });
    },
    describe: (step) => {
      const [low, high] = panel.ranges[step].map((v) => fixed(v, digits));
      return `${panel.alt} Heat map of ${rows} rows and ${cols} columns, values from ${low} to ${high}.`;
    },
  };
}

/** Nodes with their values inside, and bundles of edges that are strong in the steps in which they carry a signal. */
function drawDiagram(page, panel) {
  const { nodes, values, edges, bands, scales, key } = panel;
  const known = (i, step) => nodes[i].since <= step;
  const show = (i, step) => (known(i, step) ? brief(values[step][i]) : "");
  const isNew = (i, step) => known(i, step)
    && (step === nodes[i].since ? step > 0 : values[step][i] !== values[step - 1][i]);
  const on = (step) => edges.filter((_, e) => panel.active[step].includes(e));
  const signals = values.map((_, step) => (on(step).length ? `signals: ${on(step).map((e) => e.name).join(", ")}` : ""));

  // All nodes of a shape are as wide as the widest text in any of them, at any step.
  const sizes = {};
  nodes.forEach(({ shape, label }, i) => {
    const widest = page.longest([label, ...values.map((_, step) => show(i, step))], TICK);
    const size = nodeSize(shape, widest, label);
    const most = sizes[shape] ?? size;
    sizes[shape] = { w: Math.max(size.w, most.w), h: Math.max(size.h, most.h) };
  });
  const size = (i) => sizes[nodes[i].shape];

  const rows = Math.max(...signals.map((words) => page.wrap(words, page.width - 4, TICK).length));
  const top = LINE * rows + 12 + Math.max(...nodes.map((_, i) => size(i).h));
  const margin = bands.length ? page.longest(bands.flatMap((band) => band.name.split(" ")), TICK) + 12 : 4;
  const [xs, ys] = [nodes.map((node) => node.x), nodes.map((node) => node.y)];
  const wide = Math.max(...nodes.map((_, i) => size(i).w));
  const [west, east] = [margin + wide + 6, page.width - wide - 8];
  const unit = Math.min((east - west) / (Math.max(...xs) - Math.min(...xs) || 1), 96);
  const middle = (west + east) / 2;
  const centre = (Math.max(...xs) + Math.min(...xs)) / 2;
  const X = (i) => middle + unit * (xs[i] - centre);
  const Y = (i) => top + panel.row * (Math.max(...ys) - ys[i]);
  const bottom = Math.max(...nodes.map((_, i) => Y(i) + size(i).h)) + 8;

  for (const band of bands) {
    const high = Math.min(...band.nodes.map((i) => Y(i) - size(i).h)) - 6;
    const low = Math.max(...band.nodes.map((i) => Y(i) + size(i).h)) + 6;
    page.add("rect", { x: 0.5, y: high, width: page.width - 1, height: low - high, rx: 8, class: "bp-band" });
    const words = page.wrap(band.name, margin - 12, TICK);
    page.write(words, 7, (high + low) / 2 + 4 - (LINE * (words.length - 1)) / 2, "bp-tick bp-value");
  }
  const wires = page.add("g", {});
  const drawn = edges.map((bundle) => wires.appendChild(drawBundle(bundle, { nodes, X, Y, size })));
  const cells = nodes.map((node, i) => {
    const body = svg("path", { d: outline(node.shape, X(i), Y(i), size(i)) });
    const text = (y, name) => svg("text", { x: X(i), y, class: `bp-tick ${name}`, "text-anchor": "middle" });
    const name = text(Y(i) - 3, "bp-node-name");
    name.textContent = node.label;
    const value = text(Y(i) + (node.label ? 11 : 4), "bp-node-value");
    page.add("g", { class: "bp-node" }, body, name, value);
    return { body, name, value };
  });
  const said = Array.from({ length: rows }, (_, k) => page.write("", 2, TICK + 1 + LINE * k, "bp-tick bp-value")[0]);
  const used = drawScales(page, panel, drawKey(page, key, bottom + 10));

  return {
    height: used,
    update(step) {
      const words = page.wrap(signals[step], page.width - 4, TICK);
      said.forEach((line, k) => { line.textContent = words[k] ?? ""; });
      const strong = (e) => panel.active[step].includes(e);
      edges.forEach((bundle, e) => assign(drawn[e], { class: wireClass(bundle.kind, strong(e)) }));
      // Strong ones lie above faint ones.
      wires.append(...drawn.filter((_, e) => !strong(e)), ...drawn.filter((_, e) => strong(e)));
      cells.forEach(({ body, name, value }, i) => {
        const colour = known(i, step) ? tint(values[step][i], scales[nodes[i].scale].limit) : null;
        const state = colour ? isNew(i, step) ? "bp-body bp-new" : "bp-body" : "bp-body bp-empty";
        assign(body, { class: state, style: colour ? `fill:${css(colour)}` : "" });
        for (const text of [name, value]) assign(text, { style: colour ? `fill:${inkOn(colour)}` : "" });
        value.textContent = show(i, step);
      });
    },
    describe(step) {
      const now = nodes.map((_, i) => i);
      const told = (list) => list.map((i) => `${nodes[i].name} ${show(i, step)}`).join(", ");
      const parts = [
        ["New in this step", told(now.filter((i) => isNew(i, step)))],
        ["As before", told(now.filter((i) => known(i, step) && !isNew(i, step)))],
        ["Not known yet", now.filter((i) => !known(i, step)).map((i) => nodes[i].name).join(", ")],
      ].filter(([, words]) => words).map(([what, words]) => `${what}: ${words}.`);
      const carried = signals[step] ? ` Edges with ${signals[step]}.` : "";
      return `${panel.alt}${carried} ${parts.join(" ")}`;
    },
  };
}

/** Two figures and at most four decimals, as in "−1.6", "0.026" and "0.0004"; below that a power of ten. */
function brief(v) {
  if (v === 0) return "0";
  const power = Math.floor(Math.log10(Math.abs(v)));
  if (power >= -4) return fixed(v, clamp(1 - power, 0, 4));
  return fixed(v, 6).replace(/\.\d/, ""); // one figure is enough beside the power
}

/** Black or white, whichever is easier to read on a colour: one of them has a contrast of at least 4.5 : 1. */
function inkOn(rgb) {
  const linear = (c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * linear(rgb[i]), 0);
  return light > 0.179 ? "#000000" : "#ffffff";
}

/** Half the width and height that a shape needs around a text, with a second line above it if there is a label. */
function nodeSize(shape, text, label) {
  const half = text / 2;
  if (shape === "circle") { const r = Math.max(label ? half + 5 : half + 3, label ? 21 : 12); return { w: r, h: r }; }
  if (shape === "square") { const r = Math.max(half + 3, label ? 17 : 12); return { w: r, h: label ? 17 : 12 }; }
  return { w: Math.max(half, 6) + (shape === "ellipse" ? 6 : 9), h: label ? 19 : 12 };
}

/** The outline of a node around (x, y) as a path. */
function outline(shape, x, y, { w, h }) {
  if (shape === "square") return `M${x - w} ${y - h}h${2 * w}v${2 * h}h${-2 * w}Z`;
  if (shape === "hexagon") return `M${x - w} ${y}l9 ${-h}h${2 * w - 18}l9 ${h}l-9 ${h}h${18 - 2 * w}Z`;
  return `M${x - w} ${y}a${w} ${h} 0 1 0 ${2 * w} 0a${w} ${h} 0 1 0 ${-2 * w} 0Z`;
}

const wireClass = (kind, strong) => `bp-wire bp-wire-${kind}${strong ? " bp-on" : ""}`;

/** All edges of a bundle, each from the outline of one node to that of another. */
function drawBundle({ kind, pairs }, { nodes, X, Y, size }) {
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
function drawKey(page, key, y) {
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
function drawScales(page, { scales, nodes, values, clabel }, y) {
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

const DRAW = {
  lines: drawLines, bars: drawBars, scatter: drawScatter, vectors: drawVectors, image: drawImage, diagram: drawDiagram,
};

// ----------------------------------------------------------------------------------------------------- the player

/** A panel that is an HTML table; the first cell of a row names the row. */
function tablePanel(panel) {
  const cellsOf = (j) => panel.rows.flat().map((row) => row[j]);
  const numbers = panel.columns.map((_, j) => cellsOf(j).filter((cell) => typeof cell === "number"));
  const digits = numbers.map(decimals);
  const side = numbers.map((list, j) => (list.length === cellsOf(j).length ? "bp-number" : null));
  const show = (cell, j) => (typeof cell === "number" ? fixed(cell, digits[j]) : cell);
  const heading = panel.columns.map((name, j) => html("th", { scope: "col", class: side[j] }, name));
  const cell = (value, j) => (j === 0
    ? html("th", { scope: "row", class: side[j] }, show(value, j))
    : html("td", { class: side[j] }, show(value, j)));

  const body = html("tbody");
  const table = html("table", { class: "bp-table" }, html("thead", {}, html("tr", {}, ...heading)), body);
  const scroll = html("div", { class: "bp-scroll", role: "group", "aria-label": panel.title }, table);
  const element = panelBox(panel, scroll);
  return {
    element,
    // A table too wide for its place must be reachable by the arrow keys.
    layout: () => assign(scroll, { tabindex: scroll.scrollWidth > scroll.clientWidth && "0" }),
    update: (step) => body.replaceChildren(...panel.rows[step].map((row) => html("tr", {}, ...row.map(cell)))),
  };
}

function render({ model, el }) {
  const spec = model.get("spec");
  const labels = spec.steps;
  const stepName = spec.step_name.charAt(0).toUpperCase() + spec.step_name.slice(1);
  const controls = stepControls({ model, labels, texts: spec.texts, stepName, seconds: spec.seconds_per_step });
  const panels = spec.panels.map((panel) => (panel.kind === "table"
    ? tablePanel(panel)
    : figurePanel(panel, (page) => DRAW[panel.kind](page, panel), (step) => labels[step])));
  const drawing = html("div", { class: "bp-drawing" }, ...panels.map((panel) => panel.element));
  const root = html("div", { class: "bp-widget", role: "group", "aria-label": spec.title },
    html("div", { class: "bp-title", "aria-hidden": "true" }, spec.title), // the group already says it
    html("p", { class: "bp-spoken" }, spec.description), controls.element, drawing);
  el.append(root);

  const show = () => {
    const step = clamp(model.get("step"), 0, labels.length - 1);
    controls.update(step);
    panels.forEach((panel) => panel.update(step));
  };
  let width = -1;
  const layout = () => {
    if (drawing.clientWidth === width) return;
    width = drawing.clientWidth;
    controls.layout();
    panels.forEach((panel) => panel.layout());
    show();
    panels.forEach((panel) => panel.layout()); // tables only know their width once they are full
  };
  layout();
  // In a frame of its own: drawing changes the height, and that would call the observer within itself.
  let frame = 0;
  const observer = new ResizeObserver(() => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(layout);
  });
  observer.observe(drawing);
  model.on("change:step", show);
  return () => {
    model.off("change:step", show);
    observer.disconnect();
    cancelAnimationFrame(frame);
    controls.destroy();
    root.remove();
  };
}

export default { render };
