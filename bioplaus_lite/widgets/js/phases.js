// The phase stepper: one training example of the spiking segregated-compartments network, bin by bin. Runs in
// JupyterLab, where it asks the kernel for other simulations, and through static.py in any page.
//
// A step is one bin of time; the plateaus and the update have steps of their own. `plan` says what each step is.

import { assign, button, control, html, iconAfter, iconBefore, stepControls, svg } from "./controls.js";
import {
  LINE, TICK, clamp, colourBar, css, decimals, figurePanel, fixed, panelBox, picture, spread, ticks, tint,
} from "./drawing.js";

const SLOW = 12; // bins that Play rests where a part begins, to be read
const SVG_INKS = ["#1c2126", "#ffffff"]; // of text on a coloured ground, dark and light

const signed = (v, digits) => `${v > 0 ? "+" : ""}${fixed(v, digits)}`;
const several = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
/** Three figures, as in "0.00789" and "12.3". */
const figures = (v) => fixed(v, decimals([v]));
const figuresSigned = (v) => signed(v, decimals([v]));

// ------------------------------------------------------------------------------------------------------- steps

/** What each step of a recording is, and where its parts begin. */
function plan(recording) {
  const [forward, target] = recording.lengths;
  const { window, dt } = recording.constants;
  const steps = [];
  const parts = [];
  const open = (name) => parts.push({ name, start: steps.length });
  const bins = (phase, from, count) => {
    for (let i = 0; i < count; i += 1) {
      const averaged = i >= count - window;
      if (i === 0 || i === count - window) open(`${phase} ${averaged ? "window" : "settling"}`);
      const first = parts.at(-1).start === steps.length;
      steps.push({ kind: averaged ? "window" : "settling", phase, bin: from + i, first });
    }
  };
  const mark = (kind, phase, bin) => { open(`${phase} ${kind}`); steps.push({ kind, phase, bin, first: true }); };
  bins("forward", 0, forward);
  mark("plateau", "forward", forward - 1);
  bins("target", forward, target);
  mark("plateau", "target", forward + target - 1);
  mark("update", "target", forward + target - 1);
  const time = (bin) => fixed((bin + 1) * dt, Number.isInteger(dt) ? 0 : 2);
  for (const step of steps) {
    step.label = step.kind === "update" ? "after the target phase: update of the weights"
      : step.kind === "plateau" ? `end of the ${step.phase} phase: plateau ${step.phase === "forward" ? "αᶠ" : "αᵗ"}`
        : `t = ${time(step.bin)} ms, ${step.phase} phase, ${step.kind === "window" ? "averaged" : "settling"}`;
  }
  return { steps, parts, last: steps.length - 1, forward, bins: forward + target };
}

/** One or two sentences on a step; where a part begins they say what it is. */
function sentence(data, r, step, k) {
  const c = r.constants;
  const { dt, window } = c;
  const [forward, target] = r.lengths;
  const id = data.neurons[k];
  const hidden = data.sizes[1];
  const joined = c.g_a > 0;
  const ms = (bins) => `${fixed(bins * dt, Number.isInteger(dt) ? 0 : 1)} ms`;
  if (step.kind === "update") {
    const way = r.E[k] < 0 ? "the weights from active pixels grow" : "the weights from active pixels shrink";
    return "Every hidden neuron changes its weights by −ηP·E times its mean input, with what is found in that neuron "
      + "alone. "
      + `Neuron ${id}: αᵗ − αᶠ = ${figuresSigned(r.alpha_target[k] - r.alpha_forward[k])}, `
      + `E = ${figuresSigned(r.E[k])}, so ${way}.`;
  }
  if (step.kind === "plateau" && step.phase === "forward") {
    const right = r.answer === data.label;
    const answer = `${r.answer}, ${right ? "which is right" : `but the label is ${data.label}`}`;
    const early = c.plateau_sd > 0 ? " A few milliseconds early in some neurons, as drawn." : "";
    return "Each apical dendrite fires a plateau potential, αᶠ = σ(its mean voltage), that the soma and the basal "
      + `synapses notice${joined ? "" : ", though its voltage does not reach them"}. Neuron ${id}: αᶠ = `
      + `${figures(r.alpha_forward[k])}. The network answers ${answer}.${early}`;
  }
  if (step.kind === "plateau") {
    return "The second plateau, αᵗ = σ(mean apical voltage in the target window). The difference of the two is all "
      + `that a hidden neuron learns from. Neuron ${id}: αᵗ − αᶠ = `
      + `${figuresSigned(r.alpha_target[k] - r.alpha_forward[k])}.`;
  }
  if (step.first && step.phase === "forward" && step.kind === "settling") {
    return `The voltages do not start at rest: ${list(data.before.map((one) => `a ${one}`))} came before, and `
      + `training never resets the state. So the first ${ms(forward - window)} are left out of every average.`;
  }
  if (step.first && step.phase === "forward") {
    return `From here to the end of the phase, ${ms(window)}, voltages and inputs are averaged. `
      + (joined ? `The apical dendrite is joined to the soma (g_a = ${c.g_a}), so feedback also moves the soma.`
        : "The apical dendrite feels the output all the while, but g_a = 0: it does not move the soma.");
  }
  if (step.first && step.kind === "settling") {
    return `The label is taught: a current pulls output ${data.label} towards ${fixed(c.E_E, 0)} and all others `
      + `towards ${fixed(c.E_I, 0)}. Hidden neurons get no label; they only feel what the outputs send back to their apical `
      + `dendrites. The first ${ms(target - window)} are not averaged.`;
  }
  if (step.first) {
    return `Averaging again, for ${ms(window)}. The image is the same as in the forward window; what has changed is `
      + "the feedback, and only the apical dendrites tell the two apart.";
  }
  const t = step.bin;
  const spikes = r.hidden.spikes[t].filter((i) => i === k).length;
  const volts = ["basal", "soma", "apical"].map((part) => `${part} ${signed(r.hidden[part][k][t], 2)}`);
  return `Spikes: ${r.input[t].length} of the input, ${r.hidden.fired[t]} of the ${hidden} hidden neurons, `
    + `${r.output.spikes[t].length} of the ${r.scores.length} outputs. `
    + `Neuron ${id}${spikes ? " spikes" : ""}: ${volts.join(", ")}.`;
}

// ---------------------------------------------------------------------------------------------------- colours

const inkOn = (rgb) => SVG_INKS[0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 135 ? 0 : 1];

/** Limits of the two voltage scales, alike in all recordings: apical dendrites, and all else. */
function voltageLimits(data) {
  const most = (values) => { // the largest but for a few that would make all others pale
    const sizes = values.map(Math.abs).sort((a, b) => a - b);
    return sizes[Math.floor(0.97 * (sizes.length - 1))] || 1;
  };
  const nice = (v) => { // just above v, two figures
    const unit = 10 ** (Math.floor(Math.log10(v)) - 1);
    return Math.ceil(v / unit) * unit;
  };
  const { recordings } = data;
  return {
    apical: nice(most(recordings.flatMap((r) => r.hidden.apical.flat()))),
    soma: nice(most(recordings.flatMap((r) => [...r.hidden.soma.flat(), ...r.hidden.basal.flat()]))),
  };
}

/** Hatching for what is not averaged; gives what `fill` needs. */
function hatching(page, id) {
  page.add("defs", {}, svg("pattern", {
    id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  }, svg("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "bp-hatch" })));
  return `url(#${id})`;
}

/** Show or hide without touching the order of attributes. */
const show = (element, on) => assign(element, { display: on ? "inline" : "none" });

// --------------------------------------------------------------------------------------------------- timeline

/** The course of one example: the parts in words, a time axis, and where we are. */
function drawTimeline(page, view) {
  const { r, plan: course } = view;
  const { dt, window } = r.constants;
  const [forward, target] = r.lengths;
  const mark = clamp(page.width * 0.062, 34, 58); // width of a plateau or of the update
  const per = (page.width - 3 * mark - 2) / (forward + target);
  const [top, bottom] = [28, 60];
  const blocks = []; // one for each part: left, right, step range
  let x = 1;
  course.parts.forEach((part, i) => {
    const end = i + 1 < course.parts.length ? course.parts[i + 1].start : course.last + 1;
    const step = course.steps[part.start];
    const wide = step.kind === "plateau" || step.kind === "update" ? mark : (end - part.start) * per;
    blocks.push({ ...step, start: part.start, end, left: x, right: x + wide });
    x += wide;
  });
  const choose = (words, room) => words.find((w) => page.measure(w) <= room) ?? "";
  const hatch = hatching(page, view.id("hatch"));
  for (const b of blocks) {
    const marked = b.kind === "plateau" || b.kind === "update";
    page.add("rect", {
      x: b.left, y: top, width: b.right - b.left, height: bottom - top, class: `bp-part bp-part-${b.kind}`,
      fill: b.kind === "settling" ? hatch : null,
    });
    const room = b.right - b.left - 6;
    const words = {
      settling: ["settling: not averaged", "not averaged", "settling"],
      window: ["averaging window", "averaged", "mean"],
      plateau: [b.phase === "forward" ? "αᶠ" : "αᵗ"],
      update: ["ΔW"],
    }[b.kind];
    const look = marked ? "bp-label bp-strong" : "bp-tick bp-part-word";
    page.write(choose(words, room), (b.left + b.right) / 2, 48.5, look, "middle");
  }
  const named = page.measure("plateau") <= mark + 2;
  const timed = (phase) => blocks.filter((b) => b.phase === phase && b.kind !== "update" && b.kind !== "plateau");
  for (const phase of ["forward", "target"]) {
    const [left, right] = [timed(phase)[0].left, timed(phase).at(-1).right];
    const words = phase === "forward" ? ["forward phase: the network answers", "forward phase"]
      : [`target phase: the label, ${view.data.label}, is taught`, "target phase"];
    page.write(choose(words, right - left), (left + right) / 2, 12, "bp-label bp-strong", "middle");
    const [from, bins] = phase === "forward" ? [0, forward] : [forward, target];
    for (const t of ticks([from * dt, (from + bins) * dt], (right - left) / 52)) {
      const at = left + ((t.value / dt) - from) * per;
      if (phase === "target" && Math.abs(t.value - from * dt) < 1e-9) continue;
      page.add("line", { x1: at, x2: at, y1: bottom, y2: bottom + 5, class: "bp-axis" });
      if (t.value === 0) page.write("0 ms", 0, bottom + 18, "bp-tick");
      else if (at < right - 16 || !named) page.write(t.label, at, bottom + 18, "bp-tick", "middle");
    }
  }
  const ends = blocks.filter((b) => b.kind === "plateau" || b.kind === "update");
  for (const b of ends) {
    page.write(choose([b.kind], b.right - b.left + 2), (b.left + b.right) / 2, bottom + 18, "bp-tick", "middle");
  }
  const cursor = page.add("path", { class: "bp-time" });
  const glow = page.add("rect", { y: top, height: bottom - top, class: "bp-now" });
  return {
    height: bottom + 24,
    update(k) {
      const b = blocks.find((block) => k < block.end);
      const marked = b.end - b.start === 1 && (b.kind === "plateau" || b.kind === "update");
      const at = marked ? (b.left + b.right) / 2 : b.left + (k - b.start + 0.5) * per;
      assign(glow, { x: b.left, width: b.right - b.left });
      assign(cursor, { d: `M${at.toFixed(1)} ${top}l-6 -9h12ZM${at.toFixed(1)} ${top}V${bottom}` });
    },
    describe: (k) => `One example in time: forward phase of ${forward * dt} ms, plateau, `
      + `target phase of ${target * dt} ms, plateau, update. The last ${window * dt} ms of each phase are averaged. `
      + `Now: ${course.steps[k].label}.`,
  };
}

// ---------------------------------------------------------------------------------------------------- network

/** A hidden neuron: tuft and trunk, soma, basal dendrites. Given its centre, size, and the heights of its parts. */
function drawCell(page, { x, wide, tuft, trunk, soma, foot, thick }) {
  const h = wide / 2;
  const fork = tuft + 0.55 * (trunk - tuft);
  const top = soma.top;
  const apicalPath = `M${x} ${trunk}V${fork}`
    + `M${x} ${fork}C${x} ${fork - 0.4 * (fork - tuft)} ${x - h} ${fork - 0.3 * (fork - tuft)} ${x - h} ${tuft}`
    + `M${x} ${fork}C${x} ${fork - 0.4 * (fork - tuft)} ${x + h} ${fork - 0.3 * (fork - tuft)} ${x + h} ${tuft}`
    + `M${x} ${fork}V${tuft}`;
  const root = soma.bottom + 0.25 * (foot - soma.bottom);
  const basalPath = `M${x} ${soma.bottom}V${root}`
    + `M${x} ${root}C${x} ${root + 0.4 * (foot - root)} ${x - h} ${root + 0.3 * (foot - root)} ${x - h} ${foot}`
    + `M${x} ${root}C${x} ${root + 0.4 * (foot - root)} ${x + h} ${root + 0.3 * (foot - root)} ${x + h} ${foot}`
    + `M${x} ${root}V${foot}`;
  const bodyPath = `M${x} ${top}L${x + 0.62 * wide} ${soma.bottom}H${x - 0.62 * wide}Z`;
  const glow = page.add("path", { d: apicalPath, class: "bp-glow", "stroke-width": thick + 9 });
  const flash = page.add("path", { d: bodyPath, class: "bp-flash", "stroke-width": thick + 5 });
  const link = page.add("path", { d: `M${x} ${trunk}V${top + 2}`, class: "bp-link", "stroke-width": thick });
  const rim = (d) => page.add("path", { d, class: "bp-rim", "stroke-width": thick + 2 });
  const dendrite = (d) => page.add("path", { d, class: "bp-dendrite", "stroke-width": thick });
  const rims = [rim(apicalPath), rim(basalPath)];
  const [apical, basal] = [dendrite(apicalPath), dendrite(basalPath)];
  const body = page.add("path", { d: bodyPath, class: "bp-soma" });
  const y = (trunk + top) / 2;
  const cut = page.add("path", { d: `M${x - 5} ${y + 1}l10 -4M${x - 5} ${y + 5}l10 -4`, class: "bp-cut" });
  return {
    glow, flash, link, cut, apical, basal, body, rims,
    paint(volts, limits) {
      assign(apical, { stroke: css(tint(volts.apical, limits.apical)) });
      assign(basal, { stroke: css(tint(volts.basal, limits.soma)) });
      assign(body, { fill: css(tint(volts.soma, limits.soma)) });
    },
    join(on) { show(link, on); show(cut, !on); },
  };
}

/** Image, sampled hidden neurons and outputs, with what goes up, what comes back, and what is taught. */
function drawNetwork(page, view) {
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

// --------------------------------------------------------------------------------------------------- close-up

/** The chosen neuron, large, and beside each of its parts the voltage there against time. */
function drawCloseUp(page, view) {
  const { data, r, limits } = view;
  const { dt, window } = r.constants;
  const [forward, target] = r.lengths;
  const w = page.width;
  const cellW = 84; // the neuron's column
  const left = cellW + 34;
  const right = w - 8;
  const X = (bins) => left + ((right - left) * bins) / (forward + target);
  const rows = { apical: [40, 124], soma: [156, 240], basal: [272, 356] };
  const titles = { apical: "apical dendrite", soma: "soma", basal: "basal dendrite" };
  const k0 = view.position();
  const range = (...parts) => { // one for all recordings, and one for soma and basal dendrite
    const all = data.recordings.flatMap((one) => parts.flatMap((part) => one.hidden[part][k0]));
    const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
    return [low - 0.06 * (high - low), high + 0.06 * (high - low) || 1];
  };
  const Y = {};
  const curves = {};
  const means = {};
  const heads = {};
  const windows = [[forward - window, forward], [forward + target - window, forward + target]];
  const hatch = hatching(page, view.id("settle"));
  const shades = {};
  for (const [part, [top, bottom]] of Object.entries(rows)) {
    const lim = part === "apical" ? range(part) : range("soma", "basal");
    Y[part] = (v) => bottom - ((bottom - top) * (v - lim[0])) / (lim[1] - lim[0]);
    shades[part] = windows.map(([a, b], phase) => {
      const start = phase ? forward : 0;
      const tall = { y: top, height: bottom - top };
      page.add("rect", { x: X(start), width: X(a) - X(start), ...tall, fill: hatch });
      return page.add("rect", { x: X(a), width: X(b) - X(a), ...tall, class: "bp-window" });
    });
    for (const t of ticks(lim, 3)) {
      const y = Y[part](t.value);
      page.add("line", { x1: left, x2: right, y1: y, y2: y, class: t.value === 0 ? "bp-zero" : "bp-grid" });
      page.write(t.label, left - 6, y + 4, "bp-tick", "end");
    }
    page.add("line", { x1: left, x2: left, y1: top, y2: bottom, class: "bp-axis" });
    heads[part] = page.write("", left + 6, top - 8, "bp-tick bp-halo")[0];
    curves[part] = ["bp-faint", ""].map((name) => page.add("path", { class: `bp-curve bp-volt ${name} bp-s6` }));
    means[part] = windows.map(() => page.add("path", { class: "bp-mean" }));
  }
  page.add("line", { x1: X(forward), x2: X(forward), y1: 4, y2: rows.basal[1], class: "bp-turn" });
  page.write("forward phase", X(forward) - 6, 13, "bp-tick bp-halo", "end");
  page.write("target phase", X(forward) + 6, 13, "bp-tick bp-halo");
  const spikeMarks = page.add("path", { class: "bp-spikes" });
  const axisY = rows.basal[1];
  page.add("line", { x1: left, x2: right, y1: axisY, y2: axisY, class: "bp-axis" });
  for (const t of ticks([0, (forward + target) * dt], (right - left) / 56)) {
    const at = X(t.value / dt);
    page.add("line", { x1: at, x2: at, y1: axisY, y2: axisY + 4, class: "bp-axis" });
    page.write(t.label, at, axisY + 17, "bp-tick", "middle");
  }
  page.write("time (ms)", right, axisY + 33, "bp-tick", "end");
  const cursor = page.add("line", { y1: rows.apical[0], y2: axisY, class: "bp-cursor" });
  const dots = Object.keys(rows).map(() => page.add("circle", { r: 4, class: "bp-now-dot" }));

  // The neuron.
  const x = 38;
  const soma = { top: 150, bottom: 218 };
  const big = drawCell(page, { x, wide: 42, tuft: 34, trunk: 124, soma, foot: 352, thick: 8 });
  assign(big.cut, { d: `M${x - 12} 139l24 -7M${x - 12} 146l24 -7`, class: "bp-cut bp-cut-big" });
  const coupling = page.write(["", ""], x + 15, 132, "bp-tick bp-halo");
  const plateauWay = [
    page.add("path", {
      d: `M${x - 12} 90C${x - 40} 120 ${x - 40} 160 ${x - 21} 196`
        + `M${x - 25} 222C${x - 32} 240 ${x - 30} 252 ${x - 16} 270`,
      class: "bp-plateau-way",
    }),
    page.add("path", { d: `M${x - 17} 204l-12 -5 8 -6ZM${x - 11} 277l-11 -4 7 -8Z`, class: "bp-plateau-head" }),
  ];
  const plateauWord = page.write("", 0, 20, "bp-label bp-strong")[0];

  // Both plateaus on one line.
  const top = axisY + 56;
  page.write("plateau potential α = σ(mean apical voltage), from 0 to 1", 0, top, "bp-tick");
  const alphas = data.recordings.flatMap((one) => [...one.alpha_forward, ...one.alpha_target]);
  const spanA = Math.max(0.01, Math.max(...alphas) - Math.min(...alphas));
  const limA = [Math.max(0, Math.min(...alphas) - 0.08 * spanA), Math.min(1, Math.max(...alphas) + 0.08 * spanA)];
  const A = (v) => 12 + ((w - 26) * (v - limA[0])) / (limA[1] - limA[0]);
  const lineY = top + 24;
  page.add("line", { x1: A(limA[0]), x2: A(limA[1]), y1: lineY, y2: lineY, class: "bp-axis" });
  for (const t of ticks(limA, w / 70)) {
    page.add("line", { x1: A(t.value), x2: A(t.value), y1: lineY, y2: lineY + 5, class: "bp-axis" });
    page.write(t.label, A(t.value), lineY + 18, "bp-tick", "middle");
  }
  const shift = page.add("path", { class: "bp-shift" });
  const shiftHead = page.add("path", { class: "bp-shift-head" });
  const first = page.add("circle", { cy: lineY, r: 6, class: "bp-alpha-f" });
  const second = page.add("circle", { cy: lineY, r: 6, class: "bp-alpha-t" });
  const values = page.write("", 0, lineY + 40, "bp-label")[0];

  const digits = 3;
  return {
    height: lineY + 48,
    update(step) {
      const now = view.plan.steps[step];
      const { bin } = now;
      const k = view.position();
      const marked = now.kind === "plateau" || now.kind === "update";
      const volts = view.volts(k, bin);
      big.paint(volts, limits);
      big.join(r.constants.g_a > 0);
      coupling[0].textContent = r.constants.g_a > 0 ? "joined:" : "cut:";
      coupling[1].textContent = `g_a = ${r.constants.g_a}`;
      show(big.glow, now.kind === "plateau");
      show(big.flash, !marked && r.hidden.spikes[bin].includes(k));
      for (const element of plateauWay) show(element, now.kind === "plateau");
      const alpha = now.phase === "forward" ? r.alpha_forward[k] : r.alpha_target[k];
      const symbol = now.phase === "forward" ? "αᶠ" : "αᵗ";
      plateauWord.textContent = now.kind === "plateau" ? `${symbol} = ${fixed(alpha, digits)}` : "";
      const done = [step >= view.plan.forward, step >= view.plan.last - 1];
      Object.keys(rows).forEach((part, i) => {
        const series = r.hidden[part][k];
        const points = series.map((v, t) => `${t ? "L" : "M"}${X(t + 0.5).toFixed(1)} ${Y[part](v).toFixed(1)}`);
        const path = (upTo) => points.slice(0, upTo + 1).join("");
        assign(curves[part][0], { d: path(series.length - 1) });
        assign(curves[part][1], { d: path(bin) });
        const fill = css(tint(series[bin], part === "apical" ? limits.apical : limits.soma));
        assign(dots[i], { cx: X(bin + 0.5), cy: Y[part](series[bin]), fill });
        heads[part].textContent = `${titles[part]}: ${signed(series[bin], 2)}`;
        windows.forEach(([a, b], phase) => {
          const early = part === "apical" ? r.lengths[phase] - r.plateau_steps[phase][k] : 0;
          assign(shades[part][phase], { x: X(a - early) });
          const inside = series.slice(a - early, b - early);
          const mean = inside.reduce((sum, v) => sum + v, 0) / inside.length;
          const needed = part === "apical" || (part === "soma" && phase === 0);
          const level = `M${X(a - early)} ${Y[part](mean)}H${X(b - early)}`;
          assign(means[part][phase], { d: needed && done[phase] ? level : "" });
        });
      });
      const fired = r.hidden.spikes.flatMap((events, t) => (events.includes(k) && (t <= bin) ? [t] : []));
      assign(spikeMarks, { d: fired.map((t) => `M${X(t + 0.5).toFixed(1)} ${rows.soma[0] - 3}v11`).join("") });
      assign(cursor, { x1: X(marked ? bin + 1 : bin + 0.5), x2: X(marked ? bin + 1 : bin + 0.5) });
      const [f, t] = [r.alpha_forward[k], r.alpha_target[k]];
      assign(first, { cx: A(f), visibility: done[0] ? "visible" : "hidden" });
      assign(second, { cx: A(t), visibility: done[1] ? "visible" : "hidden" });
      const far = Math.abs(A(t) - A(f)) > 18;
      const way = Math.sign(t - f);
      assign(shift, { d: done[1] && far ? `M${A(f) + 7 * way} ${lineY}H${A(t) - 14 * way}` : "" });
      assign(shiftHead, { d: done[1] && far ? `M${A(t) - 7 * way} ${lineY}l${-9 * way} -5v10Z` : "" });
      values.textContent = [
        done[0] ? `○ αᶠ = ${fixed(f, digits)}` : "no plateau yet",
        done[1] ? `   ● αᵗ = ${fixed(t, digits)}   αᵗ − αᶠ = ${signed(t - f, digits)}` : "",
      ].join("");
    },
    describe(step) {
      const now = view.plan.steps[step];
      const k = view.position();
      const volts = view.volts(k, now.bin);
      const known = [
        step >= view.plan.forward && `Forward plateau ${fixed(r.alpha_forward[k], 3)}.`,
        step >= view.plan.last - 1 && `Target plateau ${fixed(r.alpha_target[k], 3)}.`,
      ].filter(Boolean).join(" ");
      return `Neuron ${data.neurons[k]}, its three parts, and their voltages against time: `
        + `apical ${fixed(volts.apical, 2)}, soma ${fixed(volts.soma, 2)}, basal ${fixed(volts.basal, 2)}. ${known}`;
    },
  };
}

// --------------------------------------------------------------------------------------------- the new weights

/** The change of the chosen neuron's weights: one number times the mean input of its synapses. */
function drawChange(page, view) {
  const { data, r } = view;
  const side = Math.sqrt(data.sizes[0]);
  const w = page.width;
  const key = 66;
  const numberW = 60;
  const size = side * Math.max(1, Math.floor((Math.min(w, 460) - key - numberW - 40) / 2 / side));
  const top = 40;
  const [xPsp, xDelta] = [numberW + 18, numberW + 18 + size + 22];
  const scale = (one) => Math.max(...one.E.map(Math.abs)) * one.constants.eta_P * Math.max(...one.psp);
  const limit = Math.max(...data.recordings.map(scale)) || 1;
  const mostPsp = Math.max(...data.recordings.map((one) => Math.max(...one.psp))) || 1;
  const heading = (lines, x) => page.write(lines, x, 13, "bp-tick");
  heading(["its own", "−ηP·E"], 0);
  heading(["mean input", "of its synapses"], xPsp);
  heading(["ΔW, change of", "its weights"], xDelta);
  const box = (x) => {
    const place = { x, y: top, width: size, height: size };
    const image = page.add("image", { ...place, preserveAspectRatio: "none", class: "bp-pixels" });
    page.add("rect", { ...place, class: "bp-edge" });
    const later = page.write([" ", " "], x + size / 2, top + size / 2 - 4, "bp-tick", "middle");
    return { image, later };
  };
  const [psp, delta] = [box(xPsp), box(xDelta)];
  delta.image.classList.add("bp-delta");
  page.write("×", xPsp - 13, top + size / 2 + 5, "bp-label", "middle");
  page.write("=", xDelta - 11, top + size / 2 + 5, "bp-label", "middle");
  const number = page.write("", 0, top + size / 2 + 5, "bp-label bp-strong")[0];
  const error = page.write(["", ""], 0, top + size / 2 + 26, "bp-tick");
  const bar = xDelta + size + 8;
  colourBar(page, { x: bar, y: top, width: 10, height: size }, "diverging");
  const most = limit.toPrecision(2);
  [`+${most}`, "0", `−${most}`].forEach((word, i) => {
    page.write(word, bar + 14, top + 9 + ((size - 10) * i) / 2, "bp-tick");
  });
  const pspPicture = picture(r.psp.map((v) => Math.round((255 * v) / mostPsp)), side, side, "sequential");
  const deltaPicture = new Map();
  return {
    height: top + size + 8,
    update(step) {
      const k = view.position();
      const now = view.plan.steps[step];
      const factor = -r.constants.eta_P * r.E[k];
      const [known, done] = [step >= view.plan.forward, now.kind === "update"];
      const factorKnown = step >= view.plan.last - 1;
      assign(psp.image, { href: known ? pspPicture : "" });
      psp.later.forEach((t, i) => { t.textContent = known ? "" : ["known at the", "first plateau"][i]; });
      if (done && !deltaPicture.has(k)) {
        const levels = r.psp.map((v) => Math.round(255 * clamp((factor * v / limit + 1) / 2, 0, 1)));
        deltaPicture.set(k, picture(levels, side, side, "diverging"));
      }
      assign(delta.image, { href: done ? deltaPicture.get(k) : "", "data-shown": String(done) });
      delta.later.forEach((t, i) => { t.textContent = done ? "" : ["appears at", "the update"][i]; });
      number.textContent = factorKnown ? figuresSigned(factor) : "…";
      error.forEach((t, i) => { t.textContent = factorKnown ? [`E =`, figuresSigned(r.E[k])][i] : ""; });
    },
    describe(step) {
      const k = view.position();
      if (view.plan.steps[step].kind !== "update") return "The change of the weights appears at the update.";
      const extreme = figuresSigned(-r.constants.eta_P * r.E[k] * Math.max(...r.psp));
      return `The change of the weights of neuron ${data.neurons[k]} as an image: `
        + `${r.E[k] < 0 ? "positive" : "negative"} where pixels spiked, ${extreme} at the most active. `
        + `The error E is ${figuresSigned(r.E[k])}.`;
    },
  };
}

// ------------------------------------------------------------------------------------------------------ table

/** The numbers of all recordings side by side, for the chosen neuron and for the network. */
function comparison(view) {
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

// ----------------------------------------------------------------------------------------------- live controls

const FIELDS = [
  ["index", "example"], ["seed", "seed"], ["g_a", "g_a (1/ms)"], ["g_b", "g_b (1/ms)"], ["g_teach", "g_teach (1/ms)"],
  ["phase", "phase (ms)"], ["settle", "Δt_s (ms)"],
];
const FEEDBACKS = { own: "the rule's own", random: "random", symmetric: "symmetric", sparse: "sparse (20 %)" };
let requests = 0;

/** A form that asks the kernel to simulate again, and shows what it answers. */
function liveForm({ model, life }) {
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

// ------------------------------------------------------------------------------------------------- the widget

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
