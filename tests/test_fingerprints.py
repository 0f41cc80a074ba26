"""Fingerprints: the code still does what the records say, and a slip in a rule is seen where a new name is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from bioplaus_lite import training
from bioplaus_lite.rules import RULES, in_family
from bioplaus_lite.runs import train
from bioplaus_lite.runs.fingerprints import (
    compare,
    fingerprint,
    forget_spare,
    keep,
    on_file,
    setting_key,
    setting_of,
    verify,
)
from bioplaus_lite.runs.records import DATA, fingerprints_path, read_lines, recorded, save_run

ON_FILE = on_file()


def first_of_each() -> dict[str, dict]:
    """One setting for each rule and network on file."""
    found: dict[str, dict] = {}
    for line in sorted(ON_FILE.values(), key=lambda line: (line["setting"]["dataset"] != "mnist", line["id"])):
        setting = line["setting"]
        found.setdefault(f"{setting['rule']} on {setting['network']['type']}", line)
    return dict(sorted(found.items()))


@pytest.mark.parametrize("line", first_of_each().values(), ids=first_of_each())
def test_the_code_still_does_what_the_records_say(line: dict):
    assert [differences for _, differences in verify([line])] == [[]]


def test_every_record_of_the_catalogue_has_its_fingerprint():
    """None is spare, none is missing, and each is of the setting that the record says."""
    named = set()
    for name, record in recorded().items():
        if "parameters" in record:
            assert ON_FILE[record["fingerprint"]]["setting"] == setting_of(record["parameters"]), name
            named.add(record["fingerprint"])
    assert named == set(ON_FILE) == set(read_lines(fingerprints_path()).records)
    assert {ON_FILE[mark]["setting"]["rule"] for mark in named} == set(RULES)


def test_the_records_without_a_setting_are_those_that_scripts_made():
    assert {r["group"] for r in recorded().values() if "parameters" not in r} == {
        "targets", "feedback-size"
    }  # fmt: skip


# --- a slip is seen ------------------------------------------------------------------------------------------------


def small(rule: str, optimizer: str = "Adam", **options) -> dict:
    """A small setting of a rule."""
    network: dict = {"type": "MLP", "hidden": [20, 15], "activation": "tanh"}
    if rule == "segregated":
        network = {"type": "RateNetwork", "hidden": [20]}
    if rule == "microcircuits":
        network = {"type": "PyramidalNetwork", "hidden": [20, 15]}
        options = {"feedback": "learned"} | options
    table = {"name": optimizer, "lr": 1e-3 if optimizer == "Adam" else 0.05}
    return {
        "rule": rule, "dataset": "mnist", "subset": "shipped", "network": network, "options": options,
        "optimizer": {"name": "SGD"} if rule == "segregated" else table, "schedule": None,
        "turns": False, "batch_size": 50, "validation": {"size": 200, "seed": 0},
    }  # fmt: skip


_made: dict[str, dict] = {}


def of(setting: dict) -> dict:
    """Its fingerprint, made once."""
    key = setting_key(setting)
    if key not in _made:
        _made[key] = fingerprint(setting)
    return _made[key]


def wrapped(change):
    """What makes ``assign_gradients`` of a rule end with a change of its gradients."""

    def built(rule) -> None:
        assign = rule.assign_gradients

        def slip(x, y):
            loss = assign(x, y)
            change(rule)
            return loss

        rule.assign_gradients = slip

    return built


TARGET = in_family("Targets")
BATCHED = [name for name, card in RULES.items() if not card.rule.online]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("rule", BATCHED)
def test_a_wrong_sign_or_factor_of_any_gradient_is_seen(rule: str, optimizer: str):
    setting = small(rule, optimizer)
    base = of(setting)
    assert len(base["losses"]) == 20 and base["diverged"] is None
    assert compare(base, fingerprint(setting)) == []
    for name in base["gradients"][0]:
        for factor in (-1.0, 2.0):
            def change(rule, name=name, factor=factor) -> None:
                if (grad := dict(rule.named_parameters())[name].grad) is not None:  # feedback, in evaluation mode
                    grad.mul_(factor)

            built = wrapped(change)
            assert compare(base, fingerprint(setting, built=built)), f"{name} × {factor}"


@pytest.mark.parametrize("factor", [-1.0, 1.01])
@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("mode", ["spiking", "rate"])
def test_a_wrong_sign_or_factor_of_segregated_compartments_is_seen(mode: str, layer: int, factor: float):
    setting = small("segregated")
    setting["network"]["constants"] = {"mode": mode, **({"voltages": "steady"} if mode == "rate" else {})}

    def built(rule) -> None:
        present = rule.present
        rates = [factor if l == layer else 1.0 for l in (1, 2)]
        rule.present = lambda x, y, etas: present(x, y, [eta * rate for eta, rate in zip(etas, rates, strict=True)])

    assert compare(of(setting), fingerprint(setting, built=built))


@pytest.mark.parametrize("rule", RULES)
def test_other_draws_and_another_order_of_the_examples_are_seen(rule: str, monkeypatch):
    setting = small(rule)
    base = of(setting)
    if rule not in ("backprop", "usf"):  # which draw nothing
        build = train.build_rule
        monkeypatch.setattr(train, "build_rule", lambda *given, seed, **more: build(*given, seed=1, **more))
        assert compare(base, fingerprint(setting)), "another seed of the rule"
        monkeypatch.undo()
    network = train.build_network
    monkeypatch.setattr(train, "build_network", lambda *given, seed: network(*given, seed=1))
    assert compare(base, fingerprint(setting)), "another seed of the network"
    monkeypatch.undo()
    batches = training.batches
    monkeypatch.setattr(training, "batches", lambda x, y, size, generator: batches(x, y, size))
    assert compare(base, fingerprint(setting)), "not shuffled"


@pytest.mark.parametrize("rule", [*TARGET, "weight_mirror", "brsf"])
def test_a_generator_that_starts_elsewhere_is_seen(rule: str):
    assert compare(of(small(rule)), fingerprint(small(rule), built=lambda rule: rule._generator.manual_seed(1)))


@pytest.mark.parametrize("rule", TARGET)
def test_a_little_more_noise_is_seen(rule: str):
    def built(rule) -> None:
        rule.noise *= 1.02

    assert compare(of(small(rule)), fingerprint(small(rule), built=built))


@pytest.mark.parametrize(("rule", "name"), [("kolen_pollack", "decay"), ("weight_mirror", "rate")])
def test_another_decay_is_seen(rule: str, name: str):
    assert compare(of(small(rule)), fingerprint(small(rule), built=lambda r: setattr(r, name, 2 * getattr(r, name))))


def test_another_decay_of_the_optimiser_or_schedule_is_seen():
    setting = small("backprop", "SGD")
    decayed = copy.deepcopy(setting)
    decayed["optimizer"]["weight_decay"] = 1e-4
    assert compare(of(setting), fingerprint(decayed))
    scheduled = setting | {"schedule": {"name": "StepLR", "step_size": 15, "gamma": 0.5}}
    assert compare(of(setting), fingerprint(scheduled))
    assert of(setting)["losses"][:16] == fingerprint(scheduled)["losses"][:16]


def test_each_phase_has_its_steps():
    setting = small("dtp") | {"turns": True}
    made = fingerprint(setting)
    assert len(made["losses"]) == 40 and len(made["gradients"]) == 2
    assert compare(of(small("dtp")), made)[:2] == [
        "number of losses: 20 on record, now 40", "number of gradients: 1 on record, now 2"
    ]  # fmt: skip


# --- a new name is not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_renaming_and_moving_is_not_seen(rule: str):
    base = of(small(rule))
    moved = copy.deepcopy(base)
    moved["changes"] = {f"layers.{i}": v for i, v in enumerate(reversed(moved["changes"].values()))}
    moved["gradients"] = [{f"layers.{i}": v for i, v in enumerate(g.values())} for g in moved["gradients"]]
    moved["measures"]["new_measure_1"] = 3.0
    assert compare(base, moved) == []
    first = next(name for name, v in moved["changes"].items() if v)
    moved["changes"][first] *= 1.001
    assert any("change number" in said for said in compare(base, moved))
    moved["changes"]["one.more"] = 1.0
    assert any("number of changes" in said for said in compare(base, moved))


def test_what_two_processors_may_differ_by_is_not_seen_and_more_is():
    base = of(small("fa"))
    near = copy.deepcopy(base)
    for _ in range(2):
        assert compare(base, near) == []
        near["losses"][5] *= 1 + 8e-7
        near["single"]["loss"] *= 1 + 8e-5
        near["measures"]["update_angle_1"] += 0.008
        near["changes"]["B2"] += 8e-13
    said = [one.partition(":")[0] for one in compare(base, near)]
    assert said == ["loss of step 6", "change of B2", "measure update_angle_1", "loss in float32"]
    del near["measures"]["snr_1"]
    assert "measure snr_1 is gone" in compare(base, near)


def test_a_training_that_amplifies_rounding_keeps_its_digits():
    """At a rate where it goes astray, single precision would keep none; an error of one part in a million is seen."""
    wild = small("backprop", "SGD")
    wild["optimizer"] = {"name": "SGD", "lr": 10.0}
    made = of(wild)
    assert made["losses"][-1] > 10
    assert compare(made, fingerprint(wild, built=lambda rule: rule.network.W1.data.mul_(1 + 1e-15))) == []
    built = wrapped(lambda rule: rule.network.W1.grad.mul_(1 + 1e-5))
    assert any(said.startswith("gradient of network.W1") for said in compare(made, fingerprint(wild, built=built)))


def test_single_precision_is_asked_too():
    def built(rule) -> None:
        if rule.network.W1.dtype == torch.float32:
            wrapped(lambda rule: rule.network.W1.grad.mul_(1.001))(rule)

    setting = small("fa")
    said = compare(of(setting), fingerprint(setting, built=built))
    assert len(said) == 1 and said[0].startswith("float32 gradient of network.W1")
    double = copy.deepcopy(setting)
    double["network"]["dtype"] = "float64"
    made = fingerprint(double)
    assert made["single"] is None and made | {"single": 1} == of(setting) | {"single": 1}


def test_a_training_that_diverges_has_a_fingerprint_of_the_steps_it_made():
    setting = small("backprop", "SGD")
    setting["network"] = {"type": "MLP", "hidden": [20, 15], "activation": "relu"}
    setting["optimizer"] = {"name": "SGD", "lr": 1e38}
    made = fingerprint(setting)
    assert 0 < made["diverged"] == len(made["losses"]) < 20 and made["measures"] == {}
    assert compare(made, made) == [] and compare(of(small("backprop", "SGD")), made)


# --- on file ---------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_kept_once_and_only_a_new_training_replaces_it(tmp_path: Path):
    setting, made = small("fa"), of(small("fa"))
    origin = {"commit": "c"}

    def record(name: str, mark: str) -> None:
        save_run({
            "id": name, "group": "g", "rule": "fa", "dataset": "mnist", "sizes": [1], "seed": 0, "epochs": 1,
            "test_error": 0.5, "parameters": {**setting, "purpose": "result", "seed": 0}, "fingerprint": mark,
        }, tmp_path)  # fmt: skip

    first = keep(setting, made, origin, tmp_path)
    record("a", first)
    near = json.loads(json.dumps(made))
    near["losses"][0] *= 1 + 1e-6
    assert keep(setting, near, {"commit": "d"}, tmp_path) == first
    far = json.loads(json.dumps(made))
    far["losses"][0] *= 1.1
    second = keep(setting, far, {"commit": "d"}, tmp_path)
    assert second != first and set(on_file(tmp_path)) == {first, second}  # a record still names the first
    record("a", second)
    further = json.loads(json.dumps(made))
    further["losses"][0] *= 1.2
    third = keep(setting, further, {"commit": "e"}, tmp_path)
    forget_spare(setting, tmp_path)
    assert set(on_file(tmp_path)) == {second}  # no record named the third yet
    assert keep(setting, further, {"commit": "e"}, tmp_path) == third
    record("a", third)
    forget_spare(setting, tmp_path)
    assert set(on_file(tmp_path)) == {third}
    assert on_file(tmp_path)[third]["commit"] == "e"
    assert keep(small("dfa"), made, origin, tmp_path).partition("-")[0] == setting_key(small("dfa"))


def test_what_the_code_now_refuses_differs(monkeypatch):
    line = {"id": "x", "setting": small("fa"), **of(small("fa"))}
    line["setting"]["options"] = {"no_such_option": 1}
    ((_, said),) = verify([line])
    assert said[0].startswith("the setting fails: ValueError: rule fa: unknown option 'no_such_option'")


def test_several_processes_say_the_same():
    lines = [{"id": name, "setting": small(name), **of(small(name))} for name in ("backprop", "fa")]
    lines[1]["losses"] = [loss * 1.1 for loss in lines[1]["losses"]]
    found = {line["id"]: said for line, said in verify(lines, jobs=2)}
    assert found["backprop"] == [] and len(found["fa"]) == 20


def test_the_files_are_where_they_are_said_to_be():
    assert DATA == ROOT / "data" and (DATA / "fingerprints.jsonl").is_file()
    assert torch.get_num_threads() == 1
