"""How all that is compiled is compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numba

# Numba looks for changes in the file of a function only, not in those of the functions that it calls and has inlined.
# A digest of the whole folder in the name keeps compiled code of other sources from being taken from the cache.
_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def _compiled(**options) -> Callable:
    """A decorator: compiled at first use, kept on disk for these sources, without Python's lock."""

    def decorate(function: Callable) -> Callable:
        function.__qualname__ += f"_{_SOURCES.hexdigest()[:12]}"
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)

    return decorate


jit = _compiled(fastmath={"contract"})
# Sums in any order: only where the readable simulation, too, leaves the order to the linear algebra library.
jit_any_order = _compiled(fastmath={"contract", "reassoc"})
