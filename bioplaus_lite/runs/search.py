"""Searching a space twice: by Sobol points, and by a Gaussian process that begins with the first of them.

One process asks, tells and writes; workers only compute. Each trial is a cross-validation. The Sobol points are spread
evenly whatever comes out, and so say what share of a space is good; the Gaussian process (Optuna's ``GPSampler``) goes
where it expects more, and so says how good the best is, and how soon it is found.

A study's journal is ``<model>-<dataset>.jsonl`` in ``data/searches/<group>``: first a line that says what is searched
and what the code did with the first point, then a line a trial. While a study runs, lines are appended in the order in
which trials end; when it is done, they are sorted. A search that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from bioplaus_lite.data import SETS, DataError
from bioplaus_lite.runs.fingerprints import compare, fingerprint, setting_of
from bioplaus_lite.runs.folders import StoreError, make_ready, saying
from bioplaus_lite.runs.folds import cross_validate, stored_folds
from bioplaus_lite.runs.records import DATA, locked, package_digest, provenance, write
from bioplaus_lite.runs.spaces import Study

__all__ = [
    "Computing", "Journal", "Task", "fingerprints_of_studies", "here", "journal_path", "load_trials", "on_workers",
    "propose", "run_studies",
]  # fmt: skip

SOBOL, GP = "sobol", "gp"
STATES = ("done", "diverged", "failed")
#: What the lines of a journal hold at least, and of which kind it is.
_HEADER = {"study": str, "plan": dict, "fingerprint": dict}
_TRIAL = {"id": str, "point": dict, "state": str, "accuracies": list, "asked": int, "known": int, "told": int}


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
    """Compute a trial, wherever this is, with one thread. What goes wrong in it is its result.

    Not so what is of no one trial's making: folds that cannot be made, and whatever else only a bug raises. They end
    the search, and no journal fills with failures.
    """
    torch.set_num_threads(1)
    if code and code != package_digest():
        raise StoreError("the package of a worker is not this process's; give both one commit")
    stored_folds(settings["dataset"], settings["subset"], folds, examples, seed)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        done = cross_validate(settings, folds=folds, examples=examples, seed=seed)
        state = "diverged" if done.diverged else "done"
        result: dict[str, Any] = {"state": state, "accuracies": [round(accuracy, 6) for accuracy in done.accuracies]}
    except (DataError, NotImplementedError, RecursionError):  # they are a RuntimeError too
        raise
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:  # of PyTorch too
        result = {"state": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0], "accuracies": []}
    # On a machine with other work the processor's seconds say more than the clock's.
    return result | {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }


#: What a way of computing is: given a function that returns the next task or ``None`` if there is none yet, it yields
#: tasks with their results as they end, until there is none and nothing is under way.
Computing = Callable[[Callable[[], Task | None]], Generator[tuple[Task, dict[str, Any]]]]


def _arguments(task: Task, code: str | None = None) -> tuple[Any, ...]:
    study = task.study
    return study.at(task.point), study.folds, study.examples, study.seed, code


def here(ask: Callable[[], Task | None]) -> Generator[tuple[Task, dict[str, Any]]]:
    """Compute in this process, one after another."""
    while task := ask():
        yield task, _trial(*_arguments(task))


def on_workers(client: Any, code: str | None = None) -> Computing:
    """Compute on the workers of a Dask cluster, as many at a time as they have threads.

    Args:
        client: a ``distributed.Client``.
        code: what :func:`~bioplaus_lite.runs.records.package_digest` must say on a worker.

    A trial whose worker dies starts again on another; where several die under it, it has failed.

    Raises:
        StoreError: the cluster went away, which fails no trial; or a worker has other code.
    """
    from distributed import CancelledError, as_completed
    from distributed.scheduler import KilledWorker

    def compute(ask: Callable[[], Task | None]) -> Generator[tuple[Task, dict[str, Any]]]:
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
                except KilledWorker:
                    result = {"state": "failed", "why": "workers died under it again and again", "accuracies": []}
                future.release()  # else it would be computed again if the worker that holds it died later
                yield task, result
                fill()
        except (CancelledError, OSError) as error:  # of the connection; a trial's own errors are its result
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise StoreError(f"the Dask cluster went away ({why}); the same command goes on where this was") from error
        finally:
            with suppress(CancelledError, OSError):
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


def _ids(study: Study, sampler: str) -> list[str]:
    """Of the trials of a sampler, those of the Gaussian process without the Sobol points that are its first."""
    first = study.shared if sampler == GP else 0
    return [f"{sampler}-{i:03d}" for i in range(first, study.evaluations)]


class _Asker:
    """What to compute next in a study, given what has been."""

    def __init__(self, study: Study, journal: Journal) -> None:
        self.study, self.journal = study, journal
        self.pending: dict[str, Task] = {}
        self.asked = 1 + max((trial["asked"] for trial in journal.trials.values()), default=-1)

    def _open(self, sampler: str) -> str | None:
        names = _ids(self.study, sampler)
        return next((name for name in names if name not in self.journal.trials and name not in self.pending), None)

    def _task(self, name: str, point: Mapping[str, Any], known: int) -> Task:
        self.pending[name] = task = Task(self.study, name, point, self.asked, known)
        self.asked += 1
        return task

    def sobol(self) -> Task | None:
        """The next Sobol point; it waits for nothing."""
        if name := self._open(SOBOL):
            told = sum(name.startswith(SOBOL) for name in self.journal.trials)
            return self._task(name, self.study.sobol[int(name[-3:])], told)
        return None

    def gp(self, *, waiting: bool) -> Task | None:
        """The Gaussian process's next; while others of its are under way only if it need not wait for them."""
        shared = _ids(self.study, SOBOL)[: self.study.shared]
        if not all(name in self.journal.trials for name in shared) or not (name := self._open(GP)):
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
    """``<model>-<dataset>.jsonl`` in ``searches/<group>`` below ``data``."""
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
            text = path.read_bytes()
        except FileNotFoundError:
            text = b""
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
        whole, end, _ = text.rpartition(b"\n")
        self._whole, self._size = len(whole) + len(end), len(text)
        for number, line in enumerate(whole.split(b"\n") if end else [], 1):
            try:
                entry = json.loads(line.decode())
                for name, kind in (_HEADER if number == 1 else _TRIAL).items():
                    if not isinstance(entry[name], kind):
                        raise TypeError(f"its {name!r} is no {kind.__name__}")
                if number == 1:
                    self.header = entry
                elif entry["id"] in self.trials or entry["state"] not in STATES:
                    raise ValueError("its id stands on an earlier line, or its state is none")
                else:
                    self.trials[entry["id"]] = entry
            except (ValueError, KeyError, TypeError) as error:
                what = "a trial" if number > 1 else "the head of a journal"
                raise StoreError(f"{path}, line {number} is not {what}: {error!r}; mend it or remove it") from error

    def start(self, header: Mapping[str, Any]) -> None:
        """Write the first line."""
        self.header = dict(header)
        self._append(self.header)

    def add(self, trial: Mapping[str, Any]) -> None:
        """Append a trial, and see it written before anything else is done."""
        self._append(trial)
        self.trials[trial["id"]] = dict(trial)

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() != self._size:
                    raise StoreError(f"{self.path} is not as it was read; something else wrote to it, or removed it")
                file.truncate(self._whole)  # what a killed process left unfinished goes
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
                self._whole = self._size = file.tell()
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def sort(self) -> None:
        """Replace the file, in one step, by one whose trials stand in the order of their ids."""
        lines = [self.header, *(self.trials[name] for name in sorted(self.trials))]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        try:
            if text.encode() != self.path.read_bytes():
                write(self.path, text)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._whole = self._size = len(text.encode())


def _header(study: Study, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a journal begins with: the plan of the study, and what the code does at its first point."""
    made = fingerprint(study.at(study.sobol[0]))
    return {"study": study.name, "plan": _plain(study.plan), "fingerprint": made, **origin}


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


def _opened(study: Study, data: Path) -> Journal:
    """The journal of a study.

    Raises:
        StoreError: it cannot be read, or is of another plan.
    """
    journal = Journal(journal_path(study, data))
    apart = list(_differences(journal.header["plan"], _plain(study.plan))) if journal.header else []
    known = {**dict.fromkeys(_ids(study, GP)), **dict(zip(_ids(study, SOBOL), study.sobol, strict=True))}
    for name, trial in journal.trials.items() if not apart else ():
        if name not in known or {*trial["point"]} != {axis.name for axis in study.space}:
            apart.append(f"a trial {name!r} at {trial['point']!r}, which it does not have")
        elif (point := known[name]) and not all(_equal(value, trial["point"][at]) for at, value in point.items()):
            apart.append(f"{name} at {trial['point']!r}, which is now at {point!r}, by another SciPy perhaps")
    if apart:
        what = f"another plan: {'; '.join(apart[:3])}"
        raise StoreError(f"{study.name} is on file with {what}. Give the study another name, or remove {journal.path}")
    return journal


def _equal(old: Any, new: Any) -> bool:
    """Whether two hyperparameters are the same, but for the last digits, which another machine may round otherwise."""
    return math.isclose(old, new, rel_tol=1e-9) if isinstance(old, float) and isinstance(new, float) else old == new


def _refuse_other_code(study: Study, journal: Journal) -> None:
    """Raise if there is something left to do of a journal that other code has begun."""
    if journal.header is None or len(journal.trials) == study.total:
        return
    now = fingerprint(study.at(study.sobol[0]))
    if apart := compare(*({"setting": {}, **made} for made in (journal.header["fingerprint"], now))):
        what = f"other code, whose first steps differ: {'; '.join(apart[:3])}"
        raise StoreError(f"{study.name} is on file with {what}. Give the study another name, or remove {journal.path}")


def fingerprints_of_studies(data: Path = DATA) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What journals on file say the code did, each by the name of its study, with the setting: a line such as
    :func:`~bioplaus_lite.runs.fingerprints.on_file` has; and what is wrong with journals that cannot be read."""
    lines: dict[str, dict[str, Any]] = {}
    broken = []
    for path in sorted((data / "searches").glob("*/*.jsonl")):
        try:
            if head := Journal(path).header:  # none, if a process was killed in its first line
                study = Study.of_plan(head["study"], head["plan"])
                setting = setting_of(study.at(study.sobol[0]))
                lines[study.name] = {**head["fingerprint"], "id": study.name, "setting": setting}
        except StoreError as error:
            broken.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            broken.append(f"{path}, line 1 has no plan of a study: {error!r}")
    return lines, broken


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
        say: where a line goes about each study that is done, and each trial that failed.

    Returns:
        How many trials were computed.

    Raises:
        DataError: the data are not at hand.
        StoreError: the packages of a search are not at hand, another process is at work on one of the groups, a journal
            is of another plan or of other code, or it cannot be read or written. Nothing is computed then, unless it is
            a write that fails, or a cluster that goes away.
    """
    if lacking := [name for name in ("optuna", "sklearn") if find_spec(name) is None]:
        raise StoreError(f"a search needs {' and '.join(lacking)}; run: make setup")
    origin = provenance()  # of the code that is loaded, whatever becomes of its files while it runs
    with ExitStack() as stack:
        for group in sorted({study.group for study in studies}):
            folder = data / "searches" / group
            with saying(folder):
                stack.enter_context(locked(folder, wait=False))
                make_ready(folder)
        askers = [_Asker(study, _opened(study, data)) for study in {one.name: one for one in studies}.values()]
        for asker in askers:
            _refuse_other_code(asker.study, asker.journal)
        return _run(askers, compute, origin, say)


def _run(askers: Sequence[_Asker], compute: Computing, origin: Mapping[str, Any], say: Callable[[str], None]) -> int:
    by_name = {asker.study.name: asker for asker in askers}

    def ask() -> Task | None:
        for asker in askers:
            if task := asker.sobol() or asker.gp(waiting=True):
                return _begun(asker, task)
        return next((_begun(a, task) for a in askers if (task := a.gp(waiting=False))), None)

    def _begun(asker: _Asker, task: Task) -> Task:
        if asker.journal.header is None:
            asker.journal.start(_header(asker.study, origin))
        return task

    done = 0
    total = sum(asker.study.total for asker in askers)
    bar = tqdm(total=total, initial=sum(len(a.journal.trials) for a in askers), unit="trial", disable=None)
    with bar, closing(compute(ask)) as ended:
        for asker in askers:
            _close(asker, say)
        for task, result in ended:
            asker = by_name[task.study.name]
            del asker.pending[task.id]
            told = 1 + max((trial["told"] for trial in asker.journal.trials.values()), default=-1)
            asker.journal.add(
                {"id": task.id, "point": task.point, **result, "asked": task.asked, "known": task.known, "told": told,
                 "commit": origin["commit"], "date": datetime.now(UTC).date().isoformat()}
            )  # fmt: skip
            done += 1
            if result["state"] == "failed":
                say(f"{task.study.name}: {task.id} failed: {result['why']}")
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
        journal = _opened(study, data)
        if journal.header is None:
            raise StoreError(f"{study.name} is not on file: {journal.path}")
        for name, trial in journal.trials.items():
            sampler, _, number = name.partition("-")
            rows.append({
                "group": study.group, "model": study.model, "dataset": study.dataset, "title": study.title, "id": name,
                "sampler": sampler, "number": int(number), "shared": sampler == SOBOL and int(number) < study.shared,
                "state": trial["state"], "accuracy": score_of(trial, study), "seconds": trial.get("processor_seconds"),
                "told": trial["told"], "point": trial["point"],
            })  # fmt: skip
    return pd.DataFrame(rows)
