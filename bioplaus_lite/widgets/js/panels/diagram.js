// The panel of nodes and edges.

import { assign, svg } from "../controls.js";
import { css, LINE, TICK, tint } from "../drawing.js";
import { brief, drawBundle, drawKey, drawScales, inkOn, nodeSize, outline, wireClass } from "./nodes.js";

/** Nodes with their values inside, and bundles of edges that are strong in the steps in which they carry a signal. */
export function drawDiagram(page, panel) {
  const { nodes, values, edges, bands, scales, key } = panel;
  const known = (i, step) => nodes[i].since <= step;
  const show = (i, step) => (known(i, step) ? brief(values[step][i]) : "");
  const isNew = (i, step) => known(i, step)
    && (step === nodes[i].since ? step > 0 : values[step][i] !== values[step - 1][i]);
  const on = (step) => edges.filter((_, e) => panel.active[step].includes(e));
  const signals = values.map((_, step) => (on(step).length ? `signals: ${on(step).map((e) => e.name).join(", ")}` : ""));

  // All nodes of a shape are as wide as the widest text in any of them, at any step.
  const sizes = {};
  nodes.forEach(({ shape, label }, i) => {
    const widest = page.longest([label, ...values.map((_, step) => show(i, step))], TICK);
    const size = nodeSize(shape, widest, label);
    const most = sizes[shape] ?? size;
    sizes[shape] = { w: Math.max(size.w, most.w), h: Math.max(size.h, most.h) };
  });
  const size = (i) => sizes[nodes[i].shape];

  const rows = Math.max(...signals.map((words) => page.wrap(words, page.width - 4, TICK).length));
  const top = LINE * rows + 12 + Math.max(...nodes.map((_, i) => size(i).h));
  const margin = bands.length ? page.longest(bands.flatMap((band) => band.name.split(" ")), TICK) + 12 : 4;
  const [xs, ys] = [nodes.map((node) => node.x), nodes.map((node) => node.y)];
  const wide = Math.max(...nodes.map((_, i) => size(i).w));
  const [west, east] = [margin + wide + 6, page.width - wide - 8];
  const unit = Math.min((east - west) / (Math.max(...xs) - Math.min(...xs) || 1), 96);
  const middle = (west + east) / 2;
  const centre = (Math.max(...xs) + Math.min(...xs)) / 2;
  const X = (i) => middle + unit * (xs[i] - centre);
  const Y = (i) => top + panel.row * (Math.max(...ys) - ys[i]);
  const bottom = Math.max(...nodes.map((_, i) => Y(i) + size(i).h)) + 8;

  for (const band of bands) {
    const high = Math.min(...band.nodes.map((i) => Y(i) - size(i).h)) - 6;
    const low = Math.max(...band.nodes.map((i) => Y(i) + size(i).h)) + 6;
    page.add("rect", { x: 0.5, y: high, width: page.width - 1, height: low - high, rx: 8, class: "bp-band" });
    const words = page.wrap(band.name, margin - 12, TICK);
    page.write(words, 7, (high + low) / 2 + 4 - (LINE * (words.length - 1)) / 2, "bp-tick bp-value");
  }
  const wires = page.add("g", {});
  const drawn = edges.map((bundle) => wires.appendChild(drawBundle(bundle, { nodes, X, Y, size })));
  const cells = nodes.map((node, i) => {
    const body = svg("path", { d: outline(node.shape, X(i), Y(i), size(i)) });
    const text = (y, name) => svg("text", { x: X(i), y, class: `bp-tick ${name}`, "text-anchor": "middle" });
    const name = text(Y(i) - 3, "bp-node-name");
    name.textContent = node.label;
    const value = text(Y(i) + (node.label ? 11 : 4), "bp-node-value");
    page.add("g", { class: "bp-node" }, body, name, value);
    return { body, name, value };
  });
  const said = Array.from({ length: rows }, (_, k) => page.write("", 2, TICK + 1 + LINE * k, "bp-tick bp-value")[0]);
  const used = drawScales(page, panel, drawKey(page, key, bottom + 10));

  return {
    height: used,
    update(step) {
      const words = page.wrap(signals[step], page.width - 4, TICK);
      said.forEach((line, k) => { line.textContent = words[k] ?? ""; });
      const strong = (e) => panel.active[step].includes(e);
      edges.forEach((bundle, e) => assign(drawn[e], { class: wireClass(bundle.kind, strong(e)) }));
      // Strong ones lie above faint ones.
      wires.append(...drawn.filter((_, e) => !strong(e)), ...drawn.filter((_, e) => strong(e)));
      cells.forEach(({ body, name, value }, i) => {
        const colour = known(i, step) ? tint(values[step][i], scales[nodes[i].scale].limit) : null;
        const state = colour ? isNew(i, step) ? "bp-body bp-new" : "bp-body" : "bp-body bp-empty";
        assign(body, { class: state, style: colour ? `fill:${css(colour)}` : "" });
        for (const text of [name, value]) assign(text, { style: colour ? `fill:${inkOn(colour)}` : "" });
        value.textContent = show(i, step);
      });
    },
    describe(step) {
      const now = nodes.map((_, i) => i);
      const told = (list) => list.map((i) => `${nodes[i].name} ${show(i, step)}`).join(", ");
      const parts = [
        ["New in this step", told(now.filter((i) => isNew(i, step)))],
        ["As before", told(now.filter((i) => known(i, step) && !isNew(i, step)))],
        ["Not known yet", now.filter((i) => !known(i, step)).map((i) => nodes[i].name).join(", ")],
      ].filter(([, words]) => words).map(([what, words]) => `${what}: ${words}.`);
      const carried = signals[step] ? ` Edges with ${signals[step]}.` : "";
      return `${panel.alt}${carried} ${parts.join(" ")}`;
    },
  };
}
