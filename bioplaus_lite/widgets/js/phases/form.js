// The form that asks the kernel for another simulation.

import { assign, control, html } from "../controls.js";

const FIELDS = [
  ["index", "example"], ["seed", "seed"], ["g_a", "g_a (1/ms)"], ["g_b", "g_b (1/ms)"], ["g_teach", "g_teach (1/ms)"],
  ["phase", "phase (ms)"], ["settle", "Δt_s (ms)"],
];

const FEEDBACKS = { own: "the rule's own", random: "random", symmetric: "symmetric", sparse: "sparse (20 %)" };
let requests = 0;

/** A form that asks the kernel to simulate again, and shows what it answers. */
export function liveForm({ model, life }) {
  const labelled = (text, element) => html("label", { class: "bp-field" }, html("span", {}, text), element);
  const inputs = Object.fromEntries(FIELDS.map(([name]) => [name, control(html("input", {
    type: "number", class: "bp-input", name, step: "any", min: 0,
  }))]));
  const label = control(html("select", { class: "bp-select", name: "label" }));
  const feedback = control(html("select", { class: "bp-select", name: "feedback" },
    ...Object.entries(FEEDBACKS).map(([value, text]) => html("option", { value }, text))));
  const go = control(html("button", { type: "submit", class: "bp-button bp-simulate" }, "Simulate"));
  const answer = html("p", { class: "bp-answer", role: "status" });
  const form = html("form", { class: "bp-live", novalidate: "", "aria-label": "Simulate again" },
    html("div", { class: "bp-fields" },
      labelled("example", inputs.index), labelled("or next of class", label),
      ...FIELDS.slice(1).map(([name, text]) => labelled(text, inputs[name])), labelled("feedback", feedback), go),
    answer);
  const words = (text, bad = false) => {
    answer.textContent = text;
    answer.classList.toggle("bp-bad", bad);
  };
  let asked = 0;
  function fill() {
    const { settings, own, sizes, examples } = model.get("data");
    for (const [name] of FIELDS) {
      const common = own[name]?.length === 1 ? own[name][0] : "";
      inputs[name].value = settings[name] ?? common;
      assign(inputs[name], { placeholder: name in own ? "own" : null });
    }
    assign(inputs.index, { max: examples - 1 });
    label.replaceChildren(html("option", { value: "" }, "–"),
      ...Array.from({ length: sizes.at(-1) }, (_, j) => html("option", { value: j }, j)));
    feedback.value = settings.feedback;
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    requests += 1;
    asked = `${Date.now()}-${requests}`;
    const request = { id: asked, feedback: feedback.value, label: label.value === "" ? null : Number(label.value) };
    // Not what the rules share anyway: an empty field is each rule's own.
    for (const [name] of FIELDS) request[name] = inputs[name].value === "" ? null : Number(inputs[name].value);
    const { index, examples } = model.get("data");
    if (request.label !== null && request.index === index) request.index = (index + 1) % examples; // the next one
    words("Simulating …");
    model.set("request", request);
    model.save_changes();
  }, { signal: life.signal });
  const replied = () => {
    const { id, error } = model.get("reply");
    if (id !== asked) return;
    words(error ? `Nothing was changed: ${error}` : "Simulated.", Boolean(error));
  };
  model.on("change:reply", replied);
  fill();
  return { element: form, fill, destroy: () => model.off("change:reply", replied) };
}
