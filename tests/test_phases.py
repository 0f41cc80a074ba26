"""The phase stepper: what it records, what it sends, what a live request does, and what a reader gets."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import test_widgets
import torch
import traitlets

from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters, Simulation
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.widgets import PhaseStepper

show, step_of, words, state_of = test_widgets.show, test_widgets.step_of, test_widgets.words, test_widgets.state_of

SIZES = (784, 40, 10)
SHORT = {"phase": 20.0, "settle": 12.0}  # ms: fewer steps to walk through in the browser


def same_to_three_figures(shown, wanted) -> None:
    """Figures of the largest: the page has the same decimals for all numbers of an array."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(shown, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def images(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs that move, and labels."""
    rows, columns = np.mgrid[:28, :28]
    x = [np.exp(-((rows - 8 - 2 * i) ** 2 + (columns - 10) ** 2) / 30.0) for i in range(n)]
    return torch.tensor(np.array(x).reshape(n, 784), dtype=torch.float32), torch.arange(3, 3 + n) % 10


def rule(sizes=SIZES, *, seed=0, **constants) -> SegregatedCompartments:
    return SegregatedCompartments(RateNetwork(sizes, SegregatedParameters(**constants), seed=seed))


def stepper(rules=None, **changes) -> PhaseStepper:
    x, y = images()
    rules = {"before": rule(), "after": rule(seed=5)} if rules is None else rules
    return PhaseStepper(rules, x, y, **{"title": "One example", "index": 3, "neurons": 8, **changes})


def oracle(one: SegregatedCompartments, index: int, seed: int = 0):
    """The recording, made without the widget: the two examples before it, then the example."""
    x, y = images()
    simulation = one.simulation(seed=seed)
    for before in (index - 2, index - 1):
        simulation.example(x[before].numpy(), int(y[before]), learn=False)
    lengths = one.constants.draw_lengths(1, np.random.default_rng(seed))[0]
    return simulation.example(x[index].numpy(), int(y[index]), lengths=lengths, learn=False, record=True)


# ---------------------------------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize(
    "constants", [{}, {"g_a": 0.05}, {"plateau_sd": 2.0}, {"voltages": "steady"}, {"feedback": "learned"}]
)
def test_data_are_those_of_the_simulation(constants):
    rules = {"before": rule(**constants), "after": rule(seed=5, **constants)}
    data = stepper(rules).data
    neurons = data["neurons"]
    for name, recording in zip(rules, data["recordings"], strict=True):
        outcome = oracle(rules[name], 3)
        trace = outcome.trace
        assert recording["name"] == name and recording["lengths"] == list(outcome.lengths)
        assert sum(recording["lengths"]) == len(trace.t)
        for part in ("apical", "basal", "soma"):
            np.testing.assert_allclose(recording["hidden"][part], getattr(trace, part)[0].T[neurons], atol=0.0051)
        np.testing.assert_allclose(recording["output"]["soma"], trace.soma[-1].T, atol=0.0051)
        same_to_three_figures(recording["output"]["feedback"], trace.feedback.T)
        for events, counts in [
            (recording["input"], trace.spikes[0]), (recording["hidden"]["spikes"], trace.spikes[1][:, neurons]),
            (recording["output"]["spikes"], trace.spikes[-1]),
        ]:
            again = np.array([np.bincount(bin, minlength=counts.shape[1]) for bin in events])
            np.testing.assert_array_equal(again, counts)
        assert recording["hidden"]["fired"] == trace.spikes[1].sum(1).tolist()
        same_to_three_figures(recording["alpha_forward"], outcome.alpha_forward[0][neurons])
        same_to_three_figures(recording["alpha_target"], outcome.alpha_target[0][neurons])
        same_to_three_figures(recording["Y"], rules[name].direct_feedback(1)[neurons])
        np.testing.assert_array_equal(recording["plateau_steps"], outcome.plateau_steps[0][:, neurons])
        np.testing.assert_allclose(recording["output_loss"], outcome.output_loss, rtol=1e-3)
        assert recording["answer"] == outcome.scores.argmax()
    assert data["label"] == 6 and data["before"] == [4, 5] and data["index"] == 3
    shown = np.frombuffer(base64.b64decode(data["image"]), np.uint8) / 255
    np.testing.assert_allclose(shown, images()[0][3], atol=0.003)


def test_the_state_was_not_at_rest():
    """Without the examples before it the recording would be another one."""
    one = rule()
    alone = one.simulation(seed=0)
    x, y = images()
    lengths = one.constants.draw_lengths(1, np.random.default_rng(0))[0]
    outcome = alone.example(x[3].numpy(), int(y[3]), lengths=lengths, learn=False, record=True)
    data = stepper({"one": one}).data
    assert not np.allclose(data["recordings"][0]["hidden"]["soma"], outcome.trace.soma[0].T[data["neurons"]], atol=0.1)


@pytest.mark.parametrize("sizes", [SIZES, (784, 30, 12, 10)])
def test_change_of_the_weights_is_rebuilt_from_E_and_input(sizes):
    one = rule(sizes, eta=(0.3,) + (0.1,) * (len(sizes) - 2))
    data = stepper({"one": one}).data
    recording = data["recordings"][0]
    rebuilt = -recording["constants"]["eta_P"] * np.outer(recording["E"], recording["psp"])
    wanted = oracle(one, 3).delta_W[0][data["neurons"]]
    assert np.abs(wanted).max() > 1e-4
    same_to_three_figures(rebuilt, wanted)


def test_neurons_are_those_with_the_largest_plateau_difference_and_others():
    rules = {"before": rule(), "after": rule(seed=5)}
    widget = stepper(rules, neurons=9)
    outcomes = [oracle(one, 3) for one in rules.values()]
    sizes = [np.abs(o.alpha_target[0] - o.alpha_forward[0]) for o in outcomes]
    largest = np.argsort(-np.max([s / s.max() for s in sizes], axis=0))[:5]
    neurons = widget.data["neurons"]
    assert set(largest.tolist()) <= set(neurons)
    assert neurons == sorted(set(neurons)) and len(neurons) == 9
    assert stepper(rules, neurons=9, seed=1).data["neurons"] != neurons
    few = {"few": rule((784, 3, 10))}
    assert stepper(few, neurons=8).data["neurons"] == [0, 1, 2]
    E = np.array([r["E"] for r in widget.data["recordings"]])
    strongest = (np.abs(E) / np.abs(E).max(1, keepdims=True)).sum(0).argmax()
    assert widget.neuron == neurons[strongest]


def test_rules_are_left_alone():
    one = rule(feedback="symmetric", feedback_noise=0.1)
    x, y = images()
    one.present(x, y)
    before = {k: v.clone() for k, v in one.state_dict().items() if isinstance(v, torch.Tensor)}
    inner = json.dumps({k: str(v) for k, v in one.progress_state().items()})
    widget = stepper({"one": one})
    widget.simulate(index=1, feedback="sparse", g_a=0.05)
    after = {k: v for k, v in one.state_dict().items() if isinstance(v, torch.Tensor)}
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert json.dumps({k: str(v) for k, v in one.progress_state().items()}) == inner
    assert one.constants == SegregatedParameters(feedback="symmetric", feedback_noise=0.1)
    assert torch.equal(images()[0], x)


def test_weights_are_those_of_the_time_when_it_was_made():
    one = rule()
    widget = stepper({"one": one})
    before = json.dumps(widget.data["recordings"])
    one.present(*images())
    widget.simulate(index=4)
    widget.simulate(index=3)
    assert json.dumps(widget.data["recordings"]) == before
    assert json.dumps(stepper({"one": one}).data["recordings"]) != before


def test_html_depends_on_the_arguments_alone():
    first, second = stepper(), stepper()
    assert first.model_id != second.model_id
    assert first._repr_html_() == second._repr_html_()
    assert first.model_id not in first._repr_html_()
    assert stepper(seed=1)._repr_html_() != first._repr_html_()
    bundle, _ = first._repr_mimebundle_()
    assert bundle["text/plain"] == repr(first) == "PhaseStepper('One example', 2 recordings of 104 steps)"
    unequal = stepper({"a": rule(phase_mean=0), "b": rule(**SHORT, phase_mean=0)})
    assert repr(unequal).endswith("2 recordings of 103 and 43 steps)")


def test_page_has_no_kernel_and_live_has():
    widget = stepper(step=7)
    assert widget.live
    assert set(state_of(widget)) == {"step", "recording", "neuron", "data"}  # `live` is undefined there
    assert state_of(widget)["step"] == 7


def test_size():
    """A recording of the network of the paper and the whole output stay small."""
    sizes = (784, 500, 10)
    two = stepper({"before": rule(sizes), "after": rule(sizes, seed=3)}, neurons=16)
    assert max(len(json.dumps(r)) for r in two.data["recordings"]) < 120_000
    assert len(two._repr_html_().encode()) < 350_000


def test_module_asks_for_nothing():
    source = str(PhaseStepper._esm)
    assert not re.search(r"^\s*import\b", source, re.MULTILINE)
    assert re.findall(r"^export .*", source, re.MULTILINE) == ["export default { render };"]
    assert "http" not in source.replace("http://www.w3.org/2000/svg", "")


def test_no_text_can_leave_its_element():
    evil = "</script><b>&'\" </noscript>"
    page = test_widgets.Page(stepper({evil: rule()}, title=evil)._repr_html_())
    assert page.tags.count("b") == 0 and page.tags.count("script") == 2


# ------------------------------------------------------------------------------------------------- bad input

X, Y = images()
INVALID = [
    (lambda: stepper({}), ValueError, r"rules is \{\}; it must map at least one name"),
    (lambda: stepper(rule()), ValueError, r"(?s)rules is .*; it must map"),
    (lambda: stepper({"a": torch.nn.Linear(2, 2)}), TypeError, r"rule 'a' must be SegregatedCompartments, not Linear"),
    (lambda: stepper({"a": rule((784, 10))}), ValueError, r"rule 'a' has sizes \(784, 10\).*hidden layer"),
    (lambda: stepper({"a": rule(mode="rate")}), ValueError, r"rule 'a' is in mode 'rate'; it must be 'spiking'"),
    (lambda: stepper({"a": rule(), "b": rule((784, 20, 10))}), ValueError, r"rule 'b' has sizes .*20.*first rule"),
    (lambda: PhaseStepper({"a": rule((12, 5, 3))}, X[:, :12], Y, title="A"), ValueError, r"12 inputs.*square"),
    (lambda: PhaseStepper({"a": rule()}, X[:, :9], Y, title="A"), ValueError, r"x has shape \(6, 9\).*\(N, 784\)"),
    (lambda: PhaseStepper({"a": rule()}, X[:0], Y[:0], title="A"), ValueError, r"x has shape \(0, 784\)"),
    (lambda: PhaseStepper({"a": rule()}, X + 0.5, Y, title="A"), ValueError, r"x holds 1\.\d+; .*\[0, 1\]"),
    (lambda: PhaseStepper({"a": rule()}, X * np.nan, Y, title="A"), ValueError, r"x holds nan"),
    (lambda: PhaseStepper({"a": rule()}, X, Y[:3], title="A"), ValueError, r"y has shape \(3,\).*\(6,\)"),
    (lambda: PhaseStepper({"a": rule()}, X, Y.float(), title="A"), ValueError, r"float32.*whole numbers"),
    (lambda: PhaseStepper({"a": rule()}, X, Y + 5, title="A"), ValueError, r"y holds 13; .*from 0 to 9"),
    (lambda: stepper(index=6), ValueError, r"index is 6; .* from 0 to 5"),
    (lambda: stepper(index=1.5), ValueError, r"index is 1.5; .*whole number"),
    (lambda: stepper(seed=-1), ValueError, r"seed is -1"),
    (lambda: stepper(neurons=0), ValueError, r"neurons is 0; .* from 1 to 24"),
    (lambda: stepper(neurons=25), ValueError, r"neurons is 25"),
    (lambda: stepper(step=104), ValueError, r"step is 104; .* from 0 to 103"),
    (lambda: stepper(title=" "), ValueError, r"title is ' '"),
    (lambda: stepper(seconds_per_step=0), ValueError, r"seconds_per_step is 0"),
]


@pytest.mark.parametrize(("make", "kind", "message"), INVALID, ids=[message for _, _, message in INVALID])
def test_invalid_input_is_refused_by_name(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_traits_are_checked():
    widget = stepper({"a": rule(phase_mean=0), "b": rule(**SHORT, phase_mean=0)})
    for name, wrong, message in [
        ("step", 103, "from 0 to 102"), ("step", -1, "from 0 to"), ("recording", "c", r"'a', 'b'"),
        ("neuron", 40, "one of"), ("live", False, "read-only"),
    ]:
        before = getattr(widget, name)
        with pytest.raises(traitlets.TraitError, match=message):
            setattr(widget, name, wrong)
        assert getattr(widget, name) == before
    widget.step = 100
    widget.recording = "b"  # which has 43 steps
    assert widget.step == 42
    widget.recording = "a"
    assert widget.step == 42


# --------------------------------------------------------------------------------------------- a live kernel


def test_request_simulates_again():
    rules = {"before": rule(), "after": rule(seed=5)}
    widget = stepper(rules, step=90)
    neurons, sent = widget.data["neurons"], []
    widget.observe(lambda change: sent.append(change["new"]), "data")
    changed = {"g_a": 0.05, "g_b": 0.5, "g_teach": 0.8, "phase": 40, "settle": 25}
    widget.request = {"id": "a", "index": 4, "seed": 7, **changed}
    assert widget.reply == {"id": "a", "error": ""}
    assert len(sent) == 1
    assert widget.data["neurons"] == neurons and widget.data["index"] == 4 and widget.data["label"] == 7
    for name, recording in zip(rules, widget.data["recordings"], strict=True):
        one = rules[name].simulation()
        again = Simulation(one.W, one.b, one.Y, one.constants.replace(**changed), seed=7)
        x, y = images()
        for i in (2, 3):
            again.example(x[i].numpy(), int(y[i]), learn=False)
        lengths = again.constants.draw_lengths(1, np.random.default_rng(7))[0]
        outcome = again.example(x[4].numpy(), int(y[4]), lengths=lengths, learn=False, record=True)
        np.testing.assert_allclose(recording["hidden"]["soma"], outcome.trace.soma[0].T[neurons], atol=0.0051)
        same_to_three_figures(recording["E"], outcome.E[0][neurons])
    assert widget.step == min(90, sum(widget.data["recordings"][0]["lengths"]) + 2)  # clamped to the shorter phases


def test_request_for_a_label_takes_the_next_example_that_has_it():
    widget = stepper()
    widget.request = {"label": 4}  # example 1, which lies before example 3
    assert (widget.data["index"], widget.data["label"]) == (1, 4)
    widget.request = {"label": 8, "index": 2}
    assert (widget.data["index"], widget.data["label"]) == (5, 8)


@pytest.mark.parametrize("feedback", ["random", "symmetric", "sparse"])
def test_request_for_other_feedback(feedback):
    one = rule((784, 30, 12, 10))
    widget = stepper({"one": one})
    own = np.array(widget.data["recordings"][0]["Y"])
    widget.request = {"feedback": feedback}
    assert widget.reply["error"] == ""
    Y, neurons = np.array(widget.data["recordings"][0]["Y"]), widget.data["neurons"]
    if feedback == "random":  # what this rule has
        np.testing.assert_array_equal(Y, own)
    elif feedback == "symmetric":
        path = one.network.weight(2).T @ one.network.weight(3).T
        same_to_three_figures(Y, path[neurons].detach())
    else:
        assert 0.6 < (Y == 0).mean() < 0.95
        kept = Y != 0
        same_to_three_figures(Y[kept], 5 * own[kept])
    widget.request = {"feedback": "own"}
    np.testing.assert_array_equal(widget.data["recordings"][0]["Y"], own)


BAD_REQUESTS = [
    ({"phase": 20.0}, r"phase of 20.0 ms is too short to hold the averaging window"),
    ({"g_a": -1}, r"g_a must be at least 0, not -1"),
    ({"g_b": 5.0}, r"dt = 1.0 ms lets the voltage diverge"),
    ({"g_b": "much"}, r"g_b must be a finite number, not 'much'"),
    ({"index": None}, r"index is None; .*from 0 to 5"),
    ({"index": 17}, r"index is 17"),
    ({"label": 1}, r"no example has the label 1"),
    ({"seed": 1.5}, r"seed is 1.5"),
    ({"feedback": "mirror"}, r"feedback is 'mirror'; .*own, random, symmetric, sparse"),
    ({"eta": 1}, r"eta cannot be set; what can is index"),
]


@pytest.mark.parametrize(("request_", "message"), BAD_REQUESTS, ids=[m for _, m in BAD_REQUESTS])
def test_bad_request_gives_a_message_and_changes_nothing(request_, message):
    widget = stepper(step=20)
    before = json.dumps(widget.data)
    widget.request = {"id": 1, **request_}
    assert widget.reply["id"] == 1 and re.search(message, widget.reply["error"])
    assert json.dumps(widget.data) == before and widget.step == 20
    with pytest.raises(ValueError, match=message):
        widget.simulate(**request_)
    widget.request = {"id": 2, "index": 0}  # it goes on
    assert widget.reply == {"id": 2, "error": ""} and widget.data["index"] == 0


# --------------------------------------------------------------------------------------------- what a reader gets

STATE = "(w) => [w.querySelector('.bp-text').textContent, w.querySelector('.bp-drawing').innerHTML]"
FORWARD = TARGET = 20
LAST = FORWARD + TARGET + 2
STARTS = [0, 12, 20, 21, 33, 41, 42]  # settling, window, plateau, settling, window, plateau, update


def short(rules=None, **changes) -> PhaseStepper:
    rules = rules or {name: rule(**SHORT, phase_mean=0, seed=seed) for name, seed in [("before", 0), ("after", 5)]}
    return stepper(rules, **changes)


def label_of(step: int) -> str:
    if step in (FORWARD, LAST - 1):
        return "end of the forward phase: plateau αᶠ" if step == FORWARD else "end of the target phase: plateau αᵗ"
    if step == LAST:
        return "after the target phase: update of the weights"
    time = step + 1 if step < FORWARD else step
    in_phase = step if step < FORWARD else step - FORWARD - 1
    phase = "forward" if step < FORWARD else "target"
    return f"t = {time} ms, {phase} phase, {'settling' if in_phase < 12 else 'averaged'}"


@pytest.mark.browser
def test_every_step_says_and_draws_something_else(show):
    page = show(short())
    widget = page.locator(".bp-widget")
    seen = []
    for step in range(LAST + 1):
        assert step_of(page) == step
        assert words(page).startswith(f"Step {step + 1} of {LAST + 1} · {label_of(step)} — ")
        for drawing in page.locator("svg[role=img]").all():
            assert drawing.locator("> title").text_content().endswith(label_of(step))
            assert len(drawing.locator("> desc").text_content()) > 20
        seen.append(tuple(widget.evaluate(STATE)))
        page.locator(".bp-next").click(force=True)
    assert len({text for text, _ in seen}) == len({drawing for _, drawing in seen}) == LAST + 1
    page.locator(".bp-slider").press("Home")
    assert tuple(widget.evaluate(STATE)) == seen[0]  # nothing is left of the later steps


@pytest.mark.browser
def test_first_words_of_each_part(show):
    page = show(short())
    for start, said in zip(STARTS, [
        "a 4 and a 5 came before", "g_a = 0: it does not move the soma", "fires a plateau potential",
        "a current pulls output 6 towards 8 and all others towards −8", "what has changed is the feedback",
        "The difference of the two", "Every hidden neuron changes its weights",
    ], strict=True):
        assert step_of(page) == start and said in words(page)
        page.locator(".bp-phase-next").click(force=True)


@pytest.mark.browser
def test_phases_by_mouse_and_keyboard(show):
    page = show(short())
    ahead, back = page.locator(".bp-phase-next"), page.locator(".bp-phase-prev")
    assert back.get_attribute("aria-disabled") == "true"
    for start in STARTS[1:]:
        ahead.click()
        assert step_of(page) == start
    assert ahead.get_attribute("aria-disabled") == "true"
    for start in STARTS[-2::-1]:
        back.click()
        assert step_of(page) == start
    page.locator(".bp-slider").fill("15")
    back.click()
    assert step_of(page) == 12  # to the start of its own part
    for focus in (".bp-slider", ".bp-play", '.bp-picker [aria-checked="true"]'):
        page.locator(".bp-slider").fill("15")
        page.locator(focus).focus()
        for key, wanted in [("PageDown", 20), ("PageDown", 21), ("PageUp", 20), ("PageUp", 12), ("PageUp", 0)]:
            page.keyboard.press(key)
            assert step_of(page) == wanted, (focus, key)
    controls = page.locator(".bp-widget button, .bp-widget input, .bp-widget select")
    assert controls.evaluate_all("els => els.every(e => e.dataset.lmSuppressShortcuts === 'true')")


@pytest.mark.browser
def test_play_rests_where_a_part_begins(show):
    page = show(short(seconds_per_step=0.01), motion="no-preference")
    page.locator(".bp-play").click()
    assert page.locator("output.bp-text").get_attribute("aria-live") == "off"
    page.wait_for_function(f"document.querySelector('.bp-slider').value === '{LAST}'", timeout=10_000)
    page.wait_for_function("document.querySelector('.bp-play').textContent === 'Play'")


@pytest.mark.browser
def test_neuron_is_picked_by_mouse_keyboard_and_list(show):
    widget = short(step=FORWARD)
    page = show(widget)
    neurons, recording = widget.data["neurons"], widget.data["recordings"][0]
    select = page.locator("select.bp-neuron")

    def chosen() -> int:
        k = int(select.input_value())
        at = neurons.index(k)
        assert page.locator('.bp-picker [aria-checked="true"]').get_attribute("aria-label") == f"neuron {k}"
        assert f"Neuron {k}: αᶠ = " in words(page)
        alpha = recording["alpha_forward"][at]
        assert f"αᶠ = {alpha:.3f}" in page.locator(".bp-panel-closeup svg").first.text_content()
        assert f"αᶠ, neuron {k}" in page.locator("table").inner_text()
        return k

    assert chosen() == widget.neuron
    cells = page.locator(".bp-panel-network path.bp-soma")
    assert cells.count() == len(neurons)
    for at in (0, 5):  # the drawn soma itself lies under the button
        box = cells.nth(at).bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert chosen() == neurons[at]
    page.locator('.bp-picker [aria-checked="true"]').focus()
    for key, at in [("ArrowRight", 6), ("ArrowRight", 7), ("ArrowRight", 0), ("ArrowLeft", 7)]:
        page.keyboard.press(key)
        assert chosen() == neurons[at] and step_of(page) == FORWARD
        assert page.evaluate("document.activeElement.ariaChecked") == "true"
    select.select_option(str(neurons[2]))
    assert chosen() == neurons[2]
    drawn = page.locator(".bp-drawing").inner_html()
    widget.neuron = neurons[2]  # all scales are then those that this neuron has from the start
    assert show(widget).locator(".bp-drawing").inner_html() == drawn


@pytest.mark.browser
def test_recording_keeps_step_and_neuron(show):
    rules = {"a": rule(**SHORT, phase_mean=0), "b": rule(phase=16.0, settle=12.0, phase_mean=0, seed=5, g_a=0.05)}
    widget = short(rules, step=15)
    page = show(widget)
    drawing = page.locator(".bp-drawing").inner_html()
    neuron = page.locator("select.bp-neuron").input_value()
    page.locator("select.bp-recording").select_option("b")
    assert step_of(page) == 15 and page.locator("select.bp-neuron").input_value() == neuron
    assert page.locator(".bp-drawing").inner_html() != drawing
    assert words(page).startswith("Step 16 of 35 ·")
    page.locator("select.bp-recording").select_option("a")
    assert page.locator(".bp-drawing").inner_html() == drawing
    page.locator(".bp-slider").press("End")
    page.locator("select.bp-recording").select_option("b")
    assert step_of(page) == 34 and words(page).startswith("Step 35 of 35 · after")
    assert page.locator(".bp-slider").get_attribute("max") == "34"
    page.locator("select.bp-recording").select_option("a")
    assert step_of(page) == 34  # it has stepped, not only been shown so
    heads = page.locator("table thead th").all_text_contents()
    assert heads == ["quantity", "a", "b"]
    losses = page.locator("table tbody tr").nth(4).locator("td").all_text_contents()
    shown = [float(text.replace("−", "-")) for text in losses if "×" not in text]
    wanted = [r["output_loss"] for r, text in zip(widget.data["recordings"], losses, strict=True) if "×" not in text]
    np.testing.assert_allclose(shown, wanted, rtol=6e-3)


PIXELS = """async (href) => {
  const picture = new Image();
  picture.src = href;
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [28, 28];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return [...context.getImageData(0, 0, 28, 28).data];
}"""


@pytest.mark.browser
def test_change_of_the_weights_appears_at_the_update_alone(show):
    widget = short()
    page = show(widget)
    delta = page.locator("image.bp-delta")
    for start in STARTS:
        page.locator(".bp-slider").fill(str(start))
        assert bool(delta.get_attribute("href")) == (start == LAST), start
    recording = widget.data["recordings"][0]
    psp = np.array(recording["psp"])
    for k in (0, 3):  # orange minus blue has the sign and, roughly, the order of ΔW
        page.locator("select.bp-neuron").select_option(str(widget.data["neurons"][k]))
        colours = np.array(page.evaluate(PIXELS, delta.get_attribute("href"))).reshape(784, 4)
        warmth = colours[:, 0] - colours[:, 2]
        strong = psp > 0.3 * psp.max()
        shift = warmth - np.median(warmth[psp == 0])
        assert (np.sign(shift[strong]) == -np.sign(recording["E"][k])).mean() > 0.95
    grows = page.locator(".bp-error").evaluate_all("els => els.map((e) => e.classList.contains('bp-grows'))")
    assert grows == [e < 0 for e in recording["E"]]
    page.locator(".bp-prev").click()
    assert set(page.locator(".bp-error").evaluate_all("els => els.map((e) => e.getAttribute('d'))")) == {""}


@pytest.mark.browser
def test_each_plateau_is_shown_from_its_own_step_on(show):
    page = show(short())
    for name, first in (("circle.bp-alpha-f", FORWARD), ("circle.bp-alpha-t", LAST - 1)):
        for step in (first - 1, first, LAST):
            page.locator(".bp-slider").fill(str(step))
            assert page.locator(name).is_visible() == (step >= first), (name, step)


@pytest.mark.browser
def test_the_timeline_marks_the_part_that_a_step_belongs_to(show):
    page = show(short())
    box = "e => [e.getAttribute('x'), e.getAttribute('width')]"
    parts = [part.evaluate(box) for part in page.locator(".bp-panel-timeline rect.bp-part").all()]
    assert len(parts) == len(STARTS)
    for part, (start, after) in enumerate(zip(STARTS, [*STARTS[1:], LAST + 1], strict=True)):
        for step in (start, after - 1):
            page.locator(".bp-slider").fill(str(step))
            assert page.locator("rect.bp-now").evaluate(box) == parts[part], step


@pytest.mark.browser
def test_soma_and_basal_dendrites_of_one_voltage_have_one_colour(show):
    widget = short()
    page = show(widget)
    hidden = widget.data["recordings"][0]["hidden"]
    cells = page.locator(".bp-panel-network path.bp-soma")
    colours = {"soma": {}, "basal": {}}
    for step in range(FORWARD):
        page.locator(".bp-slider").fill(str(step))
        painted = cells.evaluate_all("els => els.map((e) => [getComputedStyle(e).fill, "
                                     "getComputedStyle(e.previousElementSibling).stroke])")
        for i, pair in enumerate(painted):
            for part, colour in zip(colours, pair, strict=True):
                assert colours[part].setdefault(hidden[part][i][step], colour) == colour, (part, step, i)
    both = colours["soma"].keys() & colours["basal"].keys()
    assert len({colours["soma"][volt] for volt in both}) > 3
    assert [volt for volt in both if colours["soma"][volt] != colours["basal"][volt]] == []


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_neurons_stand_out_from_the_paper(show, theme):
    page = show(short(), theme=theme)

    def light(selector: str, colour: str) -> float:
        found = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{colour}")
        channels = np.array([int(c) for c in re.findall(r"\d+", found)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    paper = light(".bp-widget", "backgroundColor")
    for outline in ("path.bp-rim", "path.bp-soma"):
        drawn = light(outline, "stroke")
        assert max(drawn, paper) / min(drawn, paper) > 3, outline


@pytest.mark.browser
def test_teaching_arrows_stand_in_the_target_phase_alone(show):
    page = show(short())
    arrows = page.locator("g.bp-teach")
    assert arrows.count() == 10
    for step in range(LAST + 1):
        page.locator(".bp-slider").fill(str(step))
        taught = FORWARD < step < LAST - 1
        shown = arrows.evaluate_all("els => els.map((e) => getComputedStyle(e).display !== 'none')")
        assert shown == [taught] * 10, step
    page.locator(".bp-slider").fill("30")
    assert arrows.all_text_contents() == ["+" if j == 6 else "−" for j in range(10)]


@pytest.mark.browser
@pytest.mark.parametrize("g_a", [0.0, 0.05])
def test_apical_dendrite_is_joined_or_cut(show, g_a):
    page = show(short({"one": rule(**SHORT, g_a=g_a)}))
    visible = "els => els.map((e) => getComputedStyle(e).display !== 'none')"
    links, cuts = page.locator("path.bp-link"), page.locator("path.bp-cut")
    assert links.count() == cuts.count() == 9  # eight in the network and the close-up
    assert links.evaluate_all(visible) == [g_a > 0] * 9
    assert cuts.evaluate_all(visible) == [g_a == 0] * 9
    assert f"g_a = {g_a:g}" in page.locator(".bp-panel-closeup svg").first.text_content()


@pytest.mark.browser
def test_drawing_shows_the_spikes_and_plateaus_of_the_data(show):
    widget = short()
    page = show(widget)
    recording = widget.data["recordings"][0]
    visible = "els => els.map((e) => getComputedStyle(e).display !== 'none')"
    for step in range(LAST + 1):
        page.locator(".bp-slider").fill(str(step))
        marked = step in (FORWARD, LAST - 1, LAST)
        t = step if step < FORWARD else step - 1
        network = page.locator(".bp-panel-network")
        rings = network.locator("circle.bp-flash").evaluate_all(visible)[:10]
        assert rings == [not marked and j in recording["output"]["spikes"][t] for j in range(10)], step
        flashes = network.locator("path.bp-flash").evaluate_all(visible)
        assert flashes == [not marked and i in recording["hidden"]["spikes"][t] for i in range(8)], step
        lit = network.locator("path.bp-lit").get_attribute("d").count("M")
        assert lit == (0 if marked else len(recording["input"][t])), step
        glow = page.locator("path.bp-glow").evaluate_all(visible)
        assert glow == [step in (FORWARD, LAST - 1)] * 9, step


LIVE = """
  const state = JSON.parse(document.querySelector('.bp-static script[type="application/json"]').textContent);
  Object.assign(state, { live: true, reply: {} });
  const handlers = [];
  const model = {
    get: (name) => state[name],
    set: (name, value) => {
      state[name] = value;
      handlers.filter(([event]) => event === `change:${name}`).forEach(([, handler]) => handler());
    },
    save_changes: () => {},
    on: (event, handler) => handlers.push([event, handler]),
    off: (event, handler) => { handlers.splice(handlers.findIndex(([, one]) => one === handler), 1); },
  };
  const { default: widget } = await Object.values(globalThis.bioplausModules)[0];
  const host = () => document.body.appendChild(document.createElement("div"));
"""


@pytest.mark.browser
def test_live_form_asks_and_shows_the_answer(show):
    widget = short()
    page = show(widget)
    assert page.locator("form.bp-live").count() == 0 and "In JupyterLab" in page.locator(".bp-note").text_content()
    page.evaluate(f"async () => {{ {LIVE} const el = host(); widget.render({{ model, el }}); window.model = model; }}")
    form = page.locator("form.bp-live")
    assert form.locator("[name=g_a]").input_value() == "0" and form.locator("[name=index]").input_value() == "3"
    form.locator("[name=g_a]").fill("0.05")
    form.locator("[name=settle]").fill("30")
    form.locator(".bp-simulate").click()
    request = page.evaluate("window.model.get('request')")
    assert request["g_a"] == 0.05 and request["phase"] == 20 and request["index"] == 3 and request["label"] is None
    assert form.locator(".bp-answer").text_content() == "Simulating …"

    def answer() -> None:  # as the kernel does
        widget.request = page.evaluate("window.model.get('request')")
        page.evaluate("([d, r]) => { window.model.set('data', d); window.model.set('reply', r); }",
                      [widget.data, widget.reply])

    answer()
    said = form.locator(".bp-answer").text_content()
    assert said.startswith("Nothing was changed: phase of 20") and "too short" in said
    assert form.locator("[name=g_a]").input_value() == "0"  # what is shown
    form.locator("[name=g_a]").fill("0.05")
    form.locator("[name=label]").select_option("8")
    form.locator("[name=phase]").fill("17")
    form.locator(".bp-simulate").click()
    answer()
    assert form.locator(".bp-answer").text_content() == "Simulated."
    live = page.locator(".bp-widget").nth(1)
    assert form.locator("[name=index]").input_value() == "5" and form.locator("[name=g_a]").input_value() == "0.05"
    assert "a 6 and a 7 came before" in live.locator(".bp-text").text_content()
    assert live.locator(".bp-slider").get_attribute("max") == "36"
    assert live.locator("path.bp-link").first.evaluate("e => getComputedStyle(e).display") == "inline"


@pytest.mark.browser
def test_a_view_that_is_removed_leaves_nothing_behind(show):
    page = show(short())
    left = page.evaluate(
        f"""async () => {{ {LIVE}
          const el = host();
          const clean = widget.render({{ model, el }});
          el.querySelector(".bp-play").click();
          clean();
          await new Promise((resolve) => setTimeout(resolve, 300));
          return [handlers.length, el.childElementCount, state.step];
        }}"""
    )
    assert left == [0, 0, 0]


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 800, 1280])
def test_words_are_readable_inside_and_nothing_jumps(show, width):
    page = show(short({"before": rule((784, 30, 12, 10), **SHORT, phase_mean=0, g_a=0.05)}, neurons=16), width=width)
    heights = set()
    for step in (*STARTS, 5, 30):
        page.locator(".bp-slider").fill(str(step))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        heights.add(page.locator(".bp-widget").bounding_box()["height"])
        for svg in page.locator(".bp-drawing").evaluate(test_widgets.TEXT_BOXES):
            assert svg["right"] <= svg["panel"] + 1, svg["name"]
            written = [a for a in svg["texts"] if a["right"] > a["left"]]  # others are not displayed
            for i, a in enumerate(written):
                assert a["size"] >= 12, a
                assert svg["left"] - 1 <= a["left"] and a["right"] <= svg["right"] + 1, (svg["name"], a)
                assert svg["top"] - 1 <= a["top"] and a["bottom"] <= svg["bottom"] + 1, (svg["name"], a)
                for b in written[:i]:
                    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
                    down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
                    assert across <= 1 or down <= 4.5, (step, svg["name"], a, b)
    assert len(heights) == 1


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", 800), ("dark", 800), ("light", 400)])
def test_axe_finds_nothing(show, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = show(short(), theme=theme, width=width)
    page.evaluate(f"async () => {{ {LIVE} const el = host(); widget.render({{ model, el }});"
                  "document.querySelector('main').append(el); }")
    for step in (5, 30, LAST):
        page.locator(".bp-slider").first.fill(str(step))
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()


@pytest.mark.browser
def test_without_scripts_the_numbers_remain(show):
    page = show(short(), scripts=False)
    text = page.locator("main").inner_text()
    assert "One training example, a 6," in text and "before: forward phase of 20 ms, plateau αf = 0." in text
