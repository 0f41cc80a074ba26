"""The walks show what the rules compute, in the order in which it becomes known."""

from __future__ import annotations

import base64

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from bioplaus_lite import CNN, MLP
from bioplaus_lite.measures import error_angles
from bioplaus_lite.models.microcircuits import PyramidalNetwork
from bioplaus_lite.rules import DifferenceTargetPropagation, Microcircuits, SimplifiedDTP, TargetPropagation
from bioplaus_lite.widgets.players.backprop import backprop_walk
from bioplaus_lite.widgets.players.microcircuits import microcircuit_walk
from bioplaus_lite.widgets.players.targets import target_walk
from bioplaus_lite.widgets.players.trainings import training_walk

SIZES = (3, 4, 3, 2)
X, Y = torch.tensor([[0.9, -0.1, 0.6]], dtype=torch.float64), torch.tensor([1])
RATE = 0.3


@pytest.fixture(params=["relu", "tanh"])
def network(request) -> MLP:
    torch.manual_seed(0)
    network = MLP(SIZES, activation=request.param, init="he", seed=3, dtype=torch.float64)
    for layer in range(1, network.depth + 1):
        torch.nn.init.uniform_(network.bias(layer), -0.2, 0.2)  # a walk must not forget them
    return network


def walk(network: MLP) -> dict:
    return backprop_walk(network, X, Y, rate=RATE).spec


def pixels(panel: dict, step: int) -> np.ndarray:
    """The picture of a step, back from levels to values."""
    levels = np.frombuffer(base64.b64decode(panel["frames"][step]), np.uint8)
    low, high = map(float, panel["vlim"])  # whole numbers are integers, which NumPy would keep in 8 bits
    return (low + (high - low) * levels / 255).reshape(panel["rows"], panel["cols"])


def test_the_steps_go_up_and_down_again(network):
    names = walk(network)["steps"]
    assert names == [
        "input", "up to layer 1", "up to layer 2", "up to the scores", "output error", "gradient of W₃",
        "down to layer 2", "gradient of W₂", "down to layer 1", "gradient of W₁", "update",
    ]  # fmt: skip


def test_activities_and_errors_are_those_of_autograd(network):
    activity, error, *_ = walk(network)["panels"]
    currents, h = [], X
    for layer in (1, 2, 3):
        currents.append(network.current(layer, h).requires_grad_())
        h = network.activate(layer, currents[-1])
    expected = torch.cat(torch.autograd.grad(F.cross_entropy(h, Y), currents), 1)[0]
    before_update = len(error["values"]) - 2
    np.testing.assert_allclose(error["values"][before_update], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        activity["values"][before_update], torch.cat(network.activities(X), 1)[0].detach(), rtol=1e-3, atol=6e-4
    )


def test_nothing_is_shown_before_it_is_known(network):
    activity, error, _, gradient, _, belief = walk(network)["panels"]
    assert all(v == 0 for v in activity["values"][0][3:])
    assert all(v == 0 for v in error["values"][3]) and any(error["values"][4][-2:])
    assert all(v == 0 for v in error["values"][4][:-2]), "the hidden errors are not known at the output"
    assert belief["values"][3] == [0, 0] and sum(belief["values"][4]) == pytest.approx(1, abs=1e-3)
    low, high = gradient["ranges"][4]
    assert low == high == 0


def test_the_gradients_are_those_of_autograd(network):
    gradient = walk(network)["panels"][3]
    weights = [network.weight(layer) for layer in (1, 2, 3)]
    expected = torch.autograd.grad(F.cross_entropy(network(X), Y), weights)
    square, tolerance = pixels(gradient, 9), (gradient["vlim"][1] - gradient["vlim"][0]) / 255
    np.testing.assert_allclose(square[0:4, 0:3], expected[0], atol=tolerance)
    np.testing.assert_allclose(square[4:7, 3:7], expected[1], atol=tolerance)
    np.testing.assert_allclose(square[7:9, 7:10], expected[2], atol=tolerance)


def test_the_backward_pass_reads_the_blocks_of_the_forward_pass(network):
    read = walk(network)["panels"][2]
    assert read["frames"][6] == read["frames"][3], "W₃ is read again"
    assert read["frames"][8] == read["frames"][2], "W₂ is read again"
    assert read["frames"][1] not in read["frames"][2:], "W₁ is read once"
    for step in (0, 4, 5, 7, 9, 10):
        assert read["ranges"][step] == [0, 0], f"step {step} reads no weight"


def test_the_update_is_one_step_and_leaves_the_network_alone(network):
    before = [p.detach().clone() for p in network.parameters()]
    belief = walk(network)["panels"][5]["values"][-1]
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(network(X), Y), list(network.parameters()))
    with torch.no_grad():
        for p, g in zip(network.parameters(), gradients, strict=True):
            p -= RATE * g
    np.testing.assert_allclose(belief, torch.softmax(network(X), 1)[0].detach(), atol=1e-3)


def test_the_arithmetic_adds_up(network):
    for rows in walk(network)["panels"][4]["rows"][1:4]:
        for _, spelled, _, _ in rows:
            terms, total = spelled.split(" = ")
            value = eval(terms.replace("−", "-").replace("·", "*"))
            assert value == pytest.approx(float(total.replace("−", "-")), abs=0.04)


def test_errors_go_down_times_the_slope_of_the_layer_that_receives_them(network):
    spec = walk(network)
    for layer in (1, 2):
        h = network.activities(X)[layer][0].detach()
        slopes = 1 - h**2 if network.activation == "tanh" else (h > 0).to(h)
        rows = spec["panels"][4]["rows"][spec["steps"].index(f"down to layer {layer}")]
        assert len(rows) == SIZES[layer]
        for (_, spelled, factor, error), slope in zip(rows, slopes.tolist(), strict=True):
            assert float(factor.removeprefix("×")) == pytest.approx(slope, rel=5e-3)
            total = float(spelled.split(" = ")[1].replace("−", "-"))
            assert float(error.replace("−", "-")) == pytest.approx(slope * total, abs=0.0101)  # of two rounded numbers


@pytest.mark.parametrize(
    ("network", "x", "error", "says"),
    [
        (CNN((1, 8, 8), (2,)), torch.zeros(1, 64), TypeError, "CNN"),
        (MLP((3, 2)), torch.zeros(2, 3), ValueError, "not 2"),
        (MLP((3, 27, 2)), torch.zeros(1, 3), ValueError, "27"),
    ],
)
def test_what_it_cannot_show(network, x, error, says):
    with pytest.raises(error, match=says):
        backprop_walk(network, x, torch.zeros(len(x), dtype=torch.int64))


def test_what_rounds_to_zero_has_no_sign():
    x = torch.tensor([[-0.004, 0.004, -0.006]], dtype=torch.float64)
    table = backprop_walk(MLP((3, 2, 2), dtype=torch.float64), x, torch.tensor([0])).spec["panels"][4]
    assert [row[-1] for row in table["rows"][0]] == ["0.00", "0.00", "−0.01"]


# ---- Targets on their way down ----


def planes(l_activation="tanh", alpha=0.4, seed=2):
    network = MLP((3, 2, 2, 2, 3), activation=l_activation, init="he", seed=seed, dtype=torch.float64)
    for layer in range(1, network.depth + 1):
        torch.nn.init.uniform_(network.bias(layer), -0.2, 0.2, generator=torch.Generator().manual_seed(layer))
    return DifferenceTargetPropagation(network, alpha=alpha, noise=0.1)


def ends(panel: dict, name: str, step: int) -> np.ndarray:
    arrow = next(a for a in panel["arrows"] if a["name"] == name)
    return np.array(arrow["from"][step]) + np.array(arrow["xy"][step])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_the_targets_of_the_walk_are_those_of_the_rules(activation):
    rule = planes(activation)
    spec = target_walk(rule, X, Y).spec
    plain = TargetPropagation(rule.network, alpha=0.4, noise=0.1)
    plain.load_state_dict(rule.state_dict())
    h, moved, carried = rule.network.activities(X), rule.targets(X, Y), plain.targets(X, Y)
    last = len(spec["steps"]) - 1
    np.testing.assert_allclose(ends(spec["panels"][0], "ĥ", last), moved[3][0], rtol=2e-3, atol=1e-3)
    for layer, panel in ((2, spec["panels"][1]), (1, spec["panels"][2])):
        for name, point in (("h", h[layer]), ("TP", carried[layer]), ("DTP", moved[layer]),
                            ("g(h)", rule.inverse(layer + 1, h[layer + 1]))):  # fmt: skip
            np.testing.assert_allclose(ends(panel, name, last), point[0].detach(), rtol=2e-3, atol=1e-3)
        reached = rule.respond(layer + 1, torch.tensor(ends(panel, "exact", last))[None])
        wanted = moved[layer + 1]
        if wanted.abs().max() < 0.99 or activation == "linear":
            np.testing.assert_allclose(reached.detach(), wanted, rtol=1e-2, atol=5e-3)


def test_points_of_the_walk_appear_one_after_the_other():
    spec = target_walk(planes(), X, Y).spec
    assert spec["steps"] == [
        "activities", "first target", "inverse in layer 2", "TP in layer 2", "DTP in layer 2", "inverse in layer 1",
        "TP in layer 1", "DTP in layer 1", "one step of learning",
    ]  # fmt: skip
    shown = [{a["name"]: a["since"] for a in panel["arrows"]} for panel in spec["panels"][:3]]
    assert shown[0] == {"h": 0, "ĥ": 1}
    assert shown[1] == {"h": 0, "g(h)": 2, "TP": 3, "DTP": 4, "exact": 4}
    assert shown[2] == {"h": 0, "g(h)": 5, "TP": 6, "DTP": 7, "exact": 7}
    rows = spec["panels"][3]["rows"]
    assert rows[0] == [["2", "", "", ""], ["1", "", "", ""]]
    assert rows[2][0][1] != "" and rows[2][0][2:] == ["", ""] and "" not in rows[-1][1]


def test_the_walk_of_targets_learns_on_copies():
    rule = planes()
    kept = {name: value.clone() for name, value in rule.state_dict().items()}
    text = target_walk(rule, X, Y, rate=0.3).spec["texts"][-1]
    copies = [TargetPropagation(MLP((3, 2, 2, 2, 3), activation="tanh", dtype=torch.float64), alpha=0.4, noise=0.1),
              DifferenceTargetPropagation(MLP((3, 2, 2, 2, 3), activation="tanh", dtype=torch.float64), alpha=0.4)]
    losses = []
    for other in copies:
        other.load_state_dict(kept)
        other.learn(X, Y, torch.optim.SGD(other.network.parameters(), lr=0.3))
        losses.append(F.cross_entropy(other(X), Y).item())
    assert f"{losses[0]:.2f} with TP and {losses[1]:.2f} with DTP" in text
    assert all(torch.equal(value, kept[name]) for name, value in rule.state_dict().items())


def test_the_walk_of_targets_names_what_it_cannot_show():
    with pytest.raises(TypeError, match="needs the rule of DTP, not SimplifiedDTP"):
        target_walk(SimplifiedDTP(MLP((3, 2, 2, 3), dtype=torch.float64)), X, Y)
    with pytest.raises(ValueError, match=r"1 example and hidden layers of 2 units, not 1 and \(2, 3\)"):
        target_walk(DifferenceTargetPropagation(MLP((3, 2, 3, 2), activation="tanh", dtype=torch.float64)), X, Y)
    with pytest.raises(ValueError, match="activation must be one of tanh, sigmoid, linear, not 'relu'"):
        target_walk(DifferenceTargetPropagation(MLP((3, 2, 2, 3), dtype=torch.float64)), X, Y)


# ---- Microcircuits ----


def circuits(**options) -> Microcircuits:
    network = PyramidalNetwork((4, 3, 3, 2), width=2.0, seed=4, dtype=torch.float64)
    return Microcircuits(network, seed=3, **options)


def four_inputs() -> torch.Tensor:
    return torch.tensor([[0.9, 0.1, 0.6, 0.3]], dtype=torch.float64)


def at_step(spec: dict, label: str) -> tuple[int, dict[str, float]]:
    step, panel = spec["steps"].index(label), spec["panels"][0]
    return step, dict(zip((node["name"] for node in panel["nodes"]), panel["values"][step], strict=True))


@pytest.mark.parametrize("options", [{}, {"feedback": "symmetric"}, {"lateral": "learned"}, {"feedback": "learned"}])
def test_voltages_of_the_circuits_are_those_of_the_steady_state(options):
    rule = circuits(**options)
    spec = microcircuit_walk(rule, four_inputs(), Y).spec
    quiet, taught = rule.steady_state(four_inputs()), rule.steady_state(four_inputs(), Y)
    _, before = at_step(spec, "no target")
    _, after = at_step(spec, "plasticity")
    kinds = {"soma": "soma {}", "interneuron": "interneuron i{}", "apical": "apical dendrite {}"}
    for state, shown in ((quiet, before), (taught, after)):
        for (kind, layer), voltage in state.items():
            if kind in kinds:
                cells = [f"{layer + (kind == 'interneuron')}{letter}" for letter in "abc"[: voltage.shape[1]]]
                values = [shown[kinds[kind].format(cell)] for cell in cells]
                wanted = voltage[0].detach()
                np.testing.assert_allclose(values, wanted, rtol=2e-3, atol=1e-12, err_msg=f"{kind} {layer}")


def said(rule: Microcircuits) -> dict[str, str]:
    spec = microcircuit_walk(rule, four_inputs(), Y).spec
    return dict(zip(spec["steps"], spec["texts"], strict=True))


def test_apical_dendrites_are_said_to_be_silent_only_where_they_are():
    texts = said(circuits())
    assert "All apical dendrites are silent" in texts["no target"] and "v_A = 0" in texts["lateral input to layer 1"]
    rule = circuits(lateral="learned")
    texts = said(rule)
    largest = max(v.abs().max().item() for v in rule.apical(four_inputs()).values())
    assert f"not silent, up to {largest:.1f}" in texts["no target"]
    assert "They miss by up to" in texts["interneurons predict"]


def test_apical_voltages_are_called_the_error_only_where_they_are():
    exact, random = said(circuits(feedback="symmetric")), said(circuits())
    for label in ("apical voltage of layer 2", "somata of layer 2", "apical voltage of layer 1", "somata of layer 1"):
        assert "the error" in exact[label] and "the error" not in random[label]
    assert all("which is not backprop's" in random[f"apical voltage of layer {k}"] for k in (1, 2))


def test_top_down_input_comes_before_the_inhibition_that_cancels_it():
    rule = circuits()
    spec = microcircuit_walk(rule, four_inputs(), Y).spec
    quiet = rule.steady_state(four_inputs())
    for layer in (2, 1):
        _, alone = at_step(spec, f"top-down input to layer {layer}")
        _, both = at_step(spec, f"lateral input to layer {layer}")
        for i, cell in enumerate("abc"):
            name = f"apical dendrite {layer}{cell}"
            assert alone[name] == pytest.approx(quiet["top_down", layer][0, i].item(), rel=2e-3)
            assert both[name] == 0
    since = {node["name"]: node["since"] for node in spec["panels"][0]["nodes"]}
    assert since["apical dendrite 1a"] == spec["steps"].index("top-down input to layer 1")
    assert since["soma 3a"] == spec["steps"].index("up to the output") < since["interneuron i3a"]
    assert since["target 3b"] == spec["steps"].index("the target nudges the output")
    assert len(spec["steps"]) == 6 * rule.network.depth


def test_edges_light_up_when_their_signal_arrives():
    spec = microcircuit_walk(circuits(), four_inputs(), Y).spec
    panel = spec["panels"][0]
    names = [bundle["name"] for bundle in panel["edges"]]
    active = {label: [names[e] for e in now] for label, now in zip(spec["steps"], panel["active"], strict=True)}
    assert active == {
        "input": [], "up to layer 1": ["W₁"], "up to layer 2": ["W₂"], "up to the output": ["W₃"],
        "interneurons predict": ["W_IP₁", "W_IP₂"],
        "top-down input to layer 2": ["W_down₂"], "lateral input to layer 2": ["W_PI₂", "W_down₂"],
        "top-down input to layer 1": ["W_down₁"], "lateral input to layer 1": ["W_PI₁", "W_down₁"], "no target": [],
        "the target nudges the output": ["target"],
        "interneurons of layer 2": ["nudge₂"], "apical voltage of layer 2": ["W_down₂", "W_PI₂"],
        "somata of layer 2": ["v_A₂"], "interneurons of layer 1": ["nudge₁"],
        "apical voltage of layer 1": ["W_down₁", "W_PI₁"], "somata of layer 1": ["v_A₁"],
        "plasticity": ["W₁", "W₂", "W₃"],
    }  # fmt: skip
    ends = {bundle["name"]: (bundle["kind"], len(bundle["pairs"])) for bundle in panel["edges"]}
    assert ends["W_PI₁"] == ("bar", 9) and ends["W_PI₂"] == ("bar", 6) and ends["W_down₂"] == ("arrow", 6)
    assert ends["nudge₂"] == ("arrow", 2) and ends["v_A₁"] == ("trunk", 3)
    order = [node["name"] for node in panel["nodes"]]
    named = {bundle["name"]: [[order[i] for i in pair] for pair in bundle["pairs"]] for bundle in panel["edges"]}
    assert named["nudge₂"] == [["soma 3a", "interneuron i3a"], ["soma 3b", "interneuron i3b"]]
    assert ["interneuron i2c", "apical dendrite 1a"] in named["W_PI₁"]


def test_the_story_after_the_target_follows_the_steady_state_downwards():
    rule = circuits()
    spec = microcircuit_walk(rule, four_inputs(), Y).spec
    quiet, taught = rule.steady_state(four_inputs()), rule.steady_state(four_inputs(), Y)
    cells = {"interneuron": "interneuron i3a", "apical": "apical dendrite 2a", "soma": "soma 2a"}
    parts = "interneurons", "apical voltage", "somata"
    for moved, label in enumerate(["the target nudges the output", *(f"{part} of layer 2" for part in parts)]):
        _, shown = at_step(spec, label)
        for i, (kind, name) in enumerate(cells.items()):
            state = taught if i < moved else quiet
            assert shown[name] == pytest.approx(state[kind, 2][0, 0].item(), rel=2e-3, abs=1e-12), (label, name)
    # Bars of the error: each layer's with its soma, and nothing before there is a target.
    errors = dict(zip(spec["steps"], spec["panels"][2]["values"], strict=True))
    assert not any(errors["no target"])
    assert not any(errors["apical voltage of layer 2"][3:6]) and all(errors["somata of layer 2"][3:6])
    assert not any(errors["apical voltage of layer 1"][:3]) and all(errors["somata of layer 1"][:3])


def test_the_arithmetic_of_a_nudge_has_the_voltage_that_results():
    rule = circuits(lam=0.2)
    spec = microcircuit_walk(rule, four_inputs(), Y).spec
    tables = next(panel["rows"] for panel in spec["panels"] if panel["kind"] == "table")
    taught = rule.steady_state(four_inputs(), Y)
    for label, voltages in {
        "the target nudges the output": taught["soma", 3],
        "interneurons of layer 2": taught["interneuron", 2],
        "interneurons of layer 1": taught["interneuron", 1],
    }.items():
        rows = tables[spec["steps"].index(label)]
        sums = [eval(spelled.replace("−", "-").replace("·", "*")) for _, spelled, _ in rows]
        np.testing.assert_allclose(sums, voltages[0].detach(), rtol=0, atol=0.0051, err_msg=label)  # two decimals


@pytest.mark.parametrize("options", [{}, {"lateral": "learned"}, {"mixing": "convex"}])
def test_numbers_in_the_texts_of_the_circuits(options):
    rule = circuits(**options)
    texts = said(rule)
    quiet, taught = rule.steady_state(four_inputs()), rule.steady_state(four_inputs(), Y)

    def most(values: torch.Tensor) -> float:
        return values.abs().max().item()

    def number(text: str) -> float:
        figures, _, power = text.removesuffix(".").replace("−", "-").partition("×10")
        return float(figures) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)

    def last(label: str, word: str) -> float:
        return number(texts[label].split(word)[1].split()[0])

    for k in (2, 1):
        assert last(f"top-down input to layer {k}", "up to ") == pytest.approx(most(quiet["top_down", k]), rel=0.05)
        moved = taught["interneuron", k] - taught["predicted", k]
        assert last(f"interneurons of layer {k}", "up to ") == pytest.approx(most(moved), rel=0.05)
        largest = most(taught["apical", k])
        assert last(f"apical voltage of layer {k}", "v_A is up to ") == pytest.approx(largest, rel=0.05)
        assert last(f"somata of layer {k}", "up to ") == pytest.approx(rule.lam * largest, rel=0.05)
        if most(quiet["apical", k]) > 1e-9:
            change = taught["apical", k] - quiet["apical", k]
            assert last(f"apical voltage of layer {k}", "it by up to ") == pytest.approx(most(change), rel=0.05)
            assert "the error" not in texts[f"somata of layer {k}"]
    nudge = taught["soma", 3] - quiet["soma", 3]
    assert last("the target nudges the output", "up to ") == pytest.approx(most(nudge), rel=0.05)
    if options:
        pair = [max(most(s["apical", k]) for k in (1, 2)) for s in (taught, quiet)]
        given = [number(part.split()[0].strip(",:")) for part in texts["plasticity"].split("up to ")[1:]]
        assert given == pytest.approx(pair, rel=0.05)
    else:
        assert "feedback alignment" in texts["plasticity"]


def test_what_is_not_cancelled_moves_somata_though_there_is_no_target():
    rule = circuits(lateral="learned", lam=0.2)
    spec = microcircuit_walk(rule, four_inputs(), Y).spec
    quiet = rule.steady_state(four_inputs())
    errors = dict(zip(spec["steps"], spec["panels"][2]["values"], strict=True))
    for layer, cells in ((2, slice(3, 6)), (1, slice(0, 3))):
        moved = torch.sigmoid(quiet["soma", layer]) - torch.sigmoid(quiet["basal", layer])
        shown = errors[f"lateral input to layer {layer}"][cells]
        np.testing.assert_allclose(shown, moved[0] / 0.2 ** (4 - layer), rtol=2e-3, atol=6e-4)


def test_rounding_does_not_break_the_silence():
    rule = circuits(lateral="learned")
    rule.set_self_predicting()
    with torch.no_grad():
        rule.W_PI1.mul_(1 + 2**-50)
    assert rule.apical(four_inputs())[1].any()
    assert "All apical dendrites are silent" in said(rule)["no target"]


@pytest.mark.parametrize("sizes", [(2, 3, 2), (4, 4, 4, 4), (2, 3, 1, 4, 2)])
def test_circuits_of_any_depth_that_is_allowed(sizes):
    rule = Microcircuits(PyramidalNetwork(sizes, width=1.0), lam=0.2)
    spec = microcircuit_walk(rule, four_inputs()[:, : sizes[0]].float(), Y).spec
    assert len(spec["steps"]) == 6 * rule.network.depth
    panel = spec["panels"][0]
    places = [(node["x"], node["y"]) for node in panel["nodes"]]
    assert len(set(places)) == len(places)
    # No interneuron stands in a trunk: in its row, its layer's pyramidal cells are half a unit away.
    xs = {node["name"]: node["x"] for node in panel["nodes"]}
    order = [node["name"] for node in panel["nodes"]]
    for bundle in panel["edges"]:
        if bundle["name"].startswith("W_PI"):
            assert all(abs(xs[order[i]] - xs[order[j]]) % 1 == 0.5 for i, j in bundle["pairs"])
    assert "silent" in spec["texts"][spec["steps"].index("no target")]


def test_the_last_step_of_the_circuits_has_the_angles_to_backprop():
    for options in ({}, {"feedback": "symmetric", "lam": 0.01}):
        rule = circuits(**options)
        spec = microcircuit_walk(rule, four_inputs(), Y).spec
        own = rule.errors(four_inputs(), Y)
        wanted = -torch.cat([own[layer][0] for layer in (1, 2, 3)])
        np.testing.assert_allclose(spec["panels"][2]["values"][-1], wanted, rtol=2e-3, atol=6e-5)
        angle = error_angles(rule, four_inputs(), Y)[1]
        assert f"{angle:.0f}° in layer 1" in spec["texts"][-1] or f"{angle:.2g}° in layer 1" in spec["texts"][-1]


def test_the_walk_of_circuits_names_what_it_cannot_show():
    with pytest.raises(TypeError, match="needs the rule of microcircuits, not DifferenceTargetPropagation"):
        microcircuit_walk(planes(), X, Y)
    wide = Microcircuits(PyramidalNetwork((4, 5, 2), dtype=torch.float64))
    with pytest.raises(ValueError, match=r"up to 4 units each, not 1 and \(4, 5, 2\)"):
        microcircuit_walk(wide, four_inputs(), Y)


# ----------------------------------------------------------------------------------------------------- trainings


def trainings(**changes) -> pd.DataFrame:
    rows = [
        {"dataset": dataset, "name": name, "seed": seed, "examples": examples, "value": value + 0.02 * seed}
        for dataset in ("mnist", "fashion")
        for name, values in {"fa": (0.1, 0.6, 0.8), "mlp": (0.1, 0.7, 0.9)}.items()
        for seed in (0, 1)
        for examples, value in zip((0, 1000, 55000), values, strict=True)
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_the_walk_through_trainings_shows_means_over_seeds():
    player = training_walk(trainings(), {"mnist": "MNIST", "fashion": "Fashion-MNIST"})
    spec = player.spec
    assert spec["steps"] == ["0 examples", "1,000 examples", "55,000 examples"]
    assert [panel["title"] for panel in spec["panels"]] == ["MNIST", "Fashion-MNIST"]
    assert spec["panels"][0]["labels"] == ["Backprop", "FA"], "in the order of the book, whatever that of the records"
    np.testing.assert_allclose(spec["panels"][0]["values"], [[89, 89], [29, 39], [9, 19]])
    assert spec["texts"][2] == "Fewest errors on MNIST: Backprop, 9.0 %; Fashion-MNIST: Backprop, 9.0 %."
    assert player.step == 2


def test_trainings_that_were_recorded_differently_cannot_be_walked():
    frame = trainings()
    with pytest.raises(ValueError, match="'mnist' were not all recorded"):
        training_walk(frame[(frame.name != "fa") | (frame.examples != 1000)], {"mnist": "MNIST"})
    with pytest.raises(ValueError, match="'cifar10' were not all recorded"):
        training_walk(frame, {"cifar10": "CIFAR-10"})
    with pytest.raises(ValueError, match=r"have \[2, 3\] records"):
        fewer = frame[(frame.dataset != "mnist") | (frame.examples != 1000)]
        training_walk(fewer, {"mnist": "MNIST", "fashion": "Fashion-MNIST"})
