"""How errors and targets lie to the steps of an inverse, Gauss–Newton, in place of the steepest descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.measures.angles import mean_angle
from bioplaus_lite.measures.probe import Probe, activities_of, targets_of
from bioplaus_lite.rules import LearningRule

if TYPE_CHECKING:
    from bioplaus_lite.rules.target_propagation import TargetRule

__all__ = ["gauss_newton_angles", "inverse_jacobian_angles", "target_steps"]


@torch.no_grad()
def gauss_newton_angles(rule: LearningRule, x: Tensor, y: Tensor, *, damping: float = 0.0) -> dict[int, float]:
    r"""``{l: mean over examples of the angle}`` between ``ĥ_l - h_l`` and the Gauss–Newton step of layer ``l``.

    .. math:: \Delta h_l = J_l^+ e \qquad\text{or, damped,}\qquad
              \Delta h_l = (J_l^\top J_l + \gamma s_1^2 I)^{-1} J_l^\top e, \qquad l < L

    This is the smallest change of ``h_l`` that, to first order, makes the step ``e`` at which the rule starts: for SDTP
    and AO-SDTP ``ô - o`` at the output, for TP and DTP ``ĥ_{L-1} - h_{L-1}``. ``J_l`` is the Jacobian of ``o``, or of
    ``h_{L-1}``, by ``h_l`` for each example, and ``s_1`` its largest singular value. Examples without any step are left
    out. In float32 the steps of DTP drown in rounding if its ``alpha`` is small.

    Args:
        rule: any target rule.
        x: ``(batch, n_0)``.
        y: ``(batch,)``, int64 labels.
        damping: ``γ``, at least 0.

    Raises:
        TypeError: the rule sends no targets.
        ValueError: ``damping`` is negative, or the data do not fit the network.

    Source: Bengio (2020) and Meulemans et al. (2020) derive what ideal inverses do to a target.
    """
    damping = checks.number("damping", damping, least=0)
    targets = targets_of(rule, x, y)
    network, activities, top = rule.network, activities_of(rule, x), rule.network.depth - 1
    steps = {layer: (targets[layer] - activities[layer]).double() for layer in targets}
    e, jacobian = cast("TargetRule", rule).first_step(activities, y, steps[top])
    angles = {}
    for layer in range(top, 0, -1):
        if layer < top:
            slope = network.slope(layer + 1, activities[layer + 1]).double()
            jacobian = (jacobian * slope.unsqueeze(1)) @ network.weight(layer + 1).double()
        angles[layer] = mean_angle(steps[layer], _solve(jacobian, e, damping))
    return dict(sorted(angles.items()))


def _solve(jacobian: Tensor, e: Tensor, damping: float) -> Tensor:
    """``(JᵀJ + γs₁²I)⁻¹Jᵀe`` for each example, ``J⁺e`` without damping."""
    u, s, vt = torch.linalg.svd(jacobian, full_matrices=False)
    if damping:
        gain = s / (s.square() + damping * s[:, :1].square())
    else:
        gain = torch.where(s > s[:, :1] * max(jacobian.shape[1:]) * torch.finfo(s.dtype).eps, 1 / s, 0.0)
    return ((e.unsqueeze(1) @ u) * gain.unsqueeze(1) @ vt).squeeze(1)


def inverse_jacobian_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float | None]:
    r"""``{l: mean over examples of the angle}`` between the error ``δ_l`` of the rule and that of an inverse.

    .. math:: \delta^+_l = J_l^+\, e, \qquad J_l = \frac{\partial s}{\partial a_l}, \quad
              e = \frac{\partial \mathcal L}{\partial s}, \qquad l < L

    Backpropagation sends down :math:`J_l^\top e`, the direction in which the loss rises fastest.
    :math:`-J_l^+ e` is the smallest change of the currents ``a_l`` of a hidden layer that moves the scores ``s`` by
    ``-e``: a Gauss–Newton step. Both are defined for every rule that can say what its errors are. Singular values
    below 1e-4 of the largest count as zero. Examples without any error are left out, and a layer for which the rule has
    no error is ``None``.

    Args:
        rule: any rule with hidden layers; of one without, the answer is empty.
        x: ``(batch, n_0)``.
        y: ``(batch,)``, int64 labels.

    Source: Lillicrap et al. (2016), "pseudobackprop"; Bengio (2020) for targets. The question is the review's of 2019.
    """
    return inverse_angles_of(Probe(rule, x, y))


def inverse_angles_of(probe: Probe) -> dict[int, float | None]:
    """See :func:`inverse_jacobian_angles`."""
    rule, network = probe.rule, probe.rule.network
    top_error = probe.backprop_errors[network.depth].double()
    activities = activities_of(rule, probe.few[0])
    angles: dict[int, float | None] = {}
    for layer in range(1, network.depth):
        if layer not in probe.errors:
            angles[layer] = None
            continue
        with rule.as_it_is(), torch.enable_grad():
            current = network.current(layer, activities[layer - 1]).detach().requires_grad_()
            s = network.upward(layer, current)[-1]
            rows = [torch.autograd.grad(s[:, k].sum(), current, retain_graph=True)[0] for k in range(s.shape[1])]
        jacobian = torch.stack([row.flatten(1) for row in rows], 1).double()  # (batch, classes, n_l)
        # J⁺ = Jᵀ(JJᵀ)⁺: a decomposition of 10 × 10, not of 10 × n.
        gram = torch.linalg.pinv(jacobian @ jacobian.transpose(1, 2), rtol=1e-8, hermitian=True)
        step = ((top_error.unsqueeze(1) @ gram) @ jacobian).squeeze(1)
        angles[layer] = mean_angle(probe.errors[layer].flatten(1), step)
    return angles


@torch.no_grad()
def target_steps(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    r"""``{l: mean over examples of}`` :math:`\lVert \hat h_l - h_l \rVert / \lVert h_l \rVert`, how far targets lie."""
    targets, activities = targets_of(rule, x, y), activities_of(rule, x)
    return {
        layer: ((targets[layer] - activities[layer]).norm(dim=1) / activities[layer].norm(dim=1)).nanmean().item()
        for layer in sorted(targets)
    }
