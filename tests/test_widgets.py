"""Step players: what Python sends, and what a reader gets on a page without a kernel."""

from __future__ import annotations

import base64
import inspect
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import traitlets

from bioplaus_lite.widgets import StepPlayer, bars, diagram, image, lines, scatter, table, vectors
from bioplaus_lite.widgets.static import module_source, static_html

STEPS = 6
EPOCHS = list(range(STEPS))
ANGLES = [90.0, 75.5, 61.0, 48.0, 37.5, 30.0]
OTHER_ANGLES = [40.0, 70.0, 20.0, 5.0, 15.0, 10.0]
NORMS = [1.0, 1.2, 1.5, 1.9, 2.4, 3.0]
PROBABILITIES = [[0.1 + 0.16 * k, 0.5 - 0.08 * k, 0.4 - 0.08 * k] for k in EPOCHS]
TURN = np.linspace(2.0, 0.5, STEPS)
FEEDBACK = np.stack([0.7 * np.cos(TURN), 0.7 * np.sin(TURN)], axis=1)
FRAMES = np.stack([np.full((4, 6), k / (STEPS - 1)) for k in EPOCHS])  # one colour a step, 0 ... 1
FRAMES[:, 0, 0] = -1.0


def every_panel() -> list[dict]:
    """One panel of each kind, on data simple enough to check by hand."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(2, 300)) * 0.05
    mix = np.linspace(0, 0.9, STEPS)[:, None]
    return [
        lines("Angle to backprop", EPOCHS, {"layer 1": ANGLES, "layer 2": OTHER_ANGLES}, "epoch",
              "angle (°)", ylim=(0, 100), hline=[(90, "orthogonal")]),
        bars("Output", ["cat", "dog", "bird"], PROBABILITIES, "probability", ylim=(0, 1)),
        scatter("Weights", (1 - mix) * w + mix * b, np.broadcast_to(b, (STEPS, 300)), "W transposed", "B"),
        vectors("Teaching signals", {"Wᵀe": [[0.8, 0.3]] * STEPS, "Be": FEEDBACK}, "unit 1", "unit 2", lim=1,
                halfplane="Wᵀe"),
        image("Weight matrix", FRAMES, "The weights grow.", vmin=-1, vmax=1, xlabel="input", ylabel="output",
              clabel="weight"),
        table("By layer", ["layer", "angle (°)", "‖W‖/‖W₀‖"],
              [[["hidden", a, n], ["output", 0, 1]] for a, n in zip(ANGLES, NORMS, strict=True)]),
    ]


def player(panels: list[dict] | None = None, **changes) -> StepPlayer:
    arguments = {
        "panels": every_panel() if panels is None else panels,
        "steps": [f"epoch {k}" for k in EPOCHS],
        "texts": [f"After {k} epochs." for k in EPOCHS],
        "title": "Alignment over training",
        "description": "The angle falls while the weights grow towards the feedback.",
    }
    return StepPlayer(**{**arguments, **changes})


def one_line(**changes) -> dict:
    return lines("Angle", EPOCHS, {"layer 1": ANGLES}, "epoch", "angle (°)", **changes)


# --------------------------------------------------------------------------------------- what Python sends


class Page(HTMLParser):
    """Elements of an HTML text and what their scripts hold, as a browser would split it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.get_starttag_text().startswith("<script") and self.cdata_elem == "script":
            self.scripts[-1] += data


def state_of(widget: StepPlayer) -> dict:
    return json.loads(Page(widget._repr_html_()).scripts[0])


def test_bundle_has_a_live_and_a_static_form():
    data, _ = player()._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert data["text/plain"] == "StepPlayer('Alignment over training', 6 steps)"
    assert repr(player([lines("A", [0], {"a": [1]}, "x", "y")], steps=["0"], texts=None)).endswith("1 step)")


def test_html_depends_on_the_arguments_alone():
    first, second = player(), player()
    assert first.model_id != second.model_id
    assert first._repr_html_() == second._repr_html_()
    assert first.model_id not in first._repr_html_()
    assert player(step=2)._repr_html_() != first._repr_html_()


def test_html_holds_the_current_step_and_the_whole_player():
    widget = player(step=1)
    widget.step = 4
    assert state_of(widget) == {"step": 4, "spec": widget.spec}


def test_no_text_can_leave_its_element():
    evil = "</script><script>alert(1)</script><!-- </noscript><b> & \u2028 'x'"
    panel = lines(evil, EPOCHS, {evil: ANGLES}, evil, evil)
    widget = player([panel], title=evil, description=evil, texts=[evil] * STEPS, steps=[evil] * STEPS)
    page = Page(widget._repr_html_())
    assert page.tags.count("script") == 2  # the state and the module
    assert page.tags.count("b") == 0
    assert json.loads(page.scripts[0])["spec"]["panels"][0]["curves"][0]["name"] == evil


def test_module_is_one_file_that_asks_for_nothing():
    source = str(StepPlayer._esm)
    assert not re.search(r"^\s*import\b", source, re.MULTILINE)
    assert re.findall(r"^export .*", source, re.MULTILINE) == ["export default { render };"]
    assert "http" not in source.replace("http://www.w3.org/2000/svg", "")


def test_modules_can_be_joined():
    """Each file exports what others take from it, and no two files of a widget declare the same name."""
    folder = Path(inspect.getfile(StepPlayer)).parent / "js"
    declared = re.compile(r"^(?:export )?(?:function|const|let) (\w+)", re.MULTILINE)
    for widget in ("player.js", "phases.js"):
        names = declared.findall(module_source(widget))
        assert len(set(names)) == len(names) > 50
    for path in folder.rglob("*.js"):
        for taken, other in re.findall(r'^import \{([^}]*)\} from "([^"]*)";', path.read_text("utf-8"), re.MULTILINE):
            source = (path.parent / other).read_text("utf-8")
            exported = re.findall(r"^export (?:function|const) (\w+)", source, re.MULTILINE)
            assert set(re.findall(r"\w+", taken)) <= set(exported), f"{path.name} from {other}"


def test_css_that_would_end_its_element_is_refused():
    with pytest.raises(ValueError, match="</"):
        static_html("export default {}", "</style>", {}, "")


def test_state_with_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        static_html("export default {}", "", {"x": math.nan}, "")


def test_twenty_steps_stay_small():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 500))
    panels = [
        lines("Accuracy", range(20), {f"rule {i}": rng.random(20) for i in range(4)}, "epoch", "accuracy"),
        scatter("W against B", x, y, "W", "B"),
        table("Table", ["a", "b"], [[["x", v]] for v in rng.random(20)]),
    ]
    size = len(player(panels, steps=[str(k) for k in range(20)], texts=None)._repr_html_().encode())
    assert size < 160_000
    digits = image("Digit", rng.random((20, 28, 28)), "noise", cmap="sequential")
    assert len(json.dumps(digits)) < 30_000


def test_numbers_have_the_decimals_that_the_largest_of_their_panel_needs():
    panel = lines("A", [0, 58_321], {"a": [0.123456, -98.7654], "b": [3.0, 1e-7 / 3]}, "x", "y")
    assert panel["x"] == [0, 58_321]
    assert panel["curves"][0]["y"] == [0.12, -98.77]
    assert json.dumps(panel["curves"][1]["y"]) == "[3, 0]"
    assert bars("A", ["a", "b"], [[58_321, 0.5]], "y")["values"] == [[58_321, 0]]  # whole numbers are never cut
    rows = [[["a", 123.456, 1e-9 / 3], ["b", 1e-4 / 3, "none"]]]
    assert table("A", ["row", "x", "y"], rows)["rows"] == [[["a", 123.5, 3.333e-10], ["b", 0, "none"]]]


def test_what_rounding_leaves_of_zero_is_not_sent():
    """A processor rounds in its own way: data of which nothing but that differs give the same panel to the bit."""
    rng = np.random.default_rng(0)
    exact = np.round(rng.normal(size=(STEPS, 2, 2)), 3)
    exact[:, 0] = 0  # an angle, a limit or an image that is zero but for rounding
    exact[0, 1] = 1, -1  # a power of ten, from below and from above
    exact = exact.clip(-1, 1)

    def panels(noise: float) -> list[dict]:
        moved = exact + noise * rng.choice([-1.0, 1.0], exact.shape)
        flat = moved.reshape(STEPS, 4)
        return [
            lines("A", EPOCHS, {"zero": flat[:, 0], "one": flat[:, 2]}, "x", "y"),
            lines("A", EPOCHS, {"one": flat[:, 2]}, "x", "y", ylim=(-flat.max(), 1 + flat.max()), hline=flat[0, 2]),
            bars("A", list("abcd"), flat, "y"), scatter("A", moved[:, 0], moved[:, 1], "x", "y"),
            vectors("A", {"zero": moved[:, 0], "one": moved[:, 1]}, "x", "y", origin={"one": moved[:, 0]}),
            image("A", moved, "noise"), image("A", moved, "noise", cmap="sequential"),
            table("A", ["row", "x"], [[["a", a], ["b", b]] for a, b in moved[:, :, 0]]),
            diagram("A", {"a": (0, 0), "b": (0, 1)}, moved[:, 1], {}, "two nodes"),
        ]  # fmt: skip

    for _ in range(5):
        assert json.dumps(panels(1e-9)) == json.dumps(panels(0.0))


def test_a_node_keeps_figures_of_its_own_within_its_scale():
    values = np.array([[2.0, 0.00123456, 5e-9], [1.0, 1e-13, 0.0]])
    nodes, scales = {"a": (0, 0), "b": (0, 1), "c": (1, 1)}, {"all": (2.0, ["a", "b"]), "small": (1e-8, ["c"])}
    assert diagram("A", nodes, values, {}, "nodes", scales=scales)["values"] == [[2, 0.001235, 5e-9], [1, 0, 0]]


def test_lists_arrays_and_tensors_are_the_same():
    rows = torch.tensor(PROBABILITIES, dtype=torch.float64, requires_grad=True)
    labels = ["a", "b", "c"]
    assert bars("A", labels, rows, "p") == bars("A", labels, PROBABILITIES, "p")
    assert bars("A", labels, np.array(PROBABILITIES), "p") == bars("A", labels, PROBABILITIES, "p")


def test_scatter_positions_and_correlations():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 4, 50))
    panel = scatter("A", x, y, "x", "y", lim=(-5, 4))
    back = -5 + np.array(panel["x"]) * 9 / panel["grid"]
    np.testing.assert_allclose(back, x, atol=9 / 2 / panel["grid"] + 1e-12)
    wanted = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(panel["correlation"], wanted, atol=6e-4)
    assert scatter("A", [[1, 1]], [[0, 1]], "x", "y")["correlation"] == [None]  # not defined


def test_image_levels():
    panel = image("A", [[[-2, -1, 0], [1, 2, 9]]], "alt", vmin=-2, vmax=2)
    assert list(base64.b64decode(panel["frames"][0])) == [0, 64, 128, 191, 255, 255]
    assert panel["ranges"] == [[-2, 9]]
    assert image("A", [[[0.5, -3]]], "alt")["vlim"] == [-3, 3]
    assert image("A", [[[0.5, -3]]], "alt", cmap="sequential")["vlim"] == [-3, 0.5]
    assert image("A", [[[0, 0]]], "alt", cmap="sequential")["vlim"] == [0, 1]


def test_limits_hold_data_and_reference_lines():
    low, high = lines("A", [0, 1], {"a": [2, 4]}, "x", "y", hline=5)["ylim"]
    assert 0 <= low < 2 and high > 5
    low, high = bars("A", ["a"], [[2], [4]], "y")["ylim"]
    assert low == 0 and high > 4
    assert bars("A", ["a"], [[-2], [-4]], "y")["ylim"][1] == 0
    assert lines("A", [3], {"a": [7]}, "x", "y")["xlim"] == [2.5, 3.5]
    low, high = vectors("A", {"a": [[1, 0]]}, "x", "y", origin=[[3, 0]])["lim"]
    assert low == -high and high > 4


NAN = float("nan")
INVALID: list[tuple[Callable[[], object], str]] = [
    (lambda: lines("A", [0, 1], {"a": [1, 2, 3]}, "x", "y"), r"lines panel 'A'.*'a'.*3.*x 2"),
    (lambda: lines("A", [0, 1], {"a": [1, NAN]}, "x", "y"), r"lines panel 'A'.*'a'.*nan at \[1\].*finite"),
    (lambda: lines("A", [0, math.inf], {"a": [1, 2]}, "x", "y"), r"x holds inf"),
    (lambda: lines("A", [], {"a": []}, "x", "y"), r"x has shape \(0,\).*empty"),
    (lambda: lines("A", [0], {}, "x", "y"), r"curves is empty"),
    (lambda: lines("A", [0], {str(i): [1] for i in range(8)}, "x", "y"), r"8 curves; at most 7"),
    (lambda: lines("A", [0], {"a": ["one"]}, "x", "y"), r"'a' must be numbers"),
    (lambda: lines("A", [0], {"a": [[1]]}, "x", "y"), r"shape \(1, 1\).*\(samples,\)"),
    (lambda: lines("A", [0, 1], {"a": [1, 2]}, "x", "y", step_index=[0, 2]), r"step_index holds 2.*0 to 1"),
    (lambda: lines("A", [0, 1], {"a": [1, 2]}, "x", "y", step_index=[]), r"step_index is empty"),
    (lambda: lines("A", [0], {"a": [1]}, "x", "y", ylim=(1, 1)), r"ylim is \(1, 1\).*low < high"),
    (lambda: lines("A", [0], {"a": [1]}, "x", "y", ylim=(0, 2), hline=3), r"hline is \[3.*within ylim"),
    (lambda: lines("A", [0], {"a": [1]}, "x", "y", hline=[3, 4]), r"hline is \[3, 4\].*pairs"),
    (lambda: lines("", [0], {"a": [1]}, "x", "y"), r"title is ''"),
    (lambda: bars("A", ["a"], [[1, 2]], "y"), r"bars panel 'A'.*length 2 and labels 1"),
    (lambda: bars("A", ["a", "b"], [[1, 2], [3]], "y"), r"values must be numbers in rows of equal length"),
    (lambda: bars("A", [], np.zeros((3, 0)), "y"), r"no axis may be empty"),
    (lambda: scatter("A", [[1, 2]], [[1]], "x", "y"), r"\(1, 2\) and y \(1, 1\)"),
    (lambda: scatter("A", np.zeros((1, 1001)), np.zeros((1, 1001)), "x", "y"), r"1001 points; at most 1000"),
    (lambda: scatter("A", [[1]], [[1]], "x", "y", lim=-1), r"lim is \(1, -1\)"),
    (lambda: vectors("A", {"a": [[1, 2, 3]]}, "x", "y"), r"arrow 'a' has shape \(1, 3\)"),
    (lambda: vectors("A", {"a": [[1, 2]], "b": [[1, 2]] * 2}, "x", "y"), r"arrow 'b' has length 2"),
    (lambda: vectors("A", {}, "x", "y"), r"arrows is empty"),
    (lambda: circuit({"in": (0, 0), "out": (0, 0)}), r"edges 'w' hold \('in', 'out'\); a pair of nodes at two places"),
    (lambda: circuit(active=[["v"]] * STEPS), r"active names 'v'"),
    (lambda: circuit(shapes={"in": "star"}), r"shape of 'in' is 'star'; it must be one of"),
    (lambda: circuit(scales={"s": (1, ["in"])}), r"nodes \['out'\] are in no scale"),
    (lambda: circuit(key={"star": "a"}), r"key explains 'star'"),
    (lambda: circuit(shapes={"on": "circle"}), r"diagram panel 'Circuit': shapes names 'on'; the nodes are \['in"),
    (lambda: circuit(labels={"on": "o"}), r"labels names 'on'"),
    (lambda: circuit(since={"on": 1}), r"since names 'on'; the nodes are"),
    (lambda: circuit(since={"out": STEPS}), r"since of 'out' is 6; .* from 0 to 5"),
    (lambda: circuit(active=[[]]), r"active has length 1 and values 6"),
    (lambda: circuit(bands={"b": ["on"]}), r"band 'b' names 'on'"),
    (lambda: circuit(scales={"s": (0, ["in", "out"])}), r"limit of the scale 's' is 0; it must be above 0"),
    (lambda: circuit(scales={"s": (1, ["in", "out"]), "t": (1, ["out"])}), r"node 'out' is in two scales"),
    (lambda: circuit(row=0), r"row is 0; it must be above 0"),
    (lambda: diagram("D", {"a": (0, 0)}, [[1, 2]], {}, "alt"), r"each step of values has length 2 and nodes 1"),
    (lambda: diagram("D", {"a": (0, NAN)}, [[1]], {}, "alt"), r"the positions of nodes holds nan"),
    (lambda: diagram("D", {"a": (0, 0)}, [[NAN]], {}, "alt"), r"values holds nan"),
    (lambda: diagram("D", {"a": (0, 0)}, [[1]], {"e": ("line", [])}, "alt"), r"edges 'e' are of kind 'line'"),
    (lambda: diagram("D", {"a": (0, 0)}, [[1]], {"e": ("bar", [("a", "b")])}, "alt"), r"edges 'e' names 'b'"),
    (lambda: diagram("D", {"a": (0, 0)}, [[1]], {}, " "), r"alt is empty"),
    (lambda: diagram("D", {}, [[1]], {}, "alt"), r"0 nodes; there must be from 1 to 60"),
    (lambda: vectors("A", {"a": [[1, 2]]}, "x", "y", since={"b": 0}), r"since names 'b'; the arrows are \['a'\]"),
    (lambda: vectors("A", {"a": [[1, 2]]}, "x", "y", since={"a": 1}), r"since of 'a' is 1; .* from 0 to 0"),
    (lambda: vectors("A", {"a": [[1, 2]]}, "x", "y", halfplane="b"), r"halfplane is 'b'.*\['a'\]"),
    (lambda: vectors("A", {"a": [[1, 2]]}, "x", "y", origin={"b": [[0, 0]]}), r"origin names \['b'\]"),
    (lambda: vectors("A", {"a": [[1, 2]]}, "x", "y", origin=[[0, 0]] * 2), r"origin of 'a' has length 2"),
    (lambda: image("A", [[1, 2]], "alt"), r"frames has shape \(1, 2\).*\(steps, rows, columns\)"),
    (lambda: image("A", [[[1, 2]]], "alt", cmap="jet"), r"cmap is 'jet'.*diverging"),
    (lambda: image("A", [[[1, 2]]], "alt", vmin=3, vmax=3), r"\(vmin, vmax\) is \(3.0, 3.0\)"),
    (lambda: image("A", [[[1, 2]]], ""), r"alt is empty"),
    (lambda: table("A", ["a", "b"], [[["x"]]]), r"a row of step 0 has 1 cells; there are 2 columns"),
    (lambda: table("A", ["a"], [[[NAN]]]), r"a cell of step 0 holds nan"),
    (lambda: table("A", ["a"], [[[None]]]), r"a cell of step 0"),
    (lambda: table("A", [], [[[]]]), r"columns is empty"),
    (lambda: table("A", ["a"], []), r"rows has no steps"),
    (lambda: table("A", ["a"], [[["x"]], []]), r"a step has no rows"),
    (lambda: player(steps=[], texts=[]), r"step player 'Alignment over training': steps is empty"),
    (lambda: player(texts=["one"]), r"1 texts and 6 steps"),
    (lambda: player(panels=[]), r"panels is empty"),
    (lambda: player(panels=[{"kind": "pie"}]), r"kind 'pie'.*'lines'"),
    (lambda: player(panels=[table]), r"a panel is of kind <function table"),
    (lambda: player(panels=[lines("A", [0, 1], {"a": [1, 2]}, "x", "y")]), r"lines panel 'A' has 2 steps.*6"),
    (lambda: player(step=6), r"step is 6; .* from 0 to 5"),
    (lambda: player(step=-1), r"step is -1; .* from 0 to 5"),
    (lambda: player(step=1.5), r"step is 1.5"),
    (lambda: player(seconds_per_step=0), r"seconds_per_step is 0"),
    (lambda: player(seconds_per_step=NAN), r"seconds_per_step is nan"),
    (lambda: player(title=" "), r"title is ' '"),
    (lambda: player(description=""), r"description is ''"),
]


@pytest.mark.parametrize(("make", "message"), INVALID, ids=[message for _, message in INVALID])
def test_invalid_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_step_is_checked_when_it_is_set():
    widget = player(step=np.int64(3))
    for wrong in (-1, STEPS, "two", 1.5, None):
        with pytest.raises(traitlets.TraitError, match=r"from 0 to 5|expected an int"):
            widget.step = wrong
        assert widget.step == 3
    widget.step = STEPS - 1
    assert widget.step == STEPS - 1


# ------------------------------------------------------------------------------------- what a reader gets

CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
INSIDE = ("http://127.0.0.1", "data:", "blob:", "file:")


def chromium_path() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    path = chromium_path()
    if path is None:
        message = "Chromium is missing: install it (Debian: apt-get install chromium)"
        if os.environ.get("CI") or os.environ.get("BIOPLAUS_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield running
        running.close()


def document(*widgets: StepPlayer, theme: str = "light") -> str:
    outputs = "\n".join(widget._repr_html_() for widget in widgets)
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Test</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
        f'<body style="margin: 8px; background: {"#121212" if theme == "dark" else "#fff"}">'
        f'<main><h1 style="color: #777">Test</h1>{outputs}</main></body></html>'
    )


@pytest.fixture
def show(browser, tmp_path) -> Iterator[Callable]:
    """Open widgets on a page of their own; at the end nothing may have been asked for or gone wrong."""
    outside: list[str] = []
    errors: list[str] = []
    contexts = []

    def open_page(*widgets: StepPlayer, theme="light", width=800, motion="reduce", scripts=True, url=None):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, reduced_motion=motion, java_script_enabled=scripts
        )
        contexts.append(context)

        def refuse(route):
            if route.request.url.startswith(INSIDE):
                route.continue_()
            else:
                outside.append(route.request.url)
                route.abort()

        context.route("**/*", refuse)
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_text(document(*widgets, theme=theme), "utf-8")
        page.goto(url(file) if url else file.as_uri())
        if scripts:
            page.locator(".bp-widget").nth(len(widgets) - 1).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == []
    assert errors == []


def step_of(page, widget: int = 0) -> int:
    return int(page.locator(".bp-slider").nth(widget).input_value())


def words(page, widget: int = 0) -> str:
    return page.locator("output.bp-text").nth(widget).text_content()


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A URL over http for a file."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    root = tmp_path_factory.getbasetemp()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield lambda file: f"http://127.0.0.1:{server.server_port}/{Path(file).relative_to(root).as_posix()}"
    server.shutdown()
    server.server_close()


@pytest.mark.browser
@pytest.mark.parametrize("over", ["file", "http"])
def test_every_kind_is_drawn_and_named(show, served, over):
    page = show(player(), url=served if over == "http" else None)
    root = page.locator(".bp-widget")
    assert root.get_attribute("role") == "group"
    assert root.get_attribute("aria-label") == "Alignment over training"
    assert root.locator(".bp-spoken").text_content().startswith("The angle falls")
    assert page.locator(".bp-drawing > figure").count() == 6
    for kind, marks in {
        "lines": "path.bp-curve:not(.bp-faint)", "bars": "rect.bp-bar", "scatter": "circle.bp-dot",
        "vectors": "path.bp-shaft", "image": "image.bp-pixels",
    }.items():
        panel = page.locator(f".bp-panel-{kind}")
        wanted = {"lines": 2, "bars": 3, "scatter": 300, "vectors": 2, "image": 1}[kind]
        assert panel.locator(marks).count() == wanted, kind
        drawing = panel.locator("svg[role=img]")
        box = drawing.bounding_box()
        assert box["width"] > 200 and box["height"] > 100, kind
        assert drawing.locator("> title").text_content().endswith(": epoch 0"), kind
        assert len(drawing.locator("> desc").text_content()) > 20, kind
    assert page.locator("table.bp-table tbody tr").count() == 2
    assert page.locator('table.bp-table th[scope="col"]').count() == 3
    assert page.locator('table.bp-table th[scope="row"]').count() == 2


@pytest.mark.browser
def test_drawing_says_what_the_data_say(show):
    """Positions on the page against the numbers that went in, at every step."""
    page = show(player())
    heights_of_markers, widths = [], []
    for k in EPOCHS:
        # bars: heights in the ratio of the values, which sum to 1
        heights = [float(b.get_attribute("height")) for b in page.locator("rect.bp-bar").all()]
        np.testing.assert_allclose(np.array(heights) / sum(heights), PROBABILITIES[k], atol=1e-3)
        printed = page.locator(".bp-panel-bars text.bp-value").all_text_contents()
        assert printed == [f"{round(p, 4):.2f}" for p in PROBABILITIES[k]]
        # vectors: the arrow points where the vector points (y grows downwards on the page)
        x0, y0, *_ = numbers(page.locator("path.bp-shaft").nth(1).get_attribute("d"))
        x1, y1, *_ = numbers(page.locator("path.bp-arrow.bp-fill").nth(1).get_attribute("d"))
        assert math.atan2(y0 - y1, x1 - x0) == pytest.approx(TURN[k], abs=0.01)
        # the image: one colour a step; 0 is white, 1 the last colour
        colour = page.evaluate(
            """async () => {
              const picture = new Image();
              picture.src = document.querySelector("image.bp-pixels").getAttribute("href");
              await picture.decode();
              const canvas = document.createElement("canvas");
              const context = canvas.getContext("2d", { willReadFrequently: true });
              context.drawImage(picture, 0, 0);
              return [[0, 0], [5, 3]].map(([x, y]) => [...context.getImageData(x, y, 1, 1).data]);
            }"""
        )
        assert colour[0] == [0, 68, 127, 255]
        if k == 0:
            assert min(colour[1]) > 250
        if k == STEPS - 1:
            assert colour[1] == [138, 54, 0, 255]
        # the table
        cells = page.locator("table.bp-table tbody tr").first.locator("th, td").all_text_contents()
        assert cells == ["hidden", f"{ANGLES[k]:.1f}", f"{NORMS[k]:.2f}"]
        # lines: the markers at the cursor, and how far the strong curve is drawn
        for name in ("bp-s0", "bp-s1"):
            marker = page.locator(f".bp-panel-lines path.bp-marker.{name}").last
            heights_of_markers.append(numbers(marker.get_attribute("transform"))[1])
        strong = page.locator(".bp-panel-lines path.bp-curve.bp-s0:not(.bp-faint)").get_attribute("d")
        widths.append(strong.count("L"))
        if k < STEPS - 1:
            page.locator(".bp-next").click()
    angles = np.stack([ANGLES, OTHER_ANGLES], axis=1).ravel()
    slope, offset = np.polyfit(angles, heights_of_markers, 1)
    assert slope < -1
    np.testing.assert_allclose(slope * angles + offset, heights_of_markers, atol=0.2)  # one scale for both
    assert widths == EPOCHS


@pytest.mark.browser
def test_a_bar_that_ends_at_the_limit_still_has_its_own_value(show):
    page = show(player([bars("B", ["in", "above", "below"], [[0.5, 3.0, -2.0]] * STEPS, "y", ylim=(-1, 1))]))
    assert page.locator("text.bp-value").all_text_contents() == ["0.50", "3.00", "−2.00"]


@pytest.mark.browser
def test_scatter_positions_on_the_page(show):
    x = np.linspace(-1, 1, 9)
    shrinking = [x * factor for factor in (1, 0.5, 0, 0, 0, 0)]
    page = show(player([scatter("S", shrinking, [x**2] * STEPS, "x", "y", lim=1)]))
    position = "els => els.map(e => [Number(e.getAttribute('cx')), Number(e.getAttribute('cy'))])"
    first = np.array(page.locator("circle.bp-dot").evaluate_all(position))
    scale = (first[-1, 0] - first[0, 0]) / 2
    assert scale > 80
    np.testing.assert_allclose(first[:, 1].max() - first[:, 1], x**2 * scale, atol=0.3)  # equal scales
    page.locator(".bp-next").click()
    second = np.array(page.locator("circle.bp-dot").evaluate_all(position))
    np.testing.assert_allclose(second[:, 0] - second[4, 0], x * 0.5 * scale, atol=0.3)


@pytest.mark.browser
def test_mouse(show):
    page = show(player(step_name="epoch"))
    previous, following = page.locator("button.bp-prev"), page.locator("button.bp-next")
    assert words(page) == "Epoch 1 of 6 · epoch 0 — After 0 epochs."
    assert previous.get_attribute("aria-disabled") == "true"
    assert following.get_attribute("aria-disabled") is None
    drawings = [page.locator(".bp-drawing").inner_html()]
    for k in EPOCHS[1:]:
        following.click()
        assert step_of(page) == k
        assert words(page) == f"Epoch {k + 1} of 6 · epoch {k} — After {k} epochs."
        assert page.locator(".bp-slider").get_attribute("aria-valuetext") == f"epoch {k}"
        drawings.append(page.locator(".bp-drawing").inner_html())
    assert len(set(drawings)) == STEPS
    assert following.get_attribute("aria-disabled") == "true"
    following.click(force=True)  # must do nothing, and keep the focus
    assert step_of(page) == STEPS - 1
    assert page.evaluate("document.activeElement.className").endswith("bp-next")
    previous.click()
    assert step_of(page) == STEPS - 2
    slider = page.locator(".bp-slider")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    assert step_of(page) == 0 and words(page).startswith("Epoch 1 of 6")
    assert page.locator(".bp-drawing").inner_html() == drawings[0]


@pytest.mark.browser
def test_keyboard(show):
    page = show(player(step=2))
    slider = page.locator(".bp-slider")
    slider.focus()
    for key, wanted in [("ArrowRight", 3), ("ArrowLeft", 2), ("End", 5), ("Home", 0), ("PageUp", 1),
                        ("PageDown", 0), ("ArrowUp", 1)]:
        page.keyboard.press(key)
        assert step_of(page) == wanted, key
        assert words(page).startswith(f"Step {wanted + 1} of 6"), key
    for name in ("bp-prev", "bp-play", "bp-next"):
        page.locator(f".{name}").focus()
        page.keyboard.press("ArrowRight")
        assert step_of(page) == 2, name
        page.keyboard.press("Alt+ArrowRight")  # the browser's own
        page.keyboard.press("ArrowLeft")
        assert step_of(page) == 1, name
        assert page.evaluate("document.activeElement.className").endswith(name)
    page.locator(".bp-next").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert step_of(page) == 3
    controls = page.locator(".bp-widget button, .bp-widget input")
    assert controls.count() == 4
    assert controls.evaluate_all("els => els.every(e => e.dataset.lmSuppressShortcuts === 'true')")


@pytest.mark.browser
def test_play_goes_to_the_end_pauses_and_starts_again(show):
    page = show(player(seconds_per_step=0.05))
    play, output = page.locator("button.bp-play"), page.locator("output.bp-text")
    assert play.text_content() == "Play" and output.get_attribute("aria-live") == "polite"
    play.click()
    assert play.text_content() == "Pause" and output.get_attribute("aria-live") == "off"
    page.wait_for_function("document.querySelector('.bp-play').textContent === 'Play'")
    assert step_of(page) == STEPS - 1
    assert output.get_attribute("aria-live") == "polite"
    play.click()  # from the end: again from the start
    assert step_of(page) < STEPS - 1
    page.wait_for_function("document.querySelector('.bp-play').textContent === 'Play'")


@pytest.mark.browser
def test_play_stops_when_the_reader_takes_over(show):
    page = show(player(seconds_per_step=0.4))
    play = page.locator("button.bp-play")
    for stop in (lambda: play.click(), lambda: page.locator(".bp-prev").click(force=True),
                 lambda: page.locator(".bp-slider").press("Home")):
        page.locator(".bp-slider").press("Home")
        page.locator(".bp-slider").press("ArrowRight")
        play.click()
        page.wait_for_function("document.querySelector('.bp-slider').value === '2'")
        stop()
        assert play.text_content() == "Play"
        here = step_of(page)
        page.wait_for_timeout(900)
        assert step_of(page) == here


@pytest.mark.browser
def test_players_on_one_page_are_independent(show):
    page = show(player(), player(), player([one_line()], title="Another"))
    assert page.locator(".bp-widget").count() == 3
    page.locator(".bp-next").nth(1).click()
    assert [step_of(page, i) for i in range(3)] == [0, 1, 0]
    assert page.evaluate("Object.keys(globalThis.bioplausModules).length") == 1  # evaluated once


MODEL = """
  const state = JSON.parse(document.querySelector('.bp-static script[type="application/json"]').textContent);
  state.spec.seconds_per_step = 0.03;
  const handlers = [];
  let saved = 0;
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; handlers.slice().forEach((handler) => handler()); },
    save_changes: () => { saved += 1; },
    on: (name, handler) => handlers.push(handler),
    off: (name, handler) => { handlers.splice(handlers.indexOf(handler), 1); },
  };
  const { default: widget } = await Object.values(globalThis.bioplausModules)[0];
  const host = () => document.body.appendChild(document.createElement("div"));
"""


@pytest.mark.browser
def test_views_of_one_model_move_together(show):
    page = show(player())
    result = page.evaluate(
        f"""async () => {{ {MODEL}
          const [a, b] = [host(), host()];
          widget.render({{ model, el: a }});
          widget.render({{ model, el: b }});
          a.querySelector(".bp-next").click();
          const clicked = [a, b].map((el) => el.querySelector(".bp-slider").value);
          model.set("step", 4);  // as the kernel does
          return [clicked, [a, b].map((el) => el.querySelector(".bp-text").textContent.slice(0, 11)), saved];
        }}"""
    )
    assert result == [["1", "1"], ["Step 5 of 6", "Step 5 of 6"], 1]


@pytest.mark.browser
def test_a_view_that_is_removed_leaves_nothing_behind(show):
    page = show(player())
    result = page.evaluate(
        f"""async () => {{ {MODEL}
          const el = host();
          const clean = widget.render({{ model, el }});
          const next = el.querySelector(".bp-next");
          el.querySelector(".bp-play").click();
          clean();
          next.click();
          await new Promise((resolve) => setTimeout(resolve, 150));
          return [handlers.length, state.step, el.childElementCount];
        }}"""
    )
    assert result == [0, 0, 0]


TEXT_BOXES = """root => [...root.querySelectorAll("svg.bp-figure")].map((svg) => {
  const edge = svg.getBoundingClientRect();
  const panel = svg.closest("figure").getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent).map((t) => {
    const { left, right, top, bottom } = t.getBoundingClientRect();
    return { text: t.textContent, size: parseFloat(getComputedStyle(t).fontSize), left, right, top, bottom };
  });
  const { left, right, top, bottom } = edge;
  return { name: svg.closest("figure").className, left, right, top, bottom, panel: panel.right, texts };
})"""


def circuit(nodes=None, **options) -> dict:
    """A small diagram: `in` has the values 0.5, 0.5, …; `out`, known from step 2 on, a value of its own each step."""
    nodes = nodes or {"in": (0, 0), "out": (0, 2)}
    given = {"active": [["w"] if k == 2 else [] for k in EPOCHS], "since": {"out": 2}, "labels": {"out": "o"}} | options
    return diagram("Circuit", nodes, [[0.5, k - 3] for k in EPOCHS], {"w": ("arrow", [("in", "out")])}, "Two.", **given)


def dense() -> dict:
    """Four nodes of every shape, half of them shifted, with long values that change, and a bundle of every kind."""
    shapes = ["circle", "square", "ellipse", "hexagon"]
    nodes = {f"{shape} {i}": (i + 0.5 * (y % 2), y) for y, shape in enumerate(shapes) for i in range(4)}
    rows = [list(nodes)[4 * y : 4 * y + 4] for y in range(4)]
    return diagram(
        "Dense", nodes, [[(-1) ** (i + k) * 10.0 ** (-i % 5 - k % 2) * 1.2 for i in range(16)] for k in EPOCHS],
        {kind: (kind, [(a, b) for a in below for b in above])
         for kind, below, above in zip(("arrow", "bar", "trunk"), rows, rows[1:], strict=False)},
        "Four rows.", shapes={name: name.split()[0] for name in nodes},
        labels={name: f"i{i}b" for i, name in enumerate(rows[0] + rows[1])}, active=[["arrow", "bar", "trunk"]] * STEPS,
        bands={"layer 1": rows[0], "layer 2": rows[1] + rows[2], "output": rows[3]},
        scales={"all but the small ones": (1.2, list(nodes)[:8]), "the small ones": (0.0012, list(nodes)[8:])},
        key={"circle": "soma (input: a rate)", "square": "interneuron", "ellipse": "apical dendrite",
             "arrow": "excites", "bar": "inhibits", "new": "has changed", "empty": "not known yet"},
        clabel="voltage above rest (mV)",
    )  # fmt: skip


#: where each point lies, and at which step it appears
POINTS = {"h": ([0.2, 0.1], 0), "g(h)": ([0.25, 0.15], 2), "TP": ([-0.6, 0.5], 3), "exact": ([0.2, 0.1], 3)}


def crowded() -> StepPlayer:
    """Long names, many series, values that meet."""
    curves = {f"rule number {i}": [50 + (i - 2) * (k - 5) for k in EPOCHS] for i in range(4)}
    star = {f"v{i}": [[math.cos(0.9 * i + k), math.sin(0.9 * i + k)] for k in EPOCHS] for i in range(5)}
    same = {name: [[0.6, 0.6 - 0.1 * k] for k in EPOCHS] for name in ("gradient", "estimate", "sum")}
    return player([
        lines("Meeting", EPOCHS, curves, "epoch", "accuracy on the test images of the whole data set (%)"),
        lines("Long names", EPOCHS, {"feedback alignment, 784-500-10": ANGLES, "backpropagation": NORMS},
              "training examples seen", "loss (nat)"),
        bars("Ten", [str(i) for i in range(10)], np.full((STEPS, 10), 0.1), "probability", ylim=(0, 1)),
        bars("Words", [f"category {i}" for i in range(9)], np.linspace(-2, 2, 54).reshape(6, 9),
             "change (mV)", hline=[(1, "threshold")]),
        vectors("Star", star, "x", "y", lim=1.4, halfplane="v1"),
        vectors("Same", same, "x", "y", lim=1, path=True),
        vectors("Points", {name: np.zeros((STEPS, 2)) for name in POINTS}, "x", "y", lim=1,
                origin={name: [at] * STEPS for name, (at, _) in POINTS.items()},
                since={name: step for name, (_, step) in POINTS.items()}),
        circuit(bands={"a layer": ["out"]}, key={"circle": "soma", "new": "has changed", "empty": "not known yet"}),
        dense(),
        image("Tall", np.ones((STEPS, 200, 5)), "alt", xlabel="class", ylabel="hidden unit",
              clabel="weight (arbitrary units)"),
        image("Wide", np.ones((STEPS, 3, 400)), "alt", xlabel="hidden unit", clabel="rate (Hz)"),
    ])


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 800, 1400])
@pytest.mark.parametrize("make", [player, crowded])
def test_words_are_readable_and_apart(show, make, width):
    page = show(make(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for _ in EPOCHS:
        for svg in page.locator(".bp-drawing").evaluate(TEXT_BOXES):
            assert svg["right"] <= svg["panel"] + 1, svg["name"]
            for i, a in enumerate(svg["texts"]):
                assert a["size"] >= 12, a
                assert svg["left"] - 1 <= a["left"] and a["right"] <= svg["right"] + 1, (svg["name"], a)
                assert svg["top"] - 1 <= a["top"] and a["bottom"] <= svg["bottom"] + 1, (svg["name"], a)
                for b in svg["texts"][:i]:
                    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
                    down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
                    # Line boxes are taller than the letters in them by about 4 px.
                    assert across <= 1 or down <= 4.5, (svg["name"], a, b)
        page.locator(".bp-next").click(force=True)


@pytest.mark.browser
def test_points_appear_when_they_are_known(show):
    page = show(crowded())
    panel = page.locator(".bp-panel-vectors", has_text="Points")
    for k in EPOCHS:
        known = [name for name, (_, step) in POINTS.items() if step <= k]
        assert [text for text in panel.locator("text.bp-name").all_text_contents() if text] == known
        assert panel.locator("path.bp-fill[d]").count() == len(known)
        said = panel.locator("svg[role=img] > desc").text_content()
        assert [name for name in POINTS if f"{name} at (" in said] == known
        page.locator(".bp-next").click(force=True)
    page.locator(".bp-slider").press("Home")  # and what is not known any more goes again
    first = sum(step == 0 for _, step in POINTS.values())
    assert panel.locator("path.bp-fill[d]").count() == first < len(POINTS)


@pytest.mark.browser
def test_a_diagram_shows_what_is_known_and_what_carries_a_signal(show):
    page = show(player([circuit(scales={"": (1, ["in", "out"])})]))
    panel = page.locator(".bp-panel-diagram")
    first, second = panel.locator(".bp-node").nth(0), panel.locator(".bp-node").nth(1)
    fill = "e => [getComputedStyle(e).fill, getComputedStyle(e).strokeDasharray]"
    paper = "rgb(255, 255, 255)"
    for k in EPOCHS:
        assert first.locator(".bp-node-value").text_content() == "0.50"
        value = {2: "−1.0", 3: "0", 4: "1.0", 5: "2.0"}.get(k, "")
        assert second.locator("text").all_text_contents() == ["o", value]
        # From blue over white to orange, and beyond the limit no further; without a value, paper and a broken rim.
        end = "rgb(138, 54, 0)"
        colour = {2: "rgb(0, 68, 127)", 3: paper, 4: end, 5: end}.get(k, paper)
        assert second.locator(".bp-body").evaluate(fill) == [colour, "none" if k >= 2 else "3px, 3px"]
        assert second.locator(".bp-new").count() == (k >= 2), "its value is another in each of these steps"
        assert first.locator(".bp-new").count() == 0
        assert panel.locator(".bp-wire-arrow.bp-on").count() == (k == 2)
        said = panel.locator("svg[role=img] > desc").text_content()
        assert said == {
            0: "Two. As before: in 0.50. Not known yet: out.",
            1: "Two. As before: in 0.50. Not known yet: out.",
            2: "Two. Edges with signals: w. New in this step: out −1.0. As before: in 0.50.",
        }.get(k, f"Two. New in this step: out {value}. As before: in 0.50.")
        page.locator(".bp-next").click(force=True)


NODES = """els => els.map((e) => {
  const { x, y, width, height } = e.getBBox();
  return [x + width / 2, y + height / 2, width / 2, height / 2];
})"""


@pytest.mark.browser
def test_nodes_and_edges_of_a_diagram_are_where_they_were_put(show):
    places = {"a": (0, 0), "b": (1, 0), "c": (0.5, 2)}
    edges = {"up": ("arrow", [("a", "c"), ("b", "c")]), "across": ("bar", [("a", "b")])}
    panel = diagram("D", places, [[1, -1, 0.5]] * STEPS, edges, "Three.", active=[["across"], ["up"], *[[]] * 4])
    page = show(player([panel]))
    boxes = np.array(page.locator(".bp-node .bp-body").evaluate_all(NODES))
    (ax, ay), (bx, by), (cx, cy) = boxes[:, :2]
    assert bx - ax > 80 and ay == pytest.approx(by) and cx == pytest.approx((ax + bx) / 2)
    assert ay - cy == pytest.approx(2 * panel["row"]), "y upwards"
    drawn = ".bp-wire-arrow .bp-wire-shaft", ".bp-wire-arrow .bp-wire-end", ".bp-wire-bar .bp-wire-shaft"
    shafts, heads, bar = (numbers(page.locator(name).first.get_attribute("d")) for name in drawn)
    radius = boxes[:, 2]
    assert math.dist(shafts[:2], (ax, ay)) == pytest.approx(radius[0], abs=0.2)  # from the outline of a …
    assert math.dist(heads[:2], (cx, cy)) == pytest.approx(radius[2] + 2, abs=0.2)  # … to just before that of c
    assert math.dist(shafts[4:6], (bx, by)) == pytest.approx(radius[1], abs=0.2)
    assert bar[0] == pytest.approx(ax + radius[0], abs=0.2) and bar[1] == pytest.approx(bar[3])
    for now in (["bp-wire bp-wire-arrow", "bp-wire bp-wire-bar bp-on"],
                ["bp-wire bp-wire-bar", "bp-wire bp-wire-arrow bp-on"],  # what is strong lies above
                ["bp-wire bp-wire-arrow", "bp-wire bp-wire-bar"]):
        assert page.locator("g.bp-wire").evaluate_all("els => els.map((e) => e.getAttribute('class'))") == now
        page.locator(".bp-next").click()


ON_NODES = """els => els.filter((e) => e.textContent).map((e) => {
  const light = (colour) => colour.match(/\\d+/g).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const both = [e, e.closest(".bp-node").querySelector(".bp-body")].map((x) => light(getComputedStyle(x).fill));
  return [(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), e.textContent];
})"""


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_values_can_be_read_on_their_colours(show, theme):
    """Every colour of the map, and nodes without a value, whose label stands on paper."""
    names = {str(i): (i % 10, i // 10) for i in range(21)}
    late = {name: STEPS - 1 for name in list(names)[:3]}
    labels = dict.fromkeys(names, "o")
    panel = diagram("D", names, [np.linspace(-1, 1, 21)] * STEPS, {}, "All.", since=late, labels=labels)
    page = show(player([panel]), theme=theme)
    ratios = page.locator(".bp-node text").evaluate_all(ON_NODES)
    assert len(ratios) == 2 * 21 - 3
    assert [pair for pair in ratios if pair[0] < 4.5] == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 620, 700, 800, 1400])
def test_nodes_of_a_diagram_do_not_hide_each_other(show, width):
    """Also beside other panels, where its column is narrow."""
    page = show(player([dense(), *every_panel()[:2]]), width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    boxes = page.locator(".bp-node .bp-body").evaluate_all(NODES)
    for i, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:i]:
            assert abs(x - x2) >= w + w2 - 2 or abs(y - y2) >= h + h2, (width, i)


@pytest.mark.browser
def test_redraws_for_a_new_width(show):
    page = show(player())
    wide = page.locator(".bp-panel-lines svg.bp-figure").get_attribute("width")
    page.set_viewport_size({"width": 330, "height": 900})
    page.wait_for_function(
        f"document.querySelector('.bp-panel-lines svg.bp-figure').getAttribute('width') !== '{wide}'"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.locator(".bp-next").click()
    assert "epoch 1" in words(page)


@pytest.mark.browser
def test_text_does_not_jump(show):
    """The longest sentence sets the height, so the drawing stays where it is."""
    texts = ["Short." if k % 2 else "A much longer sentence. " * 12 for k in EPOCHS]
    page = show(player(texts=texts), width=500)
    tops = []
    for _ in EPOCHS:
        tops.append(page.locator(".bp-drawing").bounding_box()["y"])
        page.locator(".bp-next").click(force=True)
    assert len(set(tops)) == 1


@pytest.mark.browser
@pytest.mark.parametrize(("motion", "seconds"), [("reduce", "0s"), ("no-preference", "0.15s")])
def test_motion_is_reduced_on_request(show, motion, seconds):
    page = show(player(), motion=motion)
    for mark in ("rect.bp-bar", "circle.bp-dot", "path.bp-arrow"):
        duration = page.locator(mark).first.evaluate("e => getComputedStyle(e).transitionDuration")
        assert set(duration.split(", ")) == {seconds}, mark
    page.locator(".bp-next").click()
    assert step_of(page) == 1


CONTRAST = """root => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (colour) => rgb(colour).map((c) => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(root).backgroundColor);
  const written = root.querySelectorAll("svg.bp-figure text, th, td, figcaption, .bp-text, .bp-title");
  return [...written].map((e) => {
    const style = getComputedStyle(e);
    const ink = light(e.tagName === "text" ? style.fill : style.color);
    return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), e.textContent];
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_of_every_word(show, theme):
    seven = lines("Seven", EPOCHS, {f"rule {i}": [i * k for k in EPOCHS] for i in range(7)}, "epoch", "value")
    page = show(player([*every_panel(), seven]), theme=theme)
    ratios = page.locator(".bp-widget").evaluate(CONTRAST)
    assert len(ratios) > 60
    assert [pair for pair in ratios if pair[0] < 4.5] == []
    paper = page.locator(".bp-widget").evaluate("e => getComputedStyle(e).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 30)"}[theme]


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", 800), ("dark", 800), ("light", 400)])
def test_axe_finds_nothing(show, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    many = table("Many columns", ["rule", *(f"column {i} (unit)" for i in range(12))],
                 [[["feedback alignment", *range(12)]] for _ in EPOCHS])
    first, second = player([*every_panel(), many], step=2), player(title="A second one")
    page = show(first, second, theme=theme, width=width)
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    # A table too wide for its place can be reached by keyboard.
    assert page.locator(".bp-scroll").nth(1).get_attribute("tabindex") == "0"


@pytest.mark.browser
def test_without_scripts_the_words_remain(show):
    page = show(player(), scripts=False)
    text = page.locator("main").inner_text()
    assert "The angle falls while the weights grow" in text
    assert all(f"After {k} epochs." in text for k in EPOCHS)
