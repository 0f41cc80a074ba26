"""Searches: folds are of training images only, a space is what its file says, what stops a search loses nothing."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from sklearn.model_selection import StratifiedKFold

from bioplaus_lite.data import SETS, DataError, Dataset, load, stratified_indices
from bioplaus_lite.runs import folds, search
from bioplaus_lite.runs.__main__ import main
from bioplaus_lite.runs.catalogue import CatalogueError, Run
from bioplaus_lite.runs.folders import StoreError
from bioplaus_lite.runs.folds import cross_validate, folds_of
from bioplaus_lite.runs.records import DATA, broken_lines, locked, recorded, save_run
from bioplaus_lite.runs.search import (
    Journal,
    Task,
    fingerprints_of_studies,
    here,
    journal_path,
    load_trials,
    on_workers,
    propose,
    run_studies,
)
from bioplaus_lite.runs.spaces import STUDIES, Axis, Study, read_studies
from bioplaus_lite.runs.train import Measures, train

# --- folds -----------------------------------------------------------------------------------------------------------


@lru_cache
def mnist() -> Dataset:
    return load("mnist")


def numbered(counts: Sequence[int], images: int = 0) -> Dataset:
    """A data set whose images are their own numbers, shuffled, with test images that poison what touches them."""
    y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    x, poison = torch.arange(len(y)).float()[:, None], torch.full((7, 1), math.nan)
    return Dataset(
        "toy", x, y, poison, torch.zeros(7, dtype=torch.int64), tuple("abcdefghij"[: len(counts)]), (1, 1, 1)
    )


def test_folds_are_those_of_scikit_learn_and_hold_each_training_image_out_once():
    data = numbered([30, 31, 17, 9])
    parts = list(folds_of(data, 4, seed=5))
    by_hand = StratifiedKFold(4, shuffle=True, random_state=5).split(np.zeros(87), data.y_train.numpy())
    for part, (rest, held_out) in zip(parts, by_hand, strict=True):
        assert part.x_train[:, 0].tolist() == rest.tolist() and part.x_test[:, 0].tolist() == held_out.tolist()
        assert torch.equal(part.y_train, data.y_train[rest]) and torch.equal(part.y_test, data.y_train[held_out])
        assert (part.name, part.classes, part.image_shape) == (data.name, data.classes, data.image_shape)
        for count, held in zip([30, 31, 17, 9], part.y_test.bincount(), strict=True):
            assert abs(held - count / 4) < 1
    assert sorted(i for part in parts for i in part.x_test[:, 0].tolist()) == list(range(87))
    assert len({tuple(part.x_test[:, 0].tolist()) for seed in (5, 6) for part in folds_of(data, 4, seed=seed)}) == 8
    assert len(list(folds_of(data))) == 3


def test_examples_are_drawn_in_the_share_of_their_class_and_then_folded():
    data = numbered([40, 20, 20])
    parts = list(folds_of(data, 2, examples=40, seed=3))
    drawn = sorted(i for part in parts for i in part.x_test[:, 0].tolist())
    assert drawn == stratified_indices(data.y_train.numpy(), 40, 3).tolist()
    assert [part.y_test.bincount().tolist() for part in parts] == [[10, 5, 5]] * 2
    for part in parts:
        assert sorted([*part.x_train[:, 0].tolist(), *part.x_test[:, 0].tolist()]) == drawn
    whole, all_of_them = (next(folds_of(data, 2, examples=n)) for n in (None, 80))
    assert torch.equal(whole.x_test, all_of_them.x_test)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"folds": 1}, "folds must be a whole number of at least 2, not 1"),
        ({"folds": 10}, "folds must be at most 9, the images of the smallest class, not 10"),
        ({"examples": 6}, "folds must be at most 1, the images of the smallest class, not 3"),
        ({"examples": 0}, "examples must be a positive whole number, not 0"),
        ({"examples": 88}, "examples must be at most the 87 training images of toy, not 88"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295, not 4294967296"),
        ({"seed": True}, "seed must be a whole number from 0 to 4294967295, not True"),
    ],
)
def test_folds_that_cannot_be_are_refused(how: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        list(folds_of(numbered([30, 31, 17, 9]), **how))
    with pytest.raises(ValueError, match="folds must be at most 0, the images of the smallest class"):
        list(folds_of(replace(numbered([5, 5]), classes=("a", "b", "c")), 2))


PLAIN: dict[str, Any] = {
    "rule": "backprop", "dataset": "mnist", "subset": "shipped", "network": {"type": "MLP", "hidden": [12]},
    "optimizer": {"name": "Adam", "lr": 0.01}, "epochs": 2, "batch_size": 20, "seed": 4,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "by turns": {"rule": "dtp", "turns": True, "network": {"type": "MLP", "hidden": [12, 10], "activation": "tanh"}},
    "online, with spikes": {
        "rule": "segregated", "network": {"type": "RateNetwork", "hidden": [10]}, "optimizer": {"name": "SGD"},
        "epochs": 1,
    },
    "in float64, with a schedule": {
        "network": {"type": "MLP", "hidden": [12], "dtype": "float64"}, "schedule": {"name": "StepLR", "step_size": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_cross_validation_is_a_training_on_each_fold_made_by_hand(kind: str):
    p, data = PLAIN | KINDS[kind], mnist()
    before = copy.deepcopy(p)
    done = cross_validate(p, data, folds=2, examples=150, seed=7)
    assert p == before
    chosen = stratified_indices(data.y_train.numpy(), 150, 7)
    x, y = data.x_train[chosen], data.y_train[chosen]
    expected = []
    for i, (a, b) in enumerate(StratifiedKFold(2, shuffle=True, random_state=7).split(np.zeros(150), y.numpy())):
        fold = replace(data, x_train=x[a], y_train=y[a], x_test=x[b], y_test=y[b])
        outcome = train(p | {"seed": 4 + i, "validation": {"size": 0, "seed": 0}}, fold)
        expected.append(1 - outcome.test_error)
        if kind.startswith("online"):
            assert expected[-1] == pytest.approx(outcome.curves["rule"]["spiking_accuracy"][-1], abs=1e-6)
            spikes_matter = expected[-1] != outcome.curves["test"]["accuracy"][-1]
    assert done.accuracies == tuple(expected) and not done.diverged and done.seconds > 0
    assert done.accuracy == sum(expected) / 2
    assert not kind.startswith("online") or spikes_matter


@pytest.mark.parametrize("kind", ["plain", "by turns"])
def test_a_fold_is_tested_before_and_after_its_training_and_nothing_else_is_measured(kind: str, monkeypatch):
    outcomes = []
    monkeypatch.setattr(Measures, "__call__", lambda *given: pytest.fail("measured"))
    monkeypatch.setattr(folds, "train", lambda *given, **how: outcomes.append(train(*given, **how)) or outcomes[-1])
    cross_validate(PLAIN | KINDS[kind] | {"every": 10, "marks": [20]}, mnist(), folds=2, examples=100)
    passes = 2 if kind == "by turns" else 1
    assert [outcome.curves["test"]["examples"] for outcome in outcomes] == [[0, passes * 2 * 50]] * 2
    assert [outcome.curves["test"]["epoch"] for outcome in outcomes] == [[0, 2]] * 2


def test_the_official_test_images_and_what_settings_hold_out_do_not_count(monkeypatch):
    data, how = mnist(), {"folds": 2, "examples": 100, "seed": 1}
    expected = cross_validate(PLAIN, data, **how).accuracies
    poison = replace(data, x_test=torch.full_like(data.x_test, math.nan), y_test=torch.zeros_like(data.y_test))
    assert cross_validate(PLAIN, poison, **how).accuracies == expected
    other = PLAIN | {
        "validation": {"size": 5000, "seed": 0},
        "examples": 7,
        "every": 10,
        "marks": [3],
        "purpose": "search",
    }
    assert cross_validate(Run("r", "g", "n", other), data, **how).accuracies == expected
    folds.stored_folds.cache_clear()
    monkeypatch.setattr(folds, "load", lambda *which: poison if which == ("mnist", "shipped") else pytest.fail(which))
    assert cross_validate(PLAIN, **how).accuracies == expected
    monkeypatch.setattr(folds, "load", lambda *which: pytest.fail("unpacked again"))
    assert cross_validate(PLAIN, **how).accuracies == expected
    folds.stored_folds.cache_clear()


def test_a_training_that_diverges_ends_its_cross_validation(monkeypatch):
    lost = cross_validate(PLAIN | {"optimizer": {"name": "SGD", "lr": 1e38}}, mnist(), folds=2, examples=100)
    assert (lost.accuracies, lost.diverged) == ((), True)
    seeds = []

    def second_diverges(ready, **how):
        seeds.append(ready.settings["seed"])
        if len(seeds) == 2:
            raise FloatingPointError("the loss is nan")
        return SimpleNamespace(test_error=0.25)

    monkeypatch.setattr(folds, "train", second_diverges)
    lost = cross_validate(PLAIN, mnist(), folds=3, examples=100)
    assert (lost.accuracies, lost.diverged, seeds) == ((0.75,), True, [4, 5])
    with pytest.raises(ValueError, match="fold 2 diverged: there is no accuracy"):
        lost.accuracy  # noqa: B018


# --- axes ------------------------------------------------------------------------------------------------------------

GRID = (np.arange(12_000) + 0.5) / 12_000


def test_choices_and_whole_numbers_have_equal_shares_of_a_linear_axis():
    for axis, values in (
        (Axis("a", "a", choices=("x", True, 0.5)), ["x", True, 0.5]),
        (Axis("a", "a", low=-1, high=4, whole=True), [-1, 0, 1, 2, 3, 4]),
    ):
        shares = Counter(map(axis.value, GRID))
        assert list(shares) == values and all(abs(n - 12_000 / len(values)) <= 1 for n in shares.values())


def test_on_a_logarithmic_axis_equal_ratios_have_equal_shares():
    axis = Axis("a", "a", low=1e-4, high=1e2, log=True)
    assert np.allclose(np.log([axis.value(u) for u in GRID]), np.log(1e-4) + GRID * np.log(1e6))
    shares = Counter(map(Axis("a", "a", low=1, high=6, log=True, whole=True).value, GRID))
    assert list(shares) == [1, 2, 3, 4, 5, 6]
    for n, count in shares.items():
        assert count / 12_000 == pytest.approx(math.log((n + 0.5) / (n - 0.5)) / math.log(6.5 / 0.5), abs=2e-4)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_the_ends_of_an_axis_are_in_it_and_nothing_beyond(log: bool, whole: bool):
    rng, last = np.random.default_rng(0), math.nextafter(1, 0)
    for _ in range(300):
        low = int(rng.integers(1, 50)) if whole else float(rng.uniform(0.1, 1))
        high = low + (int(rng.integers(1, 9)) if whole else float(rng.uniform(0.1, 9)))
        axis = Axis("a", "a", low=low, high=high, log=log, whole=whole)
        assert axis.value(0.0) == low and axis.value(last) == pytest.approx(high)
        values = [axis.value(u) for u in (0.0, *sorted(rng.random(20).tolist()), last)]
        assert values == sorted(values) and low <= values[0] and values[-1] <= high
        assert {type(v) for v in values} == {int if whole else float}


# --- studies ---------------------------------------------------------------------------------------------------------


def study(*axes: Axis, dataset: str = "mnist", name: str = "toy", **numbers: int) -> Study:
    settings = {"rule": "backprop", "dataset": dataset, "network": {"type": "MLP"}, "optimizer": {"name": "SGD"}}
    settings |= {"subset": "shipped"}
    plan = {"folds": 2, "examples": 100, "evaluations": 8, "shared": 3, "seed": 0} | numbers
    return Study("group", name, dataset, "Toy", settings, axes or (Axis("x", "optimizer.lr", 0.0, 1.0),), **plan)


def test_sobol_points_are_stratified_in_every_coordinate_and_begin_alike_however_many():
    axes = [Axis(f"x{i}", f"options.x{i}", 0.0, 1.0) for i in range(19)]
    points = study(*axes, evaluations=50).sobol
    assert len(points) == 50
    for axis in axes:
        for n in (2, 4, 8, 16, 32):
            assert sorted(int(n * point[axis.name]) for point in points[:n]) == list(range(n))
    assert study(*axes, evaluations=50).sobol == points and study(*axes, evaluations=16).sobol == points[:16]
    assert study(*axes, evaluations=16, seed=1).sobol[0] != points[0]


def test_points_go_to_their_places_and_the_settings_of_the_study_stay():
    one = study(
        Axis("units", "network.hidden", 3, 9, whole=True, kind="each"),
        Axis("layers", "network.hidden", 1, 4, whole=True, kind="length"),
        Axis("phase", "network.constants.phase", 10.0, 50.0),
        Axis("settle", "network.constants.settle", 0.5, 0.8, of="phase"),
        Axis("inverses", "optimizer.feedback.lr", 0.1, 0.2),
        Axis("turns", "turns", choices=(False, True)),
    )
    before = copy.deepcopy(one.settings)
    point = {"units": 5, "layers": 3, "phase": 20.0, "settle": 0.6, "inverses": 0.1, "turns": True}
    settings = one.at(point)
    assert settings == {
        **before, "network": {"type": "MLP", "hidden": [5, 5, 5], "constants": {"phase": 20.0, "settle": 12.0}},
        "optimizer": {"name": "SGD", "feedback": {"lr": 0.1}}, "turns": True,
    }  # fmt: skip
    assert one.settings == before and one.at(point) == settings
    low, high, *rest = one.corners()
    assert low == {"units": 3, "layers": 1, "phase": 10.0, "settle": 0.5, "inverses": 0.1, "turns": False}
    assert (high["units"], high["layers"], high["turns"], high["phase"]) == (9, 4, True, pytest.approx(50))
    assert rest == [low | {"turns": True}]


def test_a_plan_says_everything_that_decides_what_the_trials_are_and_is_enough_to_make_them_again():
    axes = (
        Axis("lr", "optimizer.lr", 0.1, 1.0, log=True), Axis("n", "batch_size", 2, 9, whole=True),
        Axis("part", "options.part", 0.1, 0.2, of="lr"), Axis("act", "network.activation", choices=("tanh", "relu")),
    )  # fmt: skip
    one = study(*axes, seed=3)
    plan = json.loads(json.dumps(one.plan))
    assert plan == one.plan
    again = Study.of_plan(one.name, plan)
    assert again.plan == plan and again.sobol == one.sobol and again.space == axes
    assert (again.group, again.model, again.dataset, again.name) == ("group", "toy", "mnist", one.name)
    changes: list[Study] = [replace(one, **{n: 5}) for n in ("folds", "examples", "evaluations", "shared", "seed")]
    changes.append(replace(one, settings={**one.settings, "epochs": 7}))
    for i, change in (
        (0, {"name": "rate"}), (0, {"at": "optimizer.eps"}), (0, {"low": 0.2}), (0, {"high": 2.0}), (0, {"log": False}),
        (1, {"whole": False}), (2, {"of": "n"}), (1, {"kind": "length"}), (3, {"choices": ("relu", "tanh")}),
    ):  # fmt: skip
        changes.append(replace(one, space=(*axes[:i], replace(axes[i], **change), *axes[i + 1 :])))
    assert len({json.dumps(other.plan) for other in (one, *changes)}) == 1 + len(changes)
    assert replace(one, title="Another").plan == plan


# --- the file --------------------------------------------------------------------------------------------------------

FILE = """
[tiny]
title = "Tiny"
about = "Small."
datasets = ["mnist"]
subset = "shipped"
folds = 2
examples = 100
evaluations = 6
shared = 2
epochs = 1
optimizer = {name = "SGD"}

[tiny.models.mlp]
title = "An MLP"
rule = "backprop"
network = {type = "MLP"}
batch_size = 20
[tiny.models.mlp.space]
rate = {at = "optimizer.lr", low = 0.01, high = 1.0, log = true}
layers = {at = "network.hidden", as = "length", low = 1, high = 2, whole = true}
units = {at = "network.hidden", as = "each", low = 3, high = 9, whole = true}
act = {at = "network.activation", choices = ["tanh", "relu"]}
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, Study]]:
    """A function that reads the tiny file with something replaced."""

    def read(*changes: tuple[str, str]) -> dict[str, Study]:
        text = FILE
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "s.toml").write_text(text)
        return read_studies(tmp_path / "s.toml")

    return read


def test_a_file_makes_a_study_of_each_model_and_data_set(read):
    second = '\n[tiny.models.second]\nrule = "fa"\nnetwork = {type = "MLP", hidden = [5]}\nseed = 2\n'
    second += '[tiny.models.second.space]\nrate = {at = "optimizer.lr", low = 1, high = 2}\n'
    found = read(('["mnist"]', '["mnist", "cifar10"]'), ('"relu"]}\n', '"relu"]}\n' + second))
    assert list(found) == ["tiny/mlp-mnist", "tiny/second-mnist", "tiny/mlp-cifar10", "tiny/second-cifar10"]
    one, other = found["tiny/mlp-cifar10"], found["tiny/second-mnist"]
    assert (one.title, one.folds, one.examples, one.evaluations, one.shared, one.total) == ("An MLP", 2, 100, 6, 2, 10)
    assert one.settings["dataset"] == "cifar10" and one.settings["batch_size"] == 20 and one.settings["epochs"] == 1
    assert one.settings["validation"]["size"] == 0
    assert (other.title, other.seed, other.settings["seed"], other.settings["batch_size"]) == ("second", 2, 2, 100)
    assert other.space == (Axis("rate", "optimizer.lr", 1.0, 2.0),)
    assert one.space[3] == Axis("act", "network.activation", choices=("tanh", "relu"))
    assert one.space[2] == Axis("units", "network.hidden", 3, 9, whole=True, kind="each")


def test_a_group_is_like_another_but_for_what_it_says_itself(read):
    longer = '\n[longer]\nlike = "tiny"\nepochs = 4\nevaluations = 4\nshared = 4\n'
    found = read(('"relu"]}\n', '"relu"]}\n' + longer))
    one, other = found.values()
    assert list(found) == ["tiny/mlp-mnist", "longer/mlp-mnist"]
    assert other.settings == {**one.settings, "epochs": 4} and other.space == one.space and other.folds == 2
    assert other.sobol == one.sobol[:4]
    for like, complaint in (
        ('"longer"', "longer: unknown group in like 'longer'; choose one of tiny"),
        ('"big"', "longer: unknown group in like 'big'; choose one of tiny"),
        ("3", "longer: unknown group in like 3; choose one of tiny"),
    ):
        with pytest.raises(CatalogueError, match=complaint):
            read(('"relu"]}\n', '"relu"]}\n' + longer.replace('"tiny"', like)))


def test_who_only_reads_trials_builds_no_network(read, tmp_path: Path, monkeypatch):
    found = read()
    monkeypatch.setattr("bioplaus_lite.runs.spaces.Checks", lambda: lambda run: pytest.fail("built"))
    again = read_studies(tmp_path / "s.toml", build=False)
    assert [one.plan for one in again.values()] == [one.plan for one in found.values()]


def test_the_file_of_the_book_gives_every_model_the_same_budget():
    found = read_studies()
    assert STUDIES.name == "searches.toml"
    budgets, models = {}, {}
    for one in found.values():
        budgets.setdefault(one.group, set()).add((one.folds, one.examples, one.evaluations, one.shared, one.seed))
        models.setdefault((one.group, one.dataset), []).append(one.model)
        assert Study.of_plan(one.name, json.loads(json.dumps(one.plan))).sobol == one.sobol
    assert budgets["robustness"] == {(3, 5000, 50, 16, 0)} and all(len(budget) == 1 for budget in budgets.values())
    assert len({tuple(names) for names in models.values()}) == 1
    assert {dataset for group, dataset in models if group == "robustness"} == set(SETS)


def test_what_the_book_has_of_searches_is_of_their_plan_and_of_committed_code():
    studies = read_studies(build=False)
    for path in sorted((DATA / "searches").glob("*/*.jsonl")):
        one = studies[f"{path.parent.name}/{path.stem}"]
        assert len(load_trials([one])) <= one.total
        assert not [line["commit"] for line in lines(one, DATA) if line["commit"].endswith(("+", "unknown"))], path.name


RATE = "low = 0.01, high = 1.0, log = true"
ACT = '"network.activation", choices = ["tanh", "relu"]'


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        # the group
        ("[tiny]", "[tiny", r"s\.toml: .*at line"),
        ('title = "Tiny"', "title = 3", "tiny: title must be words, not 3"),
        ('about = "Small."', "about = []", r"tiny: about must be words, not \[\]"),
        ("folds = 2", "fold = 2", "tiny: unknown key 'fold'; choose one of title, about, models"),
        ('["mnist"]', '"mnist"', "tiny: datasets must be a list of different names, not 'mnist'"),
        ('["mnist"]', "[]", r"tiny: datasets must be a list of different names, not \[\]"),
        ('["mnist"]', '["mnist", "mnist"]', "datasets must be a list of different names"),
        ('["mnist"]', "3", "datasets must be a list of different names, not 3"),
        ('["mnist"]', '["mnits"]', "mlp: unknown dataset 'mnits'; choose one of mnist, fashion, cifar10"),
        ('["mnist"]', "[3]", "unknown dataset 3"),
        ('datasets = ["mnist"]\n', "", "datasets must be a list of different names, not None"),
        ("folds = 2", "folds = 1", "mlp: folds must be a whole number from 2 to 1000, not 1"),
        ("folds = 2\n", "", "folds must be a whole number from 2 to 1000, not None"),
        ("examples = 100", "examples = 19", "examples must be a whole number from 20 to 10000, not 19"),
        ("examples = 100", "examples = 10001", "examples must be a whole number from 20 to 10000, not 10001"),
        ("evaluations = 6", "evaluations = 1", "evaluations must be a whole number from 2 to 1000, not 1"),
        ("evaluations = 6", "evaluations = 1001", "evaluations must be a whole number from 2 to 1000, not 1001"),
        ("shared = 2", "shared = 0", "shared must be a whole number from 1 to 6, not 0"),
        ("shared = 2", "shared = 7", "shared must be a whole number from 1 to 6, not 7"),
        ("shared = 2", "shared = true", "shared must be a whole number from 1 to 6, not True"),
        ("epochs = 1", "epochs = 0", "mlp: epochs must be a whole number ≥ 1, not 0"),
        ("epochs = 1\n", "", "mlp: epochs must be given, here or for the whole group"),
        ("epochs = 1", "epochs = 1\nseed = 65536", "seed must be a whole number from 0 to 65535, not 65536"),
        ("epochs = 1", "epochs = 1\nevery = 9", "tiny: unknown key 'every'"),
        ("epochs = 1", "epochs = 1\nmodels = []", r"s\.toml: "),
        ('optimizer = {name = "SGD"}', 'optimizer = "SGD"', "'optimizer.lr' is no place .* 'SGD' and no tab"),
        ('optimizer = {name = "SGD"}', 'optimizer = {name = "SDG"}', "unknown optimizer 'SDG'"),
        ('subset = "shipped"', 'subset = "most"', "unknown subset 'most'; choose one of shipped, full"),
        # the model
        ("[tiny.models.mlp]", "[[tiny.models.mlp]]", "s.toml"),
        ('title = "An MLP"', "title = true", "mlp: title must be words, not True"),
        ("batch_size = 20", "batchsize = 20", "mlp: unknown key 'batchsize'; choose one of title, space, rule"),
        ("batch_size = 20", "folds = 20", "mlp: unknown key 'folds'"),
        ('rule = "backprop"', 'rule = "backporp"', "mlp: unknown rule 'backporp'"),
        ('rule = "backprop"\n', "", "mlp: rule must be given"),
        ('network = {type = "MLP"}\n', "", "mlp: network must be given"),
        ('network = {type = "MLP"}', 'network = ["MLP"]', r"network is \['MLP'\] and no table"),
        # the space
        ("rate = {", "rate = 3\nother = {", "mlp: space.rate must be a table, not 3"),
        ("rate = {", "rate = {}\nother = {", r"space.rate must be a table, not \{\}"),
        (RATE, RATE + ", step = 1", "space.rate: key 'step'; choose one of at, low, high"),
        ('"optimizer.lr"', "3", "space.rate: at must be a place in the settings such as 'optimizer.lr', not 3"),
        ('"optimizer.lr"', '"optimizer..lr"', r"at must be a place .*, not 'optimizer\.\.lr'"),
        ('"optimizer.lr"', '"optimizer.rate"', "optimizer SGD: unknown option 'rate'; allowed are lr, momentum"),
        ('"optimizer.lr"', '"optimiser.lr"', "space.rate: the first part of at 'optimiser'; choose one of rule"),
        ('"optimizer.lr"', '"validation.size"', "the first part of at 'validation'"),
        ('"optimizer.lr"', '"options.lr"', "rule backprop: unknown option 'lr'"),
        ('"optimizer.lr"', '"optimizer.name.lr"', "'optimizer.name.lr' is no place .* name is 'SGD' and no table"),
        ('"optimizer.lr"', '"batch_size.lr"', "where batch_size is 20 and no table"),
        ('"optimizer.lr"', '"network"', "'network.hidden' is a part of 'network'; only one of them can be an axis"),
        (RATE, "low = 1.0, high = 0.01", "space.rate: low must be below high, not 1.0 to 0.01"),
        (RATE, "low = 1.0, high = 1.0", "space.rate: low must be below high, not 1.0 to 1.0"),
        (RATE, "low = 0.0, high = 1.0, log = true", "a logarithmic axis must begin above 0, not at 0.0"),
        (RATE, "low = -1, high = 1.0, log = true", r"a logarithmic axis must begin above 0, not at -1\.0"),
        (RATE, "low = nan, high = 1.0", "space.rate: low must be a finite number, not nan"),
        (RATE, "low = 0.1, high = inf", "space.rate: high must be a finite number, not inf"),
        (RATE, "low = true, high = 2", "space.rate: low must be a finite number, not True"),
        (RATE, 'low = "a", high = 2', "space.rate: low must be a finite number, not 'a'"),
        (RATE, "low = 0.1", "space.rate: high must be a finite number, not None"),
        (RATE, "low = 0.1, high = 1.0, log = 1", "space.rate: log must be True or False, not 1"),
        (RATE, "low = 0.1, high = 1.0, whole = true", "space.rate: low must be a whole number .*, not 0.1"),
        (RATE, "low = -1.0, high = 1.0", "optimizer SGD: lr must be at least 0 and finite, not -1.0"),
        (RATE, RATE + ', of = "layer"', "space.rate: of must name another axis with a range, not 'layer'"),
        (RATE, RATE + ', of = "rate"', "space.rate: of must name another axis with a range, not 'rate'"),
        (RATE, RATE + ', of = "act"', "space.rate: of must name another axis with a range, not 'act'"),
        (RATE, RATE + ", of = 3", "space.rate: of must be words, not 3"),
        (RATE, RATE + ", of = 'b'}\nb = {at = 'optimizer.momentum', low = 0, high = 0.5, of = 'units'",
         "space.rate: of must name an axis that multiplies no other, not 'b'"),
        (RATE, RATE + ', as = "list"', "space.rate: as 'list'; choose one of value, length, each"),
        (RATE, RATE + ', as = "each"', r"'optimizer.lr' must have one axis, or one as length and .*not \['each"),
        ("low = 1, high = 2, whole = true", "low = 1, high = 2", "space.layers: a length must be whole, and at leas"),
        ("low = 1, high = 2, whole", "low = 0, high = 2, whole", "space.layers: a length must be whole, and at leas"),
        ("low = 3, high = 9", "low = 0, high = 9", "every entry of hidden must be a positive whole number, not 0"),
        (', as = "length"', "", r"'network.hidden' must have one axis.* not \['each', 'value'\]"),
        (ACT, ACT + ", log = true", "space.act: choices are no range; leave log out"),
        (ACT, '"network.activation", choices = ["tanh"]', r"choices must be a list of two or more, not \['tanh'\]"),
        (ACT, '"network.activation", choices = "tanh"', "choices must be a list of two or more, not 'tanh'"),
        (ACT, '"network.activation", choices = ["tanh", "tanh"]', "choices must differ, and 'tanh' is 'tanh'"),
        (ACT, '"batch_size", choices = [1, 2, true]', "choices must differ, and 1 is True"),
        (ACT, '"batch_size", choices = [1, 2, 1.0]', "choices must differ, and 1 is 1.0"),
        (ACT, '"network.held", choices = [[1], [2]]', r"a choice must be a finite number, a word, .* not \[1\]"),
        (ACT, '"optimizer.eps", choices = [1.0, nan]', "a choice must be a finite number, a word, .* not nan"),
        (ACT, '"optimizer.eps", choices = [1.0, -inf]', "a choice must be a finite number, a word, .* not -inf"),
        (ACT, '"network.activation", choices = ["tanh", "rleu"]', "activation 'rleu'"),
        (ACT, '"turns", choices = [false, true]', "turns: Backprop.* has no phases that take turns"),
        (ACT, '"optimizer.lr", choices = [1, 2]', r"'optimizer.lr' must have one axis.* not \['value', 'value'\]"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_named_with_its_value_and_what_is_allowed(read, old: str, new: str, complaint: str):
    with pytest.raises(CatalogueError, match=complaint):
        read((old, new))


@pytest.mark.parametrize("name", ["my group", "Tiny", "a--b", "-a", "a/b", "ä"])
def test_names_are_those_that_a_record_may_have(read, name: str, tmp_path: Path):
    (tmp_path / "s.toml").write_text(FILE.replace("tiny", f'"{name}"'))
    with pytest.raises(CatalogueError, match=f"a name has lower-case letters, digits, - and _, not '{name}'"):
        read_studies(tmp_path / "s.toml")
    (tmp_path / "s.toml").write_text(FILE.replace("models.mlp", f'models."{name}"'))
    with pytest.raises(CatalogueError, match=f"tiny.models.{name}: a name has .* not '{name}'"):
        read_studies(tmp_path / "s.toml")


def test_a_file_that_is_none_is_named(tmp_path: Path):
    for text, complaint in (
        (b"folds = 3", "s.toml: folds: it must be a table, not 3"),
        (b"[[tiny]]\nfolds = 3", "s.toml: tiny: it must be a table, not "),
        (b"[tiny]\ndatasets = ['mnist']", "s.toml: tiny: models must be a table, not None"),
        (b"[tiny]\ndatasets = ['mnist']\nmodels = ['mlp']", r"s.toml: tiny: models must be a table, not \['mlp'\]"),
        (b"[tiny]\ndatasets = ['mnist']\n[tiny.models]\nmlp = 1", "tiny.models.mlp: it must be a table, not 1"),
        (b"\xff", "s.toml: .*decode"),
    ):
        (tmp_path / "s.toml").write_bytes(text)
        with pytest.raises(CatalogueError, match=complaint):
            read_studies(tmp_path / "s.toml")
    for path, why in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(CatalogueError, match=f"{path} cannot be read: {why}"):
            read_studies(path)


# --- the Gaussian process --------------------------------------------------------------------------------------------


def told(one: Study, accuracies: Sequence[float]) -> list[dict[str, Any]]:
    return [{"point": p, "state": "done", "accuracies": [a]} for p, a in zip(one.sobol, accuracies, strict=False)]


def test_a_proposal_is_a_function_of_what_it_is_given():
    one = study(
        Axis("lr", "optimizer.lr", 0.01, 1.0, log=True), Axis("n", "batch_size", 2, 9, whole=True),
        Axis("turns", "turns", choices=(False, True)),
    )  # fmt: skip
    trials = told(one, [0.2, 0.5, 0.4, 0.1, 0.3, 0.2])
    state, torch_state = random.getstate(), torch.get_rng_state()
    point = propose(one, trials, [], 4)
    assert random.getstate() == state and torch.equal(torch.get_rng_state(), torch_state)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        np.random.random()  # noqa: NPY002  # whatever the global generators say
        assert propose(one, trials, [], 4) == point
    assert (
        0.01 <= point["lr"] <= 1
        and type(point["n"]) is int
        and 2 <= point["n"] <= 9
        and point["turns"] in (False, True)
    )
    assert json.loads(json.dumps(point)) == point
    # What went wrong counts as a guess, and where everything did, there is a proposal too.
    lost = [trial | {"state": ("failed", "diverged")[i % 2], "accuracies": [0.9]} for i, trial in enumerate(trials)]
    guesses = [trial | {"accuracies": [0.1]} for trial in trials]
    assert propose(one, lost, [], 4) == propose(one, guesses, [], 4)


def test_a_proposal_depends_on_each_thing_that_it_is_given():
    one = study()
    trials = [t | {"accuracies": [1 - (t["point"]["x"] - 1 / 3) ** 2]} for t in told(one, [0.0] * 5)]
    point = propose(one, trials, [], 4)
    assert propose(one, list(map(dict, trials)), [], 4) == point
    for other in (
        propose(one, [*trials[:4], trials[4] | {"accuracies": [1.0]}], [], 4), propose(one, trials[:4], [], 4),
        propose(one, trials, [point], 4), propose(replace(one, seed=1), trials, [], 4), propose(one, trials, [], 5),
    ):  # fmt: skip
        assert other != point
    assert abs(propose(one, trials, [point], 4)["x"] - point["x"]) > 0.001  # it goes elsewhere than what is under way


# --- a journal -------------------------------------------------------------------------------------------------------

HEADER = {"study": "group/toy-mnist", "plan": {}, "fingerprint": {}}


def entry(name: str = "sobol-000", **more: Any) -> dict[str, Any]:
    return {
        "id": name, "point": {"x": 0.5}, "state": "done", "accuracies": [0.5], "asked": 0, "known": 0, "told": 0
    } | more  # fmt: skip


def test_a_journal_that_was_cut_anywhere_goes_on_after_its_last_whole_line(tmp_path: Path):
    path = tmp_path / "s" / "j.jsonl"
    journal = Journal(path)
    journal.start(HEADER)
    journal.add(entry("sobol-000"))
    whole = path.read_bytes()
    journal.add(entry("sobol-001", state="failed", why="zu groß – ≥ 3"))
    longer = path.read_bytes()
    assert longer.count("ß–≥".encode()[:2]) == 1  # letters of several bytes, to be cut in two
    for length in range(len(whole), len(longer)):
        path.write_bytes(longer[:length])
        cut = Journal(path)
        assert cut.header == HEADER and list(cut.trials) == ["sobol-000"]
        cut.add(entry("sobol-002"))
        assert path.read_bytes() == whole + json.dumps(entry("sobol-002")).encode() + b"\n"
    path.write_bytes(longer[:9])
    cut = Journal(path)
    assert cut.header is None and not cut.trials
    cut.start(HEADER)
    assert Journal(path).header == HEADER


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"id": "sobol-0', "line 3 is not a trial: JSONDecodeError"),
        ("", "line 3 is not a trial: JSONDecodeError"),
        ("\udcff", "line 3 is not a trial: UnicodeDecodeError"),
        ("3", "line 3 is not a trial: TypeError"),
        ('{"id": "sobol-001"}', "line 3 is not a trial: KeyError.'point'"),
        (json.dumps(entry("sobol-000")), "line 3 is not a trial: ValueError.*its id stands on an earlier line"),
        (json.dumps(entry("sobol-001", state="lost")), "line 3 is not a trial: ValueError.*or its state is none"),
        (json.dumps(entry("sobol-001", told="0")), "line 3 is not a trial: TypeError.*its 'told' is no int"),
    ],
)
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_written(tmp_path: Path, line: str, why: str):
    lines = [json.dumps(HEADER), json.dumps(entry()), line, json.dumps(entry("sobol-002")), ""]
    path = tmp_path / "j.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=rf"j\.jsonl, {why}.*; mend it or remove it"):
        Journal(path)
    path.write_text(json.dumps(entry()) + "\n")
    with pytest.raises(StoreError, match=r"line 1 is not the head of a journal: KeyError.'study'"):
        Journal(path)


def test_a_journal_that_something_else_changed_is_not_written_to(tmp_path: Path):
    path = tmp_path / "j.jsonl"
    for change in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_bytes(path.read_bytes() + b"{}\n")):
        path.unlink(missing_ok=True)
        journal = Journal(path)
        journal.start(HEADER)
        change()
        with pytest.raises(StoreError, match="is not as it was read; something else wrote to it, or removed it"):
            journal.add(entry())
        assert not journal.trials
        path.touch()
    with pytest.raises(StoreError, match=r"cannot be read: Is a directory"):
        Journal(tmp_path)


# --- a search --------------------------------------------------------------------------------------------------------


def hill(settings, folds, examples, seed, code) -> dict[str, Any]:
    """In place of a trial: a hill at a third."""
    return {"state": "done", "accuracies": [1 - (settings["optimizer"]["lr"] - 1 / 3) ** 2], "seconds": 1.0}


@pytest.fixture
def toy(monkeypatch) -> Callable[..., None]:
    """Trials and fingerprints that take no time, and a function to change them."""

    def change(trial: Callable[..., dict] = hill, loss: float = 1.0) -> None:
        made = {"losses": [loss], "gradients": [], "changes": {}, "measures": {}, "single": None, "diverged": None}
        monkeypatch.setattr(search, "_trial", trial)
        monkeypatch.setattr(search, "fingerprint", lambda parameters: copy.deepcopy(made))

    change()
    return change


def nth(n: int, error: BaseException, trial: Callable[..., dict] = hill) -> Callable[..., dict]:
    """Trials of which the nth raises."""
    count = iter(range(n))

    def one(*arguments):
        if next(count, None) is None:
            raise error
        return trial(*arguments)

    return one


def quiet(line: str) -> None:
    pass


def go(one: Study | Sequence[Study], data: Path, compute=here, say=quiet) -> int:
    return run_studies([one] if isinstance(one, Study) else one, compute, data, say=say)


def lines(one: Study, data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_path(one, data).read_text("utf-8").splitlines()]


def test_a_gaussian_process_finds_the_top_of_a_hill_that_sobol_points_miss(toy, tmp_path: Path):
    one, said = study(evaluations=10, shared=4), []
    assert go(one, tmp_path, say=said.append) == one.total == 16
    head, *trials = lines(one, tmp_path)
    assert (head["study"], head["plan"]) == ("group/toy-mnist", one.plan) and "commit" in head
    names = [f"gp-{i:03d}" for i in range(4, 10)] + [f"sobol-{i:03d}" for i in range(10)]
    assert [trial["id"] for trial in trials] == names
    assert [trial["point"] for trial in trials[6:]] == one.sobol
    table = load_trials([one], tmp_path).set_index("id")
    assert list(table.index[table.shared]) == names[6:10] and set(table.sampler) == {"gp", "sobol"}
    assert list(table.number) == [*range(4, 10), *range(10)]
    # Both have as many: the shared ones are the first of either.
    assert table[(table.sampler == "gp") | table.shared].shape == table[table.sampler == "sobol"].shape
    miss = (table.point.map(lambda point: point["x"]) - 1 / 3).abs()
    assert miss[table.sampler == "gp"].min() < 0.002 < miss[table.sampler == "sobol"].min()
    assert table.accuracy.tolist() == [trial["accuracies"][0] for trial in trials]
    assert len(said) == 1 and said[0].startswith("group/toy-mnist: best of 10 Sobol points ")
    assert go(one, tmp_path) == 0


def test_one_worker_repeats_to_the_last_byte_however_often_it_is_stopped(toy, tmp_path: Path):
    axes = Axis("x", "optimizer.lr", 0.0, 1.0), Axis("b", "turns", choices=(False, True))
    one = study(*axes, evaluations=7, shared=3)
    assert go(one, tmp_path / "a") == 11
    for n in range(11):
        toy(nth(1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            go(one, tmp_path / "b")
        assert len(lines(one, tmp_path / "b")) == n + 2
        with journal_path(one, tmp_path / "b").open("ab") as file:
            file.write(b'{"id": "gp-0')  # and it was killed while it wrote
        if n == 9:
            toy()
            assert go(one, tmp_path / "b") == 1
            break
    a, b = (journal_path(one, tmp_path / out).read_bytes() for out in "ab")
    assert a == b
    trials = lines(one, tmp_path / "a")[1:]
    assert sorted(trial["asked"] for trial in trials) == sorted(trial["told"] for trial in trials) == list(range(11))
    assert [trial["known"] for trial in trials] == [int(trial["id"][-3:]) for trial in trials]


class Slots:
    """Several workers that end in an order of their own."""

    def __init__(self, slots: int, seed: int = 0) -> None:
        self.slots, self.rng, self.most = slots, np.random.default_rng(seed), 0

    def __call__(self, ask: Callable[[], Task | None]) -> Iterator[tuple[Task, dict[str, Any]]]:
        under_way: list[Task] = []
        while True:
            while len(under_way) < self.slots and (task := ask()):
                under_way.append(task)
            if not under_way:
                return
            self.most = max(self.most, len(under_way))
            task = under_way.pop(self.rng.integers(len(under_way)))
            yield task, search._trial(*search._arguments(task))


def replayed(one: Study, trials: Sequence[dict[str, Any]]) -> int:
    """How many points a Gaussian process was asked for; each is what the journal says that it was told gives."""
    by_name = {trial["id"]: trial for trial in trials}
    shared = [by_name[f"sobol-{i:03d}"] for i in range(one.shared)]
    later = sorted((t for t in trials if t["id"].startswith("gp")), key=lambda t: t["told"])
    for trial in later:
        known = later[: trial["known"] - one.shared]
        waiting = [t for t in later if t["asked"] < trial["asked"] and t not in known]
        points = [t["point"] for t in sorted(waiting, key=lambda t: t["asked"])]
        assert propose(one, [*shared, *known], points, trial["asked"]) == trial["point"]
    return len(later)


def test_with_several_workers_the_journal_says_how_each_point_came_about(toy, tmp_path: Path):
    one, slots = study(evaluations=8, shared=3), Slots(3)
    assert go(one, tmp_path, slots) == 13 and slots.most == 3
    trials = lines(one, tmp_path)[1:]
    assert replayed(one, trials) == 5
    # No worker waits: points are asked for while others are under way.
    assert any(t["known"] < int(t["id"][-3:]) for t in trials if t["id"].startswith("gp"))
    assert len({json.dumps(trial["point"]) for trial in trials}) == 13
    for trial in trials:
        if trial["id"].startswith("sobol"):
            before = [t for t in trials if t["id"].startswith("sobol") and t["told"] < trial["told"]]
            assert trial["known"] <= len(before)


def test_a_gaussian_process_is_told_in_the_order_in_which_trials_ended(toy, tmp_path: Path, monkeypatch):
    one, asked = study(evaluations=9, shared=2), []
    monkeypatch.setattr(search, "propose", lambda one, told, *rest: asked.append([t["id"] for t in told]) or {"x": 0.5})
    go(one, tmp_path, Slots(3, seed=1))
    ended = sorted((t for t in lines(one, tmp_path)[1:] if t["id"].startswith("gp")), key=lambda t: t["told"])
    order = ["sobol-000", "sobol-001", *(t["id"] for t in ended)]
    assert all(told == order[: len(told)] for told in asked) and len(asked) == 7
    assert any(told[2:] != sorted(told[2:]) for told in asked)


def test_a_worker_does_another_study_rather_than_guess_while_points_are_under_way(toy, tmp_path: Path):
    two = [study(evaluations=3, shared=1, name=name) for name in ("a", "b")]
    assert go(two, tmp_path, Slots(2)) == 10
    first = {t["id"]: t for t in lines(two[0], tmp_path)[1:]}
    # The second point waits for the first: it knows the shared point and the first.
    assert (first["gp-001"]["known"], first["gp-002"]["known"]) == (1, 2)
    asked = [sorted(t["asked"] for t in lines(one, tmp_path)[1:]) for one in two]
    assert asked == [list(range(5))] * 2  # counted in each study for itself


def test_if_all_points_are_shared_the_gaussian_process_has_nothing_to_do(toy, tmp_path: Path):
    one = study(evaluations=3, shared=3)
    assert go(one, tmp_path) == one.total == 3
    assert [trial["id"] for trial in lines(one, tmp_path)[1:]] == ["sobol-000", "sobol-001", "sobol-002"]


# --- what goes wrong in a trial --------------------------------------------------------------------------------------


def test_a_trial_that_raises_or_diverges_counts_as_a_guess_and_is_told(tmp_path: Path, monkeypatch, toy):
    trial, said = search.__dict__["_trial"], []
    outcomes = iter([
        folds.CrossValidation((0.5, 0.75), False, 1.0), folds.CrossValidation((0.5,), True, 1.0),
        ValueError("no: 1\nsecond line"), RuntimeError("shapes"), MemoryError("all of it"), ZeroDivisionError("0"),
    ])  # fmt: skip

    def cross_validate(*given, **how):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.undo()
    monkeypatch.setattr(search, "cross_validate", cross_validate)
    monkeypatch.setattr(search, "stored_folds", quiet_folds)
    monkeypatch.setattr(search, "fingerprint", lambda parameters: {})
    assert search._trial is not trial
    one = study(evaluations=6, shared=6)
    go(one, tmp_path, say=said.append)
    trials = lines(one, tmp_path)[1:]
    assert [(t["state"], t["accuracies"], t.get("why")) for t in trials] == [
        ("done", [0.5, 0.75], None), ("diverged", [0.5], None), ("failed", [], "ValueError: no: 1"),
        ("failed", [], "RuntimeError: shapes"), ("failed", [], "MemoryError: all of it"),
        ("failed", [], "ZeroDivisionError: 0"),
    ]  # fmt: skip
    assert all(t["seconds"] >= 0 and t["processor_seconds"] >= 0 for t in trials)
    assert load_trials([one], tmp_path).accuracy.tolist() == [0.625, *[0.1] * 5]
    assert said[0] == "group/toy-mnist: sobol-002 failed: ValueError: no: 1"
    assert said[-1].endswith("62.50 %; 5 diverged or failed") and len(said) == 5


def quiet_folds(*given: Any) -> None:
    pass


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, NotImplementedError, RecursionError, DataError])
def test_a_bug_or_missing_data_end_the_search_and_fill_no_journal(tmp_path: Path, monkeypatch, error):
    monkeypatch.setattr(search, "fingerprint", lambda parameters: {})
    monkeypatch.setattr(search, "cross_validate", lambda *given, **how: (_ for _ in ()).throw(error("here")))
    with pytest.raises(error):
        go(study(), tmp_path)
    assert len(lines(study(), tmp_path)) == 1


def test_folds_that_cannot_be_made_end_the_search(tmp_path: Path, monkeypatch, capsys, read):
    monkeypatch.setattr(search, "fingerprint", lambda parameters: {})
    with pytest.raises(ValueError, match="examples must be at most the 10000 training images of mnist, not 10001"):
        go(study(examples=10_001), tmp_path)
    assert len(lines(study(), tmp_path)) == 1
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path / "nothing"))
    folds.stored_folds.cache_clear()
    read(('subset = "shipped"', 'subset = "full"'))
    words = ["search", "tiny", "--studies", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(words) == 1
    assert "is not there" in capsys.readouterr().err
    assert (tmp_path / "out/searches/tiny/mlp-mnist.jsonl").read_text().count("\n") == 1


def test_a_trial_is_a_cross_validation_with_one_thread():
    threads = torch.get_num_threads()
    settings = PLAIN | {"epochs": 1}
    try:
        torch.set_num_threads(2)
        made = search._trial(settings, 2, 100, 3, None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    expected = cross_validate(settings, folds=2, examples=100, seed=3).accuracies
    assert made["accuracies"] == [round(a, 6) for a in expected] and made["state"] == "done"
    with pytest.raises(StoreError, match="the package of a worker is not this process's; give both one commit"):
        search._trial(settings, 2, 100, 3, "0" * 16)


# --- what goes wrong with files --------------------------------------------------------------------------------------


def test_a_journal_of_another_plan_or_of_other_code_is_refused(toy, tmp_path: Path):
    one = study(evaluations=4, shared=2)
    toy(nth(2, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        go(one, tmp_path)
    before = journal_path(one, tmp_path).read_bytes()
    toy(nth(0, AssertionError("computed")), loss=1.01)
    with pytest.raises(
        StoreError, match=r"on file with other code, whose first steps differ: loss of step 1: 1\.0 .*1\.01"
    ):
        go(one, tmp_path)
    toy(nth(0, AssertionError("computed")))
    for other, what in (
        (replace(one, folds=3), r"another plan: folds \(2 on file, now 3\)"),
        (replace(one, evaluations=5), r"another plan: evaluations \(4 on file, now 5\)"),
        (
            replace(one, space=(replace(one.space[0], high=2.0),)),
            r"another plan: space\.x\.high \(1\.0 on file, now 2\.0\)",
        ),
    ):
        for ask in (go, lambda one, data: load_trials([one], data)):
            with pytest.raises(
                StoreError, match=rf"group/toy-mnist is on file with {what}\. Give the study another name"
            ):
                ask(other, tmp_path)
    assert journal_path(one, tmp_path).read_bytes() == before
    assert len(load_trials([one], tmp_path)) == 2
    toy()
    assert go(one, tmp_path) == 4
    toy(loss=1.01)  # nothing is left to do, so that new code does nothing beside the old
    assert go(one, tmp_path) == 0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"id": "sobol-004"}, "a trial 'sobol-004' at .*, which it does not have"),
        ({"id": "gp-001"}, "a trial 'gp-001' at .*, which it does not have"),
        ({"id": "sobol-1"}, "a trial 'sobol-1'"),
        ({"point": {"x": 0.25}}, "sobol-001 at {'x': 0.25}, which is now at .*, by another SciPy perhaps"),
        ({"point": {"y": 0.25}}, "a trial 'sobol-001' at {'y': 0.25}, which it does not have"),
    ],
)
def test_a_trial_that_is_not_of_the_plan_is_refused(toy, tmp_path: Path, change: dict[str, Any], what: str):
    one = study(evaluations=4, shared=2)
    go(one, tmp_path)
    text = [json.dumps(t | change if t.get("id") == "sobol-001" else t) for t in lines(one, tmp_path)]
    journal_path(one, tmp_path).write_text("\n".join([*text, ""]))
    for ask in (go, lambda one, data: load_trials([one], data)):
        with pytest.raises(StoreError, match=what):
            ask(one, tmp_path)


def test_a_point_that_another_machine_rounds_otherwise_is_the_same(toy, tmp_path: Path):
    one = study(evaluations=4, shared=2)
    toy(nth(2, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        go(one, tmp_path)
    head, *trials = lines(one, tmp_path)
    for trial in trials:
        trial["point"]["x"] = math.nextafter(trial["point"]["x"], 1)
    journal_path(one, tmp_path).write_text("".join(json.dumps(line) + "\n" for line in (head, *trials)))
    toy()
    assert go(one, tmp_path) == 4


def test_one_search_a_group_at_a_time(toy, tmp_path: Path):
    with locked(tmp_path / "searches" / "group"):
        with pytest.raises(StoreError, match=r"another runner is at work in .*searches/group; wait for it"):
            go(study(), tmp_path)
        assert not journal_path(study(), tmp_path).exists()
        assert go(replace(study(evaluations=2, shared=2), group="other"), tmp_path) == 2
    one = study(evaluations=2, shared=2)
    assert go([one, one], tmp_path) == 2  # named twice, done once


def test_a_disk_that_is_full_or_a_folder_that_is_none_stops_the_search_and_loses_nothing(toy, tmp_path, monkeypatch):
    one = study(evaluations=4, shared=2)
    written = iter(range(3))

    def full(handle):
        if next(written, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(search, "os", SimpleNamespace(fsync=full))
    with pytest.raises(StoreError, match=r"toy-mnist\.jsonl cannot be written: No space left on device"):
        go(one, tmp_path)
    monkeypatch.setattr(search, "os", os)
    assert len(Journal(journal_path(one, tmp_path)).trials) == 3  # the third came through, as far as one can tell
    monkeypatch.setattr(search, "write", lambda *given: full(0))
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        go(one, tmp_path)
    monkeypatch.undo()
    assert sorted(Journal(journal_path(one, tmp_path)).trials) == sorted(
        [*search._ids(one, "gp"), *search._ids(one, "sobol")]
    )
    monkeypatch.setattr(search, "_trial", nth(0, AssertionError("computed")))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot write to .*file/searches/group: Not a directory"):
        go(study(), tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StoreError, match=r"has 0\.0 MB left on its disk"):
        go(study(), tmp_path / "new")


def test_drafts_of_a_killed_search_are_removed_and_the_commit_is_that_of_its_start(toy, tmp_path: Path, monkeypatch):
    draft = tmp_path / "searches" / "group" / "toy-mnist.jsonl.123.part"
    draft.parent.mkdir(parents=True)
    draft.write_text("{")
    commits = iter(["first", "second", "third"])
    monkeypatch.setattr(search, "provenance", lambda: {"commit": next(commits)})
    one = study(evaluations=2, shared=2)
    go(one, tmp_path)
    assert [line["commit"] for line in lines(one, tmp_path)] == ["first"] * 3
    assert list(draft.parent.iterdir()) == [journal_path(one, tmp_path)]


def test_what_a_search_needs_is_missed_before_anything_is_computed(toy, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None if name == "optuna" else name)
    with pytest.raises(StoreError, match="a search needs optuna; run: make setup"):
        go(study(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_trials_that_are_not_on_file_are_missed(tmp_path: Path):
    with pytest.raises(StoreError, match=r"group/toy-mnist is not on file: .*group/toy-mnist\.jsonl"):
        load_trials([study()], tmp_path)


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(toy, tmp_path: Path):
    one = study(evaluations=4, shared=2)
    code = (
        "import sys, time\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\n"
        "import test_search as t\nfrom bioplaus_lite.runs import search\n"
        "search.fingerprint = lambda p: {'losses': [1.0], 'gradients': [], 'changes': {}, 'measures': {},"
        " 'single': None, 'diverged': None}\n"
        "told = []\n"
        "def slow(*a):\n    told.append(a)\n    print(len(told), flush=True)\n"
        "    time.sleep(60 if len(told) == 5 else 0)\n    return t.hill(*a)\n"
        "search._trial = slow\n"
        "t.go(t.study(evaluations=4, shared=2), Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "b")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert [line for _, line in zip(range(5), process.stdout, strict=False)][-1] == "5\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and len(lines(one, tmp_path / "b")) == 5
    assert go(one, tmp_path / "b") == 2 and go(one, tmp_path / "a") == 6
    assert [without_who(line) for line in lines(one, tmp_path / "a")] == [
        without_who(line) for line in lines(one, tmp_path / "b")
    ]


def without_who(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("commit", "versions", "machine", "date")}


# --- a cluster -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    how = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**how) as cluster, Client(cluster) as client:
        yield client


UNDER_WAY: list[int] = []
MOST: list[int] = []


def slow_hill(*given: Any) -> dict[str, Any]:
    UNDER_WAY.append(1)
    MOST.append(len(UNDER_WAY))
    time.sleep(0.05)
    UNDER_WAY.pop()
    return hill(*given)


def test_a_cluster_computes_what_this_process_does(toy, client, tmp_path: Path):
    one = study(evaluations=5, shared=2)
    toy(slow_hill)
    assert go(one, tmp_path, on_workers(client)) == 8 and max(MOST) == 2
    trials = lines(one, tmp_path)[1:]
    assert replayed(one, trials) == 3
    assert [t["point"] for t in trials if t["id"].startswith("sobol")] == one.sobol
    assert go(one, tmp_path, on_workers(client)) == 0


def test_workers_that_die_fail_a_trial_and_a_cluster_that_goes_away_or_a_bug_fails_none(toy, client, tmp_path: Path):
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    one = study(evaluations=3, shared=3)
    for error, raised, message in (
        (TypeError("a bug"), TypeError, "a bug"),
        (DataError("mnist is not there"), DataError, "mnist is not there"),
        (StoreError("the package of a worker"), StoreError, "the package of a worker"),
        (CancelledError("gone"), StoreError, "the Dask cluster went away .*; the same command goes on where this was"),
        (OSError("timed out"), StoreError, r"the Dask cluster went away \(OSError: timed out\)"),
    ):
        toy(lambda *given, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(raised, match=message):
            go(one, tmp_path, on_workers(client))
        assert len(lines(one, tmp_path)) == 1

    def dies(*given):
        raise KilledWorker("trial", SimpleNamespace(address="tcp://nowhere"), 3)

    toy(dies)
    assert go(one, tmp_path, on_workers(client)) == 3
    assert {(t["state"], t["why"]) for t in lines(one, tmp_path)[1:]} == {
        ("failed", "workers died under it again and again")
    }


# --- the command line ------------------------------------------------------------------------------------------------


def cli(tmp_path: Path, *words: str) -> list[str]:
    (tmp_path / "s.toml").write_text(FILE)
    return ["search", *words, "--studies", str(tmp_path / "s.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]


def test_a_study_is_searched_verified_and_in_nobodys_way(tmp_path: Path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(cli(tmp_path, "tiny/mlp-*")) == 0
    said = capsys.readouterr().out
    assert "tiny/mlp-mnist: best of 6 Sobol points" in said and f"10 trials are new, in {out / 'searches'}" in said
    (one,) = read_studies(tmp_path / "s.toml").values()
    trials = load_trials([one], out)
    assert len(trials) == 10 and (trials.state == "done").all() and trials.accuracy.between(0, 1).all()
    first = lines(one, out)[-6]
    expected = cross_validate(one.at(first["point"]), mnist(), folds=2, examples=100, seed=0)
    assert first["id"] == "sobol-000" and first["accuracies"] == [round(a, 6) for a in expected.accuracies]
    assert main(cli(tmp_path, "tiny")) == 0
    assert "0 trials are new" in capsys.readouterr().out

    # Records that lie beside it are as they were.
    save_run({"id": "r-0", "group": "r", "rule": "fa", "dataset": "mnist", "sizes": [1], "seed": 0, "epochs": 1,
              "test_error": 0.5, "parameters": {"purpose": "search"}}, out)  # fmt: skip
    assert list(recorded(out)) == ["r-0"] and not broken_lines(out)
    git = ["git", "-C", str(out), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    assert main(["diff", "--out", str(out)]) == 0
    assert "0 of 1 records differ from HEAD" in capsys.readouterr().out
    (tmp_path / "c.toml").write_text("")
    assert main(["list", "--catalogue", str(tmp_path / "c.toml"), "--out", str(out)]) == 0
    shutil.rmtree(out / ".git")
    (out / "searches" / "r.jsonl").unlink()

    assert main(["verify", "--all", "--jobs", "1", "--out", str(out)]) == 0
    assert "1 of 1 records agree with the code: 1 settings" in capsys.readouterr().out
    path = journal_path(one, out)
    head, *rest = path.read_text("utf-8").splitlines()
    changed = json.loads(head)
    changed["fingerprint"]["losses"][0] *= 1.01
    path.write_text("\n".join([json.dumps(changed), *rest, ""]))
    assert main(["verify", "tiny/*", "--jobs", "1", "--out", str(out)]) == 1
    assert "differs: tiny/mlp-mnist: loss of step 1" in capsys.readouterr().out
    for broken, why in (
        ("[]", "line 1 is not the head of a journal"),
        (json.dumps(changed | {"plan": {}}), "has no plan"),
    ):
        path.write_text("\n".join([broken, *rest, ""]))
        assert main(["verify", "--all", "--jobs", "1", "--out", str(out)]) == 1
        assert f"{path}, line 1" in (said := capsys.readouterr().out) and why in said
    path.write_text(head[:50])  # killed in its first line: nothing is on record yet
    assert fingerprints_of_studies(out) == ({}, [])


def test_an_interrupt_keeps_what_was_told_and_says_how_to_go_on(toy, tmp_path: Path, capsys):
    toy(nth(3, KeyboardInterrupt()))
    assert main(cli(tmp_path, "tiny")) == 130
    assert "interrupted; what was done is kept, and the same command does the rest" in capsys.readouterr().err
    assert (tmp_path / "out/searches/tiny/mlp-mnist.jsonl").read_text().count("\n") == 4
    toy()
    assert main(cli(tmp_path, "tiny")) == 0
    assert "7 trials are new" in capsys.readouterr().out


def test_a_name_that_no_study_has_and_a_file_that_is_none_are_refused(tmp_path: Path, capsys, toy):
    assert main(cli(tmp_path, "tiny", "big")) == 1
    said = capsys.readouterr().err
    assert "no study is called 'big'; there are the groups tiny, and in them tiny/mlp-mnist" in said
    words = cli(tmp_path, "tiny")
    (tmp_path / "s.toml").write_text(FILE.replace("low = 3", "low = 10"))
    assert main(words) == 1
    assert "tiny.models.mlp: space.units: low must be below high, not 10 to 9" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main(["search"])


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, capsys, monkeypatch, toy):
    monkeypatch.setattr("bioplaus_lite.runs.__main__.PATIENCE", 1)
    assert main([*cli(tmp_path, "tiny"), "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
    assert main([*cli(tmp_path, "tiny"), "--scheduler", str(tmp_path / "no.json")]) == 1
    assert "there is no scheduler file" in capsys.readouterr().err
