"""Whether the code still does what a record says: a training's first steps, in numbers.

A record says which setting it trained. Its fingerprint says what the first steps of that setting looked like in the
code that made the record: losses, gradients, changes of weights, measures. Code may be renamed, moved and rewritten;
while it gives the same fingerprint, the record is its result. Nothing here compares source text.

A fingerprint is made with a training, by the process that trained. Nothing else replaces it: a check that could be
made green by making it again would check nothing. (The records that are older than this module got theirs once, when
the source of the code, networks, rules, training and measures, was still that of each record, digest by digest.)
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bioplaus_lite.data import Dataset, load
from bioplaus_lite.rules import LearningRule
from bioplaus_lite.runs.records import DATA, change_lines, fingerprints_path, read_lines, recorded
from bioplaus_lite.runs.train import Measures, Training, prepare
from bioplaus_lite.training import fit

__all__ = [
    "STEPS", "compare", "fingerprint", "forget_spare", "keep", "on_file", "setting_key", "setting_of", "verify",
]  # fmt: skip

STEPS = 20
HELD_OUT, BATCH, ONLINE_BATCH = 1000, 100, 20
#: What a setting is: the parameters of a run that decide what a step does. Not its seed, length or purpose, and not
#: when it is measured.
SETTING = (
    "rule", "dataset", "subset", "network", "options", "optimizer", "schedule", "turns", "batch_size", "validation",
)  # fmt: skip

#: What a line on file holds besides its id and who made it.
PARTS = {"setting", "losses", "gradients", "changes", "measures", "single", "diverged"}
#: How far apart two fingerprints of the same code may be: relative, and of angles in degrees. The steps are taken in
#: double precision, since a training in single precision amplifies the rounding of its processor: twenty steps at a
#: large rate leave no digit of it. Numbers below ``FLOOR`` are nothing but rounding. So are the directions of errors of
#: examples that a network has solved, which is why angles between errors of single examples have a wider bound.
TOLERANCE, SINGLE, DEGREES, DEGREES_OF_EXAMPLES, FLOOR = 1e-6, 1e-4, 0.01, 0.5, 1e-12


def setting_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's parameters that its fingerprint belongs to, as JSON holds it."""
    return json.loads(json.dumps({name: parameters[name] for name in SETTING}))


def setting_key(parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that tell one setting from another."""
    text = json.dumps(setting_of(parameters), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _number(value: float) -> float | None:
    """What JSON keeps of a number: nothing of one that is not finite, and no digits that mean nothing."""
    return float(f"{value:.10g}") if math.isfinite(value) else None


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, float | None]:
    return _plain({name: t.double().norm().item() for name, t in tensors.items() if t.is_floating_point()})


def _gradients(rule: LearningRule) -> dict[str, float | None]:
    return _norms({name: p.grad for name, p in rule.named_parameters() if p.grad is not None})


def _state(rule: LearningRule) -> dict[str, Tensor]:
    """Every parameter and buffer, by name; one that goes by two names once."""
    named = (*rule.named_parameters(), *rule.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


@lru_cache(maxsize=2)
def _shipped(name: str) -> Dataset:
    """With no more test images than are held out; kept, since unpacking takes longer than twenty steps."""
    data = load(name, "shipped")
    return replace(data, x_test=data.x_test[:HELD_OUT], y_test=data.y_test[:HELD_OUT])


def fingerprint(
    parameters: Mapping[str, Any], *, built: Callable[[LearningRule], None] = lambda rule: None
) -> dict[str, Any]:
    """Take the first twenty steps of a setting, in each of its phases, and say what they did.

    The data are the shipped images, split as the run splits the full set, with at most 1,000 images held out. A batch
    has at most 100 examples, or 20 for a rule that learns online. A schedule counts steps in place of epochs, so that
    its first change falls inside. The seeds are 0 and 1000, as of a run with seed 0. The steps are taken in float64,
    whatever the setting has; what it has is asked for its first loss and its first gradients.

    Args:
        parameters: of a run; those of :func:`setting_of` count.
        built: called with a rule before it learns.

    Returns:
        ``losses``, one a step; ``gradients``, for each phase the norm of each ``.grad`` after its first step;
        ``changes``, of each parameter and buffer the norm of its change after the last; ``measures`` after the last;
        ``diverged``, the steps made if the loss was no longer finite, else null; and ``single``, the loss and the
        norms of the gradients of the first step in float32, unless the rule learns online or the setting has float64.
    """
    p = setting_of(parameters) | {"seed": 0, "epochs": 1}
    p["validation"]["size"] = min(p["validation"]["size"], HELD_OUT)

    def ready(**dtype: str) -> Training:
        training = prepare(p | {"network": p["network"] | dtype}, _shipped(p["dataset"]))
        built(training.rule)
        return training

    run = ready(dtype="float64")
    rule, (x, y) = run.rule, run.batch
    size = min(p["batch_size"], ONLINE_BATCH if rule.online else BATCH, len(x) // STEPS)
    x, y = x[: STEPS * size], y[: STEPS * size]
    assert isinstance(run.measure, Measures)  # of what `prepare` made, it is
    run.measure.dynamics(rule, *run.measure.batch)  # so that its changes have a beginning
    start = {name: tensor.clone() for name, tensor in _state(rule).items()}
    gradients: list[dict[str, float | None]] = []

    def optimizer(groups: list[dict]) -> torch.optim.Optimizer:
        made = run.optimizer(groups)
        if run.scheduler:
            scheduled = run.scheduler(made)
            made.register_step_post_hook(lambda *_: scheduled.step())
        return made

    def after_a_step(examples: int, total: int) -> None:
        if examples % (STEPS * size) == size:
            gradients.append(_gradients(rule))

    diverged = None
    try:
        history = fit(
            rule, (x, y), epochs=run.passes, batch_size=size, seed=0, every=size, optimizer=optimizer,
            turns=run.turns, progress=after_a_step,
        )  # fmt: skip
    except FloatingPointError as error:
        history = error.history  # type: ignore[attr-defined]  # `fit` puts it there
        diverged = len(history.frame)
    single: dict[str, Any] | None = None
    if not rule.online and p["network"].get("dtype") != "float64":
        first = ready().rule
        first.train()
        single = {"loss": _number(first.assign_gradients(x[:size].float(), y[:size]).item())}
        single["gradients"] = _gradients(first)
    return {
        "losses": [_number(loss) for loss in history.curve("loss", "train")[1]] if len(history.frame) else [],
        "gradients": gradients,
        "changes": _norms({name: tensor - start[name] for name, tensor in _state(rule).items()}),
        "measures": _plain(run.measure(rule)) if diverged is None else {},
        "single": single,
        "diverged": diverged,
    }


# ------------------------------------------------------------------------------------------------------- comparing


def _apart(name: str, old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is not new
    if "angle" in name:
        return abs(old - new) > (DEGREES if "update" in name else DEGREES_OF_EXAMPLES)
    return abs(old - new) > (SINGLE if "float32" in name else TOLERANCE) * max(abs(old), abs(new)) + FLOOR


def _pairs(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Numbers to compare: by name where the names are the same, else in the order of their size.

    A tensor may be renamed. Then those that did not move do not count, as nothing tells them from one another.
    """
    if old.keys() == new.keys():
        yield from ((f"{what} of {name}", old[name], new[name]) for name in old)
        return
    ranked = [sorted((v for v in values.values() if v), reverse=True) for values in (old, new)]
    if len(ranked[0]) != len(ranked[1]):
        yield f"number of {what}s", len(ranked[0]), len(ranked[1])
    yield from ((f"{what} number {i} by size", a, b) for i, (a, b) in enumerate(zip(*ranked, strict=False), 1))


def _without_held(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """A fingerprint less the gradients of layers that its setting holds fixed.

    Until the second edition a rule wrote them, and no optimiser read them; now a held weight has none.
    """
    held = made.get("setting", {}).get("network", {}).get("held", [])
    if not held:
        return made
    names = {f"network.{letter}{layer}" for layer in held for letter in "Wb"}

    def kept(gradients: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in gradients.items() if name not in names}

    single = made["single"] and made["single"] | {"gradients": kept(made["single"]["gradients"])}
    return {**made, "gradients": [kept(phase) for phase in made["gradients"]], "single": single}


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What tells two fingerprints of a setting apart, in words; nothing if the same code made both.

    Losses, norms and measures may differ by one part in a million, angles of updates by a hundredth of a degree, those
    between errors of examples by half a degree, and what is asked of single precision by one part in 10,000.
    """
    old = _without_held(old)
    if old["diverged"] != new["diverged"]:
        return [f"diverged after so many steps: {old['diverged']} on record, now {new['diverged']}"]
    said = [
        f"number of {name}: {len(old[name])} on record, now {len(new[name])}"
        for name in ("losses", "gradients")
        if len(old[name]) != len(new[name])
    ]
    said += [f"measure {name} is gone" for name in old["measures"] if name not in new["measures"]]
    pairs = [(f"loss of step {i}", a, b) for i, (a, b) in enumerate(zip(old["losses"], new["losses"], strict=False), 1)]
    for phase, (a, b) in enumerate(zip(old["gradients"], new["gradients"], strict=False), 1):
        pairs += _pairs(f"gradient in phase {phase}" if len(old["gradients"]) > 1 else "gradient", a, b)
    pairs += _pairs("change", old["changes"], new["changes"])
    pairs += [(f"measure {k}", old["measures"][k], v) for k, v in new["measures"].items() if k in old["measures"]]
    if old["single"] and new["single"]:
        pairs.append(("loss in float32", old["single"]["loss"], new["single"]["loss"]))
        pairs += _pairs("float32 gradient", old["single"]["gradients"], new["single"]["gradients"])
    elif old["single"] != new["single"]:
        said.append("one of them has no step in float32")
    return said + [f"{name}: {a} on record, now {b}" for name, a, b in pairs if _apart(name, a, b)]


# --------------------------------------------------------------------------------------------------------- on file


def on_file(data: Path = DATA) -> dict[str, dict[str, Any]]:
    """The fingerprints on file by id, ``<setting>-<content>``, each with its setting and who made it."""
    lines = read_lines(fingerprints_path(data)).records
    return {name: line for name, line in lines.items() if PARTS <= set(line)}


def keep(parameters: Mapping[str, Any], made: Mapping[str, Any], origin: Mapping[str, Any], data: Path = DATA) -> str:
    """Put the fingerprint of a new training on file; return the id that its record is to name.

    If the setting has one that agrees, that stands. If it has one that does not, the code changed: both stand while
    records name both, and :func:`~bioplaus_lite.runs.records.refuse_mixed` keeps those apart.

    Args:
        parameters: of the run.
        made: what :func:`fingerprint` returned in the process that trained.
        origin: who made it, see :func:`~bioplaus_lite.runs.records.provenance`.
        data: the folder of the records.
    """
    setting = setting_of(parameters)
    for name, line in on_file(data).items():
        if line["setting"] == setting and not compare(line, made):
            return name
    content = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:8]
    line = {"id": f"{setting_key(parameters)}-{content}", "setting": setting, **made, **origin}
    change_lines(fingerprints_path(data), data, put=line)
    return line["id"]


def forget_spare(parameters: Mapping[str, Any], data: Path = DATA) -> None:
    """Take fingerprints of a setting that no record names any more from file."""
    named = {record.get("fingerprint") for record in recorded(data).values()}
    setting = setting_of(parameters)
    if spare := [name for name, line in on_file(data).items() if line["setting"] == setting and name not in named]:
        change_lines(fingerprints_path(data), data, drop=spare)


def _differences(line: Mapping[str, Any]) -> list[str]:
    torch.set_num_threads(1)
    try:
        return compare(line, fingerprint(line["setting"]))
    except Exception as error:  # whatever the code now says to this setting is what there is to tell
        return [f"the setting fails: {type(error).__name__}: {error}"]


def verify(lines: Iterable[Mapping[str, Any]], jobs: int = 1) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """Take the first steps of settings anew and compare. Nothing is written.

    Args:
        lines: of :func:`on_file`.
        jobs: processes, of one thread each.

    Yields:
        Each line with what tells the code of now from it, as :func:`compare` says it, in the order they end.
    """
    lines = list(lines)
    if jobs == 1:
        yield from ((line, _differences(line)) for line in lines)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_differences, line): line for line in lines}
        for future in as_completed(futures):
            yield futures[future], future.result()
