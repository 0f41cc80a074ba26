"""What a notebook of the book must look like. Each rule takes notebooks and returns what is wrong, in words.

The rules are applied to the book, and tried on small bad notebooks, in `test_notebooks.py`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from markdown_it import MarkdownIt
from markdown_it.token import Token
from nbformat import NotebookNode
from nbformat.validator import iter_validate

MAX_LINES = 30
MAX_BYTES = 1_000_000
MIN_ALT = 20

SKELETON = (
    "In one sentence",
    "Before you start",
    "Derivation",
    "Build it",
    "Check it",
    "See it",
    "Train it",
    "What it costs",
    "The literature table",
    "What is not plausible",
    "Exercises",
    "Summary",
    "Further reading",
)
# Of the chapters that report trainings on record.
EXPERIMENT = (
    "In one sentence",
    "Before you start",
    "What is measured",
    "Check it",
    "The runs",
    "See it",
    "What the review said",
    "What these numbers cannot say",
    "Exercises",
    "Summary",
    "Further reading",
)
BEFORE_YOU_START = ("Objectives", "Prerequisites", "Reading time")
MIN_EXERCISES = 4

ALLOWED_TAGS = {"hide-input", "hide-output", "hide-cell", "parameters"}

# Outputs that strict nbval may leave out: {(notebook, cell id): why}. Keep it empty if you can.
NOT_COMPARED: dict[tuple[str, str], str] = {}

NBVAL_COMMENT = re.compile(r"^\s*#\s*(PYTEST_VALIDATE_\w+|NBVAL_\w+)\s*$", re.MULTILINE)
VOLATILE = {
    "an absolute path": re.compile(r"(?<![\w.:/])/(?:home|root|Users|usr|var|opt|mnt|srv|tmp|work)/\w|\b[A-Z]:\\\w"),
    "an object address": re.compile(r"\b0x[0-9a-fA-F]{6,}"),
    "a date and time": re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d"),
}
MARKDOWN = MarkdownIt("commonmark").enable("table")
DIRECTIVE = re.compile(r"^ *\{(?P<name>[\w:-]+)\}(?P<argument>.*)$")  # after the fence
OPTION = re.compile(r"^ *:(?P<name>[\w-]+): *(?P<value>.*?) *$")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
HTML_ALT = re.compile(r"""\balt\s*=\s*("[^"]+"|'[^']+')""", re.IGNORECASE)
CITATION = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
NUMBERED_EQUATION = re.compile(r"\$\$[ \t]*\([\w:.-]+\)[ \t]*$", re.MULTILINE)


# --- reading -------------------------------------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that hold any code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def markdown(notebook: NotebookNode) -> str:
    """All markdown of a notebook."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def where(cell: NotebookNode) -> str:
    """Name a cell by its id and first line."""
    first = (cell.source.strip().splitlines() or ["(empty)"])[0]
    return f"cell {cell.get('id', '?')} ({first[:50]!r})"


def tokens(text: str) -> Iterator[Token]:
    """Markdown tokens; the content of a directive is read like the text around it, other code is passed over."""
    for token in MARKDOWN.parse(text):
        if token.type != "fence":
            yield token
        elif DIRECTIVE.match(token.info):
            yield token
            yield from tokens(token.content)


def inline(text: str) -> Iterator[Token]:
    """The inline tokens of a text: words, images, HTML elements."""
    return (child for token in tokens(text) for child in token.children or [])


def directives(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield name, argument and options of every directive, fenced with backticks or colons."""
    for token in tokens(text):
        if token.type == "fence":
            yield _directive(DIRECTIVE.match(token.info), token.content.splitlines())
        elif token.type == "inline":
            lines = token.content.splitlines()
            for number, line in enumerate(lines):
                if line.startswith(":::") and (match := DIRECTIVE.match(line.lstrip(":"))):
                    yield _directive(match, lines[number + 1 :])


def _directive(match: re.Match[str], lines: list[str]) -> tuple[str, str, dict[str, str]]:
    options = dict(m.group("name", "value") for m in itertools.takewhile(bool, map(OPTION.match, lines)))
    return match["name"], match["argument"].strip(), options


def headings(notebook: NotebookNode) -> list[str]:
    """The level-2 headings, in order."""
    pairs = itertools.pairwise(MARKDOWN.parse(markdown(notebook)))
    return [text.content for opening, text in pairs if (opening.type, opening.markup) == ("heading_open", "##")]


def section(notebook: NotebookNode, title: str) -> tuple[str, list[NotebookNode]]:
    """The markdown and the code cells from the level-2 heading that starts with ``title`` to the next one."""
    text, code, inside = "", [], False
    for cell in notebook.cells:
        if cell.cell_type == "code" and inside:
            code.append(cell)
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
                inside = part.startswith(f"## {title}") if part.startswith("## ") else inside
                text += part * inside
    return text, code


# --- rules for every notebook --------------------------------------------------------------------------------


def format_problems(notebook: NotebookNode) -> list[str]:
    """Valid nbformat 4.5 with unique ids, the plain kernelspec, and no state of a session."""
    # Not validate(): it repairs what it can before it looks.
    problems = [f"not a valid notebook: {str(error).splitlines()[0]}" for error in iter_validate(notebook)]
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        problems.append(f"nbformat {notebook.nbformat}.{notebook.nbformat_minor}; at least 4.5 is needed")
    ids = [cell.get("id") for cell in notebook.cells]
    problems += [f"cell id {id_} occurs twice" for id_ in sorted({i for i in ids if i and ids.count(i) > 1})]
    name = notebook.metadata.get("kernelspec", {}).get("name")
    if name != "python3":
        problems.append(f"the kernelspec is {name!r}; it must be 'python3'")
    if extra := set(notebook.metadata) - {"kernelspec", "language_info"}:
        problems.append(f"notebook metadata that no run needs: {', '.join(sorted(extra))}")
    problems += [f"{where(cell)}: stored timings" for cell in notebook.cells if "execution" in cell.metadata]
    return problems


def execution_problems(notebook: NotebookNode) -> list[str]:
    """Every code cell ran once, in order; nothing failed and nothing wrote to stderr."""
    problems = []
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        problems.append(f"not executed from first to last in a fresh kernel: counts {counts}")
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"{where(cell)}: stored error {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                problems.append(f"{where(cell)}: stored stderr {output.text[:60]!r}")
    return problems


def length_problems(notebook: NotebookNode) -> list[str]:
    """No code cell is longer than a screen."""
    lines = ((cell, len(cell.source.strip().splitlines())) for cell in code_cells(notebook))
    return [f"{where(cell)}: {n} lines; at most {MAX_LINES}" for cell, n in lines if n > MAX_LINES]


def suppression_problems(notebook: NotebookNode) -> list[str]:
    """No cell ends with ``;``: it hides output in JupyterLab only, not from nbval."""
    problems = []
    for cell in code_cells(notebook):
        lines = [line.split("  #")[0].rstrip() for line in cell.source.splitlines()]
        lines = [line for line in lines if line and not line.lstrip().startswith("#")]
        if lines and lines[-1].endswith(";"):
            problems.append(f"{where(cell)}: ends with ';'; use plt.show() or assign to _")
    return problems


def tag_problems(notebook: NotebookNode, name: str = "") -> list[str]:
    """Only known tags, and no output left out of the comparison without a reason on the list."""
    problems = []
    for cell in notebook.cells:
        if (name, cell.get("id", "")) in NOT_COMPARED:
            continue
        unknown = set(cell.metadata.get("tags", [])) - ALLOWED_TAGS
        problems += [f"{where(cell)}: tag {tag!r}" for tag in sorted(unknown)]
        if cell.cell_type == "code":
            problems += [f"{where(cell)}: comment {m[1]!r}" for m in NBVAL_COMMENT.finditer(cell.source)]
    return problems


def image_problems(notebook: NotebookNode) -> list[str]:
    """Every figure says in words what it shows, in the cell metadata ``mystnb.image.alt``."""
    problems = []
    for cell in code_cells(notebook):
        has_image = any(mime.startswith("image/") for o in cell.outputs for mime in o.get("data", {}))
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if has_image and len(alt.strip()) <= MIN_ALT:
            problems.append(f"{where(cell)}: a figure with alt text {alt!r}; more than {MIN_ALT} characters are needed")
        html = "".join(_text(output.get("data", {}).get("text/html")) for output in cell.outputs)
        problems += [f"{where(cell)}: {problem}" for problem in html_image_problems(html)]
    return problems + markdown_image_problems(markdown(notebook))


def markdown_image_problems(text: str) -> list[str]:
    """Images in markdown, HTML and directives have alt text."""
    images = [token for token in inline(text) if token.type == "image"]
    problems = [f"image without alt text: {t.attrs['src']}" for t in images if not t.content.strip()]
    for name, argument, options in directives(text):
        if name in {"image", "figure"} and not options.get("alt", "").strip():
            problems.append(f"{{{name}}} {argument} without :alt:")
    html = [token.content for token in (*tokens(text), *inline(text)) if token.type.startswith("html_")]
    return problems + html_image_problems("\n".join(html))


def html_image_problems(text: str) -> list[str]:
    """``<img>`` elements have alt text."""
    return [f"<img> without alt text: {tag[:60]}" for tag in HTML_IMAGE.findall(text) if not HTML_ALT.search(tag)]


def volatile_problems(notebook: NotebookNode) -> list[str]:
    """Nothing stored belongs to one machine or one moment."""
    problems = []
    for cell in notebook.cells:
        texts = [("source", cell.source)]
        for output in cell.get("outputs", []):
            texts += [(mime, _text(text)) for mime, text in output.get("data", {}).items() if mime.startswith("text/")]
            texts.append(("stream", _text(output.get("text"))))
        for place, text in texts:
            for what, pattern in VOLATILE.items():
                if match := pattern.search(text):
                    problems.append(f"{where(cell)}: {what} in its {place}: {match[0]!r}")
    return problems


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def size_problems(path: Path) -> list[str]:
    """The file stays small enough to review and to download."""
    size = path.stat().st_size
    return [f"{size:,} bytes; it must stay below {MAX_BYTES:,}"] if size >= MAX_BYTES else []


# --- rules across notebooks ----------------------------------------------------------------------------------


def definitions(notebook: NotebookNode) -> list[str]:
    """Names of the functions and classes that a notebook defines at top level."""
    transform = TransformerManager().transform_cell
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = []
    for cell in code_cells(notebook):
        found += [node.name for node in ast.parse(transform(cell.source)).body if isinstance(node, kinds)]
    return found


def definition_problems(notebooks: dict[str, NotebookNode]) -> list[str]:
    """What two chapters need belongs in the package: nothing is defined twice."""
    places = defaultdict(list)
    for name, notebook in notebooks.items():
        for defined in definitions(notebook):
            places[defined].append(name)
    return [f"{defined} is defined in {' and '.join(names)}" for defined, names in places.items() if len(names) > 1]


def citation_problems(text: str, entries: Iterable[str]) -> list[str]:
    """Every citation has its entry in the bibliography."""
    known = set(entries)
    cited = {key.strip() for keys in CITATION.findall(text) for key in keys.split(",")}
    return [f"{{cite}} {key!r} is not in references.bib" for key in sorted(cited - known)]


# --- rules for chapters --------------------------------------------------------------------------------------


def skeleton_problems(notebook: NotebookNode, skeleton: tuple[str, ...] = SKELETON) -> list[str]:
    """The sections that every chapter has, in their order; others may stand between them."""
    found, problems, position = headings(notebook), [], 0
    for title in skeleton:
        places = [i for i, heading in enumerate(found) if re.match(rf"{re.escape(title)}(?!\w)", heading)]
        if not places:
            problems.append(f"no section '## {title}'")
        elif len(places) > 1:
            problems.append(f"section '## {title}' occurs {len(places)} times")
        elif places[0] < position:
            problems.append(f"section '## {title}' stands before '## {found[position]}'; see the order in its skeleton")
        else:
            position = places[0]
    before, _ = section(notebook, "Before you start")
    problems += [f"'Before you start' does not name: {word}" for word in BEFORE_YOU_START if word not in before]
    _, check = section(notebook, "Check it")
    if not any("assert_allclose(" in cell.source for cell in check):
        problems.append("'Check it' has no cell with assert_allclose")
    if not numbered_equations(notebook):
        problems.append("no numbered equation: $$ … $$ (eq:name), or {math} with :label:")
    return problems


def experiment_problems(notebook: NotebookNode) -> list[str]:
    """The sections of a chapter that reports trainings on record, in their order."""
    return skeleton_problems(notebook, EXPERIMENT)


def numbered_equations(notebook: NotebookNode) -> int:
    """How many equations carry a label, and so a number."""
    text = markdown(notebook)
    labelled = [options for name, _, options in directives(text) if name == "math" and options.get("label")]
    return len(labelled) + len(NUMBERED_EQUATION.findall(text))


def exercise_problems(notebook: NotebookNode) -> list[str]:
    """At least four exercises, each with a hidden solution that was executed and shows or asserts something."""
    problems = []
    exercises = [
        options.get("label", "")
        for name, _, options in directives(markdown(notebook))
        if name in {"exercise", "exercise-start"}
    ]
    if len(exercises) < MIN_EXERCISES:
        problems.append(f"{len(exercises)} exercises; at least {MIN_EXERCISES} are needed")
    if "" in exercises:
        problems.append("an exercise has no :label:")
    solutions: dict[str, list[NotebookNode]] = {}
    current: list[NotebookNode] | None = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if current is not None:
                current.append(cell)
            continue
        for name, argument, options in directives(cell.source):
            if name == "solution-start":
                if options.get("class") != "dropdown":
                    problems.append(f"the solution of {argument!r} is not hidden: it needs ':class: dropdown'")
                current = solutions.setdefault(argument, [])
            elif name == "solution-end":
                current = None
    if current is not None:
        problems.append("a {solution-start} has no {solution-end}")
    for label in filter(None, exercises):
        if label not in solutions:
            problems.append(f"exercise {label!r} has no {{solution-start}}")
        elif not any(_shows(cell) for cell in solutions[label]):
            problems.append(f"the solution of {label!r} has no executed cell that prints or asserts")
    return problems


def _shows(cell: NotebookNode) -> bool:
    return cell.execution_count is not None and re.search(r"\bassert|\bprint\(", cell.source) is not None
