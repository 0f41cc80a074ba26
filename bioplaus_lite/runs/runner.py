"""Which runs are done, and doing those that are not: here one by one, or on the workers of a Dask cluster.

Workers only compute. The process that was started writes all files, so that a worker needs no folder in common with it,
and whatever happens to workers, each run ends once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bioplaus_lite.plots import LABELS
from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.fingerprints import forget_spare, keep, on_file
from bioplaus_lite.runs.notebooks import RunError, execute
from bioplaus_lite.runs.records import (
    DATA,
    PURPOSES,
    ROOT,
    TEMPLATE,
    TRAININGS,
    locked,
    package_digest,
    path_of,
    read_lines,
    recorded,
    save_run,
    write,
)

__all__ = [
    "Ended", "Folders", "State", "StoreError", "choose", "here", "on_dask", "orphans", "pending", "record_of",
    "run_all", "state_of", "store", "title_of",
]  # fmt: skip

NOTEBOOKS = ROOT / "_build" / "trainings"
ORIGIN = ("commit", "versions", "machine")
NEEDED = ("parameters", "fingerprint", "test_error", "validation_error", "wall_seconds", "diverged")

MIN_FREE = 20_000_000  # bytes that must be free before anything is computed
MAX_BARS = 8
_TOPIC = "bioplaus-progress"
_TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}


class StoreError(Exception):
    """Results cannot be written; nothing more is computed."""


@dataclass(frozen=True)
class Folders:
    """Where results go, and the template that makes them.

    Attributes:
        data: the folder of the records.
        notebooks: where executed notebooks go, which nobody keeps.
        examples: a folder whose notebooks the book shows; one that is there is replaced with its run.
        template: the notebook that trains.
    """

    data: Path = DATA
    notebooks: Path = NOTEBOOKS
    examples: Path | None = TRAININGS
    template: Path = TEMPLATE

    @classmethod
    def below(cls, folder: Path, template: Path = TEMPLATE) -> Folders:
        """All in one folder, away from the book."""
        return cls(folder, folder / "trainings", None, template)

    def example(self, run: Run) -> Path | None:
        """Its executed notebook, if the book shows it."""
        path = self.examples / f"{run.id}.ipynb" if self.examples else None
        return path if path and path.is_file() else None

    def notebook(self, run: Run) -> Path:
        """The file of its executed notebook; trials have none."""
        return self.example(run) or self.notebooks / f"{run.id}.ipynb"

    @contextmanager
    def ours(self) -> Iterator[None]:
        """The folders, ready to be written to by this runner alone, without drafts of processes that were killed.

        Raises:
            StoreError: a folder cannot be written to, has no room, or another runner is at work in it.
        """
        results, searches = (path_of("", purpose, self.data).parent for purpose in PURPOSES)
        with ExitStack() as stack:
            with _saying(results):
                stack.enter_context(locked(results, wait=False))  # to the end: one runner at a time
            for folder in (results, searches, self.data, self.notebooks, *([self.examples] if self.examples else [])):
                with _saying(folder), locked(self.data):  # for now: others may put their records there too
                    _make_ready(folder)
            yield


@contextmanager
def _saying(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder into a :class:`StoreError`."""
    try:
        yield
    except BlockingIOError as error:
        raise StoreError(f"another runner is at work in {folder}; wait for it, or choose another folder") from error
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error


def _make_ready(folder: Path) -> None:
    """Remove drafts of processes that were killed, and see whether there is room; nobody else is writing."""
    folder.mkdir(parents=True, exist_ok=True)
    for draft in folder.glob("*.part"):
        draft.unlink()
    write(folder / ".probe", "")
    (folder / ".probe").unlink()
    if (free := shutil.disk_usage(folder).free) < MIN_FREE:
        need = f"at least {MIN_FREE / 1e6:.0f} are needed"
        raise StoreError(f"{folder} has {free / 1e6:.1f} MB left on its disk; {need}")


# ------------------------------------------------------------------------------------------------------- the states


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
    if example and record.get("notebook") != _checksum(example.read_text("utf-8")):
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
        scores[_get(trial.parameters, run.search.key)].append(1 - record["validation_error"])
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
    known = {name for run in runs for name in (run.id, *(trial.id for trial in run.trials))}
    return sorted(
        name for name, record in recorded(folders.data).items() if name not in known and "parameters" in record
    )


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
        **made, "parameters": p, **_chosen(run), "date": datetime.now(UTC).date().isoformat(), "notebook": None,
        "fingerprint": None,
    }  # fmt: skip
    notebook, example = folders.notebook(run), folders.example(run)
    path = path_of(run.group, p["purpose"], folders.data)
    try:
        # Each step leaves something whole: a fingerprint that nobody names, then a record, then its notebook.
        record["fingerprint"] = keep(p, found, {name: made[name] for name in ORIGIN if name in made}, folders.data)
        if example:
            record["notebook"] = _checksum(text)
        save_run(record, folders.data)
        forget_spare(p, folders.data)
        if p["purpose"] == "result":
            path = notebook
            write(path, text)
    except OSError as error:
        where = error.filename or path
        raise StoreError(f"{run.id} was computed, but {where} cannot be written: {error.strerror or error}") from error


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
                result: Any = execute(
                    run.parameters, title_of(run), template=folders.template, threads=threads,
                    tell=partial(told, run.id),
                )  # fmt: skip
            except Exception as error:  # whatever it is, the other runs go on
                result = error if isinstance(error, RunError) else RunError(f"{type(error).__name__}: {error}")
            yield run, result

    return work


def _task(name: str, parameters: dict, title: str, template: str | None, threads: int, code: str | None) -> tuple:
    """What a worker of a cluster does; None is its own copy of the book's template, and any code."""
    from distributed import get_worker

    if code and code != package_digest():
        raise RunError(f"the package of the worker {get_worker().address} is not the runner's; give both one commit")

    def tell(examples: int, total: int) -> None:
        get_worker().log_event(_TOPIC, {"name": name, "examples": examples, "total": total})

    return execute(parameters, title, template=Path(template or TEMPLATE), threads=threads, tell=tell)


def on_dask(client: Any, folders: Folders, threads: int, code: str | None = None) -> Worker:
    """Work on the workers of a Dask cluster. A run whose worker dies starts again on another.

    Args:
        client: a ``distributed.Client``.
        folders: a template of your own must have the same path on the workers.
        threads: of each run.
        code: what :func:`~bioplaus_lite.runs.records.package_digest` must say on a worker.
    """
    from distributed import CancelledError, as_completed
    from distributed.scheduler import KilledWorker

    def work(runs: Sequence[Run], told: Callable[[str, int, int], None]) -> Iterator[tuple[Run, Any]]:
        client.subscribe_topic(_TOPIC, lambda event: told(*(event[1][key] for key in ("name", "examples", "total"))))
        template = None if folders.template == TEMPLATE else str(folders.template)
        nonce = time.time_ns()  # a run that is asked for again must not meet its own old result
        futures = {
            client.submit(
                _task, run.id, dict(run.parameters), title_of(run), template, threads, code,
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
        folders: where results go; call this inside ``folders.ours()``.
        work: :func:`here` or :func:`on_dask`.
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
    if (new := json.loads(json.dumps(_chosen(run)))) != {k: v for k, v in record.items() if k == "chosen"}:
        try:
            save_run({**record, **new}, folders.data)
        except OSError as error:
            path = path_of(run.group, run.parameters["purpose"], folders.data)
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


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
            except StoreError:
                raise
            except Exception as error:  # of this run, whatever it is: the others go on
                failed[run.id] = (str(error) or repr(error)).splitlines()[0]
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
