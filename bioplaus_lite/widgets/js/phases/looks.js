// Colours, hatching, and what is shown or hidden.

import { assign, svg } from "../controls.js";

const SVG_INKS = ["#1c2126", "#ffffff"]; // of text on a coloured ground, dark and light
export const inkOn = (rgb) => SVG_INKS[0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 135 ? 0 : 1];

/** Limits of the two voltage scales, alike in all recordings: apical dendrites, and all else. */
export function voltageLimits(data) {
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
export function hatching(page, id) {
  page.add("defs", {}, svg("pattern", {
    id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  }, svg("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "bp-hatch" })));
  return `url(#${id})`;
}

/** Show or hide without touching the order of attributes. */
export const show = (element, on) => assign(element, { display: on ? "inline" : "none" });
