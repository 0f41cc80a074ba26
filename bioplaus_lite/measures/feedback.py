"""How the weights that carry signals down lie to the forward weights that they answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.measures.angles import angle, mean_angle
from bioplaus_lite.rules import LearningRule

__all__ = ["feedback_product", "path_feedback", "pseudo_inverse_angle", "weight_angles"]


def path_feedback(rule: LearningRule, layer: int) -> tuple[Tensor, Tensor]:
    """The forward path and the feedback that answers it, both dense: ``(W, B)`` with ``B`` shaped as ``Wᵀ``.

    For most rules ``W_l`` and ``B_l``, between layers ``l-1`` and ``l`` (2 … L). For direct feedback the path
    ``W_L ⋯ W_{l}`` from hidden layer ``l-1`` to the output, and the ``B`` that reaches that layer.

    Raises:
        ValueError: ``layer`` is not in 2 … L.
        NotImplementedError: the rule sends nothing down.
    """
    layer = checks.whole("layer", layer, 2, rule.network.depth)
    return rule.forward_path(layer), rule.feedback(layer).detach()


def weight_angles(rule: LearningRule) -> dict[int, float]:
    """``{l: ∠(W_l, B_lᵀ)}`` for the layers 2 … L that have feedback; direct feedback: against ``W_L ⋯ W_l``."""
    pairs = {layer: path_feedback(rule, layer) for layer in range(2, rule.network.depth + 1)}
    return {layer: angle(w, b.transpose(0, 1)) for layer, (w, b) in pairs.items()}


def feedback_product(rule: LearningRule, x: Tensor, y: Tensor, layer: int | None = None) -> Tensor:
    r"""Cosine form of :math:`e^\top W B e` for each example, shape ``(batch,)``.

    .. math:: \frac{e^\top W B\, e}{\|W^\top e\|\,\|B e\|}

    Positive means that the feedback lies within 90 degrees of what backprop would send down. ``e`` is the
    error ``δ_l`` of ``layer`` (by default the output). Dense layers only.

    Source: Lillicrap et al. (2016), the condition after eq. 3.
    """
    layer = rule.network.depth if layer is None else layer
    w, b = path_feedback(rule, layer)
    e = rule.errors(x, y)[rule.sender(layer)]
    return F.cosine_similarity(e @ w, e @ b.T, dim=1)


def pseudo_inverse_angle(rule: LearningRule, x: Tensor, y: Tensor, layer: int | None = None) -> float:
    r"""Mean over examples of :math:`\angle(B e,\, W^+ e)`, ``W⁺`` the Moore–Penrose inverse of the path.

    ``Wᵀe`` is the direction in hidden space that lowers the loss fastest; ``W⁺e`` is the smallest change of
    the hidden activity that would cancel ``e``, a Gauss–Newton step. Dense layers only.

    Source: Lillicrap et al. (2016), "pseudobackprop".
    """
    layer = rule.network.depth if layer is None else layer
    w, b = path_feedback(rule, layer)
    e = rule.errors(x, y)[rule.sender(layer)]
    return mean_angle(e @ b.T, e @ torch.linalg.pinv(w).T)
