"""Computing runs: here one by one, or on the workers of a Dask cluster.

Workers only compute. The process that was started writes all files, so that a worker needs no folder in common with it,
and whatever happens to workers, each run ends once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bioplaus_lite.plots import LABELS
from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.folders import Folders
from bioplaus_lite.runs.notebooks import RunError, execute
from bioplaus_lite.runs.records import TEMPLATE, package_digest

__all__ = ["Worker", "in_this_process", "on_dask", "title_of"]

_TOPIC = "bioplaus-progress"
_TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}

#: What a way of working is: given runs and a function ``(name, examples, total)`` for their progress, it yields each
#: run with its result or its error, in the order in which they end.
Worker = Callable[[Sequence[Run], Callable[[str, int, int], None]], Iterable[tuple[Run, Any]]]


def title_of(run: Run) -> str:
    """The heading of its notebook."""
    p = run.parameters
    return f"{run.id}: {LABELS.get(p['rule'], p['rule'])} on {_TITLES.get(p['dataset'], p['dataset'])}"


def in_this_process(folders: Folders, threads: int) -> Worker:
    """Work in this process, one run after another."""

    def work(runs: Sequence[Run], progress: Callable[[str, int, int], None]) -> Iterator[tuple[Run, Any]]:
        for run in runs:
            try:
                result: Any = execute(
                    run.parameters, title_of(run), template=folders.template, threads=threads,
                    progress=partial(progress, run.id),
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

    def report(examples: int, total: int) -> None:
        get_worker().log_event(_TOPIC, {"name": name, "examples": examples, "total": total})

    return execute(parameters, title, template=Path(template or TEMPLATE), threads=threads, progress=report)


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

    def work(runs: Sequence[Run], progress: Callable[[str, int, int], None]) -> Iterator[tuple[Run, Any]]:
        parts = "name", "examples", "total"
        client.subscribe_topic(_TOPIC, lambda event: progress(*(event[1][part] for part in parts)))
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
