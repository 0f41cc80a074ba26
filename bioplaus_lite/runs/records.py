"""Records of trainings: one line a training, with what is needed to repeat it.

Below a folder, ``data/`` of the repository, lie ``runs/<group>.jsonl`` with results, ``searches/<group>.jsonl`` with
the trials by which settings were chosen, and ``fingerprints.jsonl``. A line is one JSON object; lines are sorted by
``id``. Whoever writes holds a lock, reads, and replaces the file in one step. A line that is no record is named and
kept, and hides no other. What lies in folders below is not read here: ``searches/<group>/`` has journals of
:mod:`~bioplaus_lite.runs.search`.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bioplaus_lite.repository import DATA, ROOT, TEMPLATE, TRAININGS, package_digest, provenance, write

__all__ = [
    "DATA", "NAME", "PURPOSES", "ROOT", "TEMPLATE", "TRAININGS", "Lines", "MixedRuns", "broken_lines", "change_lines",
    "fingerprints_path", "load_runs", "locked", "package_digest", "parse_lines", "path_of", "provenance", "read_lines",
    "recorded", "refuse_mixed", "save_run", "write",
]  # fmt: skip

_REQUIRED = ("id", "group", "rule", "dataset", "sizes", "seed", "epochs", "test_error")
NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
#: The purposes of a training, and the folder that holds the records of each.
PURPOSES = {"result": "runs", "search": "searches"}


class MixedRuns(ValueError):
    """Records that different code produced, and that were asked for together."""


# ---------------------------------------------------------------------------------------------------------- the lock


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder's lock. The system takes it back when the process ends, however it ends.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false.
    """
    import fcntl  # Unix only; who only reads records needs none

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


# --------------------------------------------------------------------------------------------------- lines of a file


class Lines(NamedTuple):
    """What a file of records holds.

    ``records``: by ``id``, in the order of the file, to be read and not changed. ``broken``: the number of each line
    that is no record, its text, and why it is none.
    """

    records: dict[str, dict[str, Any]]
    broken: list[tuple[int, str, str]]


def read_lines(path: Path) -> Lines:
    """Read a file of records; one that does not exist holds none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return Lines({}, [])
    return _parsed(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=64)
def _parsed(path: Path, *_state: int) -> Lines:
    return parse_lines(path.read_text("utf-8", errors="surrogateescape"))


def parse_lines(text: str) -> Lines:
    """Read records from text, a line each."""
    lines = Lines({}, [])
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and (why := _add(line, lines.records)):
            lines.broken.append((number, line, why))
    return lines


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number that JSON has")


def _add(line: str, records: dict[str, dict[str, Any]]) -> str:
    """Add a line to the records; or say why it is none."""
    try:
        line.encode()
        record = json.loads(line, parse_constant=_no_number)
    except ValueError as error:
        return str(error)
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        return "it is no JSON object with an id"
    for key, kind, what in (("parameters", dict, "table"), ("group", str, "word"), ("fingerprint", str, "word")):
        if not isinstance(record.get(key, kind()), kind):
            return f"its {key!r} is no {what} but {record[key]!r}"
    if record["id"] in records:
        return f"the id {record['id']!r} stands on an earlier line"
    records[record["id"]] = record
    return ""


def _as_line(record: Mapping[str, Any]) -> str:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False)
    except ValueError:
        place, value = next(_not_finite(record))
        raise ValueError(
            f"{record['id']} cannot go on record: {place} is {value!r}; use null where there is no number"
        ) from None


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Where in a record there is a number that JSON does not have."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _not_finite(one, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from _not_finite(one, f"{place}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield place, value


def change_lines(path: Path, data: Path, *, put: Mapping[str, Any] | None = None, drop: Iterable[str] = ()) -> None:
    """Put a record in its place in a file, instead of the one with its ``id``, and take others out.

    Args:
        path: the file.
        data: the folder of the records. Whoever writes any of them holds its lock.
        put: the record.
        drop: ids.

    Raises:
        ValueError: the record holds a number that is not finite.
        OSError: the file cannot be written; the old one is whole.
    """
    new = {put["id"]: _as_line(put)} if put else {}
    with locked(data):
        old = read_lines(path)
        kept = {name: _as_line(record) for name, record in old.records.items() if name not in drop} | new
        write(path, "\n".join([*(kept[name] for name in sorted(kept)), *(line for _, line, _ in old.broken), ""]))


# ------------------------------------------------------------------------------------------------------- of trainings


def path_of(group: str, purpose: str = "result", data: Path = DATA) -> Path:
    """The file in which results (or, for the purpose ``search``, trials) of a group stand."""
    return data / PURPOSES[purpose] / f"{group}.jsonl"


def fingerprints_path(data: Path = DATA) -> Path:
    """The file of fingerprints."""
    return data / "fingerprints.jsonl"


def _files(data: Path, purpose: str | None) -> list[Path]:
    folders = [PURPOSES[purpose]] if purpose else PURPOSES.values()
    return [path for folder in folders for path in sorted((data / folder).glob("*.jsonl"))]


def recorded(data: Path = DATA, purpose: str | None = None) -> dict[str, dict[str, Any]]:
    """All records by id: results, trials, or both."""
    return {name: record for path in _files(data, purpose) for name, record in read_lines(path).records.items()}


def broken_lines(data: Path = DATA, purpose: str | None = None) -> list[str]:
    """Each line of the records that is none, by file and number, and why."""
    files = [*_files(data, purpose), *([] if purpose else [fingerprints_path(data)])]
    return [
        f"{path}, line {number} is no record: {why}" for path in files for number, _, why in read_lines(path).broken
    ]


def save_run(record: Mapping[str, Any], data: Path = DATA) -> Path:
    """Put one training on record, as a line of its group's file; return the file.

    Args:
        record: with ``id``, ``group``, ``rule``, ``dataset``, ``sizes``, ``seed``, ``epochs`` and ``test_error``.
        data: the folder that holds ``runs`` and ``searches``.

    Raises:
        ValueError: a required key is missing, a name has letters that a name may not have, or a number is not finite;
            the message names it.
    """
    missing = [key for key in _REQUIRED if key not in record]
    if missing:
        raise ValueError(f"run record lacks {', '.join(missing)}; it needs {', '.join(_REQUIRED)}")
    for key in ("id", "group"):
        if not isinstance(record[key], str) or not NAME.fullmatch(record[key]):
            raise ValueError(f"a run's {key} has lower-case letters, digits, - and _, not {record[key]!r}")
    path = path_of(record["group"], record.get("parameters", {}).get("purpose", "result"), data)
    change_lines(path, data, put=record)
    return path


def load_runs(prefix: str = "", data: Path = DATA, *, mixed: bool = False, purpose: str = "result") -> pd.DataFrame:
    """All runs whose id starts with ``prefix``, one a row, sorted by id.

    A line that is no record is named in a warning, and the others are loaded.

    Args:
        prefix: the start of their ids.
        data: the folder that holds ``runs`` and ``searches``.
        mixed: allow results of different code side by side. The column ``commit`` tells them apart.
        purpose: ``result``; or ``search`` for the trials by which settings were chosen.

    Raises:
        FileNotFoundError: there are none; the message names the folder.
        MixedRuns: different code produced them, or seeds of one run have different parameters; the message says which.
        ValueError: ``purpose`` is another word.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"unknown purpose {purpose!r}; choose one of {', '.join(PURPOSES)}")
    for line in broken_lines(data, purpose):
        warnings.warn(line, stacklevel=2)
    found = {name: record for name, record in recorded(data, purpose).items() if name.startswith(prefix)}
    if not found:
        raise FileNotFoundError(f"no {purpose} called {prefix!r}… in {data / PURPOSES[purpose]}")
    records = [found[name] for name in sorted(found)]
    if not mixed:
        refuse_mixed(f"{prefix!r}…", records)
    return pd.DataFrame(records)


def refuse_mixed(what: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Raise unless records may stand side by side.

    The seeds of a run must have the same parameters, and one setting the same fingerprint: the same code, as far as
    its behaviour goes. Those without a setting, which scripts made, must have one commit.

    Args:
        what: these records are, for the message.
        records: as they were loaded.

    Raises:
        MixedRuns: they may not.
    """
    records = list(records)
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if mark := record.get("fingerprint"):
            seen[f"code of setting {mark.partition('-')[0]}"][mark].append(record["id"])
        else:
            seen["commit"][record.get("commit", "unknown")].append(record["id"])
        run = f"{record.get('group')}-{record.get('dataset')}-{record.get('name')}"
        for key, value in record.get("parameters", {}).items():
            if key != "seed":
                seen[f"{key} of {run}"][json.dumps(value, sort_keys=True)].append(record["id"])
    marked = [record["id"] for record in records if "fingerprint" in record]
    if marked and len(marked) < len(records):
        rest = next(record["id"] for record in records if "fingerprint" not in record)
        seen["kind of record"] = {"with a setting": marked, "without": [rest]}
    for part, found in seen.items():
        if len(found) > 1:
            groups = "; ".join(f"{value}: {ids[0]} and {len(ids) - 1} more" for value, ids in found.items())
            raise MixedRuns(
                f"the runs {what} differ in more than their seeds ({part}): {groups}. Run them again, choose a "
                "narrower prefix, or say mixed=True and show which is which"
            )
