"""The phase stepper: one training example of the spiking segregated-compartments network, step by step.

In JupyterLab its controls simulate again, with another digit, other constants or other feedback. In a page without
a kernel it plays what was recorded when the chapter was executed.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import traitlets
from numpy.typing import ArrayLike, NDArray

from bioplaus_lite.models.segregated import Outcome, RateNetwork, SegregatedParameters, Simulation
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.widgets.panels import _even, _plain, _rounded
from bioplaus_lite.widgets.static import PageWidget, module_source

MARKED_STEPS = 3  # beside one step for each bin: plateau α^f, plateau α^t, update
WARM_UP = 2  # examples shown before the recorded one
SPARSE_SHARE = 0.2  # of the feedback weights are left by the choice "sparse", as in the paper
FEEDBACKS = ("own", "random", "symmetric", "sparse")
CONSTANTS = ("g_a", "g_b", "g_teach", "phase", "settle")  # that a request may change
_FOLDER = Path(__file__).parents[1]


class PhaseStepper(PageWidget):
    r"""Step through one training example: spikes, voltages, both plateaus and the change of the weights.

    One step is one bin of time; the plateaus :math:`\alpha^f` and :math:`\alpha^t` and the update have steps of their
    own. Shown are the first hidden layer, by a sample of its neurons, and the output. All hidden layers work alike, and
    the output feeds back to each of them directly, but only the weights of the first can be drawn as an image.

    Training never resets the state, so the two examples before the chosen one are shown first. Nothing learns here,
    and the rules are not changed: what is shown is the update that the example *would* make with the weights that the
    rules have when the widget is made. All recordings share the example, the seed and the neurons.

    In JupyterLab :attr:`step`, :attr:`recording` and :attr:`neuron` are shared with the kernel, and the controls
    below the drawing call :meth:`simulate`.

    Args:
        rules: name to rule, for instance before and after training; all of the same sizes, in spiking mode.
        x: images in [0, 1], shape ``(N, n_0)``, with ``n_0`` a square number.
        y: labels, ``(N,)``.
        title: name of the widget.
        index: the example to show, from 0.
        seed: of the spikes, the lengths of the phases and the choice of neurons.
        neurons: how many hidden neurons to show, at most 24: half of them those with the largest
            :math:`|\alpha^t - \alpha^f|` in any recording, the others at random.
        step: the step to begin with, from 0.
        seconds_per_step: pace of Play, in seconds.

    Raises:
        TypeError: a rule is no ``SegregatedCompartments``.
        ValueError: there is no rule, a rule has no hidden layer, is in rate mode or has other sizes than the first;
            the images or labels do not fit; or a number is out of range.
        traitlets.TraitError: if ``step``, ``recording`` or ``neuron`` is later set to what is not there.

    Example:
        >>> import torch
        >>> rule = SegregatedCompartments(RateNetwork((16, 6, 3), SegregatedParameters(phase_mean=0)))
        >>> PhaseStepper({"before training": rule}, torch.rand(4, 16), [0, 1, 2, 0], title="One example", neurons=4)
        PhaseStepper('One example', 1 recording of 103 steps)
    """

    _esm = module_source("phases.js")
    _css = "\n".join((_FOLDER / name).read_text("utf-8") for name in ("widgets.css", "phases.css"))
    # Not `live`: a page without a kernel reads it as undefined.
    _page_traits: ClassVar[tuple[str, ...]] = ("step", "recording", "neuron", "data")

    step = traitlets.Int(0, help="the step that is shown, from 0").tag(sync=True)
    recording = traitlets.Unicode(help="name of the recording that is shown").tag(sync=True)
    neuron = traitlets.Int(0, help="the hidden neuron in close-up, by its index in the layer").tag(sync=True)
    data = traitlets.Dict(help="all that the page draws").tag(sync=True)
    request = traitlets.Dict(help="what the page asks for, as arguments of simulate, and an id").tag(sync=True)
    reply = traitlets.Dict(help="the id of the last request, and its error, empty if it went well").tag(sync=True)
    live = traitlets.Bool(True, read_only=True, help="whether a kernel can answer requests").tag(sync=True)

    def __init__(
        self,
        rules: Mapping[str, SegregatedCompartments],
        x: ArrayLike,
        y: ArrayLike,
        *,
        title: str = "One training example, step by step",
        index: int = 0,
        seed: int = 0,
        neurons: int = 16,
        step: int = 0,
        seconds_per_step: float = 0.15,
    ) -> None:
        if not isinstance(title, str) or not title.strip():
            raise ValueError(f"phase stepper: title is {title!r}; it must be a text that is not empty")
        self._where = f"phase stepper {title!r}"
        self._rules = self._check_rules(rules)
        self._copies = {name: rule.simulation() for name, rule in self._rules.items()}  # training may go on
        self._x, self._y = self._check_examples(x, y)
        self._whole("neurons", neurons, 1, 24)
        if not (math.isfinite(seconds_per_step) and seconds_per_step > 0):
            raise ValueError(f"{self._where}: seconds_per_step is {seconds_per_step}; it must be finite and > 0")
        self._settings = self._check_settings({"index": index, "seed": seed, "feedback": "own"})
        records = self._record_all(self._settings)
        outcomes = [outcome for _, outcome in records]
        self._sample = sample_neurons(outcomes, neurons, seed)
        data = {
            "title": title, "seconds_per_step": float(seconds_per_step), **self._data(records, self._settings),
        }
        self._whole("step", step, 0, min(_steps(recording) for recording in data["recordings"]) - 1)
        # In close-up first: the neuron of the sample whose weights change most.
        shown = [np.abs(outcome.E[0][self._sample]) for outcome in outcomes]
        strongest = int(sum(size / (size.max() or 1.0) for size in shown).argmax())
        super().__init__(
            data=data, step=int(step), recording=data["recordings"][0]["name"], neuron=int(self._sample[strongest])
        )

    # -------------------------------------------------------------------------------------------- simulating

    def simulate(self, **changes: Any) -> None:
        """Simulate all recordings again and show them; what is not named stays as it was.

        Args:
            changes: ``index`` of the example; ``label``, to take the first example from ``index`` on that has it;
                ``seed``; ``g_a``, ``g_b``, ``g_teach`` (1/ms), ``phase``, ``settle`` (ms), each ``None`` for the
                rule's own; ``feedback``: ``"own"``, or drawn as a rule would, ``"random"``, ``"symmetric"`` or
                ``"sparse"`` (a fifth of the weights, five times as strong).

        Raises:
            ValueError: a name or value is not allowed; what is shown then stays as it was.

        Example:
            >>> import torch
            >>> rule = SegregatedCompartments(RateNetwork((16, 6, 3), SegregatedParameters()))
            >>> stepper = PhaseStepper({"untrained": rule}, torch.rand(4, 16), [0, 1, 2, 0], title="A", neurons=4)
            >>> stepper.simulate(index=1, g_a=0.05, feedback="symmetric")
        """
        settings = self._check_settings({**self._settings, **changes})
        data = {**self.data, **self._data(self._record_all(settings), settings)}
        self._settings = settings
        shown = next(r for r in data["recordings"] if r["name"] == self.recording)
        with self.hold_sync():
            self.step = min(self.step, _steps(shown) - 1, self._last_step())
            self.data = data

    @traitlets.observe("request")
    def _answer(self, change: dict[str, Any]) -> None:
        request = dict(change["new"])
        number = request.pop("id", 0)
        try:
            self.simulate(**request)
        except (ValueError, TypeError, FloatingPointError) as error:
            self.reply = {"id": number, "error": str(error)}
        else:
            self.reply = {"id": number, "error": ""}

    def _record_all(self, settings: dict[str, Any]) -> list[tuple[Simulation, Outcome]]:
        return [self._record(name, settings) for name in self._rules]

    def _record(self, name: str, settings: dict[str, Any]) -> tuple[Simulation, Outcome]:
        """Record the example with the weights that a rule had, after the examples before it."""
        rule, copy = self._rules[name], self._copies[name]
        constants, Y = self._constants(rule, settings), copy.Y
        if settings["feedback"] != "own":
            drawn = SegregatedCompartments(RateNetwork(rule.network.sizes, constants), seed=rule.seed)
            Y = [drawn.direct_feedback(layer).numpy() for layer in range(1, rule.network.depth)]
        simulation = Simulation(copy.W, copy.b, Y, constants, seed=settings["seed"])
        # From a generator of its own: recordings with the same constants have phases of the same lengths.
        lengths = constants.draw_lengths(1, np.random.default_rng(settings["seed"]))[0]
        for before in self._before(settings["index"]):
            simulation.example(self._x[before], int(self._y[before]), learn=False)
        index = settings["index"]
        outcome = simulation.example(self._x[index], int(self._y[index]), lengths=lengths, learn=False, record=True)
        return simulation, outcome

    def _before(self, index: int) -> list[int]:
        return [(index - k) % len(self._x) for k in range(WARM_UP, 0, -1)]

    def _constants(self, rule: SegregatedCompartments, settings: dict[str, Any]) -> SegregatedParameters:
        changes = {name: settings[name] for name in CONSTANTS if settings[name] is not None}
        match settings["feedback"]:
            case "random":
                changes |= {"feedback": "random", "feedback_share": 1.0, "feedback_noise": 0.0}
            case "symmetric":
                changes |= {"feedback": "symmetric", "feedback_share": 1.0, "feedback_noise": 0.0}
            case "sparse":
                changes |= {"feedback": "random", "feedback_share": SPARSE_SHARE, "feedback_noise": 0.0}
        return rule.constants.replace(**changes)

    # ------------------------------------------------------------------------------------------ what is sent

    def _data(self, records: list[tuple[Simulation, Outcome]], settings: dict[str, Any]) -> dict[str, Any]:
        index = settings["index"]
        own = {
            name: list(dict.fromkeys(getattr(rule.constants, name) for rule in self._rules.values()))
            for name in CONSTANTS
        }
        return {
            "sizes": list(next(iter(self._rules.values())).network.sizes),
            "neurons": self._sample.tolist(),
            "examples": len(self._x),
            "index": index,
            "label": int(self._y[index]),
            "before": [int(self._y[i]) for i in self._before(index)],
            "image": base64.b64encode(np.rint(255 * self._x[index]).astype(np.uint8).tobytes()).decode("ascii"),
            "settings": settings,
            "own": own,  # values of the rules' own constants: one, if they agree
            "recordings": [
                {"name": name, **recorded(*record, self._sample)}
                for name, record in zip(self._rules, records, strict=True)
            ],
        }

    def _page_fallback(self) -> str:
        data = self.data
        hidden, (n_0, n, *_) = len(data["neurons"]), data["sizes"]
        items = []
        for r in data["recordings"]:
            k = data["neurons"].index(self.neuron)
            (forward, target), dt = r["lengths"], r["constants"]["dt"]
            items.append(
                f"<li><strong>{html.escape(r['name'])}</strong>: forward phase of {forward * dt:g} ms, plateau "
                f"α<sup>f</sup> = {r['alpha_forward'][k]:.4g}; target phase of {target * dt:g} ms, plateau "
                f"α<sup>t</sup> = {r['alpha_target'][k]:.4g}; answer {r['answer']}, output loss {r['output_loss']}</li>"
            )
        return (
            f"<p><strong>{html.escape(data['title'])}</strong>. One training example, a {data['label']}, in a network "
            f"of {n_0} inputs and {n} neurons in the first hidden layer, {hidden} of them recorded. In each phase the "
            f"first milliseconds are left out of the averages; a plateau potential ends the phase. Of neuron "
            f"{self.neuron}:</p><ul>{''.join(items)}</ul>"
        )

    def __repr__(self) -> str:
        recordings = self.data["recordings"]
        steps = " and ".join(str(n) for n in dict.fromkeys(map(_steps, recordings)))
        plural = "s" if len(recordings) != 1 else ""
        return f"PhaseStepper({self.data['title']!r}, {len(recordings)} recording{plural} of {steps} steps)"

    # ------------------------------------------------------------------------------------------------ checks

    def _last_step(self) -> int:
        return _steps(next(r for r in self.data["recordings"] if r["name"] == self.recording)) - 1

    @traitlets.validate("step")
    def _step_in_range(self, proposal: dict[str, Any]) -> int:
        last = max(map(_steps, self.data["recordings"])) - 1
        if not 0 <= proposal["value"] <= last:
            raise traitlets.TraitError(f"step is {proposal['value']}; it must be from 0 to {last}")
        return proposal["value"]

    @traitlets.validate("recording")
    def _recording_known(self, proposal: dict[str, Any]) -> str:
        names = [r["name"] for r in self.data["recordings"]]
        if proposal["value"] not in names:
            raise traitlets.TraitError(f"recording is {proposal['value']!r}; it must be one of {names}")
        return proposal["value"]

    @traitlets.validate("neuron")
    def _neuron_shown(self, proposal: dict[str, Any]) -> int:
        if proposal["value"] not in self.data["neurons"]:
            raise traitlets.TraitError(f"neuron is {proposal['value']}; it must be one of {self.data['neurons']}")
        return proposal["value"]

    @traitlets.observe("recording")
    def _clamp_step(self, change: dict[str, Any]) -> None:
        if change["old"]:  # not while the widget is made
            self.step = min(self.step, self._last_step())

    def _check_rules(self, rules: Mapping[str, SegregatedCompartments]) -> dict[str, SegregatedCompartments]:
        if not isinstance(rules, Mapping) or not rules:
            raise ValueError(f"{self._where}: rules is {rules!r}; it must map at least one name to a rule")
        rules = {str(name): rule for name, rule in rules.items()}
        first: tuple[int, ...] = ()
        for name, rule in rules.items():
            if not isinstance(rule, SegregatedCompartments):
                raise TypeError(
                    f"{self._where}: rule {name!r} must be SegregatedCompartments, not {type(rule).__name__}"
                )
            sizes = rule.network.sizes
            if len(sizes) < 3:
                raise ValueError(f"{self._where}: rule {name!r} has sizes {sizes}; it must have a hidden layer")
            if rule.constants.mode != "spiking":
                raise ValueError(
                    f"{self._where}: rule {name!r} is in mode {rule.constants.mode!r}; it must be 'spiking', for "
                    f"the stepper shows spikes"
                )
            first = first or sizes
            if sizes != first:
                raise ValueError(f"{self._where}: rule {name!r} has sizes {sizes}; the first rule has {first}")
        if math.isqrt(first[0]) ** 2 != first[0]:
            raise ValueError(
                f"{self._where}: the network has {first[0]} inputs; it must be a square number, for they are drawn "
                f"as a square image"
            )
        return rules

    def _check_examples(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
        x, y = (np.asarray(a.detach().cpu() if hasattr(a, "detach") else a) for a in (x, y))
        sizes = next(iter(self._rules.values())).network.sizes
        if x.ndim != 2 or len(x) == 0 or x.shape[1] != sizes[0]:
            raise ValueError(f"{self._where}: x has shape {x.shape}; it must be (N, {sizes[0]}) with N ≥ 1")
        if not ((x >= 0) & (x <= 1)).all():  # also true of nan
            bad = x[~((x >= 0) & (x <= 1))][0]
            raise ValueError(f"{self._where}: x holds {bad}; every value must be in [0, 1]")
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{self._where}: y has shape {y.shape} of {y.dtype}; it must be ({len(x)},) whole numbers")
        if not 0 <= y.min() <= y.max() < sizes[-1]:
            bad = y.min() if y.min() < 0 else y.max()
            raise ValueError(f"{self._where}: y holds {bad}; every label must be from 0 to {sizes[-1] - 1}")
        return x.astype(np.float64), y

    def _check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings of a simulation, checked, with ``label`` turned into an index."""
        settable = ("index", "label", "seed", *CONSTANTS, "feedback")
        if unknown := sorted(set(settings) - set(settable)):
            raise ValueError(f"{self._where}: {', '.join(unknown)} cannot be set; what can is {', '.join(settable)}")
        settings = {**dict.fromkeys(CONSTANTS), **settings}
        settings["index"] = self._whole("index", settings["index"], 0, len(self._x) - 1)
        settings["seed"] = self._whole("seed", settings["seed"], 0, 2**32 - 1)
        if settings["feedback"] not in FEEDBACKS:
            raise ValueError(
                f"{self._where}: feedback is {settings['feedback']!r}; it must be one of {', '.join(FEEDBACKS)}"
            )
        label = settings.pop("label", None)
        if label is not None:
            places = np.flatnonzero(self._y == self._whole("label", label, 0, 2**31))
            if not len(places):
                raise ValueError(f"{self._where}: no example has the label {label}")
            settings["index"] = int(places[np.searchsorted(places, settings["index"]) % len(places)])
        for rule in self._rules.values():
            self._constants(rule, settings)  # before any time is spent
        return settings

    def _whole(self, name: str, value: Any, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
            raise ValueError(f"{self._where}: {name} is {value!r}; it must be a whole number from {low} to {high}")
        return int(value)


def _steps(recording: dict[str, Any]) -> int:
    return sum(recording["lengths"]) + MARKED_STEPS


def sample_neurons(outcomes: list[Outcome], count: int, seed: int) -> NDArray[np.int64]:
    r"""Neurons of the first hidden layer to show, sorted: half with the largest plateau difference, half at random.

    Args:
        outcomes: of all recordings; in each, :math:`|\alpha^t - \alpha^f|` counts as a share of its largest.
        count: how many; all, if the layer has no more.
        seed: of the random half.
    """
    size = [np.abs(o.alpha_target[0] - o.alpha_forward[0]) for o in outcomes]
    order = np.argsort(-np.max([s / (s.max() or 1.0) for s in size], axis=0), kind="stable")
    largest, others = order[: (count + 1) // 2], order[(count + 1) // 2 :]
    drawn = np.random.default_rng(seed).permutation(others)[: count - len(largest)]
    return np.sort(np.concatenate([largest, drawn]))


def recorded(simulation: Simulation, outcome: Outcome, neurons: NDArray[np.int64]) -> dict[str, Any]:
    """What a page draws of one example: all of the output, and the neurons ``neurons`` of the first hidden layer.

    Voltages have two decimals, plateaus and errors seven digits, all else four. Spikes are lists, one a bin, of
    positions; a neuron that fired twice stands there twice. :math:`\\Delta W` of a neuron is ``-η P E_j`` times the
    mean input ``psp``.
    """
    trace, c = outcome.trace, simulation.constants
    assert trace is not None  # the example was recorded
    eta = simulation.etas[0]

    def volts(values: NDArray) -> list[list[float]]:
        return _plain(np.round(values.T, 2) + 0.0)

    def exact(values: NDArray) -> list[float]:  # the page takes one plateau from the other
        return _plain(_even(values, figures=7))

    def events(counts: NDArray) -> list[list[int]]:
        return [np.repeat(np.arange(counts.shape[1]), row.astype(int)).tolist() for row in counts]

    return {
        "lengths": list(outcome.lengths),
        "constants": {
            **{name: getattr(c, name) for name in ("dt", "g_a", "E_E", "E_I", "plateau_sd")},
            "window": c.window, "eta_P": eta * c.P_hidden,
        },
        "hidden": {
            "apical": volts(trace.apical[0][:, neurons]), "basal": volts(trace.basal[0][:, neurons]),
            "soma": volts(trace.soma[0][:, neurons]), "spikes": events(trace.spikes[1][:, neurons]),
            "fired": trace.spikes[1].sum(1).astype(int).tolist(),
        },
        "output": {
            "soma": volts(trace.soma[-1]), "spikes": events(trace.spikes[-1]), "feedback": _rounded(trace.feedback.T),
        },
        "input": events(trace.spikes[0]),
        "Y": _rounded(simulation.Y[0][neurons]),
        "plateau_steps": outcome.plateau_steps[0][:, neurons].tolist(),
        "alpha_forward": exact(outcome.alpha_forward[0][neurons]),
        "alpha_target": exact(outcome.alpha_target[0][neurons]),
        "mean_soma": _rounded(outcome.soma[0][neurons]),
        "E": exact(outcome.E[0][neurons]),
        "psp": _rounded(outcome.psp[0]),
        "scores": _rounded(outcome.scores),
        "answer": int(outcome.scores.argmax()),
        "target_rate": _rounded(outcome.target_rate),
        "output_loss": _rounded(np.array([outcome.output_loss]))[0],
        "hidden_loss": _rounded(np.array([outcome.hidden_losses[0]]))[0],
    }
