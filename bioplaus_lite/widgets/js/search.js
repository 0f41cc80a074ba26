// A search on a line, one evaluation a step: what a Gaussian process believes after it, where the rule would look next,
// and a reader who may look elsewhere. Runs in JupyterLab (anywidget) and, through static.py, in any page.

import { assign, button, control, html, stepControls } from "./controls.js";
import { clamp, figurePanel, fixed } from "./drawing.js";
import { believe, fitted } from "./search/belief.js";
import { searchKey, searchPlot } from "./search/plot.js";
import { searchWords } from "./search/words.js";

/** A slider over the values of a list, with its name and value. */
function listSlider(name, text, values, choose) {
  const input = control(html("input", {
    type: "range", class: `bp-range bp-${name}`, min: 0, max: values.length - 1,
  }));
  const shown = html("span", { class: "bp-shown", "aria-hidden": "true" });
  input.addEventListener("input", () => choose(values[Number(input.value)]));
  const update = (value) => { // between two positions the nearer, in factors
    const off = (v) => Math.abs(Math.log(v / value));
    input.value = values.reduce((near, v, i) => (off(v) < off(values[near]) ? i : near), 0);
    shown.textContent = fixed(value, clamp(2 - Math.floor(Math.log10(value)), 0, 2));
    assign(input, { "aria-valuetext": shown.textContent });
  };
  return { element: html("label", { class: "bp-field" }, html("span", {}, text), input, shown), update };
}

function render({ model, el }) {
  const spec = model.get("spec");
  const { title, x, budget } = spec;
  const words = searchWords(spec);
  const life = new AbortController();
  const tried = () => model.get("tried");
  const belief = (list) => believe(spec, list, model.get("length"), model.get("noise"));
  const spent = () => tried().length === budget;
  let now = belief(tried());
  let cursor = null; // index of the place that the reader points to
  let open = false; // whether the hidden values are shown

  const set = (values) => {
    Object.entries(values).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  /** The first k evaluations; the rule adds those that are not there yet. */
  function goTo(k) {
    const list = tried().slice(0, k);
    while (list.length < k) list.push([belief(list).next, "rule"]);
    set({ tried: list });
  }
  function add(i, who) {
    controls.go(tried().length); // stops the playing
    if (!spent()) set({ tried: [...tried(), [i, who]] });
  }

  // --- what the reader sees

  const steps = { get: () => tried().length, set: (_, k) => goTo(k), save_changes: () => {} };
  const labels = Array.from({ length: budget + 1 }, (_, k) => `${k} tried`);
  const texts = labels.map(() => "");
  const sobol = button("bp-sobol", "Try a Sobol point");
  const again = button("bp-again", "Start again");
  const controls = stepControls({ model: steps, labels, texts, stepName: "Step", seconds: 1.5, extra: [sobol, again] });
  controls.element.querySelector(".bp-prev").lastChild.textContent = "Take back";
  controls.element.querySelector(".bp-next").firstChild.textContent = "Try the proposal";

  const length = listSlider("length", "length scale", spec.lengths, (value) => set({ length: value }));
  const noise = listSlider("noise", "noise", spec.noises, (value) => set({ noise: value }));
  const fit = button("bp-fit", "Fit both");
  fit.title = "Find the length scale and the noise with the largest marginal likelihood";
  const reveal = control(html("input", { type: "checkbox", class: "bp-check bp-reveal" }));
  const settings = html("div", { class: "bp-choice" }, length.element, noise.element, fit,
    html("label", { class: "bp-field" }, reveal, html("span", {}, "show what the search cannot see")));

  const plot = searchPlot(spec, words, () => ({ now, tried: tried(), spent: spent(), cursor, open }));
  const panel = figurePanel({ kind: "search", title: "What the search knows" }, plot.draw, (k) => (
    `${k} of ${budget} tried`));
  const pick = control(html("div", {
    class: "bp-pick", role: "slider", tabindex: "0", "aria-label": "Your pick: arrow keys move it, Enter tries it",
    "aria-valuemin": 0, "aria-valuemax": x.length - 1,
  }));
  panel.element.append(pick);
  const { key, hidden } = searchKey();
  const cost = html("p", { class: "bp-note bp-cost" });
  const drawing = html("div", { class: "bp-drawing bp-one-column" }, panel.element, key, cost);
  const root = html("div", { class: "bp-widget bp-search", role: "group", "aria-label": title },
    html("div", { class: "bp-title", "aria-hidden": "true" }, title),
    html("p", { class: "bp-spoken" }, "A search for the highest of the recorded values. Each step tries one place. "
      + "Under the plot stands what one fit costs."),
    controls.element, settings, drawing);
  el.append(root);

  function cover() { // the place to point lies over the plot
    const [outer, inner] = [panel.element, panel.element.querySelector("svg")].map((e) => e.getBoundingClientRect());
    const { left, top, width, height } = plot.area;
    const spot = { left, top: inner.top - outer.top + top, width, height };
    for (const [side, value] of Object.entries(spot)) pick.style[side] = `${value}px`;
  }

  // --- what the reader does

  /** The nearest place that is not tried yet. */
  const nearest = (place) => now.left.reduce((near, i) => (
    Math.abs(x[i] - place) < Math.abs(x[near] - place) ? i : near), now.left[0] ?? null);
  const under = (event) => {
    const { left, width } = pick.getBoundingClientRect();
    return nearest(plot.placeAt((event.clientX - left) / width));
  };
  function point(i) {
    cursor = i;
    showPick();
    panel.update(tried().length);
  }

  const listen = (target, type, handler) => target.addEventListener(type, handler, { signal: life.signal });
  const able = (target) => target.getAttribute("aria-disabled") !== "true";
  listen(sobol, "click", () => {
    if (able(sobol)) add(spec.sobol.find((i) => now.left.includes(i)), "Sobol");
  });
  listen(again, "click", () => {
    controls.go(tried().length); // stops the playing
    set({ ...spec.begin, tried: spec.sobol.slice(0, spec.start).map((i) => [i, "Sobol"]) });
  });
  listen(fit, "click", () => { if (able(fit)) set(fitted(spec, tried())); });
  listen(reveal, "change", () => { open = reveal.checked; show(); });
  listen(pick, "pointermove", (event) => { if (event.pointerType === "mouse") point(under(event)); });
  listen(pick, "pointerleave", () => { if (!pick.matches(":focus")) point(null); });
  listen(pick, "click", (event) => { if (able(pick)) add(under(event), "you"); });
  listen(pick, "focus", () => { if (cursor === null) point(now.next); });
  listen(pick, "blur", () => point(null));
  listen(pick, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !able(pick)) return;
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

  function showPick() {
    const i = cursor ?? now.next;
    const off = spent() || i === null;
    assign(pick, {
      "aria-valuenow": i ?? 0, "aria-disabled": off && "true", "aria-valuetext": off ? "the budget is spent"
        : `${words.inX(x[i])}, the process expects ${words.expected(now.at(x[i])).join(", give or take ")}`,
    });
  }

  function show() {
    const n = tried().length;
    now = belief(tried());
    if (cursor !== null && !now.left.includes(cursor)) cursor = nearest(x[cursor]);
    [labels[n], texts[n]] = [words.label(now), words.text(now)];
    controls.update(n);
    length.update(model.get("length"));
    noise.update(model.get("noise"));
    assign(sobol, { "aria-disabled": spent() && "true" });
    assign(fit, { "aria-disabled": n < 2 && "true" });
    hidden.hidden = !open;
    cost.textContent = words.cost(n);
    showPick();
    panel.update(n);
  }

  let width = -1;
  function layout() {
    if (drawing.clientWidth === width) return;
    width = drawing.clientWidth;
    labels.fill(words.longest.label); // other steps are not known yet: keep room for the longest words
    texts.fill(words.longest.text);
    controls.layout();
    panel.layout();
    show();
    cover();
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
