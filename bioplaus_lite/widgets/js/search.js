// A search on a line, one evaluation a step: what a Gaussian process believes after it, where the rule would look next,
// and a reader who may look elsewhere. Runs in JupyterLab (anywidget) and, through static.py, in any page.

import { assign, button, control, html, stepControls, svg } from "./controls.js";
import { clamp, figurePanel, fixed, LABEL, LINE, ticks } from "./drawing.js";
import { expectedImprovement, fitProcess, logLikelihood, posterior } from "./gaussian_process.js";
import { axes, marker, trace } from "./panels/axes.js";

const STRIP = 88; // height in px of the expected improvement
const BY = { rule: 1, Sobol: 3, you: 2 }; // the marker and colour of who picked a point
const WORDS = { rule: "tried by the rule", Sobol: "a Sobol point", you: "your pick" };

function conditioned({ x, y, mean, amplitude }, tried, length, noise) {
  const seen = tried.map(([i]) => i);
  return fitProcess(seen.map((i) => x[i]), seen.map((i) => y[i] - mean), { length, noise, amplitude });
}

/** What the process believes after `tried`, and the place `next` where expected improvement is largest. */
function believe(spec, tried, length, noise) {
  const { x, y, sobol } = spec;
  const process = conditioned(spec, tried, length, noise);
  const at = (place) => {
    const { mean, variance } = posterior(process, place);
    return { mean: mean + spec.mean, variance };
  };
  const seen = tried.map(([i]) => i);
  const best = seen.length ? seen.reduce((top, i) => (y[i] > y[top] ? i : top)) : null;
  const gain = (place) => (best === null ? 0 : expectedImprovement(at(place), y[best]));
  // Where double precision knows no improvement any more: what is nearest to the best in standard deviations.
  const score = (i) => {
    const { mean, variance } = at(x[i]);
    return gain(x[i]) || (mean - y[best]) / Math.sqrt(variance);
  };
  const left = x.map((_, i) => i).filter((i) => !seen.includes(i));
  const scores = best === null ? [] : left.map(score);
  const next = best === null ? sobol[0] : left[scores.indexOf(Math.max(...scores))] ?? null;
  return { seen, at, best, gain, left, next, odds: logLikelihood(process) };
}

/** The pair of slider values with the largest marginal likelihood. */
function fitted(spec, tried) {
  const pairs = spec.lengths.flatMap((length) => spec.noises.map((noise) => ({ length, noise })));
  const odds = pairs.map(({ length, noise }) => logLikelihood(conditioned(spec, tried, length, noise)));
  return pairs[odds.indexOf(Math.max(...odds))];
}

function render({ model, el }) {
  const spec = model.get("spec");
  const { title, x, y, ylim, budget, lengths, noises } = spec;
  const life = new AbortController();
  const digits = (span) => clamp(3 - Math.ceil(Math.log10(span)), 0, 5);
  const [span, across] = [ylim[1] - ylim[0], x.at(-1) - x[0]];
  const inX = (v) => fixed(v, digits(across));
  const inY = (v) => fixed(v, digits(span));
  const top = x.reduce((high, _, i) => (y[i] > y[high] ? i : high), 0);
  const tried = () => model.get("tried");
  const belief = (list = tried()) => believe(spec, list, model.get("length"), model.get("noise"));
  let now = belief();
  let cursor = null; // index of the place that the reader points to
  let open = false; // whether the hidden values are shown

  const set = (values) => {
    Object.entries(values).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  const spent = () => tried().length === budget;
  function add(i, who) {
    controls.go(tried().length); // stops the playing
    if (!spent()) set({ tried: [...tried(), [i, who]] });
  }
  /** The first k evaluations; the rule adds those that are not there yet. */
  function goTo(k) {
    const list = tried().slice(0, k);
    while (list.length < k) list.push([belief(list).next, "rule"]);
    set({ tried: list });
  }

  // --- words

  function reason({ at, best, next, seen }) {
    const { mean, variance } = at(x[next]);
    const reach = mean + 2 * Math.sqrt(variance);
    const [m, r] = [inY(mean), inY(reach)];
    if (reach < y[best]) return `Little is left to gain: even the top of the band there, ${r}, is below the best.`;
    if (variance > spec.amplitude ** 2 / 2) { // more than half of the first variance is left
      const far = inX(Math.min(...seen.map((i) => Math.abs(x[i] - x[next]))));
      return `It explores: far from all points, ${far} from the nearest, and the band there reaches up to ${r}.`;
    }
    // The expectation is gain Φ(z) + σ φ(z): from z = 0.5 on, more of it comes from the mean than from the width.
    if (mean - y[best] > 0.5 * Math.sqrt(variance)) return `It exploits: the mean there, ${m}, is well above the best.`;
    const where = mean < y[best] ? "below the best, but" : "not far above the best, and";
    return `Some of both: the mean there, ${m}, is ${where} the band reaches up to ${r}.`;
  }
  const told = (best, odds, next) => (
    `Best so far: ${best}. Log marginal likelihood of length scale and noise: ${odds}. ${next}`);
  function text() {
    const { seen, best, next, odds } = now;
    if (best === null) {
      return `Before any evaluation the process expects ${inY(spec.mean)}, give or take ${inY(2 * spec.amplitude)}, `
        + `everywhere. No place promises more than another: the rule begins with a Sobol point, ${inX(x[next])}.`;
    }
    const missed = y[top] > y[best] ? `The highest of all ${x.length} is ${inY(y[top])} at ${inX(x[top])}.`
      : `No place of all ${x.length} is higher.`;
    return told(`${inY(y[best])} at ${inX(x[best])}`, fixed(odds, 1), seen.length === budget
      ? `The budget is spent. ${missed}` : `Next the rule would try ${inX(x[next])}. ${reason(now)}`);
  }
  const [wideX, wideY] = [inX(-Math.max(...x.map(Math.abs))), inY(-Math.max(...ylim.map(Math.abs)))];
  const longest = told(`${wideY} at ${wideX}`, "−000.0", `Next the rule would try ${wideX}. It explores: far from all `
    + `points, ${wideX} from the nearest, and the band there reaches up to ${wideY}.`);
  const labels = Array.from({ length: budget + 1 }, (_, k) => `${k} tried, the last at ${wideX}: ${wideY}`);
  const texts = labels.map(() => longest);

  // --- controls

  const steps = { get: () => tried().length, set: (_, k) => goTo(k), save_changes: () => {} };
  const sobol = button("bp-sobol", "Try a Sobol point");
  const again = button("bp-again", "Start again");
  const controls = stepControls({ model: steps, labels, texts, stepName: "Step", seconds: 1.5, extra: [sobol, again] });
  const [back, ahead] = ["prev", "next"].map((name) => controls.element.querySelector(`.bp-${name}`));
  back.lastChild.textContent = "Take back";
  ahead.firstChild.textContent = "Try the proposal";

  const field = (name, ...parts) => html("label", { class: "bp-field" }, html("span", {}, name), ...parts);
  const range = (name, values) => {
    const input = control(html("input", {
      type: "range", class: `bp-range bp-${name}`, min: 0, max: values.length - 1,
    }));
    const shown = html("span", { class: "bp-shown", "aria-hidden": "true" });
    input.addEventListener("input", () => set({ [name]: values[Number(input.value)] }), { signal: life.signal });
    const update = (value) => { // between two positions the nearest, in factors
      const off = (v) => Math.abs(Math.log(v / value));
      input.value = values.reduce((near, v, i) => (off(v) < off(values[near]) ? i : near), 0);
      shown.textContent = fixed(value, clamp(2 - Math.floor(Math.log10(value)), 0, 2));
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    return { input, shown, update };
  };
  const lengthRange = range("length", lengths);
  const noiseRange = range("noise", noises);
  const fit = button("bp-fit", "Fit both");
  fit.title = "Find the length scale and the noise with the largest marginal likelihood";
  const reveal = control(html("input", { type: "checkbox", class: "bp-check bp-reveal" }));
  const settings = html("div", { class: "bp-choice" },
    field("length scale", lengthRange.input, lengthRange.shown),
    field("noise", noiseRange.input, noiseRange.shown), fit,
    html("label", { class: "bp-field" }, reveal, html("span", {}, "show what the search cannot see")));

  // --- drawing

  function draw(page) {
    const xlim = [x[0] - 0.03 * across, x.at(-1) + 0.03 * across];
    const frame = axes(page, { xlim, ylim, ylabel: spec.ylabel, right: 14 });
    const { box, X, Y, data } = frame;
    const path = (layer, name) => layer.appendChild(svg("path", { class: name }));
    const label = page.wrap("expected improvement (dashed: where the rule would look next)", page.width - 4);
    page.write(label, 0, frame.used + 14, "bp-label");
    const low = { top: frame.used + LINE * label.length + 6, left: box.left };
    low.bottom = low.top + STRIP;
    for (const t of ticks(xlim, box.width / 64)) {
      page.add("line", { x1: X(t.value), x2: X(t.value), y1: low.top, y2: low.bottom, class: "bp-grid" });
      page.write(t.label, X(t.value), low.bottom + 17, "bp-tick", "middle");
    }
    page.add("line", { x1: box.left, x2: box.right, y1: low.bottom, y2: low.bottom, class: "bp-axis" });
    page.write(spec.xlabel, box.left + box.width / 2, low.bottom + 36, "bp-label", "middle");

    const band = path(data, "bp-around");
    const hidden = path(data, "bp-hidden");
    const mean = path(data, "bp-curve bp-s0");
    const promise = path(page.root, "bp-promise");
    const height = path(page.root, "bp-curve bp-s1");
    const line = path(page.root, "bp-next-line");
    const square = page.add("rect", { width: 9, height: 9, class: "bp-next-mark" });
    const points = page.add("g");
    const pointer = path(page.root, "bp-cursor");
    /** An upright line through both plots, from y on; not through the words between them. */
    const upright = (px, y) => trace([[px, Math.min(y, box.bottom)], [px, box.bottom]])
      + trace([[px, low.top], [px, low.bottom]]);
    const [nextLabel] = page.write("", 0, low.top + 12, "bp-tick bp-value bp-halo");
    const [pointerLabel] = page.write("", 0, box.top + 13, "bp-label bp-value bp-halo");
    const places = Array.from({ length: 401 }, (_, k) => xlim[0] + ((xlim[1] - xlim[0]) * k) / 400);
    const inside = (v) => clamp(v, ylim[0] - span, ylim[1] + span);
    const beside = (words, px, content) => { // right of the line if there is room, and inside the plot in any case
      const wide = page.measure(content, LABEL) + 7;
      const left = px + wide > box.right ? px - wide : px + 7;
      assign(words, { x: clamp(left, box.left + 3, Math.max(box.left + 3, box.right - wide)) }).textContent = content;
    };

    function update() {
      const { at, best, gain, next } = now;
      const known = places.map(at);
      const edge = (sign) => known.map(({ mean: m, variance }, k) => (
        [X(places[k]), Y(inside(m + sign * 2 * Math.sqrt(variance)))]));
      assign(band, { d: `${trace([...edge(1), ...edge(-1).reverse()])}Z` });
      assign(mean, { d: trace(known.map((one, k) => [X(places[k]), Y(inside(one.mean))])) });
      assign(hidden, { d: open ? trace(x.map((v, i) => [X(v), Y(y[i])])) : null });

      const gains = places.map(gain);
      const promised = next === null ? 0 : gain(x[next]);
      const most = Math.max(promised, ...gains) || 1;
      const H = (v) => low.bottom - ((STRIP - 18) * v) / most;
      const curve = gains.map((v, k) => [X(places[k]), H(v)]);
      assign(height, { d: best === null ? null : trace(curve) });
      const corners = [[X(places[0]), low.bottom], ...curve, [X(places.at(-1)), low.bottom]];
      assign(promise, { d: best === null ? null : `${trace(corners)}Z` });
      const rest = next === null || spent();
      const px = rest ? null : X(x[next]);
      const py = rest ? null : Y(inside(at(x[next]).mean));
      assign(line, { d: rest ? null : upright(px, py) });
      assign(square, { x: px - 4.5, y: py - 4.5, visibility: rest && "hidden" });
      const size = promised >= 0.01 ? fixed(promised, clamp(1 - Math.floor(Math.log10(promised)), 0, 3))
        : fixed(promised, 6);
      beside(nextLabel, px ?? 0, rest ? "" : `next: ${inX(x[next])}${best === null ? "" : `, expects +${size}`}`);

      const group = { add: (tag, attributes) => points.appendChild(svg(tag, attributes)) };
      points.replaceChildren();
      tried().forEach(([i, who]) => marker(group, BY[who], X(x[i]), Y(y[i])));
      if (best !== null) group.add("circle", { cx: X(x[best]), cy: Y(y[best]), r: 9, class: "bp-ring" });
      const shown = cursor !== null && !spent();
      const cx = shown ? X(x[cursor]) : null;
      assign(pointer, { d: shown ? upright(cx, box.top) : null });
      beside(pointerLabel, cx ?? 0, shown ? pointed() : "");
    }
    function describe() {
      const { best, next, seen } = now;
      const all = seen.map((i) => `${inX(x[i])}: ${inY(y[i])}`).join(", ");
      const after = best === null || spent() ? "" : ` Expected improvement is largest at ${inX(x[next])}.`;
      return `Mean and band of the process, and ${seen.length} tried points${all && `: ${all}`}.${after}`;
    }
    place(box, low.bottom);
    return { height: low.bottom + 42, update, describe };
  }

  /** What the process expects where the reader points. */
  function pointed() {
    const { mean, variance } = now.at(x[cursor]);
    return `${inX(x[cursor])}: ${inY(mean)} ± ${inY(2 * Math.sqrt(variance))}`;
  }

  const panel = figurePanel({ kind: "search", title: "What the search knows" }, draw, () => (
    `${tried().length} of ${budget} tried`));
  const pick = control(html("div", {
    class: "bp-pick", role: "slider", tabindex: "0", "aria-label": "Your pick: arrow keys move it, Enter tries it",
    "aria-valuemin": 0, "aria-valuemax": x.length - 1,
  }));
  let plot = null;
  function place(box, bottom) { plot = { ...box, bottom }; }
  function cover() { // the place to click lies over the plot
    const [outer, inner] = [panel.element, panel.element.querySelector("svg")].map((e) => e.getBoundingClientRect());
    const spot = { left: plot.left, top: inner.top - outer.top + plot.top, width: plot.width,
      height: plot.bottom - plot.top };
    for (const [side, value] of Object.entries(spot)) pick.style[side] = `${value}px`;
  }

  const swatch = (...shapes) => svg("svg", { width: 26, height: 18, viewBox: "-13 -9 26 18", "aria-hidden": "true" },
    ...shapes);
  const entry = (words, ...shapes) => html("li", {}, swatch(...shapes), words);
  const mark = (who) => { // a marker in a swatch of its own
    const layer = svg("g");
    marker({ add: (tag, attributes) => layer.appendChild(svg(tag, attributes)) }, BY[who]);
    return layer;
  };
  const hiddenEntry = entry("what was measured", svg("path", { d: "M-13 0H13", class: "bp-hidden" }));
  const key = html("ul", { class: "bp-key" },
    entry("mean and ± 2 standard deviations", svg("rect", { x: -13, y: -8, width: 26, height: 16, class: "bp-around" }),
      svg("path", { d: "M-13 0H13", class: "bp-curve bp-s0" })),
    ...Object.keys(BY).map((who) => entry(WORDS[who], mark(who))),
    entry("best so far", svg("circle", { r: 7, class: "bp-ring" })), hiddenEntry);
  const cost = html("p", { class: "bp-note bp-cost" });
  const drawing = html("div", { class: "bp-drawing bp-one-column" }, panel.element, key, cost);
  panel.element.append(pick);
  const root = html("div", { class: "bp-widget bp-search", role: "group", "aria-label": title },
    html("div", { class: "bp-title", "aria-hidden": "true" }, title),
    html("p", { class: "bp-spoken" }, "A search for the highest of the recorded values. Each step tries one place. "
      + "Under the plot stands what one fit costs."),
    controls.element, settings, drawing);
  el.append(root);

  // --- what the reader does

  /** The nearest place that is not tried yet. */
  const nearest = (place) => now.left.reduce((near, i) => (
    Math.abs(x[i] - place) < Math.abs(x[near] - place) ? i : near), now.left[0] ?? null);
  const under = (event) => {
    const area = pick.getBoundingClientRect();
    const share = (event.clientX - area.left) / area.width;
    return nearest(x[0] - 0.03 * across + 1.06 * across * share);
  };
  function point(i) {
    cursor = i;
    showPick();
    panel.update(tried().length);
  }
  function showPick() {
    const i = cursor ?? now.next;
    assign(pick, { "aria-valuenow": i ?? 0, "aria-disabled": spent() && "true" });
    const { mean, variance } = i === null ? {} : now.at(x[i]);
    assign(pick, { "aria-valuetext": spent() || i === null ? "the budget is spent"
      : `${inX(x[i])}, the process expects ${inY(mean)}, give or take ${inY(2 * Math.sqrt(variance))}` });
  }

  const listen = (target, type, handler) => target.addEventListener(type, handler, { signal: life.signal });
  const able = (target) => target.getAttribute("aria-disabled") !== "true";
  listen(sobol, "click", () => {
    if (able(sobol)) add(spec.sobol.find((i) => now.left.includes(i)), "Sobol");
  });
  listen(again, "click", () => {
    controls.go(spec.start); // stops the playing
    set({ ...spec.begin, tried: spec.sobol.slice(0, spec.start).map((i) => [i, "Sobol"]) });
  });
  listen(fit, "click", () => {
    if (able(fit)) set(fitted(spec, tried()));
  });
  listen(reveal, "change", () => { open = reveal.checked; show(); });
  listen(pick, "pointermove", (event) => { if (event.pointerType === "mouse") point(under(event)); });
  listen(pick, "pointerleave", () => { if (document.activeElement !== pick) point(null); });
  listen(pick, "click", (event) => { if (able(pick)) add(under(event), "you"); });
  listen(pick, "focus", () => { if (cursor === null) point(now.next); });
  listen(pick, "blur", () => point(null));
  listen(pick, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !able(pick)) return;
    const { left } = now;
    const k = left.indexOf(cursor ?? now.next);
    const to = {
      ArrowLeft: k - 1, ArrowDown: k - 1, ArrowRight: k + 1, ArrowUp: k + 1, PageDown: k - 10, PageUp: k + 10, Home: 0,
      End: left.length - 1,
    }[event.key];
    if (to !== undefined) point(left[clamp(to, 0, left.length - 1)]);
    else if (event.key === "Enter" || event.key === " ") add(left[k], "you");
    else return;
    event.preventDefault();
  });

  // --- showing

  function show() {
    const n = tried().length;
    now = belief();
    if (cursor !== null && !now.left.includes(cursor)) cursor = nearest(x[cursor]);
    const last = now.seen.at(-1);
    labels.forEach((_, k) => { [labels[k], texts[k]] = [`${k} tried`, ""]; });
    labels[n] = n ? `${n} tried, the last at ${inX(x[last])}: ${inY(y[last])}` : "nothing tried yet";
    texts[n] = text();
    controls.update(n);
    lengthRange.update(model.get("length"));
    noiseRange.update(model.get("noise"));
    assign(sobol, { "aria-disabled": spent() && "true" });
    assign(fit, { "aria-disabled": n < 2 && "true" });
    hiddenEntry.hidden = !open;
    const operations = (m) => fixed(Math.round(m ** 3 / 3), 0);
    cost.textContent = n ? `Cost of one fit to n = ${n} points: n³/3 ≈ ${operations(n)} multiplications and additions; `
      + `to ten times as many, ${operations(10 * n)}.` : "Nothing to fit yet.";
    showPick();
    panel.update(n);
  }

  let width = -1;
  function layout() {
    if (drawing.clientWidth === width) return;
    width = drawing.clientWidth;
    labels.fill(`${budget} tried, the last at ${wideX}: ${wideY}`);
    texts.fill(longest);
    controls.layout();
    panel.layout();
    cover();
    show();
  }
  layout();
  let frame = 0;
  const observer = new ResizeObserver(() => { // in a frame of its own: drawing changes the height
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(layout);
  });
  observer.observe(drawing);
  const events = ["change:tried", "change:length", "change:noise"];
  events.forEach((event) => model.on(event, show));
  return () => {
    events.forEach((event) => model.off(event, show));
    observer.disconnect();
    cancelAnimationFrame(frame);
    life.abort();
    controls.destroy();
    root.remove();
  };
}

export default { render };
