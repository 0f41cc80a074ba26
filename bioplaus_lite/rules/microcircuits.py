"""The steady state of dendritic microcircuits as a learning rule: one pass up, one pass down, any depth, in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioplaus_lite import checks
from bioplaus_lite.models.microcircuits.network import PyramidalNetwork
from bioplaus_lite.networks import MLP, uniform_like
from bioplaus_lite.rules.base import LearningRule, States, Synapse, Trace, cross_entropy_and_error
from bioplaus_lite.rules.cards import register

__all__ = ["Forward", "Microcircuits", "rate_change"]

FEEDBACKS = ("fixed", "symmetric", "learned")
LATERALS = ("self_predicting", "interneurons", "learned")
MIXINGS = ("attenuated", "convex")


class Forward(NamedTuple):
    """What the pass up leaves: all that credit assignment may read besides its own weights.

    ``rates``: ``r_0 … r_{L-1}``, each ``(batch, n_l)``; ``basal``: ``v̂_B`` of the layers 1 … L; ``predicted``:
    ``v̂_I`` of the interneurons of the circuits 1 … L-1, each ``(batch, n_{k+1})``.
    """

    rates: list[Tensor]
    basal: list[Tensor]
    predicted: list[Tensor]


def rate_change(rate: Tensor, shift: Tensor) -> Tensor:
    r"""How much a logistic rate ``r = σ(v)`` changes when the voltage shifts by ``d``, exact for small ``d`` as well.

    .. math:: \sigma(v + d) - \sigma(v) = \frac{r (1 - r) E}{1 + r E}, \qquad E = e^d - 1

    The difference of two rates would lose all digits where the nudging is weak.
    """
    e = torch.expm1(shift.clamp(max=80))  # beyond that every rate is saturated, and float32 would overflow
    # The denominator vanishes only where a saturated rate meets a shift against it.
    below = torch.mul(rate, e).add_(1).clamp_(min=torch.finfo(rate.dtype).tiny)
    return torch.addcmul(rate, rate, rate, value=-1).mul_(e).div_(below)


@register(
    "microcircuits", label="Dendritic microcircuits", short="Microcircuits", family="Compartments",
    cite="sacramento2018", network=PyramidalNetwork, look=("purple", "-."),
    settings={
        "Microcircuits, learning interneurons": {"lateral": "interneurons", "by_circuit": True},
        "Microcircuits, symmetric": {"feedback": "symmetric"},
        "Microcircuits, all learned": {"feedback": "learned", "lateral": "learned"},
    },
)  # fmt: skip
class Microcircuits(LearningRule):
    r"""Dendritic microcircuits at their steady state: the apical voltage of a pyramidal cell is its error.

    Going up, pyramidal cells follow their basal dendrites, :math:`\hat v_l = W_l r_{l-1} + b_l` with :math:`r_l =
    \varphi(\hat v_l)`, and the interneurons of circuit ``k`` their own, :math:`\hat v_{I,k} = W^{IP}_k r_k +
    c^{IP}_k`. Then the output is nudged towards its target, and one layer after another, ``k = L-1 … 1``, follows:

    .. math::

        u_L &= (1 - \lambda)\,\hat v_L + \lambda\, u^{trgt} \\
        u_{I,k} &= (1 - \lambda)\,\hat v_{I,k} + \lambda\, u_{k+1} \\
        v_{A,k} &= W^{down}_k\, \varphi(u_{k+1}) + W^{PI}_k\, \varphi(u_{I,k}) \\
        u_k &= \hat v_k + \lambda\, v_{A,k}

    Voltages are attenuated, as the steady state of the conductances has them: :math:`\hat v_l` is where a soma rests
    that its basal dendrite alone drives. In the *self-predicting state* :math:`W^{IP}_k = W_{k+1}`,
    :math:`c^{IP}_k = b_{k+1}`, :math:`W^{PI}_k = -W^{down}_k`, all apical dendrites are silent until there is a target.

    **Updates.** Each weight compares a soma with what its dendrite predicts, with rates :math:`\varphi` logistic. The
    nudging shrinks by :math:`\lambda` from layer to layer, so the model's learning rate of layer ``l`` grows as
    :math:`\lambda^{-(L-l+1)}`. That factor and the mean over the batch are part of ``.grad``, so that SGD with rate
    :math:`\eta` takes the model's steps:

    .. math::

        \nabla W_l = -\frac{1}{B \lambda^{L-l+1}} \sum_{\text{batch}} (\varphi(u_l) - \varphi(\hat v_l))\, r_{l-1}^\top

    As :math:`\lambda \to 0` this is :meth:`objective`'s gradient with :math:`W^{down}_k` in place of
    :math:`W_{k+1}^\top`: exact if they are equal, feedback alignment if they are random. At finite :math:`\lambda` the
    angle to that limit is proportional to :math:`\lambda`.

    Learned weights have pseudo-gradients of their own, in the parameter group ``feedback``:

    .. math::

        \nabla W^{IP}_k &= -\tfrac{1}{B\lambda} \textstyle\sum (\varphi(u_{I,k}) - \varphi(\hat v_{I,k}))\, r_k^\top \\
        \nabla W^{PI}_k &= \tfrac1B \textstyle\sum v_{A,k}\, \varphi(u_{I,k})^\top \\
        \nabla W^{down}_k &= -\tfrac1B \textstyle\sum (\varphi(u_k) - \varphi(W^{down}_k \varphi(u_{k+1})))\,
            \varphi(u_{k+1})^\top

    **Weight transport.** With ``feedback="symmetric"`` the weights going down are copies of those going up. With
    ``fixed`` or ``learned`` the update of layer ``l`` reads no weight ``W_{l+1}``: given its own weights and the
    :class:`Forward` voltages, those of the interneurons included, it does not change when ``W_{l+1}`` does
    (:meth:`layer_errors` takes just these). But ``lateral="self_predicting"`` *assumes* interneurons that hold copies
    of ``W_{l+1}`` and of ``-W_down``. These are what ``lateral="learned"`` acquires locally, from the pyramidal cells
    above that nudge the interneurons; with it, nothing is transported at all.

    The paper's MNIST networks are not ``self_predicting`` in this sense. One starts in that state and holds ``W_PI``
    and ``W_down``, while ``W_IP`` learns: ``lateral="interneurons"``, and ``by_circuit`` for steps that keep up. In the
    other all weights start at random and learn: ``lateral="learned"``, ``feedback="learned"``.

    Scores are the output's basal predictions :math:`\hat v_L`; the loss returned is their cross-entropy, for comparison
    with other rules, while the gradients descend :meth:`objective`.

    Args:
        network: the layers to train, an MLP with activation ``sigmoid``; a
            :class:`~bioplaus_lite.models.microcircuits.network.PyramidalNetwork` starts in the range of the model.
        lam: mixing factor :math:`\lambda` of somata and interneurons, in (0, 1). In the attenuated, self-predicting
            state it can be as small as one likes. Elsewhere two rates are subtracted that differ by the order of
            :math:`\lambda^L`, which must stay well above the rounding of a rate.
        feedback: ``fixed``, random weights going down; ``symmetric``, always :math:`W_{k+1}^\top`; ``learned``, random
            at first.
        lateral: ``self_predicting``, always in that state; ``interneurons``, in that state at first, after which
            :math:`W^{IP}` learns and :math:`W^{PI}` stays at minus the weights going down, as in the paper's network
            for MNIST; ``learned``, all random at first. See :meth:`set_self_predicting` and
            :meth:`assign_without_target`.
        by_circuit: whether :math:`\nabla W^{IP}_k` is multiplied by :math:`\lambda^{-(L-k)}`. Then interneurons learn
            at the pace of the cells that they predict: at one rate the steps of :math:`W^{IP}_k` are, to first order in
            :math:`\lambda`, those of :math:`W_{k+1}`.
        mixing: ``attenuated``, as above; ``convex``, hidden somata at :math:`u_k = (1-\lambda) v_{B,k} + \lambda
            v_{A,k}` with :math:`\hat v_k = (1-\lambda) v_{B,k}`, a literal reading of the paper's procedure. It is
            here to show that it breaks the self-predicting state below the topmost hidden layer.
        down_width: half-width of the uniform weights going down, and of learned :math:`W^{PI}` at first.
        targets: rates that the output should have, (wrong classes, right class), in (0, 1).
        seed: draws ``W_down{k}`` of shape ``(n_k, n_{k+1})``, then learned ``W_IP{k}``, ``(n_{k+1}, n_k)``, in the
            range of ``W_{k+1}``, and ``W_PI{k}``, ``(n_k, n_{k+1})``.

    Raises:
        TypeError: the network is not an MLP.
        ValueError: the activation is not ``sigmoid``, or an option is unknown or out of range.

    Source: Sacramento, Costa, Bengio & Senn (2018), the steady-state procedure for MNIST. Chapter: *Dendritic
    microcircuits*.
    """

    takes = MLP
    phases = ("all", "quiet")
    looks_at_input = True
    limits: ClassVar[dict[str, tuple[float, ...]]] = {"lam": (0.1, 0.05, 0.025, 0.0125)}
    network: MLP

    def __init__(
        self,
        network: MLP,
        *,
        lam: float = 0.1,
        feedback: str = "fixed",
        lateral: str = "self_predicting",
        by_circuit: bool = False,
        mixing: str = "attenuated",
        down_width: float = 1.0,
        targets: tuple[float, float] = (0.1, 0.8),
        seed: int = 1,
    ) -> None:
        super().__init__(network)
        if network.activation != "sigmoid":
            raise ValueError(f"rates of microcircuits are logistic, activation 'sigmoid', not {network.activation!r}")
        self.lam = checks.number("lam", lam, above=0, below=1)
        self.top_down = checks.one_of("feedback", feedback, FEEDBACKS)
        self.lateral = checks.one_of("lateral", lateral, LATERALS)
        self.by_circuit = checks.flag("by_circuit", by_circuit)
        self.mixing = checks.one_of("mixing", mixing, MIXINGS)
        self.down_width = checks.number("down_width", down_width, above=0)
        rates = [checks.number("every entry of targets", r) for r in targets]
        if len(rates) != 2 or not 0 < rates[0] < rates[1] < 1:
            raise ValueError(f"targets must be two rates, 0 < wrong < right < 1, not {targets!r}")
        self.targets = tuple(rates)
        rounding = torch.finfo(network.weight(1).dtype).eps
        if not self._by_shift and self.lam**network.depth < rounding:
            raise ValueError(
                f"lam {lam!r} is too small for {network.depth} layers: in this state two rates are subtracted that "
                f"differ by about lam^{network.depth}, which must be above the rounding of a rate, {rounding:.1e}"
            )
        self.low, self.high = (math.log(r / (1 - r)) for r in self.targets)  # as voltages
        generator = torch.Generator().manual_seed(checks.seed("seed", seed))
        for k in self.circuits:
            down = uniform_like(network.weight(1).detach().new_empty(network.sizes[k : k + 2]), down_width, generator)
            if feedback == "learned":
                self.register_parameter(f"W_down{k}", nn.Parameter(down))
            elif feedback == "fixed":
                self.register_buffer(f"W_down{k}", down)
        for k in self.circuits if lateral != "self_predicting" else ():
            above = network.weight(k + 1).detach()
            first = {f"W_IP{k}": above.clone(), f"c_IP{k}": network.bias(k + 1).detach().clone()}
            if lateral == "learned":
                first = {
                    f"W_IP{k}": uniform_like(above, network.half_width(k + 1), generator),
                    f"c_IP{k}": torch.zeros_like(network.bias(k + 1)),
                    f"W_PI{k}": uniform_like(above.T, down_width, generator),
                }
            for name, value in first.items():
                self.register_parameter(name, nn.Parameter(value))

    def extra_repr(self) -> str:
        return f"λ={self.lam}, feedback={self.top_down}, lateral={self.lateral}, mixing={self.mixing}"

    # ---- The circuits ----

    @property
    def assumes(self) -> str:  # type: ignore[override]  # it depends on the setting
        return "interneurons whose weights are copies of forward weights" if self.lateral == "self_predicting" else ""

    @property
    def _by_shift(self) -> bool:
        """Whether interneurons need no weights of their own, and rates that differ by little need not be subtracted."""
        return self.mixing == "attenuated" and self.lateral == "self_predicting"

    @property
    def circuits(self) -> range:
        """The hidden layers 1 … L-1, each of which has a circuit."""
        return range(1, self.network.depth)

    def feedback(self, layer: int) -> Tensor:
        """Weights from layer ``layer`` (2 … L) down to apical dendrites, ``W_down`` of circuit ``layer - 1``.

        In the shape of ``W_layerᵀ``, ``(n_{l-1}, n_l)``, as for every rule.
        """
        if self.top_down == "symmetric":
            return self.network.weight(layer).transpose(0, 1)
        return getattr(self, f"W_down{layer - 1}")

    def interneuron_weights(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(W_IP, c, W_PI)`` of circuit ``k``: ``(n_{k+1}, n_k)``, ``(n_{k+1},)``, ``(n_k, n_{k+1})``."""
        own = self._parameters
        if self.lateral == "learned":
            return own[f"W_IP{k}"], own[f"c_IP{k}"], own[f"W_PI{k}"]
        if self.lateral == "interneurons":
            return own[f"W_IP{k}"], own[f"c_IP{k}"], -self.feedback(k + 1)
        return self.network.weight(k + 1), self.network.bias(k + 1), -self.feedback(k + 1)

    @torch.no_grad()
    def set_self_predicting(self) -> None:
        """Put learned lateral weights into the self-predicting state of the present other weights.

        Raises:
            ValueError: the lateral weights are not learned; they are in that state always.
        """
        if self.lateral == "self_predicting":
            raise ValueError("lateral='self_predicting' is in that state always; only learned weights can be put there")
        for k in self.circuits:
            W_IP, c, W_PI = self.interneuron_weights(k)
            W_IP.copy_(self.network.weight(k + 1))
            c.copy_(self.network.bias(k + 1))
            if self.lateral == "learned":  # otherwise W_PI is there already
                W_PI.copy_(-self.feedback(k + 1))

    # ---- Up and down ----

    def target_voltages(self, y: Tensor, n: int) -> Tensor:
        """Somatic voltages at which ``n`` outputs have the target rates for the labels ``y``, ``(batch, n)``."""
        target = self.network.weight(1).new_full((len(y), n), self.low)
        return target.scatter_(1, y.unsqueeze(1), self.high)

    def run_up(self, x: Tensor) -> Forward:
        """The pass up, ``x`` of shape ``(batch, n_0)``."""
        rates, basal = [x], []
        for layer in range(1, self.network.depth + 1):
            basal.append(self.network.current(layer, rates[-1]))
            if layer < self.network.depth:
                rates.append(torch.sigmoid(basal[-1]))
        return Forward(rates, basal, [self._predicted(k, rates[k], basal) for k in self.circuits])

    def _predicted(self, k: int, rate: Tensor, basal: list[Tensor]) -> Tensor:
        if self.lateral == "self_predicting":
            return basal[k]  # of layer k + 1: the same weights give the same voltage
        return self.network.layers[k].current(*self.interneuron_weights(k)[:2], rate)  # as the cells of layer k + 1 do

    def run_down(self, forward: Forward, output_error: Tensor) -> dict[tuple[str, int], Tensor]:
        """The pass down, every voltage of it by name and layer: see :meth:`steady_state`.

        Args:
            forward: what the pass up left.
            output_error: voltage error of the output, ``v̂_L - u_trgt``, ``(batch, n_L)``; zeros for no target.
        """
        lam, sigma = self.lam, torch.sigmoid
        down = {("soma", self.network.depth): forward.basal[-1] - lam * output_error}
        for k in reversed(self.circuits):
            above = down["soma", k + 1]
            inter = torch.lerp(forward.predicted[k - 1], above, lam)
            down["interneuron", k] = inter
            down["top_down", k] = sigma(above) @ self.feedback(k + 1).T
            down["lateral", k] = sigma(inter) @ self.interneuron_weights(k)[2].T
            down["apical", k] = down["top_down", k] + down["lateral", k]
            down["soma", k] = torch.add(self._rest(forward.basal, k), down["apical", k], alpha=lam)
            _refuse_divergence("apical", k, down["apical", k])
        return down

    def _rest(self, basal: list[Tensor], layer: int) -> Tensor:
        """``v̂_B``, where the soma of ``layer`` rests if its apical dendrite is silent."""
        convex = self.mixing == "convex" and layer < self.network.depth
        return basal[layer - 1] * (1 - self.lam) if convex else basal[layer - 1]

    def layer_errors(self, forward: Forward, output_error: Tensor) -> Iterator[tuple[int, Tensor]]:
        r"""Yield ``(l, δ_l)`` from the output down, ``(batch, n_l)`` each, from voltages that are given.

        .. math:: \delta_l = -\frac{\varphi(u_l) - \varphi(\hat v_l)}{B \lambda^{L-l+1}}

        In the attenuated, self-predicting state interneurons need no weights of their own, since
        :math:`u_{I,k} - \hat v_{k+1} = \lambda (u_{k+1} - \hat v_{k+1})`. What moves the cells above by ``d`` moves
        their interneurons by ``λ d``, and the apical voltage is :math:`W^{down}` times the difference of these two
        changes of rate.

        Raises:
            FloatingPointError: a voltage is not finite.
        """
        if self._by_shift:
            return self._errors_by_shift(forward, output_error)
        return self._errors_of_rates(forward, self.run_down(forward, output_error))

    def _scale(self, layer: int, batch: int) -> float:
        return -1 / (batch * self.lam ** (self.network.depth - layer + 1))

    def _errors_of_rates(self, forward: Forward, down: dict[tuple[str, int], Tensor]) -> Iterator[tuple[int, Tensor]]:
        sigma = torch.sigmoid
        for layer in range(self.network.depth, 0, -1):
            delta = sigma(down["soma", layer]).sub_(sigma(self._rest(forward.basal, layer)))
            yield layer, delta.mul_(self._scale(layer, len(delta)))

    def _errors_by_shift(self, forward: Forward, output_error: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Shifts of voltages, which are of the order ``λ^k``; so small ones are carried without that factor.

        The change of a rate is then its derivative times the shift, to the last digit.
        """
        lam, rounding = self.lam, torch.finfo(output_error.dtype).eps
        factors = [lam ** (self.network.depth - layer + 1) for layer in range(self.network.depth + 1)]
        scaled = [factor < rounding**2 for factor in factors]
        rate = torch.sigmoid(forward.basal[-1])
        shift = -output_error if scaled[self.network.depth] else output_error * -lam
        for layer in range(self.network.depth, 0, -1):
            if scaled[layer]:
                change = torch.addcmul(rate, rate, rate, value=-1).mul_(shift)
                uncancelled = change * (1 - lam)
                change.mul_(-1 / len(change))
            else:
                change = rate_change(rate, shift)
                if layer > 1:
                    uncancelled = change - rate_change(rate, shift * lam)
                change.mul_(self._scale(layer, len(change)))
            yield layer, change
            if layer > 1:
                shift = uncancelled @ self.feedback(layer).T
                if not scaled[layer]:
                    shift = shift.div_(factors[layer]) if scaled[layer - 1] else shift.mul_(lam)
                rate = forward.rates[layer - 1]
                _refuse_divergence("apical", layer - 1, shift)

    # ---- What the base asks ----

    def observe(self, x: Tensor) -> Trace:
        """The pass up; ``more["forward"]`` is the :class:`Forward` that the pass down reads."""
        # A logistic rate would swallow what is infinite. Looked at always: the counted costs on record hold it.
        if x.device.type != "meta" and not math.isfinite(x.sum().item()):
            checks.finite_input(x)
        forward = self.run_up(x)
        for layer, v in enumerate(forward.basal, 1):
            _refuse_divergence("basal", layer, v)
        return Trace([*forward.rates, forward.basal[-1]], {"forward": forward})

    def answer(self, trace: Trace, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and the output's error in voltage; when quiet, the apical mean square and no error."""
        scores = trace.h[-1]
        if self.acts == "quiet":
            down = trace.more["down"] = self.run_down(trace.more["forward"], torch.zeros_like(scores))
            return torch.cat([down["apical", k] for k in self.circuits], 1).square().mean(), torch.zeros_like(scores)
        loss, _ = cross_entropy_and_error(scores, y)
        return loss, scores - self.target_voltages(y, scores.shape[1])

    def synapses(self, trace: Trace, error: Tensor, y: Tensor) -> Iterator[Synapse]:
        forward, down = trace.more["forward"], trace.more.get("down")
        if self.acts == "quiet":
            yield from self._circuit_synapses(forward, trace.more["down"])
            return
        if self.top_down == "learned" or self.lateral != "self_predicting":
            down = self.run_down(forward, error)
            errors = self._errors_of_rates(forward, down)
        else:
            errors = self.layer_errors(forward, error)
        for layer, post in errors:
            yield Synapse(f"W{layer}", post, pre=forward.rates[layer - 1], bias=f"b{layer}")
        if down is not None:
            yield from self._circuit_synapses(forward, down)

    def _circuit_synapses(self, forward: Forward, down: dict[tuple[str, int], Tensor]) -> Iterator[Synapse]:
        sigma, batch = torch.sigmoid, len(forward.basal[-1])
        for k in self.circuits:
            if self.lateral != "self_predicting":
                inter = sigma(down["interneuron", k])
                pace = self.lam ** (self.network.depth - k) if self.by_circuit else 1.0
                miss = sigma(forward.predicted[k - 1]).sub_(inter).div_(self.lam * batch * pace)
                yield Synapse(f"W_IP{k}", post=miss, pre=forward.rates[k], bias=f"c_IP{k}")
            if self.lateral == "learned":
                yield Synapse(f"W_PI{k}", post=down["apical", k] / batch, pre=inter)
            if self.top_down == "learned":
                miss = sigma(down["top_down", k]).sub_(sigma(down["soma", k])).div_(batch)
                yield Synapse(f"W_down{k}", post=miss, pre=sigma(down["soma", k + 1]))

    # ---- What callers ask ----

    def assign_without_target(self, x: Tensor) -> Tensor:
        """Let the circuits learn while the output is left alone, the phase ``quiet``: see ``assign_gradients``.

        The network's own weights do not learn. Learned lateral weights approach the self-predicting state, and the
        value returned falls to zero.

        Args:
            x: ``(batch, n_0)``.

        Returns:
            Mean square of the apical voltages, a scalar.

        Raises:
            ValueError: the rule has no learned weights in its circuits, or the input does not fit.
            FloatingPointError: training has diverged.
        """
        if not list(self.parameters(recurse=False)):
            raise ValueError(
                f"nothing learns without a target if feedback is {self.top_down!r} and lateral is {self.lateral!r}; "
                "one of them must be 'learned'"
            )
        training, phase = self.training, self.phase
        self.training, self.phase = True, "quiet"
        try:
            return self.assign_gradients(x, torch.zeros(len(x), dtype=torch.int64))
        finally:
            self.training, self.phase = training, phase

    def parameter_groups(self) -> list[dict]:
        """``forward``, and what is learned besides, by kind: ``interneuron`` (``W_IP``, ``c_IP``), ``lateral``
        (``W_PI``), ``feedback`` (``W_down``).
        """
        forward = super().parameter_groups()[0]
        kinds: dict[str, list[nn.Parameter]] = {"interneuron": [], "lateral": [], "feedback": []}
        for name, parameter in self.named_parameters(recurse=False):
            kind = "lateral" if name.startswith("W_PI") else "feedback" if name.startswith("W_down") else "interneuron"
            kinds[kind].append(parameter)
        return [forward, *({"params": learned, "name": kind} for kind, learned in kinds.items() if learned)]

    @torch.no_grad()
    def signals(self, x: Tensor, y: Tensor) -> dict[str, dict[int, Tensor]]:
        """``error`` of every layer; ``apical``, ``v_A``, of the hidden ones, each ``(batch, n_k)``."""
        checks.no_autocast(x)
        with self.as_it_is():
            self.network.check_input(x)
            trace = self.observe(x)
            _, error = self.answer(trace, y)
            return {"error": dict(self.layer_errors(trace.more["forward"], error)), "apical": self.apical(x, y)}

    @torch.no_grad()
    def states(self, x: Tensor, y: Tensor, *, met: bool = False) -> States:
        """One moment: voltages of the pyramidal cells of hidden layers, all of :meth:`steady_state` that are theirs."""
        with self.as_it_is():
            voltages, trace = self.steady_state(x, None if met else y), self.observe(x)
            error = self.answer(trace, y)[1] * (not met)
            errors = dict(self.layer_errors(trace.more["forward"], error))
        moment = {name: {k: voltages[name, k] for k in self.circuits} for name in ("basal", "apical", "soma")}
        return States([moment], {k: errors[k] for k in self.circuits})

    @torch.no_grad()
    def apical(self, x: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        """``{k: v_A}``, the apical voltages of the hidden layers, each ``(batch, n_k)``; without ``y`` no target."""
        return {k: v for (name, k), v in self.steady_state(x, y).items() if name == "apical"}

    @torch.no_grad()
    def steady_state(self, x: Tensor, y: Tensor | None = None, *, sweeps: int = 1) -> dict[tuple[str, int], Tensor]:
        """Every voltage by ``(name, layer)``, in the order in which it follows from those before it.

        - ``basal`` 1 … L: ``v̂_B``, the pass up (with ``mixing="convex"``, ``v_B``);
        - ``predicted`` 1 … L-1: ``v̂_I``, interneurons by their dendrites alone, ``(batch, n_{k+1})``;
        - ``soma`` L: the output, nudged if there is a target;
        - for ``k = L-1 … 1``: ``interneuron`` ``u_I``; ``top_down`` ``W_down φ(u_{k+1})``; ``lateral`` ``W_PI φ(u_I)``;
          ``apical`` ``v_A``, the sum of both; ``soma`` ``u_k``.

        Args:
            x: ``(batch, n_0)``.
            y: ``(batch,)``, int64 labels; ``None`` for no target.
            sweeps: passes up and down. The learning rule makes one, as the paper's procedure does: nudged somata do not
                act on the layers above. Further sweeps let them; many lead to the steady state of the dynamics.

        Raises:
            ValueError: a shape, a dtype, a label or ``sweeps`` is wrong, or the input is not finite.
            FloatingPointError: the voltages are not finite: training has diverged.
        """
        checks.whole("sweeps", sweeps)
        self.network.check_input(x)
        if y is not None:
            checks.labels(y, len(x), self.network.sizes[-1])
        forward = self.observe(x).more["forward"]
        down: dict[tuple[str, int], Tensor] = {}
        for sweep in range(sweeps):
            rates, basal = forward.rates, forward.basal
            if sweep:
                rates = [x, *(torch.sigmoid(down["soma", k]) for k in self.circuits)]
                basal = [self.network.current(l, r) for l, r in enumerate(rates, 1)]
            predicted = [F.linear(rates[k], *self.interneuron_weights(k)[:2]) for k in self.circuits]
            error = (
                torch.zeros_like(basal[-1]) if y is None else basal[-1] - self.target_voltages(y, basal[-1].shape[1])
            )
            down = self.run_down(Forward(rates, basal, predicted), error)
        up = {("basal", l): v for l, v in enumerate(basal, 1)}
        return up | {("predicted", k): v for k, v in enumerate(predicted, 1)} | down

    def objective(self, scores: Tensor, y: Tensor) -> Tensor:
        r"""The loss that the rule descends as λ goes to 0: relative entropy of the output's rates to the target's.

        .. math::

            \mathcal L = \tfrac1B \sum_b \sum_i r_i \ln\frac{r_i}{r^*_i} + (1 - r_i) \ln\frac{1 - r_i}{1 - r^*_i},
            \qquad r = \varphi(s)

        Its derivative by a score is :math:`\varphi'(s_i)\,(s_i - u^{trgt}_i) / B`, the error in voltage times the
        slope: what nudging a soma and comparing rates gives. It vanishes where the output has the target rates.
        """
        target = self.target_voltages(y, scores.shape[1])
        entropy = torch.sigmoid(scores) * (scores - target) - F.softplus(scores) + F.softplus(target)
        return entropy.sum(1).mean()


def _refuse_divergence(what: str, layer: int, voltage: Tensor) -> None:
    if voltage.device.type != "meta" and not math.isfinite(voltage.sum().item()):
        raise FloatingPointError(
            f"{what} voltages of layer {layer} are not finite: training has diverged, try a smaller learning rate"
        )
