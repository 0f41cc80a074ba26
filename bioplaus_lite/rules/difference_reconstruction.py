r"""Inverses that learn what a *difference* of targets needs: the difference reconstruction loss, and its local form.

Where targets are sent down as differences, only the Jacobian of ``g`` counts, and an autoencoder's loss does not ask
for it. These rules train the difference itself: noise runs up from an activity, what it changes comes down as a target
would, and the inverse learns from what arrives. The first target is set at the output, and no weight is transported.

===========  ================  ========================================  ===================
rule         noise runs up to  the Jacobian of the feedback becomes      so that targets are
===========  ================  ========================================  ===================
DTP-DRL      the output        a damped pseudo-inverse of the network's  Gauss–Newton's
DDTP-linear  the output        the same, by one matrix from the output   Gauss–Newton's
L-DRL        the next layer    the transpose of the layer's              backpropagation's
===========  ================  ========================================  ===================

This is what the losses ask for, with linear layers; the classes say what is reached, and when.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.networks import Network
from bioplaus_lite.rules.base import Synapse, Trace, cross_entropy_and_error
from bioplaus_lite.rules.cards import register
from bioplaus_lite.rules.target_propagation import TargetRule, _tanh

__all__ = ["DifferenceReconstruction", "DirectDifferenceReconstruction", "LocalDifferenceReconstruction"]


class DifferenceRule(TargetRule):
    r"""What these rules share: the first target is a step at the output, every layer but the first has an inverse.

    .. math:: \hat h_L = h_L - \alpha\, \delta_L, \qquad \hat h_{L-1} = h_{L-1} + g_L(\hat h_L) - g_L(h_L), \; \dots

    The last layer learns by the task's loss, as in the whole family; its target would give the same times a constant.
    """

    noises: ClassVar[dict[str, float]] = {"above": 0}

    @property
    def inverses(self) -> range:
        """The layers that have an inverse, here 2 … L."""
        return range(2, self.network.depth + 1)

    def output_step(self, output_error: Tensor) -> Tensor:
        """``ĥ_L - h_L``, ``(batch, n_L)``, from the error ``δ_L`` of the mean loss."""
        raise NotImplementedError

    def first_target(self, activities: list[Tensor], output_error: Tensor) -> Tensor:
        below, scores = activities[-2:]
        return self.send_down(self.network.depth, below, scores, scores + self.output_step(output_error))

    def first_step(self, activities: list[Tensor], y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        e = self.output_step(cross_entropy_and_error(activities[-1], y)[1]).double()
        return e, self.network.weight(self.network.depth).double().expand(len(e), -1, -1)


@register(
    "dtp_drl", label="DTP, difference reconstruction", short="DTP-DRL", family="Targets", cite="meulemans2020",
    network=_tanh, look=("vermilion", "-."),
)  # fmt: skip
class DifferenceReconstruction(DifferenceRule):
    r"""DTP-DRL: DTP whose inverses learn to send what noise changes at the output back as that noise.

    For each inverse ``l = 2 … L`` the activity below is corrupted, :math:`\tilde h_{l-1} = h_{l-1} + \varepsilon`, and
    runs up to the output. What it gives there is sent down as a target, :math:`\tilde t_{k-1} = h_{k-1} +
    g_k(\tilde t_k) - g_k(h_k)`, as far as ``l - 1``, and ``B_l`` and ``c_l`` alone descend

    .. math:: \mathcal L_l^{\text{inv}} = \frac{1}{s^2 B} \sum_b \lVert \tilde t_{l-1} - \tilde h_{l-1} \rVert^2
              + \gamma \lVert B_l \rVert_F^2

    For little noise the first term is :math:`\lVert J_{g_l} \cdots J_{g_L} J - 1 \rVert_F^2`, with :math:`J = \partial
    h_L / \partial h_{l-1}`. With one linear layer above, the minimum is :math:`(W^\top W + \gamma 1)^{-1} W^\top`, the
    damped pseudo-inverse. Further down ``B_l`` finds the best that the inverses above it allow.

    Args:
        network: the layers to train, an MLP with at least one hidden layer.
        alpha: step :math:`\alpha` of the first target, positive; ``δ_L`` is of the mean over the batch.
        noise: standard deviation :math:`s` of :math:`\varepsilon`, positive.
        decay: :math:`\gamma`, at least 0; biases do not decay.
        seed: draws ``B_l``, ``(n_{l-1}, n_l)``, then the noise.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or an option is out of range.

    Source: Meulemans et al. (2020), as in the authors' code, ``lib/dtpdrl_layers.py``. The defaults are those of
    ``final_configs/mnist_DTPDRL.py``; there the loss is a mean over 256 units and the decay, of the optimiser,
    5.385e-6, which makes :math:`\gamma` 128 times as much. Chapter: *Target propagation*.
    """

    def __init__(
        self, network: Network, *, alpha: float = 0.06859, noise: float = 0.05688, decay: float = 6.893e-4,
        seed: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(network, noise=noise, seed=seed)
        self.alpha = checks.number("alpha", alpha, above=0)
        self.decay = checks.number("decay", decay, least=0)

    def output_step(self, output_error: Tensor) -> Tensor:
        return output_error.mul(-self.alpha)

    def _corrupted(self, h: list[Tensor], noise: float) -> dict[int, tuple[Tensor, ...]]:
        """``{l: (ε at l - 1, the output to which it leads)}``."""
        up, draws = self.network.upward, {layer: self._draw(h[layer - 1], noise) for layer in self.inverses}
        return {l: (draw, up(l, self.network.current(l, h[l - 1] + draw))[-1]) for l, draw in draws.items()}

    def differences(self, trace: Trace) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        """Yield ``(l, t̃_l, g_l(t̃_l), g_l(h_l), t̃_{l-1} - h̃_{l-1})`` for each inverse."""
        h = trace.h
        for layer, (draw, target) in trace.more["corrupted"].items():
            for above in range(self.network.depth, layer, -1):
                target = self.send_down(above, h[above - 1], h[above], target)
            sent, still = self.inverse(layer, target), self.inverse(layer, h[layer])
            yield layer, target, sent, still, sent - still - draw

    def inverse_losses(self, trace: Trace) -> Iterator[tuple[int, Tensor]]:
        for layer, *_, miss in self.differences(trace):
            yield layer, miss.square().sum() / (len(miss) * trace.more["noise"] ** 2)

    def inverse_synapses(self, trace: Trace) -> Iterator[Synapse]:
        for layer, target, sent, still, miss in self.differences(trace):
            miss.mul_(2 / (len(miss) * trace.more["noise"] ** 2))
            post = miss * self.network.slope(layer - 1, sent)
            yield Synapse(f"B{layer}", post, pre=target, bias=f"c{layer}", decay=2 * self.decay)
            post = miss.neg_().mul_(self.network.slope(layer - 1, still))
            yield Synapse(f"B{layer}", post, pre=trace.h[layer], bias=f"c{layer}")


@register(
    "ddtp_linear", label="Direct DTP, linear", short="DDTP-linear", family="Targets", cite="meulemans2020",
    network=_tanh, look=("sky", "-."),
)  # fmt: skip
class DirectDifferenceReconstruction(DifferenceReconstruction):
    r"""DDTP-linear: every hidden layer has its target from the output directly, by a matrix of its own.

    .. math:: \hat h_{l-1} &= h_{l-1} + B_l (\hat h_L - h_L) \\
              \mathcal L_l^{\text{inv}} &= \frac{1}{s^2 B} \sum_b \lVert B_l (\tilde h_L - h_L) - \varepsilon \rVert^2
              + \gamma \lVert B_l \rVert_F^2

    where :math:`\tilde h_L` is the output to which :math:`h_{l-1} + \varepsilon` leads. ``B_l`` has the shape
    ``(n_{l-1}, n_L)``; biases would cancel. It is one matrix for all examples, a compromise where their Jacobians
    differ: :math:`B_l = \langle J \rangle^\top (\langle J J^\top \rangle + \gamma 1)^{-1}`.

    Args:
        network, alpha, noise, decay, seed: as for :class:`DifferenceReconstruction`, with its defaults and its errors.

    Source: Meulemans et al. (2020), as in the authors' code, ``lib/direct_feedback_networks.py``. Its constants in
    ``final_configs/mnist_DDTPlinear.py`` are 0.06097, 0.09075 and, 128 times 5.836e-7, 7.470e-5.
    Chapter: *Target propagation*.
    """

    biased = False

    def response_size(self, layer: int) -> int:
        return self.network.sizes[-1]

    def sender(self, layer: int) -> int:
        return self.network.depth

    def inverse(self, layer: int, response: Tensor) -> Tensor:
        return F.linear(response, self.feedback(layer))

    def layer_targets(self, activities: list[Tensor], output_error: Tensor) -> Iterator[tuple[int, Tensor]]:
        step = self.output_step(output_error)
        for layer in range(self.network.depth - 1, 0, -1):
            yield layer, activities[layer] + self.inverse(layer + 1, step)

    def differences(self, trace: Trace) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        for layer, (draw, top) in trace.more["corrupted"].items():
            sent, still = self.inverse(layer, top), self.inverse(layer, trace.h[-1])
            yield layer, top, sent, still, sent - still - draw

    def inverse_synapses(self, trace: Trace) -> Iterator[Synapse]:
        for layer, top, _, _, miss in self.differences(trace):
            post = miss.mul_(2 / (len(miss) * trace.more["noise"] ** 2))
            yield Synapse(f"B{layer}", post, pre=top - trace.h[-1], decay=2 * self.decay)


@register(
    "ldrl", label="Local difference reconstruction", short="L-DRL", family="Targets", cite="ernoult2022", network=_tanh,
    look=("purple", "-"),
)  # fmt: skip
class LocalDifferenceReconstruction(DifferenceRule):
    r"""L-DRL: each inverse learns, from its own layer alone, to have the transpose of that layer's Jacobian.

    .. math:: g_l(h_l) &= B_l\, \sigma(h_l) \\
              \mathcal L_l^{\text{inv}} &= \frac1B \sum_b \Bigl( -2\, \varepsilon^\top
              \bigl[ g_l(f_l(h_{l-1} + \varepsilon)) - g_l(h_l) \bigr]
              + \lVert g_l(h_l + \zeta) - g_l(h_l) \rVert^2 \Bigr)

    with noise :math:`\varepsilon` below and :math:`\zeta` above, both of variance :math:`s^2`. For little noise
    this is :math:`s^2 (\lVert J_g - J_f^\top \rVert_F^2 - \lVert J_f \rVert_F^2)`. The first term is Hebbian, noise
    below times what it changes above; the second keeps weights bounded. With :math:`J_g = J_f^\top` targets are
    backpropagation's, :math:`\hat h_l - h_l = -\beta B\, \partial \mathcal L / \partial h_l` for small :math:`\beta`.

    The slope at :math:`h_l` stands for that at :math:`a_l`: equal for linear units, alike for tanh and ELU at small
    activities. A silent ReLU lets pass what is positive, where backpropagation lets nothing. Biases would cancel.

    Args:
        network: the layers to train, an MLP with at least one hidden layer.
        beta: step of the first target for each example, :math:`\alpha = \beta B`; positive.
        noise: standard deviation :math:`s` of both noises, positive.
        draws: of noise for each example; the loss is their mean.
        seed: draws ``B_l``, ``(n_{l-1}, n_l)``, then the noise.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the network has no hidden layer, or an option is out of range.

    Source: Ernoult et al. (2022), as in the authors' code, ``target_prop/feedback_loss.py``. ``beta`` and ten draws are
    those of ``models/parallel_dtp.py``, with :math:`s` from 0.4 to 0.08 over the layers. The paper's own steps, in
    ``models/dtp.py``, are not here: 20 to 55 of the inverses on each batch, with one draw.
    Chapter: *Target propagation*.
    """

    biased = False

    def __init__(
        self, network: Network, *, beta: float = 0.7, noise: float = 0.2, draws: int = 10, seed: int = 1
    ) -> None:
        super().__init__(network, noise=noise, seed=seed)
        self.beta = checks.number("beta", beta, above=0)
        self.draws = checks.whole("draws", draws)

    def output_step(self, output_error: Tensor) -> Tensor:
        return output_error.mul(-self.beta * len(output_error))

    def inverse(self, layer: int, response: Tensor) -> Tensor:
        return F.linear(self.network.activate(layer, response), self.feedback(layer))

    def _corrupted(self, h: list[Tensor], noise: float) -> dict[int, tuple[Tensor, ...]]:
        """``{l: (ε, σ(f_l(h_{l-1} + ε)) - σ(h_l), σ(h_l + ζ) - σ(h_l))}``, each ``(draws · batch, units)``."""
        seen: dict[int, tuple[Tensor, ...]] = {}
        for layer in self.inverses:
            below, above = h[layer - 1].repeat(self.draws, 1), h[layer].repeat(self.draws, 1)
            low, high = self._draw(below, noise), self._draw(above, noise)
            moved = (self.respond(layer, below + low), above + high, above)
            up, shaken, rest = (self.network.activate(layer, response) for response in moved)
            seen[layer] = low, up - rest, shaken - rest
        return seen

    def inverse_losses(self, trace: Trace) -> Iterator[tuple[int, Tensor]]:
        for layer, (low, up, shaken) in trace.more["corrupted"].items():
            b = self.feedback(layer)
            yield layer, (F.linear(shaken, b).square().sum() - 2 * (low * F.linear(up, b)).sum()) / len(low)

    def inverse_synapses(self, trace: Trace) -> Iterator[Synapse]:
        for layer, (low, up, shaken) in trace.more["corrupted"].items():
            yield Synapse(f"B{layer}", post=low * (-2 / len(low)), pre=up)
            yield Synapse(f"B{layer}", post=F.linear(shaken, self.feedback(layer)).mul_(2 / len(low)), pre=shaken)
