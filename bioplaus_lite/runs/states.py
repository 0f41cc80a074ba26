"""How runs stand: what is on record, compared with what the catalogue says now, and what a search has chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.fingerprints import on_file
from bioplaus_lite.runs.folders import Folders
from bioplaus_lite.runs.records import path_of, read_lines, recorded

__all__ = ["State", "choose", "orphans", "pending", "record_of", "state_of"]

NEEDED = ("parameters", "fingerprint", "test_error", "validation_error", "wall_seconds", "diverged")


@dataclass(frozen=True)
class State:
    """How a run stands.

    Attributes:
        name: ``done``, ``missing``, ``changed`` (other parameters), ``broken`` (its record lacks something, such as its
            fingerprint on file, or does not belong to the notebook that the book shows), ``waits`` (for its search) or
            ``failed`` (its search did). Whether the code still does what a record says is not asked here: that takes
            seconds a run, see :func:`~bioplaus_lite.runs.fingerprints.verify`.
        detail: in words.
        record: what is on record, if anything.
    """

    name: str
    detail: str = ""
    record: Mapping[str, Any] | None = None


def _flat(parameters: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) and value else {f"{above}{key}": value}
    return flat


def record_of(run: Run, folders: Folders) -> dict[str, Any] | None:
    """What is on record of a run."""
    return read_lines(path_of(run.group, run.parameters["purpose"], folders.data)).records.get(run.id)


def state_of(run: Run, folders: Folders) -> State:
    """Compare what is on record of a run with what the catalogue says now.

    Of a run with a search the choice must have been made, see :func:`choose`. A record of more trials or fewer than the
    search has now counts as done, if they led to the same choice.
    """
    record = record_of(run, folders)
    if record is None:
        return State("missing")
    if lacks := [name for name in NEEDED if name not in record]:
        return State("broken", f"its record lacks {', '.join(lacks)}")
    old, new = _flat(record["parameters"]), _flat(json.loads(json.dumps(run.parameters)))
    changes = [f"{key} {old.get(key)!r} → {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)]
    if changes:
        return State("changed", ", ".join(changes), record)
    if record["fingerprint"] not in on_file(folders.data):
        return State("broken", f"its fingerprint {record['fingerprint']!r} is not on file", record)
    example = folders.example(run)
    if example and record.get("notebook") != checksum(example.read_text("utf-8")):
        return State("broken", f"{example.name} belongs to another run", record)
    return State("done", record=record)


def choose(run: Run, folders: Folders) -> Run | State:
    """A run with the setting that its search found best on the validation set.

    Best is the highest accuracy, averaged over the seeds of the search; of equals, the first in the catalogue.

    Returns:
        The run; or, where there is no choice, that it waits for trials or that all of them failed.
    """
    if run.search is None:
        return run
    of = f"trials of {run.search.key} ({', '.join(map(str, run.search.values))})"
    states = [state_of(trial, folders) for trial in run.trials]
    if open_ := [state.name for state in states if state.name != "done"]:
        counts = ", ".join(f"{open_.count(name)} {name}" for name in dict.fromkeys(open_))
        return State("waits", f"for {len(open_)} of {len(states)} {of}: {counts}")
    records = [state.record or {} for state in states]  # of what is done there is one
    if all(record["diverged"] for record in records):
        return State("failed", f"as all {of} diverged")
    scores: dict[Any, list[float]] = {value: [] for value in run.search.values}
    for trial, record in zip(run.trials, records, strict=True):
        scores[trial.at(run.search.key)].append(1 - record["validation_error"])
    return run.set(run.search.key, max(scores, key=lambda value: sum(scores[value]) / len(scores[value])))


def pending(runs: Iterable[Run], folders: Folders) -> bool:
    """Whether anything of these runs or of their searches is not done."""
    for run in runs:
        ready = choose(run, folders)
        if isinstance(ready, State) or state_of(ready, folders).name != "done":
            return True
    return False


def orphans(runs: Iterable[Run], folders: Folders) -> list[str]:
    """Ids on record that the catalogue no longer knows: their run, or their value of a search, was taken out of it.

    Args:
        runs: all of the catalogue. Records of scripts, which have no parameters, are left alone.
        folders: where the records lie.
    """
    in_catalogue = {name for run in runs for name in (run.id, *(trial.id for trial in run.trials))}
    return sorted(
        name for name, record in recorded(folders.data).items() if name not in in_catalogue and "parameters" in record
    )


def choice_of(run: Run) -> dict[str, Any]:
    """What the record says of the choice."""
    if not run.search:
        return {}
    key = run.search.key
    return {"chosen": {"key": key, "value": run.at(key), "of": list(run.search.values)}}


def checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
