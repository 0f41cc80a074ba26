// What the drawings of all widgets share: numbers in words and on axes, a sheet that measures its text, colour maps,
// and a panel that is drawn anew when its width changes.

import { assign, html, svg } from "./controls.js";

export const TICK = 12; // font size in px of tick labels and values
export const LABEL = 13; // font size in px of axis labels
export const LINE = 17; // line height in px
export const COLOURS = { // red, green, blue at equal distances from the lowest value to the highest
  diverging: [[0, 68, 127], [0, 114, 178], [120, 180, 220], [255, 255, 255], [245, 190, 100], [213, 94, 0],
    [138, 54, 0]],
  sequential: [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
    [170, 220, 50], [253, 231, 37]],
};

// ---------------------------------------------------------------------------------------------------- numbers

export const clamp = (v, low, high) => Math.max(low, Math.min(high, v));

/** Decimals that show three figures of the largest value; none when all values are whole. */
export function decimals(values) {
  const largest = values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  if (largest === 0 || values.every(Number.isInteger)) return 0;
  return Math.max(0, 2 - Math.floor(Math.log10(largest)));
}

/** A number with fixed decimals, a true minus sign, commas from 10,000 on, a power of ten if it is very small. */
export function fixed(value, digits) {
  if (digits > 5 && value !== 0) {
    const [figures, power] = value.toExponential(1).split("e");
    const raised = [...power.replace("+", "")].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
    return `${figures.replace("-", "−")}×10${raised}`;
  }
  if (value === 0) return (0).toFixed(digits > 5 ? 0 : digits);
  let text = Math.abs(value).toFixed(digits);
  if (Math.abs(value) >= 1e4) text = text.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return value < 0 && Number(text.replaceAll(",", "")) !== 0 ? `−${text}` : text;
}

/** Round tick values between the limits, about `count` of them, with their labels. */
export function ticks([low, high], count, { whole = false, degrees = false } = {}) {
  const least = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(least));
  const turns = degrees && least > 5 ? [15, 30, 45, 90, 180] : [];
  let step = turns.find((t) => t >= least) ?? power * [1, 2, 5, 10].find((m) => m * power >= 0.999 * least);
  if (whole) step = Math.max(1, step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const list = [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + 1e-6 * step; i += 1) {
    list.push({ value: i * step, label: fixed(i * step, digits) });
  }
  return list;
}

/** Move centres apart until each pair is `gap` away, within [low, high]. */
export function spread(centres, gap, low, high) {
  const order = centres.map((_, i) => i).sort((a, b) => centres[a] - centres[b]);
  const placed = centres.slice();
  let edge = low;
  for (const i of order) {
    placed[i] = Math.max(placed[i], edge);
    edge = placed[i] + gap;
  }
  edge = high;
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i], edge);
    edge = placed[i] - gap;
  }
  return placed;
}

// ---------------------------------------------------------------------------------------- the sheet and its axes

export const ruler = document.createElement("canvas").getContext("2d");

/** A drawing surface `width` pixels wide that knows how wide its text comes out. */
export function sheet(root, width) {
  const family = getComputedStyle(root).fontFamily;
  const add = (tag, attributes, ...children) => {
    const element = svg(tag, attributes, ...children);
    root.append(element);
    return element;
  };
  const measure = (text, size = TICK, weight = 400) => {
    ruler.font = `${weight} ${size}px ${family}`;
    return ruler.measureText(text).width;
  };
  const longest = (lines, size = LABEL) => Math.max(0, ...lines.map((line) => measure(line, size)));
  /** Break text at spaces so that no line is wider than `most`, unless one word is. */
  const wrap = (text, most, size = LABEL) => {
    const lines = [];
    for (const word of text.split(" ")) {
      const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
      if (lines.length && measure(longer, size) <= most) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return text ? lines : [];
  };
  /** Lines of text, the first with its baseline at y. */
  const write = (lines, x, y, name, anchor = "start") => [].concat(lines).map((line, i) => (
    add("text", { x, y: y + i * LINE, class: name, "text-anchor": anchor }, line)));
  /** A layer that cuts off what lies outside a box; it keeps the coordinates of the sheet. */
  const clip = (x, y, w, h) => add("svg", { x, y, width: w, height: h, viewBox: `${x} ${y} ${w} ${h}` });
  return { root, width, add, measure, longest, wrap, write, clip };
}

/** The colour at a place from 0 to 1 on a colour map: red, green, blue. */
export function shade(place, cmap) {
  const stops = COLOURS[cmap];
  const at = clamp(place, 0, 1) * (stops.length - 1);
  const k = Math.min(stops.length - 2, Math.floor(at));
  return stops[k].map((c, channel) => Math.round(c + (at - k) * (stops[k + 1][channel] - c)));
}

/** Colour of a value on the diverging map from −limit to limit. */
export const tint = (v, limit) => shade((v / limit + 1) / 2, "diverging");
export const css = (rgb) => `rgb(${rgb.join(",")})`;

/** Paint numbers from 0 to 255 as a picture and give its address. */
export function picture(levels, rows, cols, cmap) {
  const canvas = assign(document.createElement("canvas"), { width: cols, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(cols, rows);
  levels.forEach((level, i) => image.data.set([...shade(level / 255, cmap), 255], 4 * i));
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** All colours of a map in a frame: upright with the highest value at the top, or lying with it at the right. */
export function colourBar(page, box, cmap) {
  const upright = box.height > box.width;
  const levels = Array.from({ length: 256 }, (_, i) => (upright ? 255 - i : i));
  const [rows, cols] = upright ? [256, 1] : [1, 256];
  page.add("image", { ...box, preserveAspectRatio: "none", href: picture(levels, rows, cols, cmap) });
  page.add("rect", { ...box, class: "bp-edge" });
}

// ------------------------------------------------------------------------------------------------------ panels

export const panelBox = (panel, content) => html("figure", { class: `bp-panel bp-panel-${panel.kind}` },
  html("figcaption", { class: "bp-caption" }, panel.title), content);

/**
 * A panel drawn as SVG, redrawn when its width changes.
 *
 * `draw(page)` draws on a sheet and gives the height, update(step) and describe(step); `label(step)` names a step.
 */
export function figurePanel(panel, draw, label) {
  const title = svg("title");
  const description = svg("desc");
  const root = svg("svg", { role: "img", class: "bp-figure" });
  const element = panelBox(panel, root);
  let drawn = null;
  let width = 0;
  function layout() {
    const now = Math.floor(element.clientWidth) || 340;
    if (drawn && now === width) return;
    width = now;
    root.replaceChildren(title, description);
    drawn = draw(sheet(root, width));
    const height = Math.ceil(drawn.height);
    assign(root, { width, height, viewBox: `0 0 ${width} ${height}` });
  }
  function update(step) {
    title.textContent = `${panel.title}: ${label(step)}`;
    description.textContent = drawn.describe(step);
    drawn.update(step);
  }
  return { element, layout, update, redraw: () => { width = 0; layout(); } };
}
