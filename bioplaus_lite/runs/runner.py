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
from bioplaus_lite.runs.records import PACKAGE, ROOT, RUNS, TEMPLATE, TRAININGS, code_digests, save_run, write

__all__ = [
    "Ended", "Folders", "State", "StoreError", "choose", "current_code", "here", "on_dask", "orphans", "pending",
    "run_all", "state_of", "store", "title_of",
]  # fmt: skip

MIN_FREE = 20_000_000  # bytes that must be free before anything is computed
MAX_BARS = 8
_TOPIC = "bioplaus-progress"
_TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}


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
        """The file of its record."""
        return self.records / f"{run.id}.json"

    def notebook(self, run: Run) -> Path:
        """The file of its executed notebook; trials have none."""
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
            notebook do not belong together), ``waits`` (for its search) or ``failed`` (its search did).
        detail: in words.
        record: what is on record, if anything.
    """

    name: str
    detail: str = ""
    record: Mapping[str, Any] | None = None


@cache
def _code(rule: str, template: Path, _edited: tuple[int, ...]) -> dict[str, str]:
    return code_digests(rule, template)


def current_code(run: Run, folders: Folders) -> dict[str, str]:
    """The digests of the code that decides the result of a run, as its files stand now.

    See :func:`~bioplaus_lite.runs.records.code_digests`. They are worked out again whenever a file has been edited.
    """
    files = (folders.template, *sorted((ROOT / PACKAGE).rglob("*.py")))
    return _code(run.parameters["rule"], folders.template, tuple(file.stat().st_mtime_ns for file in files))


def _flat(parameters: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) and value else {f"{above}{key}": value}
    return flat


def state_of(run: Run, folders: Folders) -> State:
    """Compare what is on record of a run with what the catalogue and the code say now.

    Of a run with a search the choice must have been made, see :func:`choose`. A record of more trials or fewer than the
    search has now counts as done, if they led to the same choice.
    """
    path = folders.record(run)
    if not path.is_file():
        return State("missing")
    try:
        text = path.read_text("utf-8")
        record = json.loads(text)
        old, new = _flat(record["parameters"]), _flat(json.loads(json.dumps(run.parameters)))
        code = dict(record["code"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    if all(state.record["diverged"] for state in states):
        return State("failed", f"as all {of} diverged")
    scores: dict[Any, list[float]] = {value: [] for value in run.search.values}
    for trial, state in zip(run.trials, states, strict=True):
        scores[_get(trial.parameters, run.search.key)].append(1 - state.record["validation_error"])
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
        runs: all of the catalogue. Records of groups that it never had are left alone.
        folders: where the records lie.
    """
    known, groups = set(), set()
    for run in runs:
        known |= {run.id, *(trial.id for trial in run.trials)}
        groups.add(run.group)
    found = []
    for path in sorted(folders.records.glob("*.json")):
        if path.stem in known:
            continue
        try:
            record = json.loads(path.read_text("utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("group") in groups:
            found.append(path.stem)
    return found


def _chosen(run: Run) -> dict[str, Any]:
    """What the record says of the choice."""
    if not run.search:
        return {}
    key = run.search.key
    return {"chosen": {"key": key, "value": _get(run.parameters, key), "of": list(run.search.values)}}


def _get(parameters: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        parameters = parameters[part]
    return parameters


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------ the results


def title_of(run: Run) -> str:
    """The heading of its notebook."""
    p = run.parameters
    return f"{run.id}: {LABELS.get(p['rule'], p['rule'])} on {_TITLES.get(p['dataset'], p['dataset'])}"


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
    p = run.parameters
    record = {
        "id": run.id, "group": run.group, "name": run.name, "rule": p["rule"], "dataset": p["dataset"],
        "sizes": result["sizes"], "seed": p["seed"], "epochs": p["epochs"], "test_error": result["test_error"],
        **result, "parameters": p, **_chosen(run), "date": datetime.now(UTC).date().isoformat(), "notebook": None,
    }  # fmt: skip
    path = folders.record(run)
    try:
        if p["purpose"] == "result":
            path = folders.notebook(run)
            write(path, text)
            record["notebook"] = _checksum(text)
            path = folders.record(run)
        save_run(record, folders.records)
    except OSError as error:
        if record["notebook"]:
            folders.notebook(run).unlink(missing_ok=True)  # without its record it must not be shown
        raise StoreError(f"{run.id} was computed, but {path} cannot be written: {error.strerror or error}") from error


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
            except Exception as error:  # whatever it is, the other runs go on
                result = error if isinstance(error, RunError) else RunError(f"{type(error).__name__}: {error}")
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
    from distributed import CancelledError, as_completed
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
                try:
                    result = future.result()
                except KilledWorker:
                    result = RunError("workers died under it again and again; they may lack memory")
                except CancelledError:
                    result = RunError("it was cancelled by the cluster")
                except Exception as error:
                    result = error if isinstance(error, RunError) else RunError(f"{type(error).__name__}: {error}")
                future.release()  # else it would be computed again if the worker that holds it died later
                yield run, result
        finally:
            client.unsubscribe_topic(_TOPIC)
            client.cancel(list(futures))

    return work


@dataclass(frozen=True)
class Ended:
    """How the runs ended that were asked for.

    Attributes:
        failed: ``{id: why}``, trials of their searches among them.
        left: ids of those that are on record with other parameters or other code, and were left so.
    """

    failed: Mapping[str, str]
    left: Sequence[str] = ()


def run_all(
    runs: Sequence[Run],
    folders: Folders,
    work: Worker,
    *,
    keep_old: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Ended:
    """Do the runs that are not done, their searches first.

    Args:
        runs: of the catalogue.
        folders: where results go; call this inside ``folders.ours()``.
        work: :func:`here` or :func:`on_dask`.
        keep_old: leave alone what is on record with other parameters or other code, or with a notebook of another run,
            instead of doing it again.
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
                if keep_old and folders.record(run).is_file():
                    left.append(run.id)
                    why += "; left as it is"
                else:
                    failed[run.id] = why
                say(f"{run.id}: {why}")
            elif (state := state_of(ready, folders)).name == "missing":
                todo.append(ready)
            elif state.name == "done":
                _note_choice(ready, state.record, folders)
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
    if (new := json.loads(json.dumps(_chosen(run)))) != {k: v for k, v in record.items() if k == "chosen"}:
        try:
            save_run({**record, **new}, folders.records)
        except OSError as error:
            raise StoreError(f"{folders.record(run)} cannot be written: {error.strerror or error}") from error


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
                said = "\n".join([_said(run, record), *(f"  its notebook warns: {line}" for line in warnings[:5])])
            except RunError as error:
                failed[run.id] = str(error).splitlines()[0]
                said = f"{run.id} failed: {error}"
            display.ended(run.id, said)
    finally:
        display.close()
    return failed


def _said(run: Run, record: Mapping[str, Any]) -> str:
    """What is said of a run when it ends: of a trial not the test error, on which nothing is to be chosen."""
    if record["diverged"]:
        how = "diverged"
    else:
        split = "validation" if run.parameters["purpose"] == "search" else "test"
        how = f"{split} error {100 * record[f'{split}_error']:.2f} %"
    return f"{run.id}: {how}, {record['wall_seconds']:.0f} s"
