"""Questions by name, which a training puts on record.

A :func:`measure` takes a :class:`~bioplaus_lite.measures.probe.Probe`, a rule and a fixed batch, and answers with a
number for each layer, or with ``None`` for all if the rule has no such signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from bioplaus_lite.measures.angles import angle, mean_angle, participation_ratio
from bioplaus_lite.measures.changes import relative_changes, signal_to_noise
from bioplaus_lite.measures.errors import same_spikes_angles, update_angles_of
from bioplaus_lite.measures.feedback import path_feedback
from bioplaus_lite.measures.inverses import gauss_newton_angles, inverse_angles_of, target_steps
from bioplaus_lite.measures.probe import Probe, activities_of, hidden_layers_of, layers_of

__all__ = ["MEASURES", "Measure", "measure"]

Answer = Mapping[int, float | None]
_Asks = TypeVar("_Asks", bound=Callable[[Probe], Answer])


@dataclass(frozen=True)
class Measure:
    """A question by name.

    Attributes:
        name: under which it is recorded, with the layer: ``update_angle_2``.
        ask: the question; layers that are not in the answer have none.
        unit: of the answer.
        version: changes when the same rule would answer otherwise.
        always: whether every training records it; the others are named in its settings.
    """

    name: str
    ask: Callable[[Probe], Answer]
    unit: str
    version: int = 1
    always: bool = True

    def __call__(self, probe: Probe) -> dict[str, float | None]:
        """``{name_l: answer}``."""
        return {f"{self.name}_{layer}": value for layer, value in self.ask(probe).items()}


#: The measures by name.
MEASURES: dict[str, Measure] = {}


def measure(name: str, *, unit: str, version: int = 1, always: bool = False) -> Callable[[_Asks], _Asks]:
    """Give a question a name under which trainings record it: a decorator of ``ask(probe) -> {layer: value}``.

    Raises:
        ValueError: the name is taken.
    """

    def put(ask: _Asks) -> _Asks:
        taken = MEASURES.get(name)
        if taken and (taken.ask.__module__, taken.ask.__qualname__) != (ask.__module__, ask.__qualname__):
            raise ValueError(f"the measure {name!r} is taken by {taken.ask.__module__}.{taken.ask.__qualname__}")
        MEASURES[name] = Measure(name, ask, unit, version, always)
        return ask

    return put


@measure("update_angle", unit="degrees", always=True)
def _update_angle(probe: Probe) -> Answer:
    return update_angles_of(probe)


@measure("snr", unit="ratio", always=True)
def _snr(probe: Probe) -> Answer:
    return signal_to_noise(probe.part_gradients)


@measure("gradient_noise", unit="ratio", always=True)
def _gradient_noise(probe: Probe) -> Answer:
    return relative_changes(probe.part_gradients)


@measure("error_angle", unit="degrees", always=True)
def _error_angle(probe: Probe) -> Answer:
    """Below the output, where a rule has a choice; ``None`` if it cannot say what its errors are."""
    own, true = probe.errors, probe.backprop_errors
    return {l: mean_angle(own[l], true[l]) if l in own else None for l in hidden_layers_of(probe.rule)}


@measure("inverse_angle", unit="degrees", always=True)
def _inverse_angle(probe: Probe) -> Answer:
    return inverse_angles_of(probe)


@measure("weight_size", unit="norm")
def _weight_size(probe: Probe) -> Answer:
    """Frobenius norm of the weights themselves."""
    return {layer: probe.rule.network.weight(layer).detach().norm().item() for layer in layers_of(probe.rule)}


@measure("feedback_angle", unit="degrees")
def _feedback_angle(probe: Probe) -> Answer:
    """Between the forward weights and the feedback that answers them, layers 2 … L; ``None`` of what sends nothing."""
    rule, angles = probe.rule, {}
    for layer in range(2, rule.network.depth + 1):
        try:
            w, b = path_feedback(rule, layer)
        except NotImplementedError:
            return dict.fromkeys(range(2, rule.network.depth + 1))
        angles[layer] = angle(w, b.transpose(0, 1)) if w.shape == b.transpose(0, 1).shape else None
    return angles


@measure("dimension", unit="directions")
def _dimension(probe: Probe) -> Answer:
    """In how many directions the activities of each hidden layer vary: see :func:`participation_ratio`."""
    h = activities_of(probe.rule, probe.x)
    return {layer: participation_ratio(h[layer].flatten(1)) for layer in hidden_layers_of(probe.rule)}


@measure("saturated", unit="share")
def _saturated(probe: Probe) -> Answer:
    """Share of the activities of each hidden layer at which the slope is below a tenth of the largest there."""
    h = activities_of(probe.rule, probe.x)
    slopes = {layer: probe.rule.network.slope(layer, h[layer]) for layer in hidden_layers_of(probe.rule)}
    return {layer: (s < 0.1 * s.max()).double().mean().item() for layer, s in slopes.items()}


@measure("target_step", unit="ratio")
def _target_step(probe: Probe) -> Answer:
    """See :func:`target_steps`."""
    if "target" not in probe.rule.signals(*probe.few):
        return dict.fromkeys(hidden_layers_of(probe.rule))
    return target_steps(probe.rule, *probe.few)


@measure("gauss_newton_angle", unit="degrees")
def _gauss_newton_angle(probe: Probe) -> Answer:
    """See :func:`gauss_newton_angles`; with a damping of 0.01, on the first twenty examples."""
    first = tuple(part[:20] for part in probe.few)
    if "target" not in probe.rule.signals(*first):
        return dict.fromkeys(hidden_layers_of(probe.rule))
    return gauss_newton_angles(probe.rule, *first, damping=0.01)


@measure("missed", unit="share")
def _missed(probe: Probe) -> Answer:
    """What each inverse misses of the activity below, squared, as a share of its variance."""
    if (reconstruction := getattr(probe.rule, "reconstruction", None)) is None:
        return dict.fromkeys(range(2, probe.rule.network.depth + 1))
    h = activities_of(probe.rule, probe.x)
    lost = reconstruction(probe.x, noise=0)
    spread = {layer: (h[layer - 1] - h[layer - 1].mean(0)).square().sum(1).mean().item() for layer in lost}
    return {layer: miss / spread[layer] if spread[layer] else None for layer, miss in lost.items()}


@measure("same_spikes_angle", unit="degrees")
def _same_spikes_angle(probe: Probe) -> Answer:
    """See :func:`same_spikes_angles`."""
    if not hasattr(probe.rule, "traces"):
        return dict.fromkeys(hidden_layers_of(probe.rule))
    return same_spikes_angles(probe.rule, *probe.few)


@measure("jacobian_condition", unit="eigenvalue")
def _jacobian_condition(probe: Probe) -> Answer:
    """Of segregated compartments, for the last hidden layer, from the rate limit's scores; below 1 the theory holds."""
    if (condition := getattr(probe.rule, "jacobian_condition", None)) is None:
        return dict.fromkeys(hidden_layers_of(probe.rule))
    top = probe.rule.network.depth - 1
    with probe.rule.as_it_is(), torch.no_grad():
        return {top: condition(probe.rule(probe.few[0]))} if top else {}
