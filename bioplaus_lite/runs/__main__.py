"""``python -m bioplaus_lite.runs``: list the runs of the catalogue, do them, search, compare records and code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bioplaus_lite.data import DataError
from bioplaus_lite.runs.catalogue import CATALOGUE, CatalogueError, Run, read_catalogue
from bioplaus_lite.runs.fingerprints import on_file, verify
from bioplaus_lite.runs.folders import Folders, StoreError
from bioplaus_lite.runs.records import (
    DATA,
    PURPOSES,
    ROOT,
    broken_lines,
    package_digest,
    parse_lines,
    provenance,
    recorded,
)
from bioplaus_lite.runs.runner import run_all
from bioplaus_lite.runs.search import fingerprints_of_studies, here, on_workers, run_studies
from bioplaus_lite.runs.spaces import STUDIES, Study, read_studies
from bioplaus_lite.runs.states import State, choose, orphans, pending, state_of
from bioplaus_lite.runs.work import in_this_process, on_dask

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
    checking = commands.add_parser("verify", help="say whether the code still does what the records say; write nothing")
    comparing = commands.add_parser("diff", help="print the errors on record beside those of a commit")
    comparing.add_argument("commit", nargs="?", default="HEAD", help="any name that git knows; HEAD")
    checking.add_argument("ids", nargs="*", metavar="ID", help="of a run, trial or study on record, or a pattern")
    checking.add_argument("--all", action="store_true", help="every setting on record")
    checking.add_argument("--jobs", type=_positive, metavar="N", help="processes; as many as processors")
    for command in (checking, comparing):
        command.add_argument("--out", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
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
    searching = commands.add_parser("search", help="search spaces of settings, by Sobol points and a Gaussian process")
    searching.add_argument("names", nargs="+", metavar="NAME", help="a group of studies, a study, or a pattern")
    searching.add_argument("--studies", type=Path, default=STUDIES, metavar="FILE", help=argparse.SUPPRESS)
    searching.add_argument("--jobs", type=_positive, metavar="N", help="trials at the same time; as many as processors")
    searching.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, or its scheduler file")
    searching.add_argument("--out", type=Path, metavar="FOLDER", help="keep journals there instead of in data")
    old = running.add_mutually_exclusive_group()
    old.add_argument("--again", action="store_true", help="do runs anew although they are done; their trials by name")
    old.add_argument("--keep-old", action="store_true", help="do not repeat what is on record, changed or broken")
    return parser


def _select(runs: dict[str, Run], patterns: Sequence[str]) -> list[Run]:
    """The runs that the patterns name; a pattern that names none may name trials."""
    if not patterns:
        return list(runs.values())
    trials = {trial.id: trial for run in runs.values() for trial in run.trials}
    chosen: dict[str, Run] = {}
    for pattern in patterns:
        found = [name for name in runs if fnmatchcase(name, pattern)]
        found = found or [name for name in trials if fnmatchcase(name, pattern)]
        if not found:
            raise CatalogueError(f"no run is called {pattern!r}; 'list' shows those there are")
        chosen |= {name: runs.get(name) or trials[name] for name in found}
    return list(chosen.values())


def _list(runs: list[Run], folders: Folders) -> None:
    counts: dict[str, int] = {}
    print(f"{'id':<44}{'state':<10}{'test error':>10}{'seconds':>9}")
    for run in runs:
        ready = choose(run, folders)
        recorded = state_of(run if isinstance(ready, State) else ready, folders)
        state = ready if isinstance(ready, State) else recorded
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
    try:
        if options.command == "verify":
            if bool(options.ids) == options.all:
                parser.error("say what: IDs or --all")
            return _verify(options.ids, options.out or DATA, options.jobs or cpus())
        if options.command == "diff":
            return _diff(options.commit, options.out or DATA)
        if options.command == "search":
            return _search(options)
        return _list_or_run(parser, options)
    except (CatalogueError, DataError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was done is kept, and the same command does the rest", file=sys.stderr)
        return 130


def _list_or_run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    out = options.out or (QUICK if options.quick else None)
    template = options.template.resolve()
    folders = Folders.below(out.resolve(), template) if out else Folders(template=template)
    catalogue = read_catalogue(options.catalogue)
    runs = dict(catalogue.runs)
    if options.quick:
        runs = {name: run.quick() for name, run in runs.items()}
    if options.command == "list":
        _list(_select(runs, options.ids), folders)
        if not options.quick and (left := orphans(catalogue.runs.values(), folders)):
            print(f"on record, but not in the catalogue: {', '.join(left)}")
        for line in broken_lines(folders.data):
            print(line)
        return 0
    if bool(options.ids) == options.all:
        parser.error("say which runs: IDs or --all")
    selected = _select(runs, options.ids)
    if options.quick and options.all:  # whether everything runs, one seed says as well as three
        selected = list({(run.group, run.parameters["dataset"], run.name): run for run in selected[::-1]}.values())
        selected.reverse()
    return _run(selected, folders, options)


def _search(options: argparse.Namespace) -> int:
    studies = read_studies(options.studies)
    chosen: dict[str, Study] = {}
    for name in options.names:
        found = {key: one for key, one in studies.items() if one.group == name or fnmatchcase(key, name)}
        if not found:
            groups = ", ".join(dict.fromkeys(one.group for one in studies.values()))
            raise CatalogueError(f"no study is called {name!r}; there are the groups {groups}, and in them "
                                 f"{', '.join(studies)}")  # fmt: skip
        chosen |= found
    data, jobs = (options.out or DATA).resolve(), options.jobs or cpus()
    if options.scheduler or jobs > 1:
        with _dask(options, jobs) as client:
            code = package_digest() if options.scheduler else None
            done = run_studies(list(chosen.values()), on_workers(client, code), data)
    else:
        done = run_studies(list(chosen.values()), here, data)
    print(f"{done} trials are new, in {data / 'searches'}")
    return 0


def _verify(patterns: Sequence[str], data: Path, jobs: int) -> int:
    """Compare what the code does now with the fingerprints of what is on record."""
    begin, records, lines = time.monotonic(), recorded(data), on_file(data)
    searched, torn = fingerprints_of_studies(data)  # a study is its own record: what it says of its first point
    records |= {name: {"parameters": line["setting"], "fingerprint": name} for name, line in searched.items()}
    lines |= searched
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in records):
            print(f"nothing on record is called {pattern!r}; 'list' shows the runs there are", file=sys.stderr)
            return 1
    asked = [name for name in records if not patterns or any(fnmatchcase(name, p) for p in patterns)]
    unverified = [name for name in asked if "parameters" not in records[name]]
    lost = [name for name in asked if name not in unverified and records[name].get("fingerprint") not in lines]
    users: dict[str, list[str]] = {}
    for name in asked:
        if (mark := records[name].get("fingerprint")) in lines:
            users.setdefault(mark, []).append(name)
    apart = 0
    with tqdm(total=len(users), unit="setting", disable=None) as bar:
        for line, differences in verify([lines[mark] for mark in users], min(jobs, max(1, len(users)))):
            bar.update()
            if differences:
                names = users[line["id"]]
                apart += len(names)
                rest = f" and {len(names) - 1} more of its setting" if len(names) > 1 else ""
                more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
                tqdm.write(f"differs: {names[0]}{rest}: {'; '.join(differences[:3])}{more}")
    for name in lost:
        print(f"no fingerprint: {name}")
    torn += broken_lines(data)
    for broken in torn:
        print(broken)
    count = sum(map(len, users.values()))
    print(f"{count - apart} of {count + len(lost)} records agree with the code: {len(users)} settings, "
          f"{time.monotonic() - begin:.0f} s")  # fmt: skip
    if unverified:
        print(f"not verified, as scripts made them without a setting: {len(unverified)}")
    if not users:
        print("there was nothing to compare", file=sys.stderr)
    return 1 if apart or lost or torn or not users else 0


def _diff(commit: str, data: Path) -> int:
    """Print, for each record that differs from a commit's, its error there and here."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(data), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    old: dict[str, Mapping[str, Any]] = {}
    try:
        folders = [f"{folder}/" for folder in PURPOSES.values()]
        for name in git("ls-tree", "--name-only", commit, *folders).splitlines():
            if name.endswith(".jsonl"):
                old |= parse_lines(git("show", f"{commit}:./{name}")).records
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(f"git cannot say what {commit!r} has on record: {said[-1] if said else error}", file=sys.stderr)
        return 1
    new = recorded(data)
    shown = 0
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if a == b:
            continue
        trial = (a or b or {}).get("parameters", {}).get("purpose") == "search"
        split = "validation" if trial else "test"
        before, now = (f"{100 * one[f'{split}_error']:.2f} %" if one else "–" for one in (a, b))
        if not shown:
            print(f"{'id':<48}{'error':<12}{commit:>12}{'here':>12}")
        shown += 1
        print(f"{name:<48}{split:<12}{before:>12}{now:>12}")
    print(f"{shown} of {len({*old, *new})} records differ from {commit}")
    return 0


def _run(runs: list[Run], folders: Folders, options: argparse.Namespace) -> int:
    jobs = options.jobs or max(1, cpus() // options.threads)
    if not options.scheduler and jobs * options.threads > cpus():
        print(f"note: {jobs} runs of {options.threads} threads share {cpus()} processors", file=sys.stderr)
    if not options.quick and (commit := provenance()["commit"]).endswith(("+", "unknown")):
        what = (
            "the package differs from its commit" if commit.endswith("+") else "git does not know this folder's commit"
        )
        print(f"note: {what}; the records will say so", file=sys.stderr)
    with folders.reserved():
        how = {"keep_old": options.keep_old, "again": options.again}
        several = jobs > 1 and len(runs) + sum(len(run.trials) for run in runs) > 1
        if (options.again or pending(runs, folders)) and (options.scheduler or several):
            with _dask(options, jobs) as client:
                code = package_digest() if options.scheduler else None
                ended = run_all(runs, folders, on_dask(client, folders, options.threads, code), **how)
        else:
            ended = run_all(runs, folders, in_this_process(folders, options.threads), **how)
    asked = {run.id for run in runs}
    left, failed = asked & set(ended.left), asked & set(ended.failed)
    kept = f", {len(left)} left as they are" if left else ""
    print(f"{len(asked - left - failed)} of {len(runs)} runs are done{kept}, in {folders.data}")
    for name, why in ended.failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return 1 if ended.failed else 0


if __name__ == "__main__":
    sys.exit(main())
