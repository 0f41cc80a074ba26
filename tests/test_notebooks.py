"""The notebooks of the book keep the rules of `notebook_rules.py`, and the rules catch what breaks them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable

import nbformat
import notebook_rules as rules
import pytest
from conftest import ROOT
from execute import RECORDED, toc_entries
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pybtex.database import parse_file

import bioplaus_lite

BOOK = ROOT / "book"
CHAPTER_FOLDERS = ("problem", "rules", "experiments", "synthesis")
GUIDES = {"synthesis/which_rule"}  # to look things up, with no derivation, no exercises and no reading time

ENTRIES = [entry for entry in toc_entries(BOOK) if not RECORDED.fullmatch(entry)]
NOTEBOOKS = {entry: BOOK / f"{entry}.ipynb" for entry in ENTRIES if (BOOK / f"{entry}.ipynb").is_file()}
TEXTS = {entry: BOOK / f"{entry}.md" for entry in ENTRIES if (BOOK / f"{entry}.md").is_file()}
CHAPTERS = [entry for entry in ENTRIES if entry.split("/")[0] in CHAPTER_FOLDERS and entry not in GUIDES]
ESSAYS = [entry for entry in CHAPTERS if entry.startswith("synthesis/") and entry in TEXTS]  # nothing is computed there
ON_DISK = {
    path.relative_to(BOOK).with_suffix("").as_posix()
    for path in BOOK.rglob("*.ipynb")
    if not any(part.startswith((".", "_")) for part in path.relative_to(BOOK).parts)
}
ON_DISK = {entry for entry in ON_DISK if not RECORDED.fullmatch(entry)}

every_notebook = pytest.mark.parametrize("entry", NOTEBOOKS)
every_chapter = pytest.mark.parametrize("entry", [entry for entry in CHAPTERS if entry not in ESSAYS])


def read(entry: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[entry], as_version=nbformat.NO_CONVERT)


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


# --- the book ------------------------------------------------------------------------------------------------


def test_the_table_of_contents_is_the_book():
    assert CHAPTERS, f"no chapter in {BOOK / '_toc.yml'}: none of its entries lies in {', '.join(CHAPTER_FOLDERS)}"
    missing = [entry for entry in ENTRIES if entry not in NOTEBOOKS and entry not in TEXTS]
    assert not missing, f"in _toc.yml, but neither .ipynb nor .md exists: {', '.join(missing)}"
    assert sorted(ON_DISK - set(NOTEBOOKS)) == [], "notebooks that _toc.yml does not list"


@every_notebook
@pytest.mark.parametrize(
    "rule",
    [
        rules.format_problems,
        rules.execution_problems,
        rules.length_problems,
        rules.suppression_problems,
        rules.image_problems,
        rules.volatile_problems,
    ],
    ids=lambda rule: rule.__name__,
)
def test_notebook(rule: Callable, entry: str):
    report(rule(read(entry)))


@every_notebook
def test_tags(entry: str):
    report(rules.tag_problems(read(entry), entry))


@every_notebook
def test_size(entry: str):
    report(rules.size_problems(NOTEBOOKS[entry]))


def test_nothing_is_defined_twice():
    report(rules.definition_problems({entry: read(entry) for entry in NOTEBOOKS}))


@pytest.mark.parametrize("entry", TEXTS)
def test_images_of_a_text_page(entry: str):
    report(rules.markdown_image_problems(TEXTS[entry].read_text("utf-8")))


@every_chapter
def test_chapter(entry: str):
    assert entry in NOTEBOOKS, f"the chapter {entry}.ipynb does not exist"
    reports = entry.startswith(("experiments/", "synthesis/"))
    skeleton = rules.experiment_problems if reports else rules.skeleton_problems
    report(skeleton(read(entry)) + rules.exercise_problems(read(entry)))


def test_exceptions_name_cells_that_exist():
    known = {(entry, cell.get("id")) for entry in NOTEBOOKS for cell in read(entry).cells}
    assert set(rules.NOT_COMPARED) <= known
    assert all(len(reason) > 20 for reason in rules.NOT_COMPARED.values())


# --- the bibliography and the reference ----------------------------------------------------------------------


def bibliography() -> dict:
    return parse_file(str(BOOK / "references.bib"), bib_format="bibtex").entries


@pytest.mark.parametrize("entry", [*NOTEBOOKS, *TEXTS])
def test_citations_resolve(entry: str):
    text = rules.markdown(read(entry)) if entry in NOTEBOOKS else TEXTS[entry].read_text("utf-8")
    report(rules.citation_problems(text, bibliography()))


def test_the_index_has_the_reading_times_of_the_chapters_and_their_sum():
    index = TEXTS["index"].read_text("utf-8")
    rows = dict(re.findall(r"^\| \{doc\}`([\w/]+)` \|.*\| (\d+) min \|$", index, re.MULTILINE))
    on_page = {}
    for entry in CHAPTERS:
        text = TEXTS[entry].read_text("utf-8") if entry in ESSAYS else rules.markdown(read(entry))
        on_page[entry] = re.search(r"\*\*Reading time\.\*\* (?:About )?(\d+) minutes", text)[1]
    assert rows == on_page
    hours = "zero one two three four five six seven eight nine ten eleven twelve".split()
    told = re.search(r"\*\*The student's path\*\*, about (\w+) hours without the exercises", index)[1]
    assert told == hours[round(sum(map(int, rows.values())) / 60)]


@pytest.mark.parametrize("entry", ESSAYS)
def test_the_reading_time_of_an_essay_is_that_of_its_words(entry: str):
    text = TEXTS[entry].read_text("utf-8")
    minutes = int(re.search(r"\*\*Reading time\.\*\* About (\d+) minutes", text)[1])
    assert 150 < len(re.findall(r"[^\W\d_]{2,}", text)) / minutes < 220


def test_every_work_can_be_found():
    lost = [key for key, work in bibliography().items() if not {"doi", "url"} & {name.lower() for name in work.fields}]
    assert not lost, f"neither DOI nor URL: {', '.join(lost)}"


def test_every_public_module_has_its_place_in_the_reference():
    names = [m.name for m in pkgutil.walk_packages(bioplaus_lite.__path__, "bioplaus_lite.")]
    public = [n for n in names if "._" not in n and hasattr(importlib.import_module(n), "__all__")]
    text = "".join(page.read_text("utf-8") for page in sorted((BOOK / "reference/api").glob("*.md")))
    documented = re.findall(r"^\.\. automodule:: (\S+)", text, re.MULTILINE)
    lost = [name for name in public if name not in documented]
    assert not lost, f"not in book/reference/api: {', '.join(lost)}"
    assert len(documented) == len(set(documented))


# --- the rules catch what breaks them ------------------------------------------------------------------------

FIGURE = {"mystnb": {"image": {"alt": "Loss against epoch: it falls from 2.3 to 0.1."}}}
SOLUTION = "```{{solution-start}} ex-{0}\n:class: dropdown\n```", "```{{solution-end}}\n```"


def chapter() -> nbformat.NotebookNode:
    """The smallest chapter that keeps every rule."""
    sources: list[str | nbformat.NotebookNode] = [
        "# A chapter\n\n## In one sentence\n\nA sentence.\n\n## Before you start",
        "**Objectives** …\n\n**Prerequisites** …\n\n**Reading time** …",
        "## Derivation\n\n$$ a = b $$ (eq-a)\n\n![A small diagram](a.png) after {cite:t}`known2000`",
        "## Build it",
        new_code_cell("def build():\n    return 1"),
        "## Check it",
        new_code_cell("assert_allclose(1, 1)"),
        "## See it",
        new_code_cell("plot()", metadata=FIGURE, outputs=[new_output("display_data", {"image/png": "AA=="})]),
        *(f"## {title}\n\nWords." for title in rules.SKELETON[6:10]),
        "## Exercises",
    ]
    for number in range(4):
        start, end = (text.format(number) for text in SOLUTION)
        sources += [f"```{{exercise}}\n:label: ex-{number}\nDo it.\n```", start, new_code_cell("print(1)"), end]
    sources += ["## An extra section", "## Summary", "## Further reading"]
    cells = [new_markdown_cell(s) if isinstance(s, str) else s for s in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    for number, cell in enumerate(filter(lambda c: c.cell_type == "code", cells), 1):
        cell.execution_count = number
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def all_problems(notebook: nbformat.NotebookNode) -> list[str]:
    return [
        *rules.format_problems(notebook),
        *rules.execution_problems(notebook),
        *rules.length_problems(notebook),
        *rules.suppression_problems(notebook),
        *rules.image_problems(notebook),
        *rules.volatile_problems(notebook),
        *rules.tag_problems(notebook),
        *rules.skeleton_problems(notebook),
        *rules.exercise_problems(notebook),
        *rules.definition_problems({"a": notebook}),
        *rules.citation_problems(rules.markdown(notebook), ["known2000"]),
    ]


def test_a_good_chapter_has_no_problem():
    assert all_problems(chapter()) == []


def code(notebook: nbformat.NotebookNode, position: int = 0) -> nbformat.NotebookNode:
    return rules.code_cells(notebook)[position]


def replace(old: str, new: str) -> Callable[[nbformat.NotebookNode], None]:
    """An edit of the first cell that has ``old``."""

    def edit(notebook: nbformat.NotebookNode) -> None:
        cell = next(cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new, 1)

    return edit


def output(text: str, **kind: str) -> Callable[[nbformat.NotebookNode], None]:
    """An edit that stores ``text`` as an output of the first code cell."""
    kind = {"output_type": "stream", "name": "stdout"} | kind
    return lambda n: code(n).outputs.append(new_output(**kind, text=text))


def swap_sections(notebook: nbformat.NotebookNode) -> None:
    first, second = (i for i, c in enumerate(notebook.cells) if c.source.startswith(("## Derivation", "## Build")))
    notebook.cells[first], notebook.cells[second] = notebook.cells[second], notebook.cells[first]


BAD = {
    "no kernelspec": (lambda n: n.metadata.clear(), "kernelspec is None"),
    "other kernel": (lambda n: n.metadata.kernelspec.update(name="venv"), "kernelspec is 'venv'"),
    "widget state": (lambda n: n.metadata.update(widgets={}), "metadata that no run needs: widgets"),
    "old format": (lambda n: n.update(nbformat_minor=4), "at least 4.5"),
    "invalid": (lambda n: code(n).update(surprise=1), "not a valid notebook"),
    "equal ids": (lambda n: n.cells[1].update(id="cell-0"), "occurs twice"),
    "timings": (lambda n: code(n).metadata.update(execution={}), "stored timings"),
    "not executed": (lambda n: code(n).update(execution_count=None), "not executed"),
    "out of order": (lambda n: code(n).update(execution_count=9), "not executed"),
    "error": (lambda n: code(n).outputs.append(new_output("error", ename="ValueError")), "stored error ValueError"),
    "stderr": (output("careful", name="stderr"), "stored stderr"),
    "long cell": (lambda n: code(n).update(source="x = 1\n" * 31), "31 lines"),
    "semicolon": (replace("print(1)", "print(1);"), "ends with ';'"),
    "semicolon before a comment": (replace("print(1)", "print(1);  # quiet\n# yes"), "ends with ';'"),
    "unknown tag": (lambda n: code(n).metadata.update(tags=["skip"]), "tag 'skip'"),
    "nbval tag": (lambda n: code(n).metadata.update(tags=["nbval-ignore-output"]), "tag 'nbval-ignore-output'"),
    "failing cell": (lambda n: code(n).metadata.update(tags=["raises-exception"]), "tag 'raises-exception'"),
    "nbval comment": (replace("print(1)", "# NBVAL_IGNORE_OUTPUT\nprint(1)"), "comment 'NBVAL_IGNORE_OUTPUT'"),
    "no alt": (lambda n: code(n, 2).metadata.clear(), "alt text ''"),
    "short alt": (lambda n: code(n, 2).metadata.mystnb.image.update(alt="A plot."), "alt text 'A plot.'"),
    "no alt, markdown": (replace("![A small diagram]", "![]"), "image without alt text: a.png"),
    "no alt, html": (replace("Words.", 'Words <img src="b.png">'), "<img> without alt"),
    "no alt, figure": (replace("Words.", "```{figure} c.png\n:name: c\nCaption\n```"), "{figure} c.png without :alt:"),
    "no alt, colons": (replace("Words.", ":::{image} c.png\n:width: 3em\n:::"), "{image} c.png without :alt:"),
    "path in source": (replace("print(1)", "open('/home/me/x')"), "absolute path"),
    "path in output": (output("saved in /var/lib/x"), "absolute path"),
    "address": (output("<Net object at 0x7f01a2b3c4d5>"), "object address"),
    "date": (output("run on 2026-03-01 12:30"), "date and time"),
    "twice": (replace("print(1)", "def build():\n    print(1)"), "build is defined in a and a"),
    "unknown work": (replace("known2000", "known2000,lost1999"), "'lost1999' is not in"),
    "no section": (replace("## Summary", "## Sum"), "no section '## Summary'"),
    "section as text": (replace("## Summary", "```\n## Summary\n```"), "no section '## Summary'"),
    "section twice": (replace("## An extra section", "## Summary"), "occurs 2 times"),
    "order": (swap_sections, "stands before '## Derivation"),
    "no objectives": (replace("**Objectives**", "Aims"), "does not name: Objectives"),
    "no check": (replace("assert_allclose(1, 1)", "print(1)"), "no cell with assert_allclose"),
    "no equation": (replace(" (eq-a)", ""), "no numbered equation"),
    "few exercises": (replace("```{exercise}\n:label: ex-3", "```{note}"), "3 exercises"),
    "unlabelled exercise": (replace(":label: ex-2\n", ""), "has no :label:"),
    "no solution": (replace("{solution-start} ex-1", "{note}"), "'ex-1' has no {solution-start}"),
    "open solution": (replace(":class: dropdown", ":class: note"), "'ex-0' is not hidden"),
    "silent solution": (replace("print(1)", "x = 1"), "'ex-0' has no executed cell"),
    "unexecuted solution": (lambda n: code(n, 3).update(execution_count=None), "'ex-0' has no executed cell"),
    "endless solution": (lambda n: [c.update(source="") for c in n.cells if "-end}" in c.source], "no {solution-end}"),
}


@pytest.mark.parametrize(("edit", "expected"), BAD.values(), ids=BAD)
def test_a_bad_chapter_is_caught(edit: Callable, expected: str):
    notebook = chapter()
    edit(notebook)
    assert any(expected in problem for problem in all_problems(notebook)), all_problems(notebook)


def test_a_large_notebook_is_caught(tmp_path):
    path = tmp_path / "large.ipynb"
    path.write_text(" " * rules.MAX_BYTES)
    assert rules.size_problems(path)
    path.write_text(" ")
    assert not rules.size_problems(path)


def test_a_definition_in_two_notebooks_is_caught_and_methods_are_not():
    method = "class {}:\n    def forward(self):\n        %time 1\n        return 1"
    one, two = (new_notebook(cells=[new_code_cell(method.format(name))]) for name in ("A", "B"))
    assert rules.definition_problems({"one": one, "two": two}) == []
    two.cells.append(new_code_cell("class A: ..."))
    assert rules.definition_problems({"one": one, "two": two}) == ["A is defined in one and two"]
