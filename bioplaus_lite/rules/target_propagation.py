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

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioplaus_lite.networks import INITS, MLP, Network, uniform_like
from bioplaus_lite.rules.base import LearningRule, cross_entropy_and_error

__all__ = [
    "AuxiliaryOutputSDTP",
    "DifferenceTargetPropagation",
    "SimplifiedDTP",
    "TargetPropagation",
    "TargetRule",
    "alternate",
]


def _check_noise(noise: float) -> float:
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be at least 0 and finite, not {noise!r}")
    return noise


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
    :math:`\varepsilon \sim \mathcal N(0, \text{noise}^2)`:

    .. math:: \mathcal L_l^{\text{inv}} = \tfrac1B \textstyle\sum_b \lVert g_l(f_l(h_{l-1} + \varepsilon)) - t
              \rVert^2, \qquad t = h_{l-1} + \varepsilon \text{ or, as a denoiser, } t = h_{l-1}

    Losses are summed over units and averaged over the batch. Targets are constants: nothing is differentiated
    through them.

    **Parallel or alternating.** :attr:`trains` says which weights receive gradients in training mode: ``both`` on every
    batch, only the ``inverse`` ones or only the ``forward`` ones. Weights that do not learn have ``.grad`` ``None``, so
    that no optimiser moves them. :func:`alternate` switches by turns. In evaluation mode both are always answered.

    **Two learning rates.** Forward and inverse weights are two parameter groups of one optimiser::

        rates = {"forward": 8e-4, "feedback": 8e-4}
        fit(rule, train, optimizer=lambda groups: torch.optim.Adam([g | {"lr": rates[g["name"]]} for g in groups]))

    Args:
        network: the layers to train, an MLP with at least one hidden layer and any activation.
        noise: standard deviation of :math:`\varepsilon`, at least 0.
        seed: draws ``B_l`` (Glorot's range; ``c_l`` starts at zero), then the noise. Noise moves the generator in
            training mode only; in evaluation mode the next noise is looked at and not used up.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, hence nothing to give a target to, or an option is out of range.
    """

    #: What :attr:`trains` can be.
    PHASES = ("both", "inverse", "forward")

    #: Whether the error of the inverse itself, ``h - g(f(h))``, is added to what it sends down.
    corrects: bool = True
    #: Whether the inverses learn to give the clean activity (``True``) or the corrupted one that they were shown.
    denoises: bool = False

    def __init__(self, network: Network, *, noise: float, seed: int = 1) -> None:
        super().__init__(network)
        if not isinstance(network, MLP):
            raise TypeError(f"target propagation is defined here for an MLP, not a {type(network).__name__}")
        if network.depth < 2:
            raise ValueError(f"target propagation needs a hidden layer, the sizes {network.sizes} have none")
        self.noise, self._trains = _check_noise(noise), "both"
        self._generator = torch.Generator().manual_seed(seed)
        for layer in self.inverses:
            n_below, n_above = network.sizes[layer - 1], self.response_size(layer)
            b = network.weight(layer).new_empty(n_below, n_above)
            b = uniform_like(b, INITS["glorot"](n_above, n_below), self._generator)
            self.register_parameter(f"B{layer}", nn.Parameter(b))
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

    # ---- Up and down ----

    @property
    def trains(self) -> str:
        """Which weights learn in training mode, ``both``, ``inverse`` or ``forward``.

        Raises:
            ValueError: it is set to anything else.
        """
        return self._trains

    @trains.setter
    def trains(self, phase: str) -> None:
        if phase not in self.PHASES:
            raise ValueError(f"unknown phase {phase!r}; choose one of {', '.join(self.PHASES)}")
        self._trains = phase

    def response_size(self, layer: int) -> int:
        """Number of values that the inverse of ``layer`` reads."""
        return self.network.sizes[layer]

    def respond(self, layer: int, below: Tensor) -> Tensor:
        """``f_l``: the answer of ``layer`` to activities ``below``, as its inverse reads it."""
        return self.network.sigma(self.network.current(layer, below))

    def inverse(self, layer: int, response: Tensor) -> Tensor:
        """``g_l``: the activities ``(batch, n_{l-1})`` that would have made ``layer`` respond like this."""
        return self.network.sigma(F.linear(response, self._parameters[f"B{layer}"], self._parameters[f"c{layer}"]))

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

    def layer_errors(self, activities: list[Tensor], output_error: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(l, δ_l)`` from the top layer down: each is the derivative of its layer's own loss by ``a_l``."""
        yield self.network.depth, output_error
        for layer, target in self.layer_targets(activities, output_error):
            error = (activities[layer] - target).mul_(2 / len(target))
            yield layer, error.mul_(self.network.slope(layer, activities[layer]))

    def inverse_errors(
        self, activities: list[Tensor], generator: torch.Generator, noise: float
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield ``(l, u, r, r - t)`` for each inverse: ``u = f_l(h_{l-1} + ε)`` and ``r = g_l(u)``."""
        for layer in self.inverses:
            clean = activities[layer - 1]
            corrupted = clean
            if noise:
                corrupted = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).mul_(noise).add_(clean)
            response = self.respond(layer, corrupted)
            rebuilt = self.inverse(layer, response)
            yield layer, response, rebuilt, rebuilt - (clean if self.denoises else corrupted)

    # ---- What callers ask ----

    @torch.no_grad()
    def assign_gradients(self, x: Tensor, y: Tensor) -> Tensor:
        activities, loss, output_error = self._run(x, y)
        self._refuse_nonfinite(x, loss)
        learns = self.trains if self.training else "both"
        if learns != "inverse":
            for layer, delta in self.layer_errors(activities, output_error):
                self.network.set_gradient(layer, delta, activities[layer - 1])
        if learns != "forward":
            generator = self._generator if self.training else self._generator.clone_state()
            for layer, response, rebuilt, miss in self.inverse_errors(activities, generator, self.noise):
                # σ' as a function of the activity serves the inverse too: it has the activation of layer l - 1.
                rho = miss.mul_(2 / len(miss)).mul_(self.network.slope(layer - 1, rebuilt))
                b, c = self._parameters[f"B{layer}"], self._parameters[f"c{layer}"]
                for p in (b, c):
                    p.grad = torch.empty_like(p) if p.grad is None else p.grad
                torch.mm(rho.T, response, out=b.grad)
                torch.sum(rho, 0, out=c.grad)
        if learns != "both":
            resting = self.network.parameters() if learns == "inverse" else self.parameters(recurse=False)
            for p in resting:
                p.grad = None
        return loss

    @torch.no_grad()
    def targets(self, x: Tensor, y: Tensor) -> dict[int, Tensor]:
        """``{l: ĥ_l}`` for the hidden layers, each ``(batch, n_l)``."""
        activities, _, output_error = self._run(x, y)
        return dict(self.layer_targets(activities, output_error))

    @torch.no_grad()
    def errors(self, x: Tensor, y: Tensor) -> dict[int, Tensor]:
        """``{l: δ_l}`` for all layers, each ``(batch, n_l)``, without touching any ``.grad``."""
        activities, _, output_error = self._run(x, y)
        return dict(self.layer_errors(activities, output_error))

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
        noise, generator = self.noise if noise is None else _check_noise(noise), self._generator.clone_state()
        parts = self.inverse_errors(self.network.activities(x), generator, noise)
        return {layer: (miss.square().sum() / len(x)).item() for layer, _, _, miss in parts}

    def _run(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        self.network.check_input(x)
        activities = self.network.activities(x)
        return activities, *cross_entropy_and_error(activities[-1], y)


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
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, not {alpha!r}")
        self.alpha = alpha

    def first_target(self, activities: list[Tensor], output_error: Tensor) -> Tensor:
        return torch.addmm(activities[-2], output_error, self.network.weight(self.network.depth), alpha=-self.alpha)


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

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or ``noise`` or ``step`` is out of range.

    Source: Bartunov et al. (2018), section 2.1 and algorithm 1. Chapter: *Target propagation*.
    """

    denoises = True

    def __init__(self, network: Network, *, noise: float = 0.214, step: float = 1.0, seed: int = 1) -> None:
        super().__init__(network, noise=noise, seed=seed)
        if not 0 < step <= 1:
            raise ValueError(f"step must be in (0, 1], not {step!r}")
        self.step = step

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

    def respond(self, layer: int, below: Tensor) -> Tensor:
        if layer < self.network.depth:
            return super().respond(layer, below)
        return self.output_response(self.network.current(layer, below), below)

    def output_response(self, scores: Tensor, below: Tensor) -> Tensor:
        """The output as its inverse reads it, given the scores and the penultimate activities ``below``."""
        return torch.softmax(scores, 1)


class AuxiliaryOutputSDTP(SimplifiedDTP):
    r"""AO-SDTP: SDTP whose topmost inverse also reads an auxiliary output ``z``, random features of ``h_{L-1}``.

    .. math:: z = U h_{L-1}, \qquad \hat h_{L-1} = h_{L-1} - g_L(o, z) + g_L(\hat o, z)

    ``U`` is random and stays as drawn. With ``z`` the inverse can tell the examples of one class apart: it looks for an
    activity with the right label *and* the features that this example has. (For linear ``f`` and ``g`` the best
    inverse gives the damped Gauss–Newton target :math:`(J^\top J + U^\top U)^{-1} J^\top (\hat o - o)` with ``J`` the
    Jacobian of ``o``.) The paper leaves the form of ``z`` open; here it is linear, as the scores are.

    Args:
        network, noise, step, seed: as for :class:`SimplifiedDTP`; the seed also draws ``U``.
        auxiliary: number of auxiliary units; ``U`` has the shape ``(auxiliary, n_{L-1})``, in Glorot's range.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or ``noise``, ``step`` or ``auxiliary`` is out of range.

    Source: Bartunov et al. (2018), section 2.1, eq. 3, and algorithm 2. Chapter: *Target propagation*.
    """

    def __init__(
        self, network: Network, *, auxiliary: int = 512, noise: float = 0.214, step: float = 1.0, seed: int = 1
    ) -> None:
        if isinstance(auxiliary, bool) or not isinstance(auxiliary, int) or auxiliary < 1:
            raise ValueError(f"auxiliary must be a positive whole number, not {auxiliary!r}")
        self.auxiliary = auxiliary  # first: the size of the topmost inverse depends on it
        super().__init__(network, noise=noise, step=step, seed=seed)
        u = network.weight(1).new_empty(auxiliary, network.sizes[-2])
        self.register_buffer("U", uniform_like(u, INITS["glorot"](network.sizes[-2], auxiliary), self._generator))

    def response_size(self, layer: int) -> int:
        return super().response_size(layer) + (self.auxiliary if layer == self.network.depth else 0)

    def output_response(self, scores: Tensor, below: Tensor) -> Tensor:
        return torch.cat([super().output_response(scores, below), below @ self.U.T], 1)


class _Turns:
    """Steps once an epoch, as a scheduler does."""

    def __init__(self, rule: TargetRule) -> None:
        self.rule = rule
        rule.trains = "inverse"

    def step(self) -> None:
        self.rule.trains = "forward" if self.rule.trains == "inverse" else "inverse"


def alternate(rule: TargetRule) -> Callable[[torch.optim.Optimizer], _Turns]:
    """An epoch of inverse training, then one of forward training, and so on: ``fit(…, scheduler=alternate(rule))``.

    An epoch of :func:`~bioplaus_lite.training.fit` is then a pass over the data in *one* of the phases: 2 n epochs are
    n of each. In a loop of your own, set ``rule.trains``. Afterwards ``rule.trains`` is whatever phase comes next.

    Raises:
        TypeError: the rule has no inverses to train by turns.
    """
    if not isinstance(rule, TargetRule):
        raise TypeError(f"only a target rule has inverses that train by turns, not a {type(rule).__name__}")
    return lambda optimizer: _Turns(rule)
