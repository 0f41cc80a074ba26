"""Every figure is held to the numbers that it was drawn from."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from bioplaus_lite import plots
from bioplaus_lite.networks import MLP
from bioplaus_lite.plots import LABELS, SHORT, bands, families, family_grid, style_of
from bioplaus_lite.rules import make_rule
from bioplaus_lite.training import History, evaluate


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    plt.close("all")


def frame_of(name: str, curves: dict[int, list[float]]) -> pd.DataFrame:
    """As :func:`~bioplaus_lite.runs.results.tidy` makes it: a curve for each seed."""
    return pd.DataFrame(
        [
            {"name": name, "seed": seed, "epoch": 0.5 * i, "examples": 50 * i, "seconds": i * (1.0 + seed), "value": v}
            for seed, values in curves.items()
            for i, v in enumerate(values)
        ]
    )


@pytest.fixture
def two_seeds() -> pd.DataFrame:
    return frame_of("mlp", {0: [0.1, 0.5, 0.8], 1: [0.1, 0.5, 0.9]})


def lines_of(ax) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}


# --- looks ----------------------------------------------------------------------------------------------------


def test_a_curve_of_another_name_has_a_colour_that_no_rule_of_the_figure_has():
    history = History()
    history.add(0.0, 0, 0.0, "test", {"accuracy": 0.1})
    ax = plots.learning_curves({"fa": history, "mine": history, "another": history, "backprop": history})
    lines = {line.get_label(): line.get_color() for line in ax.get_lines()}
    assert lines["Feedback alignment"] == style_of("fa")["color"]
    assert lines["Backpropagation"] == style_of("backprop")["color"]
    assert len(set(lines.values())) == 4


def test_curves_of_more_names_than_colours_and_of_classes():
    history = History()
    history.add(0.0, 0, 0.0, "test", {"accuracy": 0.1})
    own = "bioplaus_lite.rules.feedback_alignment:FeedbackAlignment"
    many = [f"rate: {k}" for k in range(2 * len(plots.COLOURS))]
    ax = plots.learning_curves(dict.fromkeys([own, "backprop", *many], history))
    lines = {line.get_label(): line.get_color() for line in ax.get_lines()}
    assert lines["Feedback alignment"] == style_of("fa")["color"] == style_of(own)["color"]
    others = {lines[name] for name in many}
    assert others == set(plots.COLOURS) - {lines["Feedback alignment"], lines["Backpropagation"]}
    ax = plots.learning_curves(dict.fromkeys([*LABELS, "mine"], history))  # rules that leave no colour
    assert len(ax.get_lines()) == len(LABELS) + 1


def test_no_two_runs_look_alike_and_none_of_a_family_share_a_colour():
    looks = [tuple(style_of(name).values())[:2] for name in SHORT]
    assert len(set(looks)) == len(SHORT)
    for names in families().values():
        assert len({style_of(name)["color"] for name in names}) == len(names)


# --- curves ---------------------------------------------------------------------------------------------------


def test_the_bands_of_a_figure_are_the_seeds(two_seeds):
    ax = bands(two_seeds, ylabel="accuracy")
    (line,), (band,) = ax.get_lines(), ax.collections
    assert line.get_label() == "Backprop"
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.1], [50, 0.5], [100, 0.85]])
    edges = band.get_paths()[0].vertices
    assert edges[edges[:, 0] == 100, 1].min() == 0.8 and edges[:, 1].max() == 0.9


@pytest.mark.parametrize("lowest, shown", [(50.0, [50, 60, 70, 80, 90]), (2.0, [3, 10, 30, 100])])
def test_a_logarithmic_axis_has_ticks_however_short_it_is(two_seeds, lowest, shown):
    frame = two_seeds.assign(value=[90.0, 70.0, lowest] * 2)
    fig = family_grid({"error (%)": frame}, logarithmic=["error (%)"])
    axis = fig.axes[0].yaxis
    low, high = sorted(fig.axes[0].get_ylim())
    assert [v for v in axis.get_majorticklocs() if low <= v <= high] == pytest.approx(shown)
    assert axis.get_major_formatter()(shown[0]) == f"{shown[0]}"


@pytest.mark.parametrize(
    ("against", "x"), [("examples", [0, 50, 100]), ("epoch", [0, 0.5, 1]), ("seconds", [0, 1.5, 3])]
)
def test_bands_stand_against_what_they_are_asked_to(two_seeds, against, x):
    ax = bands(two_seeds, ylabel="error (%)", xlabel=f"{against} (units)", title="all", against=against)
    assert lines_of(ax)["Backprop"] == [pytest.approx(point) for point in zip(x, [0.1, 0.5, 0.85], strict=True)]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == (f"{against} (units)", "error (%)", "all")
    assert to_hex(ax.collections[0].get_facecolor()[0]) == to_hex(ax.get_lines()[0].get_color()) == "#000000"


def test_a_grid_has_a_row_for_each_quantity_and_a_column_for_each_family():
    names = ["mlp", "fa", "dtp"]
    errors, angles = (
        pd.concat([frame_of(name, {0: [scale * (k + 1), scale * (k + 2)]}) for k, name in enumerate(names)])
        for scale in (10.0, 1.0)
    )
    rows = {"error (%)": errors, "angle (degrees)": angles}
    grid = family_grid(
        rows, levels={"angle (degrees)": [(2.5, "level")]}, ylims={"error (%)": (0, 77)}, xlabel="epochs",
        xticks={0: "start", 0.5: "half"},
    )  # fmt: skip
    axes = np.array(grid.axes).reshape(2, -1)
    shown = [title for title, members in families().items() if set(members[1:]) & set(names)]
    assert [ax.get_title() for ax in axes[0]] == shown and len(shown) == 2
    for i, (label, frame) in enumerate(rows.items()):
        assert axes[i, 0].get_ylabel() == label
        for title, ax in zip(shown, axes[i], strict=True):
            drawn = lines_of(ax)
            members = [name for name in families()[title] if name in names]
            assert {SHORT.get(n, n) for n in members} == {label for label in drawn if not label.startswith("_")}
            for name in members:
                own = frame[frame.name == name]
                assert drawn[style_of(name)["label"]] == own[["epoch", "value"]].to_numpy().tolist()
            assert [line.get_ydata()[0] for line in ax.get_lines() if line.get_label().startswith("_")] == [2.5] * i
    assert [text.get_text() for ax in axes.flat for text in ax.texts] == ["level"]
    assert axes[0, 0].get_ylim() == (0, 77) and axes[1, 0].get_ylim() != (0, 77)
    assert [ax.get_xlabel() for ax in axes.flat] == ["", "", "epochs", "epochs"]
    assert [tick.get_text() for tick in axes[1, 0].get_xticklabels()] == ["start", "half"]


def test_lines_over_one_axis_have_their_names_and_levels():
    ax = plots.curves([1, 2], {"a": [3, 4], "b": [5, 6]}, xlabel="x (s)", ylabel="y (V)", title="t", levels={"rest": 2})
    drawn = lines_of(ax)
    assert drawn["a"] == [[1, 3], [2, 4]] and drawn["b"] == [[1, 5], [2, 6]]
    assert [list(line.get_ydata()) for line in ax.get_lines()][2] == [2, 2]
    assert [(text.get_text(), text.xy[1]) for text in ax.texts] == [("rest", 2)]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x (s)", "y (V)", "t")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert plots.curves([1], {"a": [3]}, xlabel="", ylabel="").get_legend() is None


def test_a_learning_curve_is_the_history_and_says_its_unit():
    history = History()
    for examples, accuracy in ((0, 0.1), (100, 0.7)):
        history.add(
            examples / 100, examples, 0.0, "validation", {"accuracy": accuracy, "loss": 1 - accuracy, "snr": 2.0}
        )
    for metric, unit, values in (
        ("accuracy", "accuracy (fraction correct)", [0.1, 0.7]), ("loss", "cross-entropy (nats)", [0.9, 0.3]),
        ("snr", "snr", [2.0, 2.0]),
    ):  # fmt: skip
        ax = plots.learning_curves({"fa": history}, metric, "validation")
        assert lines_of(ax)["Feedback alignment"] == [
            [x, pytest.approx(y)] for x, y in zip((0, 100), values, strict=True)
        ]
        assert ax.get_ylabel() == f"validation {unit}" and ax.get_xlabel() == "training examples seen"
    # In nats: a guess among four costs ln 4.
    rule = make_rule("backprop", MLP((3, 4)))
    torch.nn.init.zeros_(rule.network.W1)
    found = evaluate(rule, torch.rand(5, 3), torch.tensor([0, 1, 2, 3, 0]))
    assert found["loss"] == pytest.approx(math.log(4))


# --- images and arrows ----------------------------------------------------------------------------------------


def test_images_are_those_given_each_under_its_title():
    images = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    fig = plots.digits(images, ["a", "b", "c"], shape=(3, 2, 2), columns=2)
    shown = [ax for ax in fig.axes if ax.images]
    assert [ax.get_title() for ax in shown] == ["a", "b", "c"] and len(fig.axes) == 4
    for ax, image in zip(shown, images, strict=True):
        drawn = ax.images[0].get_array()  # row, column, channel
        assert np.array_equal(drawn, image.view(3, 4).T.view(2, 2, 3))
        assert not ax.axison
    grey = plots.digits(images[:1], ["ink"], shape=(1, 3, 4)).axes[0].images[0]
    assert np.array_equal(grey.get_array(), images[0].view(3, 4))
    assert (grey.get_clim(), grey.get_cmap().name) == ((0, 1), "gray_r")  # ink is black


def test_arrows_end_where_their_vectors_do():
    vectors = {"gradient": (3.0, -1.0), "update": (0.5, 2.0)}
    ax = plots.arrows(vectors, xlabel="$w_1$", ylabel="$w_2$")
    heads = [text for text in ax.texts if text.arrow_patch]
    assert [(text.xy, text.xyann) for text in heads] == [(vector, (0, 0)) for vector in vectors.values()]
    assert {text.get_text(): text.xy for text in ax.texts if text.get_text()} == vectors
    colours = [to_hex(text.arrow_patch.get_edgecolor()) for text in heads]
    assert [to_hex(text.get_color()) for text in ax.texts if text.get_text()] == colours and len(set(colours)) == 2
    assert ax.get_xlim() == ax.get_ylim() == pytest.approx((-3.6, 3.6)) and ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$w_1$", "$w_2$")


# --- schemes --------------------------------------------------------------------------------------------------


def test_a_scheme_has_every_box_at_its_place_and_every_arrow_between_its_boxes():
    boxes = {"below": (0, 0), "above": (1, 2)}
    dashed = {"color": "red", "linestyle": "--"}
    wires = [("below", "above", "f", (0.5, 0), {}), ("above", "below", "g", (-0.5, 0), dashed)]
    ax = plots.scheme(boxes, wires, size=(0.8, 0.4))
    centres = {box.get_bbox().x0 + 0.4: box.get_bbox().y0 + 0.2 for box in ax.patches}
    assert centres == {0.0: pytest.approx(0), 1.0: pytest.approx(2)}
    words = {text.get_text(): text for text in ax.texts if text.get_text()}
    assert {name: words[name].get_position() for name in boxes} == boxes
    assert words["f"].get_position() == (1.0, 1.0) and words["g"].get_position() == (0.0, 1.0)
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert [(a.xyann, a.xy) for a in arrows] == [((0, 0), (1, 2)), ((1, 2), (0, 0))]
    assert arrows[1].arrow_patch.get_linestyle() == "--" != arrows[0].arrow_patch.get_linestyle()
    assert to_hex(words["g"].get_color()) == "#ff0000" and ax.get_aspect() == 1
    assert ax.get_xlim() == pytest.approx((-0.8, 1.8)) and ax.get_ylim() == pytest.approx((-0.4, 2.4))


def test_a_scheme_refuses_an_arrow_to_nowhere():
    with pytest.raises(ValueError, match="an arrow ends at 'o'; boxes are h, x"):
        plots.scheme({"h": (0, 1), "x": (0, 0)}, [("h", "o", "", (0, 0), {})])


# --- published against ours -----------------------------------------------------------------------------------


@pytest.fixture
def card() -> pd.DataFrame:
    rows = [
        ("known2000", "paper", "test error (%)", "fa", 2.0, 2.2, 0.3, "inside"),
        ("other2001", "code", "test accuracy (%)", "mlp", 90.0, 80.0, 1.0, "outside"),
        ("other2001", "code", "test error (%)", "dtp", 3.0, 2.5, math.nan, "cannot be told"),
        ("other2001", "second-hand", "angle of the hidden error (°)", "fa", 30.0, 25.0, 40.0, "inside"),
    ]
    names = ("paper", "known", "what", "rule", "published", "mean", "half", "verdict")
    return pd.DataFrame(rows, columns=names).assign(run=lambda own: own.rule)


def test_published_figures_stand_where_they_and_ours_are(card):
    fig = plots.published_against_ours(card)
    drawn = []
    for ax in fig.axes:
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        (diagonal,) = [line for line in ax.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
        points = [box.lines[0] for box in ax.containers]
        drawn.append([(round(p.get_xdata()[0], 9), round(p.get_ydata()[0], 9)) for p in points])
    # An accuracy is drawn as the error that it leaves.
    assert drawn == [[(2, 2.2), (10, 20), (3, 2.5)], [(2, 2.2), (3, 2.5)], [(30, 25)]]


def test_colours_are_papers_shapes_are_sources_and_fills_are_verdicts(card):
    fig = plots.published_against_ours(card)
    points = [box.lines[0] for box in (*fig.axes[0].containers, *fig.axes[2].containers)]
    assert [point.get_marker() for point in points] == ["o", "s", "s", "^"]
    assert [to_hex(point.get_color()).upper() for point in points] == [plots.COLOURS[i] for i in (0, 1, 1, 1)]
    fills = [point.get_markerfacecolor() for point in points]
    assert fills[0] == plots.COLOURS[0] and fills[1] == "white" and fills[2][3] == 0.3
    assert [bool(box.has_yerr) for box in fig.axes[0].containers] == [True, True, False]
    (bar,) = fig.axes[2].containers[0].lines[2][0].get_segments()
    assert 0 < bar[0][1] < 1 and bar[1][1] == 65  # an interval that reaches below zero ends above it
    said = [text.get_text() for text in fig.legends[0].get_texts()]
    assert said == ["Known 2000", "Other 2001", "known: paper", "known: code", "known: second-hand",
                    "inside", "outside", "cannot be told"]  # fmt: skip
    assert [text.get_text() for text in fig.axes[0].texts] == [SHORT["mlp"]]  # off by a factor of two
