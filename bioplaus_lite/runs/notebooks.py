"""One run as one notebook: papermill executes the template with the run's parameters, in a kernel of its own."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioplaus_lite._kernel import own_kernel_path
from bioplaus_lite.runs.records import TEMPLATE
from bioplaus_lite.runs.train import MIME, PROGRESS, UNDER_RUNNER

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["MAX_BYTES", "METADATA", "WIDGET_VIEW", "RunError", "execute", "normalise"]

MAX_BYTES = 1_000_000
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class RunError(Exception):
    """A run that did not end well; the message says why, in the words of its notebook."""


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook with everything that varies from run to run left out; edits it in place."""
    import nbformat  # takes two seconds, so it is not imported with the chapters that load records

    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    for index, cell in enumerate(notebook.cells):
        for key in ("execution", "collapsed", "papermill"):
            cell.metadata.pop(key, None)
        if not cell.get("id") or cell.id in seen:  # derived, not drawn: the same notebook gets the same ids
            cell.id = hashlib.sha256(f"{index}\0{cell.source}".encode()).hexdigest()[:8]
        seen.add(cell.id)
        for output in cell.get("outputs", []):
            if WIDGET_VIEW in output.get("data", {}):
                del output.data[WIDGET_VIEW]  # a random model id, of no use without the kernel
            if "metadata" in output:
                output.metadata = nbformat.from_dict({k: v for k, v in output.metadata.items() if k in output.data})
    return notebook


class _Listener:
    """What papermill takes for the file of the kernel's stderr: it hears how far the training is."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress, self._rest = progress, ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        reports = [line.split()[1:] for line in lines if line.startswith(PROGRESS)]
        if reports:
            self._progress(*map(int, reports[-1]))

    def flush(self) -> None:
        pass


@contextmanager
def _environment(threads: int, parameters: Mapping[str, Any]) -> Iterator[None]:
    """The variables that the kernel inherits: the run, its threads, one instruction set on all processors of a kind."""
    wanted = {name: str(threads) for name in _THREADS} | {UNDER_RUNNER: json.dumps(parameters)}
    wanted["JUPYTER_PATH"] = own_kernel_path()
    # A rule of a reader's own lies where they work, and the kernel works where the template lies.
    wanted["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    if platform.machine() == "x86_64":
        wanted |= {name: os.environ.get(name, v) for name, v in (("MKL_CBWR", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2"))}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def execute(
    parameters: Mapping[str, Any],
    title: str,
    *,
    template: Path = TEMPLATE,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda examples, total: None,
) -> tuple[str, dict[str, Any], list[str]]:
    """Train: execute the template with these parameters. Nothing is written.

    Args:
        parameters: what replaces the values of the cell tagged ``parameters``.
        title: of the notebook, in place of the template's.
        template: the notebook to execute.
        threads: of the kernel.
        progress: called with how far the training is, ``(examples, all examples)``.

    Returns:
        The executed notebook as text, the record of its result with the fingerprint of its setting, and what it wrote
        to stderr besides.

    Raises:
        RunError: a cell failed or the kernel died; or the notebook has no result, or is too large.
    """
    import nbformat
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    start = time.perf_counter()
    try:
        with _environment(threads, parameters):
            notebook = papermill.execute_notebook(
                str(template), None, dict(parameters), kernel_name="python3", cwd=str(template.parent),
                progress_bar=False, stderr_file=_Listener(progress), record_timing=False, store_widget_state=False,
                extra_arguments=["--IPKernelApp.log_level=50"],  # a kernel that is shut down calls this an error
            )  # fmt: skip
    except PapermillExecutionError as error:
        traceback = _COLOURS.sub("", "\n".join(error.traceback)).strip()
        said = f"{error.ename}: {error.evalue} (cell {error.cell_index} of its notebook)"
        raise RunError(f"{said}\n{traceback}") from None
    except DeadKernelError as error:
        raise RunError("its kernel died; the machine may have run out of memory") from error
    except NoSuchKernel as error:
        raise RunError("there is no kernel 'python3'; run: make setup") from error
    record, said = None, ""
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            record = output.get("data", {}).pop(MIME, record)
            if output.output_type == "stream" and output.name == "stderr":
                said += output.text  # a line may be torn in two outputs
            else:
                kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    warnings = [line for line in said.splitlines() if line and not line.startswith(PROGRESS)]
    if record is None:
        raise RunError(f"{template.name} ended without a result; its last cell must show an Outcome")
    record = json.loads(record) if isinstance(record, str) else record
    heading = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    heading.source = re.sub(r"^# .*", lambda _: f"# {title}", heading.source, count=1)
    notebook = normalise(notebook)
    nbformat.validate(notebook)
    text = nbformat.writes(notebook)
    text = text if text.endswith("\n") else text + "\n"
    if (size := len(text.encode())) >= MAX_BYTES:
        raise RunError(f"its notebook has {size:,} bytes; it must stay below {MAX_BYTES:,}")
    return text, record | {"wall_seconds": round(time.perf_counter() - start, 2)}, warnings
