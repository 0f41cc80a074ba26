// The panel of the change of the weights.

import { assign } from "../controls.js";
import { clamp, colourBar, picture } from "../drawing.js";
import { figuresSigned } from "./words.js";

/** The change of the chosen neuron's weights: one number times the mean input of its synapses. */
export function drawChange(page, view) {
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
