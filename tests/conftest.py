"""What several tests share: where things are, one thread a worker, how many workers, and a way to find Chromium."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from bioplaus_lite.rules import Trace

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"

# Small tensors gain nothing from more threads, and sums come out in one order.
torch.set_num_threads(1)

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


MAX_WORKERS = 8  # each imports torch, and takes most of a gigabyte
CGROUP = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000": two processors' time; "max 100000": no limit


def processors(cgroup: Path = CGROUP) -> int:
    """Return how many processors this process may use: those of the machine, less what a container withholds."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cgroup.is_file():
        quota, period = cgroup.read_text().split()
        if quota != "max":
            usable = min(usable, int(quota) // int(period))
    return max(1, usable)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Answer `-n auto`."""
    return min(processors(), MAX_WORKERS)


def find_chromium() -> str | None:
    """Return the path of Chromium: ``$CHROMIUM``, or the first known name on the path."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def browser_is_required() -> bool:
    """Whether a missing Chromium is an error: in continuous integration, or by request."""
    return any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "BIOPLAUS_REQUIRE_BROWSER"))


def post_signals(rule, activities, error, y) -> dict[int, torch.Tensor]:
    """``{l: what meets the activity below at W_l}``, from given activities and a given error at the top."""
    trace = Trace(activities, {"corrupted": {}})
    return {int(s.weight[1:]): s.post for s in rule.synapses(trace, error, y) if s.weight.startswith("W")}


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, started once a module."""
    executable = find_chromium()
    if executable is None:
        message = "Chromium was not found: install it, or name it in the variable CHROMIUM"
        (pytest.fail if browser_is_required() else pytest.skip)(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()
