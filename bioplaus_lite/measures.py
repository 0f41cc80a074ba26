"""How well a rule assigns credit: named questions to any rule, written once.

Angles are in degrees: 0 is parallel, 90 carries no information, 180 is opposite. Backpropagation by autograd
is the reference. Every function leaves the rule's gradients, mode and weights as it found them.

A :func:`measure` is a question with a name and a version, which a training puts on record: it takes a :class:`Probe`,
a rule and a fixed batch, and answers with a number for each layer, or with ``None`` for all if the rule has no such
signal. A probe works out what several questions need once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.rules import LearningRule

if TYPE_CHECKING:
    from bioplaus_lite.rules.target_propagation import TargetRule

__all__ = [
    "MEASURES",
    "Dynamics",
    "Measure",
    "Probe",
    "angle",
    "angles_by_row",
    "backprop_errors",
    "error_angles",
    "feedback_product",
    "gauss_newton_angles",
    "gradient_noise",
    "gradients",
    "inverse_jacobian_angles",
    "measure",
    "participation_ratio",
    "path_feedback",
    "pseudo_inverse_angle",
    "same_spikes_angles",
    "target_steps",
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
    """``{l: pseudo-gradient of W_l}`` that the rule assigns to this batch, of held layers too."""
    found = rule.gradients(x, y)
    return {layer: found[f"W{layer}"] for layer in _layers(rule) if f"W{layer}" in found}


def true_gradients(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: ∂L/∂W_l}`` of the rule's objective, the mean cross-entropy unless it has another, by autograd."""
    weights = [rule.network.weight(layer) for layer in _layers(rule)]
    learned = [w.requires_grad for w in weights]  # a layer held fixed has a gradient all the same
    with rule.as_it_is(), torch.enable_grad():
        try:
            for w in weights:
                w.requires_grad_(True)
            loss = rule.objective(rule(x), y)
            return dict(zip(_layers(rule), torch.autograd.grad(loss, weights), strict=True))
        finally:
            for w, flag in zip(weights, learned, strict=True):
                w.requires_grad_(flag)


def backprop_errors(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    """``{l: δ_l = ∂L/∂a_l}`` by autograd, shapes as the activities."""
    with rule.as_it_is(), torch.enable_grad():
        currents: list[Tensor] = []
        loss = rule.objective(rule.network.activities(x, currents)[-1], y)
        return dict(zip(_layers(rule), torch.autograd.grad(loss, currents), strict=True))


# ----------------------------------------------------------------------------------------------------- named measures


class Probe:
    """A rule and a batch to ask it about; what several measures need is worked out once.

    Args:
        rule: as it is now.
        x: ``(batch, n_0)``.
        y: ``(batch,)``, int64 labels.
        parts: number of equal parts for what varies from batch to batch.
        few: number of examples, the first ones, for what is worked out example by example; all unless given.

    Raises:
        ValueError: there are fewer examples than two for each part.
    """

    def __init__(
        self, rule: LearningRule, x: Tensor, y: Tensor, *, parts: int = 10, few: int | None = None
    ) -> None:
        self.rule, self.x, self.y = rule, *checks.labelled((x, y), "probe")
        self.few = (x[:few], y[:few])
        self._parts = checks.whole("parts", parts, 2)

    @cached_property
    def gradients(self) -> dict[int, Tensor]:
        """See :func:`gradients`."""
        return gradients(self.rule, self.x, self.y)

    @cached_property
    def part_gradients(self) -> list[dict[int, Tensor]]:
        """The gradients of each part."""
        if len(self.x) < 2 * self._parts:
            raise ValueError(f"{self._parts} parts need at least {2 * self._parts} examples, not {len(self.x)}")
        parts = zip(self.x.tensor_split(self._parts), self.y.tensor_split(self._parts), strict=True)
        return [gradients(self.rule, x, y) for x, y in parts]

    @cached_property
    def errors(self) -> dict[int, Tensor]:
        """The rule's errors of the few examples."""
        return self.rule.errors(*self.few)

    @cached_property
    def backprop_errors(self) -> dict[int, Tensor]:
        """Those of backpropagation."""
        return backprop_errors(self.rule, *self.few)


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
def _update_angle(probe: Probe) -> dict[int, float]:
    true = true_gradients(probe.rule, probe.x, probe.y)
    return {layer: angle(own, true[layer]) for layer, own in probe.gradients.items()}


@measure("snr", unit="ratio", always=True)
def _snr(probe: Probe) -> Answer:
    return _signal_to_noise(probe.part_gradients)


@measure("gradient_noise", unit="ratio", always=True)
def _gradient_noise(probe: Probe) -> Answer:
    return _changes(probe.part_gradients)


@measure("error_angle", unit="degrees", always=True)
def _error_angle(probe: Probe) -> Answer:
    """Below the output, where a rule has a choice; ``None`` if it cannot say what its errors are."""
    own, true = probe.errors, probe.backprop_errors
    return {l: _mean_angle(own[l], true[l]) if l in own else None for l in _hidden(probe)}


@measure("inverse_angle", unit="degrees", always=True)
def _inverse_angle(probe: Probe) -> Answer:
    return _inverse_angles(probe)


def _hidden(probe: Probe) -> range:
    return range(1, probe.rule.network.depth)


@measure("weight_size", unit="norm")
def _weight_size(probe: Probe) -> Answer:
    """Frobenius norm of the weights themselves."""
    return {layer: probe.rule.network.weight(layer).detach().norm().item() for layer in _layers(probe.rule)}


@measure("feedback_angle", unit="degrees")
def _feedback_angle(probe: Probe) -> Answer:
    """Between the forward weights and the feedback that answers them, layers 2 … L; ``None`` of what sends nothing."""
    rule, found = probe.rule, {}
    for layer in range(2, rule.network.depth + 1):
        try:
            w, b = path_feedback(rule, layer)
        except NotImplementedError:
            return dict.fromkeys(range(2, rule.network.depth + 1))
        found[layer] = angle(w, b.transpose(0, 1)) if w.shape == b.transpose(0, 1).shape else None
    return found


@measure("dimension", unit="directions")
def _dimension(probe: Probe) -> Answer:
    """In how many directions the activities of each hidden layer vary: see :func:`participation_ratio`."""
    h = _activities(probe.rule, probe.x)
    return {layer: participation_ratio(h[layer].flatten(1)) for layer in _hidden(probe)}


@measure("saturated", unit="share")
def _saturated(probe: Probe) -> Answer:
    """Share of the activities of each hidden layer at which the slope is below a tenth of the largest there."""
    h = _activities(probe.rule, probe.x)
    slopes = {layer: probe.rule.network.slope(layer, h[layer]) for layer in _hidden(probe)}
    return {layer: (s < 0.1 * s.max()).double().mean().item() for layer, s in slopes.items()}


@measure("target_step", unit="ratio")
def _target_step(probe: Probe) -> Answer:
    """See :func:`target_steps`."""
    known = "target" in probe.rule.signals(*probe.few)
    return target_steps(probe.rule, *probe.few) if known else dict.fromkeys(_hidden(probe))


@measure("gauss_newton_angle", unit="degrees")
def _gauss_newton_angle(probe: Probe) -> Answer:
    """See :func:`gauss_newton_angles`; with a damping of 0.01, on the first twenty examples."""
    first = tuple(part[:20] for part in probe.few)
    known = "target" in probe.rule.signals(*first)
    return gauss_newton_angles(probe.rule, *first, damping=0.01) if known else dict.fromkeys(_hidden(probe))


@measure("missed", unit="share")
def _missed(probe: Probe) -> Answer:
    """What each inverse misses of the activity below, squared, as a share of its variance."""
    if (reconstruction := getattr(probe.rule, "reconstruction", None)) is None:
        return dict.fromkeys(range(2, probe.rule.network.depth + 1))
    h = _activities(probe.rule, probe.x)
    lost = reconstruction(probe.x, noise=0)
    spread = {layer: (h[layer - 1] - h[layer - 1].mean(0)).square().sum(1).mean().item() for layer in lost}
    return {layer: miss / spread[layer] if spread[layer] else None for layer, miss in lost.items()}


@measure("same_spikes_angle", unit="degrees")
def _same_spikes_angle(probe: Probe) -> Answer:
    """See :func:`same_spikes_angles`."""
    known = hasattr(probe.rule, "traces")
    return same_spikes_angles(probe.rule, *probe.few) if known else dict.fromkeys(_hidden(probe))


@measure("jacobian_condition", unit="eigenvalue")
def _jacobian_condition(probe: Probe) -> Answer:
    """Of segregated compartments, for the last hidden layer, from the rate limit's scores; below 1 the theory holds."""
    if (condition := getattr(probe.rule, "jacobian_condition", None)) is None:
        return dict.fromkeys(_hidden(probe))
    top = probe.rule.network.depth - 1
    with probe.rule.as_it_is(), torch.no_grad():
        return {top: condition(probe.rule(probe.few[0]))} if top else {}


def _mean_angle(u: Tensor, v: Tensor) -> float:
    return angles_by_row(u, v).nanmean().item()


def update_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    """``{l: ∠(ΔW_l, -∂L/∂W_l)}``: below 90 degrees a small enough step lowers the loss."""
    return dict(_update_angle(Probe(rule, x, y)))


def error_angles(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    """``{l: mean over examples of ∠(δ_l, δ_l of backprop)}``; examples without any error are left out.

    For the layers of which the rule can say what their errors are.
    """
    probe = Probe(rule, x, y)
    return {layer: _mean_angle(own, probe.backprop_errors[layer]) for layer, own in sorted(probe.errors.items())}


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
        angles[layer] = _mean_angle(torch.as_tensor(result.E[layer - 1], dtype=x.dtype), delta)
    return angles


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
    return _mean_angle(e @ b.T, e @ torch.linalg.pinv(w).T)


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
    targets = _targets(rule, x, y)
    network, activities, top = rule.network, _activities(rule, x), rule.network.depth - 1
    steps = {layer: (targets[layer] - activities[layer]).double() for layer in targets}
    e, jacobian = cast("TargetRule", rule).first_step(activities, y, steps[top])
    angles = {}
    for layer in range(top, 0, -1):
        if layer < top:
            slope = network.slope(layer + 1, activities[layer + 1]).double()
            jacobian = (jacobian * slope.unsqueeze(1)) @ network.weight(layer + 1).double()
        angles[layer] = _mean_angle(steps[layer], _solve(jacobian, e, damping))
    return dict(sorted(angles.items()))


@torch.no_grad()
def _activities(rule: LearningRule, x: Tensor) -> list[Tensor]:
    """``[h_0, …, h_L]`` as the rule sees them, which may not be what a plain pass would give."""
    with rule.as_it_is():
        rule.network.check_input(x)
        return rule.observe(x).h


def _targets(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, Tensor]:
    signals = rule.signals(x, y)
    if "target" not in signals:
        raise TypeError(f"only a target rule sends targets, not a {type(rule).__name__}")
    return signals["target"]


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
    return dict(_inverse_angles(Probe(rule, x, y)))


def _inverse_angles(probe: Probe) -> Answer:
    rule, network = probe.rule, probe.rule.network
    top_error = probe.backprop_errors[network.depth].double()
    activities = _activities(rule, probe.few[0])
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
        angles[layer] = _mean_angle(probe.errors[layer].flatten(1), step)
    return angles


def _solve(jacobian: Tensor, e: Tensor, damping: float) -> Tensor:
    """``(JᵀJ + γs₁²I)⁻¹Jᵀe`` for each example, ``J⁺e`` without damping."""
    u, s, vt = torch.linalg.svd(jacobian, full_matrices=False)
    if damping:
        gain = s / (s.square() + damping * s[:, :1].square())
    else:
        gain = torch.where(s > s[:, :1] * max(jacobian.shape[1:]) * torch.finfo(s.dtype).eps, 1 / s, 0.0)
    return ((e.unsqueeze(1) @ u) * gain.unsqueeze(1) @ vt).squeeze(1)


@torch.no_grad()
def target_steps(rule: LearningRule, x: Tensor, y: Tensor) -> dict[int, float]:
    r"""``{l: mean over examples of}`` :math:`\lVert \hat h_l - h_l \rVert / \lVert h_l \rVert`, how far targets lie."""
    targets, activities = _targets(rule, x, y), _activities(rule, x)
    return {
        layer: ((targets[layer] - activities[layer]).norm(dim=1) / activities[layer].norm(dim=1)).nanmean().item()
        for layer in sorted(targets)
    }


def participation_ratio(rows: Tensor) -> float:
    r"""In how many directions the rows of a matrix vary, between 1 and their length.

    .. math:: \frac{(\operatorname{tr} C)^2}{\operatorname{tr} C^2} = \frac{(\sum_i \lambda_i)^2}{\sum_i \lambda_i^2}

    with ``C`` the covariance of the rows and ``λ_i`` its eigenvalues: ``n`` for noise that is equal in ``n``
    directions, 1 for points on a line. Rows that are all alike give ``nan``.

    Args:
        rows: ``(N, n)``.
    """
    centred = (rows - rows.mean(0)).detach().double()
    covariance = centred.T @ centred
    return (covariance.trace().square() / covariance.square().sum()).item()


def update_snr(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[int, float]:
    """``{l: ‖mean over batches of ∇W_l‖ / root of the summed variance}``: signal to noise of the update.

    Raises:
        ValueError: fewer than two batches.
    """
    return dict(_signal_to_noise(_drawn(rule, batches)))


def _signal_to_noise(drawn: list[dict[int, Tensor]]) -> dict[int, float]:
    snr = {}
    for layer in drawn[0]:
        stack = torch.stack([g[layer] for g in drawn])
        snr[layer] = (stack.mean(0).norm() / stack.var(0).sum().sqrt()).item()
    return snr


def gradient_noise(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[int, float]:
    r"""How much the gradient of each layer changes from batch to batch, at the *same* weights.

    .. math:: \Bigl\langle \frac{\|\nabla_{i+1} - \nabla_i\|_F}{\|\nabla_i\|_F} \Bigr\rangle_i

    What a change of the gradient between two batches amounts to when nothing has been learned in between. For
    independent gradients of equal length that share no direction it is √2; what they share makes it smaller.

    Raises:
        ValueError: fewer than two batches.
    """
    return _changes(_drawn(rule, batches))


def _changes(drawn: list[dict[int, Tensor]]) -> dict[int, float]:
    changes = {
        layer: [((b[layer] - a[layer]).norm() / a[layer].norm()).item() for a, b in pairwise(drawn)]
        for layer in drawn[0]
    }
    return {layer: sum(values) / len(values) for layer, values in changes.items()}


def _drawn(rule: LearningRule, batches: Iterable[tuple[Tensor, Tensor]]) -> list[dict[int, Tensor]]:
    drawn = [gradients(rule, x, y) for x, y in batches]
    if len(drawn) < 2:
        raise ValueError(f"a spread needs at least 2 batches, got {len(drawn)}")
    return drawn


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
        return self.since_last(Probe(rule, x, y))

    def since_last(self, probe: Probe) -> dict[str, float]:
        """The answer for a probe, whose gradients other measures may have asked for."""
        rule, now, out = probe.rule, probe.gradients, {}
        for layer in _layers(rule):
            w = rule.network.weight(layer).detach().clone()
            out[f"weight_norm_{layer}"] = (w.norm() / self._start[layer]).item()
            if layer in self._weights:
                out[f"update_norm_{layer}"] = ((w - self._weights[layer]).norm() / w.norm()).item()
            if layer in now and layer in self._gradients:
                before = self._gradients[layer]
                out[f"gradient_change_{layer}"] = ((now[layer] - before).norm() / before.norm()).item()
            self._weights[layer] = w
        self._gradients = now
        return out


def _layers(rule: LearningRule) -> range:
    return range(1, rule.network.depth + 1)
