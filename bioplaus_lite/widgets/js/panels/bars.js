// The panel of bars.

import { assign, svg } from "../controls.js";
import { clamp, decimals, fixed, LINE, TICK, ticks } from "../drawing.js";
import { axes, references } from "./axes.js";

/** One bar a label, upright where the words and values fit, lying down where they do not. */
export function drawBars(page, panel) {
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
