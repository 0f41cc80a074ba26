"""The catalogue of full-length trainings: a TOML file, read strictly, and the runs that it stands for."""

from __future__ import annotations

import copy
import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bioplaus_lite.checks import LARGEST_SEED, one_of
from bioplaus_lite.data import SETS
from bioplaus_lite.measures import MEASURES
from bioplaus_lite.runs.recipe import build_network, build_rule, optimizer_from, scheduler_from, turns_of
from bioplaus_lite.runs.records import NAME, PURPOSES, TRAININGS
from bioplaus_lite.runs.results import QUANTITIES

__all__ = [
    "CATALOGUE", "DEFAULTS", "KNOWN", "OPTIONAL", "Catalogue", "CatalogueError", "Checks", "Published", "Run", "Search",
    "check_settings", "figures", "published_in", "published_of", "read_catalogue", "read_published",
]  # fmt: skip

CATALOGUE = TRAININGS / "catalogue.toml"

#: The parameters of a training, as the template has them, where a catalogue says nothing else. ``None``: it must.
DEFAULTS: dict[str, Any] = {
    "rule": None,
    "dataset": None,
    "subset": "full",
    "network": None,
    "options": {},
    "optimizer": None,
    "schedule": None,
    "turns": False,
    "epochs": None,
    "batch_size": 100,
    "validation": {"size": 5000, "seed": 0},
    "examples": None,
    "every": None,
    "marks": [],
    "seed": None,
    "purpose": "result",
}
#: What a run has only if the catalogue names it, further measures to record; none by default.
OPTIONAL = ("measures",)
_AXES = ("rules", "datasets", "seeds")
_GROUP_KEYS = ("title", "about", "runs", "published")
_SETTABLE = (*(name for name in DEFAULTS if name not in ("seed", "purpose")), *OPTIONAL, *_AXES, "search")
#: How a published figure is known. What is ``second-hand`` was read in neither the paper nor its authors' code or logs.
KNOWN = ("paper", "code", "second-hand")


class CatalogueError(ValueError):
    """A catalogue that says something impossible; the message names the entry, the value and what is allowed."""


@dataclass(frozen=True)
class Search:
    """How one setting of a run is chosen: by the accuracy on the validation set, from the values given.

    Attributes:
        key: where the setting is, ``"optimizer.lr"``.
        values: to try.
        seeds: of the trials; their accuracies are averaged.
        epochs: of each trial.
    """

    key: str
    values: tuple[Any, ...]
    seeds: tuple[int, ...] = (0,)
    epochs: int = 3


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        id: of its record and notebook, ``<group>-<dataset>-<name>-s<seed>``.
        group: the table of the catalogue that it stands in.
        name: its own name there, with the rule if the entry lists several.
        parameters: what the template receives, the keys of :data:`DEFAULTS`.
        search: how a setting that is left open is chosen, or None.
        trials: the runs of the search.
    """

    id: str
    group: str
    name: str
    parameters: Mapping[str, Any]
    search: Search | None = None
    trials: tuple[Run, ...] = field(default=(), repr=False)

    def set(self, key: str, value: Any) -> Run:
        """The same run with one setting changed, ``key`` being a path such as ``optimizer.lr``."""
        parameters = copy.deepcopy(dict(self.parameters))
        _set(parameters, key, value)
        return replace(self, parameters=parameters)

    def at(self, key: str) -> Any:
        """The value of a setting; ``KeyError`` if it is open, for a search to choose."""
        value: Any = self.parameters
        for part in key.split("."):
            value = value[part]
        return value

    def quick(self) -> Run:
        """The same run on a few hundred of the shipped examples, one epoch; trials of two values only."""
        held_out = min(self.parameters["validation"]["size"], 100)
        short = {"subset": "shipped", "examples": 300, "validation": {"size": held_out, "seed": 0}, "epochs": 1}
        short |= {"every": None, "marks": [], "batch_size": min(self.parameters["batch_size"], 100)}
        search: Search | None = None
        kept: list[Run] = []
        if self.search:
            search = replace(self.search, values=self.search.values[:2], epochs=1)
            ends = tuple(f"-{_label(search, v)}" for v in search.values)
            kept = [trial for trial in self.trials if trial.name.endswith(ends)]
        return replace(
            self,
            parameters={**self.parameters, **short},
            search=search,
            trials=tuple(trial.quick() for trial in kept),
        )


class Published(NamedTuple):
    """A figure of a paper, and the run of ours that stands beside it.

    ``group``, ``run``, ``dataset``, ``rule``: of the run; its name is that in the group, without data set and seed.
    ``paper``: its key in ``book/references.bib``. ``figure``: the number. ``what``: it is, with its unit, one of
    :data:`~bioplaus_lite.runs.results.QUANTITIES`. ``where``: it stands, a table, a section, a figure or a file.
    ``known``: how, one of :data:`KNOWN`. ``differs``: what is not the same in our run. ``nearest``: of several runs
    beside one figure, this has the setting that is nearest to the paper's. ``reason``: why the figure lies outside of
    what this run reaches, as far as that is known.
    """

    group: str
    run: str
    dataset: str
    rule: str
    paper: str
    figure: float
    what: str
    where: str
    known: str
    differs: str
    nearest: bool = False
    reason: str = ""


#: What a figure has to say, and what a run may say of itself beside it.
_FIGURE_KEYS = Published._fields[Published._fields.index("paper") : Published._fields.index("nearest")]
_OWN_KEYS = (*_FIGURE_KEYS, "nearest", "reason")


@dataclass(frozen=True)
class Catalogue:
    """The runs of a catalogue.

    Attributes:
        runs: by id, in the order of the file; without the trials of searches.
        groups: ``{group: (title, about)}``.
        published: the figures that stand beside runs, in the order of the file.
    """

    runs: Mapping[str, Run]
    groups: Mapping[str, tuple[str, str]]
    published: tuple[Published, ...] = ()


def _set(parameters: dict, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        parameters = parameters[part]
    parameters[last] = value


def _label(search: Search, value: Any) -> str:
    return f"{search.key.rpartition('.')[2]}{value}".replace("_", "").replace("+", "").replace(".", "p")


def read_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Read a catalogue and check every entry of it, down to building its network, rule and optimiser once.

    The file has one table a group. What stands in it directly holds for all its runs; ``[group.runs]`` names the runs
    and says what is different for each, key by key. The keys are those of :data:`DEFAULTS` (``seed`` and ``purpose``
    apart), the axes ``rules``, ``datasets`` and ``seeds``, which make a run of each combination, and ``search``. What
    papers report for these runs stands in ``[group.published]``: see :func:`published_in`.

    Raises:
        CatalogueError: the file says something impossible, or cannot be read.
    """
    tables = _tables(path)
    runs: dict[str, Run] = {}
    groups: dict[str, tuple[str, str]] = {}
    published: list[Published] = []
    check = Checks()
    taken: dict[str, Any] = {}
    for group, table in tables.items():
        _refuse_unknown_keys(path, group, table, (*_GROUP_KEYS, *_SETTABLE))
        shared = {key: value for key, value in table.items() if key not in _GROUP_KEYS}
        groups[group] = (str(table.get("title", group)), str(table.get("about", "")))
        for name, own in table["runs"].items():
            where = f"{path}: {group}.runs.{name}"
            if not isinstance(own, dict):
                raise CatalogueError(f"{where} must be a table of settings, not {own!r}")
            _refuse_unknown_keys(path, f"{group}.runs.{name}", own, _SETTABLE)
            try:
                for run in _expand(group, name, {**shared, **own}):
                    check(run)
                    # The seeds of a run share their trials; nothing else may share an id.
                    for one, owner in ((run, run.id), *((trial, (run.group, run.name)) for trial in run.trials)):
                        if taken.setdefault(one.id, owner) != owner or one.id in runs:
                            raise ValueError(f"the id {one.id!r} is taken; ids must differ")
                    runs[run.id] = run
            except (ValueError, TypeError) as error:
                raise CatalogueError(f"{where}: {error}") from error
        try:
            published += published_in(group, table)
        except ValueError as error:
            raise CatalogueError(f"{path}: {group}.published{error}") from error
    try:
        figures(published)
    except ValueError as error:
        raise CatalogueError(f"{path}: {error}") from error
    return Catalogue(runs, groups, tuple(published))


def published_of(
    group: str, what: str = "test error (%)", *, dataset: str | None = None, path: Path = CATALOGUE
) -> dict[str, float]:
    """What a paper reports for the runs of a group: ``{name of the run in the group: figure}``, in the file's order.

    It builds no network, and so takes milliseconds where :func:`read_catalogue` takes seconds.

    Args:
        group: a table of the catalogue that has ``[group.published]``.
        what: the quantity, with its unit, one of :data:`~bioplaus_lite.runs.results.QUANTITIES`.
        dataset: it was found on; needed only if the group has figures for several.
        path: the catalogue.

    Raises:
        CatalogueError: the file cannot be read, or its published figures are not what they must be.
        ValueError: the catalogue has no such figures, or has them for several data sets and ``dataset`` names none.

    Example:
        >>> published_of("paper-guerguiev")
        {'none': 8.3, 'one': 4.1, 'two': 3.2}
    """
    tables = _tables(path)
    known = [name for name, table in tables.items() if isinstance(table, dict) and {"published", "runs"} <= set(table)]
    if group not in known:
        raise ValueError(f"group must be one with published figures, {', '.join(known)}, not {group!r}")
    try:
        figures = list(published_in(group, tables[group]))
    except ValueError as error:
        raise CatalogueError(f"{path}: {group}.published{error}") from error
    if what not in (there := dict.fromkeys(one.what for one in figures)):
        raise ValueError(f"what must be one of {', '.join(there)} for {group}, not {what!r}")
    figures = [one for one in figures if one.what == what]
    sets = list(dict.fromkeys(one.dataset for one in figures))
    dataset = sets[0] if dataset is None and len(sets) == 1 else dataset
    if dataset not in sets:
        raise ValueError(f"dataset must be one of {', '.join(sets)} for {what} in {group}, not {dataset!r}")
    return {one.run: one.figure for one in figures if one.dataset == dataset}


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """The groups of a catalogue, each a table with its runs."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    for group, table in tables.items():
        if not isinstance(table, dict) or not isinstance(table.get("runs"), dict) or not table["runs"]:
            raise CatalogueError(f"{path}: {group!r} must be a table with its runs in [{group}.runs]")
    return tables


def read_published(path: Path = CATALOGUE) -> tuple[Published, ...]:
    """The published figures of a catalogue, without a check of its runs, which takes seconds.

    Raises:
        CatalogueError: the file cannot be read, or says something impossible of a figure.
    """
    found: list[Published] = []
    for group, table in _tables(path).items():
        try:
            found += published_in(group, table)
        except ValueError as error:
            raise CatalogueError(f"{path}: {group}.published{error}") from error
    return tuple(found)


def figures(published: Iterable[Published]) -> tuple[tuple[Published, ...], ...]:
    """Each published figure once, with all the runs that stand beside it; the nearest is the first.

    A figure is one if paper, place, quantity, number, data set and rule are. So two numbers of a paper that have all of
    these alike need different places: ``"table 1, row 3"``.

    Raises:
        ValueError: of the runs beside one figure none or several are the nearest, a figure with a single run says
            that it is, or a reason is given for a run that is not.
    """
    found: dict[tuple, list[Published]] = {}
    for one in published:
        found.setdefault((one.paper, one.where, one.what, one.figure, one.dataset, one.rule), []).append(one)
    for beside in found.values():
        said = f"{beside[0].figure:g} of {beside[0].paper} stands beside {', '.join(one.run for one in beside)}"
        nearest = sum(one.nearest for one in beside)
        if nearest != (len(beside) > 1):
            allowed = "one of them must say nearest = true" if len(beside) > 1 else "a single run needs no nearest"
            raise ValueError(f"{said}: {allowed}, and {nearest} do")
        beside.sort(key=lambda one: not one.nearest)
        if told := [one.run for one in beside[1:] if one.reason]:
            raise ValueError(f"{said}: a reason must stand with {beside[0].run}, the nearest, and not with {told[0]}")
    return tuple(map(tuple, found.values()))


def published_in(group: str, table: Mapping[str, Any]) -> Iterator[Published]:
    """The published figures in a group's table of the catalogue.

    ``[group.published]`` says what holds for all of them, ``[group.published.runs]`` names runs and says what is
    different for each: its ``figure``, and whichever of ``paper, what, where, known, differs`` is its own. A run may
    have a list of such tables. Where a run has several data sets, ``figure`` is a table of one number for each.
    ``nearest = true`` marks the run with the nearest setting where one figure stands beside several, and ``reason`` is
    a sentence that says why a figure lies outside of what the run reaches; where there are several data sets, a
    table of sentences.

    Raises:
        ValueError: a key is unknown or missing, a value is not what it must be, or a run is not in the group.
    """
    given = table.get("published", {})
    if not isinstance(given, dict) or ("published" in table and not given.get("runs")):
        raise ValueError(f": must be a table with its figures in [{group}.published.runs]")
    _refuse_unknown_figure_keys("", given, (*_FIGURE_KEYS, "runs"))
    sets: dict[str, dict[str, str]] = {}  # of each run: data set and rule
    for name, own in table["runs"].items() if given else ():
        shared = {key: value for key, value in table.items() if key not in _GROUP_KEYS}
        for run in _expand(group, name, {**shared, **own}):
            sets.setdefault(run.name, {})[run.parameters["dataset"]] = run.parameters["rule"]
    if given and not isinstance(given["runs"], dict):
        raise ValueError(f".runs: must be a table of runs, not {given['runs']!r}")
    for name, entries in given.get("runs", {}).items():
        where = f".runs.{name}: "
        if name not in sets:
            raise ValueError(f"{where}there is no such run in {group}; it has {', '.join(sets)}")
        for own in entries if isinstance(entries, list) else [entries]:
            if not isinstance(own, dict):
                raise ValueError(f"{where}must be a table with a figure, not {own!r}")
            _refuse_unknown_figure_keys(where, own, _OWN_KEYS)
            entry = {**given, **own}
            if missing := [key for key in _FIGURE_KEYS if key not in entry]:
                raise ValueError(f"{where}{', '.join(missing)} must be given, here or for the whole group")
            for key in ("paper", "where", "differs"):
                if not isinstance(entry[key], str) or not entry[key].strip():
                    raise ValueError(f"{where}{key} must be words, not {entry[key]!r}")
            for key, allowed in (("what", tuple(QUANTITIES)), ("known", KNOWN)):
                if entry[key] not in allowed:
                    raise ValueError(f"{where}{key} must be one of {', '.join(allowed)}, not {entry[key]!r}")
            if entry.get("nearest", True) is not True:
                raise ValueError(f"{where}nearest must be true or left out, not {entry['nearest']!r}")
            given_for = dict(_figures(where, entry["figure"], set(sets[name])))
            reasons = _reasons(where, entry.get("reason", {}), set(given_for))
            for dataset, figure in given_for.items():
                said = {key: entry[key] for key in _FIGURE_KEYS} | {"figure": figure}
                said |= {"nearest": "nearest" in entry, "reason": reasons.get(dataset, "")}
                yield Published(group, name, dataset, sets[name][dataset], **said)


def _figures(where: str, given: Any, sets: set[str]) -> Iterator[tuple[str, float]]:
    """Data set and number, for each that a figure is given for."""
    by_set = given if isinstance(given, dict) else {next(iter(sets)): given}
    if (not isinstance(given, dict) and len(sets) > 1) or not by_set or not set(by_set) <= sets:
        allowed = ", ".join(sorted(sets))
        raise ValueError(f"{where}figure must be a table with a number for data sets among {allowed}, not {given!r}")
    for dataset, figure in by_set.items():
        if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
            raise ValueError(f"{where}figure must be a finite number, not {figure!r}")
        yield dataset, float(figure)


def _reasons(where: str, given: Any, sets: set[str]) -> dict[str, str]:
    """Data set and reason, for each figure that a reason is given for."""
    by_set = given if isinstance(given, dict) else dict.fromkeys(sets, given)
    if (not isinstance(given, dict) and len(sets) > 1) or not set(by_set) <= sets:
        allowed = ", ".join(sorted(sets))
        raise ValueError(f"{where}reason must be a table with a sentence for data sets among {allowed}, not {given!r}")
    for reason in by_set.values():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"{where}reason must be words, not {reason!r}")
    return dict(by_set)


def _refuse_unknown_figure_keys(where: str, table: Mapping, allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"{where or ': '}unknown key {key!r}; allowed are {', '.join(allowed)}")


def _refuse_unknown_keys(path: Path, where: str, table: Mapping, allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise CatalogueError(f"{path}: {where}: unknown key {key!r}; allowed are {', '.join(allowed)}")


def _axis(settings: dict, plural: str, default: list | None = None) -> list:
    """The values of an axis; for ``rules`` and ``datasets`` the singular may stand in its place."""
    singular = plural.removesuffix("s")
    if singular in settings and plural in settings:
        raise ValueError(f"{singular!r} and {plural!r} exclude each other")
    values = settings.pop(plural, None)
    values = [settings.pop(singular)] if values is None and singular in settings else values
    values = default if values is None else values
    if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
        raise ValueError(f"{plural!r} must be a list of different values, not {values!r}")
    return values


def _expand(group: str, name: str, settings: dict) -> Iterator[Run]:
    for what, part in (("group", group), ("run", name)):
        if not NAME.fullmatch(part):
            raise ValueError(f"the name of a {what} has lower-case letters, digits, - and _, not {part!r}")
    several = "rules" in settings and "rule" not in settings
    rules, datasets, seeds = (_axis(settings, axis) for axis in ("rules", "datasets", "seeds"))
    search = settings.pop("search", None)
    search = _search(search) if search else None
    for rule, dataset in itertools.product(rules, datasets):
        one_of("dataset", dataset, SETS)
        # Of "my_rules:Mine" what an id may have: words of letters and digits, joined by one - or _.
        full = "-".join([name, *re.findall("[a-z0-9]+(?:_[a-z0-9]+)*", str(rule).lower())]) if several else name
        stem = f"{group}-{dataset}-{full}"
        parameters = copy.deepcopy({**DEFAULTS, **settings, "rule": rule, "dataset": dataset})
        _check_tables(parameters)
        if missing := [k for k, v in parameters.items() if v is None and k in ("network", "optimizer", "epochs")]:
            raise ValueError(f"{', '.join(missing)} must be given, here or for the whole group")
        trials = []
        if search:
            head, _, last = search.key.rpartition(".")
            if head not in ("optimizer", "optimizer.forward", "optimizer.feedback", "options") or not last:
                raise ValueError(
                    f"search: unknown key {search.key!r}; allowed are optimizer.lr, options.… and the like"
                )
            table = parameters
            for part in head.split("."):
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    raise ValueError(f"search: {head} must be a table, not {table!r}")
            if last in table:
                raise ValueError(f"search: {search.key} is given, so there is nothing to search")
            for value, seed in itertools.product(search.values, search.seeds):
                label = _label(search, value)
                trial = {**parameters, "seed": seed, "epochs": search.epochs, "purpose": "search"}
                trial |= {"every": None, "marks": []}
                made = Run(f"{stem}-{label}-s{seed}", group, f"{full}-{label}", trial)
                trials.append(made.set(search.key, value))
        for seed in seeds:
            yield Run(f"{stem}-s{seed}", group, full, {**parameters, "seed": seed}, search, tuple(trials))


def _search(given: Any) -> Search:
    allowed = tuple(Search.__dataclass_fields__)
    if not isinstance(given, dict) or not {"key", "values"} <= set(given) <= set(allowed):
        raise ValueError(f"search must be a table of {', '.join(allowed)}, with key and values, not {given!r}")
    values, seeds = given["values"], given.get("seeds", [0])
    if not isinstance(given["key"], str):
        raise ValueError(f"search: key must be a path such as 'optimizer.lr', not {given['key']!r}")
    if not isinstance(values, list) or len(values) < 2 or len(set(map(str, values))) < len(values):
        raise ValueError(f"search: values must list at least two different ones, not {values!r}")
    if bad := [value for value in values if isinstance(value, list | dict)]:
        raise ValueError(f"search: a value must be a number, a word, true or false, not {bad[0]!r}")
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f"search: seeds must be a list of whole numbers, not {seeds!r}")
    for seed in seeds:
        _whole("search: a seed", seed, 0)
    return Search(given["key"], tuple(values), tuple(seeds), _whole("search: epochs", given.get("epochs", 3), 1))


def _whole(what: str, value: Any, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"from {least} to {most}" if most is not None else f"≥ {least}"
        raise ValueError(f"{what} must be a whole number {allowed}, not {value!r}")
    return value


def _check_numbers(p: Mapping[str, Any]) -> None:
    _whole("seed", p["seed"], 0, LARGEST_SEED)
    _whole("epochs", p["epochs"], 1)
    _whole("batch_size", p["batch_size"], 1)
    one_of("subset", p["subset"], ("shipped", "full"))
    if not isinstance(p["turns"], bool):
        raise ValueError(f"turns must be true or false, not {p['turns']!r}")
    spec = SETS[p["dataset"]].expected[p["subset"]]
    if not isinstance(p["validation"], dict) or set(p["validation"]) != {"size", "seed"}:
        raise ValueError(f"validation must be a table of size and seed, not {p['validation']!r}")
    _whole("validation.size", p["validation"]["size"], 0 if p["purpose"] == "result" else 1, spec.n_train - 1)
    _whole("validation.seed", p["validation"]["seed"], 0)
    for name in ("examples", "every"):
        if p[name] is not None:
            _whole(name, p[name], 1, spec.n_train - p["validation"]["size"] if name == "examples" else None)
    if not isinstance(p.get("measures", []), list):
        raise ValueError(f"measures must be a list of names, not {p['measures']!r}")
    for name in p.get("measures", []):
        one_of("measure", name, MEASURES)
    if not isinstance(p["marks"], list):
        raise ValueError(f"marks must be a list of numbers of examples, not {p['marks']!r}")
    for mark in p["marks"]:
        _whole("a mark", mark, 1)


def _check_tables(p: Mapping[str, Any]) -> None:
    for name in ("network", "options", "optimizer", "schedule"):
        if not isinstance(p[name], dict | None):
            raise ValueError(f"{name} must be a table, not {p[name]!r}")
    for name in ("hidden", "channels", "held"):
        if not isinstance((p["network"] or {}).get(name, []), list):
            raise ValueError(f"network: {name} must be a list of whole numbers, not {p['network'][name]!r}")


def check_settings(p: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless tables are tables, and names and numbers are among those allowed.

    What is in the tables of network, options, optimizer and schedule is for those to say who build them.

    Args:
        p: all the parameters of a run.
    """
    one_of("dataset", p["dataset"], SETS)
    one_of("purpose", p["purpose"], PURPOSES)
    _check_tables(p)
    _check_numbers(p)


class Checks:
    """Raises ``ValueError`` if a setting of a run is impossible. Builds each network and optimiser once, to be sure."""

    def __init__(self) -> None:
        self._passed: set[str] = set()
        self._last: tuple[str, Any] = ("", None)  # one rule, as the next run often has the same

    def __call__(self, run: Run) -> None:
        for one in (run, *run.trials):
            check_settings(one.parameters)
        for one in run.trials or (run,):
            p, spec = one.parameters, SETS[one.parameters["dataset"]]
            # Only a CNN cares for the size of an image, and large networks take long to draw.
            shape = spec.expected[p["subset"]].image_shape if p["network"].get("type") == "CNN" else (1, 1, 1)
            if (whole := repr([shape, dict(p) | {"seed": 0, "epochs": 0, "dataset": ""}])) in self._passed:
                continue
            what = repr([shape, p["rule"], p["network"], p["options"]])
            if what != self._last[0]:
                network = build_network(p["network"], shape, len(spec.classes), seed=0)
                self._last = what, build_rule(p["rule"], network, seed=1, **p["options"])
            rule = self._last[1]
            optimizer = optimizer_from(p["optimizer"])(rule.parameter_groups())
            turns_of(rule, p["turns"])
            if make := scheduler_from(p["schedule"]):
                try:
                    make(optimizer)
                except (TypeError, ZeroDivisionError) as error:  # PyTorch's words for an option that is missing
                    raise ValueError(f"schedule {p['schedule']!r} is not possible: {error}") from error
            self._passed.add(whole)
