// The panel with the course of one example.

import { assign } from "../controls.js";
import { clamp, ticks } from "../drawing.js";
import { hatching } from "./looks.js";

/** The course of one example: the parts in words, a time axis, and where we are. */
export function drawTimeline(page, view) {
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
