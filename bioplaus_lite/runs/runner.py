"""Doing those runs that are not done, their searches first, and putting on record what comes of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.fingerprints import forget_spare, keep
from bioplaus_lite.runs.folders import Folders, StoreError
from bioplaus_lite.runs.notebooks import RunError
from bioplaus_lite.runs.progress import Display
from bioplaus_lite.runs.records import path_of, save_run, write
from bioplaus_lite.runs.states import State, checksum, choice_of, choose, record_of, state_of
from bioplaus_lite.runs.work import Worker

__all__ = ["Ended", "run_all", "store"]

ORIGIN = ("commit", "versions", "machine")


@dataclass(frozen=True)
class Ended:
    """How the runs ended that were asked for.

    Attributes:
        failed: ``{id: why}``, trials of their searches among them.
        left: ids of those that are on record with other parameters, or broken, and were left so.
    """

    failed: Mapping[str, str]
    left: Sequence[str] = ()


def run_all(
    runs: Sequence[Run],
    folders: Folders,
    work: Worker,
    *,
    keep_old: bool = False,
    again: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Ended:
    """Do the runs that are not done, their searches first.

    Args:
        runs: of the catalogue.
        folders: where results go; call this inside ``folders.reserved()``.
        work: :func:`~bioplaus_lite.runs.work.in_this_process` or :func:`~bioplaus_lite.runs.work.on_dask`.
        keep_old: leave alone what is on record with other parameters, or broken, instead of doing it again.
        again: do the runs anew although they are done; not the trials of their searches.
        say: where lines about the runs go.

    Raises:
        StoreError: results cannot be written.
    """
    failed: dict[str, str] = {}
    left: list[str] = []
    trials = list({trial.id: trial for run in runs for trial in run.trials}.values())
    for stage in (trials, runs):
        todo = []
        for run in stage:
            ready = choose(run, folders)
            if isinstance(ready, State):
                why = f"{ready.name} {ready.detail}"
                if keep_old and record_of(run, folders):
                    left.append(run.id)
                    why += "; left as it is"
                else:
                    failed[run.id] = why
                say(f"{run.id}: {why}")
            elif (state := state_of(ready, folders)).name == "missing" or (again and stage is runs):
                todo.append(ready)
            elif state.name == "done":
                _note_choice(ready, state.record or {}, folders)
            elif keep_old:
                left.append(run.id)
                say(f"{run.id}: {state.name}, {state.detail}; left as it is")
            else:
                todo.append(ready)
                say(f"{run.id}: {state.name}, {state.detail}; runs again")
        if todo:
            failed |= _do(todo, folders, work)
    return Ended(failed, left)


def _note_choice(run: Run, record: Mapping[str, Any], folders: Folders) -> None:
    """Of a run that is done, put on record which values were tried: there may be others now, and the same choice."""
    if (new := json.loads(json.dumps(choice_of(run)))) != {k: v for k, v in record.items() if k == "chosen"}:
        try:
            save_run({**record, **new}, folders.data)
        except OSError as error:
            path = path_of(run.group, run.parameters["purpose"], folders.data)
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def _do(runs: list[Run], folders: Folders, work: Worker) -> dict[str, str]:
    failed: dict[str, str] = {}
    display = Display(len(runs))
    try:
        for run, result in work(runs, display.advance):
            try:
                if isinstance(result, RunError):
                    raise result
                text, record, warnings = result
                store(run, text, record, folders)
                said = "\n".join([_said(run, record), *(f"  its notebook warns: {line}" for line in warnings[:5])])
            except StoreError:
                raise
            except Exception as error:  # of this run, whatever it is: the others go on
                failed[run.id] = (str(error) or repr(error)).splitlines()[0]
                said = f"{run.id} failed: {error}"
            display.ended(run.id, said)
    finally:
        display.close()
    return failed


def store(run: Run, text: str, result: Mapping[str, Any], folders: Folders) -> None:
    """Put a result on record with its fingerprint, and write its notebook. Of trials only records are kept.

    Raises:
        StoreError: a file cannot be written.
    """
    p = run.parameters
    made = dict(result)
    found = made.pop("fingerprint")
    record = {
        "id": run.id, "group": run.group, "name": run.name, "rule": p["rule"], "dataset": p["dataset"],
        "sizes": made["sizes"], "seed": p["seed"], "epochs": p["epochs"], "test_error": made["test_error"],
        **made, "parameters": p, **choice_of(run), "date": datetime.now(UTC).date().isoformat(), "notebook": None,
        "fingerprint": None,
    }  # fmt: skip
    notebook, example = folders.notebook(run), folders.example(run)
    path = path_of(run.group, p["purpose"], folders.data)
    try:
        # Each step leaves something whole: a fingerprint that nobody names, then a record, then its notebook.
        record["fingerprint"] = keep(p, found, {name: made[name] for name in ORIGIN if name in made}, folders.data)
        if example:
            record["notebook"] = checksum(text)
        save_run(record, folders.data)
        forget_spare(p, folders.data)
        if p["purpose"] == "result":
            path = notebook
            write(path, text)
    except OSError as error:
        where = error.filename or path
        raise StoreError(f"{run.id} was computed, but {where} cannot be written: {error.strerror or error}") from error


def _said(run: Run, record: Mapping[str, Any]) -> str:
    """What is said of a run when it ends: of a trial not the test error, on which nothing is to be chosen."""
    if record["diverged"]:
        how = "diverged"
    else:
        split = "validation" if run.parameters["purpose"] == "search" else "test"
        how = f"{split} error {100 * record[f'{split}_error']:.2f} %"
    return f"{run.id}: {how}, {record['wall_seconds']:.0f} s"
