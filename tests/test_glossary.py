"""Terms of the glossary are explained where a page first uses them: in a small tree, in a small book, in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from docutils import nodes
from docutils.utils import new_document
from glossary_terms import PAGE, Definitions, Entry, Glossary, Term, mark
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace


def entry(name: str) -> Entry:
    return Entry(name, f"term-{name.replace(' ', '-')}", f"What {name} means.")


NAMES = {
    "soma": ("soma", "somata"),
    "rate": ("rate", "rates"),
    "learning rate": ("learning rate", "learning rates"),
    "Adam": ("Adam",),
    "Dale's law": ("Dale's law",),
    "Gauss–Newton": ("Gauss–Newton",),
    "Gauss–Newton step": ("Gauss–Newton step", "Gauss–Newton steps"),
}
GLOSSARY = Glossary({name: entry(first) for first, names in NAMES.items() for name in names})


def page(*children: nodes.Node) -> nodes.document:
    document = new_document("page")
    document += children
    return document


def marked(document: nodes.document) -> list[str]:
    """The words that are marked, in their order."""
    return [term.astext() for term in document.findall(Term)]


# --- the tree of a page --------------------------------------------------------------------------------------

SENTENCES = {
    "A soma, and again a soma.": ["soma"],
    "Somata have one entry with every soma.": ["Somata"],
    "At a learning rate of its own. A learning rate is no": ["learning rate"],
    "The learning rate, then the rate, then rates.": ["learning rate", "rate"],
    "A learning\nrate may break.": ["learning\nrate"],
    "adam is no optimiser, Adam is one.": ["Adam"],
    "Dale's law is Dale’s law.": ["Dale's law"],
    "Dale’s law": ["Dale’s law"],
    "somatic, rated, pre-soma, soma-like, unrate": [],
    "(soma) and the soma's voltage": ["soma"],
    "Gauss–Newton steps, and what is Gauss–Newton in a Gauss–Newton step.": ["Gauss–Newton steps", "Gauss–Newton"],
    "Nothing that is listed: RATE, dendrite.": [],
}


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES.items())
def test_the_first_occurrence_of_a_term_is_marked_and_no_word_is_lost(sentence: str, expected: list[str]):
    document = page(nodes.paragraph("", sentence))
    used = mark(document, GLOSSARY)
    assert marked(document) == expected
    assert document.children[0].astext() == sentence
    assert [one.definition for one in used] == [term["entry"].definition for term in document.findall(Term)]
    assert [list(box["entries"]) for box in document.findall(Definitions)] == ([used] if used else [])


def test_once_a_page_wherever_the_words_stand():
    emphasis = nodes.paragraph("", "A ", nodes.emphasis("", "soma"), nodes.Text(" here"))
    row = nodes.row("", nodes.entry("", nodes.paragraph("", "a rate")), nodes.entry("", nodes.paragraph("", "a soma")))
    document = page(emphasis, nodes.table("", nodes.tgroup("", nodes.tbody("", row))), nodes.paragraph("", "rates"))
    mark(document, GLOSSARY)
    assert marked(document) == ["soma", "rate"]
    assert isinstance(next(document.findall(Term)).parent, nodes.emphasis)


NOT_MARKED = {
    "a heading": nodes.section("", nodes.title("", "The soma")),
    "a rubric": nodes.rubric("", "The soma"),
    "code": nodes.paragraph("", "", nodes.literal("", "soma")),
    "a block of code": nodes.literal_block("", "soma"),
    "a cell": nodes.container("", nodes.paragraph("", "soma"), nb_element="cell_code"),
    "HTML": nodes.raw("", "<p>soma</p>", format="html"),
    "a link": nodes.paragraph("", "", nodes.reference("", "soma", refuri="a.html")),
    "a link's inside": nodes.reference("", "", nodes.inline("", "soma"), refuri="a.html"),
    "a formula": nodes.math_block("", "soma"),
    "a formula in a line": nodes.paragraph("", "", nodes.math("", "soma")),
    "a figure": nodes.figure("", nodes.caption("", "soma"), nodes.legend("", nodes.paragraph("", "soma"))),
    "the head of a table": nodes.thead("", nodes.row("", nodes.entry("", nodes.paragraph("", "soma")))),
    "the title of a work": nodes.citation("", nodes.label("", "1"), nodes.paragraph("", "soma")),
    "a name that is defined": nodes.definition_list_item("", nodes.term("", "soma")),
    "a comment": nodes.comment("", "soma"),
    "the reference of code": addnodes.desc("", addnodes.desc_content("", nodes.paragraph("", "soma"))),
}


@pytest.mark.parametrize("place", NOT_MARKED)
def test_only_running_text_is_marked(place: str):
    document = page(NOT_MARKED[place].deepcopy(), nodes.paragraph("", "the somata"))
    mark(document, GLOSSARY)
    assert marked(document) == ["somata"]


def test_a_glossary_without_entries_marks_nothing():
    document = page(nodes.paragraph("", "A soma."))
    assert mark(document, Glossary({})) == [] and marked(document) == []


def test_two_names_that_differ_in_the_first_letter_alone_are_refused():
    assert Glossary({"soma": entry("soma"), "Soma": entry("soma")}).entries["Soma"] == entry("soma")
    with pytest.raises(ValueError, match="'soma' twice, with a small and with a capital letter"):
        Glossary({"soma": entry("soma"), "Soma": entry("another")})


# --- a small book --------------------------------------------------------------------------------------------

BOOK = {
    "index": "Soma\n====\n\n.. toctree::\n\n   reference/glossary\n   one\n   two\n\nEvery *soma*, and all somata.\n",
    "one": "One\n===\n\nNo term but ``soma`` and :term:`soma`.\n",
    "two": "Two\n===\n\nSomata.\n",
    PAGE: "Glossary\n========\n\n.. glossary::\n\n   soma\n   somata\n      The cell body <of> a\n      `neuron`.\n\n"
    "      And more of the soma.\n",
}


@pytest.fixture
def small_book(tmp_path: Path) -> Callable[[], dict[str, BeautifulSoup]]:
    """A book of four pages; a call builds what has changed, and returns the pages."""
    source, out = tmp_path / "book", tmp_path / "html"
    for name, text in BOOK.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{name}.rst").write_text(text)

    def build() -> dict[str, BeautifulSoup]:
        with docutils_namespace():
            config = {"extensions": ["glossary_terms"]}
            Sphinx(source, None, out, tmp_path / "doctrees", "html", config, status=None).build()
        return {name: BeautifulSoup((out / f"{name}.html").read_text("utf-8"), "html.parser") for name in BOOK}

    return build


def test_a_page_holds_what_its_terms_mean_and_the_glossary_marks_none(small_book):
    pages = small_book()
    (term,) = pages["index"].select(".bp-term")
    assert (term.text, term["tabindex"]) == ("soma", "0")
    (box,) = pages["index"].select(f"#{term['aria-describedby']}")
    assert (box.text, box["role"]) == ("soma: The cell body <of> a neuron.", "tooltip")
    assert box.has_attr("hidden")
    for name in ("one", PAGE):
        assert not pages[name].select(".bp-term, .bp-definition")


def test_pages_follow_the_glossary_and_what_it_says_is_not_searched_for_on_every_page(small_book, tmp_path: Path):
    small_book()
    glossary = tmp_path / "book" / f"{PAGE}.rst"
    glossary.write_text(BOOK[PAGE].replace("cell body", "perikaryon"))
    (box,) = small_book()["two"].select(".bp-definition")
    assert "perikaryon" in box.text
    index = json.loads((tmp_path / "html/searchindex.js").read_text("utf-8")[len("Search.setIndex(") : -1])
    assert index["docnames"][index["terms"]["perikaryon"]] == PAGE


def test_an_entry_that_says_nothing_stops_the_build(small_book, tmp_path: Path):
    (tmp_path / "book" / f"{PAGE}.rst").write_text("Glossary\n========\n\n.. glossary::\n\n   soma\n")
    with pytest.raises(Exception, match="the glossary does not say what 'soma' means"):
        small_book()


# --- the glossary of the book --------------------------------------------------------------------------------


def entries() -> dict[tuple[str, ...], str]:
    """Names and definitions as they stand in the source."""
    text = (ROOT / "book" / f"{PAGE}.md").read_text("utf-8")
    body = re.search(r"```\{glossary\}\n:sorted:\n\n(.*?)```", text, re.DOTALL)[1]
    blocks = [block.splitlines() for block in body.strip("\n").split("\n\n")]
    return {tuple(name for name in names): meaning.strip() for *names, meaning in blocks}


def test_every_entry_is_one_plain_sentence_and_every_name_has_one_entry():
    names = [name for many in entries() for name in many]
    assert len(names) == len(set(names)) and len(entries()) > 60
    for many, meaning in entries().items():
        assert re.fullmatch(r"[A-Z][^.!?]*\.", meaning), f"{many[0]}: not one sentence: {meaning}"
        assert 30 < len(meaning) < 260, f"{many[0]}: {len(meaning)} characters"
        assert not re.search(r"[$`{}*]", meaning), f"{many[0]}: a box shows plain text"
