"""The page of all update equations, and the guide by questions: they say what the rules say, and leave none out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from docutils import nodes
from rule_pages import SIZES, bases, described, meetings, own_weights, under
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from bioplaus_lite.plausibility import columns
from bioplaus_lite.rules import RULES, Backprop, FeedbackAlignment, LearningRule, card_of

PAGE = ROOT / "book" / "reference" / "equations.md"
CLASSES = list(dict.fromkeys(card.rule for card in RULES.values() if card.rule.__module__.startswith("bioplaus_lite")))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> nodes.document:
    """The page as the extension draws it, in a book of its own."""
    book: Path = tmp_path_factory.mktemp("book")
    (book / "index.md").write_text("# Book\n\n```{toctree}\nreference/equations\n```\n")
    (book / "reference").mkdir()
    (book / "reference/equations.md").write_text(PAGE.read_text("utf-8"), "utf-8")
    settings = {
        "extensions": ["myst_parser", "sphinxcontrib.bibtex", "rule_pages"],
        "bibtex_bibfiles": [str(ROOT / "book/references.bib")],
        "myst_enable_extensions": ["dollarmath"],
    }
    with docutils_namespace():
        app = Sphinx(book, None, book / "_out", book / "_trees", "dummy", settings, status=None, warning=None)
        app.build()
        return app.env.get_doctree("reference/equations")


def entries(page: nodes.document) -> dict[str, nodes.section]:
    """Sections that directives drew, by the name in their anchor."""
    drawn = [(i, s) for s in page.findall(nodes.section) for i in s["ids"] if i.startswith("rule-")]
    return {anchor.removeprefix("rule-"): section for anchor, section in drawn}


def plain(equation: str) -> str:
    return " ".join(equation.split())


# --- the page ------------------------------------------------------------------------------------------------


def test_every_rule_on_file_has_its_entry_below_its_family():
    text = PAGE.read_text("utf-8")
    found: dict[str, str] = {}
    for family, body in re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE):
        found |= {
            name: family for names in re.findall(r"^```\{rule\} (.+)$", body, re.MULTILINE) for name in names.split()
        }
    ours = {name: card.family for name, card in RULES.items() if card.rule in CLASSES}
    assert found == ours
    assert re.findall(r"^```\{rule-base\} (.+)$", text, re.MULTILINE) == sorted(
        bases(), key=lambda b: -len(under(bases()[b]))
    )


def test_every_equation_on_the_page_is_that_of_a_docstring_and_every_one_is_there(page: nodes.document):
    drawn = entries(page)
    assert len(drawn) == len(CLASSES) + len(bases())
    for rule in (*CLASSES, *bases().values()):
        name = next((name for name, card in RULES.items() if card.rule is rule and name in drawn), rule.__name__)
        own = [plain(block.astext()) for block in drawn[name].findall(nodes.math_block)]
        assert own and own == [plain(e) for e in described(rule).equations], name
        assert all(e in plain(rule.__doc__) for e in own), name
        assert len(own) == rule.__doc__.count(".. math::"), name
    assert sum(1 for _ in page.findall(nodes.math_block)) == sum(
        len(described(e).equations) for e in (*CLASSES, *bases().values())
    )


def test_an_entry_has_what_meets_its_source_and_its_chapter(page: nodes.document):
    for name, section in entries(page).items():
        if name in bases():
            continue
        card, said = RULES[name], section.astext()
        table = next(section.findall(nodes.table))
        rows = [[cell.astext() for cell in row.findall(nodes.entry)] for row in table.findall(nodes.row)][1:]
        assert [row[0] for row in rows] == [meeting.weight for meeting in meetings(card)], name
        assert {f"W{l}" for l in range(1, len(SIZES))} <= {row[0] for row in rows}, name
        assert card.label in said and "What differs from backprop." in said and own_weights(card).split("`")[0] in said
        text = described(card.rule)
        assert text.source and text.chapter, name
        targets = [x["reftarget"] for x in section.findall(pending_xref)]
        assert any(target.startswith(("/rules/", "/problem/")) for target in targets), name
        assert {*card.cite, f"{card.rule.__module__}.{card.rule.__name__}"} <= set(",".join(targets).split(",")), name


STRUCTURE = set(
    "frac tfrac sum textstyle quad qquad bigl bigr Bigl Bigr lVert rVert leftarrow Rightarrow dots odot times top "
    "partial m".split()
)


def symbols(equation: str) -> set[str]:
    """Letters and commands of an equation that stand for something."""
    equation = re.sub(r"\\(?:text|mathrm|mathbb|mathcal)\s*(?:\{[^}]*\}|[A-Z])", " ", equation)
    return {command or letter for command, letter in re.findall(r"\\([A-Za-z]+)|([A-Za-z])(?![A-Za-z])", equation)}


def test_every_symbol_on_the_page_is_in_the_notation():
    notation = (ROOT / "book/reference/notation.md").read_text("utf-8")
    known = set().union(*(symbols(formula) for formula in re.findall(r"\$([^$]+)\$", notation))) | STRUCTURE
    for rule in (*CLASSES, *bases().values()):
        for equation in described(rule).equations:
            assert symbols(equation) <= known, f"{rule.__name__}: {sorted(symbols(equation) - known)}"


# --- what meets where ----------------------------------------------------------------------------------------


def test_signals_are_named_where_they_are_known():
    fa = {meeting.weight: meeting for meeting in meetings(card_of("fa"))}
    assert [(m.post, m.pre, m.shape) for m in fa.values()] == [
        (r"$\delta_3$, as in backprop", "$h_2$", (3, 5)),
        (r"$\delta_2$", "$h_1$", (5, 6)),
        (r"$\delta_1$", "$h_0$", (6, 7)),
    ]
    assert all("as in backprop" in m.post for m in meetings(card_of("backprop")))
    twin = {m.weight: m for m in meetings(card_of("kolen_pollack"))}["B2"]
    assert (twin.post, twin.pre, twin.more) == ("$h_1$", r"$\delta_2$", "a decay")


def test_what_becomes_of_weights_is_asked_of_the_rule():
    assert own_weights(card_of("backprop")) == "It has no weights of its own."
    assert own_weights(card_of("fa")).endswith("`B2`, `B3`: never changed.")
    assert "`B2`, `B3`: changed once a batch" in own_weights(card_of("weight_mirror"))
    assert own_weights(card_of("ao_sdtp")).endswith("`B2`, `B3`: learned, by what meets there; `U`: never changed.")


def test_a_rule_that_changes_its_signals_is_seen(monkeypatch: pytest.MonkeyPatch):
    """The table is of the rule and not of its name."""

    def doubled(self, trace, error, y):
        for synapse in Backprop.synapses(self, trace, error, y):
            yield synapse._replace(post=2 * synapse.post) if synapse.weight == "W3" else synapse

    monkeypatch.setattr(FeedbackAlignment, "synapses", doubled)
    assert meetings(card_of("fa"))[0].post == r"$\delta_3$"


def test_a_new_rule_without_an_entry_is_noticed(monkeypatch: pytest.MonkeyPatch):
    class New(Backprop):
        """One that nobody wrote down."""

    monkeypatch.setattr(f"{__name__}.CLASSES", [*CLASSES, New])
    monkeypatch.setitem(RULES, "new", RULES["fa"].__class__(**{**vars(RULES["fa"]), "name": "new", "rule": New}))
    with pytest.raises(AssertionError):
        test_every_rule_on_file_has_its_entry_below_its_family()


def test_paragraphs_that_lead_to_an_equation_stand_with_it():
    class Shown(LearningRule):
        r"""Summary in a line.

        Not about an equation.

        It follows from :math:`h_l` of ``W``, see :class:`~a.b.Other`:

        .. math:: a = b

        with a tail.

        Not shown.

        Args:
            network: x.

        .. math:: not = shown

        Source: Someone (2020), eq. 3. Chapter: *Backpropagation*.
        """

    found = described(Shown)
    assert found.summary == "Summary in a line."
    assert found.parts == [
        ("text", "It follows from $h_l$ of `W`, see `Other`:"), ("math", "a = b"), ("text", "with a tail."),
    ]  # fmt: skip
    assert (found.source, found.chapter) == ("Someone (2020), eq. 3", "Backpropagation")


# --- which rule for which question ---------------------------------------------------------------------------

GUIDE = ROOT / "book" / "synthesis" / "which_rule.ipynb"
FRAME = ("How to read the tables", "All of them at once")


def questions() -> dict[str, str]:
    """The prose below each question of the guide."""
    cells = json.loads(GUIDE.read_text("utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE))
    assert set(FRAME) <= set(found)
    return {question: answer for question, answer in found.items() if question not in FRAME}


def test_every_question_has_an_answer_a_trap_and_a_place_to_go_on():
    asked = questions()
    assert len(asked) >= 9 and all(question.startswith("I ") for question in asked)
    for question, answer in asked.items():
        assert "*The trap.*" in answer, question
        assert re.search(r"\{doc\}`\.\./(?:rules|problem|reference)/\w+`", answer), question
        assert "*Which.*" in answer or "**" in answer or "None of these" in answer or "python -m" in answer, question
    assert "*None of these.*" in asked["I have no label, but one number that says how good it was"]


def test_the_table_of_all_rules_has_every_rule_on_file():
    """It is stored: a rule that is new on file has to be put there by executing the page."""
    cells = json.loads(GUIDE.read_text("utf-8"))["cells"]
    (table,) = (cell for cell in cells if "".join(cell["source"]).startswith("compare(*columns())"))
    html = "".join(table["outputs"][0]["data"]["text/html"])
    ours = [label for label, (name, _) in columns().items() if RULES[name].rule in CLASSES]
    assert re.findall(r"<tr>\s*<th>(.*?)</th>", html) == ours
