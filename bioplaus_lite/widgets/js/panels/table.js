// The panel that is an HTML table.

import { assign, html } from "../controls.js";
import { decimals, fixed, panelBox } from "../drawing.js";

/** A panel that is an HTML table; the first cell of a row names the row. */
export function tablePanel(panel) {
  const cellsOf = (j) => panel.rows.flat().map((row) => row[j]);
  const numbers = panel.columns.map((_, j) => cellsOf(j).filter((cell) => typeof cell === "number"));
  const digits = numbers.map(decimals);
  const side = numbers.map((list, j) => (list.length === cellsOf(j).length ? "bp-number" : null));
  const show = (cell, j) => (typeof cell === "number" ? fixed(cell, digits[j]) : cell);
  const heading = panel.columns.map((name, j) => html("th", { scope: "col", class: side[j] }, name));
  const cell = (value, j) => (j === 0
    ? html("th", { scope: "row", class: side[j] }, show(value, j))
    : html("td", { class: side[j] }, show(value, j)));

  const body = html("tbody");
  const table = html("table", { class: "bp-table" }, html("thead", {}, html("tr", {}, ...heading)), body);
  const scroll = html("div", { class: "bp-scroll", role: "group", "aria-label": panel.title }, table);
  const element = panelBox(panel, scroll);
  return {
    element,
    // A table too wide for its place must be reachable by the arrow keys.
    layout: () => assign(scroll, { tabindex: scroll.scrollWidth > scroll.clientWidth && "0" }),
    update: (step) => body.replaceChildren(...panel.rows[step].map((row) => html("tr", {}, ...row.map(cell)))),
  };
}
