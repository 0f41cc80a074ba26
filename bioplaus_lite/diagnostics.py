"""How well a rule assigns credit: angles, norms and Jacobian criteria of any rule, written once.

Angles are in degrees: 0 is parallel, 90 carries no information, 180 is opposite. Backpropagation by autograd
is the reference. Every function leaves the rule's gradients, mode and weights as it found them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from bioplaus_lite.rules import DirectFeedbackAlignment, LayeredRule, LearningRule, SegregatedCompartments
from bioplaus_lite.training import frozen

__all__ = [
    "Dynamics",
    "angle",
    "angles_by_row",
    "backprop_errors",
    "error_angles",
    "feedback_product",
    "gradients",
    "path_feedback",
    "pseudo_inverse_angle",
    "same_spikes_angles",
    "true_gradients",
    "update_angles",
    "update_snr",
    "weight_angles",
]


def angle(u: Tensor, v: Tensor) -> float:
    r"""Angle between two tensors of one shape, as flat vectors, in degrees.

    Computed as :math:`2\,\mathrm{atan2}(\|\hat u - \hat v\|, \|\hat u + \hat v\|)` in float64, which is exact
    where the arc cosine loses half its digits, near 0 and 180 degrees. A zero vector gives ``nan``.

    Raises:
        ValueError: the shapes differ.
    """
    if u.shape != v.shape:
        raise ValueError(f"angle needs two tensors of one shape, not {tuple(u.shape)} and {tuple(v.shape)}")
    return angles_by_row(u.reshape(1, -1), v.reshape(1, -1)).item()


def angles_by_row(u: Tensor, v: Tensor) -> Tensor:
    """Angles between the rows of ``u`` and ``v``, each ``(rows, …)``, in degrees, shape ``(rows,)``."""
    if u.shape != v.shape:
        raise ValueError(f"angles need two tensors of one shape, not {tuple(u.shape)} and {tuple(v.shape)}")
    u, v = u.detach().flatten(1).double(), v.detach().flatten(1).double()
    u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)  # zero rows become nan on purpose
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1)))


def gradients(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: pseudo-gradient of W_l}`` that the rule assigns to this batch."""
    with frozen(rule):
        rule.assign_gradients(x, y)
        return {layer: rule.network.weight(layer).grad for layer in _layers(rule)}


def true_gradients(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: ∂L/∂W_l}`` of the rule's objective, the mean cross-entropy unless it has another, by autograd."""
    weights = [rule.network.weight(layer) for layer in _layers(rule)]
    learned = [w.requires_grad for w in weights]  # a layer held fixed has a gradient all the same
    with frozen(rule), torch.enable_grad():
        try:
            for w in weights:
                w.requires_grad_(True)
            loss = rule.objective(rule(x), y)
            return dict(zip(_layers(rule), torch.autograd.grad(loss, weights), strict=True))
        finally:
            for w, flag in zip(weights, learned, strict=True):
                w.requires_grad_(flag)


def update_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    """``{l: ∠(ΔW_l, -∂L/∂W_l)}``: below 90 degrees a small enough step lowers the loss."""
    assigned, true = gradients(rule, x, y), true_gradients(rule, x, y)
    return {layer: angle(assigned[layer], true[layer]) for layer in true}


def backprop_errors(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: δ_l = ∂L/∂a_l}`` by autograd, shapes as the activities."""
    network = rule.network
    with frozen(rule), torch.enable_grad():
        currents, h = [], x
        for layer in _layers(rule):
            currents.append(network.current(layer, h).requires_grad_())
            h = network.sigma(currents[-1]) if layer < network.depth else currents[-1]
        loss = rule.objective(h, y)
        return dict(zip(_layers(rule), torch.autograd.grad(loss, currents), strict=True))


def error_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    """``{l: mean over examples of ∠(δ_l, δ_l of backprop)}``; examples without any error are left out.

    For rules that can say what their errors are: layered rules and segregated compartments.
    """
    own, true = rule.errors(x, y), backprop_errors(rule, x, y)
    return {layer: angles_by_row(own[layer], true[layer]).nanmean().item() for layer in true}


@torch.no_grad()
def same_spikes_angles(rule: SegregatedCompartments, x: Tensor, y: Tensor) -> dict[int, float]:
    r"""``{l: mean over examples of the angle}`` between ``E_l`` and what backprop would make of the same spikes.

    .. math:: \delta_L = E_L, \qquad
              \delta_l = \bigl(W_{l+1}^\top \delta_{l+1}\bigr) \odot \sigma'(\overline V{}_l^f), \quad l < L

    Both start from one and the same noisy output error, so that this is the angle of the feedback path alone;
    :func:`error_angles` compares with the noise-free gradient. In the rate limit they agree.

    Args:
        rule: with at least one hidden layer.
        x: ``(N, n_0)`` in [0, 1].
        y: ``(N,)``, int64 labels.

    Source: Guerguiev, Lillicrap & Richards (2017), the comparison with explicit backpropagation.
    """
    result, angles = rule.traces(x, y), {}
    delta = torch.as_tensor(result.E[-1], dtype=x.dtype)
    for layer in range(rule.network.depth - 1, 0, -1):
        share = torch.sigmoid(torch.as_tensor(result.soma[layer - 1], dtype=x.dtype))
        delta = (delta @ rule.network.weight(layer + 1)) * share * (1 - share)
        angles[layer] = angles_by_row(torch.as_tensor(result.E[layer - 1], dtype=x.dtype), delta).nanmean().item()
    return angles


def path_feedback(rule: LayeredRule, layer: int) -> tuple[Tensor, Tensor]:
    """The forward path and the feedback that answers it, both dense: ``(W, B)`` with ``B`` shaped as ``Wᵀ``.

    For a layered rule ``W_l`` and ``B_l``, between layers ``l-1`` and ``l`` (2 … L). For direct feedback the path
    ``W_L ⋯ W_{l}`` from hidden layer ``l-1`` to the output, and the ``B`` that reaches that layer.

    Raises:
        ValueError: ``layer`` is not in 2 … L.
    """
    if not 2 <= layer <= rule.network.depth:
        raise ValueError(f"feedback weights exist for layers 2 … {rule.network.depth}, not {layer!r}")
    weight = rule.network.weight(layer).detach()
    if isinstance(rule, DirectFeedbackAlignment):
        for above in range(layer + 1, rule.network.depth + 1):
            weight = rule.network.weight(above).detach() @ weight
        return weight, rule.direct_feedback(layer - 1)
    return weight, rule.feedback(layer).detach()


def weight_angles(rule: LayeredRule) -> dict[int, float]:
    """``{l: ∠(W_l, B_lᵀ)}`` for the layers 2 … L that have feedback; direct feedback: against ``W_L ⋯ W_l``."""
    pairs = {layer: path_feedback(rule, layer) for layer in range(2, rule.network.depth + 1)}
    return {layer: angle(w, b.transpose(0, 1)) for layer, (w, b) in pairs.items()}


def _top_errors(rule: LayeredRule, x: Tensor, y: Tensor, layer: int) -> Tensor:
    errors = rule.errors(x, y)
    return errors[rule.network.depth if isinstance(rule, DirectFeedbackAlignment) else layer]


def feedback_product(rule: LayeredRule, x: Tensor, y: Tensor, layer: int | None = None) -> Tensor:
    r"""Cosine form of :math:`e^\top W B e` for each example, shape ``(batch,)``.

    .. math:: \frac{e^\top W B\, e}{\|W^\top e\|\,\|B e\|}

    Positive means that the feedback lies within 90 degrees of what backprop would send down. ``e`` is the
    error ``δ_l`` of ``layer`` (by default the output). Dense layers only.

    Source: Lillicrap et al. (2016), the condition after eq. 3.
    """
    layer = rule.network.depth if layer is None else layer
    w, b = path_feedback(rule, layer)
    e = _top_errors(rule, x, y, layer)
    return F.cosine_similarity(e @ w, e @ b.T, dim=1)


def pseudo_inverse_angle(rule: LayeredRule, x: Tensor, y: Tensor, layer: int | None = None) -> float:
    r"""Mean over examples of :math:`\angle(B e,\, W^+ e)`, ``W⁺`` the Moore–Penrose inverse of the path.

    ``Wᵀe`` is the direction in hidden space that lowers the loss fastest; ``W⁺e`` is the smallest change of
    the hidden activity that would cancel ``e``, a Gauss–Newton step. Dense layers only.

    Source: Lillicrap et al. (2016), "pseudobackprop".
    """
    layer = rule.network.depth if layer is None else layer
    w, b = path_feedback(rule, layer)
    e = _top_errors(rule, x, y, layer)
    return angles_by_row(e @ b.T, e @ torch.linalg.pinv(w).T).nanmean().item()


def update_snr(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[int, float]:
    """``{l: ‖mean over batches of ∇W_l‖ / root of the summed variance}``: signal to noise of the update.

    Raises:
        ValueError: fewer than two batches.
    """
    drawn = [gradients(rule, x, y) for x, y in batches]
    if len(drawn) < 2:
        raise ValueError(f"a spread needs at least 2 batches, got {len(drawn)}")
    snr = {}
    for layer in drawn[0]:
        stack = torch.stack([g[layer] for g in drawn])
        snr[layer] = (stack.mean(0).norm() / stack.var(0).sum().sqrt()).item()
    return snr


class Dynamics:
    r"""Norms of weights, updates and gradients since the last call, relative to what they change.

    Each call ``dynamics(rule, x, y)`` returns, for every layer ``l``,

    - ``weight_norm_l``: :math:`\|W_t\|_F / \|W_0\|_F`, the growth since this object was made,
    - ``update_norm_l``: :math:`\|W_t - W_{t'}\|_F / \|W_t\|_F`, ``t'`` the last call,
    - ``gradient_change_l``: :math:`\|\nabla_t - \nabla_{t'}\|_F / \|\nabla_{t'}\|_F`. Two independent noisy
      gradients of equal size give √2: that is the floor of this measure, not a sign of curvature.

    The first call has no last one: it returns ``weight_norm_l`` alone.
    """

    def __init__(self, rule: LearningRule) -> None:
        self._start = {layer: rule.network.weight(layer).detach().norm() for layer in _layers(rule)}
        self._weights: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}

    def __call__(self, rule: LearningRule, x: Tensor, y: Tensor) -> dict[str, float]:
        out, now = {}, gradients(rule, x, y)
        for layer in _layers(rule):
            w = rule.network.weight(layer).detach().clone()
            out[f"weight_norm_{layer}"] = (w.norm() / self._start[layer]).item()
            if layer in self._weights:
                out[f"update_norm_{layer}"] = ((w - self._weights[layer]).norm() / w.norm()).item()
                before = self._gradients[layer]
                out[f"gradient_change_{layer}"] = ((now[layer] - before).norm() / before.norm()).item()
            self._weights[layer] = w
        self._gradients = now
        return out


def _layers(rule: LearningRule) -> range:
    return range(1, rule.network.depth + 1)
