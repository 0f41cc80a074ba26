// The panel of one neuron and its voltages.

import { assign } from "../controls.js";
import { css, fixed, ticks, tint } from "../drawing.js";
import { drawCell } from "./cell.js";
import { hatching, show } from "./looks.js";
import { signed } from "./words.js";

/** The chosen neuron, large, and beside each of its parts the voltage there against time. */
export function drawCloseUp(page, view) {
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
