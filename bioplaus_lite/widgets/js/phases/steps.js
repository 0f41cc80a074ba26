// What each step of a recording is, and what is said of it.

import { fixed } from "../drawing.js";
import { figures, figuresSigned, list, signed } from "./words.js";

/** What each step of a recording is, and where its parts begin. */
export function plan(recording) {
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
export function sentence(data, r, step, k) {
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
