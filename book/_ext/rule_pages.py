"""A Sphinx directive that draws the page of all update equations from the rules, when the book is built.

``{rule} NAME …``: an entry for the rules on file with these names, which share a class. From the card: label and
papers. From the class's docstring: its first paragraph, its equations, its source and its chapter. From the rule on a
small network: which signals meet at each synapse, and what becomes of weights of its own. The content of the directive
says in one line what differs from backpropagation.

``{rule-base} CLASS``: the equations that rules share by a class above theirs, without a network.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from torch import Tensor

    from bioplaus_lite.rules import Card, LearningRule

BOOK = Path(__file__).resolve().parents[1]
MATH = re.compile(r"^\.\. math::[ ]*((?:.*)(?:\n(?:[ \t]+.*|[ \t]*))*)", re.MULTILINE)
SIZES = (7, 6, 5, 3)  # all different, so that a shape says whose signal it is
EXAMPLES = 4


def unwrapped(text: str) -> str:
    """A paragraph of a docstring as Markdown, on one line."""
    text = re.sub(r":math:`([^`]+)`", r"$\1$", " ".join(text.split()))
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")


class Described(NamedTuple):
    """A docstring taken apart: what stands before its arguments, its source, and the chapter that derives it."""

    summary: str
    parts: list[tuple[str, str]]
    source: str
    chapter: str

    @property
    def equations(self) -> list[str]:
        """What stands in its math blocks."""
        return [part for kind, part in self.parts if kind == "math"]


def described(rule: type) -> Described:
    """What the docstring of a class says: its equations, and the paragraphs that lead to one or go on after one."""
    doc = inspect.cleandoc(rule.__doc__ or "")
    body = re.split(r"^(?:Args|Raises|Returns|Source):", doc, maxsplit=1, flags=re.MULTILINE)[0]
    pieces = MATH.split(body)  # text, equation, text, equation … text
    parts: list[tuple[str, str]] = []
    for i, piece in enumerate(pieces):
        if i % 2:
            parts.append(("math", inspect.cleandoc(piece)))
            continue
        paragraphs = [p for p in re.split(r"\n\s*\n", piece) if p.strip()]
        if i == 0:
            paragraphs = paragraphs[1:]
        goes_on = i > 0 and paragraphs and re.match(r"[a-z]", paragraphs[0])
        kept = [*paragraphs[:1]] if goes_on else []
        if i + 1 < len(pieces):
            kept += [p for p in paragraphs[-1:] if p not in kept]
        parts += [("text", unwrapped(paragraph)) for paragraph in kept]
    source = re.search(r"^Source: (.*?)(?:\s+Chapter: \*(.*?)\*\.)?\s*\Z", doc, re.DOTALL | re.MULTILINE)
    said, chapter = (unwrapped(source[1]), " ".join((source[2] or "").split())) if source else ("", "")
    said = re.split(r"\.\s+(?=[A-Z`])", said, maxsplit=1)[0].rstrip(".")  # what follows is about constants
    return Described(unwrapped(body.split("\n\n")[0]), parts, said, chapter)


@cache
def chapters() -> dict[str, str]:
    """``{title: document}`` of the chapters that derive rules."""
    found = {}
    for path in sorted([*(BOOK / "problem").glob("*.ipynb"), *(BOOK / "rules").glob("*.ipynb")]):
        first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
        found[first.splitlines()[0].removeprefix("# ")] = path.relative_to(BOOK).with_suffix("").as_posix()
    return found


# --- what meets where, measured ------------------------------------------------------------------------------


class Meeting(NamedTuple):
    """What meets at one set of weights: their name and shape, the two signals in words, what is added."""

    weight: str
    shape: tuple[int, ...]
    post: str
    pre: str
    more: str


def small(card: Card) -> tuple[LearningRule, Tensor, Tensor]:
    """The rule of a card on a small network of its own kind, with a few examples."""
    import torch

    options: dict[str, Any] = {"engine": "readable"} if "engine" in card.takes else {}
    rule = card.make(card.network(SIZES, seed=0, dtype=torch.float64), **options)
    x = torch.rand(EXAMPLES, SIZES[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return rule, x, torch.arange(EXAMPLES) % SIZES[-1]


def meetings(card: Card) -> list[Meeting]:
    """What meets at each synapse of a rule in a step of training, in the order in which it says so.

    A signal that equals an activity, an error or a target has its name; another one has its layer.
    """
    import torch

    from bioplaus_lite.measures import backprop_errors

    rule, x, y = small(card)
    with torch.no_grad():
        synapses = [s._replace(post=s.post.clone(), pre=s.pre.clone()) for s in rule.credit(x, y)[1]]
        h = rule.observe(x).h
    ours = rule._errors_of(synapses)
    exact = backprop_errors(rule, x, y)
    known = {f"$h_{l}$": one for l, one in enumerate(h)} | {f"$\\delta_{l}$": one for l, one in ours.items()}
    as_backprop = {f"$\\delta_{l}$" for l, one in ours.items() if l in exact and same(one, exact[l])}

    def words(signal: Tensor) -> str:
        name = next((name for name, one in known.items() if same(signal, one)), None)
        if name:
            return f"{name}, as in backprop" if name in as_backprop else name
        layers = [str(l) for l, n in enumerate(SIZES) if n == signal.shape[-1]]
        if signal.shape[-1] == 1:
            return "1"
        return (
            f"of layer {layers[0]}" if layers else f"of layer {len(SIZES) - 1} and {signal.shape[-1] - SIZES[-1]} more"
        )

    found = []
    for s in synapses:
        if s.weight.startswith(("b", "c")):
            continue  # a bias that an online rule names by itself
        weight = (rule._parameters if s.weight in rule._parameters else rule.network._parameters)[s.weight]
        more = "a decay" if isinstance(s.decay, torch.Tensor) or s.decay else ""
        found.append(Meeting(s.weight, tuple(weight.shape), words(s.post), words(s.pre), more))
    return found


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two signals are equal up to rounding."""
    return one.shape == other.shape and bool(((one - other).norm() <= 1e-9 * other.norm()).item())


def own_weights(card: Card) -> str:
    """What becomes of the weights that are a rule's own, in a sentence; it is asked to learn once."""
    import torch

    rule, x, y = small(card)
    named = {name for name in (s.weight for s in rule.credit(x, y)[1])}
    held = [*rule.named_parameters(recurse=False), *rule.named_buffers(recurse=False)]
    before = {name: t.detach().clone() for name, t in held if t.ndim >= 2}
    rule.assign_gradients(x, y)
    learned = [n for n in before if n in named]
    moved = [n for n in before if n not in named and not torch.equal(before[n], rule.state_dict()[n])]
    still = [n for n in before if n not in (*learned, *moved)]
    said = [
        (learned, "learned, by what meets there"),
        (moved, "changed once a batch in a phase of their own, by nothing in this table"),
        (still, "never changed"),
    ]
    sentences = [f"{', '.join(f'`{n}`' for n in names)}: {what}" for names, what in said if names]
    return f"Weights of its own: {'; '.join(sentences)}." if sentences else "It has no weights of its own."


# --- the page ------------------------------------------------------------------------------------------------


def equation(lines: str) -> list[str]:
    """A math block in Markdown."""
    return ["```{math}", *lines.splitlines(), "```", ""]


class _Entry(SphinxDirective):
    """What both directives share: a section of their own, of Markdown."""

    required_arguments = 1
    final_argument_whitespace = True

    def section(self, title: str, name: str, lines: list[str]) -> list[nodes.Node]:
        section = nodes.section(ids=[f"rule-{name}"], names=[f"rule-{name}"])
        section += nodes.title(text=title)
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, section)
        return [section]

    def body(self, text: Described) -> Iterator[str]:
        yield from (text.summary, "")
        for kind, part in text.parts:
            yield from equation(part) if kind == "math" else (part, "")

    def depends_on(self, rule: type) -> None:
        self.env.note_dependency(inspect.getfile(rule))


class Rule(_Entry):
    """``{rule} NAME …``: an entry for rules on file that share a class."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        from bioplaus_lite.rules import card_of  # with torch, which few pages need

        cards = [card_of(name) for name in self.arguments[0].split()]
        card, (rule, *others) = cards[0], dict.fromkeys(card.rule for card in cards)
        if others or not self.content:
            raise self.error(f"{self.arguments[0]}: one class, and a line on what differs from backpropagation")
        self.depends_on(rule)
        text = described(rule)
        if text.chapter not in chapters():
            raise self.error(f"{rule.__name__}: its chapter {text.chapter!r} is none of {', '.join(chapters())}")
        lines = [*self.body(text), f"**What differs from backprop.** {' '.join(self.content)}", ""]
        lines += ["| weights | shape | at the unit (post) | arriving (pre) |", "|---|---|---|---|"]
        for meeting in meetings(card):
            shape = "$\\times$".join(map(str, meeting.shape))
            arriving = f"{meeting.pre}, and {meeting.more}" if meeting.more else meeting.pre
            lines.append(f"| `{meeting.weight}` | {shape} | {meeting.post} | {arriving} |")
        for one in cards:
            lines += ["", f"{f'*{one.label}.* ' if len(cards) > 1 else ''}{own_weights(one)}"]
        cited = ",".join(card.cite)
        lines += ["", f"Source: {text.source}. {{cite:p}}`{cited}` "
                      f"Derived in {{doc}}`{text.chapter} </{chapters()[text.chapter]}>`; "
                      f"code: {{py:class}}`~{rule.__module__}.{rule.__name__}`."]  # fmt: skip
        return self.section(" · ".join(one.label for one in cards), card.name, lines)


class RuleBase(_Entry):
    """``{rule-base} CLASS``: equations that several rules share by a class above theirs."""

    def run(self) -> list[nodes.Node]:
        rule = bases()[self.arguments[0]]
        self.depends_on(rule)
        title = f"Shared by {', '.join(card.short for card in under(rule))}"
        return self.section(title, rule.__name__, list(self.body(described(rule))))


def bases() -> dict[str, type]:
    """Classes with equations from which rules on file inherit, and which are on no card, by name."""
    from bioplaus_lite.rules import RULES, LearningRule

    carded = {card.rule for card in RULES.values()}
    above = dict.fromkeys(base for rule in carded for base in rule.__mro__ if issubclass(base, LearningRule))
    return {b.__name__: b for b in above if b not in carded and b is not LearningRule and described(b).equations}


def under(rule: type) -> list[Card]:
    """The cards of the rules that inherit from a class."""
    from bioplaus_lite.rules import RULES

    return [card for card in RULES.values() if issubclass(card.rule, rule)]


def setup(app: Sphinx) -> dict[str, object]:
    """Add the directives; called by Sphinx."""
    app.add_directive("rule", Rule)
    app.add_directive("rule-base", RuleBase)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
