"""The repository around the package: its folders, the state of its code, and how one of its files is replaced."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

__all__ = ["DATA", "ROOT", "TEMPLATE", "TRAININGS", "package_digest", "provenance", "write"]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
TRAININGS = ROOT / "book" / "trainings"
TEMPLATE = TRAININGS / "train.ipynb"
PACKAGE = "bioplaus_lite"

_VERSIONS = ("numpy", "torch", "numba", "papermill")


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


def package_digest() -> str:
    """A digest of the package's source as it lies on this machine: whether two machines hold the same.

    Not whether results may stand side by side: that is what fingerprints say.
    """
    digest = hashlib.sha256()
    for path in (TEMPLATE, *sorted((ROOT / PACKAGE).rglob("*.py"))):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def write(path: Path, text: str) -> None:
    """Replace a file in one step or not at all; a killed process leaves at most a draft ``<name>.<pid>.part``."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that is not UTF-8 was read with its bytes escaped, and goes back as it came.
        with draft.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
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
