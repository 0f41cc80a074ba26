// The panels in a plane: points and arrows.

import { assign, svg } from "../controls.js";
import { decimals, fixed, LABEL, LINE, TICK } from "../drawing.js";
import { arrowHead, axes, DASHES, series, trace } from "./axes.js";

/** Points that move from step to step on equal scales. */
export function drawScatter(page, panel) {
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
export function drawVectors(page, panel) {
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
