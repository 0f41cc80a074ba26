// The table of all recordings.

import { assign, html } from "../controls.js";
import { panelBox } from "../drawing.js";
import { figures } from "./words.js";

/** The numbers of all recordings side by side, for the chosen neuron and for the network. */
export function comparison(view) {
  const body = html("tbody");
  const head = html("tr");
  const title = "All recordings side by side";
  const scroll = html("div", { class: "bp-scroll", role: "group", "aria-label": title },
    html("table", { class: "bp-table bp-compare" }, html("thead", {}, head), body));
  const element = panelBox({ kind: "table", title }, scroll);
  function update() {
    const { data } = view;
    const k = view.position();
    const all = data.recordings;
    const id = data.neurons[k];
    const row = (name, values) => {
      return html("tr", {}, html("th", { scope: "row" }, name),
        ...values.map((v) => html("td", { class: "bp-number" }, typeof v === "number" ? figures(v) : v)));
    };
    head.replaceChildren(html("th", { scope: "col" }, "quantity"),
      ...all.map((one) => html("th", { scope: "col", class: "bp-number" }, one.name)));
    body.replaceChildren(
      row(`αᶠ, neuron ${id}`, all.map((one) => one.alpha_forward[k])),
      row(`αᵗ, neuron ${id}`, all.map((one) => one.alpha_target[k])),
      row(`αᵗ − αᶠ, neuron ${id}`, all.map((one) => one.alpha_target[k] - one.alpha_forward[k])),
      row(`E, neuron ${id}`, all.map((one) => one.E[k])),
      row("output loss", all.map((one) => one.output_loss)),
      row(`answer (label: ${data.label})`, all.map((one) => `${one.answer} ${one.answer === data.label ? "✓" : "✗"}`)),
    );
  }
  // A table too wide for its place must be reachable by the arrow keys.
  const layout = () => assign(scroll, { tabindex: scroll.scrollWidth > scroll.clientWidth && "0" });
  return { element, update, layout };
}
