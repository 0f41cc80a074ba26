"""A run that is trained in this process gives what the same pieces give when they are put together by hand."""

from __future__ import annotations

import ast
import copy
import json
import math
import subprocess
import sys
from functools import lru_cache
from typing import Any

import nbformat
import pytest
import torch
from conftest import ROOT

from bioplaus_lite.data import Dataset, load
from bioplaus_lite.runs import notebooks
from bioplaus_lite.runs import train as training
from bioplaus_lite.runs.catalogue import DEFAULTS, OPTIONAL, Run, Search
from bioplaus_lite.runs.recipe import build_network, build_rule, optimizer_from, scheduler_from, split_of, turns_of
from bioplaus_lite.runs.train import Measures, Outcome, complete, other_accuracies, prepare, train
from bioplaus_lite.training import fit

QUICK: dict[str, Any] = {
    "rule": "fa", "dataset": "mnist", "subset": "shipped",
    "network": {"type": "MLP", "hidden": [12, 10], "activation": "tanh"}, "options": {},
    "optimizer": {"name": "Adam", "lr": 1e-3}, "schedule": None, "turns": False, "epochs": 2, "batch_size": 50,
    "validation": {"size": 200, "seed": 0}, "examples": 300, "every": None, "marks": [], "measures": [], "seed": 3,
    "purpose": "result",
}  # fmt: skip
DIVERGES = {
    "rule": "backprop", "network": {"type": "MLP", "hidden": [12]}, "optimizer": {"name": "SGD", "lr": 1e38},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "layered, measured at marks": {
        "marks": [70, 130], "measures": ["feedback_angle"], "schedule": {"name": "ExponentialLR", "gamma": 0.5}
    },
    "by turns": {"rule": "dtp", "turns": True, "every": 200},
    "online": {
        "rule": "segregated", "network": {"type": "RateNetwork", "hidden": [10]}, "optimizer": {"name": "SGD"},
        "batch_size": 20, "examples": 100, "epochs": 1,
    },
    "nothing held out": {"rule": "kolen_pollack", "validation": {"size": 0, "seed": 0}, "epochs": 1},
    "images, in float64": {
        "rule": "backprop", "dataset": "cifar10", "network": {"type": "CNN", "channels": [2], "dtype": "float64"},
        "examples": 100, "epochs": 1,
    },
    "a trial that diverges": DIVERGES | {"purpose": "search"},
}  # fmt: skip


@pytest.fixture(params=CASES.values(), ids=CASES)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return copy.deepcopy(QUICK | request.param)


@lru_cache
def mnist() -> Dataset:
    return load("mnist")


def by_hand(p: dict[str, Any]) -> Outcome:
    """What the cells of the template said one by one, before one function said it."""
    data = mnist() if p["dataset"] == "mnist" else load(p["dataset"], p["subset"])
    x, y, x_val, y_val = split_of(data, p["validation"])
    x, y = x[: p["examples"]], y[: p["examples"]]
    net = build_network(p["network"], data.image_shape, len(data.classes), seed=p["seed"])
    learner = build_rule(p["rule"], net, seed=1000 + p["seed"], **p["options"])
    dtype = net.weight(1).dtype
    test = data.x_test.to(dtype), data.y_test
    sample = len(x_val) or 5000
    measured = {"train_sample": (x[:sample].to(dtype), y[:sample])}
    if len(x_val):
        measured["validation"] = x_val.to(dtype), y_val
    measured["test"] = test
    probe = measured.get("validation", test)
    measure = Measures(learner, probe[0][:1000], probe[1][:1000], test, p["measures"])
    phases = turns_of(learner, p["turns"])
    passes, diverged = len(phases) or 1, False
    try:
        history = fit(
            learner, (x.to(dtype), y), measured, epochs=passes * p["epochs"], batch_size=p["batch_size"],
            seed=p["seed"], optimizer=optimizer_from(p["optimizer"]), scheduler=scheduler_from(p["schedule"]),
            turns=phases, measure=measure, every=p["every"] or passes * len(x), marks=p["marks"],
        )  # fmt: skip
    except FloatingPointError as error:
        history, diverged = error.history, True
    return Outcome(learner, history, {}, passes=passes, diverged=diverged)


TEMPLATE = [cell for cell in nbformat.read(ROOT / "book/trainings/train.ipynb", 4).cells if cell.cell_type == "code"]


def template(p: dict[str, Any], monkeypatch) -> dict[str, Any]:
    """The names that the cells of the template leave, executed with these parameters."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", plt.close)
    page: dict[str, Any] = {}
    with plt.rc_context():
        for cell in TEMPLATE:
            exec(cell.source, page)
            if "parameters" in cell.metadata.get("tags", []):
                page |= copy.deepcopy(p)
    return page


def numbers(record: dict[str, Any]) -> str:
    """All that a record says of the result, to the last bit; not how long it took, and where."""
    kept = {k: record[k] for k in ("sizes", "test_error", "validation_error", "diverged", "metrics")}
    kept["metrics"] = {
        split: {name: values for name, values in curves.items() if name != "seconds"}
        for split, curves in kept["metrics"].items()
    }
    return json.dumps(kept)


# --- the same numbers ------------------------------------------------------------------------------------------------


def test_a_run_gives_what_its_pieces_give_by_hand_and_in_the_template(settings: dict[str, Any], monkeypatch):
    before, generator = copy.deepcopy(settings), torch.get_rng_state()
    outcome = train(settings)
    assert settings == before and torch.equal(torch.get_rng_state(), generator)
    expected = numbers(by_hand(settings).record())
    assert numbers(outcome.record()) == expected
    assert numbers(template(settings, monkeypatch)["outcome"].record()) == expected


def test_papermill_gives_what_train_gives():
    """In a kernel and in a process of their own, with the same instructions and threads."""
    p = QUICK | {"rule": "dtp", "turns": True, "marks": [70], "epochs": 1}
    _, record, _ = notebooks.execute(p, "T")
    code = "import json, sys\nfrom bioplaus_lite.runs.train import train\n"
    code += "print(json.dumps(train(json.loads(sys.argv[1]), progress=False).record()))"
    with notebooks._environment(1, p):
        said = subprocess.run([sys.executable, "-c", code, json.dumps(p)], capture_output=True, text=True, check=True)
    assert numbers(json.loads(said.stdout)) == numbers(record)
    assert set(record) - {"wall_seconds", "fingerprint"} == set(json.loads(said.stdout))
    assert all(json.loads(said.stdout)[k] == record[k] for k in ("commit", "versions", "machine"))


def test_the_template_hands_over_every_setting(monkeypatch):
    (cell,) = (c for c in TEMPLATE if "parameters" in c.metadata.get("tags", []))
    names = [node.targets[0].id for node in ast.parse(cell.source).body]
    assert set(names) == {*DEFAULTS, *OPTIONAL}
    p = QUICK | {"every": 100, "marks": [70], "measures": ["feedback_angle"], "options": {"scale": 2}, "epochs": 1}
    p |= {"schedule": {"name": "StepLR", "step_size": 1}, "purpose": "search"}
    assert template(p, monkeypatch)["run"].settings == p


def test_a_run_of_the_catalogue_and_what_is_prepared_can_be_trained_too():
    p = QUICK | {"epochs": 1}
    expected = numbers(train(p, mnist()).record())
    assert numbers(train(Run("r", "g", "n", p), mnist()).record()) == expected
    ready = prepare(p, mnist())
    assert repr(ready) == "Training(FeedbackAlignment on MLP, 300 images of mnist)"
    assert numbers(train(ready).record()) == expected
    with pytest.raises(ValueError, match=r"Training\(FeedbackAlignment .* has been trained before"):
        train(ready)
    short = {name: p[name] for name in ("rule", "dataset", "subset", "network", "optimizer", "epochs", "seed")}
    assert prepare(short, mnist()).settings == {**DEFAULTS, "measures": [], **short}


def test_who_trained_is_on_record():
    record = train(QUICK | {"epochs": 1}, mnist()).record()
    assert {"commit", "versions", "machine"} < set(record) and record["machine"]["threads"] == torch.get_num_threads()


# --- data that are given ----------------------------------------------------------------------------------------------


def test_data_that_are_given_are_not_loaded_again(monkeypatch):
    data, p = mnist(), QUICK | {"subset": "full"}
    monkeypatch.setattr(training, "load", lambda *given: pytest.fail("loaded"))
    assert prepare(p, data).data is data
    with pytest.raises(ValueError, match="data must be the dataset of the settings, 'fashion', not 'mnist'"):
        prepare(p | {"dataset": "fashion"}, data)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_result_that_diverges_is_an_error_and_a_trial_counts_as_all_wrong():
    outcome = train(QUICK | DIVERGES | {"purpose": "search"}, mnist())
    assert outcome.diverged and repr(outcome).startswith("diverged after 0 examples")
    record = outcome.record()
    assert (record["test_error"], record["validation_error"], record["diverged"]) == (1, 1, True)
    json.dumps(record, allow_nan=False)
    with pytest.raises(FloatingPointError) as error:
        train(QUICK | DIVERGES, mnist())
    assert error.value.history.last("accuracy") < 0.5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ruel": "fa"}, "unknown setting 'ruel'; choose one of rule, dataset, subset"),
        ({"rule": None, "epochs": None}, "settings: rule, epochs must be given"),
        ({"rule": "fb"}, "unknown rule 'fb'; choose one of backprop, fa"),
        ({"dataset": "mnits"}, "unknown dataset 'mnits'; choose one of mnist, fashion, cifar10"),
        ({"purpose": "fun"}, "unknown purpose 'fun'; choose one of result, search"),
        ({"network": "MLP"}, "network must be a table, not 'MLP'"),
        ({"network": {"type": "RNN"}}, "unknown network type 'RNN'"),
        ({"examples": 0}, r"examples must be a whole number from 1 to 9800, not 0"),
        ({"every": 0}, "every must be a whole number ≥ 1, not 0"),
        ({"turns": 1}, "turns must be true or false, not 1"),
        ({"turns": True}, "FeedbackAlignment has no phases that take turns"),
        ({"validation": {"size": 1}}, r"validation must be a table of size and seed, not \{'size': 1\}"),
        ({"measures": ["beauty"]}, "unknown measure 'beauty'"),
        ({"optimizer": {"name": "SGD"}}, "no learning rate 'lr' for the group 'forward'"),
    ],
)
def test_a_setting_that_is_not_possible_is_named_with_what_is_allowed(change: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        train(QUICK | change, mnist())


def test_a_run_that_waits_for_its_search_is_not_trained_with_a_default():
    run = Run("g-mnist-fa-s0", "g", "fa", QUICK, Search("options.scale", (1.0, 2.0)))
    with pytest.raises(ValueError, match=r"g-mnist-fa-s0: a search chooses options.scale; give .* run.set\("):
        prepare(run, mnist())
    assert prepare(run.set("options.scale", 2.0), mnist()).settings["options"] == {"scale": 2.0}


def test_a_name_is_no_run():
    with pytest.raises(TypeError, match="run must be a Run or its settings, a table by name, not 'g-mnist-fa-s0'"):
        train("g-mnist-fa-s0")


def test_what_is_prepared_has_its_data():
    with pytest.raises(ValueError, match="a training that is prepared has its data; give them to prepare"):
        train(prepare(QUICK, mnist()), mnist())


def test_settings_are_completed_by_the_defaults_and_left_as_they_were():
    short = {"rule": "fa", "dataset": "mnist", "network": {"type": "MLP"}, "optimizer": {"name": "SGD"}}
    short |= {"epochs": 1, "seed": 0}
    before = copy.deepcopy(short)
    assert complete(short) == {**DEFAULTS, "measures": [], **short} == complete(Run("r", "g", "n", short))
    assert short == before
    with pytest.raises(ValueError, match="settings: network, seed must be given"):
        complete(short | {"network": None, "seed": None})
    with pytest.raises(TypeError, match="run must be a Run or its settings, a table by name, not None"):
        complete(None)


def test_other_ways_to_answer_have_accuracies_of_their_own():
    class Two:
        def __init__(self, answers):
            self.other_answers = lambda: answers

    x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [5.0, 4.0]]), torch.tensor([1, 0, 0, 0])
    assert other_accuracies(Two({}), x, y) == {}
    said = other_accuracies(Two({"spiking": lambda x: x, "contrary": lambda x: -x}), x, y)
    assert said == {"spiking_accuracy": 0.75, "contrary_accuracy": 0.25}


# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_runner_hears_how_far_a_training_is_and_so_does_whoever_asks(monkeypatch, capsys):
    p, told = QUICK | {"epochs": 1, "batch_size": 100}, []
    train(p, mnist(), progress=lambda *at: told.append(at))
    assert told == [(100, 300), (200, 300), (300, 300)]
    train(p, mnist())
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(training.UNDER_RUNNER, "{}")
    monkeypatch.setattr(training, "_last_reported", -math.inf)
    train(p, mnist())
    assert capsys.readouterr().err.splitlines()[-1] == "progress 300 300"
