"""Records of trainings: one JSON file a run, with what is needed to repeat it, and which code decided its result."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bioplaus_lite.rules import RULES

__all__ = [
    "RUNS", "TEMPLATE", "TRAININGS", "MixedRuns", "code_digests", "load_runs", "provenance", "refuse_mixed",
    "save_run",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "data" / "runs"
TRAININGS = ROOT / "book" / "trainings"
TEMPLATE = TRAININGS / "train.ipynb"
PACKAGE = "bioplaus_lite"

_REQUIRED = ("id", "rule", "dataset", "sizes", "seed", "epochs", "test_error")
_VERSIONS = ("numpy", "torch", "numba", "papermill")
#: What decides the result of every run: modules, or the functions of a module that a training uses.
_DECIDES: dict[str, tuple[str, ...]] = {
    "networks": (),
    "training": (),
    "rules.base": (),
    "runs.recipe": (),
    "data": ("load", "Dataset", "stratified_indices"),
    "diagnostics": (
        "angle",
        "angles_by_row",
        "gradients",
        "true_gradients",
        "update_angles",
        "backprop_errors",
        "error_angles",
        "inverse_jacobian_angles",
        "update_snr",
        "gradient_noise",
        "_drawn",
        "Dynamics",
    ),
}


class MixedRuns(ValueError):
    """Records that different code produced, and that were asked for together."""


# ---------------------------------------------------------------------------------------------------- which code


def _bare(source: str) -> str:
    """The code without comments, docstrings and layout: what can change a result."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.unparse(tree)


def _digest(sources: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:12]


def _module_digest(name: str, members: tuple[str, ...], package: Path) -> str:
    # From the files, not from what this process has imported: a run imports them anew.
    path = package / name.replace(".", "/")
    if path.is_dir():
        return _digest(_bare(part.read_text("utf-8")) for part in sorted(path.glob("*.py")))
    source = path.with_suffix(".py").read_text("utf-8")
    if not members:
        return _digest([_bare(source)])
    tops = {getattr(node, "name", ""): node for node in ast.parse(source).body}
    return _digest(_bare(ast.unparse(tops[member])) for member in members)


def _rule_modules(rule: str) -> list[str]:
    """The modules, below the package, of a rule and of the rules that it is made from."""
    cls = RULES[rule]
    cls = cls.func if isinstance(cls, partial) else cls
    names = [c.__module__.removeprefix(f"{PACKAGE}.") for c in cls.__mro__ if c.__module__.startswith(f"{PACKAGE}.")]
    # A rule in a folder of its own counts with the whole folder.
    return sorted({".".join(name.split(".")[:2]) for name in names})


def code_digests(rule: str, template: Path = TEMPLATE, package: Path = ROOT / PACKAGE) -> dict[str, str]:
    """What decides the result of a run, each part with a digest of its code: ``{"networks": "0f3a…", …}``.

    The parts are the networks, the training loop, the measures, the module of the rule, and the template's code cells.
    Comments, docstrings and layout do not count, and neither do other rules. Two results may stand side by side if
    the parts that both have are equal.

    Args:
        rule: a name in ``RULES``.
        template: the notebook that trains.
        package: the folder of the package.
    """
    members = {name: () for name in _rule_modules(rule)} | _DECIDES
    parts = {name: _module_digest(name, only, package) for name, only in members.items()}
    cells = json.loads(template.read_text("utf-8"))["cells"]  # nbformat takes two seconds to import
    parts["template"] = _digest(
        _bare("".join(cell["source"]))
        for cell in cells
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    )
    return dict(sorted(parts.items()))


def provenance() -> dict[str, Any]:
    """Commit (``+`` appended if the package differs from it), versions and machine, for a run's record.

    Ask before a training, not after it: files may change while it runs. Without git, or where it knows no commit, the
    commit is ``unknown``.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    changed = git("status", "--porcelain", "--untracked-files=no", PACKAGE, TEMPLATE.relative_to(ROOT).as_posix())
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    instructions = {name: os.environ[name] for name in ("MKL_CBWR", "ATEN_CPU_CAPABILITY") if name in os.environ}
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else ""),
        "versions": versions,
        "machine": {
            "processor": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(), **instructions
        },
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- files of runs


def write(path: Path, text: str) -> None:
    """Replace a file in one step or not at all; an interruption leaves at most ``<name>.part`` beside it."""
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        try:
            draft.unlink(missing_ok=True)
        except OSError:
            pass  # its folder is no folder: there is no draft either
        raise


#: A list of numbers or words as JSON indents it, and the break between two of them. Words hold no bare newline.
_LIST, _BREAK = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s*\]"), re.compile(r",\n\s+")


def save_run(record: Mapping[str, Any], folder: Path = RUNS) -> Path:
    """Write one run to ``folder/<id>.json``; the file is replaced in one step or not at all.

    One key a line, and a list of numbers on one line: a quarter fewer bytes than one number a line.

    Raises:
        ValueError: a required key is missing; the message names it.
    """
    missing = [key for key in _REQUIRED if key not in record]
    if missing:
        raise ValueError(f"run record lacks {', '.join(missing)}; it needs {', '.join(_REQUIRED)}")
    path = folder / f"{record['id']}.json"
    write(path, _LIST.sub(lambda found: f"[{_BREAK.sub(', ', found[1])}]", json.dumps(record, indent=1)) + "\n")
    return path


def load_runs(prefix: str = "", folder: Path = RUNS, *, mixed: bool = False, purpose: str = "result") -> pd.DataFrame:
    """All runs whose id starts with ``prefix``, one a row, sorted by id.

    Args:
        prefix: the start of their ids.
        folder: where they lie.
        mixed: allow results of different code side by side. The column ``commit`` tells them apart.
        purpose: ``result``; or ``search`` for the trials by which settings were chosen.

    Raises:
        FileNotFoundError: there are none; the message names the folder.
        MixedRuns: different code produced them, or seeds of one run have different parameters; the message says which.
        ValueError: a file is no record; the message names it.
    """
    files = sorted(folder.glob(f"{prefix}*.json"))
    if not files:
        raise FileNotFoundError(f"no recorded runs called {prefix!r}… in {folder}")
    records = []
    for file in files:
        try:
            records.append(json.loads(file.read_text("utf-8")))
        except ValueError as error:
            raise ValueError(f"{file} is no record of a run: {error}") from error
    records = [r for r in records if r.get("parameters", {}).get("purpose", "result") == purpose]
    if not records:
        raise FileNotFoundError(f"none of the {len(files)} runs called {prefix!r}… in {folder} is a {purpose}")
    if not mixed:
        refuse_mixed(f"{prefix!r}…", records)
    return pd.DataFrame(records)


def refuse_mixed(what: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Raise unless records may stand side by side.

    The same code must have produced them: each part of it, or the commit of those that know no parts. And the seeds of
    a run must have the same parameters.

    Args:
        what: these records are, for the message.
        records: as they were loaded.

    Raises:
        MixedRuns: they may not.
    """
    records = list(records)
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    if len({"code" in record for record in records}) > 1:
        for record in records:
            seen["code, kind of record"]["by parts" if "code" in record else "by commit"].append(record["id"])
    for record in records:
        for part, digest in record.get("code", {"commit": record.get("commit", "unknown")}).items():
            seen[f"code, {part}"][digest].append(record["id"])
        run = f"{record.get('group')}-{record.get('dataset')}-{record.get('name')}"
        for key, value in record.get("parameters", {}).items():
            if key != "seed":
                seen[f"{key} of {run}"][json.dumps(value, sort_keys=True)].append(record["id"])
    for part, found in seen.items():
        if len(found) > 1:
            groups = "; ".join(f"{value}: {ids[0]} and {len(ids) - 1} more" for value, ids in found.items())
            raise MixedRuns(
                f"the runs {what} differ in more than their seeds ({part}): {groups}. Run them again, choose a "
                "narrower prefix, or say mixed=True and show which is which"
            )
