"""Sphinx extension of this book: what `_config.yml` cannot say.

- Pages show the outputs that the notebooks hold, unless executing them is asked for. The execution cache is then keyed
  on the package, the data and the pinned versions, not only on the cells.
- A build says which page it is at.
- MathJax is served by the site itself: the parts in use, from the `sphinx-mathjax-offline` package.
- Icons come from the theme's web font (0.2 MB, on demand), not from its 1.5 MB script, which also watches
  every change of the page and so slows the widgets down.
- The sidebar ends at the chapters: pages of recorded trainings, which `trainings_pages.py` draws from the records, are
  reached from their index. The search knows them by title only.
- Names in docstrings that no page of this book documents are allowed, each kind with its reason.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]

MATHJAX_PARTS = (
    "tex-chtml.js",
    "input/tex/extensions/*.js",  # MathJax asks for one when a page first uses a macro of it
    "output/chtml/fonts/woff-v2/*.woff",
)

# (role, target), both regular expressions on the whole name.
NITPICK_IGNORE = [
    # The book is built and read without a network, so it has no inventory of other projects' names.
    (r"py:.*", r"(torch|numpy|np|pandas|pd|matplotlib|plt|anywidget|ipywidgets|traitlets|pathlib)(\..*)?"),
    # The same names as the annotations spell them after `from … import …`.
    (r"py:.*", r"(Tensor|Module|Parameter|Generator|Optimizer|LRScheduler|ndarray|DataFrame|Figure|Axes)"),
    # What a subclass has to write is named in a docstring, and documented in the code.
    (r"py:meth", r"_[a-z]\w*"),
    # Classes of one module's own, which only its annotations name.
    (r"py:class", r"bioplaus_lite\..*\._\w+"),
    # Typing and collections: their names say what they mean.
    (r"py:.*", r"(collections\.abc|typing|types|t)(\..*)?"),
    (r"py:.*", r"(Callable|Iterable|Iterator|Mapping|Sequence|Any|Literal|Self|callable|optional|array)"),
]

# What the theme brings and no page asks for: the icon script, source maps, a second format of the icon font.
UNUSED = ("scripts/fontawesome.js*", "scripts/*.map", "styles/*.map", "vendor/fontawesome/webfonts/*.ttf")
# (pattern, replacement) in every page.
FINISH = [
    (re.compile(r"\s*<script[^>]*/fontawesome\.js[^>]*></script>"), ""),
    # For screen readers: the theme's sidebar is no landmark, and the bibliography is a list of what cannot be in one.
    (re.compile(r'<div id="pst-primary-sidebar" '), '<div id="pst-primary-sidebar" role="region" aria-label="Book" '),
    (re.compile(r' role="list" class="citation-list"'), ' class="citation-list"'),
    (re.compile(r' role="doc-biblioentry"'), ""),
]


def source_digest(root: Path = ROOT) -> str:
    """Return a digest of all that a chapter's output can depend on, besides its own cells.

    Args:
        root: the repository. A file counts by its path and its bytes; downloads in ``data/cache`` do not count.
    """
    files = [
        *(root / "bioplaus_lite").rglob("*.py"),
        *(root / "bioplaus_lite").rglob("*.js"),
        *(root / "bioplaus_lite").rglob("*.css"),
        *(path for path in (root / "data").rglob("*") if "cache" not in path.parts and path.suffix != ".part"),
        root / "requirements.txt",
    ]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def configure(app: Sphinx, config: Config) -> None:
    """Show stored outputs, or with ``BIOPLAUS_EXECUTE`` set compute all that the execution cache does not hold.

    The path of the cache names what it is keyed on; a changed path also makes Sphinx read every page again.
    """
    if not os.environ.get("BIOPLAUS_EXECUTE"):
        config.nb_execution_mode = "off"
    else:
        from bioplaus_lite._kernel import own_kernel_path  # with torch, which executing imports anyway

        caches = Path(app.outdir).parent / ".jupyter_cache"
        current = caches / source_digest()
        config.nb_execution_cache_path = str(current)
        for old in caches.glob("*"):
            if old != current:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        os.environ["JUPYTER_PATH"] = own_kernel_path()
    config.html_theme_options["max_navbar_depth"] = 1
    config.nitpick_ignore_regex = [*config.nitpick_ignore_regex, *NITPICK_IGNORE]


def leave_out_of_search(app: Sphinx, doctree: nodes.document) -> None:
    """Index the pages of recorded trainings by their titles only.

    Long tables with the same words would bury the chapters, and every page of the book loads the index.
    """
    if re.fullmatch(r"trainings/(?!index|train$).*", app.env.docname):
        app.env.metadata[app.env.docname]["no-search"] = True


class Progress:
    """Says on stdout which page the build is at, so that nobody waits without knowing for what."""

    def __init__(self) -> None:
        self.total = self.begun = 0

    def count_pages(self, app: Sphinx, env: object, docnames: list[str]) -> None:
        """Told which pages are to be read: those that changed, or all."""
        self.total, self.begun = len(docnames), 0

    def read(self, app: Sphinx, docname: str, source: list[str]) -> None:
        """Told that a page is about to be read, and in a build that executes, to be computed."""
        self.begun += 1
        print(f"[{self.begun}/{self.total}] {docname}", flush=True)

    def write(self, app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
        """Told that a page is about to be written; those that Sphinx makes by itself have no doctree."""
        if doctree is not None:
            print(f"writing {pagename}", flush=True)

    def finish(self, app: Sphinx) -> list:
        """Told that only the pages without a source are left."""
        print("writing the source of the package, the index and the search", flush=True)
        return []


def copy_mathjax(app: Sphinx) -> None:
    """Copy the parts of MathJax that the book uses below ``_static/mathjax``."""
    if app.builder.format != "html":
        return
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("sphinx-mathjax-offline is not installed: run `pip install -r requirements.txt`")
    source = Path(spec.origin).parent / "static" / "mathjax"
    for part in MATHJAX_PARTS:
        found = sorted(source.glob(part))
        if not found:
            raise RuntimeError(f"sphinx-mathjax-offline has no {part!r}: is another version of it installed?")
        for path in found:
            target = Path(app.outdir) / "_static" / "mathjax" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def drop_widget_state(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Leave out the stored state of live widgets: it repeats what each widget's own HTML holds."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "widget-state" not in getattr(script, "attributes", {}).get("type", "")
    ]


def finish(app: Sphinx, error: Exception | None) -> None:
    """Make the last changes to every page, and drop from the site what no page then asks for."""
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for page in site.rglob("*.html"):
        before = after = page.read_text("utf-8")
        for pattern, replacement in FINISH:
            after = pattern.sub(replacement, after)
        if after != before:
            page.write_text(after, "utf-8")
    for pattern in UNUSED:
        for path in (site / "_static").glob(pattern):
            path.unlink()


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the steps above; called by Sphinx."""
    app.connect("config-inited", configure)
    progress = Progress()
    app.connect("env-before-read-docs", progress.count_pages)
    app.connect("source-read", progress.read)
    app.connect("html-page-context", progress.write)
    app.connect("html-collect-pages", progress.finish, priority=100)  # before viewcode makes its own
    app.connect("builder-inited", copy_mathjax)
    app.connect("doctree-read", leave_out_of_search)
    app.connect("html-page-context", drop_widget_state, priority=900)  # after myst-nb has added it
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
