"""Full-length trainings: the catalogue is strict, done runs stay done, what dies leaves nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
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

from bioplaus_lite import MLP, make_rule
from bioplaus_lite.diagnostics import inverse_jacobian_angles, update_snr
from bioplaus_lite.plots import FAMILIES, SHORT, bands, family_grid, style_of
from bioplaus_lite.runs import mean_and_interval, reached, records, runner, tidy
from bioplaus_lite.runs.__main__ import main
from bioplaus_lite.runs.catalogue import CatalogueError, read_catalogue
from bioplaus_lite.runs.notebooks import MAX_BYTES, RunError, execute
from bioplaus_lite.runs.recipe import MIME, Measures, Outcome, build_network, optimizer_from, scheduler_from
from bioplaus_lite.runs.records import RUNS, MixedRuns, code_digests, load_runs, save_run
from bioplaus_lite.runs.runner import Folders, State, StoreError, choose, here, on_dask, run_all, state_of
from bioplaus_lite.training import fit

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
        ("epochs = 2", "epochs = 2\nturns = true", "only a target rule has inverses"),
        ("size = 500", "size = 10000", r"validation\.size must be a whole number from 1 to 9999, not 10000"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"'seeds' must be a list of different values, not \[0, 0\]"),
        ("seeds = [0, 1]", "seeds = [-1]", "seed must be a whole number ≥ 0, not -1"),
        ("seeds = [0, 1]", "", "'seeds' must be a list"),
        ('"mnist"', '"mnits"', "unknown dataset 'mnits'; choose one of mnist, fashion, cifar10"),
        ('"shipped"', '"whole"', "unknown subset 'whole'; choose one of shipped, full"),
        ('"MLP"', '"RNN"', "unknown network type 'RNN'; choose one of MLP, CNN, RateNetwork"),
        ("hidden = [10]", "hidden = [0]", "positive whole number, not 0"),
        ("hidden = [10]", "hidden = 10", "network: hidden must be a list of whole numbers, not 10"),
        ("hidden = [10]", "hiden = [10]", "network MLP: unknown option 'hiden'; allowed are activation"),
        ("hidden = [10]", 'activation = "softplus"', "unknown activation 'softplus'; choose one of linear"),
        ("hidden = [10]", "seed = 3", "the seed of the weights is the seed of the run"),
        ("hidden = [10]", 'dtype = "int8"', "unknown dtype 'int8'; choose one of float32, float64"),
        ('"SGD"', '"Adm"', "unknown optimizer 'Adm'; choose one of SGD, RMSprop, Adam, AdamW"),
        (LR, ", lr = -1.0", "learning rate: -1.0"),
        (LR, "", "no learning rate 'lr' for the group 'forward'"),
        (LR, ", lr = 0.1, momentun = 1", "optimizer SGD: unknown option 'momentun'; allowed are lr, momentum"),
        (LR, ", forward = {lr = 0.1}, back = {lr = 1.0}", "unknown parameter group 'back'; choose one of forward"),
        (RULE, 'fa = {rule = "tp", options = {alpha = -1}}', r"small\.runs\.fa: .*alpha must be positive|hidden"),
        (RULE, 'fa = {rule = "fa", options = {noise = 1}}', "rule fa: unknown option 'noise'; allowed are none"),
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
    assert {(p["rule"], p["dataset"], p["seed"]) for p in review} >= {
        (rule, dataset, seed)
        for rule in RULES
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
    index = (ROOT / "book/trainings/index.md").read_text("utf-8")
    assert all(f"```{{runs}} {group}\n" in index for group in published.groups), "a group without its table"


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
        turns.append(rule.trains)
        rates.append(optimizer.param_groups[0]["lr"])
        return {}

    schedule = scheduler_from(rule, {"name": "ExponentialLR", "gamma": 0.5}, turns=True)
    history = fit(rule, data, {"validation": data, "test": data}, epochs=4, batch_size=10, optimizer=optimizer,
                  scheduler=schedule, measure=measure)  # fmt: skip
    assert turns == ["inverse", "inverse", "forward", "inverse", "forward"]
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


# --- which code decides --------------------------------------------------------------------------------------


def test_of_the_code_only_what_can_change_a_result_counts(tmp_path: Path):
    package, template = tmp_path / "bioplaus_lite", tmp_path / "train.ipynb"
    shutil.copytree(ROOT / "bioplaus_lite", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(records.TEMPLATE, template)

    def changed(rule: str, name: str, old: str, new: str) -> set[str]:
        before, path = code_digests(rule, template, package), tmp_path / name
        text = path.read_text("utf-8")
        assert old in text, (name, old)
        path.write_text(text.replace(old, new, 1))
        after = code_digests(rule, template, package)
        path.write_text(text)
        return {part for part in after if before[part] != after[part]}

    target, lib = "rules.target_propagation", "bioplaus_lite/"
    assert changed("dtp", f"{lib}rules/target_propagation.py", "def respond", "# why\n    def respond") == set()
    assert changed("dtp", f"{lib}rules/target_propagation.py", "mul_(2 /", "mul_(3 /") == {target}
    assert changed("fa", f"{lib}rules/target_propagation.py", "mul_(2 /", "mul_(3 /") == set()
    assert changed("fa", f"{lib}rules/base.py", "div_(batch)", "div_(2 * batch)") == {"rules.base"}
    assert changed("segregated", f"{lib}rules/segregated/kernels.py", "\n\n\n", "\n\n\nx = 1\n") == {"rules.segregated"}
    assert changed("fa", f"{lib}data.py", "div_(255)", "div_(256)") == {"data"}
    assert changed("fa", f"{lib}data.py", "TIMEOUT = (3, 10)", "TIMEOUT = (3, 11)") == set()
    assert changed("fa", f"{lib}diagnostics.py", "torch.rad2deg(2 *", "torch.rad2deg(3 *") == {"diagnostics"}
    assert changed("fa", "train.ipynb", "1000 + seed", "2000 + seed") == {"template"}
    assert changed("fa", "train.ipynb", "epochs = 2", "epochs = 3") == set()  # a parameter
    assert changed("fa", "train.ipynb", "the authors'", "its authors'") == set()


def record(name: str, /, **more) -> dict:
    keys = {"rule": "fa", "dataset": "mnist", "sizes": [4, 3], "seed": 0, "epochs": 1, "test_error": 0.5}
    return {"id": name, **keys, **more}


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ({"commit": "a"}, {"commit": "b"}, r"\(code, commit\): a: r-0 and 0 more; b: r-1"),
        ({"commit": "a"}, {"commit": "a+"}, r"commit\): a: r-0"),
        (
            {"commit": "a", "code": {"training": "1"}},
            {"commit": "a", "code": {"training": "2"}},
            r"\(code, training\): 1: r-0",
        ),
        ({"commit": "a"}, {"commit": "a", "code": {"training": "1"}}, "kind of record"),
        ({"commit": "a"}, {"commit": "a"}, None),
        (
            {"commit": "a", "code": {"training": "1", "x": "1"}},
            {"commit": "b", "code": {"training": "1", "y": "2"}},
            None,
        ),
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


def test_a_record_comes_back_as_it_was_with_its_lists_on_one_line(tmp_path: Path):
    words = ["[\n 1,\n 2\n]", 'a, "b"', "{[", "line\nbreak"]
    given = record("r-0", words=words, empty=[], nested=[[1, 2.5], [], [None, {"x": [True]}]])
    text = save_run(given, tmp_path).read_text("utf-8")
    assert json.loads(text) == json.loads(json.dumps(given))
    assert '"sizes": [' in text and not re.search(r"\[\n\s+[\d.]+,", text)
    assert len(text) < len(json.dumps(given, indent=1))


def test_seeds_of_other_parameters_are_not_mixed_and_a_torn_file_is_named(tmp_path: Path):
    keys = {"group": "r", "dataset": "mnist", "name": "fa"}
    save_run(record("r-0", parameters={"seed": 0, "epochs": 10}, **keys), tmp_path)
    save_run(record("r-1", parameters={"seed": 1, "epochs": 10}, **keys), tmp_path)
    assert len(load_runs("r-", tmp_path)) == 2
    save_run(record("r-2", parameters={"seed": 2, "epochs": 5}, **keys), tmp_path)
    with pytest.raises(MixedRuns, match=r"\(epochs of r-mnist-fa\): 10: r-0 and 1 more; 5: r-2 and 0 more"):
        load_runs("r-", tmp_path)
    (tmp_path / "r-3.json").write_text("{")
    with pytest.raises(ValueError, match=r"r-3\.json is no record of a run: Expecting property name"):
        load_runs("r-", tmp_path)


@pytest.mark.parametrize("variable", ["PATH", "GIT_DIR"])  # no git, and a folder that is no repository
def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch, variable: str):
    monkeypatch.setenv(variable, str(tmp_path))
    assert records.provenance()["commit"] == "unknown"


def test_trials_of_a_search_are_loaded_only_when_asked_for(tmp_path: Path):
    save_run(record("r-0"), tmp_path)
    save_run(record("r-lr1-s0", parameters={"purpose": "search"}), tmp_path)
    assert load_runs("r-", tmp_path).id.tolist() == ["r-0"]
    assert load_runs("r-", tmp_path, purpose="search").id.tolist() == ["r-lr1-s0"]
    with pytest.raises(FileNotFoundError, match=r"none of the 1 runs called 'r-0'… in .* is a search"):
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


def test_where_a_curve_reaches_a_target(curves_on_record):
    curve = tidy(curves_on_record.query("seed == 1"), "accuracy")
    assert reached(curve, 0.3) == pytest.approx(25)
    assert reached(curve, 0.7, "seconds") == pytest.approx(3)
    assert reached(curve, 0.05) == 0
    assert np.isnan(reached(curve, 0.95))


def test_the_bands_of_a_figure_are_the_seeds(curves_on_record):
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = bands(tidy(curves_on_record, "accuracy"), ylabel="accuracy")
    (line,), (band,) = ax.get_lines(), ax.collections
    assert line.get_label() == "Backprop"
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.1], [50, 0.5], [100, 0.85]])
    edges = band.get_paths()[0].vertices
    assert edges[edges[:, 0] == 100, 1].min() == 0.8 and edges[:, 1].max() == 0.9
    plt.close()


def test_no_two_runs_look_alike_and_none_of_a_family_share_a_colour():
    looks = [tuple(style_of(name).values())[:2] for name in SHORT]
    assert len(set(looks)) == len(SHORT)
    for names in FAMILIES.values():
        assert len({style_of(name)["color"] for name in names}) == len(names)


@pytest.mark.parametrize("lowest, shown", [(50.0, [50, 60, 70, 80, 90]), (2.0, [3, 10, 30, 100])])
def test_a_logarithmic_axis_has_ticks_however_short_it_is(curves_on_record, lowest, shown):
    plt = pytest.importorskip("matplotlib.pyplot")
    frame = tidy(curves_on_record, "accuracy").assign(value=[90.0, 70.0, lowest] * 2)
    fig = family_grid({"error (%)": frame}, logarithmic=["error (%)"])
    axis = fig.axes[0].yaxis
    low, high = sorted(fig.axes[0].get_ylim())
    assert [v for v in axis.get_majorticklocs() if low <= v <= high] == pytest.approx(shown)
    assert axis.get_major_formatter()(shown[0]) == f"{shown[0]}"
    plt.close()


# --- doing runs, with a stand-in for the training --------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders.below(tmp_path / "out")


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
                "validation_error": self.errors.get(rate, 0.5), "commit": "c",
                "code": dict(runner.current_code(run, self.folders)), "wall_seconds": 1.0, "seconds": 1.0,
                "diverged": rate in self.diverged,
            }  # fmt: skip
            yield run, (f"notebook of {run.id}\n", result, [])


def do(runs, folders: Folders, **how) -> tuple[list[str], dict[str, str]]:
    keep_old = how.pop("keep_old", False)
    work = Stub(folders, **how)
    with folders.ours():
        ended = run_all(list(runs.values()), folders, work, keep_old=keep_old, say=lambda line: None)
    assert keep_old or not ended.left
    return work.did, ended.failed


def test_done_runs_are_skipped_and_changes_are_noticed(catalogue, folders: Folders):
    runs = catalogue().runs
    assert do(runs, folders) == (["small-mnist-fa-s0", "small-mnist-fa-s1"], {})
    assert do(runs, folders) == ([], {})
    saved = json.loads(folders.record(runs["small-mnist-fa-s1"]).read_text())
    assert (saved["id"], saved["rule"], saved["dataset"], saved["seed"], saved["epochs"], saved["test_error"]) == (
        "small-mnist-fa-s1", "fa", "mnist", 1, 2, 0.25
    )  # fmt: skip
    other = catalogue((LR, ", lr = 0.2")).runs
    state = state_of(other["small-mnist-fa-s0"], folders)
    assert (state.name, state.detail) == ("changed", "optimizer.lr 0.1 → 0.2")
    assert do(other, folders, keep_old=True) == ([], {})
    assert len(do(other, folders)[0]) == 2
    assert do(other, folders) == ([], {})


def test_records_of_other_code_and_torn_pairs_are_noticed(catalogue, folders: Folders):
    runs = catalogue().runs
    do(runs, folders)
    first, second = runs.values()
    path = folders.record(first)
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"code": saved["code"] | {"training": "000"}}))
    state = state_of(first, folders)
    assert state.name == "stale" and "other code: training" in state.detail
    folders.notebook(second).write_text("another run's\n")
    assert state_of(second, folders).name == "broken"
    assert do(runs, folders)[0] == [first.id, second.id]
    folders.notebook(second).unlink()
    path.write_text("{")
    assert [state_of(run, folders).name for run in runs.values()] == ["broken", "broken"]
    assert len(do(runs, folders)[0]) == 2
    assert {state_of(run, folders).name for run in runs.values()} == {"done"}


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
    saved = json.loads(folders.record(runs["small-mnist-fa-s1"]).read_text())
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


def test_more_values_in_a_search_repeat_nothing_if_the_choice_holds(catalogue, folders: Folders):
    do(catalogue(*SEARCH).runs, folders, errors={0.1: 0.3, 1.0: 0.2, 2.0: 0.4})
    more = catalogue(SEARCH[0], (RULE, SEARCH[1][1].replace("0.1, 1.0, 2.0", "1.0, 2.0, 3.0"))).runs
    first = more["small-mnist-fa-s0"]
    before = json.loads(folders.record(first).read_text())
    assert do(more, folders, keep_old=True, errors={3.0: 0.4})[0] == ["small-mnist-fa-lr3p0-s0"]
    after = json.loads(folders.record(first).read_text())
    assert after == before | {"chosen": {"key": "optimizer.lr", "value": 1.0, "of": [1.0, 2.0, 3.0]}}
    assert not runner.pending(more.values(), folders)
    assert runner.orphans(more.values(), folders) == ["small-mnist-fa-lr0p1-s0"]
    assert runner.orphans([], folders) == []
    folders.record(first.trials[2]).unlink()
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
    with folders.ours():
        ended = run_all(list(runs.values()), folders, work, keep_old=True, say=lambda line: None)
    assert (list(ended.failed), ended.left) == (["small-mnist-fa-lr3p0-s0"], list(runs))


def test_runs_that_are_left_are_not_counted_as_done(tmp_path: Path, capsys, catalogue):
    do(catalogue((LR, ", lr = 0.2")).runs, Folders.below(tmp_path / "out"))
    assert main(cli(tmp_path, "run", "--all", "--keep-old")) == 0
    assert "0 of 2 runs are done, 2 left as they are" in capsys.readouterr().out


def test_a_trial_says_its_validation_error_and_a_run_that_diverged_says_so(catalogue):
    run = catalogue(*SEARCH).runs["small-mnist-fa-s0"]
    result = {"test_error": 0.25, "validation_error": 0.5, "wall_seconds": 1.0, "diverged": False}
    assert runner._said(run, result) == "small-mnist-fa-s0: test error 25.00 %, 1 s"
    assert runner._said(run.trials[0], result) == "small-mnist-fa-lr0p1-s0: validation error 50.00 %, 1 s"
    assert runner._said(run, result | {"diverged": True}) == "small-mnist-fa-s0: diverged, 1 s"


def test_whatever_happens_to_a_run_here_the_others_go_on(catalogue, folders: Folders, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda *given, **more: 1 / 0)
    runs = list(catalogue().runs.values())
    with folders.ours():
        ended = run_all(runs, folders, here(folders, 1), say=lambda line: None)
    assert ended.failed == {run.id: "ZeroDivisionError: division by zero" for run in runs}


def test_code_that_is_edited_while_runs_go_on_is_noticed(catalogue, folders: Folders, monkeypatch, tmp_path: Path):
    template = tmp_path / "template.ipynb"
    shutil.copy(folders.template, template)
    folders, run = Folders.below(tmp_path / "out", template), catalogue().runs["small-mnist-fa-s0"]
    before = runner.current_code(run, folders)
    shutil.copytree(ROOT / "bioplaus_lite", tmp_path / "bioplaus_lite", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(
        runner, "code_digests", lambda rule, template: code_digests(rule, template, tmp_path / "bioplaus_lite")
    )
    assert runner.current_code(run, folders) == before
    path = tmp_path / "bioplaus_lite/training.py"
    path.write_text(path.read_text() + "\nfast = True\n")
    assert runner.current_code(run, folders)["training"] != before["training"]


def test_a_result_of_other_code_is_dropped(catalogue, folders: Folders):
    run = catalogue().runs["small-mnist-fa-s0"]
    code = runner.current_code(run, folders) | {"training": "000"}
    with pytest.raises(RunError, match=r"other code computed it than is here now \(training\)"):
        runner.store(run, "text", {"code": code}, folders)


# --- what can go wrong with files ------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_says_so_and_stops_everything(catalogue, folders: Folders, monkeypatch):
    runs = catalogue().runs

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    work = Stub(folders)
    with folders.ours():
        monkeypatch.setattr(records.os, "fsync", full)
        with pytest.raises(StoreError, match=r"small-mnist-fa-s0 was computed, but .*ipynb cannot be written: No sp"):
            run_all(list(runs.values()), folders, work)
    assert work.did == ["small-mnist-fa-s0"]
    assert [*folders.records.iterdir(), *folders.notebooks.iterdir()] == []


def test_a_disk_that_is_full_between_notebook_and_record_leaves_neither(catalogue, folders: Folders, monkeypatch):
    def full(record, folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runner, "save_run", full)
    with folders.ours(), pytest.raises(StoreError, match=r"fa-s0\.json cannot be written: No space left on device"):
        run_all(list(catalogue().runs.values()), folders, Stub(folders))
    assert [*folders.records.iterdir(), *folders.notebooks.iterdir()] == []


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.json"
    records.write(path, "old")
    monkeypatch.setattr(records.os, "fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        records.write(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_disk_with_no_room_is_noticed_before_anything_is_computed(folders: Folders, monkeypatch):
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda folder: runner.shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StoreError, match=r"has 0\.0 MB left on its disk; at least 20 are needed"), folders.ours():
        pass


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_computed(tmp_path: Path, capsys):
    (tmp_path / "out").write_text("a file where a folder should be")
    (tmp_path / "c.toml").write_text(SMALL)
    arguments = ["--catalogue", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(["run", "--all", *arguments]) == 1
    assert f"cannot write to {tmp_path / 'out' / 'runs'}: Not a directory" in capsys.readouterr().err


def test_drafts_of_a_killed_process_are_removed_and_a_second_runner_is_refused(folders: Folders):
    folders.records.mkdir(parents=True)
    (folders.records / "x.json.part").write_text("{")
    with folders.ours():
        assert not list(folders.records.iterdir())
        with pytest.raises(StoreError, match="another runner is at work in"), folders.ours():
            pass
    with folders.ours():
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
    saved = json.loads((tmp_path / "out/runs/small-mnist-fa-s1.json").read_text())
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


def recorded_problems(path: Path, notebook: nbformat.NotebookNode) -> list[str]:
    size = path.stat().st_size
    return [
        *rules.format_problems(notebook),
        *rules.execution_problems(notebook),
        *rules.image_problems(notebook),
        *rules.volatile_problems(notebook),
        *([f"{size:,} bytes"] if size >= MAX_BYTES else []),
    ]


def recorded() -> list[Path]:
    return sorted(p for p in (ROOT / "book/trainings").glob("*.ipynb") if RECORDED.fullmatch(f"trainings/{p.stem}"))


def test_what_the_book_has_on_record_is_whole():
    """Every stored notebook belongs to its record, and no record comes from a package that was being changed."""
    for path in recorded():
        assert (RUNS / f"{path.stem}.json").is_file(), f"{path.name} has no record"
        assert recorded_problems(path, nbformat.read(path, as_version=nbformat.NO_CONVERT)) == [], path.name
    for path in RUNS.glob("*.json"):
        saved = json.loads(path.read_text("utf-8"))
        assert saved["id"] == path.stem
        assert not saved["commit"].endswith("+"), f"{path.name}: computed by uncommitted code"
        assert saved["commit"] not in ("", "unknown"), f"{path.name}: computed by nobody knows what"
        if saved.get("notebook"):
            text = (ROOT / "book/trainings" / f"{path.stem}.ipynb").read_text("utf-8")
            assert runner._checksum(text) == saved["notebook"], f"{path.name} and its notebook are of different runs"
    assert runner.orphans(read_catalogue().runs.values(), Folders()) == [], "no longer in the catalogue"
    assert len(load_runs("seg")) >= 11


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
        result = {{"sizes": [1], "test_error": 0.5, "validation_error": 0.5, "seconds": 1.0, "commit": "c",
                  "diverged": False}}
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
    good, bad = here(folders, 1)(list(runs.values()), lambda *at: told.append(at))
    assert told == [("small-mnist-fa-s0", n, 3) for n in range(3)] + [("small-mnist-fa-s1", 0, 3)]
    text, result, warnings = good[1]
    assert (result["test_error"], warnings) == (0.5, ["careful"])
    assert '"name": "stderr"' not in text and "# small-mnist-fa-s0: Feedback alignment on MNIST" in text
    assert str(bad[1]).startswith("ValueError: no such thing as seed 1 (cell 3 of its notebook)")
    assert "raise ValueError" in str(bad[1])


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
    assert left == ["small-mnist-fa-s0.ipynb", "small-mnist-fa-s0.json"]
    text = template.read_text()
    template.write_text(text.replace("seed in (1,)", "seed in ()"))
    for name in ("small-mnist-fa-s0.json",):  # the same template but for its length: keep what is done
        path = tmp_path / "out/runs" / name
        saved = json.loads(path.read_text())
        saved["code"] = code_digests("fa", template)
        path.write_text(json.dumps(saved))
    assert main(words) == 0
    assert [seed for seed, *_ in starts(log)] == [0, 1, 1]
    assert len(list((tmp_path / "out/runs").iterdir())) == 2


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

        with folders.ours():
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
