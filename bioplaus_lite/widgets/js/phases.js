// The phase stepper: one training example of the spiking segregated-compartments network, bin by bin. Runs in
// JupyterLab, where it asks the kernel for other simulations, and through static.py in any page.
//
// A step is one bin of time; the plateaus and the update have steps of their own. `plan` says what each step is.

import { assign, button, control, html, iconAfter, iconBefore, stepControls } from "./controls.js";
import { clamp, figurePanel } from "./drawing.js";
import { drawChange } from "./phases/change.js";
import { drawCloseUp } from "./phases/closeup.js";
import { comparison } from "./phases/comparison.js";
import { liveForm } from "./phases/form.js";
import { voltageLimits } from "./phases/looks.js";
import { drawNetwork } from "./phases/network.js";
import { plan, sentence } from "./phases/steps.js";
import { drawTimeline } from "./phases/timeline.js";

const SLOW = 12; // bins that Play rests where a part begins, to be read
let views = 0;

function render({ model, el }) {
  const life = new AbortController();
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const number = (views += 1);
  /** What the drawings look at; replaced in part when the recording or the data change. */
  const view = {
    id: (name) => `bp-${name}-${number}`,
    position: () => Math.max(0, view.data.neurons.indexOf(model.get("neuron"))),
    volts: (i, bin) => ({
      apical: view.r.hidden.apical[i][bin], soma: view.r.hidden.soma[i][bin], basal: view.r.hidden.basal[i][bin],
    }),
  };
  function choose() {
    view.data = model.get("data");
    view.r = view.data.recordings.find((one) => one.name === model.get("recording")) ?? view.data.recordings[0];
    view.plan = plan(view.r);
    view.limits = voltageLimits(view.data);
    view.labels = view.plan.steps.map((step) => step.label);
  }
  choose();
  const texts = () => view.plan.steps.map((step) => sentence(view.data, view.r, step, view.position()));
  const { title, seconds_per_step: pace } = view.data;
  const set = (name, value) => {
    if (model.get(name) === value) return;
    model.set(name, value);
    model.save_changes();
  };

  // Controls.
  const back = button("bp-phase-prev", ...iconBefore("back", "Previous phase"));
  const ahead = button("bp-phase-next", ...iconAfter("ahead", "Next phase"));
  assign(back, { "aria-keyshortcuts": "PageUp" });
  assign(ahead, { "aria-keyshortcuts": "PageDown" });
  const controls = stepControls({
    model, labels: view.labels, texts: texts(), stepName: "Step",
    seconds: (step) => pace * (calm ? 3 : 1) * (view.plan.steps[step]?.first ? SLOW : 1), // time to read what begins
    extra: [html("div", { class: "bp-buttons" }, back, ahead)],
  });
  const recordingSelect = control(html("select", { class: "bp-select bp-recording" }));
  const neuronSelect = control(html("select", { class: "bp-select bp-neuron" }));
  const choice = html("div", { class: "bp-choice" },
    html("label", { class: "bp-field" }, html("span", {}, "recording"), recordingSelect),
    html("label", { class: "bp-field" }, html("span", {}, "neuron in close-up"), neuronSelect));
  const now = () => clamp(model.get("step"), 0, view.plan.last);
  const label = (step) => view.labels[step];

  // Drawings.
  let network = null;
  const panel = (kind, title, draw) => figurePanel({ kind, title }, draw, label);
  const panels = {
    timeline: panel("timeline", "One training example", (page) => drawTimeline(page, view)),
    network: panel("network", "The network", (page) => (network = drawNetwork(page, view))),
    closeup: panel("closeup", "The neuron in close-up", (page) => drawCloseUp(page, view)),
    change: panel("change", "What it learns from this example", (page) => drawChange(page, view)),
  };
  const table = comparison(view);
  // Buttons over the drawn neurons: an image has no parts that a keyboard could reach.
  const picker = html("div", { class: "bp-picker", role: "radiogroup", "aria-label": "neuron in close-up" });
  panels.network.element.append(picker);
  const drawing = html("div", { class: "bp-drawing bp-phases" },
    panels.timeline.element, panels.network.element, panels.closeup.element, panels.change.element, table.element);
  const form = model.get("live") ? liveForm({ model, life }) : null;
  const foot = form ? form.element
    : html("p", { class: "bp-note" },
      "In JupyterLab this widget also simulates again: another digit, seed, conductances, phases or feedback.");
  const root = html("div", { class: "bp-widget", role: "group", "aria-label": title },
    html("div", { class: "bp-title", "aria-hidden": "true" }, title), // the group already says it
    html("p", { class: "bp-spoken" }, "One training example of a spiking network with segregated dendrites, step by "
      + "step. Page Up and Page Down go to the previous and the next phase."),
    choice, controls.element, drawing, foot);
  el.append(root);

  function phaseStep(way) {
    const step = now();
    const starts = view.plan.parts.map((part) => part.start);
    const to = way > 0 ? starts.find((start) => start > step) : starts.filter((start) => start < step).at(-1);
    if (to !== undefined) controls.go(to);
  }
  const listen = (target, type, handler, capture = false) => (
    target.addEventListener(type, handler, { signal: life.signal, capture }));
  listen(back, "click", () => phaseStep(-1));
  listen(ahead, "click", () => phaseStep(1));
  listen(recordingSelect, "change", () => set("recording", recordingSelect.value));
  listen(neuronSelect, "change", () => set("neuron", Number(neuronSelect.value)));
  // Also on the slider, whose own Page keys would jump by a tenth; lists and fields keep theirs.
  listen(root, "keydown", (event) => {
    const way = { PageUp: -1, PageDown: 1 }[event.key];
    const own = event.target.matches("select, input:not(.bp-slider)");
    if (!way || own || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    phaseStep(way);
  }, true);
  listen(picker, "click", (event) => {
    const picked = event.target.closest("[data-neuron]");
    if (picked) set("neuron", Number(picked.dataset.neuron));
  });
  listen(picker, "keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const { neurons } = view.data;
    set("neuron", neurons[(view.position() + way + neurons.length) % neurons.length]);
    picker.querySelector('[aria-checked="true"]').focus();
  });

  function fillLists() {
    const { recordings, neurons } = view.data;
    recordingSelect.replaceChildren(...recordings.map((one) => html("option", { value: one.name }, one.name)));
    neuronSelect.replaceChildren(...neurons.map((id) => html("option", { value: id }, `neuron ${id}`)));
    picker.replaceChildren(...neurons.map((id) => control(html("button", {
      type: "button", role: "radio", "data-neuron": id, "aria-label": `neuron ${id}`, title: `neuron ${id}`,
    }))));
  }

  function show() {
    const step = now();
    const k = view.position();
    controls.update(step);
    assign(back, { "aria-disabled": step === 0 && "true" });
    assign(ahead, { "aria-disabled": step === view.plan.last && "true" });
    recordingSelect.value = view.r.name;
    neuronSelect.value = view.data.neurons[k];
    Object.values(panels).forEach((panel) => panel.update(step));
    [...picker.children].forEach((one, i) => {
      assign(one, { "aria-checked": String(i === k), tabindex: i === k ? "0" : "-1" });
    });
  }

  function place() { // the buttons over the neurons
    const caption = panels.network.element.querySelector("figcaption");
    const top = caption.offsetTop + caption.offsetHeight + parseFloat(getComputedStyle(caption).marginBottom);
    network.picks.forEach((box, i) => {
      const spot = { left: box.left, top: top + box.top, width: box.width, height: box.height };
      for (const [side, value] of Object.entries(spot)) picker.children[i].style[side] = `${value}px`;
    });
  }

  let width = -1;
  function layout() {
    if (drawing.clientWidth === width) return;
    width = drawing.clientWidth;
    controls.layout();
    Object.values(panels).forEach((panel) => panel.layout());
    place();
    show();
    table.update();
    table.layout();
  }

  /** Another recording or other data: draw anew. */
  function renew() {
    choose();
    fillLists();
    controls.change(view.labels, texts());
    controls.layout();
    Object.values(panels).forEach((panel) => panel.redraw());
    place();
    show();
    table.update();
    table.layout();
    if (model.get("step") > view.plan.last) set("step", view.plan.last);
  }
  function renewData() {
    renew();
    form?.fill();
  }
  function turn() { // another neuron
    controls.change(view.labels, texts());
    panels.closeup.redraw(); // its scales are the neuron's own
    show();
    table.update();
  }

  fillLists();
  layout();
  let frame = 0;
  const observer = new ResizeObserver(() => { // in a frame of its own: drawing changes the height
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(layout);
  });
  observer.observe(drawing);
  const handlers = { "change:step": show, "change:recording": renew, "change:data": renewData, "change:neuron": turn };
  for (const [event, handler] of Object.entries(handlers)) model.on(event, handler);
  return () => {
    for (const [event, handler] of Object.entries(handlers)) model.off(event, handler);
    observer.disconnect();
    cancelAnimationFrame(frame);
    life.abort();
    controls.destroy();
    form?.destroy();
    root.remove();
  };
}

export default { render };
