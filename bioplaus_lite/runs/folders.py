"""Where results go, and whether they can go there; known before anything is computed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.records import DATA, PURPOSES, ROOT, TEMPLATE, TRAININGS, locked, path_of, write

__all__ = ["Folders", "StoreError", "make_ready", "saying"]

NOTEBOOKS = ROOT / "_build" / "trainings"
MIN_FREE = 20_000_000  # bytes that must be free before anything is computed


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
    def reserved(self) -> Iterator[None]:
        """The folders, ready to be written to by this runner alone, without drafts of processes that were killed.

        Raises:
            StoreError: a folder cannot be written to, has no room, or another runner is at work in it.
        """
        results, searches = (path_of("", purpose, self.data).parent for purpose in PURPOSES)
        with ExitStack() as stack:
            with saying(results):
                stack.enter_context(locked(results, wait=False))  # to the end: one runner at a time
            for folder in (results, searches, self.data, self.notebooks, *([self.examples] if self.examples else [])):
                with saying(folder), locked(self.data):  # for now: others may put their records there too
                    make_ready(folder)
            yield


@contextmanager
def saying(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder into a :class:`StoreError`."""
    try:
        yield
    except BlockingIOError as error:
        raise StoreError(f"another runner is at work in {folder}; wait for it, or choose another folder") from error
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error


def make_ready(folder: Path) -> None:
    """Remove drafts of processes that were killed, and see whether there is room; nobody else is writing.

    Raises:
        OSError: the folder cannot be written to.
        StoreError: its disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for draft in folder.glob("*.part"):
        draft.unlink()
    write(folder / ".probe", "")
    (folder / ".probe").unlink()
    if (free := shutil.disk_usage(folder).free) < MIN_FREE:
        need = f"at least {MIN_FREE / 1e6:.0f} are needed"
        raise StoreError(f"{folder} has {free / 1e6:.1f} MB left on its disk; {need}")
