"""How far runs are, in a terminal."""

from __future__ import annotations

import sys
import threading

from tqdm import tqdm

__all__ = ["Display"]

MAX_BARS = 8


class Display:
    """Progress in a terminal: one bar for all runs, and one for each that is under way."""

    def __init__(self, total: int) -> None:
        self._guard = threading.Lock()
        self._bars: dict[str, tqdm] = {}
        self._all = tqdm(total=total, unit="run", desc="all runs", disable=None, position=0)

    def advance(self, name: str, examples: int, total: int) -> None:
        with self._guard:
            if name not in self._bars and len(self._bars) < MAX_BARS:
                self._bars[name] = tqdm(total=total, unit="ex", desc=name, disable=None, leave=False)
            if bar := self._bars.get(name):
                bar.update(examples - bar.n)

    def ended(self, name: str, said: str) -> None:
        with self._guard:
            if bar := self._bars.pop(name, None):
                bar.close()
            self._all.update()
        tqdm.write(said, file=sys.stderr)

    def close(self) -> None:
        for bar in (*self._bars.values(), self._all):
            bar.close()
