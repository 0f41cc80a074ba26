"""Which runs are done, and doing those that are not: here one by one, or on the workers of a Dask cluster.

Workers only compute. The process that was started writes all files, so that a worker needs no folder in common with it,
and whatever happens to workers, each run ends once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bioplaus_lite.plots import LABELS
from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.notebooks import RunError, execute
from bioplaus_lite.runs.records import RUNS, TEMPLATE, TRAININGS, code_digests, save_run, write

__all__ = [
    "Folders", "State", "StoreError", "choose", "current_code", "here", "on_dask", "run_all", "state_of", "store",
    "title_of",
]  # fmt: skip

MIN_FREE = 20_000_000  # bytes that must be free before anything is computed
MAX_BARS = 8
_TOPIC = "bioplaus-progress"
SETS = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}


class StoreError(Exception):
    """Results cannot be written; nothing more is computed."""


@dataclass(frozen=True)
class Folders:
    """Where results go: ``records`` and ``notebooks``; and the template that makes them."""

    records: Path = RUNS
    notebooks: Path = TRAININGS
    template: Path = TEMPLATE

    @classmethod
    def below(cls, folder: Path, template: Path = TEMPLATE) -> Folders:
        """Both in one folder, away from the book."""
        return cls(folder / "runs", folder / "trainings", template)

    def record(self, run: Run) -> Path:
        return self.records / f"{run.id}.json"

    def notebook(self, run: Run) -> Path:
        return self.notebooks / f"{run.id}.ipynb"

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Both folders, ready to be written to by this process alone, without drafts of processes that were killed.

        Raises:
            StoreError: a folder cannot be written to, has no room, or another process is at work in it.
        """
        handles = []
        try:
            for folder in (self.records, self.notebooks):
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    handles.append(_lock(folder))
                    for draft in folder.glob("*.part"):
                        draft.unlink()
                    write(folder / ".probe", "")
                    (folder / ".probe").unlink()
                    free = shutil.disk_usage(folder).free
                except OSError as error:
                    raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
                if free < MIN_FREE:
                    need = f"at least {MIN_FREE / 1e6:.0f} are needed"
                    raise StoreError(f"{folder} has {free / 1e6:.1f} MB left on its disk; {need}")
            yield
        finally:
            for handle in handles:
                os.close(handle)


def _lock(folder: Path) -> int:
    """Lock a folder; the system takes the lock back when the process ends, however it ends."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreError(f"another runner is at work in {folder}; wait for it, or choose another folder") from None
    return handle


# ------------------------------------------------------------------------------------------------------- the states


@dataclass(frozen=True)
class State:
    """How a run stands.

    Attributes:
        name: ``done``, ``missing``, ``changed`` (other parameters), ``stale`` (other code), ``broken`` (record and
            notebook do not belong together), or ``waits`` (for its search).
        detail: in words.
        record: what is on record, if anything.
    """

    name: str
    detail: str = ""
    record: Mapping[str, Any] | None = None


@cache
def _code(rule: str, template: Path, _edited: int) -> dict[str, str]:
    return code_digests(rule, template)


def current_code(run: Run, folders: Folders) -> dict[str, str]:
    return _code(run.parameters["rule"], folders.template, folders.template.stat().st_mtime_ns)


def _flat(parameters: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) and value else {f"{above}{key}": value}
    return flat


def state_of(run: Run, folders: Folders) -> State:
    """Compare what is on record of a run with what the catalogue and the code say now.

    Of a run with a search the choice must have been made, see :func:`choose`.
    """
    path = folders.record(run)
    if not path.is_file():
        return State("missing")
    try:
        text = path.read_text("utf-8")
        record = json.loads(text)
        old, new = _flat(record["parameters"]), _flat(json.loads(json.dumps(run.parameters)))
        code = record["code"]
    except (ValueError, KeyError, TypeError) as error:
        return State("broken", f"{path.name} is no record of a run: {error!r}")
    changes = [f"{key} {old.get(key)!r} → {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)]
    if changes:
        return State("changed", ", ".join(changes), record)
    now = current_code(run, folders)
    if parts := sorted(part for part in {**code, **now} if code.get(part) != now.get(part)):
        return State("stale", f"other code: {', '.join(parts)} (commit {record.get('commit')})", record)
    if run.parameters["purpose"] == "result":
        notebook = folders.notebook(run)
        if not notebook.is_file() or record.get("notebook") != _checksum(notebook.read_text("utf-8")):
            return State("broken", f"{notebook.name} is missing or belongs to another run", record)
    return State("done", record=record)


def choose(run: Run, folders: Folders) -> Run | None:
    """A run with the setting that its search found best on the validation set; None while trials are missing.

    Best is the highest accuracy, averaged over the seeds of the search; of equals, the first in the catalogue.
    """
    if run.search is None:
        return run
    scores: dict[Any, list[float]] = {value: [] for value in run.search.values}
    for trial in run.trials:
        state = state_of(trial, folders)
        if state.name != "done":
            return None
        scores[_get(trial.parameters, run.search.key)].append(1 - state.record["validation_error"])
    return run.set(run.search.key, max(scores, key=lambda value: sum(scores[value]) / len(scores[value])))


def _get(parameters: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        parameters = parameters[part]
    return parameters


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------ the results


def title_of(run: Run) -> str:
    p = run.parameters
    return f"{run.id}: {LABELS.get(p['rule'], p['rule'])} on {SETS[p['dataset']]}"


def store(run: Run, text: str, result: Mapping[str, Any], folders: Folders) -> None:
    """Write the notebook, then the record that holds its checksum: only the pair counts as done.

    Of the trials of a search only records are kept.

    Raises:
        RunError: other code computed the result than the one here (a worker of a cluster may have another).
        StoreError: a file cannot be written.
    """
    here = current_code(run, folders)
    if parts := sorted(part for part in {**here, **result["code"]} if here.get(part) != result["code"].get(part)):
        raise RunError(f"other code computed it than is here now ({', '.join(parts)}); its result is dropped")
    p, chosen = run.parameters, {}
    if run.search:
        values = run.search.values
        chosen = {"chosen": {"key": run.search.key, "value": _get(p, run.search.key), "of": list(values)}}
    record = {
        "id": run.id, "group": run.group, "name": run.name, "rule": p["rule"], "dataset": p["dataset"],
        "sizes": result["sizes"], "seed": p["seed"], "epochs": p["epochs"], "test_error": result["test_error"],
        **result, "parameters": p, **chosen, "date": datetime.now(UTC).date().isoformat(), "notebook": None,
    }  # fmt: skip
    try:
        if p["purpose"] == "result":
            write(folders.notebook(run), text)
            record["notebook"] = _checksum(text)
        save_run(record, folders.records)
    except OSError as error:
        raise StoreError(f"{run.id} was computed, but cannot be written: {error.strerror}, {error.filename}") from error


# -------------------------------------------------------------------------------------------------------- the work


class _Display:
    """Progress in a terminal: one bar for all runs, and one for each that is under way."""

    def __init__(self, total: int) -> None:
        self._guard = threading.Lock()
        self._bars: dict[str, tqdm] = {}
        self._all = tqdm(total=total, unit="run", desc="all runs", disable=None, position=0)

    def told(self, name: str, examples: int, total: int) -> None:
        with self._guard:
            if name not in self._bars and len(self._bars) < MAX_BARS:
                self._bars[name] = tqdm(total=total, unit="ex", desc=name, disable=None, leave=False)
            if bar := self._bars.get(name):
                bar.update(examples - bar.n)

    def ended(self, name: str, said: str) -> None:
        with self._guard:
            if bar := self._bars.pop(name, None):
                bar.close()
            self._all.update()
        tqdm.write(said, file=sys.stderr)

    def close(self) -> None:
        for bar in (*self._bars.values(), self._all):
            bar.close()


#: What a way of working is: given runs and a function ``(name, examples, total)`` for their progress, it yields each
#: run with its result or its error, in the order in which they end.
Worker = Callable[[Sequence[Run], Callable[[str, int, int], None]], Iterable[tuple[Run, Any]]]


def here(folders: Folders, threads: int) -> Worker:
    """Work in this process, one run after another."""

    def work(runs: Sequence[Run], told: Callable[[str, int, int], None]) -> Iterator[tuple[Run, Any]]:
        for run in runs:
            try:
                result = execute(
                    run.parameters, title_of(run), template=folders.template, threads=threads,
                    tell=lambda examples, total, name=run.id: told(name, examples, total),
                )  # fmt: skip
            except RunError as error:
                result = error
            yield run, result

    return work


def _task(name: str, parameters: dict, title: str, template: str | None, threads: int):
    """What a worker of a cluster does; None is its own copy of the book's template."""
    from distributed import get_worker

    def tell(examples: int, total: int) -> None:
        get_worker().log_event(_TOPIC, {"name": name, "examples": examples, "total": total})

    return execute(parameters, title, template=Path(template or TEMPLATE), threads=threads, tell=tell)


def on_dask(client: Any, folders: Folders, threads: int) -> Worker:
    """Work on the workers of a Dask cluster. A run whose worker dies starts again on another.

    Args:
        client: a ``distributed.Client``.
        folders: a template of your own must have the same path on the workers.
        threads: of each run.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    def work(runs: Sequence[Run], told: Callable[[str, int, int], None]) -> Iterator[tuple[Run, Any]]:
        client.subscribe_topic(_TOPIC, lambda event: told(*(event[1][key] for key in ("name", "examples", "total"))))
        template = None if folders.template == TEMPLATE else str(folders.template)
        nonce = time.time_ns()  # a run that is asked for again must not meet its own old result
        futures = {
            client.submit(
                _task, run.id, dict(run.parameters), title_of(run), template, threads,
                key=f"run-{nonce}-{run.id}", pure=False,
            ): run
            for run in runs
        }  # fmt: skip
        try:
            for future in as_completed(list(futures)):
                run = futures[future]
                if future.status == "finished":
                    yield run, future.result()
                    continue
                error = future.exception() if future.status == "error" else RunError("it was cancelled by the cluster")
                if isinstance(error, KilledWorker):
                    error = RunError("workers died under it again and again; they may lack memory")
                yield run, error if isinstance(error, RunError) else RunError(f"{type(error).__name__}: {error}")
                future.release()
        finally:
            client.unsubscribe_topic(_TOPIC)
            client.cancel(list(futures))

    return work


def run_all(
    runs: Sequence[Run],
    folders: Folders,
    work: Worker,
    *,
    keep_old: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> dict[str, str]:
    """Do the runs that are not done, their searches first.

    Args:
        runs: of the catalogue.
        folders: where results go; call this inside ``folders.ours()``.
        work: :func:`here` or :func:`on_dask`.
        keep_old: leave alone what is on record with other parameters or other code, instead of doing it again.
        say: where lines about the runs go.

    Returns:
        ``{id: why it failed}``, empty if all went well.

    Raises:
        StoreError: results cannot be written.
    """
    failed: dict[str, str] = {}
    trials = list({trial.id: trial for run in runs for trial in run.trials}.values())
    for stage in (trials, runs):
        todo = []
        for run in stage:
            ready = choose(run, folders)
            if ready is None:
                reason = "its search did not end well"
                failed[run.id] = reason
                say(f"{run.id}: {reason}")
                continue
            state = state_of(ready, folders)
            old = state.name in ("changed", "stale", "broken")
            if old:
                say(f"{run.id}: {state.name}, {state.detail}{'; left as it is' if keep_old else '; runs again'}")
            if state.name == "missing" or (old and not keep_old):
                todo.append(ready)
        if todo:
            failed |= _do(todo, folders, work)
    return failed


def _do(runs: list[Run], folders: Folders, work: Worker) -> dict[str, str]:
    failed: dict[str, str] = {}
    display = _Display(len(runs))
    try:
        for run, result in work(runs, display.told):
            try:
                if isinstance(result, RunError):
                    raise result
                text, record, warnings = result
                store(run, text, record, folders)
                said = f"{run.id}: test error {100 * record['test_error']:.2f} %, {record['wall_seconds']:.0f} s"
                said = "\n".join([said, *(f"  its notebook warns: {line}" for line in warnings[:5])])
            except RunError as error:
                failed[run.id] = str(error).splitlines()[0]
                said = f"{run.id} failed: {error}"
            display.ended(run.id, said)
    finally:
        display.close()
    return failed
