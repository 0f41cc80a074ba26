// The panel of curves.

import { assign, svg } from "../controls.js";
import { clamp, decimals, fixed, LABEL, LINE, spread } from "../drawing.js";
import { axes, DASHES, marker, references, series, trace } from "./axes.js";

/** Curves over all steps: strong up to the current step, faint beyond, with the current values at a cursor. */
export function drawLines(page, panel) {
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
