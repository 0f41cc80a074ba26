// A hidden neuron, as the network and the close-up draw it.

import { assign } from "../controls.js";
import { css, tint } from "../drawing.js";
import { show } from "./looks.js";

/** A hidden neuron: tuft and trunk, soma, basal dendrites. Given its centre, size, and the heights of its parts. */
export function drawCell(page, { x, wide, tuft, trunk, soma, foot, thick }) {
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
