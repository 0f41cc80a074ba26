"""Searching a space twice: by Sobol points, and by a Gaussian process that begins with the first of them.

One process asks, tells and writes; workers only compute. Each trial is a cross-validation. The Sobol points are spread
evenly whatever comes out, and so say what share of a space is good; the Gaussian process (Optuna's ``GPSampler``) goes
where it expects more, and so says how good the best is, and how soon it is found.

A study's journal is ``data/searches/<group>/<model>-<dataset>.jsonl``: first a line that says what is searched and
what the code did with the first point, then a line a trial. While a study runs, lines are appended in the order in
which trials end; when it is done, they are sorted. A search that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from bioplaus_lite.data import SETS, DataError
from bioplaus_lite.runs.fingerprints import compare, fingerprint
from bioplaus_lite.runs.folders import StoreError
from bioplaus_lite.runs.folds import cross_validate
from bioplaus_lite.runs.records import DATA, locked, package_digest, provenance, write
from bioplaus_lite.runs.spaces import Study

__all__ = ["Computing", "Journal", "here", "journal_path", "load_trials", "on_workers", "propose", "run_studies"]

SOBOL, GP = "sobol", "gp"


class Task(NamedTuple):
    """A trial that is asked for. ``known`` so many trials of its sampler had been told before it was."""

    study: Study
    id: str
    point: Mapping[str, Any]
    asked: int
    known: int


# ---------------------------------------------------------------------------------------------------- one trial


def _trial(
    settings: Mapping[str, Any], folds: int, examples: int | None, seed: int, code: str | None
) -> dict[str, Any]:
    """Compute a trial, wherever this is, with one thread. What goes wrong in it is its result."""
    torch.set_num_threads(1)
    if code and code != package_digest():
        raise StoreError("the package of a worker is not this process's; give both one commit")
    wall, processor = time.perf_counter(), time.process_time()
    try:
        done = cross_validate(settings, folds=folds, examples=examples, seed=seed)
        state = "diverged" if done.diverged else "done"
        result: dict[str, Any] = {"state": state, "accuracies": [round(accuracy, 6) for accuracy in done.accuracies]}
    except DataError:  # of no trial's making
        raise
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:  # of PyTorch too; a bug is none of these
        result = {"state": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0], "accuracies": []}
    # On a machine with other work the processor's seconds say more than the clock's.
    return result | {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }


#: What a way of computing is: given a function that returns the next task or ``None`` if there is none yet, it yields
#: tasks with their results as they end, until there is none and nothing is under way.
Computing = Callable[[Callable[[], Task | None]], Iterable[tuple[Task, dict[str, Any]]]]


def _arguments(task: Task, code: str | None = None) -> tuple[Any, ...]:
    study = task.study
    return study.at(task.point), study.folds, study.examples, study.seed, code


def here(ask: Callable[[], Task | None]) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Compute in this process, one after another."""
    while task := ask():
        yield task, _trial(*_arguments(task))


def on_workers(client: Any, code: str | None = None) -> Computing:
    """Compute on the workers of a Dask cluster, as many at a time as they have threads.

    Args:
        client: a ``distributed.Client``.
        code: what :func:`~bioplaus_lite.runs.records.package_digest` must say on a worker.
    """
    from distributed import CancelledError, as_completed
    from distributed.scheduler import KilledWorker

    def compute(ask: Callable[[], Task | None]) -> Iterator[tuple[Task, dict[str, Any]]]:
        tasks: dict[Any, Task] = {}
        ended = as_completed()
        nonce = time.time_ns()  # a trial that is asked for again must not meet its own old result

        def fill() -> None:
            while len(tasks) < max(1, sum(client.nthreads().values())) and (task := ask()):
                key = f"trial-{nonce}-{task.study.name}-{task.id}"
                future = client.submit(_trial, *_arguments(task, code), key=key, pure=False)
                tasks[future] = task
                ended.add(future)

        try:
            fill()
            while tasks:
                future = next(ended)
                task = tasks.pop(future)
                try:
                    result = future.result()
                except (KilledWorker, CancelledError):
                    result = {"state": "failed", "why": "workers died under it again and again", "accuracies": []}
                future.release()  # else it would be computed again if the worker that holds it died later
                yield task, result
                fill()
        finally:
            client.cancel(list(tasks))

    return compute


# -------------------------------------------------------------------------------------------------- asking for one


def score_of(trial: Mapping[str, Any], study: Study) -> float:
    """What a sampler is told: the mean accuracy, or that of guessing if a trial diverged or failed."""
    if trial["state"] != "done":
        return 1 / len(SETS[study.dataset].classes)
    return sum(trial["accuracies"]) / len(trial["accuracies"])


def propose(study: Study, told: Sequence[Mapping[str, Any]], pending: Sequence[Mapping[str, Any]], asked: int) -> dict:
    """The point that a Gaussian process would try next, by expected improvement on axes scaled to [0, 1].

    It is a function of its arguments and nothing else, so that a search that is stopped goes on as if it had not been.

    Args:
        study: its space and seed.
        told: the trials that have ended, in that order.
        pending: the points under way.
        asked: how many points were asked for before.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    axes = {axis.name: axis for axis in study.space}
    distributions: dict[str, Any] = {}
    for name, axis in axes.items():
        if axis.choices:
            distributions[name] = optuna.distributions.CategoricalDistribution(axis.choices)
        else:
            kind: Any = optuna.distributions.IntDistribution if axis.whole else optuna.distributions.FloatDistribution
            distributions[name] = kind(axis.low, axis.high, log=axis.log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=(study.seed << 16) + asked, n_startup_trials=1)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in told:
        search.add_trial(
            optuna.trial.create_trial(
                params=dict(trial["point"]), distributions=distributions, value=score_of(trial, study)
            )
        )
    for point in pending:
        state = optuna.trial.TrialState.RUNNING
        search.add_trial(optuna.trial.create_trial(params=dict(point), distributions=distributions, state=state))
    return dict(search.ask(distributions).params)


class _Asker:
    """What to compute next in a study, given what has been."""

    def __init__(self, study: Study, journal: Journal) -> None:
        self.study, self.journal = study, journal
        self.pending: dict[str, Task] = {}
        self.asked = 1 + max((trial["asked"] for trial in journal.trials.values()), default=-1)

    def _open(self, sampler: str, first: int) -> str | None:
        names = (f"{sampler}-{i:03d}" for i in range(first, self.study.evaluations))
        return next((name for name in names if name not in self.journal.trials and name not in self.pending), None)

    def _task(self, name: str, point: Mapping[str, Any], known: int) -> Task:
        self.pending[name] = task = Task(self.study, name, point, self.asked, known)
        self.asked += 1
        return task

    def sobol(self) -> Task | None:
        """The next Sobol point; it waits for nothing."""
        if name := self._open(SOBOL, 0):
            told = sum(name.startswith(SOBOL) for name in self.journal.trials)
            return self._task(name, self.study.sobol[int(name[-3:])], told)
        return None

    def gp(self, *, waiting: bool) -> Task | None:
        """The Gaussian process's next; while others of its are under way only if it need not wait for them."""
        shared = [f"{SOBOL}-{i:03d}" for i in range(self.study.shared)]
        if not all(name in self.journal.trials for name in shared) or not (name := self._open(GP, self.study.shared)):
            return None
        pending = [task.point for task in self.pending.values() if task.id.startswith(GP)]
        if pending and waiting:
            return None
        trials = self.journal.trials
        later = sorted((name for name in trials if name.startswith(GP)), key=lambda name: trials[name]["told"])
        told = [trials[name] for name in (*shared, *later)]
        return self._task(name, propose(self.study, told, pending, self.asked), len(told))


# ------------------------------------------------------------------------------------------------------ the journal


def journal_path(study: Study, data: Path = DATA) -> Path:
    """``<data>/searches/<group>/<model>-<dataset>.jsonl``."""
    return data / "searches" / f"{study.name}.jsonl"


class Journal:
    """The lines of a study on file: what it is, and its trials.

    Args:
        path: of the file, which need not be there.

    Raises:
        StoreError: the file cannot be read, or a line of it is no trial. A last line that a killed process left
            unfinished is no error; the next line takes its place.

    Attributes:
        header: the first line; ``None`` if there is no file.
        trials: by id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] | None = None
        self.trials: dict[str, dict[str, Any]] = {}
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        whole, _, torn = text.rpartition("\n")
        self._length = len(text.encode()) - len(torn.encode())
        for number, line in enumerate(whole.split("\n") if whole else [], 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    self.header = {"study": entry["study"], **entry}
                else:
                    self.trials[entry["id"]] = {key: entry[key] for key in ("point", "state", "told", "asked")} | entry
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path}, line {number} is no trial: {error!r}; mend it or remove it") from error

    def start(self, header: Mapping[str, Any]) -> None:
        """Write the first line."""
        self.header = dict(header)
        self._append(self.header)

    def add(self, trial: Mapping[str, Any]) -> None:
        """Append a trial, and see it written before anything else is done."""
        self.trials[trial["id"]] = dict(trial)
        self._append(trial)

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._length)  # what a killed process left unfinished goes
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
                self._length = file.tell()
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def sort(self) -> None:
        """Replace the file, in one step, by one whose trials stand in the order of their ids."""
        lines = [self.header, *(self.trials[name] for name in sorted(self.trials))]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        if text.encode() != self.path.read_bytes():
            write(self.path, text)
        self._length = len(text.encode())


def _header(study: Study) -> dict[str, Any]:
    """What a journal begins with: the plan of the study, and what the code does at its first point."""
    made = fingerprint(study.at(study.sobol[0]))
    return {"study": study.name, "plan": _plain(study.plan), "fingerprint": made, **provenance()}


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value))


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two plans are not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where} ({old!r} on file, now {new!r})"


def _refuse_another(study: Study, journal: Journal) -> None:
    """Raise unless a journal is of this study and, if there is something left to do, of this code."""
    if (header := journal.header) is None:
        return
    if apart := list(_differences(header["plan"], _plain(study.plan))):
        what = f"another plan: {'; '.join(apart)}"
    elif len(journal.trials) < study.total and (apart := compare(*(
        {"setting": {}, **made} for made in (header["fingerprint"], fingerprint(study.at(study.sobol[0])))
    ))):  # fmt: skip
        what = f"other code, whose first steps differ: {'; '.join(apart[:3])}"
    else:
        return
    raise StoreError(f"{study.name} is on file with {what}. Give the study another name, or remove {journal.path}")


# ------------------------------------------------------------------------------------------------------ the search


def run_studies(
    studies: Sequence[Study],
    compute: Computing,
    data: Path = DATA,
    *,
    say: Callable[[str], None] = lambda line: tqdm.write(line),
) -> int:
    """Do what is not done of some studies, each trial on file before the next is asked for.

    Studies are taken in their order. A Gaussian process is asked for its next point when its last has come back;
    where that would leave workers without work and no other study has any, it is asked while points are under way,
    and told of them. With one worker a search repeats bit for bit; with several the journal says in which order points
    were asked for (``asked``), what was known then (``known``), and in which they were told (``told``).

    Args:
        studies: of :func:`~bioplaus_lite.runs.spaces.read_studies`.
        compute: :func:`here`, or what :func:`on_workers` made.
        data: the folder of the records.
        say: where a line about each study goes when it is done.

    Returns:
        How many trials were computed.

    Raises:
        StoreError: another process is at work on one of them, a journal is of another plan or of other code, or it
            cannot be read or written. Nothing was computed in the first three cases.
    """
    with ExitStack() as stack:
        for group in sorted({study.group for study in studies}):
            folder = data / "searches" / group
            try:
                stack.enter_context(locked(folder, wait=False))
            except BlockingIOError as error:
                raise StoreError(f"another search is at work in {folder}; wait for it") from error
            except OSError as error:
                raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error
        askers = [_Asker(study, Journal(journal_path(study, data))) for study in studies]
        for asker in askers:
            _refuse_another(asker.study, asker.journal)
        return _run(askers, compute, say)


def _run(askers: Sequence[_Asker], compute: Computing, say: Callable[[str], None]) -> int:
    by_name = {asker.study.name: asker for asker in askers}

    def ask() -> Task | None:
        for asker in askers:
            if task := asker.sobol() or asker.gp(waiting=True):
                return _begun(asker, task)
        return next((_begun(a, task) for a in askers if (task := a.gp(waiting=False))), None)

    def _begun(asker: _Asker, task: Task) -> Task:
        if asker.journal.header is None:
            asker.journal.start(_header(asker.study))
        return task

    done = 0
    total = sum(asker.study.total for asker in askers)
    with tqdm(total=total, initial=sum(len(a.journal.trials) for a in askers), unit="trial", disable=None) as bar:
        for asker in askers:
            _close(asker, say)
        for task, result in compute(ask):
            asker = by_name[task.study.name]
            del asker.pending[task.id]
            told = 1 + max((trial["told"] for trial in asker.journal.trials.values()), default=-1)
            asker.journal.add(
                {"id": task.id, "point": task.point, **result, "asked": task.asked, "known": task.known, "told": told,
                 "commit": provenance()["commit"], "date": datetime.now(UTC).date().isoformat()}
            )  # fmt: skip
            done += 1
            bar.update()
            bar.set_postfix_str(f"{asker.study.name}: best {100 * _best(asker):.1f} %")
            _close(asker, say)
    return done


def _best(asker: _Asker, sampler: str = "") -> float:
    trials = asker.journal.trials.values()
    return max((score_of(t, asker.study) for t in trials if t["id"].startswith(sampler)), default=0.0)


def _close(asker: _Asker, say: Callable[[str], None]) -> None:
    """Of a study that is done: sort its journal, and say what came of it."""
    study, trials = asker.study, asker.journal.trials
    if len(trials) < study.total:
        return
    asker.journal.sort()
    lost = sum(trial["state"] != "done" for trial in trials.values())
    say(f"{study.name}: best of {study.evaluations} Sobol points {100 * _best(asker, SOBOL):.2f} %, "
        f"of all {study.total} {100 * _best(asker):.2f} %; {lost} diverged or failed")  # fmt: skip


def load_trials(studies: Iterable[Study], data: Path = DATA) -> pd.DataFrame:
    """The trials on file, one a row: ``group``, ``model``, ``dataset``, ``title``, ``id``, ``sampler`` (of the shared
    points ``sobol``), ``number``, ``shared``, ``state``, ``accuracy`` (of guessing if it diverged or failed),
    ``seconds`` (of the processor), ``told`` and ``point``.

    Raises:
        StoreError: a study has no journal, or one of another plan.
    """
    rows = []
    for study in studies:
        journal = Journal(journal_path(study, data))
        if journal.header is None:
            raise StoreError(f"{study.name} is not on file: {journal.path}")
        if journal.header["plan"] != _plain(study.plan):
            raise StoreError(f"{study.name} is on file with another plan: {journal.path}")
        for name, trial in journal.trials.items():
            sampler, _, number = name.partition("-")
            rows.append({
                "group": study.group, "model": study.model, "dataset": study.dataset, "title": study.title, "id": name,
                "sampler": sampler, "number": int(number), "shared": sampler == SOBOL and int(number) < study.shared,
                "state": trial["state"], "accuracy": score_of(trial, study), "seconds": trial.get("processor_seconds"),
                "told": trial["told"], "point": trial["point"],
            })  # fmt: skip
    return pd.DataFrame(rows)
