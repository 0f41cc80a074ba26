// What every step player of the book shares: two DOM helpers and the bar of controls.
// Pages get one ES module a widget: `module_source` in static.py joins this file with those that import it.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Set attributes; null, undefined and false remove them. */
export function assign(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value);
  }
  return element;
}

/** An HTML element with its attributes and children. */
export function html(tag, attributes = {}, ...children) {
  const element = assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

/** An SVG element with its attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const element = assign(document.createElementNS(SVG_NAMESPACE, tag), attributes);
  element.append(...children);
  return element;
}

const ICONS = {
  previous: "M12 3v10L4 8z",
  play: "M4 3l9 5-9 5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  next: "M4 3v10l8-5z",
  back: "M8 3v10L2 8zM14 3v10L8 8z",
  ahead: "M2 3v10l6-5zM8 3v10l6-5z",
};

// Drawn, because the characters for these shapes come out as emoji on some systems.
const icon = (name) => svg("svg", { class: "bp-icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
  svg("path", { d: ICONS[name] }));

export const iconBefore = (name, text) => [icon(name), text];
export const iconAfter = (name, text) => [text, icon(name)];

/** An element that keeps its keys: JupyterLab takes the arrow keys from a focused control unless it says no. */
export const control = (element) => { element.dataset.lmSuppressShortcuts = "true"; return element; };

/** A button with a class of its own. */
export const button = (name, ...content) => control(
  html("button", { type: "button", class: `bp-button ${name}` }, ...content));

/**
 * Previous, Play, Next, a slider, and the words of the current step, all bound to `model`'s `step`.
 *
 * `seconds` is the pace of Play, one number or a function of the step; `extra` are elements that stand between the
 * buttons and the slider. Returns the element, `update(step)` to show a step, `go(step)` to move there as by hand,
 * `change(labels, texts)` to have other steps, `layout()` to call when the width has changed, and `destroy()` to stop
 * the timer and drop the listeners. The caller listens to `change:step`.
 */
export function stepControls({ model, labels, texts, stepName, seconds, extra = [] }) {
  let last = labels.length - 1;
  const life = new AbortController();
  let timer = null;

  const previous = button("bp-prev", ...iconBefore("previous", "Previous"));
  const play = button("bp-play", ...iconBefore("play", "Play"));
  const next = button("bp-next", ...iconAfter("next", "Next"));
  const slider = control(html("input", {
    type: "range", class: "bp-slider", min: 0, max: last, step: 1, value: 0, "aria-label": stepName,
  }));
  const words = html("output", { class: "bp-text", "aria-live": "polite", "aria-atomic": "true" });
  const element = html("div", { class: "bp-controls" },
    html("div", { class: "bp-bar" }, html("div", { class: "bp-buttons" }, previous, play, next), ...extra, slider),
    words);

  const sentence = (k) => [
    html("strong", {}, `${stepName} ${k + 1} of ${last + 1} · ${labels[k]}`), texts[k] ? ` — ${texts[k]}` : "",
  ];
  const current = () => Math.max(0, Math.min(last, model.get("step")));
  const isOff = (target) => target.getAttribute("aria-disabled") === "true";

  function go(step) {
    const k = Math.max(0, Math.min(last, step));
    if (k === model.get("step")) return;
    model.set("step", k);
    model.save_changes();
  }

  function pause() {
    if (timer === null) return;
    clearTimeout(timer);
    timer = null;
    play.replaceChildren(...iconBefore("play", "Play"));
    words.setAttribute("aria-live", "polite");
    words.replaceChildren(...sentence(current())); // says where the playing stopped
  }

  function start() {
    if (timer !== null || last === 0) return;
    words.setAttribute("aria-live", "off"); // a voice could not keep up
    play.replaceChildren(...iconBefore("pause", "Pause"));
    if (current() === last) go(0);
    tick();
  }

  function tick() {
    timer = setTimeout(() => {
      if (element.isConnected) go(current() + 1); // a page may drop an output without a word
      if (!element.isConnected || current() === last) pause();
      else if (timer !== null) tick();
    }, 1000 * (typeof seconds === "function" ? seconds(current()) : seconds));
  }

  function byHand(step) {
    pause();
    go(step);
  }

  const listen = (target, type, handler) => target.addEventListener(type, handler, { signal: life.signal });
  listen(previous, "click", () => { if (!isOff(previous)) byHand(current() - 1); });
  listen(next, "click", () => { if (!isOff(next)) byHand(current() + 1); });
  listen(play, "click", () => (timer === null ? start() : pause()));
  listen(slider, "input", () => byHand(Number(slider.value)));
  listen(element, "keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    // The browser moves the slider itself; with a modifier the arrows belong to the browser.
    if (!move || event.target === slider || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    byHand(current() + move);
  });

  function update(step) {
    slider.value = step;
    slider.setAttribute("aria-valuetext", labels[step]);
    // aria-disabled, not disabled: a button that was just pressed must keep the keyboard focus.
    assign(previous, { "aria-disabled": step === 0 && "true" });
    assign(next, { "aria-disabled": step === last && "true" });
    assign(play, { "aria-disabled": last === 0 && "true" });
    words.replaceChildren(...sentence(step));
  }

  /** Reserve the height of the longest sentence, so that the drawing below never jumps. */
  function layout() {
    const ghost = html("div", { class: "bp-text bp-ghost", "aria-hidden": "true" });
    element.append(ghost);
    let height = 0;
    labels.forEach((_, k) => {
      ghost.replaceChildren(...sentence(k));
      height = Math.max(height, ghost.offsetHeight);
    });
    ghost.remove();
    words.style.minHeight = `${height}px`;
  }

  function change(newLabels, newTexts) {
    [labels, texts] = [newLabels, newTexts];
    last = labels.length - 1;
    assign(slider, { max: last });
  }

  function destroy() {
    pause();
    life.abort();
  }

  return { element, update, go: byHand, change, layout, destroy };
}
