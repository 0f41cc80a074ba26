// The step player: panels side by side that all show the same step. Runs in JupyterLab (anywidget) and, through
// static.py, in any page. A panel is drawn once for a width, in real pixels, so that text never shrinks below 12 px;
// `update(step)` then only moves what changes.

import { html, stepControls } from "./controls.js";
import { clamp, figurePanel } from "./drawing.js";
import { drawBars } from "./panels/bars.js";
import { drawDiagram } from "./panels/diagram.js";
import { drawImage } from "./panels/image.js";
import { drawLines } from "./panels/lines.js";
import { drawScatter, drawVectors } from "./panels/plane.js";
import { tablePanel } from "./panels/table.js";

// Each takes a sheet and the panel as Python wrote it; gives the height, update(step) and describe(step) for <desc>.
const DRAW = {
  lines: drawLines, bars: drawBars, scatter: drawScatter, vectors: drawVectors, image: drawImage, diagram: drawDiagram,
};

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
