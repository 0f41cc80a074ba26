"""Full-length trainings: the catalogue is strict, done runs stay done, what dies leaves nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import notebook_rules as rules
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import ROOT
from execute import RECORDED
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tqdm import tqdm

from bioplaus_lite import MLP, make_rule
from bioplaus_lite.measures import inverse_jacobian_angles, update_snr
from bioplaus_lite.runs import (
    QUANTITIES,
    holm,
    late_error,
    mean_and_interval,
    progress,
    published_of,
    reached,
    recipe,
    records,
    runner,
    states,
    tidy,
    train,
    welch,
)
from bioplaus_lite.runs import work as working
from bioplaus_lite.runs.__main__ import main
from bioplaus_lite.runs.catalogue import CatalogueError, Published, figures, read_catalogue, read_published
from bioplaus_lite.runs.fingerprints import on_file
from bioplaus_lite.runs.folders import Folders, StoreError
from bioplaus_lite.runs.notebooks import MAX_BYTES, RunError, execute
from bioplaus_lite.runs.recipe import build_network, optimizer_from, scheduler_from, turns_of
from bioplaus_lite.runs.records import (
    DATA,
    MixedRuns,
    broken_lines,
    change_lines,
    load_runs,
    package_digest,
    path_of,
    read_lines,
    recorded,
    save_run,
)
from bioplaus_lite.runs.runner import run_all
from bioplaus_lite.runs.states import State, choose, record_of, state_of
from bioplaus_lite.runs.train import MIME, Measures, Outcome
from bioplaus_lite.runs.work import in_this_process, on_dask
from bioplaus_lite.training import History, fit

SMALL = """
[small]
title = "Small"
dataset = "mnist"
subset = "shipped"
epochs = 2
seeds = [0, 1]
validation = {size = 500, seed = 0}
network = {type = "MLP", hidden = [10]}
optimizer = {name = "SGD", lr = 0.1}
[small.runs]
fa = {rule = "fa"}
"""


@pytest.fixture
def catalogue(tmp_path: Path):
    """A function that reads the small catalogue with something replaced."""

    def read(*changes: tuple[str, str]):
        text = SMALL
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "catalogue.toml"
        path.write_text(text)
        return read_catalogue(path)

    return read


# --- the catalogue -------------------------------------------------------------------------------------------


def test_axes_make_a_run_of_each_combination_and_a_run_says_what_is_different(catalogue):
    got = catalogue(
        ('dataset = "mnist"', 'datasets = ["mnist", "cifar10"]'),
        ('fa = {rule = "fa"}', 'fa = {rule = "fa", epochs = 3}\nx = {rules = ["tp", "dtp"], seeds = [7]}'),
    )
    assert list(got.runs) == [
        "small-mnist-fa-s0", "small-mnist-fa-s1", "small-cifar10-fa-s0", "small-cifar10-fa-s1",
        "small-mnist-x-tp-s7", "small-cifar10-x-tp-s7", "small-mnist-x-dtp-s7", "small-cifar10-x-dtp-s7",
    ]  # fmt: skip
    assert got.groups == {"small": ("Small", "")}
    p = got.runs["small-cifar10-fa-s1"].parameters
    assert (p["dataset"], p["seed"], p["epochs"], p["batch_size"]) == ("cifar10", 1, 3, 100)
    assert got.runs["small-mnist-x-tp-s7"].parameters["epochs"] == 2


def test_a_rule_of_a_readers_own_gives_an_id_that_can_go_on_record(catalogue, tmp_path: Path, monkeypatch):
    text = "from bioplaus_lite.rules import Backprop\nclass Mine_2(Backprop):\n    pass\n"
    (tmp_path / "_my__rules.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    entry = 'x = {rules = ["fa", "_my__rules:Mine_2"], search = {key = "optimizer.lr", values = [0.1, 1]}}'
    got = catalogue((RULE, entry), (LR, ""))
    run = got.runs["small-mnist-x-my-rules-mine_2-s0"]
    assert run.parameters["rule"] == "_my__rules:Mine_2"
    for one in (run, *run.trials):
        save_run(record(one.id), tmp_path)
        assert working.title_of(one).startswith(f"{one.id}: _my__rules:Mine_2 on MNIST")
    sys.modules.pop("_my__rules")


LR, RULE = ", lr = 0.1", 'fa = {rule = "fa"}'
SEARCH = (LR, ""), (RULE, 'fa = {rule = "fa", search = {key = "optimizer.lr", values = [0.1, 1.0, 2.0]}}')


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (RULE, 'fa = {rule = "fb"}', r"small\.runs\.fa: unknown rule 'fb'; choose one of backprop, fa"),
        (RULE, 'fa = {rule = "fa", ruel = 1}', "unknown key 'ruel'; allowed are rule, dataset"),
        ("epochs = 2", "epoch = 2", "small: unknown key 'epoch'; allowed are title"),
        ("epochs = 2", "epochs = 0", r"epochs must be a whole number ≥ 1, not 0"),
        ("epochs = 2", "epochs = true", r"epochs must be a whole number ≥ 1, not True"),
        ("epochs = 2", "", "epochs must be given"),
        ("epochs = 2", "epochs = 2\nbatch_size = 1.5", "batch_size must be a whole number ≥ 1, not 1.5"),
        ("lr = 0.1", "lr = nan", "optimizer SGD: lr must be finite, not nan"),
        ("lr = 0.1", "lr = true", "optimizer SGD: lr must be at least 0 and finite, not True"),
        ("lr = 0.1", 'lr = 0.1, momentum = "x"', "optimizer SGD: momentum must be at least 0 and finite, not 'x'"),
        ('"SGD", lr = 0.1', '"Adam", lr = 0.1, betas = [0.9]', "optimizer Adam does not take"),
        ("epochs = 2", 'epochs = 2\nschedule = {name = "StepLR", step_size = 0}', "step_size must be a positive"),
        ("epochs = 2", 'epochs = 2\nschedule = {name = "StepLR"}', "is not possible: .*step_size"),
        ("epochs = 2", 'epochs = 2\nschedule = {name = "ExponentialLR", gamma = nan}', "gamma must be positive"),
        ("epochs = 2", 'epochs = 2\nmeasures = ["beauty"]', "unknown measure 'beauty'; choose one of update_angle"),
        ("epochs = 2", "epochs = 2\nmeasures = 3", "measures must be a list of names, not 3"),
        ("hidden = [10]", "hidden = [10, 1000000000]", r"1000000000\] makes 20,000,000,010 weights; at most"),
        ("hidden = [10]", "hidden = [10.0]", "every entry of hidden must be a positive whole number, not 10.0"),
        ("epochs = 2", "epochs = 2\nturns = true", "turns: FeedbackAlignment has no phases that take turns, only all"),
        ("size = 500", "size = 10000", r"validation\.size must be a whole number from 0 to 9999, not 10000"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"'seeds' must be a list of different values, not \[0, 0\]"),
        ("seeds = [0, 1]", "seeds = [-1]", "seed must be a whole number from 0 to 9223372036854775807, not -1"),
        ("seeds = [0, 1]", "", "'seeds' must be a list"),
        ('"mnist"', '"mnits"', "unknown dataset 'mnits'; choose one of mnist, fashion, cifar10"),
        ('"shipped"', '"whole"', "unknown subset 'whole'; choose one of shipped, full"),
        ('"MLP"', '"RNN"', "unknown network type 'RNN'; choose one of MLP, CNN, RateNetwork"),
        ("hidden = [10]", "hidden = [0]", "positive whole number, not 0"),
        ("hidden = [10]", "hidden = 10", "network: hidden must be a list of whole numbers, not 10"),
        ("hidden = [10]", "hiden = [10]", "network MLP: unknown option 'hiden'; allowed are activation"),
        ("hidden = [10]", 'activation = "swish"', "unknown activation 'swish'; choose one of elu"),
        ("hidden = [10]", "seed = 3", "the seed of the weights is the seed of the run"),
        ("hidden = [10]", 'dtype = "int8"', "unknown dtype 'int8'; choose one of float32, float64"),
        ('"SGD"', '"Adm"', "unknown optimizer 'Adm'; choose one of SGD, RMSprop, Adam, AdamW"),
        (LR, ", lr = -1.0", "lr must be at least 0 and finite, not -1.0"),
        (LR, "", "no learning rate 'lr' for the group 'forward'"),
        (LR, ", lr = 0.1, momentun = 1", "optimizer SGD: unknown option 'momentun'; allowed are lr, momentum"),
        (LR, ", forward = {lr = 0.1}, back = {lr = 1.0}", "unknown parameter group 'back'; choose one of forward"),
        (RULE, 'fa = {rule = "tp", options = {alpha = -1}}', r"small\.runs\.fa: .*alpha must be positive|hidden"),
        (RULE, 'fa = {rule = "fa", options = {noise = 1}}', "rule fa: unknown option 'noise'; allowed are scale"),
        (RULE, 'fa = {rule = "fa", schedule = {name = "Step"}}', "unknown schedule 'Step'; choose one of StepLR"),
        (RULE, 'fa = {rule = "fa", search = {values = [1]}}', "search must be a table of key, values, seeds, epochs"),
        (RULE, 'fa = {rule = "fa", search = {key = "optimizer.lr", values = [1.0, 2.0]}}', "nothing to search"),
        (RULE, 'fa = {rule = "fa", search = {key = "epochs", values = [1, 2]}}', "search: unknown key 'epochs'"),
        (RULE, 'Fa = {rule = "fa"}', "lower-case letters, digits, - and _, not 'Fa'"),
        (RULE, 'x-dtp = {rule = "dtp"}\nx = {rules = ["tp", "dtp"]}', "the id 'small-mnist-x-dtp-s0' is taken"),
        (RULE, 'fa = {rule = "fa", schedule = "StepLR"}', "schedule must be a table, not 'StepLR'"),
        ('{name = "SGD", lr = 0.1}', '"SGD"', "optimizer must be a table, not 'SGD'"),
        (RULE, 'fa = {rule = "fa", search = {key = 3, values = [1, 2]}}', "key must be a path such as .*, not 3"),
        (RULE, 'fa = {rule = "fa", search = {key = "options.x", values = [[1], [2]]}}', r"a value must .* not \[1\]"),
        ("[small.runs]", "[small.run]", r"must be a table with its runs in \[small\.runs\]"),
        ("epochs = 2", "epochs = 2\nepochs = 3", "Cannot overwrite a value"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_named_with_its_value_and_what_is_allowed(catalogue, old: str, new: str, complaint: str):
    with pytest.raises(CatalogueError, match=complaint) as error:
        catalogue((old, new))
    assert "catalogue.toml" in str(error.value)


FIGURE = """
[small.published]
paper = "lillicrap2016"
what = "test error (%)"
where = "table 1"
known = "paper"
differs = "the rate"
[small.published.runs]
fa = {figure = 2.1}
"""
PUBLISH = RULE, RULE + FIGURE


def test_published_figures_say_what_is_their_own_and_share_the_rest(catalogue):
    own = """fa = [{figure = 2}, {figure = 35.5, what = "angle of the hidden error (°)", known = "code"}]
x-tp = {figure = {cifar10 = 60.5, mnist = 3.0}, where = "figure 2"}"""
    got = catalogue(
        PUBLISH,
        ("fa = {figure = 2.1}", own),
        (RULE, RULE + '\nx = {rules = ["tp", "dtp"], datasets = ["mnist", "cifar10"]}'),
        ('dataset = "mnist"\n', ""),
        (RULE, 'fa = {rule = "fa", dataset = "mnist"}'),
    ).published
    assert [(one.run, one.dataset, one.figure) for one in got] == [
        ("fa", "mnist", 2.0), ("fa", "mnist", 35.5), ("x-tp", "cifar10", 60.5), ("x-tp", "mnist", 3.0),
    ]  # fmt: skip
    assert got[0] == Published(
        "small", "fa", "mnist", "fa", "lillicrap2016", 2.0, "test error (%)", "table 1", "paper", "the rate"
    )  # fmt: skip
    assert [one.known for one in got] == ["paper", "code", "paper", "paper"]
    assert got[1].what.startswith("angle") and got[2].where == "figure 2" and got[2].rule == "tp"
    assert catalogue().published == ()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("fa = {figure = 2.1}", "fb = {figure = 2.1}", r"runs\.fb: there is no such run in small; it has fa"),
        ("fa = {figure = 2.1}", "fa = {figur = 2.1}", r"runs\.fa: unknown key 'figur'; allowed are paper, figure"),
        ("fa = {figure = 2.1}", "fa = {}", r"runs\.fa: figure must be given"),
        ("fa = {figure = 2.1}", "fa = 2.1", r"runs\.fa: must be a table with a figure, not 2\.1"),
        ("fa = {figure = 2.1}", "fa = [2.1]", r"runs\.fa: must be a table with a figure, not 2\.1"),
        ("[small.published.runs]\nfa = {figure = 2.1}", "runs = 3", r"published\.runs: must be a table of runs, not 3"),
        ("fa = {figure = 2.1}", "", r"published: must be a table with its figures in \[small\.published\.runs\]"),
        ("figure = 2.1", "figure = nan", "figure must be a finite number, not nan"),
        ("figure = 2.1", "figure = inf", "figure must be a finite number, not inf"),
        ("figure = 2.1", "figure = true", "figure must be a finite number, not True"),
        ("figure = 2.1", 'figure = "2.1"', "figure must be a finite number, not '2.1'"),
        ("figure = 2.1", "figure = {fashion = 1.0}", "a number for data sets among mnist, not {'fashion': 1.0}"),
        ("figure = 2.1", "figure = {}", "a number for data sets among mnist, not {}"),
        ("figure = 2.1", "figure = {mnist = nan}", "figure must be a finite number, not nan"),
        ('known = "paper"', 'known = "memory"', "known must be one of paper, code, second-hand, not 'memory'"),
        ('known = "paper"', "", "known must be given, here or for the whole group"),
        ('known = "paper"', 'known = "paper"\nyear = 2016', "unknown key 'year'; allowed are paper, figure"),
        ('what = "test error (%)"', 'what = "error"', r"what must be one of test error \(%\), .*, not 'error'"),
        ('where = "table 1"', 'where = " "', "where must be words, not ' '"),
        ('differs = "the rate"', "differs = 3", "differs must be words, not 3"),
        ('paper = "lillicrap2016"', "paper = []", r"paper must be words, not \[\]"),
        ("figure = 2.1", "figure = 2.1, nearest = false", "nearest must be true or left out, not False"),
        ("figure = 2.1", "figure = 2.1, nearest = 1", "nearest must be true or left out, not 1"),
        ("figure = 2.1", "figure = 2.1, reason = 3", "reason must be words, not 3"),
        ("figure = 2.1", 'figure = 2.1, reason = " "', "reason must be words, not ' '"),
        ("figure = 2.1", 'figure = 2.1, reason = {fashion = "x"}', "a sentence for data sets among mnist, not {'fash"),
        ("figure = 2.1", 'figure = 2.1, reason = {mnist = ""}', "reason must be words, not ''"),
        ('known = "paper"', 'known = "paper"\nreason = "x"', "unknown key 'reason'; allowed are paper, figure"),
        ('known = "paper"', 'known = "paper"\nnearest = true', "unknown key 'nearest'; allowed are paper, figure"),
    ],
)
def test_a_bad_figure_is_named_with_its_value_and_what_is_allowed(catalogue, old: str, new: str, complaint: str):
    with pytest.raises(CatalogueError, match=complaint) as error:
        catalogue(PUBLISH, (old, new))
    assert "catalogue.toml: small.published" in str(error.value)


TWO = (RULE, f'{RULE}\nother = {{rule = "fa", epochs = 3}}{FIGURE}')
SECOND = "other = {figure = 2.1}"


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("fa = {figure = 2.1}", SECOND, "2.1 of lillicrap2016 stands beside fa, other: one of them must .*, and 0 do"),
        ("fa = {figure = 2.1, nearest = true}", "other = {figure = 2.1, nearest = true}", "one of them .*, and 2 do"),
        ("fa = {figure = 2.1, nearest = true}", "", "stands beside fa: a single run needs no nearest, and 1 do"),
        (
            "fa = {figure = 2.1, nearest = true}",
            'other = {figure = 2.1, reason = "The length."}',
            "a reason must stand with fa, the nearest, and not with other",
        ),
    ],
)
def test_one_of_several_runs_beside_a_figure_is_the_nearest(catalogue, first: str, second: str, complaint: str):
    with pytest.raises(CatalogueError, match=complaint):
        catalogue(TWO, ("fa = {figure = 2.1}", f"{first}\n{second}"))


def test_a_figure_is_one_however_many_runs_stand_beside_it(catalogue):
    """The nearest comes first; another number, place, data set or rule is another figure."""
    own = """fa = [{figure = 2.1}, {figure = 2.2}, {figure = 2.1, where = "table 2"}]
other = {figure = 2.1, nearest = true, reason = "The length."}
x-tp = {figure = {cifar10 = 2.1, mnist = 2.1}, reason = {mnist = "The rate."}}"""
    got = catalogue(
        (RULE, f'{RULE}\nother = {{rule = "fa"}}\nx = {{rules = ["tp"], datasets = ["mnist", "cifar10"]}}{FIGURE}'),
        ('dataset = "mnist"\n', ""),
        (RULE, 'fa = {rule = "fa", dataset = "mnist"}'),
        ('other = {rule = "fa"}', 'other = {rule = "fa", dataset = "mnist"}'),
        ("fa = {figure = 2.1}", own),
    ).published
    assert [[(one.run, one.dataset, one.figure) for one in beside] for beside in figures(got)] == [
        [("other", "mnist", 2.1), ("fa", "mnist", 2.1)],
        [("fa", "mnist", 2.2)],
        [("fa", "mnist", 2.1)],
        [("x-tp", "cifar10", 2.1)],
        [("x-tp", "mnist", 2.1)],
    ]
    assert [one.reason for one in got] == ["", "", "", "The length.", "", "The rate."]


def test_a_reason_of_a_figure_with_several_data_sets_says_of_which(catalogue):
    with pytest.raises(CatalogueError, match="a sentence for data sets among cifar10, mnist, not 'x'"):
        catalogue(
            PUBLISH,
            ('dataset = "mnist"', 'datasets = ["mnist", "cifar10"]'),
            ("figure = 2.1", 'figure = {mnist = 2.1, cifar10 = 3.0}, reason = "x"'),
        )


def test_figures_are_read_alike_with_and_without_the_runs(catalogue, published, tmp_path):
    assert read_published() == published.published
    for text, complaint in (
        ("[a.runs]\nfa = {}\n[a.published]\nyear = 1\n[a.published.runs]\nfa = 3", "a.published: unknown key 'year'"),
        ("[a.published]\npaper = 'x'", r"'a' must be a table with its runs in \[a.runs\]"),
    ):
        (tmp_path / "bad.toml").write_text(text, "utf-8")
        with pytest.raises(CatalogueError, match=f"bad.toml: {complaint}"):
            read_published(tmp_path / "bad.toml")
    with pytest.raises(CatalogueError, match="cannot be read"):
        read_published(tmp_path / "none.toml")


def test_a_figure_of_a_run_with_several_data_sets_says_of_which(catalogue):
    with pytest.raises(CatalogueError, match=r"a number for data sets among cifar10, mnist, not 2\.1"):
        catalogue(PUBLISH, ('dataset = "mnist"', 'datasets = ["mnist", "cifar10"]'))
    with pytest.raises(CatalogueError, match=r"published: must be a table with its figures in"):
        catalogue(("epochs = 2", "epochs = 2\npublished = 3"))


def test_what_papers_report_is_found_by_run_quantity_and_data_set(catalogue, tmp_path, monkeypatch):
    several = """fa = [{figure = 2}, {figure = 35.5, what = "angle of the hidden error (°)"}]
x = {figure = {cifar10 = 60.5, mnist = 3.0}}"""
    more = RULE + '\nx = {rule = "tp", datasets = ["mnist", "cifar10"]}'
    catalogue(
        PUBLISH, ("fa = {figure = 2.1}", several), (RULE, more), ('dataset = "mnist"\n', ""),
        (RULE, 'fa = {rule = "fa", dataset = "mnist"}'),
    )  # fmt: skip
    path, angle = tmp_path / "catalogue.toml", "angle of the hidden error (°)"
    monkeypatch.setattr(recipe, "build_network", lambda *_: pytest.fail("a network was built"))
    assert list(published_of("small", dataset="mnist", path=path).items()) == [("fa", 2.0), ("x", 3.0)]
    assert published_of("small", dataset="cifar10", path=path) == {"x": 60.5}
    assert published_of("small", angle, path=path) == {"fa": 35.5}
    for arguments, complaint in {
        ("smal",): "group must be one with published figures, small, not 'smal'",
        ("small", "error"): r"what must be one of test error \(%\), angle .* for small, not 'error'",
        ("small",): r"dataset must be one of mnist, cifar10 for test error \(%\) in small, not None",
    }.items():
        with pytest.raises(ValueError, match=complaint):
            published_of(*arguments, path=path)
    with pytest.raises(ValueError, match=r"must be one of mnist for angle .* in small, not 'cifar10'"):
        published_of("small", angle, dataset="cifar10", path=path)
    path.write_text(path.read_text("utf-8").replace("figure = 2}", "figure = nan}"))
    with pytest.raises(CatalogueError, match=r"small\.published\.runs\.fa: figure must be a finite number, not nan"):
        published_of("small", dataset="mnist", path=path)


def test_a_run_may_not_be_called_what_a_trial_is_called(catalogue):
    searched, other = SEARCH[1][1], 'fa-lr1p0 = {rule = "fa", optimizer = {name = "SGD", lr = 0.5}}'
    for entries in (f"{searched}\n{other}", f"{other}\n{searched}"):
        with pytest.raises(CatalogueError, match="the id 'small-mnist-fa-lr1p0-s0' is taken"):
            catalogue(SEARCH[0], (RULE, entries))


@pytest.fixture(scope="module")
def published():
    return read_catalogue()


def test_the_catalogue_of_the_book_holds_every_rule_on_every_data_set_with_three_seeds(published):
    from bioplaus_lite.rules import RULES

    review = [run.parameters for run in published.runs.values() if run.group == "review"]
    elsewhere = ("dtp_drl", "ddtp_linear", "ldrl")  # in networks with several inverses, in a group of their own
    assert {
        (p["rule"], p["dataset"], p["seed"])
        for p in (run.parameters for run in published.runs.values())
        if p["rule"] in elsewhere
    } == set(itertools.product(elsewhere, ("mnist", "cifar10"), (0, 1, 2)))
    assert {(p["rule"], p["dataset"], p["seed"]) for p in review} >= {
        (rule, dataset, seed)
        for rule in set(RULES) - set(elsewhere)
        for dataset in ("mnist", "fashion", "cifar10")
        for seed in (0, 1, 2)
        if rule != "tp" or dataset == "mnist"  # with one hidden layer it is DTP
    }
    assert {p["network"].get("constants", {}).get("mode") for p in review if p["rule"] == "segregated"} == {
        None,
        "rate",
    }
    assert {p["subset"] for p in review} == {"full"}
    assert all(RECORDED.fullmatch(f"trainings/{name}") for name in published.runs)
    for group in published.groups:
        page = (ROOT / f"book/trainings/{group}.md").read_text("utf-8")
        assert all(f"```{{{directive}}} {group}\n" in page for directive in ("runs", "runs-curves", "runs-settings"))


def test_every_paper_of_the_catalogue_has_published_figures_and_each_is_of_a_source_and_on_record(published):
    sources = set(re.findall(r"@\w+\{(\w+),", (ROOT / "book/references.bib").read_text("utf-8")))
    assert {one.paper for one in published.published} <= sources
    groups = {one.group for one in published.published}
    for group, what, dataset in {(one.group, one.what, one.dataset) for one in published.published}:
        same = [one for one in published.published if (one.group, one.what, one.dataset) == (group, what, dataset)]
        assert list(published_of(group, what, dataset=dataset).items()) == [(one.run, one.figure) for one in same]
    assert groups == {"review", *(group for group in published.groups if group.startswith("paper-"))}
    records = list(recorded(purpose="result").values())
    for one in published.published:
        own = [r for r in records if (r["group"], r.get("name"), r["dataset"]) == (one.group, one.run, one.dataset)]
        assert own, f"{one.group} {one.run} {one.dataset} is not on record"
        assert all(0 <= QUANTITIES[one.what](record) <= 100 for record in own) and 0 < one.figure < 100
    for group in groups:
        assert f"```{{runs-published}} {group}\n" in (ROOT / f"book/trainings/{group}.md").read_text("utf-8")


def test_a_quick_run_is_short_and_stays_on_shipped_data(published):
    quick = [run.quick() for run in published.runs.values()]
    for one in (*quick, *(trial for run in quick for trial in run.trials)):
        p = one.parameters
        assert (p["subset"], p["epochs"], p["examples"]) == ("shipped", 1, 300)
    assert all(len(run.trials) == 2 for run in quick if run.search)


# --- from settings to objects --------------------------------------------------------------------------------


def test_groups_of_parameters_have_rates_of_their_own():
    rule = make_rule("sdtp", MLP((8, 6, 4)))
    settings = {"name": "Adam", "lr": 0.5, "eps": 0.1, "feedback": {"lr": 0.25, "betas": [0.5, 0.6]}}
    forward, feedback = optimizer_from(settings)(rule.parameter_groups()).param_groups
    assert (forward["lr"], forward["betas"], forward["eps"]) == (0.5, (0.9, 0.999), 0.1)
    assert (feedback["lr"], feedback["betas"], feedback["eps"]) == (0.25, (0.5, 0.6), 0.1)


def test_segregated_compartments_keep_the_rates_of_their_constants():
    constants = {"eta": [0.1, 0.2], "mode": "rate", "voltages": "steady"}
    network = build_network({"type": "RateNetwork", "hidden": [5], "constants": constants}, (1, 3, 3), 4, seed=0)
    groups = optimizer_from({"name": "SGD"})(make_rule("segregated", network).parameter_groups()).param_groups
    assert [group["lr"] for group in groups] == [0.1, 0.2]
    assert network.sizes == (9, 5, 4)


def test_by_turns_an_epoch_has_two_passes_and_the_schedule_counts_epochs():
    rule = make_rule("dtp", MLP((8, 6, 6, 4), activation="tanh"))
    g = torch.Generator().manual_seed(0)
    data = torch.rand(20, 8, generator=g), torch.arange(20) % 4
    turns, rates = [], []
    optimizer = optimizer_from({"name": "SGD", "lr": 1.0})(rule.parameter_groups())

    def measure(rule):
        turns.append(rule.phase)
        rates.append(optimizer.param_groups[0]["lr"])
        return {}

    schedule = scheduler_from({"name": "ExponentialLR", "gamma": 0.5})
    history = fit(rule, data, {"validation": data, "test": data}, epochs=4, batch_size=10, optimizer=optimizer,
                  scheduler=schedule, turns=turns_of(rule, True), measure=measure)  # fmt: skip
    assert turns == ["both", "inverse", "forward", "inverse", "forward"]
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5]
    outcome = Outcome(rule, history, {"commit": "c"}, passes=2)
    assert outcome.curves["validation"]["epoch"] == [0, 0.5, 1, 1.5, 2]
    assert outcome.curves["test"]["examples"] == [0, 20, 40, 60, 80]
    record = outcome.record()
    assert record["test_error"] == pytest.approx(1 - history.last("accuracy"), abs=1e-6)
    assert (record["sizes"], record["commit"], record["diverged"]) == ([8, 6, 6, 4], "c", False)
    assert record["peak_MiB"] > 50


def test_a_training_that_diverges_gives_back_what_it_recorded():
    rule, data = make_rule("backprop", MLP((4, 3))), (torch.rand(20, 4), torch.arange(20) % 3)
    with pytest.raises(FloatingPointError) as error:
        fit(
            rule,
            data,
            {"validation": data, "test": data},
            epochs=99,
            optimizer=optimizer_from({"name": "SGD", "lr": 1e38}),
        )
    outcome = Outcome(rule, error.value.history, {}, diverged=True)
    assert outcome.record()["validation_error"] == 1
    json.dumps(outcome.record(), allow_nan=False)


def test_the_errors_on_record_are_those_of_the_last_epoch_and_not_of_the_best():
    history = History()
    for epoch, (right, spiking) in enumerate([(0.1, 0.1), (0.8, 0.7), (0.6, 0.5)]):
        for split, values in [
            ("validation", {"accuracy": right}), ("test", {"accuracy": right}), ("rule", {"spiking_accuracy": spiking}),
        ]:
            history.add(epoch, 20 * epoch, 0.0, split, values)
    outcome = Outcome(make_rule("fa", MLP((4, 3))), history, {})
    assert (outcome.test_error, outcome.validation_error) == pytest.approx((0.5, 0.4))  # with spikes, and without
    del outcome.curves["rule"]
    assert outcome.test_error == pytest.approx(0.4)


def test_layers_can_be_held_fixed():
    settings = {"type": "PyramidalNetwork", "hidden": [6, 5], "held": [2]}
    network = build_network(settings, (1, 2, 2), 3, seed=0)
    assert {n: p.requires_grad for n, p in network.named_parameters()} == {
        f"{kind}{layer}": layer != 2 for kind in "Wb" for layer in (1, 2, 3)
    }
    plain = build_network({**settings, "held": []}, (1, 2, 2), 3, seed=0)
    assert all(map(torch.equal, network.parameters(), plain.parameters())), "held where they are drawn"
    with pytest.raises(ValueError, match="held names layer 4; there are layers 1 to 3"):
        build_network({**settings, "held": [4]}, (1, 2, 2), 3, seed=0)
    with pytest.raises(ValueError, match="set the eta of these layers to 0"):
        build_network({"type": "RateNetwork", "hidden": [6], "held": [1]}, (1, 2, 2), 3, seed=0)


def test_a_training_measures_angles_norms_and_noise_of_every_layer():
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 6, generator=g), torch.randint(3, (40,), generator=g)
    rule = make_rule("fa", MLP((6, 5, 3)))
    measures = Measures(rule, x, y, (x, y))
    first, second = measures(rule), measures(rule)
    always = {f"{what}_{l}" for l in (1, 2) for what in ("update_angle", "weight_norm", "snr", "gradient_noise")}
    always |= {"error_angle_1", "inverse_angle_1"}
    assert set(first) == always
    assert set(second) == always | {f"{what}_{l}" for l in (1, 2) for what in ("update_norm", "gradient_change")}
    parts = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 40, 4)]
    assert first["snr_2"] == pytest.approx(update_snr(rule, parts)[2])
    assert first["inverse_angle_1"] == pytest.approx(inverse_jacobian_angles(rule, x, y)[1])


def test_progress_is_told_after_every_batch():
    told, data = [], (torch.rand(25, 4), torch.arange(25) % 3)
    fit(make_rule("fa", MLP((4, 3))), data, epochs=2, batch_size=10, progress=lambda *at: told.append(at))
    assert told == [(n, 50) for n in (10, 20, 25, 35, 45, 50)]


def test_a_runner_hears_of_progress_once_a_second_and_at_the_end(monkeypatch, capsys):
    monkeypatch.setenv(train.UNDER_RUNNER, "{}")
    monkeypatch.setattr(train, "_last_reported", -math.inf)
    for examples in (10, 20, 30):
        train.report_progress(examples, 30)
    assert capsys.readouterr().err.splitlines() == ["progress 10 30", "progress 30 30"]


def test_a_bar_shows_the_progress_that_was_told(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Prompt(tqdm):
        def __init__(self, *args, **given):
            super().__init__(*args, mininterval=0, **given)

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "tqdm", Prompt)
    display = progress.Display(1)
    for examples in (10, 20, 30):
        display.advance("r-0", examples, 30)
    shown = re.findall(r"r-0:[^\r]*?(\d+)/30 ", sys.stderr.getvalue())
    display.close()
    assert shown == ["0", "10", "20", "30"]


# --- which code decides --------------------------------------------------------------------------------------


def record(name: str, /, **more) -> dict:
    keys = {"rule": "fa", "dataset": "mnist", "sizes": [4, 3], "seed": 0, "epochs": 1, "test_error": 0.5}
    return {"id": name, "group": "r", **keys, **more}


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ({"commit": "a"}, {"commit": "b"}, r"\(commit\): a: r-0 and 0 more; b: r-1"),
        ({"commit": "a"}, {"commit": "a+"}, r"\(commit\): a: r-0"),
        ({"fingerprint": "5e-1"}, {"fingerprint": "5e-2"}, r"\(code of setting 5e\): 5e-1: r-0"),
        ({"commit": "a"}, {"commit": "a", "fingerprint": "5e-1"}, "kind of record"),
        ({"commit": "a"}, {"commit": "a"}, None),
        ({"commit": "a", "fingerprint": "5e-1"}, {"commit": "b", "fingerprint": "5e-1"}, None),
        ({"commit": "a", "fingerprint": "5e-1"}, {"commit": "b", "fingerprint": "7f-2"}, None),
    ],
)
def test_results_of_different_code_are_not_mixed(tmp_path: Path, first: dict, second: dict, complaint: str | None):
    for i, more in enumerate((first, second)):
        save_run(record(f"r-{i}", **more), tmp_path)
    if complaint is None:
        assert len(load_runs("r-", tmp_path)) == 2
        return
    with pytest.raises(MixedRuns, match=complaint):
        load_runs("r-", tmp_path)
    assert len(load_runs("r-", tmp_path, mixed=True)) == 2
    assert len(load_runs("r-0", tmp_path)) == 1


def test_a_record_comes_back_as_it_was_on_one_line(tmp_path: Path):
    words = ["[\n 1,\n 2\n]", 'a, "b"', "{[", "line\nbreak", "\u2028", "×"]
    given = record("r-1", words=words, empty=[], nested=[[1, 2.5], [], [None, {"x": [True]}]], small=1e-12)
    path = save_run(given, tmp_path)
    assert path == tmp_path / "runs" / "r.jsonl"
    save_run(record("r-0"), tmp_path)
    lines = path.read_text("utf-8").split("\n")
    assert [json.loads(line)["id"] for line in lines[:-1]] == ["r-0", "r-1"] and lines[-1] == ""
    assert recorded(tmp_path)["r-1"] == given
    save_run(given | {"test_error": 0.25}, tmp_path)
    assert recorded(tmp_path)["r-1"] == given | {"test_error": 0.25}
    assert len(recorded(tmp_path)) == 2


def test_seeds_of_other_parameters_are_not_mixed(tmp_path: Path):
    keys = {"group": "r", "dataset": "mnist", "name": "fa"}
    save_run(record("r-0", parameters={"seed": 0, "epochs": 10}, **keys), tmp_path)
    save_run(record("r-1", parameters={"seed": 1, "epochs": 10}, **keys), tmp_path)
    assert len(load_runs("r-", tmp_path)) == 2
    save_run(record("r-2", parameters={"seed": 2, "epochs": 5}, **keys), tmp_path)
    with pytest.raises(MixedRuns, match=r"\(epochs of r-mnist-fa\): 10: r-0 and 1 more; 5: r-2 and 0 more"):
        load_runs("r-", tmp_path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"id": "r-3", "rule', "Unterminated string"),
        ("[1, 2]", "no JSON object with an id"),
        ("null", "no JSON object with an id"),
        ("{}", "no JSON object with an id"),
        ('{"id": 3}', "no JSON object with an id"),
        ('{"id": "r-9", "parameters": 3}', "its 'parameters' is no table but 3"),
        ('{"id": "r-9", "group": ["r"]}', "its 'group' is no word but ['r']"),
        ('{"id": "r-9", "fingerprint": null}', "its 'fingerprint' is no word but None"),
        ('{"id": "r-0"}', "'r-0' stands on an earlier line"),
        ("<<<<<<< ours", "Expecting value"),
        ("\ufffd", "Expecting value"),
        ('{"id": "r-9", "test_error": NaN}', "NaN is no number that JSON has"),
        ('{"id": "r-9", "name": "\udcff"}', "surrogates not allowed"),
    ],
)
def test_a_torn_or_foreign_line_is_named_and_kept_and_hides_no_other(tmp_path: Path, line: str, why: str):
    path = save_run(record("r-0"), tmp_path)
    more = f"{line}\n{json.dumps(record('r-2'))}\n".encode(errors="surrogateescape")  # the last line is not UTF-8
    path.write_bytes(path.read_bytes() + more)
    with pytest.warns(UserWarning, match=rf"r\.jsonl, line 2 is no record: .*{re.escape(why)}"):
        assert load_runs("r-", tmp_path).id.tolist() == ["r-0", "r-2"]
    assert len(broken_lines(tmp_path)) == 1
    save_run(record("r-1"), tmp_path)
    assert path.read_bytes().splitlines()[-1] == line.encode(errors="surrogateescape")
    assert list(recorded(tmp_path)) == ["r-0", "r-1", "r-2"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": "../up"}, "a run's id has lower-case letters, digits, - and _, not '../up'"),
        ({"group": "a/b"}, "a run's group has lower-case letters, digits, - and _, not 'a/b'"),
        ({"id": 3}, "a run's id has lower-case letters, digits, - and _, not 3"),
        ({"test_error": float("nan")}, "r-0 cannot go on record: test_error is nan; use null"),
        ({"metrics": {"loss": [1.0, float("inf")]}}, r"r-0 cannot go on record: metrics\.loss\[1\] is inf"),
    ],
)
def test_what_cannot_be_a_record_is_refused_and_nothing_is_written(tmp_path: Path, change: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        save_run(record("r-0") | change, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    given = record("r-0")
    del given["group"]
    with pytest.raises(ValueError, match="run record lacks group; it needs id, group, rule"):
        save_run(given, tmp_path)
    with pytest.raises(ValueError, match="unknown purpose 'serch'; choose one of result, search"):
        load_runs("r-", tmp_path, purpose="serch")


WRITER = """
import sys
from pathlib import Path
from bioplaus_lite.runs.records import save_run
for i in range(int(sys.argv[3])):
    save_run({"id": f"w{sys.argv[2]}-{i}", "group": "r", "rule": "fa", "dataset": "mnist", "sizes": [1], "seed": 0,
              "epochs": 1, "test_error": 0.5, "padding": list(range(2000))}, Path(sys.argv[1]))
    print(i, flush=True)
"""


def writer(folder: Path, name: str, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_write_one_file_lose_nothing(tmp_path: Path):
    processes = [writer(tmp_path, name, 25) for name in "ab"]
    assert [(process.wait(180), process.stdout.close())[0] for process in processes] == [0, 0]
    assert len(recorded(tmp_path)) == 50 and broken_lines(tmp_path) == []
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["r.jsonl"]


def test_a_record_that_another_writer_adds_just_before_the_lock_is_kept(tmp_path: Path, monkeypatch):
    save_run(record("r-0"), tmp_path)
    lock = records.locked

    @contextlib.contextmanager
    def late(folder: Path):
        monkeypatch.setattr(records, "locked", lock)
        save_run(record("r-1"), tmp_path)  # the other writer had the lock until now
        with lock(folder):
            yield

    monkeypatch.setattr(records, "locked", late)
    save_run(record("r-2"), tmp_path)
    assert sorted(recorded(tmp_path)) == ["r-0", "r-1", "r-2"]


def test_a_killed_process_loses_nothing_that_it_had_written(tmp_path: Path):
    process = writer(tmp_path, "a", 100_000)
    done = [process.stdout.readline() for _ in range(20)]
    process.kill()
    done += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    assert len(done) <= len(recorded(tmp_path)) <= len(done) + 1 and broken_lines(tmp_path) == []
    save_run(record("r-0"), tmp_path)  # its lock went with it


@pytest.mark.parametrize("variable", ["PATH", "GIT_DIR"])  # no git, and a folder that is no repository
def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch, variable: str):
    monkeypatch.setenv(variable, str(tmp_path))
    assert records.provenance()["commit"] == "unknown"


def test_trials_of_a_search_are_loaded_only_when_asked_for(tmp_path: Path):
    save_run(record("r-0"), tmp_path)
    save_run(record("r-lr1-s0", parameters={"purpose": "search"}), tmp_path)
    assert load_runs("r-", tmp_path).id.tolist() == ["r-0"]
    assert load_runs("r-", tmp_path, purpose="search").id.tolist() == ["r-lr1-s0"]
    assert path_of("r", "search", tmp_path) == tmp_path / "searches" / "r.jsonl"
    with pytest.raises(FileNotFoundError, match=r"no search called 'r-0'… in .*searches"):
        load_runs("r-0", tmp_path, purpose="search")


# ---------------------------------------------------------------------------------------------- tables of results


@pytest.fixture
def curves_on_record(tmp_path: Path) -> pd.DataFrame:
    for seed, top in ((0, 0.8), (1, 0.9)):
        at = {"epoch": [0.0, 0.5, 1.0], "examples": [0, 50, 100], "seconds": [0.0, 1.0 + seed, 2.0 + 2 * seed]}
        curves = {"validation": at | {"accuracy": [0.1, 0.5, top]}}
        save_run(record(f"r-mlp-s{seed}", name="mlp", seed=seed, metrics=curves), tmp_path)
    return load_runs("r-", tmp_path)


def test_tidy_has_a_row_for_each_value(curves_on_record):
    frame = tidy(curves_on_record, "accuracy")
    assert frame.columns.tolist() == ["dataset", "name", "rule", "seed", "epoch", "examples", "seconds", "value"]
    assert frame[frame.seed == 1].value.tolist() == [0.1, 0.5, 0.9]
    assert frame[frame.seed == 1].seconds.tolist() == [0, 2, 4]
    with pytest.raises(KeyError, match="r-mlp-s0 recorded no 'loss'; on 'validation' it has epoch, examples"):
        tidy(curves_on_record, "loss")
    with pytest.raises(KeyError, match="its splits are validation"):
        tidy(curves_on_record, "loss", "test")


def test_the_interval_is_that_of_scipy_and_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3))
    one = scipy.stats.ttest_1samp(draws[0], 0).confidence_interval(0.9)
    mean, half = mean_and_interval(draws[0], 0.9)
    assert (mean - half, mean + half) == pytest.approx((one.low, one.high))
    covered = [abs(m - 5.0) <= h for m, h in map(mean_and_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
    assert mean_and_interval([3.0])[0] == 3.0 and np.isnan(mean_and_interval([3.0])[1])
    for bad, level in (([], 0.95), ([1.0, 2.0], 1.0)):
        with pytest.raises(ValueError, match=f"not {len(bad)} values and {level}"):
            mean_and_interval(bad, level)


def test_holm_steps_down_and_never_declares_more_than_it_says():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])  # by hand
    assert holm([0.4, 0.9, 0.2]).tolist() == pytest.approx([0.8, 0.9, 0.6]) and holm([]).size == 0
    nothing_there = np.random.default_rng(0).random((4000, 14))
    assert np.mean([(holm(p) < 0.05).any() for p in nothing_there]) == pytest.approx(0.05, abs=0.012)
    for bad in ([0.1, 1.5], [np.nan], [-0.1]):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            holm(bad)


def test_differences_are_welchs_and_holms():
    seeds = {"mlp": [2.0, 2.1, 2.4], "fa": [2.2, 2.3, 3.0], "cnn": [0.9, 1.0, 0.95], "near": [2.5, 2.6, 2.55]}
    found = welch(seeds, "mlp")
    assert found.index.tolist() == ["fa", "cnn", "near"]
    a, b = np.array(seeds["fa"]), np.array(seeds["mlp"])
    nu = 2 * (a.var(ddof=1) + b.var(ddof=1)) ** 2 / (a.var(ddof=1) ** 2 + b.var(ddof=1) ** 2)
    half = scipy.stats.t.ppf(0.975, nu) * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 3)
    assert found.loc["fa", ["difference", "half"]].tolist() == pytest.approx([a.mean() - b.mean(), half])
    p = [scipy.stats.ttest_ind(seeds[name], b, equal_var=False).pvalue for name in found.index]
    assert p[1] < 0.05 / 3 < 0.05 < p[2] < p[0]  # or the table below shows nothing
    assert found.alone.tolist() == found.holds.tolist() == [False, True, False]
    many = seeds | {f"n{i}": [2.0, 2.2, 2.3] for i in range(9)}
    assert welch(many, "mlp").alone["cnn"] and not welch(many, "mlp").holds["cnn"]
    assert welch({"mlp": [1.0, 2.0]}, "mlp").empty
    with pytest.raises(KeyError, match="none"):
        welch(seeds, "none")
    with pytest.raises(ValueError, match="one has fewer"):
        welch(seeds | {"one": [1.0]}, "mlp")


def test_late_errors_are_those_of_whole_epochs_and_of_spikes_where_there_are_any(tmp_path: Path):
    at = {"epoch": [0.0, 0.5, 1.0, 2.0, 2.5, 3.0], "accuracy": [0.1, 0.2, 0.6, 0.7, 0.0, 0.9]}
    plain = {"test": at, "rule": {"epoch": at["epoch"], "snr_1": [1.0] * 6}}
    spikes = {"test": at, "rule": {"epoch": at["epoch"], "spiking_accuracy": [0.1, 0.2, 0.3, 0.4, 0.0, 0.6]}}
    for name, metrics in (("a", plain), ("b", spikes)):
        save_run(record(f"r-{name}", epochs=3, metrics=metrics), tmp_path)
    runs = load_runs("r-", tmp_path)
    assert late_error(runs, 2).tolist() == pytest.approx([0.2, 0.5])
    assert late_error(runs, 3).tolist() == pytest.approx([1 - 2.2 / 3, 1 - 1.3 / 3])
    for epochs in (4, 0):
        with pytest.raises(ValueError, match="r-a recorded"):
            late_error(runs, epochs)


def test_where_a_curve_reaches_a_target(curves_on_record):
    curve = tidy(curves_on_record.query("seed == 1"), "accuracy")
    assert reached(curve, 0.3) == pytest.approx(25)
    assert reached(curve, 0.7, "seconds") == pytest.approx(3)
    assert reached(curve, 0.05) == 0
    assert np.isnan(reached(curve, 0.95))


# --- doing runs, with a stand-in for the training --------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.below(tmp_path / "out")


FINGERPRINT = {
    "losses": [1.0], "gradients": [{}], "changes": {}, "measures": {}, "single": None, "diverged": None,
}  # fmt: skip


def drop(run, folders: Folders) -> None:
    """Take a record out of its file."""
    path = path_of(run.group, run.parameters["purpose"], folders.data)
    path.write_text("".join(f"{json.dumps(r)}\n" for r in read_lines(path).records.values() if r["id"] != run.id))


class Stub:
    """Works at once; counts; fails for the ids that it is told to fail for."""

    def __init__(self, folders: Folders, fails: tuple[str, ...] = (), errors: dict | None = None, diverged=()) -> None:
        self.folders, self.fails, self.errors, self.did = folders, fails, errors or {}, []
        self.diverged = diverged

    def __call__(self, runs, told):
        for run in runs:
            self.did.append(run.id)
            if run.id in self.fails:
                yield run, RunError("ValueError: no such thing (cell 3 of its notebook)\nlong traceback")
                continue
            rate = run.parameters["optimizer"].get("lr")
            result = {
                "sizes": [784, 10, 10], "test_error": 0.25,
                "validation_error": self.errors.get(run.id, self.errors.get(rate, 0.5)), "commit": "c",
                "fingerprint": FINGERPRINT, "wall_seconds": 1.0, "seconds": 1.0, "diverged": rate in self.diverged,
            }  # fmt: skip
            yield run, (f"notebook of {run.id}\n", result, [])


def do(runs, folders: Folders, **how) -> tuple[list[str], dict[str, str]]:
    keep_old, again = how.pop("keep_old", False), how.pop("again", False)
    work = Stub(folders, **how)
    with folders.reserved():
        ended = run_all(list(runs.values()), folders, work, keep_old=keep_old, again=again, say=lambda line: None)
    assert keep_old or not ended.left
    return work.did, ended.failed


def test_done_runs_are_skipped_and_changes_are_noticed(catalogue, folders: Folders):
    runs = catalogue().runs
    assert do(runs, folders) == (["small-mnist-fa-s0", "small-mnist-fa-s1"], {})
    assert do(runs, folders) == ([], {})
    assert do(runs, folders, again=True)[0] == list(runs)
    saved = record_of(runs["small-mnist-fa-s1"], folders)
    assert (saved["id"], saved["rule"], saved["dataset"], saved["seed"], saved["epochs"], saved["test_error"]) == (
        "small-mnist-fa-s1", "fa", "mnist", 1, 2, 0.25
    )  # fmt: skip
    other = catalogue((LR, ", lr = 0.2")).runs
    state = state_of(other["small-mnist-fa-s0"], folders)
    assert (state.name, state.detail) == ("changed", "optimizer.lr 0.1 → 0.2")
    assert do(other, folders, keep_old=True) == ([], {})
    assert len(do(other, folders)[0]) == 2
    assert do(other, folders) == ([], {})


def test_records_without_a_fingerprint_or_of_another_notebook_are_broken(catalogue, folders: Folders, tmp_path: Path):
    runs = catalogue().runs
    folders = replace(folders, examples=tmp_path / "shown")
    folders.examples.mkdir()
    first, second = runs.values()
    (folders.examples / f"{second.id}.ipynb").write_text("an older run's\n")
    do(runs, folders)
    assert folders.notebook(second).read_text() == f"notebook of {second.id}\n"  # what the book shows goes with its run
    assert [p.name for p in folders.notebooks.iterdir()] == [f"{first.id}.ipynb"]
    assert record_of(first, folders)["notebook"] is None and len(record_of(second, folders)["notebook"]) == 16
    folders.notebook(second).write_text("another run's\n")
    assert state_of(second, folders) == State(
        "broken", f"{second.id}.ipynb belongs to another run", record_of(second, folders)
    )
    change_lines(
        path_of("small", data=folders.data), folders.data, put=record_of(first, folders) | {"fingerprint": "none"}
    )
    assert state_of(first, folders).detail == "its fingerprint 'none' is not on file"
    assert do(runs, folders)[0] == [first.id, second.id]
    path = path_of("small", data=folders.data)
    torn = path.read_text().splitlines()[1][:50]
    path.write_text(f'{torn}\n{{"id": "{second.id}", "parameters": {{}}, "code": {{}}}}\n')
    assert [state_of(run, folders).name for run in runs.values()] == ["missing", "broken"]
    assert len(do(runs, folders)[0]) == 2
    assert {state_of(run, folders).name for run in runs.values()} == {"done"}
    assert len(broken_lines(folders.data)) == 1  # kept, for whoever tore it


def test_a_failing_run_is_reported_and_the_others_go_on(catalogue, folders: Folders):
    runs = catalogue().runs
    did, failed = do(runs, folders, fails=("small-mnist-fa-s0",))
    assert len(did) == 2
    assert failed == {"small-mnist-fa-s0": "ValueError: no such thing (cell 3 of its notebook)"}
    assert [state_of(run, folders).name for run in runs.values()] == ["missing", "done"]


def test_a_search_chooses_on_the_validation_set_and_only_then_the_runs_start(catalogue, folders: Folders):
    runs = catalogue(*SEARCH).runs
    trials = [f"small-mnist-fa-lr{value}-s0" for value in ("0p1", "1p0", "2p0")]
    assert [trial.parameters["epochs"] for trial in runs["small-mnist-fa-s0"].trials] == [3, 3, 3]
    assert choose(runs["small-mnist-fa-s0"], folders) == State(
        "waits", "for 3 of 3 trials of optimizer.lr (0.1, 1.0, 2.0): 3 missing"
    )
    did, failed = do(runs, folders, errors={0.1: 0.3, 1.0: 0.2, 2.0: 1.0})
    assert (did, failed) == ([*trials, *runs], {})
    saved = record_of(runs["small-mnist-fa-s1"], folders)
    assert saved["parameters"]["optimizer"] == {"name": "SGD", "lr": 1.0}
    assert saved["chosen"] == {"key": "optimizer.lr", "value": 1.0, "of": [0.1, 1.0, 2.0]}
    assert not (folders.notebooks / f"{trials[0]}.ipynb").exists()
    assert do(runs, folders) == ([], {})


def test_runs_whose_search_failed_do_not_start(catalogue, folders: Folders):
    runs = catalogue(*SEARCH).runs
    did, failed = do(runs, folders, fails=("small-mnist-fa-lr1p0-s0",))
    assert not set(did) & set(runs)
    assert failed["small-mnist-fa-s0"] == "waits for 1 of 3 trials of optimizer.lr (0.1, 1.0, 2.0): 1 missing"
    did, failed = do(runs, folders, diverged=(0.1, 1.0, 2.0))  # of 0.1 and 2.0 there are trials that did not diverge
    assert did == ["small-mnist-fa-lr1p0-s0", *runs] and not failed


def test_if_all_trials_diverge_nothing_is_chosen(catalogue, folders: Folders):
    runs = catalogue(*SEARCH).runs
    did, failed = do(runs, folders, diverged=(0.1, 1.0, 2.0), errors={0.1: 1.0, 1.0: 1.0, 2.0: 1.0})
    assert not set(did) & set(runs)
    assert failed == dict.fromkeys(runs, "failed as all trials of optimizer.lr (0.1, 1.0, 2.0) diverged")


def test_of_equal_trials_the_first_is_chosen(catalogue, folders: Folders):
    runs = catalogue(*SEARCH).runs
    do(runs, folders, errors={0.1: 0.3, 1.0: 0.2, 2.0: 0.2})
    assert choose(runs["small-mnist-fa-s0"], folders).parameters["optimizer"]["lr"] == 1.0


def test_a_search_chooses_by_the_mean_over_its_seeds_and_not_by_the_luckiest(catalogue, folders: Folders):
    runs = catalogue(SEARCH[0], (RULE, SEARCH[1][1].replace("values", "seeds = [0, 1, 2], values"))).runs
    errors = {0.1: (0.05, 0.6, 0.4), 1.0: (0.3, 0.2, 0.25), 2.0: (0.5, 0.1, 0.5)}
    of_trials = {
        f"small-mnist-fa-lr{value}-s{seed}".replace(".", "p"): error
        for value, of_seeds in errors.items()
        for seed, error in enumerate(of_seeds)
    }
    did, failed = do(runs, folders, errors=of_trials)
    assert (sorted(did), failed) == (sorted([*of_trials, *runs]), {})
    best = min(errors, key=lambda value: np.mean(errors[value]))
    assert best != min(errors, key=lambda value: min(errors[value]))
    assert record_of(runs["small-mnist-fa-s0"], folders)["chosen"]["value"] == best


def test_more_values_in_a_search_repeat_nothing_if_the_choice_holds(catalogue, folders: Folders):
    do(catalogue(*SEARCH).runs, folders, errors={0.1: 0.3, 1.0: 0.2, 2.0: 0.4})
    more = catalogue(SEARCH[0], (RULE, SEARCH[1][1].replace("0.1, 1.0, 2.0", "1.0, 2.0, 3.0"))).runs
    first = more["small-mnist-fa-s0"]
    before = record_of(first, folders)
    assert do(more, folders, keep_old=True, errors={3.0: 0.4})[0] == ["small-mnist-fa-lr3p0-s0"]
    after = record_of(first, folders)
    assert after == before | {"chosen": {"key": "optimizer.lr", "value": 1.0, "of": [1.0, 2.0, 3.0]}}
    assert not states.pending(more.values(), folders)
    assert states.orphans(more.values(), folders) == ["small-mnist-fa-lr0p1-s0"]
    assert len(states.orphans([], folders)) == 6
    drop(first.trials[2], folders)
    assert do(more, folders, errors={3.0: 0.1})[0] == ["small-mnist-fa-lr3p0-s0", *more]  # now another rate is best


def test_what_is_on_record_is_kept_although_its_search_is_open(catalogue, folders: Folders, capsys, tmp_path: Path):
    do(catalogue(*SEARCH).runs, folders)
    runs = catalogue(SEARCH[0], (RULE, SEARCH[1][1].replace("0.1, 1.0, 2.0", "0.1, 1.0, 3.0"))).runs
    words = ["--catalogue", str(tmp_path / "catalogue.toml"), "--out", str(tmp_path / "out")]
    assert main(["list", *words]) == 0
    said = capsys.readouterr().out
    assert "small-mnist-fa-s0                           waits         25.00%        1  for 1 of 3 trials" in said
    assert said.endswith("2 waits\non record, but not in the catalogue: small-mnist-fa-lr2p0-s0\n")
    work = Stub(folders, fails=("small-mnist-fa-lr3p0-s0",))
    with folders.reserved():
        ended = run_all(list(runs.values()), folders, work, keep_old=True, say=lambda line: None)
    assert (list(ended.failed), ended.left) == (["small-mnist-fa-lr3p0-s0"], list(runs))


def test_runs_that_are_left_are_not_counted_as_done(tmp_path: Path, capsys, catalogue):
    do(catalogue((LR, ", lr = 0.2")).runs, Folders.below(tmp_path / "out"))
    assert main(cli(tmp_path, "run", "--all", "--keep-old")) == 0
    assert "0 of 2 runs are done, 2 left as they are" in capsys.readouterr().out


def test_a_trial_is_done_again_by_its_name(catalogue, folders: Folders, monkeypatch, tmp_path: Path, capsys):
    catalogue(*SEARCH)
    work = Stub(folders)
    monkeypatch.setattr("bioplaus_lite.runs.__main__.in_this_process", lambda folders, threads: work)
    words = ["--catalogue", str(tmp_path / "catalogue.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(["run", "--all", *words]) == 0
    work.did.clear()
    assert main(["run", "small-mnist-fa-lr*", "--again", *words]) == 0
    assert work.did == [f"small-mnist-fa-lr{value}-s0" for value in ("0p1", "1p0", "2p0")]
    assert "3 of 3 runs are done" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", "--all", "--again", "--keep-old", *words])


def test_whatever_cannot_be_stored_fails_that_run_alone(catalogue, folders: Folders, monkeypatch):
    store = runner.store

    def broken(run, *given):
        if run.id.endswith("s0"):
            raise KeyError("setting")
        return store(run, *given)

    monkeypatch.setattr(runner, "store", broken)
    assert do(catalogue().runs, folders)[1] == {"small-mnist-fa-s0": "'setting'"}


def test_a_trial_says_its_validation_error_and_a_run_that_diverged_says_so(catalogue):
    run = catalogue(*SEARCH).runs["small-mnist-fa-s0"]
    result = {"test_error": 0.25, "validation_error": 0.5, "wall_seconds": 1.0, "diverged": False}
    assert runner._said(run, result) == "small-mnist-fa-s0: test error 25.00 %, 1 s"
    assert runner._said(run.trials[0], result) == "small-mnist-fa-lr0p1-s0: validation error 50.00 %, 1 s"
    assert runner._said(run, result | {"diverged": True}) == "small-mnist-fa-s0: diverged, 1 s"


def test_whatever_happens_to_a_run_here_the_others_go_on(catalogue, folders: Folders, monkeypatch):
    monkeypatch.setattr(working, "execute", lambda *given, **more: 1 / 0)
    runs = list(catalogue().runs.values())
    with folders.reserved():
        ended = run_all(runs, folders, in_this_process(folders, 1), say=lambda line: None)
    assert ended.failed == {run.id: "ZeroDivisionError: division by zero" for run in runs}


def test_a_worker_with_other_code_is_refused(monkeypatch):
    class Worker:
        address = "tcp://far"

    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "get_worker", Worker)
    monkeypatch.setattr(working, "execute", lambda *given, **more: "done")
    for code in (package_digest(), None):
        assert working._task("r", {}, "T", None, 1, code) == "done"
    with pytest.raises(RunError, match="the package of the worker tcp://far is not the runner's"):
        working._task("r", {}, "T", None, 1, "0" * 16)


def test_a_setting_that_behaves_otherwise_sets_its_seeds_apart(catalogue, folders: Folders, monkeypatch):
    runs = catalogue().runs
    do(runs, folders)
    assert len(on_file(folders.data)) == 1 and len(load_runs("small", folders.data)) == 2
    monkeypatch.setitem(FINGERPRINT, "losses", [1.1])
    do(dict(list(runs.items())[:1]), folders, again=True)
    assert len(on_file(folders.data)) == 2
    with pytest.raises(MixedRuns, match="code of setting"):
        load_runs("small", folders.data)
    do(runs, folders, again=True)
    assert len(load_runs("small", folders.data)) == 2 and len(on_file(folders.data)) == 1


# --- what can go wrong with files ------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_says_so_and_stops_everything(catalogue, folders: Folders, monkeypatch):
    runs = catalogue().runs

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    work = Stub(folders)
    with folders.reserved():
        monkeypatch.setattr(records.os, "fsync", full)
        with pytest.raises(StoreError, match=r"small-mnist-fa-s0 was computed, but .*jsonl cannot be written: No sp"):
            run_all(list(runs.values()), folders, work)
    assert work.did == ["small-mnist-fa-s0"]
    assert [p for p in folders.data.rglob("*") if p.is_file()] == []


def test_a_disk_that_is_full_after_the_record_loses_only_the_notebook(catalogue, folders: Folders, monkeypatch):
    def full(path, text):
        if path.suffix == ".ipynb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text)

    write = runner.write
    monkeypatch.setattr(runner, "write", full)
    message = r"fa-s0\.ipynb cannot be written: No space left on device"
    with folders.reserved(), pytest.raises(StoreError, match=message):
        run_all(list(catalogue().runs.values()), folders, Stub(folders))
    assert [state_of(run, folders).name for run in catalogue().runs.values()] == ["done", "missing"]


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.json"
    records.write(path, "old")
    monkeypatch.setattr(records.os, "fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        records.write(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_disk_with_no_room_is_noticed_before_anything_is_computed(folders: Folders, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StoreError, match=r"has 0\.0 MB left on its disk; at least 20 are needed"), folders.reserved():
        pass


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_computed(tmp_path: Path, capsys):
    (tmp_path / "out").write_text("a file where a folder should be")
    (tmp_path / "c.toml").write_text(SMALL)
    arguments = ["--catalogue", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(["run", "--all", *arguments]) == 1
    assert f"cannot write to {tmp_path / 'out' / 'runs'}: Not a directory" in capsys.readouterr().err


def test_drafts_of_a_killed_process_are_removed_and_a_second_runner_is_refused(folders: Folders):
    for folder in (folders.data, folders.data / "runs", folders.data / "searches", folders.notebooks):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x.jsonl.1234.part").write_text("{")
    with folders.reserved():
        assert not [path for path in folders.data.rglob("*") if path.is_file()]
        save_run(record("r-0"), folders.data)  # another process may put its own record there meanwhile
        with pytest.raises(StoreError, match="another runner is at work in"), folders.reserved():
            pass
    with folders.reserved():
        pass


# --- the command line ------------------------------------------------------------------------------------------


def cli(tmp_path: Path, *words: str, text: str = SMALL) -> list[str]:
    (tmp_path / "c.toml").write_text(text)
    return [*words, "--catalogue", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]


def test_list_says_how_each_run_stands(tmp_path: Path, capsys, catalogue):
    do(catalogue((LR, ", lr = 0.2")).runs, Folders.below(tmp_path / "out"))
    more = 'b = {rule = "fa", search = {key = "options.x", values = [1, 2]}}'
    assert main(cli(tmp_path, "list", text=SMALL + 'dfa = {rule = "dfa"}\n')) == 0
    said = capsys.readouterr().out
    assert "small-mnist-fa-s0" in said and "optimizer.lr 0.2 → 0.1" in said
    assert said.endswith("2 changed, 2 missing\n")
    assert main(cli(tmp_path, "list", text=SMALL + more)) == 1
    assert "rule fa: unknown option 'x'" in capsys.readouterr().err


def test_bad_words_are_refused(tmp_path: Path, capsys):
    assert main(cli(tmp_path, "run", "smal-*")) == 1
    assert "no run is called 'smal-*'" in capsys.readouterr().err
    for words, complaint in (
        (["run"], "say which runs: IDs or --all"),
        (["run", "--all", "--jobs", "0"], "must be a whole number of at least 1, not '0'"),
        (["run", "--all", "x"], "say which runs"),
    ):
        with pytest.raises(SystemExit):
            main(cli(tmp_path, *words))
        assert complaint in capsys.readouterr().err
    assert main(["list", "--catalogue", str(tmp_path / "none.toml")]) == 1
    assert "none.toml cannot be read: No such file" in capsys.readouterr().err
    assert main(["list", "--catalogue", str(tmp_path)]) == 1
    assert "cannot be read: Is a directory" in capsys.readouterr().err
    assert main(cli(tmp_path, "run", "--all", "--scheduler", str(tmp_path / "none.json"))) == 1
    assert "none.json; an address looks like tcp://host:8786" in capsys.readouterr().err


# --- real notebooks in real kernels ------------------------------------------------------------------------------


def test_a_run_from_template_to_record(tmp_path: Path, capsys):
    """The book's own template, as the command line runs it."""
    assert main(cli(tmp_path, "run", "small-mnist-fa-s1", "--jobs", "1")) == 0
    assert "1 of 1 runs are done" in capsys.readouterr().out
    saved = recorded(tmp_path / "out")["small-mnist-fa-s1"]
    assert 0.05 < saved["test_error"] < 0.3 and saved["sizes"] == [784, 10, 10]
    assert saved["seconds"] < saved["wall_seconds"] and saved["peak_MiB"] > 100
    assert saved["machine"]["threads"] == 1
    assert {"python", "torch", "numpy", "papermill"} <= set(saved["versions"])
    assert set(saved["metrics"]) == {"train", "train_sample", "validation", "test", "rule"}
    assert saved["metrics"]["test"]["examples"] == [0, 9500, 19000]
    assert 0 < saved["metrics"]["rule"]["update_angle_1"][-1] < 90
    path = tmp_path / "out/trainings/small-mnist-fa-s1.ipynb"
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert notebook.cells[0].source.startswith("# small-mnist-fa-s1: Feedback alignment on MNIST\n")
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    assert recorded_problems(path, notebook) == []
    assert str(tmp_path) not in path.read_text() and MIME not in path.read_text()
    assert f"test error {100 * saved['test_error']:.2f} %" in notebook.cells[-1].outputs[0].data["text/plain"]
    words = ["--out", str(tmp_path / "out")]
    assert main(["verify", "small-*", "--jobs", "1", *words]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 records agree with the code: 1 settings, ")
    path = tmp_path / "out/fingerprints.jsonl"
    assert saved["fingerprint"] == json.loads(path.read_text())["id"]
    path.write_text(path.read_text().replace('"losses": [2.', '"losses": [3.'))
    before = path.read_text()
    assert main(["verify", "--all", "--jobs", "1", *words]) == 1
    said = capsys.readouterr().out
    assert said.startswith("differs: small-mnist-fa-s1: loss of step 1: 3.") and "0 of 1 records agree" in said
    assert path.read_text() == before  # nothing is made green by asking
    assert main(["verify", "smal-*", *words]) == 1
    assert "nothing on record is called 'smal-*'" in capsys.readouterr().err
    assert main(["verify", "--all", "--out", str(tmp_path / "empty")]) == 1
    assert "there was nothing to compare" in capsys.readouterr().err


def recorded_problems(path: Path, notebook: nbformat.NotebookNode) -> list[str]:
    size = path.stat().st_size
    return [
        *rules.format_problems(notebook),
        *rules.execution_problems(notebook),
        *rules.image_problems(notebook),
        *rules.volatile_problems(notebook),
        *([f"{size:,} bytes"] if size >= MAX_BYTES else []),
    ]


def shown_notebooks() -> list[Path]:
    return sorted(p for p in (ROOT / "book/trainings").glob("*.ipynb") if RECORDED.fullmatch(f"trainings/{p.stem}"))


def test_what_the_book_has_on_record_is_whole():
    """Every notebook shown belongs to its record, one a group, and no record comes from code that was being changed."""
    assert broken_lines() == []
    on_record, shown = recorded(), []
    for path in shown_notebooks():
        assert recorded_problems(path, nbformat.read(path, as_version=nbformat.NO_CONVERT)) == [], path.name
        assert states.checksum(path.read_text("utf-8")) == on_record[path.stem]["notebook"], path.name
        shown.append(on_record[path.stem]["group"])
    assert sorted(shown) == sorted(read_catalogue().groups)
    for name, saved in on_record.items():
        assert not saved["commit"].endswith("+"), f"{name}: computed by uncommitted code"
        assert saved["commit"] not in ("", "unknown"), f"{name}: computed by nobody knows what"
    for path in (*DATA.glob("runs/*.jsonl"), *DATA.glob("searches/*.jsonl")):
        assert {r["group"] for r in read_lines(path).records.values()} == {path.stem}
        assert list(read_lines(path).records) == sorted(read_lines(path).records)
    runs, folders = read_catalogue().runs.values(), Folders()
    assert {state_of(choose(run, folders), folders).name for run in runs} == {"done"}
    assert states.orphans(runs, folders) == [], "no longer in the catalogue"
    assert len(load_runs("seg")) >= 11


def test_diff_shows_old_and_new_errors(tmp_path: Path, capsys, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*words: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    out = ["--out", str(tmp_path / "data")]
    git("init", "-q")
    for i in range(3):
        save_run(record(f"r-{i}"), tmp_path / "data")
    save_run(record("r-t", validation_error=0.25, parameters={"purpose": "search"}), tmp_path / "data")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    assert main(["diff", *out]) == 0
    assert capsys.readouterr().out == "0 of 4 records differ from HEAD\n"
    save_run(record("r-1", test_error=0.125), tmp_path / "data")
    save_run(record("r-9", test_error=0.75), tmp_path / "data")
    save_run(record("r-t", validation_error=0.2, parameters={"purpose": "search"}), tmp_path / "data")
    assert main(["diff", *out]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["r-1", "test", "50.00", "%", "12.50", "%"],
        ["r-9", "test", "–", "75.00", "%"],
        ["r-t", "validation", "25.00", "%", "20.00", "%"],
        "3 of 5 records differ from HEAD".split(),
    ]
    assert main(["diff", "no-such-commit", *out]) == 1
    assert "git cannot say what 'no-such-commit' has on record" in capsys.readouterr().err


BODY = """
import json, os, sys, time
with open({log!r}, "a") as file:
    print("start", seed, os.getpid(), os.getppid(), file=file, flush=True)
for tenth in range({tenths} if seed in {slow} else 1):
    print("progress", tenth, {tenths}, file=sys.stderr, flush=True)
    time.sleep(0.1)
if seed in {fails}:
    raise ValueError("no such thing as seed " + str(seed))

class Result:
    def _repr_mimebundle_(self, include=None, exclude=None):
        fingerprint = {{"losses": [1.0], "gradients": [{{}}], "changes": {{}}, "measures": {{}}, "single": None,
                       "diverged": None}}
        result = {{"sizes": [1], "test_error": 0.5, "validation_error": 0.5, "seconds": 1.0, "commit": "c",
                  "diverged": False, "fingerprint": fingerprint}}
        return {{"text/plain": "result", {mime!r}: json.dumps(result)}}
print("careful", file=sys.stderr)
Result()
"""


@pytest.fixture
def quick_template(tmp_path: Path):
    """A function that writes a template which trains nothing, slowly where asked, and notes each start in a log."""

    def make(slow=(), fails=(), tenths: int = 300) -> tuple[Path, Path]:
        log, path = tmp_path / "log", tmp_path / "template.ipynb"
        source = BODY.format(log=str(log), slow=slow, fails=fails, tenths=tenths, mime=MIME)
        cells = [
            new_markdown_cell("# T"),
            new_code_cell("seed = 0", metadata={"tags": ["parameters"]}),
            new_code_cell(source),
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
        return path, log

    return make


def starts(log: Path) -> list[list[int]]:
    """``[seed, kernel, parent]`` of each start so far."""
    return [[int(word) for word in line.split()[1:]] for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(condition, seconds: float = 180):
    deadline = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return got


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_error_of_a_notebook_is_told_in_its_own_words_and_progress_on_the_way(quick_template, catalogue):
    template, _ = quick_template(slow=(0,), fails=(1,), tenths=3)
    runs, told = catalogue().runs, []
    folders = Folders(template=template)
    good, bad = in_this_process(folders, 1)(list(runs.values()), lambda *at: told.append(at))
    assert told == [("small-mnist-fa-s0", n, 3) for n in range(3)] + [("small-mnist-fa-s1", 0, 3)]
    text, result, warnings = good[1]
    assert (result["test_error"], warnings) == (0.5, ["careful"])
    assert '"name": "stderr"' not in text and "# small-mnist-fa-s0: Feedback alignment on MNIST" in text
    assert str(bad[1]).startswith("ValueError: no such thing as seed 1 (cell 3 of its notebook)")
    assert "raise ValueError" in str(bad[1])


def test_a_run_takes_its_own_kernel_whatever_else_is_called_python3(tmp_path: Path, quick_template, monkeypatch):
    foreign = tmp_path / "share" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    template, _ = quick_template()
    before = dict(os.environ)
    _, result, _ = execute({"rule": "fa", "seed": 0}, "T", template=template)
    assert result["test_error"] == 0.5 and dict(os.environ) == before


def test_a_template_without_a_result_is_refused(tmp_path: Path, quick_template):
    path, _ = quick_template()
    path.write_text(path.read_text().replace("Result()", "pass"))
    with pytest.raises(RunError, match="ended without a result"):
        execute({"rule": "fa", "seed": 0}, "T", template=path)


def test_a_killed_runner_leaves_nothing_and_starts_again(tmp_path: Path, quick_template):
    template, log = quick_template(slow=(1,))
    words = cli(tmp_path, "run", "--all", "--jobs", "1", "--template", str(template))
    process = subprocess.Popen(
        [sys.executable, "-m", "bioplaus_lite.runs", *words], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    _, (_, kernel, parent) = wait_for(lambda: len(starts(log)) == 2 and starts(log))
    assert parent == process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(kernel), 10)
    left = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert left == ["fingerprints.jsonl", "small-mnist-fa-s0.ipynb", "small.jsonl"]
    text = template.read_text()
    template.write_text(text.replace("seed in (1,)", "seed in ()"))
    assert main(words) == 0
    assert [seed for seed, *_ in starts(log)] == [0, 1, 1]
    assert list(recorded(tmp_path / "out")) == ["small-mnist-fa-s0", "small-mnist-fa-s1"]


@contextlib.contextmanager
def dask_processes(tmp_path: Path, workers: int):
    """A scheduler and workers as processes of their own; yields the scheduler's file and the workers."""
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    processes = []

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", *words, *common]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return processes[-1]

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        wait_for(file.exists)
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path))
        yield file, [start("worker", *options) for _ in range(workers)]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def test_a_worker_is_killed_in_mid_run_and_every_run_still_ends_once(tmp_path: Path, quick_template, catalogue):
    from distributed import Client

    template, log = quick_template(slow=(0, 1, 2, 3), fails=(3,), tenths=15)
    folders = Folders.below(tmp_path / "out", template)
    runs = catalogue(("seeds = [0, 1]", "seeds = [0, 1, 2, 3]")).runs
    ended, killed, heard = [], [], []

    with dask_processes(tmp_path, 2) as (file, workers), Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(2, timeout=180)
        work = on_dask(client, folders, 1)

        def watched(todo, told):
            def kill():
                # A worker that has done a run, whose result must not be lost with it, and is at its second.
                seed = runs[wait_for(lambda: ended)[0]].parameters["seed"]
                worker = next(parent for done, _, parent in starts(log) if done == seed)
                last = wait_for(lambda: [start for start in starts(log) if start[2] == worker][1:])[-1]
                os.kill(worker, signal.SIGKILL)
                killed.append(last)

            thread = threading.Thread(target=kill)
            thread.start()
            for run, result in work(todo, lambda *at: (told(*at), heard.append(at))):
                ended.append(run.id)
                yield run, result
            thread.join()

        with folders.reserved():
            failed = run_all(list(runs.values()), folders, watched).failed
        assert sorted(worker.poll() is None for worker in workers) == [False, True]
    ((seed, kernel, parent),) = killed
    assert parent in [worker.pid for worker in workers]
    assert {name for name, *_ in heard} == set(runs)
    assert sorted(ended) == sorted(runs)
    assert sorted(seed for seed, *_ in starts(log)) == sorted([0, 1, 2, 3, seed])
    assert failed == {"small-mnist-fa-s3": "ValueError: no such thing as seed 3 (cell 3 of its notebook)"}
    assert [state_of(run, folders).name for run in runs.values()] == ["done", "done", "done", "missing"]
    wait_for(lambda: not alive(kernel), 10)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("bioplaus_lite.runs.__main__.PATIENCE", 1)
    words = cli(tmp_path, "run", "--all", "--scheduler", "tcp://127.0.0.1:9")
    assert main(words) == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
