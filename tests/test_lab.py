"""A chapter's widget in a live JupyterLab: what the reader moves on the page, the kernel sees."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from bioplaus_lite._kernel import own_kernel_path

pytestmark = pytest.mark.live

PLAYER = [
    """from bioplaus_lite.widgets import StepPlayer, lines
angle = lines("Angle", [0, 1, 2, 3], {"layer 1": [90, 60, 40, 30]}, "epoch", "angle (°)")
player = StepPlayer([angle], ["start", "one", "two", "three"], title="Alignment", description="An angle falls.")
player""",
    "player.step",
    "print('the kernel sees step', player.step)",
]
PHASES = [
    """import torch
from bioplaus_lite.models.segregated import RateNetwork
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.widgets import PhaseStepper
x = torch.rand(6, 64, generator=torch.Generator().manual_seed(0))
rules = {name: SegregatedCompartments(RateNetwork((64, 30, 4)), seed=i) for i, name in enumerate(("one", "other"))}
stepper = PhaseStepper(rules, x, torch.arange(6) % 4, neurons=6)
stepper""",
    "print('kernel:', stepper.step, stepper.recording, stepper.data['settings']['g_a'])",
]
SEARCH = [
    """from bioplaus_lite.widgets import SearchStepper
search = SearchStepper([-3, -2, -1, 0, 1], [12, 55, 80, 93, 10], budget=5, start=1)
search""",
    "search.length = 2.0",
    "print('kernel:', search.tried, search.noise)",
]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def lab(tmp_path: Path, request) -> Iterator[str]:
    """Address of a notebook with the cells asked for in a JupyterLab of its own, which ends with the test."""
    root, home = tmp_path / "notebooks", tmp_path / "home"
    root.mkdir()
    nbformat.write(
        new_notebook(
            cells=[new_code_cell(source) for source in request.param],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        ),
        root / "live.ipynb",
    )
    port, token = free_port(), secrets.token_hex(16)
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
            "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
        ],
        env={
            **os.environ,
            **{f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "DATA", "RUNTIME")},
            "JUPYTER_PATH": own_kernel_path(),
        },
        stdout=log,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 45
        while True:
            try:
                with urllib.request.urlopen(f"{base}/api/status?token={token}", timeout=2):
                    break
            except OSError:
                said = f"JupyterLab did not start:\n{(tmp_path / 'lab.log').read_text()[-2000:]}"
                assert server.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.2)
        yield f"{base}/lab/tree/live.ipynb?token={token}"
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def run_all(browser, lab: str, cells: int):
    """A page with the notebook open and all its cells run, by the menu."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(45_000)
    page.goto(lab)
    page.locator(".jp-Notebook .jp-CodeCell").nth(cells - 1).wait_for()
    page.get_by_text("(ipykernel) | Idle").wait_for()  # what is run before the kernel is there may be lost
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return page


@pytest.mark.parametrize("lab", [PHASES], indirect=True, ids=["phases"])
def test_the_kernel_simulates_again(browser, lab: str):
    page = run_all(browser, lab, len(PHASES))
    page.get_by_text("kernel: 0 one None").wait_for()
    widget = page.locator(".jp-Notebook .bp-widget")
    widget.locator(".bp-slider").focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowRight")
    widget.locator("select.bp-recording").select_option("other")

    # What cannot be is refused in words, and what was shown stays.
    steps = widget.locator(".bp-slider").get_attribute("max")
    widget.locator("[name=phase]").fill("20")
    widget.locator(".bp-simulate").click()
    page.get_by_text("phase of 20").wait_for()
    assert widget.locator(".bp-slider").get_attribute("max") == steps

    widget.locator("[name=phase]").fill("45")
    widget.locator("[name=g_a]").fill("0.05")
    widget.locator(".bp-simulate").click()
    page.get_by_text("Simulated.").wait_for()
    assert widget.locator(".bp-slider").get_attribute("max") != steps
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea").nth(1).click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text(re.compile(r"kernel: \d+ other 0.05")).wait_for()
    page.context.close()


@pytest.mark.parametrize("lab", [SEARCH], indirect=True, ids=["search"])
def test_the_kernel_sees_what_was_tried(browser, lab: str):
    page = run_all(browser, lab, len(SEARCH))
    page.get_by_text("kernel: [[2, 'Sobol']] 1.0").wait_for()
    widget = page.locator(".jp-Notebook .bp-widget")
    page.wait_for_function("() => document.querySelector('.bp-length').getAttribute('aria-valuetext') === '2.00'")

    # Keys of the plot are the widget's, not JupyterLab's.
    widget.locator(".bp-pick").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    widget.locator(".bp-next").click()
    widget.locator(".bp-noise").focus()
    page.keyboard.press("End")
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea").nth(2).click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text(re.compile(r"kernel: \[\[2, 'Sobol'\], \[3, 'you'\], \[\d, 'rule'\]\] 20.0")).wait_for()
    page.context.close()


@pytest.mark.parametrize("lab", [PLAYER], indirect=True, ids=["player"])
def test_the_kernel_sees_the_slider(browser, lab: str):
    page = run_all(browser, lab, len(PLAYER))
    page.get_by_text("the kernel sees step 0").wait_for()
    widget = page.locator(".jp-Notebook .bp-widget")
    widget.wait_for()
    assert widget.count() == 1, "one widget: the live one, not its copy for pages without a kernel beside it"
    before = widget.locator(".bp-text").text_content()

    # Two steps by keyboard on the slider, one by mouse, and one back by the arrow key on a button.
    slider = widget.locator(".bp-slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    widget.locator(".bp-next").click()
    assert slider.input_value() == "3"
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "2"
    assert widget.locator(".bp-text").text_content() != before

    # What the kernel has now.
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea").nth(2).click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text("the kernel sees step 2").wait_for()

    # And the other way: what the kernel sets, the page shows.
    editor = page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(1)
    editor.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("player.step = 1")
    page.keyboard.press("Shift+Enter")
    page.wait_for_function("() => document.querySelector('.bp-slider').value === '1'")
    page.context.close()
