"""Feedback alignment and its family: rules that differ in one thing, the feedback weights ``B``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bioplaus_lite import checks
from bioplaus_lite.networks import MLP, Network, uniform_like
from bioplaus_lite.rules.backprop import Backprop
from bioplaus_lite.rules.base import LearningRule, Synapse, Trace
from bioplaus_lite.rules.cards import register

__all__ = ["DirectFeedbackAlignment", "FeedbackAlignment", "KolenPollack", "SignSymmetry", "WeightMirror"]


class _OwnFeedback(Backprop):
    """Backpropagation through feedback weights ``B2 … BL`` of the rule's own, each in the shape of ``W_lᵀ``.

    ``B_l`` is drawn uniform in ``scale`` times the range from which ``W_l`` was drawn. In memory it is laid out as
    ``W_l`` is, so that what combines it with ``W_lᵀ`` element by element reads both in order.
    """

    def __init__(self, network: Network, *, scale: float = 1.0, seed: int = 1) -> None:
        super().__init__(network)
        scale = checks.number("scale", scale, above=0)
        self._generator = torch.Generator().manual_seed(checks.seed("seed", seed))
        for layer in range(2, network.depth + 1):
            drawn = uniform_like(network.weight(layer).detach(), scale * network.half_width(layer), self._generator)
            self._hold(f"B{layer}", drawn.transpose(0, 1))

    def _hold(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    def feedback(self, layer: int) -> Tensor:
        return getattr(self, f"B{layer}")


@register(
    "fa", label="Feedback alignment", short="FA", family="Feedback weights", cite="lillicrap2016", look=("blue", "-")
)
class FeedbackAlignment(_OwnFeedback):
    r"""FA: errors travel back through fixed random weights :math:`B_l` in place of :math:`W_l^\top`.

    .. math:: \delta_l = (B_{l+1}\, \delta_{l+1}) \odot \sigma'(a_l), \qquad \nabla W_l = \delta_l h_{l-1}^\top

    Args:
        network: the layers to train, MLP or CNN.
        scale: of ``B_l``, as a multiple of the range of ``W_l``; positive.
        seed: draws ``B_l``, shape ``(n_{l-1}, n_l)``, uniform in that range.

    Raises:
        ValueError: ``scale`` or ``seed`` is out of range.

    Source: Lillicrap et al. (2016), eq. 3. Chapter: *Feedback alignment and its family*.
    """


@register(
    "dfa", label="Direct feedback alignment", short="DFA", family="Feedback weights", cite="nokland2016",
    look=("vermilion", "--"),
)  # fmt: skip
class DirectFeedbackAlignment(LearningRule):
    r"""DFA: every hidden layer receives the output error directly, through a random matrix of its own.

    .. math:: \delta_l = (B_l\, \delta_L) \odot \sigma'(a_l), \qquad B_l : n_l \times n_L

    Here ``B_l`` belongs to the layer that it *reaches*; compare it with :math:`(W_L \cdots W_{l+1})^\top`.

    Args:
        network: the layers to train, an MLP.
        scale: of ``B_l``, as a multiple of 1/√n_L; positive.
        seed: draws ``B_l``, shape ``(n_l, n_L)``, uniform in ± ``scale``/√n_L.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: ``scale`` or ``seed`` is out of range.

    Source: Nøkland (2016), eq. 7. Chapter: *Feedback alignment and its family*.
    """

    takes = MLP

    def __init__(self, network: Network, *, scale: float = 1.0, seed: int = 1) -> None:
        super().__init__(network)
        scale = checks.number("scale", scale, above=0)
        generator = torch.Generator().manual_seed(checks.seed("seed", seed))
        n_out = network.sizes[-1]
        for layer in range(1, network.depth):
            like = network.weight(1).detach().new_empty(network.sizes[layer], n_out)
            self.register_buffer(f"B{layer}", uniform_like(like, scale * n_out**-0.5, generator))

    def direct_feedback(self, layer: int) -> Tensor:
        """Weights from the output error to hidden layer ``layer``, shape ``(n_l, n_L)``."""
        return self._buffers[f"B{layer}"]

    def feedback(self, layer: int) -> Tensor:
        """Weights that carry the *output* error down to ``layer - 1``, ``(n_{l-1}, n_L)``."""
        return self.direct_feedback(layer - 1)

    def sender(self, layer: int) -> int:
        return self.network.depth

    def synapses(self, trace: Trace, error: Tensor, y: Tensor) -> Iterator[Synapse]:
        network, h = self.network, trace.h
        yield Synapse(f"W{network.depth}", post=error, pre=h[-2], bias=network.bias_name(network.depth))
        for layer in range(network.depth - 1, 0, -1):
            sent = error @ self.feedback(layer + 1).T
            post = sent.mul_(network.slope(layer, h[layer]))
            yield Synapse(f"W{layer}", post, pre=h[layer - 1], bias=network.bias_name(layer))


@register(
    "brsf", label="Sign symmetry (redrawn)", short="brSF", family="Shared signs", cite=("liao2016", "moskovitz2018"),
    look=("grey", "-."), options={"magnitudes": "redrawn"},
)  # fmt: skip
@register(
    "frsf", label="Sign symmetry (fixed)", short="frSF", family="Shared signs", cite=("liao2016", "moskovitz2018"),
    look=("orange", "--"), options={"magnitudes": "fixed"},
)  # fmt: skip
@register(
    "usf", label="Sign symmetry (uniform)", short="uSF", family="Shared signs", cite=("liao2016", "moskovitz2018"),
    look=("sky", "-"), options={"magnitudes": "uniform"},
)  # fmt: skip
class SignSymmetry(_OwnFeedback):
    r"""Feedback that shares the *signs* of the forward weights and not their sizes.

    .. math:: \delta_l = (B_{l+1}\, \delta_{l+1}) \odot \sigma'(a_l), \qquad B_l = |R_l| \odot \mathrm{sign}(W_l^\top)

    Args:
        network: the layers to train, MLP or CNN.
        magnitudes: ``uniform`` (uSF): every ``|R|`` is the root mean square of the initial ``W_l``;
            ``fixed`` (frSF): ``|R|`` random, drawn once; ``redrawn`` (brSF): ``|R|`` drawn anew for each batch.
        seed: draws ``R_l`` in the shape of ``W_lᵀ``, uniform in the range of ``W_l``.

    Raises:
        ValueError: ``magnitudes`` is unknown.

    Source: Liao, Leibo & Poggio (2016), section 3.2; Moskovitz, Litwin-Kumar & Abbott (2018). The names uSF,
    frSF and brSF are those of the BioTorch benchmarks. Chapter: *Feedback alignment and its family*.
    """

    MAGNITUDES = ("uniform", "fixed", "redrawn")

    def __init__(self, network: Network, *, magnitudes: str = "uniform", seed: int = 1) -> None:
        super().__init__(network, seed=seed)
        self.magnitudes = checks.one_of("magnitudes", magnitudes, self.MAGNITUDES)
        for layer in range(2, network.depth + 1):
            size = getattr(self, f"B{layer}")
            size.abs_()
            if magnitudes == "uniform":
                size.fill_(network.weight(layer).detach().square().mean().sqrt())

    def prepare(self) -> None:
        if self.magnitudes == "redrawn":
            for layer in range(2, self.network.depth + 1):
                sizes = getattr(self, f"B{layer}")
                # 256 equal steps from 0 to the half-width: random bytes cost a fifth of uniform floats.
                # Without its bounds `random_` leaves the sign bit of each word at 0: every eighth size would be small.
                words = torch.empty(-(-sizes.numel() // 8), dtype=torch.int64)
                draws = words.random_(-(2**63), None, generator=self._generator)
                steps = draws.view(torch.uint8)[: sizes.numel()].view(sizes.transpose(0, 1).shape).transpose(0, 1)
                torch.add(0.5, steps.to(sizes.device), out=sizes).mul_(self.network.half_width(layer) / 256)

    def feedback(self, layer: int) -> Tensor:
        return self.network.weight(layer).detach().sign().transpose(0, 1).mul_(getattr(self, f"B{layer}"))


@register(
    "weight_mirror", label="Weight mirror", family="Feedback weights", cite="akrout2019", look=("green", "-.")
)
class WeightMirror(_OwnFeedback):
    r"""Feedback weights that learn to mirror the forward weights from noise alone.

    Errors travel as in feedback alignment, :math:`\delta_l = (B_{l+1}\, \delta_{l+1}) \odot \sigma'(a_l)`. Once a
    batch, in training mode, each layer goes through a mirror phase: noise :math:`\xi`, of entries ±1, is its input,
    :math:`W_l \xi` its response, and the feedback weights learn by a Hebbian product with decay,

    .. math:: B_l \leftarrow (1 - \rho)\, B_l + \rho\, \tfrac1M \textstyle\sum_{m=1}^M \xi_m (W_l \xi_m)^\top, \qquad
              \mathbb E[\xi (W_l \xi)^\top] = W_l^\top

    No synapse reads another's weight. The authors' code keeps ``B`` from growing by rescaling it to a set
    spread; the decay here does the same and recovers the size of ``W`` too.

    Args:
        network: the layers to train, an MLP.
        rate: :math:`\rho`, in (0, 1]: small is accurate, large is quick to follow.
        samples: noise examples in a mirror phase, ``M``.
        scale: of the first ``B_l``, as a multiple of the range of ``W_l``; positive.
        seed: draws the first ``B_l``, shape ``(n_{l-1}, n_l)``, and the noise.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: ``rate`` or ``samples`` is out of range.

    Source: Akrout et al. (2019), section 3.1. Chapter: *Feedback alignment and its family*.
    """

    takes = MLP

    def __init__(
        self, network: Network, *, rate: float = 5e-4, samples: int = 16, scale: float = 1.0, seed: int = 1
    ) -> None:
        super().__init__(network, scale=scale, seed=seed)
        self.rate = checks.number("rate", rate, above=0, most=1)
        self.samples = checks.whole("samples", samples)

    def prepare(self) -> None:
        for layer in range(2, self.network.depth + 1):
            self.mirror(layer)

    @torch.no_grad()
    def mirror(self, layer: int) -> None:
        """One mirror phase of ``layer``."""
        weight, b = self.network.weight(layer), getattr(self, f"B{layer}")
        coins = torch.randint(0, 2, (self.samples, weight.shape[1]), generator=self._generator)
        noise = coins.to(weight).mul_(2).sub_(1)
        response = self.network.layers[layer - 1].current(weight, None, noise)
        b.addmm_(noise.T, response, beta=1 - self.rate, alpha=self.rate / self.samples)


@register(
    "kolen_pollack", label="Kolen–Pollack", family="Feedback weights", cite=("kolen1994", "akrout2019"),
    look=("purple", ":"),
)  # fmt: skip
class KolenPollack(_OwnFeedback):
    r"""Feedback weights that undergo the same changes as the forward weights, and the same decay.

    .. math:: \delta_l &= (B_{l+1}\, \delta_{l+1}) \odot \sigma'(a_l) \\
              \nabla W_l &= \textstyle\sum_{\text{batch}} \delta_l h_{l-1}^\top + \gamma W_l, \qquad
              \nabla B_l = \textstyle\sum_{\text{batch}} h_{l-1} \delta_l^\top + \gamma B_l

    Both sums are of products of the activity below and the error above, which a synapse of either direction can see.
    The decay is part of the pseudo-gradient in training mode, so that any optimiser applies it. With SGD at rate
    :math:`\eta` each step multiplies :math:`W_l - B_l^\top` by :math:`1 - \eta\gamma`, so that it goes to zero; without
    decay it stays as it was drawn. The first layer has no twin and does not decay. With
    ``start="transpose"`` it is zero from the beginning, if all weights learn by one optimiser: backpropagation with
    this decay, the control that tells what the decay does from what the feedback does.

    Args:
        network: the layers to train, MLP or CNN.
        decay: coefficient :math:`\gamma` of the decay, at least 0.
        start: where the feedback weights begin: ``random``, or ``transpose``, at :math:`W_l^\top`.
        scale: of the first ``B_l``, as a multiple of the range of ``W_l``; positive; for ``random``.
        seed: draws ``B_l`` in the shape of ``W_lᵀ``, uniform in the range of ``W_l``; learned parameters.

    Raises:
        ValueError: ``decay`` is negative, or ``start`` is unknown.

    Source: Kolen & Pollack (1994); Akrout et al. (2019), section 3.2. Chapter: *Feedback alignment and its family*.
    """

    STARTS = ("random", "transpose")

    def __init__(
        self, network: Network, *, decay: float = 1e-3, start: str = "random", scale: float = 1.0, seed: int = 1
    ) -> None:
        super().__init__(network, scale=scale, seed=seed)
        self.decay = checks.number("decay", decay, least=0)
        if checks.one_of("start", start, self.STARTS) == "transpose":
            for layer in range(2, network.depth + 1):
                self.feedback(layer).data.copy_(network.weight(layer).detach().transpose(0, 1))

    def _hold(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value))

    def synapses(self, trace: Trace, error: Tensor, y: Tensor) -> Iterator[Synapse]:
        decay = self.decay if self.training else 0.0
        for s in super().synapses(trace, error, y):
            if s.weight == "W1":
                yield s
            else:  # the same two signals meet at B, the other way round
                yield s._replace(decay=decay)
                if self.training:
                    b = s.weight.replace("W", "B")
                    yield Synapse(b, post=s.pre, pre=s.post, decay=decay, total=s.weight)
