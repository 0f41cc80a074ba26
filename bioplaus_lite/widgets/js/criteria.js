// The literature table to walk: one rule's checks, a step each, and the table of all rules, to be sorted and filtered.
// Runs in JupyterLab (anywidget) and, through static.py, in any page.

import { assign, control, html, stepControls } from "./controls.js";
import { clamp, fixed } from "./drawing.js";

/** A figure in few digits, with a power of ten if it is very small. */
function threeFigures(value) {
  const digits = Number(value.toPrecision(3));
  return fixed(digits, digits && Math.abs(digits) < 1e-3 ? 6 : (String(digits).split(".")[1] ?? "").length);
}

function render({ model, el }) {
  const { title, rules, answers, criteria, cells } = model.get("spec");
  const life = new AbortController();
  const kinds = Object.keys(answers);
  const step = () => clamp(model.get("step"), 0, criteria.length - 1);
  const rule = () => clamp(model.get("rule"), 0, rules.length - 1);
  const named = (says) => (answers[says].includes(says) ? answers[says] : `${answers[says]} ${says}`.trim());
  const look = (says) => `bp-says bp-says-${says.replaceAll(" ", "-")}`;
  const set = (values) => {
    Object.entries(values).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  const texts = () => cells[rule()].map((cell, k) => (
    `${criteria[k].asks} ${rules[rule()]}: ${named(cell.says)}. ${cell.why}`));
  const labels = criteria.map((one) => one.name);
  const controls = stepControls({ model, labels, texts: texts(), stepName: "Check", seconds: 4 });

  const field = (text, element) => html("label", { class: "bp-field" }, html("span", {}, text), element);
  const option = (value, text) => html("option", { value }, text);
  const ruleSelect = control(html("select", { class: "bp-select bp-rule-select" },
    ...rules.map((one, r) => option(r, one))));
  const filterName = html("span");
  const filterSelect = control(html("select", { class: "bp-select bp-filter" }));
  const reset = control(html("button", { type: "button", class: "bp-button bp-reset" }, "Show all"));
  const found = html("p", { class: "bp-note bp-found", role: "status" });

  // The card of one verdict.
  const badge = html("span", { class: "bp-badge" });
  const figure = html("span", { class: "bp-figure-words" });
  const card = html("p", { class: "bp-card" }, badge, figure);

  // The table of all.
  const heads = criteria.map((one, k) => html("th", { scope: "col", class: "bp-head" },
    control(html("button", { type: "button", class: "bp-sort", "data-column": k }, one.name))));
  const rows = rules.map((one, r) => html("tr", { "data-rule": r }, html("th", { scope: "row", class: "bp-head" }, one),
    ...cells[r].map((cell, k) => html("td", { class: look(cell.says), "data-column": k }, cell.mark))));
  const body = html("tbody", {}, ...rows);
  const table = html("table", { class: "bp-table bp-verdicts" },
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "rule"), ...heads)), body);
  const scroll = html("div", { class: "bp-scroll", role: "group", "aria-label": "All rules", tabindex: "0" }, table);
  const drawing = html("div", { class: "bp-drawing bp-one-column" }, card,
    html("div", { class: "bp-choice" }, html("label", { class: "bp-field" }, filterName, filterSelect), reset), found,
    scroll);
  const root = html("div", { class: "bp-widget bp-criteria", role: "group", "aria-label": title },
    html("div", { class: "bp-title", "aria-hidden": "true" }, title),
    html("p", { class: "bp-spoken" }, "A rule's checks, a step each. Below, all rules: a heading sorts them, and a list "
      + "shows only those with one answer."),
    html("div", { class: "bp-choice" }, field("rule", ruleSelect)), controls.element, drawing);
  el.append(root);

  const wanted = {}; // by criterion: the answer that a rule must have to be shown
  const sorted = { by: null, down: false };

  function arrange() {
    const rank = (r) => {
      const cell = cells[r][sorted.by];
      return cell.says === "counted" ? cell.figure : kinds.indexOf(cell.says);
    };
    const order = rules.map((_, r) => r);
    if (sorted.by !== null) order.sort((a, b) => (sorted.down ? rank(b) - rank(a) : rank(a) - rank(b)) || a - b);
    body.replaceChildren(...order.map((r) => rows[r]));
    heads.forEach((head, k) => assign(head, {
      "aria-sort": k === sorted.by && (sorted.down ? "descending" : "ascending"),
    }));
    const wishes = Object.entries(wanted);
    const shown = order.filter((r) => wishes.every(([k, says]) => cells[r][k].says === says));
    rows.forEach((row, r) => { row.hidden = !shown.includes(r); });
    const said = wishes.map(([k, says]) => `${criteria[k].name} ${answers[says]}`).join(", ");
    found.textContent = `${shown.length} of ${rules.length} rules${said ? `: ${said}` : ""}.`;
    assign(reset, { "aria-disabled": !wishes.length && sorted.by === null && "true" });
  }

  function show() {
    const [k, r] = [step(), rule()];
    const cell = cells[r][k];
    controls.update(k);
    ruleSelect.value = r;
    badge.className = `bp-badge ${look(cell.says)}`;
    badge.textContent = named(cell.says);
    figure.textContent = cell.figure === null ? "no figure" : `${threeFigures(cell.figure)} (${criteria[k].unit})`;
    filterName.textContent = `show rules of which “${criteria[k].name}” is`;
    const there = kinds.filter((says) => cells.some((line) => line[k].says === says));
    filterSelect.replaceChildren(option("", "anything"),
      ...there.map((says) => option(says, named(says))));
    filterSelect.value = wanted[k] ?? "";
    table.querySelectorAll(".bp-here").forEach((one) => one.classList.remove("bp-here"));
    [heads[k], rows[r].cells[0], rows[r].cells[k + 1]].forEach((one) => one.classList.add("bp-here"));
    const [left, width] = [heads[k].offsetLeft, scroll.clientWidth];
    const names = rows[r].cells[0].offsetWidth; // they stay where they are
    if (left - names < scroll.scrollLeft || left + heads[k].offsetWidth > scroll.scrollLeft + width) {
      scroll.scrollLeft = left - names - 8;
    }
  }

  const listen = (target, type, handler) => target.addEventListener(type, handler, { signal: life.signal });
  listen(ruleSelect, "change", () => set({ rule: Number(ruleSelect.value) }));
  listen(filterSelect, "change", () => {
    if (filterSelect.value) wanted[step()] = filterSelect.value;
    else delete wanted[step()];
    arrange();
  });
  listen(reset, "click", () => {
    Object.keys(wanted).forEach((k) => delete wanted[k]);
    Object.assign(sorted, { by: null, down: false });
    arrange();
    show();
  });
  listen(table, "click", (event) => {
    const place = event.target.closest("[data-column]");
    if (!place) return;
    const k = Number(place.dataset.column);
    if (place.tagName === "BUTTON") {
      Object.assign(sorted, { by: k, down: sorted.by === k && !sorted.down });
      arrange();
      controls.go(k);
    } else {
      controls.go(k);
      set({ rule: Number(place.closest("tr").dataset.rule) });
    }
  });

  function turn() { // another rule
    controls.change(labels, texts());
    controls.layout();
    show();
  }
  let width = -1;
  const layout = () => {
    if (drawing.clientWidth === width) return;
    width = drawing.clientWidth;
    controls.layout();
    show();
  };
  arrange();
  layout();
  let frame = 0;
  const observer = new ResizeObserver(() => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(layout);
  });
  observer.observe(drawing);
  model.on("change:step", show);
  model.on("change:rule", turn);
  return () => {
    model.off("change:step", show);
    model.off("change:rule", turn);
    observer.disconnect();
    cancelAnimationFrame(frame);
    life.abort();
    controls.destroy();
    root.remove();
  };
}

export default { render };
