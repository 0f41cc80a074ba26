"""Which settings a search may try: axes of a space, and the studies of a file, read strictly."""

from __future__ import annotations

import copy
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from bioplaus_lite import checks
from bioplaus_lite.data import SETS
from bioplaus_lite.runs.catalogue import DEFAULTS, CatalogueError, Checks, Run
from bioplaus_lite.runs.records import NAME, TRAININGS

__all__ = ["STUDIES", "Axis", "Study", "read_studies"]

STUDIES = TRAININGS / "searches.toml"

_AXIS_KEYS = ("at", "low", "high", "log", "whole", "choices", "as", "of")
_KINDS = ("value", "length", "each")
_PLAN = ("folds", "examples", "evaluations", "shared")
_OWN = tuple(
    name for name in DEFAULTS if name not in ("dataset", "validation", "examples", "every", "marks", "purpose")
)
_GROUP_KEYS = ("title", "about", "models", "datasets", "like", *_PLAN, *_OWN)
_MODEL_KEYS = ("title", "space", *_OWN)


@dataclass(frozen=True)
class Axis:
    """One hyperparameter of a space.

    Attributes:
        name: of the hyperparameter.
        at: where its value goes in the settings, ``"optimizer.lr"``.
        low, high: the ends of its range, both of them in it.
        log: whether equal ratios are equally far apart, instead of equal differences.
        whole: whether it takes whole numbers only.
        choices: the values there are, instead of a range.
        kind: ``value``; or ``length`` and ``each``: how many entries the list at ``at`` has, and what each of them is.
        of: the name of another axis, whose value this one multiplies.
    """

    name: str
    at: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    kind: str = "value"
    of: str = ""

    def value(self, u: float) -> Any:
        """What lies at the share ``u`` of the axis, from 0 to below 1; each whole number and each choice has a part as
        long as the others', on a logarithmic axis one as long as its logarithms leave it."""
        if self.choices:
            return self.choices[int(u * len(self.choices))]
        # A whole number n stands for the stretch from n - 1/2 to n + 1/2, so that the ends have a full share.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** u if self.log else low + u * (high - low)
        return min(max(round(value), int(self.low)), int(self.high)) if self.whole else value


@dataclass(frozen=True, eq=False)
class Study:
    """One model, one data set, one space: what both samplers search.

    Attributes:
        group, model, dataset: the name is ``<group>/<model>-<dataset>``.
        title: of the model, for figures.
        settings: of every trial, but for what the space decides.
        space: its axes.
        folds, examples: of each cross-validation.
        evaluations: of each sampler.
        shared: how many of the Sobol points are the first of both.
        seed: of the points, the folds and the weights.
    """

    group: str
    model: str
    dataset: str
    title: str
    settings: Mapping[str, Any]
    space: tuple[Axis, ...]
    folds: int
    examples: int | None
    evaluations: int
    shared: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.group}/{self.model}-{self.dataset}"

    @property
    def total(self) -> int:
        """Trials in all: those of both samplers, the shared ones once."""
        return 2 * self.evaluations - self.shared

    @property
    def plan(self) -> dict[str, Any]:
        """Everything that decides what its trials are, as JSON holds it: what two studies of one name must share."""
        space = {
            axis.name: {"at": axis.at, "as": axis.kind, "of": axis.of}
            | ({"choices": list(axis.choices)} if axis.choices else {
                "low": axis.low, "high": axis.high, "log": axis.log, "whole": axis.whole})
            for axis in self.space
        }  # fmt: skip
        numbers = {name: getattr(self, name) for name in (*_PLAN, "seed")}
        return {"settings": copy.deepcopy(dict(self.settings)), "space": space, **numbers}

    @cached_property
    def sobol(self) -> list[dict[str, Any]]:
        """The points of Sobol's sequence, scrambled by the seed: ``evaluations`` of them."""
        sequence = qmc.Sobol(len(self.space), scramble=True, rng=self.seed)
        units = sequence.random_base2(math.ceil(math.log2(self.evaluations)))[: self.evaluations]
        return [self.point(u) for u in units]

    def point(self, units: Sequence[float] | np.ndarray) -> dict[str, Any]:
        """The hyperparameters at a place of the unit cube, one share for each axis."""
        return {axis.name: axis.value(float(u)) for axis, u in zip(self.space, units, strict=True)}

    def at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a trial: those of the study, with the hyperparameters of a point in their places."""
        settings = copy.deepcopy(dict(self.settings))
        lists: dict[str, dict[str, Any]] = {}
        for axis in self.space:
            value = point[axis.name] * point[axis.of] if axis.of else point[axis.name]
            if axis.kind == "value":
                _put(settings, axis.at, value)
            else:
                lists.setdefault(axis.at, {})[axis.kind] = value
        for where, parts in lists.items():
            _put(settings, where, [parts["each"]] * parts["length"])
        return settings

    def corners(self) -> Iterator[dict[str, Any]]:
        """Points that show whether a space is possible: the low ends, the high ends, and each choice."""
        low = self.point([0.0] * len(self.space))
        yield low
        yield self.point([1 - 1e-9] * len(self.space))
        for axis in self.space:
            yield from (low | {axis.name: choice} for choice in axis.choices[1:])


def _put(settings: dict[str, Any], where: str, value: Any) -> None:
    *path, last = where.split(".")
    for part in path:
        settings = settings.setdefault(part, {})
    settings[last] = value


# ------------------------------------------------------------------------------------------------------ the file


def read_studies(path: Path = STUDIES, *, build: bool = True) -> dict[str, Study]:
    """Read a file of studies and check every space of it, down to building the networks at its corners.

    The file has one table a group: ``title``, ``about``, ``datasets``, the plan (``folds``, ``examples``,
    ``evaluations`` of each sampler, ``shared`` first points), and settings of a training that hold for all models.
    ``[group.models.NAME]`` has the settings of one, and ``[group.models.NAME.space]`` its axes by name, each a table:
    ``at``, and ``low`` and ``high`` or ``choices``; ``log``, ``whole``, ``as`` and ``of`` as :class:`Axis` has them.
    A group that is ``like`` another has all that it does not say itself from there.

    Args:
        path: of the file.
        build: whether to build those networks, which takes seconds; who only reads trials need not.

    Returns:
        The studies by name, ``<group>/<model>-<dataset>``, the models of one data set after those of another.

    Raises:
        CatalogueError: the file says something impossible, or cannot be read; the message names the entry.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    studies: dict[str, Study] = {}
    check = Checks()
    for group, table in tables.items():
        where = f"{path}: {group}"
        try:
            for key in _table("", table):
                checks.one_of("key", key, _GROUP_KEYS)
            if "like" in table:
                others = [name for name, other in tables.items() if name != group and "like" not in other]
                table = {**tables[checks.one_of("group in like", table["like"], others)], **table}
            for dataset in table.get("datasets", []) or [None]:
                for model, own in _table("models", table.get("models")).items():
                    where = f"{path}: {group}.models.{model}"
                    study = _study(group, table, model, _table("", own), dataset)
                    for point in study.corners() if build else ():
                        check(Run(study.name, group, model, study.at(point)))
                    studies[study.name] = study
                where = f"{path}: {group}"
        except (ValueError, TypeError, KeyError) as error:
            raise CatalogueError(f"{where}: {error}") from error
    return studies


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{name or 'it'} must be a table, not {value!r}")
    return value


def _study(group: str, table: Mapping[str, Any], model: str, own: Mapping[str, Any], dataset: Any) -> Study:
    for key in own:
        checks.one_of("key", key, _MODEL_KEYS)
    for name in (group, model):
        if not NAME.fullmatch(name):
            raise ValueError(f"a name has lower-case letters, digits, - and _, not {name!r}")
    checks.one_of("dataset", dataset, SETS)
    plan = {name: table.get(name) for name in _PLAN}
    checks.whole("folds", plan["folds"], 2)
    checks.whole("evaluations", plan["evaluations"], 2)
    checks.whole("shared", plan["shared"], 1, plan["evaluations"])
    if plan["examples"] is not None:
        checks.whole("examples", plan["examples"])
    settings = {name: value for name, value in {**table, **own}.items() if name in _OWN}
    settings = {**DEFAULTS, "seed": 0, **settings, "dataset": dataset, "validation": {"size": 0, "seed": 0}}
    axes = tuple(_axis(name, given) for name, given in _table("space", own.get("space")).items())
    by_name = {axis.name: axis for axis in axes}
    for axis in axes:
        checks.one_of(f"space.{axis.name}: the first part of at", axis.at.split(".")[0], _OWN)
        if axis.of and (axis.of == axis.name or axis.of not in by_name or by_name[axis.of].choices):
            raise ValueError(f"space.{axis.name}: of must name another axis with a range, not {axis.of!r}")
    for where in {axis.at for axis in axes}:
        kinds = sorted(axis.kind for axis in axes if axis.at == where)
        if kinds not in (["value"], ["each", "length"]):
            raise ValueError(f"space: {where!r} must have one axis, or one as length and one as each, not {kinds}")
    if len(axes) > qmc.Sobol.MAXDIM:
        raise ValueError(f"space: at most {qmc.Sobol.MAXDIM} axes are possible, not {len(axes)}")
    title = str(own.get("title", model))
    return Study(group, model, dataset, title, settings, axes, **plan, seed=settings["seed"])  # type: ignore[arg-type]


def _axis(name: str, given: Any) -> Axis:
    where = f"space.{name}"
    for key in _table(where, given):
        checks.one_of(f"{where}: key", key, _AXIS_KEYS)
    if not isinstance(given.get("at"), str) or not all(given["at"].split(".")):
        raise ValueError(f"{where}: at must be a place in the settings such as 'optimizer.lr', not {given.get('at')!r}")
    kind = checks.one_of(f"{where}: as", given.get("as", "value"), _KINDS)
    of = given.get("of", "")
    if "choices" in given:
        if rest := [key for key in ("low", "high", "log", "whole", "of") if key in given]:
            raise ValueError(f"{where}: choices are no range; leave {', '.join(rest)} out")
        choices = given["choices"]
        if not isinstance(choices, list) or len(choices) < 2 or len({repr(c) for c in choices}) < len(choices):
            raise ValueError(f"{where}: choices must be a list of two or more that differ, not {choices!r}")
        return Axis(name, given["at"], choices=tuple(choices), kind=kind)
    log, whole = (checks.flag(f"{where}: {key}", given.get(key, False)) for key in ("log", "whole"))
    low, high = (_end(f"{where}: {key}", given.get(key), whole) for key in ("low", "high"))
    if not low < high:
        raise ValueError(f"{where}: low must be below high, not {low!r} to {high!r}")
    if log and low <= 0:
        raise ValueError(f"{where}: a logarithmic axis must begin above 0, not at {low!r}")
    if kind == "length" and (not whole or low < 1):
        raise ValueError(f"{where}: a length must be whole, and at least 1")
    return Axis(name, given["at"], low, high, log, whole, kind=kind, of=of)


def _end(name: str, value: Any, whole: bool) -> float:
    return checks.whole(name, value, -(10**9)) if whole else checks.number(name, value)
