// What is wider than its column scrolls by itself; then it must also be reached, and scrolled, by keyboard.
(() => {
  const wide = 'mjx-container[display="true"], div.math, .cell_output .text_html, .cell_output pre, div.highlight pre';
  const mark = () => {
    for (const box of document.querySelectorAll(wide)) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else if (box.getAttribute("tabindex") === "0") box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => {
    mark();
    window.MathJax?.startup?.promise?.then(mark);
  });
  addEventListener("resize", mark);
})();

// A term of the glossary says what it means: on hover, on focus and at a tap, until one goes elsewhere or hits Escape.
(() => {
  const gap = 6; // pixels between a term and its definition, and from there to the edge of the window
  let box, leaving;
  const stay = () => (leaving = clearTimeout(leaving));
  const hide = () => {
    stay();
    if (box) box.hidden = true;
    box = undefined;
  };
  const show = (term, x) => {
    stay();
    const asked = document.getElementById(term.getAttribute("aria-describedby"));
    if (asked === box) return;
    hide();
    box = asked;
    box.hidden = false;
    const frame = box.offsetParent.getBoundingClientRect();
    const lines = [...term.getClientRects()]; // two where the term breaks
    const at = lines.find((line) => line.left <= x && x <= line.right) ?? lines[0];
    const most = document.documentElement.clientWidth - box.offsetWidth - gap;
    const below = at.bottom + gap + box.offsetHeight <= innerHeight;
    box.style.left = `${Math.max(gap, Math.min(at.left, most)) - frame.left}px`;
    box.style.top = `${(below ? at.bottom + gap : at.top - gap - box.offsetHeight) - frame.top}px`;
  };
  const asking = (event) => event.target.closest?.(".bp-term");
  const focused = () => document.activeElement?.getAttribute("aria-describedby") === box.id;
  addEventListener("pointerover", (event) => {
    if (asking(event)) show(asking(event), event.clientX);
    else if (box?.contains(event.target)) stay(); // one may point at it, to read on
    else if (box && !focused()) leaving ??= setTimeout(hide, 200);
  });
  addEventListener("focusin", (event) => (asking(event) ? show(asking(event)) : hide()));
  addEventListener("focusout", hide);
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();
