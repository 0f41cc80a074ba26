// The two plots of the search above one another, and their key.

import { assign, html, svg } from "../controls.js";
import { clamp, fixed, LABEL, LINE, ticks } from "../drawing.js";
import { axes, marker, trace } from "../panels/axes.js";

const STRIP = 88; // height in px of the expected improvement
const MARGIN = 0.03; // what the axis shows beyond the outermost places, as a share of their range
const WHO = { // the marker and colour of who picked a point, and the words for it
  rule: [1, "tried by the rule"], Sobol: [3, "a Sobol point"], you: [2, "your pick"],
};

const path = (layer, name) => layer.appendChild(svg("path", { class: name }));
const markIn = (layer, who, x, y) => marker({
  add: (tag, attributes) => layer.appendChild(svg(tag, attributes)),
}, WHO[who][0], x, y);

/**
 * `draw(page)` for a panel; `area`, where one can point, once it is drawn; and `placeAt(share)` of the area's width.
 *
 * `view()` gives what to show: what is believed `now`, what was `tried`, whether the budget is `spent`, the index of
 * the place that the reader points to or null (`cursor`), and whether the hidden values are `open`.
 */
export function searchPlot(spec, words, view) {
  const { x, y, ylim } = spec;
  const { inX, inY, expected } = words;
  const beyond = MARGIN * (x.at(-1) - x[0]);
  const xlim = [x[0] - beyond, x.at(-1) + beyond];
  const along = (share) => xlim[0] + share * (xlim[1] - xlim[0]);
  const places = Array.from({ length: 401 }, (_, k) => along(k / 400));
  const inside = (v) => clamp(v, 2 * ylim[0] - ylim[1], 2 * ylim[1] - ylim[0]); // or lines grow too long to draw
  const plot = { area: null, placeAt: along, draw };

  /** The frame of the lower plot, below `used` px. */
  function strip(page, { box, X, used }) {
    const label = page.wrap("expected improvement (dashed: where the rule would look next)", box.width);
    page.write(label, box.left, used + 14, "bp-label");
    const top = used + LINE * label.length + 6;
    const bottom = top + STRIP;
    for (const t of ticks(xlim, box.width / 64)) {
      page.add("line", { x1: X(t.value), x2: X(t.value), y1: top, y2: bottom, class: "bp-grid" });
      page.write(t.label, X(t.value), bottom + 17, "bp-tick", "middle");
    }
    page.add("line", { x1: box.left, x2: box.right, y1: bottom, y2: bottom, class: "bp-axis" });
    page.write(spec.xlabel, box.left + box.width / 2, bottom + 36, "bp-label", "middle");
    return { top, bottom };
  }

  function draw(page) {
    const frame = axes(page, { xlim, ylim, ylabel: spec.ylabel, right: 14 });
    const { box, X, Y, data } = frame;
    const low = strip(page, frame);
    plot.area = { left: box.left, top: box.top, width: box.width, height: low.bottom - box.top };
    const band = path(data, "bp-around");
    const hidden = path(data, "bp-hidden");
    const mean = path(data, "bp-curve bp-s0");
    const promise = path(page.root, "bp-promise");
    const gainCurve = path(page.root, "bp-curve bp-s1");
    const nextLine = path(page.root, "bp-next-line");
    const nextMark = page.add("rect", { width: 9, height: 9, class: "bp-next-mark" });
    const points = page.add("g");
    const pointer = path(page.root, "bp-cursor");
    const [nextLabel] = page.write("", 0, low.top + 12, "bp-tick bp-value bp-halo");
    const [pointerLabel] = page.write("", 0, box.top + 13, "bp-label bp-value bp-halo");

    /** An upright line through both plots, from py on; not through the words between them. */
    const upright = (px, py) => trace([[px, Math.min(py, box.bottom)], [px, box.bottom]])
      + trace([[px, low.top], [px, low.bottom]]);
    const beside = (label, px, content) => { // right of a line if there is room, and inside the plot in any case
      const wide = page.measure(content, LABEL) + 7;
      const left = px + wide > box.right ? px - wide : px + 7;
      assign(label, { x: clamp(left, box.left + 3, Math.max(box.left + 3, box.right - wide)) }).textContent = content;
    };

    function drawBelief({ at, best, gain }, most) {
      const known = places.map(at);
      const edge = (sign) => known.map((one, k) => (
        [X(places[k]), Y(inside(one.mean + sign * 2 * Math.sqrt(one.variance)))]));
      assign(band, { d: `${trace([...edge(1), ...edge(-1).reverse()])}Z` });
      assign(mean, { d: trace(known.map((one, k) => [X(places[k]), Y(inside(one.mean))])) });
      const curve = places.map((place) => [X(place), low.bottom - ((STRIP - 18) * gain(place)) / most]);
      const corners = [[box.left, low.bottom], ...curve, [box.right, low.bottom]];
      assign(gainCurve, { d: best === null ? null : trace(curve) });
      assign(promise, { d: best === null ? null : `${trace(corners)}Z` });
    }

    function drawNext({ at, best, next }, promised) {
      const px = X(x[next]);
      const py = Y(inside(at(x[next]).mean));
      const size = fixed(promised, promised < 0.01 ? 6 : clamp(1 - Math.floor(Math.log10(promised)), 0, 3));
      assign(nextLine, { d: upright(px, py) });
      assign(nextMark, { x: px - 4.5, y: py - 4.5, visibility: null });
      beside(nextLabel, px, `next: ${inX(x[next])}${best === null ? "" : `, expects +${size}`}`);
    }

    function update() {
      const { now, tried, spent, cursor, open } = view();
      const { at, best, gain, next } = now;
      const promised = next === null ? 0 : gain(x[next]);
      drawBelief(now, Math.max(promised, ...places.map(gain)) || 1);
      assign(hidden, { d: open ? trace(x.map((v, i) => [X(v), Y(y[i])])) : null });
      if (spent) {
        assign(nextLine, { d: null });
        assign(nextMark, { x: 0, y: 0, visibility: "hidden" });
        beside(nextLabel, 0, "");
      } else drawNext(now, promised);

      points.replaceChildren();
      tried.forEach(([i, who]) => markIn(points, who, X(x[i]), Y(y[i])));
      if (best !== null) points.append(svg("circle", { cx: X(x[best]), cy: Y(y[best]), r: 9, class: "bp-ring" }));
      const pointed = cursor === null || spent ? null : X(x[cursor]);
      assign(pointer, { d: pointed === null ? null : upright(pointed, box.top) });
      beside(pointerLabel, pointed ?? 0, pointed === null ? ""
        : `${inX(x[cursor])}: ${expected(at(x[cursor])).join(" ± ")}`);
    }

    function describe() {
      const { now: { seen, best, next }, spent } = view();
      const all = seen.map((i) => `${inX(x[i])}: ${inY(y[i])}`).join(", ");
      const after = best === null || spent ? "" : ` Expected improvement is largest at ${inX(x[next])}.`;
      return `Mean and band of the process, and ${seen.length} tried points${all && `: ${all}`}.${after}`;
    }
    return { height: low.bottom + 42, update, describe };
  }

  return plot;
}

/** The key to the plots, and its entry for the hidden values. */
export function searchKey() {
  const swatch = (...shapes) => svg("svg", { width: 26, height: 18, viewBox: "-13 -9 26 18", "aria-hidden": "true" },
    ...shapes);
  const entry = (text, ...shapes) => html("li", {}, swatch(...shapes), text);
  const mark = (who) => {
    const layer = svg("g");
    markIn(layer, who);
    return layer;
  };
  const hidden = entry("what was measured", svg("path", { d: "M-13 0H13", class: "bp-hidden" }));
  const key = html("ul", { class: "bp-key" },
    entry("mean and ± 2 standard deviations", svg("rect", { x: -13, y: -8, width: 26, height: 16, class: "bp-around" }),
      svg("path", { d: "M-13 0H13", class: "bp-curve bp-s0" })),
    ...Object.entries(WHO).map(([who, [, text]]) => entry(text, mark(who))),
    entry("best so far", svg("circle", { r: 7, class: "bp-ring" })), hidden);
  return { key, hidden };
}
