"""``python -m bioplaus_lite.runs``: list the runs of the catalogue, or do them."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bioplaus_lite.runs.catalogue import CATALOGUE, CatalogueError, Run, read_catalogue
from bioplaus_lite.runs.records import ROOT, provenance
from bioplaus_lite.runs.runner import (
    Folders,
    State,
    StoreError,
    choose,
    here,
    on_dask,
    orphans,
    pending,
    run_all,
    state_of,
)

QUICK = ROOT / "_build" / "quick"
PATIENCE = 20  # seconds to wait for a scheduler


def cpus() -> int:
    """Processors that this process may use, within the limits of its container."""
    try:
        from dask.system import cpu_count
    except ImportError:
        return os.cpu_count() or 1
    return cpu_count()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bioplaus_lite.runs", description="The full-length trainings of the book."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="say how each run stands")
    running = commands.add_parser("run", help="do the runs that are not done")
    for command in (listing, running):
        command.add_argument("ids", nargs="*", metavar="ID", help="an id, or a pattern such as 'review-mnist-*'")
        command.add_argument("--quick", action="store_true", help="short runs on shipped data, kept in _build/quick")
        command.add_argument("--out", type=Path, metavar="FOLDER", help="keep results there instead")
        command.add_argument("--catalogue", type=Path, default=CATALOGUE, metavar="FILE", help=argparse.SUPPRESS)
        command.add_argument("--template", type=Path, default=Folders.template, metavar="FILE", help=argparse.SUPPRESS)
    running.add_argument("--all", action="store_true", help="every run of the catalogue")
    running.add_argument("--jobs", type=_positive, metavar="N", help="runs at the same time; as many as processors")
    running.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of each run; 1")
    running.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, or its scheduler file")
    running.add_argument(
        "--keep-old", action="store_true", help="do not repeat what is on record, changed, stale or broken"
    )
    return parser


def _select(runs: dict[str, Run], patterns: Sequence[str]) -> list[Run]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in runs):
            raise CatalogueError(f"no run is called {pattern!r}; 'list' shows those there are")
    return [run for name, run in runs.items() if not patterns or any(fnmatchcase(name, p) for p in patterns)]


def _list(runs: list[Run], folders: Folders) -> None:
    counts: dict[str, int] = {}
    print(f"{'id':<44}{'state':<10}{'test error':>10}{'seconds':>9}")
    for run in runs:
        ready = choose(run, folders)
        undecided = isinstance(ready, State)
        recorded = state_of(run if undecided else ready, folders)
        state = ready if undecided else recorded
        counts[state.name] = counts.get(state.name, 0) + 1
        record = recorded.record
        numbers = f"{100 * record['test_error']:>9.2f}%{record['wall_seconds']:>9.0f}" if record else " " * 19
        print(f"{run.id:<44}{state.name:<10}{numbers}  {state.detail}".rstrip())
    print(", ".join(f"{count} {name}" for name, count in counts.items()) or "no runs")


@contextlib.contextmanager
def _dask(options: argparse.Namespace, jobs: int) -> Iterator[Any]:
    """A client of the cluster asked for, or of one made here."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise StoreError(f"several runs at a time need Dask ({error}); run: make setup, or say --jobs 1") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # what it warns of here is each worker that ends
    if options.scheduler:
        where = options.scheduler
        if "://" not in where and not Path(where).is_file():
            raise StoreError(f"there is no scheduler file {where}; an address looks like tcp://host:8786")
        how = {"address": where} if "://" in where else {"scheduler_file": where}
        try:
            made = Client(**how, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise StoreError(f"no Dask scheduler answers at {where}: {error}") from error
        with made as client:
            if not client.scheduler_info()["workers"]:
                print(f"{where} has no workers yet; the runs wait for them", file=sys.stderr)
            yield client
        return
    cluster = LocalCluster(n_workers=jobs, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        yield client


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says: 0 if all went well, 1 if not, 130 if interrupted."""
    parser = _parser()
    options = parser.parse_args(argv)
    out = options.out or (QUICK if options.quick else None)
    template = options.template.resolve()
    folders = Folders.below(out.resolve(), template) if out else Folders(template=template)
    try:
        catalogue = read_catalogue(options.catalogue)
        runs = dict(catalogue.runs)
        if options.quick:
            runs = {name: run.quick() for name, run in runs.items()}
        if options.command == "list":
            _list(_select(runs, options.ids), folders)
            if not options.quick and (left := orphans(catalogue.runs.values(), folders)):
                print(f"on record, but not in the catalogue: {', '.join(left)}")
            return 0
        if bool(options.ids) == options.all:
            parser.error("say which runs: IDs or --all")
        selected = _select(runs, options.ids)
        if options.quick and options.all:  # whether everything runs, one seed says as well as three
            selected = list({(run.group, run.parameters["dataset"], run.name): run for run in selected[::-1]}.values())
            selected.reverse()
        return _run(selected, folders, options)
    except (CatalogueError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was done is kept, and the same command does the rest", file=sys.stderr)
        return 130


def _run(runs: list[Run], folders: Folders, options: argparse.Namespace) -> int:
    jobs = options.jobs or max(1, cpus() // options.threads)
    if not options.scheduler and jobs * options.threads > cpus():
        print(f"note: {jobs} runs of {options.threads} threads share {cpus()} processors", file=sys.stderr)
    if not options.quick and (commit := provenance()["commit"]).endswith(("+", "unknown")):
        what = (
            "the package differs from its commit" if commit.endswith("+") else "git does not know this folder's commit"
        )
        print(f"note: {what}; the records will say so", file=sys.stderr)
    with folders.ours():
        several = jobs > 1 and len(runs) + sum(len(run.trials) for run in runs) > 1
        if pending(runs, folders) and (options.scheduler or several):
            with _dask(options, jobs) as client:
                ended = run_all(runs, folders, on_dask(client, folders, options.threads), keep_old=options.keep_old)
        else:
            ended = run_all(runs, folders, here(folders, options.threads), keep_old=options.keep_old)
    asked = {run.id for run in runs}
    left, failed = asked & set(ended.left), asked & set(ended.failed)
    kept = f", {len(left)} left as they are" if left else ""
    print(f"{len(asked - left - failed)} of {len(runs)} runs are done{kept}, in {folders.records}")
    for name, why in ended.failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if ended.failed else 0


if __name__ == "__main__":
    sys.exit(main())
