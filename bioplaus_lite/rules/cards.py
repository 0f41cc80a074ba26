"""The card of a rule: all that is known of it but what it does. Plots, tables, runs, benchmarks and tests read cards.

A rule stands on its card where it is written, by ``@register``; nowhere else is there a list of rules. A rule in a
file of a reader's own goes by ``"module:Class"`` and needs no card; with one it has a label and a look.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus_lite import checks
from bioplaus_lite.networks import MLP, Network

if TYPE_CHECKING:
    from bioplaus_lite.rules.base import LearningRule

__all__ = ["COLOURS", "RULES", "Card", "Look", "card_of", "every_card", "in_family", "make_rule", "register"]

#: Okabe & Ito's palette, without its yellow, which is too pale for a line on white.
COLOURS = {
    "blue": "#0072B2", "vermilion": "#D55E00", "green": "#009E73", "purple": "#CC79A7", "sky": "#56B4E9",
    "orange": "#E69F00", "black": "#000000", "grey": "#7F7F7F",
}  # fmt: skip
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Look:
    """Colour and dashes of a rule in every figure.

    Raises:
        ValueError: either is unknown.
    """

    colour: str
    dash: str = "-"

    def __post_init__(self) -> None:
        checks.one_of("colour", self.colour, COLOURS)
        checks.one_of("dash", self.dash, DASHES)


@dataclass(frozen=True)
class Card:
    """What is known of a rule.

    Attributes:
        name: in runs, tables and ``make_rule``.
        rule: the class.
        label: in figures; ``short`` where there is little room.
        family: the mechanism that it shares with others; figures have a column a family.
        cite: keys of the bibliography.
        network: makes a network that the rule is at home on, ``network(sizes, seed=…, dtype=…)``.
        look: colour and dashes.
        options: what the name fixes of the class's options.
        also: names of runs that differ in network or constants and not in the rule, each with what is different on
            its card.
        settings: what the literature table has columns for besides, by label: options, ``network`` among them. One
            that goes by ``short`` stands in the place of the defaults.
    """

    name: str
    rule: type[LearningRule]
    label: str
    short: str
    family: str
    cite: tuple[str, ...]
    network: Callable[..., Network]
    look: Look
    options: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def make(self, network: Network, **options: Any) -> LearningRule:
        """The rule on ``network``.

        Raises:
            TypeError: the rule takes no such option.
            ValueError: an option is fixed by the name, or out of range.
        """
        for option in options:
            if option in self.options:
                raise ValueError(
                    f"{self.name!r} has {option} {self.options[option]!r}, which is what its name says; leave it out"
                )
        return self.rule(network, **self.options, **options)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the options that :meth:`make` takes."""
        names = [name for name in inspect.signature(self.rule).parameters if name != "network"]
        return tuple(name for name in names if name not in self.options)


#: Every rule's card by its name, in the order of the book.
RULES: dict[str, Card] = {}


def register(
    name: str, *, label: str, short: str | None = None, family: str = "own rules", cite: str | tuple[str, ...] = (),
    network: Callable[..., Network] = MLP, look: Look | tuple[str, str] = ("grey", "-"),
    options: Mapping[str, Any] | None = None, also: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[type], Any]:  # fmt: skip
    """Put a rule on file: a decorator of its class. A class may have several names, which differ in options.

    Raises:
        ValueError: another class has the name, or a colour or dash is unknown.
    """

    drawn = look if isinstance(look, Look) else Look(*look)

    def put(rule: type[LearningRule]) -> type[LearningRule]:
        taken = RULES.get(name)
        # A notebook cell that is run again makes its class again.
        if taken and not _same(taken.rule, rule):
            raise ValueError(f"the name {name!r} is taken by {taken.rule.__module__}.{taken.rule.__qualname__}")
        cited = (cite,) if isinstance(cite, str) else tuple(cite)
        fixed, others, more = dict(options or {}), dict(also or {}), dict(settings or {})
        RULES[name] = Card(name, rule, label, short or label, family, cited, network, drawn, fixed, others, more)
        return rule

    return put


def in_family(*families: str) -> list[str]:
    """Names of the rules of some families, in the order of the book.

    Raises:
        ValueError: there is no such family.
    """
    known = list(dict.fromkeys(card.family for card in RULES.values()))
    for family in families:
        checks.one_of("family", family, known)
    return [card.name for card in RULES.values() if card.family in families]


def _same(old: type, new: type) -> bool:
    """Whether a class is the one on file, made again: by a cell, or in the file that a cell was copied to.

    Those of this package keep their names, also from a cell that has a class called the same.
    """
    modules, ours = {old.__module__, new.__module__}, old.__module__.startswith("bioplaus_lite.")
    return old.__qualname__ == new.__qualname__ and (len(modules) == 1 or ("__main__" in modules and not ours))


def every_card() -> Iterator[Card]:
    """A card for each name that a run can have in a figure, in the order of the book."""
    for card in RULES.values():
        if not card.also:
            yield card
        for name, other in card.also.items():
            yield replace(card, name=name, also={}, **other)


def card_of(name: str) -> Card:
    """The card of a rule or of one of its runs; for ``"module:Class"`` the class is imported first.

    Raises:
        ValueError: there is no such rule; the message says what there is, or why the module gives none.
    """
    if isinstance(name, str) and name in RULES:
        return RULES[name]
    if isinstance(name, str) and ":" in name:
        return _own(name)
    for card in every_card():
        if card.name == name:
            return card
    raise ValueError(f"unknown rule {name!r}; choose one of {', '.join(RULES)}, or name your own as 'module:Class'")


def _own(name: str) -> Card:
    from bioplaus_lite.rules.base import LearningRule

    module, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # a reader's file lies where they work
    try:
        rule = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"rule {name!r} cannot be imported: {error}") from error
    if not (isinstance(rule, type) and issubclass(rule, LearningRule)):
        raise ValueError(f"rule {name!r} is not a subclass of LearningRule")
    carded = [card for card in RULES.values() if card.rule is rule]
    if carded:
        return replace(carded[0], name=name, options={}, also={})  # the class, with all of its options
    return Card(name, rule, attribute, attribute, "own rules", (), MLP, Look("grey", ":"))


def make_rule(name: str, network: Network, **options: Any) -> LearningRule:
    """The rule called ``name`` on ``network``; ``options`` go to its constructor.

    Args:
        name: one of :data:`RULES`, or ``"module:Class"``.
        network: the layers to train.
        options: of the rule; a ``seed`` draws its feedback weights.

    Raises:
        ValueError: there is no such rule, or an option is out of range or fixed by the name.
        TypeError: the rule takes no such option.
    """
    return card_of(name).make(network, **options)
