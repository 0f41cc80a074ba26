// The panel of the network.

import { assign, svg } from "../controls.js";
import { clamp, colourBar, css, decimals, fixed, LINE, TICK, tint } from "../drawing.js";
import { drawCell } from "./cell.js";
import { inkOn, show } from "./looks.js";
import { list, several, signed } from "./words.js";

/** Image, sampled hidden neurons and outputs, with what goes up, what comes back, and what is taught. */
export function drawNetwork(page, view) {
  const { data, r, limits } = view;
  const [outputs, side] = [r.scores.length, Math.sqrt(data.sizes[0])];
  const w = page.width;
  const n = data.neurons.length;
  const margin = 18; // on the right, for the way up to the output
  const outX = (j) => ((j + 0.5) * (w - margin)) / outputs;
  const cellX = (i) => ((i + 0.5) * (w - margin)) / n;
  const pitch = (w - margin) / n;
  const radius = clamp(0.3 * ((w - margin) / outputs), 8, 14);
  const yOut = 74;
  const tuft = 200;
  const wide = clamp(0.62 * pitch, 8, 19);
  const cell = { tuft, trunk: 246, soma: { top: 256, bottom: 282 }, foot: 314, wide, thick: 3.4 };
  const yTip = 334; // the signs of the errors
  const pixel = Math.max(1, Math.floor(112 / side));
  const picSize = pixel * side;
  const [picX, picY] = [10, 402];

  // What is taught, above the outputs.
  page.write("output", 0, 13, "bp-tick bp-strong");
  const taught = page.write("", w - margin, 13, "bp-tick", "end")[0];
  const arrows = Array.from({ length: outputs }, (_, j) => {
    const plus = j === data.label;
    const x = outX(j);
    const group = page.add("g", { class: `bp-teach ${plus ? "bp-teach-plus" : "bp-teach-minus"}`, "data-unit": j });
    group.append(
      svg("path", { d: `M${x - 3} 24V42`, class: "bp-teach-shaft" }),
      svg("path", { d: `M${x - 3} 51l-5.5 -10h11Z`, class: "bp-teach-head" }),
      svg("text", { x: x + 9, y: 38, class: "bp-label bp-strong", "text-anchor": "middle" }, plus ? "+" : "−"),
    );
    return group;
  });

  // Feedback: from each output to all tufts, as strong as what it sends now; to the chosen neuron by sign and weight.
  const wayDown = (j, i) => {
    const [x0, y0, x1, y1] = [outX(j) - 3, yOut + radius + 3, cellX(i), tuft - 3];
    return `M${x0.toFixed(1)} ${y0}C${x0.toFixed(1)} ${y0 + 40} ${x1.toFixed(1)} ${y1 - 45} ${x1.toFixed(1)} ${y1}`;
  };
  const everywhere = Array.from({ length: outputs }, (_, j) => page.add("path", {
    d: data.neurons.map((_, i) => wayDown(j, i)).join(""), class: "bp-feedback-all",
  }));
  const chosenLines = Array.from({ length: outputs }, () => page.add("path", { class: "bp-feedback" }));
  const strongest = Math.max(...data.recordings.map((one) => Math.max(...one.Y.flat().map(Math.abs)))) || 1;
  const busiest = Math.max(...data.recordings.map((one) => Math.max(...one.output.feedback.flat()))) || 1;

  // Outputs.
  const units = Array.from({ length: outputs }, (_, j) => {
    const x = outX(j) - 3;
    const ring = page.add("circle", { cx: x, cy: yOut, r: radius + 4, class: "bp-flash", "stroke-width": 4 });
    const disc = page.add("circle", { cx: x, cy: yOut, r: radius, class: "bp-soma" });
    const digit = page.add("text", { x, y: yOut + 5, class: "bp-label bp-strong bp-on", "text-anchor": "middle" }, j);
    const gauge = { x: x + radius + 4, y: yOut - radius, width: 5, height: 2 * radius };
    page.add("rect", { ...gauge, class: "bp-gauge" });
    const level = page.add("rect", { x: gauge.x, width: 5, class: "bp-gauge-level" });
    return { ring, disc, digit, level };
  });
  const tag = (name) => page.write("", 0, 0, `bp-tick bp-halo ${name}`, "middle")[0];
  const [labelTag, answerTag] = [tag("bp-tag-label"), tag("bp-tag-answer")];

  // Up: from the pixels to all basal dendrites, from the somata to the output.
  const middle = picX + picSize / 2;
  const wayUp = (x) => `M${middle} ${picY - 6}C${middle} ${picY - 34} ${x} ${yTip + 44} ${x} ${yTip + 8}`;
  page.add("path", { d: data.neurons.map((_, i) => wayUp(cellX(i).toFixed(1))).join(""), class: "bp-forward" });
  const [up, from] = [w - 8, cell.soma.bottom - 10];
  page.add("path", {
    d: `M${w - margin - 2} ${from}H${up - 8}Q${up} ${from} ${up} ${from - 8}`
      + `V${yOut + 10}Q${up} ${yOut} ${up - 8} ${yOut}`,
    class: "bp-forward bp-forward-strong", "stroke-dasharray": data.sizes.length > 3 ? "6 4" : null,
  });
  page.add("path", { d: `M${up - 12} ${yOut}l8 -4.5v9Z`, class: "bp-forward-head" });

  // Hidden neurons.
  const frameBox = { y: tuft - 9, width: Math.max(pitch, 20), height: yTip + 10 - tuft };
  const frame = page.add("rect", { ...frameBox, rx: 6, class: "bp-chosen" });
  const cells = data.neurons.map((_, i) => drawCell(page, { ...cell, x: Number(cellX(i).toFixed(1)) }));
  const signs = data.neurons.map((_, i) => page.add("path", { class: "bp-error", "data-at": i }));
  const name = page.write("", 0, yTip + 22, "bp-tick bp-halo bp-strong", "middle")[0];
  page.write("feedback", 0, 150, "bp-tick bp-halo bp-strong");
  const shown = `${n} of ${data.sizes[1]} hidden neurons`;
  const parts = `${shown}: apical tuft, soma, basal dendrites`;
  const room = w - margin - 60;
  page.write(page.measure(parts) < room ? parts : shown, w - margin, yTip + 40, "bp-tick bp-halo", "end");
  const others = data.sizes.slice(2, -1);

  // The image.
  const shades = Uint8Array.from(atob(data.image), (c) => c.charCodeAt(0));
  page.add("rect", { x: picX - 1, y: picY - 1, width: picSize + 2, height: picSize + 2, class: "bp-screen" });
  shades.forEach((v, i) => {
    if (v < 12) return;
    const corner = { x: picX + (i % side) * pixel, y: picY + Math.floor(i / side) * pixel };
    const opacity = (0.62 * v / 255).toFixed(2);
    page.add("rect", { ...corner, width: pixel, height: pixel, class: "bp-shade", opacity });
  });
  const lit = page.add("path", { class: "bp-lit" });
  const inputWords = page.write("", picX, picY + picSize + 17, "bp-tick")[0];

  // The key.
  const keyX = picX + picSize + 34;
  const keyW = Math.min(220, w - keyX - 12);
  page.write("voltage (rest = 0)", keyX, picY + 10, "bp-label");
  const barY = picY + 36;
  colourBar(page, { x: keyX, y: barY, width: keyW, height: 12 }, "diverging");
  const scale = (limit, y, word) => {
    const digits = decimals([limit]) > 1 ? 1 : 0;
    page.write(`≤ ${signed(-limit, digits)}`, keyX, y, "bp-tick");
    page.write("0", keyX + keyW / 2, y, "bp-tick", "middle");
    page.write(`≥ ${signed(limit, digits)}`, keyX + keyW, y, "bp-tick", "end");
    page.write(word, keyX + 0.67 * keyW, y, "bp-tick", "middle");
  };
  scale(limits.apical, barY - 5, keyW > 190 ? "apical" : "");
  scale(limits.soma, barY + 26, keyW > 190 ? "others" : "");
  const keys = keyW > 190 ? [] : ["above: apical; below: others"];
  keys.forEach((line, i) => page.write(line, keyX, barY + 42 + LINE * i, "bp-tick"));
  let keyY = barY + 46 + LINE * keys.length;
  page.add("circle", { cx: keyX + 8, cy: keyY - 4, r: 6, class: "bp-flash", "stroke-width": 4, display: "inline" });
  page.write("ring: a spike in this step", keyX + 22, keyY, "bp-tick");
  keyY += LINE + 2;
  page.add("path", { d: `M${keyX} ${keyY - 4}h16`, class: "bp-feedback bp-excites", "stroke-width": 2.4 });
  page.write("excites", keyX + 22, keyY, "bp-tick");
  const half = keyX + 22 + page.measure("excites") + 14;
  const dashed = { class: "bp-feedback bp-inhibits", "stroke-width": 2.4, "stroke-dasharray": "5 3" };
  page.add("path", { d: `M${half} ${keyY - 4}h16`, ...dashed });
  page.write("inhibits", half + 22, keyY, "bp-tick");
  keyY += LINE + 2;
  page.add("rect", { x: keyX + 6, y: keyY - 11, width: 5, height: 14, class: "bp-gauge" });
  page.add("rect", { x: keyX + 6, y: keyY - 5, width: 5, height: 8, class: "bp-gauge-level" });
  page.write("bar: rate, full at the highest", keyX + 22, keyY, "bp-tick");
  if (others.length) {
    const layers = `${several(others.length, "more hidden layer")} of ${list(others.map(String))} neurons`;
    const note = page.wrap(`arrow up: through ${layers}`, w - keyX, TICK);
    keyY += LINE + 2;
    page.write(note, keyX, keyY, "bp-tick");
    keyY += LINE * (note.length - 1);
  }

  const picks = data.neurons.map((_, i) => (
    { left: cellX(i) - pitch / 2, top: frameBox.y, width: pitch, height: frameBox.height }));
  return {
    height: Math.max(picY + picSize + 26, keyY + 8),
    picks,
    update(step) {
      const now = view.plan.steps[step];
      const { bin } = now;
      const k = view.position();
      const marked = now.kind === "plateau" || now.kind === "update";
      const target = now.phase === "target" && now.kind !== "update";
      const spikes = (events) => (marked ? [] : events[bin]);
      taught.textContent = target ? "teaching current: + label, − others" : "no teaching current";
      assign(taught, { class: `bp-tick ${target ? "bp-strong" : ""}` });
      arrows.forEach((group) => show(group, target && !marked));
      const answered = step >= view.plan.forward;
      labelTag.textContent = answered && r.answer === data.label ? "label = answer" : "label";
      const tagHalf = page.measure(labelTag.textContent) / 2;
      assign(labelTag, { x: clamp(outX(data.label) - 3, tagHalf, w - margin - tagHalf), y: yOut + radius + 17 });
      const close = Math.abs(outX(r.answer) - outX(data.label)) < 48;
      assign(answerTag, { x: clamp(outX(r.answer) - 3, 22, w - margin - 22), y: yOut + radius + (close ? 30 : 17) });
      answerTag.textContent = answered && r.answer !== data.label ? "answer" : "";
      const firing = spikes(r.output.spikes);
      units.forEach((unit, j) => {
        const v = r.output.soma[j][bin];
        const colour = tint(v, limits.soma);
        assign(unit.disc, { fill: css(colour) });
        assign(unit.digit, { style: `fill:${inkOn(colour)}` });
        const rate = 1 / (1 + Math.exp(-v));
        assign(unit.level, { y: yOut + radius - 2 * radius * rate, height: 2 * radius * rate });
        show(unit.ring, firing.includes(j));
      });
      const busy = r.output.feedback.map((course) => course[bin] / busiest);
      everywhere.forEach((path, j) => assign(path, { opacity: (0.5 * busy[j]).toFixed(3) }));
      chosenLines.forEach((path, j) => {
        const weight = r.Y[k][j];
        assign(path, {
          d: wayDown(j, k), class: `bp-feedback ${weight < 0 ? "bp-inhibits" : "bp-excites"}`,
          "stroke-width": (weight === 0 ? 0 : 0.8 + 3 * Math.abs(weight) / strongest).toFixed(2),
          "stroke-dasharray": weight < 0 ? "5 3" : "none", opacity: (0.28 + 0.72 * busy[j]).toFixed(3),
        });
      });
      const hiddenFiring = spikes(r.hidden.spikes);
      const most = Math.max(...r.E.map(Math.abs)) || 1;
      cells.forEach((one, i) => {
        one.paint(view.volts(i, bin), limits);
        one.join(r.constants.g_a > 0);
        show(one.glow, now.kind === "plateau");
        show(one.flash, hiddenFiring.includes(i));
        const size = now.kind === "update" ? 2.5 + 6.5 * Math.abs(r.E[i]) / most : 0;
        const tip = r.E[i] < 0 ? size : -size; // a triangle that points up where the weights grow
        const triangle = `M${cellX(i)} ${yTip - tip}l${size} ${2 * tip}h${-2 * size}Z`;
        const look = r.E[i] < 0 ? "bp-grows" : "bp-shrinks";
        assign(signs[i], { d: size ? triangle : "", class: `bp-error ${look}` });
      });
      assign(frame, { x: cellX(k) - Math.max(pitch, 20) / 2 });
      const updated = now.kind === "update";
      name.textContent = updated ? "▲ weights grow, ▼ shrink; size: |E|" : `neuron ${data.neurons[k]}`;
      const wordsHalf = page.measure(name.textContent, TICK, 600) / 2 + 2;
      assign(name, { x: clamp(updated ? w : cellX(k), wordsHalf, w - margin - wordsHalf) });
      const pixels = spikes(r.input);
      const square = `h${pixel + 1}v${pixel + 1}h${-pixel - 1}Z`;
      const cornerOf = (p) => [picX + (p % side) * pixel - 0.5, picY + Math.floor(p / side) * pixel - 0.5];
      assign(lit, { d: pixels.map((p) => `M${cornerOf(p).join(" ")}${square}`).join("") });
      inputWords.textContent = marked ? "input" : `input: ${several(pixels.length, "spike")}`;
    },
    describe(step) {
      const now = view.plan.steps[step];
      const k = view.position();
      const volts = view.volts(k, now.bin);
      const marked = now.kind === "plateau" || now.kind === "update";
      const firing = marked ? [] : [...new Set(r.output.spikes[now.bin])];
      const taughtWords = now.phase === "target" && !marked
        ? ` Output ${data.label} is taught to fire, the others to be silent.` : "";
      const coupling = r.constants.g_a > 0 ? "joined to" : "cut off from";
      return `An image of a ${data.label} below, ${n} hidden neurons, ${outputs} outputs above. Outputs that spike: `
        + `${firing.length ? list(firing.map(String)) : "none"}. The label's soma is at `
        + `${fixed(r.output.soma[data.label][now.bin], 1)}.${taughtWords} Apical dendrites are ${coupling} the somata. `
        + `Neuron ${data.neurons[k]}: apical ${fixed(volts.apical, 2)}, soma ${fixed(volts.soma, 2)}, `
        + `basal ${fixed(volts.basal, 2)}.`;
    },
  };
}
