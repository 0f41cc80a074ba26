"""How a rule's updates and errors lie to those of backpropagation."""

from __future__ import annotations

import torch
from torch import Tensor

from bioplaus_lite.measures.angles import angle, mean_angle
from bioplaus_lite.measures.probe import Probe, true_gradients
from bioplaus_lite.rules import LearningRule

__all__ = ["error_angles", "same_spikes_angles", "update_angles"]


def update_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    """``{l: ∠(ΔW_l, -∂L/∂W_l)}``: below 90 degrees a small enough step lowers the loss."""
    return update_angles_of(Probe(rule, x, y))


def update_angles_of(probe: Probe) -> dict[int, float]:
    """See :func:`update_angles`."""
    true = true_gradients(probe.rule, probe.x, probe.y)
    return {layer: angle(own, true[layer]) for layer, own in probe.gradients.items()}


def error_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    """``{l: mean over examples of ∠(δ_l, δ_l of backprop)}``; examples without any error are left out.

    For the layers of which the rule can say what their errors are.
    """
    probe = Probe(rule, x, y)
    return {layer: mean_angle(own, probe.backprop_errors[layer]) for layer, own in sorted(probe.errors.items())}


@torch.no_grad()
def same_spikes_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    r"""``{l: mean over examples of the angle}`` between ``E_l`` and what backprop would make of the same spikes.

    .. math:: \delta_L = E_L, \qquad
              \delta_l = \bigl(W_{l+1}^\top \delta_{l+1}\bigr) \odot \sigma'(\overline V{}_l^f), \quad l < L

    Both start from one and the same noisy output error, so that this is the angle of the feedback path alone;
    :func:`error_angles` compares with the noise-free gradient. In the rate limit they agree.

    Args:
        rule: segregated compartments with at least one hidden layer.
        x: ``(N, n_0)`` in [0, 1].
        y: ``(N,)``, int64 labels.

    Raises:
        TypeError: the rule has no spikes to show.

    Source: Guerguiev, Lillicrap & Richards (2017), the comparison with explicit backpropagation.
    """
    if (traces := getattr(rule, "traces", None)) is None:
        raise TypeError(f"only segregated compartments have spikes to compare with, not a {type(rule).__name__}")
    result, angles = traces(x, y), {}
    delta = torch.as_tensor(result.E[-1], dtype=x.dtype)
    for layer in range(rule.network.depth - 1, 0, -1):
        share = torch.sigmoid(torch.as_tensor(result.soma[layer - 1], dtype=x.dtype))
        delta = (delta @ rule.network.weight(layer + 1)) * share * (1 - share)
        angles[layer] = mean_angle(torch.as_tensor(result.E[layer - 1], dtype=x.dtype), delta)
    return angles
