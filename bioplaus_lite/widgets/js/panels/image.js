// The panel of heat maps.

import { assign } from "../controls.js";
import { clamp, colourBar, decimals, fixed, LINE, picture, TICK, ticks } from "../drawing.js";

/** A heat map with its colour bar; row 0 at the top. */
export function drawImage(page, panel) {
  const { rows, cols, vlim, cmap } = panel;
  const half = page.width / 2 - 6;
  const ylines = page.wrap(panel.ylabel, half);
  const clines = page.wrap(panel.clabel, panel.ylabel ? half : page.width - 4);
  const top = 10 + LINE * Math.max(ylines.length, clines.length);
  const yticks = panel.ylabel ? ticks([0, rows - 1], 5, { whole: true }) : [];
  const xticks = panel.xlabel ? ticks([0, cols - 1], 5, { whole: true }) : [];
  const left = Math.max(5, ...yticks.map((t) => page.measure(t.label) + 10));
  const thick = 12; // of the colour bar
  const widest = page.longest(ticks(vlim, 7).map((t) => t.label), TICK);
  const room = page.width - left - 10 - thick - 8 - widest;
  // Square cells where the picture then has a readable shape, stretched cells where it has not.
  const height = clamp((room * rows) / cols, 110, Math.min(300, Math.max(room, 170)));
  const width = clamp((height * cols) / rows, Math.min(room, 110), room);
  const bar = left + width + 10;

  page.write(ylines, 0, 4 + TICK, "bp-label");
  // Ends above the colour bar, but never in the half that belongs to the y label.
  const least = page.longest(clines) + (panel.ylabel ? half + 12 : 0);
  page.write(clines, clamp(bar + thick + 8 + widest, least, page.width), 4 + TICK, "bp-label", "end");
  const shown = page.add("image", { x: left, y: top, width, height, preserveAspectRatio: "none", class: "bp-pixels" });
  page.add("rect", { x: left, y: top, width, height, class: "bp-edge" });
  const row = (t) => top + ((t.value + 0.5) * height) / rows;
  const column = (t) => left + ((t.value + 0.5) * width) / cols;
  yticks.forEach((t) => page.write(t.label, left - 6, row(t) + 4, "bp-tick", "end"));
  xticks.forEach((t) => page.write(t.label, column(t), top + height + 16, "bp-tick", "middle"));
  colourBar(page, { x: bar, y: top, width: thick, height }, cmap);
  for (const t of ticks(vlim, clamp(height / 34, 4, 7))) {
    const y = top + (height * (vlim[1] - t.value)) / (vlim[1] - vlim[0]);
    page.add("line", { x1: bar + thick, x2: bar + thick + 4, y1: y, y2: y, class: "bp-axis" });
    page.write(t.label, bar + thick + 8, y + 4, "bp-tick");
  }
  let used = top + height + (xticks.length ? 21 : 6);
  const xlines = page.wrap(panel.xlabel, page.width);
  const centre = Math.max(left + width / 2, page.longest(xlines) / 2);
  page.write(xlines, centre, used + 13, "bp-label", "middle");
  used += LINE * xlines.length + 4;
  const digits = decimals(panel.ranges.flat());
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const painted = panel.frames.map(() => null);
  return {
    height: used,
    update(step) {
      painted[step] ??= picture(decode(panel.frames[step]), rows, cols, cmap);
      assign(shown, { href: painted[step] });
    },
    describe: (step) => {
      const [low, high] = panel.ranges[step].map((v) => fixed(v, digits));
      return `${panel.alt} Heat map of ${rows} rows and ${cols} columns, values from ${low} to ${high}.`;
    },
  };
}
