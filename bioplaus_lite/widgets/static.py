"""Widgets that run without a kernel: the ES module of a widget, its state and a small host as one output.

In JupyterLab an anywidget runs its ES module against a kernel. A page of the book has no kernel, so the same
output also carries ``text/html`` in which the same module runs on the state that is embedded as JSON. It
needs no network, and works over http and from a file. A widget with an ES module of its own gets all this
from :class:`PageWidget`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import anywidget

_MODULES = Path(__file__).parent / "js"
_IMPORT = re.compile(r'^import [^;]* from "(\.{1,2}/[^"]*)";\n', re.MULTILINE)

# The part of anywidget's model that widgets use, without a kernel behind it. Modules are kept by their
# digest, so that a page with many players evaluates the module once.
_HOST = """
(async (key, source) => {
  const modules = (globalThis.bioplausModules ??= {});
  modules[key] ??= import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const { default: widget } = await modules[key];
  for (const host of document.querySelectorAll(`.bp-static[data-module="${key}"]:not([data-ready])`)) {
    host.dataset.ready = "true";
    const state = JSON.parse(host.querySelector('script[type="application/json"]').textContent);
    const handlers = {};
    const model = {
      get: (name) => state[name],
      set: (name, value) => {
        if (state[name] === value) return;
        state[name] = value;
        (handlers[`change:${name}`] ?? []).forEach((handler) => handler());
      },
      on: (event, handler) => { (handlers[event] ??= []).push(handler); },
      off: (event, handler) => { handlers[event] = (handlers[event] ?? []).filter((h) => h !== handler); },
      save_changes: () => {},
      send: () => {},
    };
    widget.render({ model, el: host }); // no await: another output's script must find every host marked
  }
})
"""


def module_source(name: str) -> str:
    """Join an ES module of the folder ``js`` with all that it imports: a page needs no server, and no bundler is asked.

    Each file comes after those that it imports from, in the order in which they are named. Imports between them go, and
    only ``export default`` stays, so no name may be declared at the top of two of these files.
    """
    texts: dict[Path, str] = {}

    def take(path: Path) -> None:
        if path in texts:
            return
        text = path.read_text("utf-8")
        for other in _IMPORT.findall(text):
            take((path.parent / other).resolve())
        texts[path] = _IMPORT.sub("", text)

    take((_MODULES / name).resolve())
    return re.sub(r"^export (?!default)", "", "\n".join(texts.values()), flags=re.MULTILINE)


def script_json(value: Any) -> str:
    """JSON that can stand inside a ``<script>`` element: no text in it can end or open an element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def static_html(module: str, css: str, state: dict[str, Any], fallback: str) -> str:
    """HTML that runs the widget ``module`` on ``state`` with no kernel and no network.

    The text depends on the arguments alone: an unchanged notebook gives the same output again.

    Args:
        module: source of an ES module whose default export has ``render({model, el})``.
        css: style sheet of the widget.
        state: what ``model.get`` answers; JSON.
        fallback: HTML shown where scripts do not run.

    Raises:
        ValueError: if ``state`` holds NaN or infinity, or ``css`` could end its element.
    """
    if "</" in css:
        raise ValueError("css must not contain '</': it would end the <style> element")
    key = hashlib.sha256(module.encode()).hexdigest()[:12]
    return (
        f'<div class="bp-static" data-module="{key}">\n'
        f'<script type="application/json">{script_json(state)}</script>\n'
        f"<noscript>{fallback}</noscript>\n"
        f"</div>\n"
        f"<style>{css}</style>\n"
        f'<script type="module">{_HOST.strip()}({script_json(key)}, {script_json(module)});</script>'
    )


class PageWidget(anywidget.AnyWidget):
    """A widget that also runs in a page without a kernel.

    A subclass sets ``_esm`` and ``_css``, lists in ``_page_traits`` the traits its module reads, and writes
    :meth:`_page_fallback`. Its ``__repr__`` must be stable: it is stored in notebooks.
    """

    _page_traits: ClassVar[tuple[str, ...]] = ()

    def _page_fallback(self) -> str:
        """HTML that says in words what the widget shows."""
        raise NotImplementedError(f"{type(self).__name__} must write _page_fallback()")

    def _repr_html_(self) -> str:
        state = {name: getattr(self, name) for name in self._page_traits}
        return static_html(str(self._esm), str(self._css), state, self._page_fallback())

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/plain": repr(self), "text/html": self._repr_html_()}, metadata
