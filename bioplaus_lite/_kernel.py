"""Which kernel executes a notebook: that of the interpreter which asks, whatever else is called ``python3``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["own_kernel_path"]


def own_kernel_path() -> str:
    """A value of ``JUPYTER_PATH`` with which Jupyter finds the kernel of this interpreter before all others.

    Jupyter takes the first kernel named ``python3`` on its path, and what ``JUPYTER_PATH`` or a home folder offers may
    belong to another environment, or to none. ipykernel puts its own below ``sys.prefix``.
    """
    own = str(Path(sys.prefix) / "share" / "jupyter")
    others = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path and path != own]
    return os.pathsep.join([own, *others])
