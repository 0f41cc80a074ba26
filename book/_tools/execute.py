"""Execute the notebooks of the book in place and store their outputs: the only way these are made.

    python book/_tools/execute.py [NOTEBOOK ...]        # default: all in _toc.yml but recorded trainings

Each notebook runs from its first cell in a fresh kernel, in its own folder. What changes from run to run without
meaning anything (timings, widget model ids, versions of the kernel) is left out, so that a second run changes no file
unless a result changed.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from bioplaus_lite._kernel import own_kernel_path
from bioplaus_lite.runs.notebooks import METADATA, WIDGET_VIEW, normalise
from bioplaus_lite.runs.records import write

__all__ = [
    "METADATA", "WIDGET_VIEW", "NotebookError", "execute", "normalise", "pack_figures", "toc_entries", "toc_notebooks",
]  # fmt: skip

BOOK = Path(__file__).resolve().parents[1]
RECORDED = re.compile(r"trainings/.*-s\d+")  # stored by the runs that they belong to
TIMEOUT = 300  # seconds a cell
MAX_BYTES = 1_000_000


class NotebookError(Exception):
    """A notebook that did not run to its end, or may not be stored; the message names it and the cell."""


def toc_entries(book: Path = BOOK) -> list[str]:
    """Return the pages of ``_toc.yml`` in reading order, without suffixes."""
    toc = yaml.safe_load((book / "_toc.yml").read_text("utf-8"))
    entries = [toc["root"]]

    def collect(node: dict) -> None:
        for key in ("parts", "chapters", "sections"):
            for child in node.get(key, []):
                if "file" in child:
                    entries.append(child["file"])
                collect(child)

    collect(toc)
    return entries


def toc_notebooks(book: Path = BOOK) -> list[Path]:
    """Return the notebooks of ``_toc.yml`` in reading order, without those of recorded trainings."""
    paths = [book / f"{entry}.ipynb" for entry in toc_entries(book) if not RECORDED.fullmatch(entry)]
    return [path for path in paths if path.is_file()]


def pack_figures(notebook: nbformat.NotebookNode) -> None:
    """Write the PNGs of a notebook again, pixel by pixel the same, in fewer bytes; opaque ones lose their alpha."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if stored := output.get("data", {}).get("image/png"):
            before, packed = base64.b64decode(stored), io.BytesIO()
            image = Image.open(io.BytesIO(before))
            if image.mode == "RGBA" and image.getextrema()[3] == (255, 255):
                image = image.convert("RGB")
            image.save(packed, "PNG", optimize=True)
            if len(packed.getvalue()) < len(before):
                output.data["image/png"] = base64.b64encode(packed.getvalue()).decode()


def execute(path: Path) -> bool:
    """Run one notebook in place.

    Args:
        path: an ``.ipynb`` file. It is replaced in one step at the end, and not at all on an error.

    Returns:
        Whether the file changed.

    Raises:
        NotebookError: a cell failed, took more than ``TIMEOUT`` seconds or ended the kernel; or the result is not
            smaller than ``MAX_BYTES``.
    """
    before = path.read_text("utf-8")
    notebook = nbformat.reads(before, as_version=4)
    normalise(notebook)  # first, so that cells have their ids when the client names them
    started: list[int] = []
    os.environ["JUPYTER_PATH"] = own_kernel_path()
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=TIMEOUT,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        on_cell_start=lambda cell, cell_index: started.append(cell_index),
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        index = started[-1] if started else 0
        raise NotebookError(f"{path}: cell {index} (id {notebook.cells[index].id}) failed\n{error}") from error
    pack_figures(notebook)
    nbformat.validate(normalise(notebook))
    after = nbformat.writes(notebook)
    size = len(after.encode())
    if size >= MAX_BYTES:
        raise NotebookError(f"{path}: {size:,} bytes with its outputs; it must stay below {MAX_BYTES:,}")
    after = after if after.endswith("\n") else after + "\n"
    if after == before:
        return False
    write(path, after)
    return True


def main(argv: list[str] | None = None) -> int:
    """Execute the notebooks that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description="Execute notebooks in place and store their outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in book/_toc.yml")
    paths = [path.resolve() for path in parser.parse_args(argv).notebooks] or toc_notebooks()
    if not paths:
        print("there is no notebook in book/_toc.yml", file=sys.stderr)
        return 1
    os.environ["TQDM_DISABLE"] = "1"  # progress bars would be stored
    for path in paths:
        begin = time.perf_counter()
        try:
            changed = execute(path)
        except (NotebookError, OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            print(error, file=sys.stderr)
            return 1
        seconds = time.perf_counter() - begin
        name = path.relative_to(BOOK.parent) if path.is_relative_to(BOOK.parent) else path
        print(f"{name}: {'stored' if changed else 'unchanged'}, {seconds:.0f} s, {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
