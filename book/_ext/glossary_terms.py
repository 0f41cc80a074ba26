"""Sphinx extension of this book: a term of the glossary is explained where a page first uses it.

The page `reference/glossary` is the only list. On every other page the first occurrence of each of its terms in running
text gets a dotted underline, and its definition, which `bioplaus.js` shows on hover, on focus and on tap, and which a
screen reader finds by `aria-describedby`. It is done to the finished tree of a page, so that no chapter and no stored
output is touched, and nothing is marked by hand.

Several names of one entry, plural forms among them, stand above its definition on a line each, as Sphinx has it. Each
is found as it is written; a small first letter may be a capital one. Where two names begin at one place the longer one
counts, so that *learning rate* is not taken for a *rate*.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PAGE = "reference/glossary"

# What is no running text: headings, code and its reference, formulas, figures, links, and titles of works.
NOT_PROSE = (
    *(nodes.Titular, nodes.thead, nodes.term, nodes.topic),
    *(nodes.FixedTextElement, nodes.literal, nodes.raw, addnodes.desc),
    *(nodes.math, nodes.figure, nodes.caption, nodes.image),
    *(nodes.reference, addnodes.pending_xref, addnodes.toctree),
    *(nodes.citation_reference, nodes.footnote_reference, nodes.citation),
)


class Entry(NamedTuple):
    """One entry of the glossary."""

    name: str
    id: str
    definition: str


class Term(nodes.inline):
    """A place at which a term is used for the first time; ``entry`` says what it means."""


class Definitions(nodes.General, nodes.Element):
    """What the terms of a page mean, at its end; ``entries`` in the order of the page.

    They are attributes and not text, so that the search finds a term where it is used and defined, not everywhere.
    """


class Glossary:
    """The entries by all of their names, and the pattern that finds these in a text.

    Args:
        entries: ``{name: entry}``; one entry may have many names. Two names that are alike are refused.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)
        for name, entry in entries.items():
            if self.entries.setdefault(name[0].upper() + name[1:], entry) != entry:
                raise ValueError(f"the glossary has {name!r} twice, with a small and with a capital letter")
        longest_first = sorted(self.entries, key=lambda name: (-len(name), name))
        names = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first).replace("'", "['’]")
        self.pattern = re.compile(rf"(?<![\w-])(?:{names})(?![\w-])" if names else r"(?!)")

    @classmethod
    def of(cls, doctree: nodes.document) -> Glossary:
        """Read the glossaries of a page.

        Args:
            doctree: the page as Sphinx has read it. Of a definition the first paragraph counts.
        """
        entries = {}
        for item in doctree.findall(nodes.definition_list_item):
            if not isinstance(item.parent.parent, addnodes.glossary):
                continue
            names = [child.astext().replace("’", "'") for child in item if isinstance(child, nodes.term)]
            meaning = next(item.findall(nodes.paragraph), None)
            if meaning is None:
                raise ValueError(f"the glossary does not say what {names[0]!r} means")
            entry = Entry(names[0], item.next_node(nodes.term)["ids"][0], " ".join(meaning.astext().split()))
            entries.update(dict.fromkeys(names, entry))
        return cls(entries)

    def found_in(self, text: str) -> Iterator[tuple[re.Match[str], Entry]]:
        """Yield each occurrence of a term, with its entry."""
        for match in self.pattern.finditer(text):
            yield match, self.entries[" ".join(match[0].split()).replace("’", "'")]


def running_text(node: nodes.Node) -> Iterator[nodes.Text]:
    """Yield the texts in which terms may be marked, in the order of the page."""
    linked = False  # between the tags of a link that is written in HTML
    for child in node.children:
        if isinstance(child, nodes.raw):
            linked = child.astext().startswith("<a ") or (linked and child.astext() != "</a>")
        elif isinstance(child, nodes.Text):
            if not linked:
                yield child
        elif not isinstance(child, NOT_PROSE) and child.get("nb_element") != "cell_code":
            yield from running_text(child)


def mark(doctree: nodes.document, glossary: Glossary) -> list[Entry]:
    """Mark the first occurrence of each term, and put what they mean at the end of the page; return the entries."""
    used: list[Entry] = []
    for text in list(running_text(doctree)):
        whole, pieces, end = text.astext(), [], 0
        for match, entry in glossary.found_in(whole):
            if entry not in used:
                used.append(entry)
                pieces += [nodes.Text(whole[end : match.start()]), Term("", match[0], entry=entry)]
                end = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(whole[end:])])
    if used:
        doctree += Definitions("", entries=used)
    return used


def visit_term(translator, node: Term) -> None:
    """Begin a term: reached by keyboard, and described by its definition."""
    translator.body.append(f'<span class="bp-term" tabindex="0" aria-describedby="bp-{node["entry"].id}">')


def depart_term(translator, node: Term) -> None:
    """End a term."""
    translator.body.append("</span>")


def visit_definitions(translator, node: Definitions) -> None:
    """Write the definitions, hidden until one is asked for."""
    boxes = "\n".join(
        f'<div id="bp-{entry.id}" class="bp-definition" role="tooltip" hidden>'
        f"<b>{html.escape(entry.name)}</b>: {html.escape(entry.definition)}</div>"
        for entry in node["entries"]
    )
    translator.body.append(f'<div class="bp-definitions">\n{boxes}\n</div>\n')


def nothing(translator, node: Definitions) -> None:
    """There is nothing below the definitions to leave."""


class Marker:
    """Marks the pages of one build."""

    def __init__(self) -> None:
        self.glossary = Glossary({})
        self.changed = False

    def look(self, app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
        """Told which pages are to be read."""
        self.changed = PAGE in docnames

    def read(self, app: Sphinx, env: BuildEnvironment) -> Iterable[str]:
        """Told that all pages are read; if the glossary was among them, all pages are to be written."""
        if PAGE in env.all_docs:
            self.glossary = Glossary.of(env.get_doctree(PAGE))
        return sorted(env.all_docs) if self.changed else []

    def mark(self, app: Sphinx, doctree: nodes.document, docname: str) -> None:
        """Told that a page is about to be written."""
        if app.builder.format == "html" and docname != PAGE:
            mark(doctree, self.glossary)


def setup(app: Sphinx) -> dict[str, object]:
    """Connect the steps above; called by Sphinx."""
    app.add_node(Term, html=(visit_term, depart_term))
    app.add_node(Definitions, html=(visit_definitions, nothing))
    marker = Marker()
    app.connect("env-before-read-docs", marker.look)
    app.connect("env-updated", marker.read)
    app.connect("doctree-resolved", marker.mark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
