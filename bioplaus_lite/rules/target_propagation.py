"""Target propagation and its family: layers receive *targets* for their activity, through learned inverses.

Going up, layer ``l`` computes ``h_l = f_l(h_{l-1})``. Going down, a learned inverse ``g_l`` answers the question
which ``h_{l-1}`` would have made layer ``l`` do this. A target ``ĥ_l`` for one layer thereby becomes a target for the
layer below, and each layer moves its own weights so as to come closer to its target. No error and no weight of another
layer is needed for that.

The members of the family differ in three things, and each class below says no more than that:

========  ==================================  =====================  ==========================
rule      first target                        on the way down        an inverse learns to give
========  ==================================  =====================  ==========================
TP        a gradient step at ``L - 1``        ``g(ĥ)``               ``h + ε`` from ``f(h + ε)``
DTP       a gradient step at ``L - 1``        ``h + g(ĥ) - g(h)``    ``h + ε`` from ``f(h + ε)``
SDTP      the label at ``L``                  ``h + g(ĥ) - g(h)``    ``h`` from ``f(h + ε)``
AO-SDTP   the label at ``L``, next to ``z``   ``h + g(ĥ) - g(h)``    ``h`` from ``f(h + ε)``
========  ==================================  =====================  ==========================
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioplaus_lite import checks
from bioplaus_lite.networks import INITS, MLP, Network, uniform_like
from bioplaus_lite.rules.base import LearningRule, States, Synapse, Trace
from bioplaus_lite.rules.cards import register

__all__ = [
    "AuxiliaryOutputSDTP",
    "DifferenceTargetPropagation",
    "SimplifiedDTP",
    "TargetPropagation",
    "TargetRule",
]

_tanh = partial(MLP, activation="tanh", init="glorot")


class TargetRule(LearningRule):
    r"""What all target rules share: learned inverses, local losses, and which of the two sets of weights learns.

    An inverse is one dense layer with the activation of the layer that it gives a target to,

    .. math:: g_l(h_l) = \sigma(B_l h_l + c_l), \qquad B_l : n_{l-1} \times n_l,

    so that its answers are activities that layer ``l - 1`` can have. (Where a ReLU inverse is silent for ``h`` and for
    ``ĥ`` no target moves, as no error passes a silent unit in backpropagation.) The input needs no target, so there is
    no :math:`g_1`. Hidden layers minimise a loss of their own by their own weights, the last layer the task's loss:

    .. math:: \mathcal L_l = \tfrac1B \textstyle\sum_b \lVert h_l - \hat h_l \rVert^2 \quad\Rightarrow\quad
              \delta_l = \tfrac2B\, (h_l - \hat h_l) \odot \sigma'(a_l), \qquad
              \nabla W_l = \textstyle\sum_b \delta_l h_{l-1}^\top, \quad l < L

    and the inverses minimise, by ``B_l`` and ``c_l`` alone, what they miss of a corrupted activity,
    :math:`\varepsilon \sim \mathcal N(0, s^2)`:

    .. math:: \mathcal L_l^{\text{inv}} = \tfrac1B \textstyle\sum_b \lVert g_l(f_l(h_{l-1} + \varepsilon)) - t
              \rVert^2, \qquad t = h_{l-1} + \varepsilon \text{ or, as a denoiser, } t = h_{l-1}

    Losses are summed over units (SDTP can take their mean) and averaged over the batch. Targets are constants: nothing
    is differentiated through them.

    **Parallel or alternating.** The phases are ``both`` (on every batch), ``inverse`` and ``forward``, which name the
    weights that learn. ``fit(…, turns=("inverse", "forward"))`` gives each an epoch in turn. In evaluation mode both
    are always answered.

    **Two learning rates.** Forward and inverse weights are two parameter groups of one optimiser::

        rates = {"forward": 8e-4, "feedback": 8e-4}
        fit(rule, train, optimizer=lambda groups: torch.optim.Adam([g | {"lr": rates[g["name"]]} for g in groups]))

    Args:
        network: the layers to train, an MLP with at least one hidden layer and any activation.
        noise: standard deviation :math:`s` of :math:`\varepsilon`, at least 0.
        seed: draws ``B_l`` (Glorot's range; ``c_l`` starts at zero), then the noise. Noise moves the generator in
            training mode only; in evaluation mode the next noise is looked at and not used up.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, hence nothing to give a target to, or an option is out of range.
    """

    takes = MLP
    phases = ("both", "inverse", "forward")

    #: Whether the error of the inverse itself, ``h - g(f(h))``, is added to what it sends down.
    corrects: bool = True
    #: Whether the inverses learn to give the clean activity (``True``) or the corrupted one that they were shown.
    denoises: bool = False
    #: Whether the losses of layers and inverses are means over units and not sums.
    mean_losses: bool = False
    #: Whether the inverses have biases ``c_l``.
    biased: bool = True
    #: The range of the noise, as :func:`~bioplaus_lite.checks.number` takes it.
    noises: ClassVar[dict[str, float]] = {"least": 0}

    def __init__(self, network: Network, *, noise: float, seed: int = 1) -> None:
        super().__init__(network)
        if network.depth < 2:
            raise ValueError(f"target propagation needs a hidden layer, the sizes {network.sizes} have none")
        self.noise = checks.number("noise", noise, **self.noises)
        self._generator = torch.Generator().manual_seed(checks.seed("seed", seed))
        for layer in self.inverses:
            n_below, n_above = network.sizes[layer - 1], self.response_size(layer)
            b = network.weight(layer).detach().new_empty(n_below, n_above)
            b = uniform_like(b, INITS["glorot"](n_above, n_below), self._generator)
            self.register_parameter(f"B{layer}", nn.Parameter(b))
            if self.biased:
                self.register_parameter(f"c{layer}", nn.Parameter(b.new_zeros(n_below)))

    # ---- What a member of the family chooses ----

    @property
    def inverses(self) -> range:
        """The layers that have an inverse, here 2 … L-1, as the first target is set below the output."""
        return range(2, self.network.depth)

    def first_target(self, activities: list[Tensor], output_error: Tensor) -> Tensor:
        """Target of the penultimate layer, ``ĥ_{L-1}``, shape ``(batch, n_{L-1})``.

        Args:
            activities: ``[h_0, …, h_L]``, each ``(batch, n_l)``.
            output_error: ``δ_L = ∂L/∂a_L`` of the mean loss, ``(batch, n_L)``.
        """
        raise NotImplementedError

    def first_step(self, activities: list[Tensor], y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The step at which the rule starts, and by what it is reached: what a Gauss–Newton step is worked out from.

        Args:
            activities: ``[h_0, …, h_L]``.
            y: ``(batch,)``, int64 labels.
            step: ``ĥ_{L-1} - h_{L-1}``, float64.

        Returns:
            ``e``, a row an example, and the Jacobian of what moves by ``e``, by ``h_{L-1}``, for each example; float64.
        """
        return step, torch.eye(step.shape[1], dtype=step.dtype, device=step.device).expand(len(step), -1, -1)

    # ---- Up and down ----

    def response_size(self, layer: int) -> int:
        """Number of values that the inverse of ``layer`` reads."""
        return self.network.sizes[layer]

    def respond(self, layer: int, below: Tensor) -> Tensor:
        """``f_l``: the answer of ``layer`` to activities ``below``, as its inverse reads it."""
        return self.network.activate(layer, self.network.current(layer, below))

    def feedback(self, layer: int) -> Tensor:
        """``B_l``, the weights of the inverse of ``layer``, ``(n_{l-1}, values it reads)``."""
        return self._parameters[f"B{layer}"]

    def inverse(self, layer: int, response: Tensor) -> Tensor:
        """``g_l``: the activities ``(batch, n_{l-1})`` that would have made ``layer`` respond like this."""
        return self.network.activate(layer - 1, F.linear(response, self.feedback(layer), self._parameters[f"c{layer}"]))

    def send_down(self, layer: int, below: Tensor, response: Tensor, target: Tensor) -> Tensor:
        """Target of ``layer - 1``, in the shape of its activity ``below``.

        Args:
            layer: 2 … L.
            below: ``h_{l-1}``.
            response, target: what ``layer`` does and what it should do, both as its inverse reads it.
        """
        sent = self.inverse(layer, target)
        # In this order: where response and target are equal, the target below is exactly its activity.
        return below + (sent - self.inverse(layer, response)) if self.corrects else sent

    def layer_targets(self, activities: list[Tensor], output_error: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(l, ĥ_l)`` from ``L - 1`` down to 1, from given activities and a given output error."""
        target = self.first_target(activities, output_error)
        for layer in range(self.network.depth - 1, 0, -1):
            yield layer, target
            if layer > 1:
                target = self.send_down(layer, activities[layer - 1], activities[layer], target)

    # ---- What the base asks ----

    def observe(self, x: Tensor) -> Trace:
        """Up, and up again from each corrupted activity: ``more["corrupted"]`` is ``{l: (h_{l-1} + ε, u_l)}``."""
        h = self.network.activities(x)
        return Trace(h, self._noisy(h, self.noise) if self.acts != "forward" else {"corrupted": {}})

    def _noisy(self, h: list[Tensor], noise: float) -> dict[str, Any]:
        return {"noise": noise, "corrupted": self._corrupted(h, noise)}

    def _corrupted(self, h: list[Tensor], noise: float) -> dict[int, tuple[Tensor, ...]]:
        seen: dict[int, tuple[Tensor, ...]] = {}
        for layer in self.inverses:
            below = h[layer - 1]
            if noise:
                below = self._draw(below, noise).add_(below)
            seen[layer] = below, self.respond(layer, below)
        return seen

    def _draw(self, like: Tensor, noise: float) -> Tensor:
        return torch.randn(like.shape, generator=self._generator, dtype=like.dtype).to(like.device).mul_(noise)

    def inverse_errors(self, trace: Trace) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield ``(l, u, r, r - t)`` for each inverse: ``u = f_l(h_{l-1} + ε)`` and ``r = g_l(u)``."""
        for layer, (corrupted, response) in trace.more["corrupted"].items():
            rebuilt = self.inverse(layer, response)
            yield layer, response, rebuilt, rebuilt - (trace.h[layer - 1] if self.denoises else corrupted)

    def inverse_losses(self, trace: Trace) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(l, L_l^inv)``, what each inverse minimises, a scalar."""
        for layer, _, _, miss in self.inverse_errors(trace):
            yield layer, miss.square().sum() / len(miss)

    def inverse_synapses(self, trace: Trace) -> Iterator[Synapse]:
        """Yield what meets at the weights of each inverse: the gradient of its loss."""
        for layer, response, rebuilt, miss in self.inverse_errors(trace):
            # σ' as a function of the activity serves the inverse too: it has the activation of layer l - 1.
            post = miss.mul_(self._factor(miss)).mul_(self.network.slope(layer - 1, rebuilt))
            yield Synapse(f"B{layer}", post, pre=response, bias=f"c{layer}")

    def synapses(self, trace: Trace, error: Tensor, y: Tensor) -> Iterator[Synapse]:
        network, h = self.network, trace.h
        if self.acts != "inverse":
            yield Synapse(f"W{network.depth}", post=error, pre=h[-2], bias=f"b{network.depth}")
            for layer, target in self.layer_targets(h, error):
                post = (h[layer] - target).mul_(self._factor(target)).mul_(network.slope(layer, h[layer]))
                yield Synapse(f"W{layer}", post, pre=h[layer - 1], bias=f"b{layer}")
        yield from self.inverse_synapses(trace)

    def _factor(self, miss: Tensor) -> float:
        """Of a squared loss's gradient, for what a layer or an inverse misses, ``(batch, n)``."""
        return 2 / (miss.numel() if self.mean_losses else len(miss))

    # ---- What callers ask ----

    @torch.no_grad()
    def signals(self, x: Tensor, y: Tensor) -> dict[str, dict[int, Tensor]]:
        """``error`` of every layer, and ``target``, ``ĥ_l``, of the hidden ones, each ``(batch, n_l)``."""
        checks.no_autocast(x)
        with self.as_it_is():
            self.network.check_input(x)
            checks.finite_input(x)
            trace = Trace(self.network.activities(x), {"corrupted": {}})
            _, error = self.answer(trace, y)
            found = {"error": self._errors_of(self.synapses(trace, error, y))}
            return found | {"target": dict(self.layer_targets(trace.h, error))}

    @torch.no_grad()
    def states(self, x: Tensor, y: Tensor, *, met: bool = False) -> States:
        """Two moments: the ``activity`` of each hidden unit, and the one that it should have, its target."""
        with self.as_it_is():
            trace = Trace(self.network.activities(x), {"corrupted": {}})
            error = self.answer(trace, y)[1] * (not met)
            errors, targets = self._errors_of(self.synapses(trace, error, y)), dict(self.layer_targets(trace.h, error))
            errors.pop(self.network.depth, None)
            return States([{"activity": {layer: trace.h[layer] for layer in targets}}, {"activity": targets}], errors)

    def targets(self, x: Tensor, y: Tensor) -> dict[int, Tensor]:
        """``{l: ĥ_l}``: the ``target`` of :meth:`signals`."""
        return self.signals(x, y)["target"]

    @torch.no_grad()
    def reconstruction(self, x: Tensor, *, noise: float | None = None) -> dict[int, float]:
        r"""``{l: L_l^inv}`` for each inverse: squared miss, summed over units, mean over the batch.

        Args:
            x: ``(batch, n_0)``.
            noise: standard deviation of the corruption; that of the training unless given. With 0 it is the plain
                reconstruction loss :math:`\lVert g_l(f_l(h_{l-1})) - h_{l-1} \rVert^2`.

        Raises:
            ValueError: the input has the wrong shape or dtype, or ``noise`` is out of range.
        """
        self.network.check_input(x)
        noise = self.noise if noise is None else checks.number("noise", noise, **self.noises)
        with self.as_it_is():
            h = self.network.activities(x)
            return {layer: loss.item() for layer, loss in self.inverse_losses(Trace(h, self._noisy(h, noise)))}


@register(
    "tp", label="Target propagation", short="TP", family="Targets",
    cite=("lecun1986", "bengio2014", "lee2015"), network=_tanh, settings={"TP": {"alpha": 10.0}},
    look=("grey", ":"),
)  # fmt: skip
class TargetPropagation(TargetRule):
    r"""TP: targets are what the inverses make of the targets above.

    .. math:: \hat h_{L-1} = h_{L-1} - \alpha\, \frac{\partial \mathcal L}{\partial h_{L-1}}
              = h_{L-1} - \alpha\, W_L^\top \delta_L, \qquad \hat h_{l-1} = g_l(\hat h_l)

    The first target transports the weights of the last layer, and of no other. The loss is the *mean* over
    the batch, so one example's target moves by ``α/B`` times the gradient of its own loss. If an inverse is not
    perfect, ``ĥ`` differs from ``h`` even where ``ĥ = h`` above: a layer has something to learn when there is
    nothing to correct. Plain TP needs an ``alpha`` so large that its steps exceed what the inverses miss.

    Args:
        network, noise, seed: as for :class:`TargetRule`. With one hidden layer there is no inverse to learn.
        alpha: step :math:`\alpha` of the first target, positive.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or ``alpha`` or ``noise`` is out of range.

    Source: LeCun (1986); Bengio (2014); in this form Lee et al. (2015), with the defaults of the authors' code.
    Chapter: *Target propagation*.
    """

    corrects = False

    def __init__(self, network: Network, *, alpha: float = 0.3277, noise: float = 0.3598, seed: int = 1) -> None:
        super().__init__(network, noise=noise, seed=seed)
        self.alpha = checks.number("alpha", alpha, above=0)

    def feedback(self, layer: int) -> Tensor:
        """``B_l`` of an inverse; of the last layer ``W_Lᵀ``, the one weight that is transported."""
        if layer == self.network.depth:
            return self.network.weight(layer).transpose(0, 1)
        return super().feedback(layer)

    def first_target(self, activities: list[Tensor], output_error: Tensor) -> Tensor:
        return torch.addmm(activities[-2], output_error, self.feedback(self.network.depth).T, alpha=-self.alpha)


@register(
    "dtp", label="Difference target propagation", short="DTP", family="Targets", cite="lee2015", network=_tanh,
    look=("green", "--"),
)  # fmt: skip
class DifferenceTargetPropagation(TargetPropagation):
    r"""DTP: TP with a linear correction for what the inverse misses.

    .. math:: \hat h_{l-1} = h_{l-1} - g_l(h_l) + g_l(\hat h_l)

    A layer whose target is its activity hands on exactly that: :math:`\hat h_l = h_l \Rightarrow \hat h_{l-1} =
    h_{l-1}`, however bad the inverse. For small steps :math:`\hat h_{l-1} - h_{l-1} = J_{g_l} (\hat h_l - h_l)`: where
    backpropagation multiplies by the transposed Jacobian of ``f``, DTP multiplies by the Jacobian of ``g``. With one
    hidden layer the update of its weights is backpropagation's times ``2α/B``.

    In float32 a small ``α/B`` makes the steps of well-classified examples no larger than the rounding of activities.
    The batch's update hardly suffers; single examples' errors do. A larger ``alpha`` avoids it, and an optimiser that
    is blind to the size of gradients, as Adam with a small ``eps``, does not mind.

    Args:
        network, alpha, noise, seed: as for :class:`TargetPropagation`.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or ``alpha`` or ``noise`` is out of range.

    Source: Lee et al. (2015). Chapter: *Target propagation*.
    """

    corrects = True


@register(
    "sdtp", label="Simplified DTP", short="SDTP", family="Targets", cite="bartunov2018", network=_tanh,
    look=("orange", "-."),
)  # fmt: skip
class SimplifiedDTP(TargetRule):
    r"""SDTP: DTP without weight transport. The first target is the right answer itself.

    The output as its inverse reads it is the distribution over classes :math:`o = \mathrm{softmax}(h_L)`, its target
    the distribution :math:`\hat o` that puts everything on the label, and the penultimate layer's target is found by
    the rule that all others obey:

    .. math:: \hat h_{L-1} = h_{L-1} - g_L(o) + g_L(\hat o)

    There are as many different ``ô`` as classes, so :math:`g_L(\hat o)` is one vector a class. The last layer learns by
    the task's loss, which needs no weights but its own; the inverses learn as denoisers.

    Args:
        network, noise, seed: as for :class:`TargetRule`.
        step: share of the way from ``o`` to the right answer at which the target is set, in (0, 1]. The paper's is 1;
            then targets lie so far from the activities that the difference, a linear correction, may not hold.
        mean_losses: whether the losses of layers and inverses are means over their units, not sums: a factor ``1/n_l``
            or ``1/n_{l-1}`` of their gradients, which an optimiser such as Adam sees against its ``eps`` only.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or ``noise`` or ``step`` is out of range.

    Source: Bartunov et al. (2018), section 2.1 and algorithm 1. Chapter: *Target propagation*.
    """

    denoises = True

    def __init__(
        self, network: Network, *, noise: float = 0.214, step: float = 1.0, mean_losses: bool = False, seed: int = 1
    ) -> None:
        super().__init__(network, noise=noise, seed=seed)
        self.step = checks.number("step", step, above=0, most=1)
        self.mean_losses = checks.flag("mean_losses", mean_losses)

    @property
    def inverses(self) -> range:
        """The layers that have an inverse, here 2 … L."""
        return range(2, self.network.depth + 1)

    def first_target(self, activities: list[Tensor], output_error: Tensor) -> Tensor:
        below, scores = activities[-2:]
        response = self.output_response(scores, below)
        target = response.clone()
        # δ_L = (o - ô)/B, so that ô = o - B δ_L: in this form an output without error is its own target.
        target[:, : scores.shape[1]].sub_(output_error, alpha=self.step * len(scores))
        return self.send_down(self.network.depth, below, response, target)

    def first_step(self, activities: list[Tensor], y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        o = activities[-1].double().softmax(1)
        e = self.step * (F.one_hot(y, o.shape[1]) - o)
        softmax = torch.diag_embed(o) - o.unsqueeze(2) * o.unsqueeze(1)
        return e, softmax @ self.network.weight(self.network.depth).double()

    def respond(self, layer: int, below: Tensor) -> Tensor:
        if layer < self.network.depth:
            return super().respond(layer, below)
        return self.output_response(self.network.current(layer, below), below)

    def output_response(self, scores: Tensor, below: Tensor) -> Tensor:
        """The output as its inverse reads it, given the scores and the penultimate activities ``below``."""
        return torch.softmax(scores, 1)


@register(
    "ao_sdtp", label="SDTP with auxiliary output", short="AO-SDTP", family="Targets", cite="bartunov2018",
    network=_tanh, look=("blue", ":"),
)  # fmt: skip
class AuxiliaryOutputSDTP(SimplifiedDTP):
    r"""AO-SDTP: SDTP whose topmost inverse also reads an auxiliary output ``z``, random features of ``h_{L-1}``.

    .. math:: z = U h_{L-1}, \qquad \hat h_{L-1} = h_{L-1} - g_L(o, z) + g_L(\hat o, z)

    ``U`` is random and stays as drawn. With ``z`` the inverse can tell the examples of one class apart: it looks for an
    activity with the right label *and* the features that this example has. The paper leaves the form of ``z`` open;
    here it is linear, as the scores are.

    For linear layers, ``M = [J; U]`` with ``J`` the Jacobian of ``o``, covariance ``C`` of :math:`h_{L-1}` and noise
    of variance :math:`s^2`, the best inverse is :math:`C M^\top (M (C + s^2 I) M^\top)^+`. Only without noise, and with
    so many units that ``M`` loses nothing, does its part for ``o`` give the damped Gauss–Newton target
    :math:`(J^\top J + U^\top U)^{-1} J^\top (\hat o - o)`; with fewer units that inverse does not exist.

    Args:
        network, noise, step, seed: as for :class:`SimplifiedDTP`; the seed also draws ``U``.
        auxiliary: number of auxiliary units; ``U`` has the shape ``(auxiliary, n_{L-1})``, in Glorot's range.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or ``noise``, ``step`` or ``auxiliary`` is out of range.

    Source: Bartunov et al. (2018), section 2.1, eq. 3, and algorithm 2. Chapter: *Target propagation*.
    """

    U: Tensor

    def __init__(
        self, network: Network, *, auxiliary: int = 512, noise: float = 0.214, step: float = 1.0, seed: int = 1
    ) -> None:
        # First: the size of the topmost inverse depends on it.
        self.auxiliary = checks.whole("auxiliary", auxiliary)
        super().__init__(network, noise=noise, step=step, seed=seed)
        u = network.weight(1).detach().new_empty(auxiliary, network.sizes[-2])
        self.register_buffer("U", uniform_like(u, INITS["glorot"](network.sizes[-2], auxiliary), self._generator))

    def response_size(self, layer: int) -> int:
        return super().response_size(layer) + (self.auxiliary if layer == self.network.depth else 0)

    def output_response(self, scores: Tensor, below: Tensor) -> Tensor:
        return torch.cat([super().output_response(scores, below), below @ self.U.T], 1)
