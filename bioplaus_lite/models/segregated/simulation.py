"""The model as it reads in the paper: one step of time after another, in float64 NumPy, every variable on record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bioplaus_lite.models.segregated.parameters import SegregatedParameters

__all__ = ["Dendrites", "Outcome", "Result", "Simulation", "State", "Synapses", "Trace", "step"]


def sigma(v: np.ndarray) -> np.ndarray:
    """The logistic function; written with tanh, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * v))


def slope(v: np.ndarray) -> np.ndarray:
    """Derivative of :func:`sigma`."""
    return sigma(v) * (1 - sigma(v))


class Synapses(NamedTuple):
    """``W``: weights of the layers 1 … L, ``(n_l, n_{l-1})``; ``b``: biases, ``(n_l,)``; ``Y``: feedback weights of the
    hidden layers, ``(n_l, n_L)``. Lists of float64 arrays.
    """

    W: list[np.ndarray]
    b: list[np.ndarray]
    Y: list[np.ndarray]


class Dendrites(NamedTuple):
    """What the dendrites felt in a step, lists by layer.

    ``psp``: what the layers 1 … L receive from below, each ``(n_{l-1},)``; ``feedback``: what the apical dendrites
    receive from the output, one array ``(n_L,)``; ``apical``: voltages of the hidden layers, ``(n_l,)``; ``basal``: of
    the layers 1 … L.
    """

    psp: Sequence[np.ndarray] = ()
    feedback: Sequence[np.ndarray] = ()
    apical: Sequence[np.ndarray] = ()
    basal: Sequence[np.ndarray] = ()


class State(NamedTuple):
    """What a network carries from one step to the next, and from one training example to the next.

    ``soma``: somatic voltages of the layers 1 … L, each ``(n_l,)``; ``spikes``: counts of the last ``spike_memory``
    steps of the layers 0 … L, each ``(memory, n_l)``, newest last, in rate mode rates in spikes/ms; ``dendrites``: what
    they felt in the step that led here, to look at; no step reads it, and at rest it is empty.
    """

    soma: list[np.ndarray]
    spikes: list[np.ndarray]
    dendrites: Dendrites = Dendrites()

    @classmethod
    def at_rest(cls, sizes: Sequence[int], memory: int) -> State:
        """All voltages at 0, no spikes in memory."""
        return cls([np.zeros(n) for n in sizes[1:]], [np.zeros((memory, n)) for n in sizes])


def _psp(spikes: np.ndarray, c: SegregatedParameters) -> np.ndarray:
    r"""Postsynaptic potential that a layer causes now, ``(n_l,)``: :math:`\sum_n \kappa(n\,dt)\, s(t - n + 1)`.

    In rate mode it is the rate of the last step.
    """
    return spikes[-1] if c.mode == "rate" else c.kernel[::-1] @ spikes  # oldest first, as the spikes are kept


def _soma(V: np.ndarray, inputs: Sequence[tuple[float, np.ndarray]], c: SegregatedParameters) -> np.ndarray:
    """Somata one step later: ``inputs`` are pairs of a conductance and the voltage it pulls towards."""
    if c.voltages == "steady":
        return np.asarray(sum(g * E for g, E in inputs) / (c.g_l + sum(g for g, _ in inputs)))
    return np.asarray(V + c.dt * (-c.g_l * V + sum(g * (E - V) for g, E in inputs)))


def step(
    state: State, x: np.ndarray, label: int | None, synapses: Synapses, c: SegregatedParameters,
    fire: Callable[[int, np.ndarray], np.ndarray],
) -> State:
    r"""The state one ``dt`` later; the one given is not changed.

    Hidden layers, with the output feeding back to each of them (``A`` apical, ``B`` basal, ``V`` soma):

    .. math::

        \dot V_l = -g_l V_l + g_b (B_l - V_l) + g_a (A_l - V_l), \qquad B_l = W_l\, s_{l-1} + b_l, \qquad
        A_l = Y_l\, s_L

    The output, with :math:`I = g\,(E - V)` in the target phase, :math:`E = E_E` for the label and :math:`E_I` else:

    .. math:: \dot V_L = -g_l V_L + g_d (B_L - V_L) + I

    :math:`s(t) = \sum_k \kappa(t - t_k)` over Poisson spikes of rate :math:`\varphi_{max}\,\sigma(V)`. First come the
    input spikes; then layer by layer the dendrites, the soma and the spikes, so that a layer feels the spikes that the
    layer below fired in this very step. The apical dendrites feel the output up to the step before.

    Args:
        state: as it is now.
        x: input rates as shares of ``phi_max``, ``(n_0,)``.
        label: the unit that is taught to fire; ``None`` in a forward phase.
        synapses: of the network.
        c: the constants.
        fire: the spikes of this step, of a layer and its rates in spikes/ms; called for the layers 0 … L in turn.

    Source: Guerguiev, Lillicrap & Richards (2017), eqs. 1 to 7; order of operations as in the authors' code.
    """

    def remember(layer: int, rate: np.ndarray) -> np.ndarray:
        return np.concatenate([state.spikes[layer][1:], fire(layer, rate)[None]])

    spikes, soma = [remember(0, c.phi_max * x)], []
    feedback = _psp(state.spikes[-1], c) if c.spiking_feedback else c.phi_max * sigma(state.soma[-1])
    psp, apical, basal = [], [], []
    for layer, V in enumerate(state.soma, 1):
        psp.append(_psp(spikes[-1], c))
        basal.append(synapses.W[layer - 1] @ psp[-1] + synapses.b[layer - 1])
        if layer < len(state.soma):
            apical.append(synapses.Y[layer - 1] @ feedback)
            inputs = [(c.g_b, basal[-1]), (c.g_a, apical[-1])]
        else:
            inputs = [(c.g_d, basal[-1])]
            if label is not None:
                inputs.append((c.g_teach, np.where(np.arange(len(V)) == label, c.E_E, c.E_I)))
        soma.append(_soma(V, inputs, c))
        spikes.append(remember(layer, c.phi_max * sigma(soma[-1])))
    return State(soma, spikes, Dendrites(psp, [feedback], apical, basal))


@dataclass
class Trace:
    """Every variable at every step of one example or test; ``T`` steps, lists by layer.

    Attributes:
        t: end of each step, ms, ``(T,)``.
        target: whether the step belongs to the target phase, ``(T,)``.
        averaged: whether it belongs to an averaging window, ``(T,)``.
        spikes: counts of the layers 0 … L, each ``(T, n_l)``; in rate mode spikes/ms.
        psp: what the layers 1 … L receive from below, each ``(T, n_{l-1})``.
        feedback: what the apical dendrites receive from the output, ``(T, n_L)``.
        apical: apical voltages of the hidden layers, each ``(T, n_l)``.
        basal, soma: dendritic and somatic voltages of the layers 1 … L, each ``(T, n_l)``.
    """

    t: np.ndarray
    target: np.ndarray
    averaged: np.ndarray
    spikes: list[np.ndarray]
    psp: list[np.ndarray]
    feedback: np.ndarray
    apical: list[np.ndarray]
    basal: list[np.ndarray]
    soma: list[np.ndarray]


@dataclass
class Outcome:
    r"""What one training example did.

    Attributes:
        lengths: steps of the forward and of the target phase.
        plateau_steps: for each hidden layer the step, counted from the start of its phase, at whose end the plateau
            came: ``(2, n_l)``, forward and target.
        alpha_forward, alpha_target: plateau potentials :math:`\alpha^f, \alpha^t` of the hidden layers, ``(n_l,)``.
        soma: mean somatic voltage in the forward window, layers 1 … L.
        psp: mean postsynaptic potential in the forward window, of the layers 0 … L-1.
        target_rate: mean output rate :math:`\varphi^*` in the target window, spikes/ms.
        E: errors at the dendrites, layers 1 … L, each ``(n_l,)``: the gradients of the local losses by the dendritic
            voltages, with the sign of backprop's :math:`\delta_l`. Weights change by :math:`-\eta P E\,
            \overline{PSP}^\top`.
        delta_W, delta_b: the changes made, layers 1 … L.
        delta_Y: changes of the feedback weights, hidden layers; zero unless feedback is learned.
        hidden_losses: :math:`\|\alpha^t - \alpha^f\|^2` of the hidden layers.
        output_loss: :math:`\|\varphi^* - \varphi(\bar V^f)\|^2`.
        trace: every variable at every step, if it was asked for.
    """

    lengths: tuple[int, ...]
    plateau_steps: list[np.ndarray]
    alpha_forward: list[np.ndarray]
    alpha_target: list[np.ndarray]
    soma: list[np.ndarray]
    psp: list[np.ndarray]
    target_rate: np.ndarray
    E: list[np.ndarray]
    delta_W: list[np.ndarray]
    delta_b: list[np.ndarray]
    delta_Y: list[np.ndarray]
    hidden_losses: list[float]
    output_loss: float
    trace: Trace | None = None

    @property
    def scores(self) -> np.ndarray:
        """Mean voltage of the output somata in the forward window, ``(n_L,)``; the largest is the answer."""
        return self.soma[-1]


class Result(NamedTuple):
    """What a batch of training examples did, a row each.

    ``voltage``: mean output voltages in the forward window, ``(N, n_L)``; ``loss``: output losses, ``(N,)``. If they
    were asked for, lists by layer of what the updates were made of: ``E``, ``(N, n_l)``; ``psp``, mean postsynaptic
    potentials, ``(N, n_{l-1})``; ``soma``, mean somatic voltages, ``(N, n_l)``, both of the forward window.
    """

    voltage: np.ndarray
    loss: np.ndarray
    E: list[np.ndarray]
    psp: list[np.ndarray]
    soma: list[np.ndarray]


def _mean(of_steps: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Mean over steps, layer by layer."""
    return [np.mean(of_layer, axis=0) for of_layer in zip(*of_steps, strict=True)]


class Simulation:
    """A network of segregated compartments that lives on from call to call, by :func:`step`.

    :meth:`example` never clears the state; :meth:`test` starts from rest and leaves it alone.

    Args:
        W, b: weights ``(n_l, n_{l-1})`` and biases ``(n_l,)`` of the layers 1 … L; copied to float64.
        Y: feedback weights ``(n_l, n_L)`` of the hidden layers; copied.
        constants: of the model.
        seed: of the spikes, phase lengths and plateau times.

    Attributes:
        W, b: weights and biases of the layers 1 … L, lists of float64 arrays; :meth:`example` changes them in place.
        Y: feedback weights of the hidden layers, a list; changed if feedback is learned or symmetric.
        etas: learning rates of the layers 1 … L.
        state: what carries over from one example to the next.

    Raises:
        ValueError: the shapes do not fit together, or ``eta`` has another number of layers.

    Source: Guerguiev, Lillicrap & Richards (2017), eqs. 1 to 16; order of operations as in the authors' code.
    """

    def __init__(
        self,
        W: Sequence[np.ndarray],
        b: Sequence[np.ndarray],
        Y: Sequence[np.ndarray],
        constants: SegregatedParameters | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.constants = constants or SegregatedParameters()
        self.synapses = Synapses(*([np.array(a, dtype=np.float64) for a in arrays] for arrays in (W, b, Y)))
        self.W, self.b, self.Y = self.synapses
        self.sizes = (self.W[0].shape[1], *(len(w) for w in self.W))
        self.depth = len(self.W)
        expected = [
            *zip(self.sizes[1:], self.sizes[:-1], strict=True),
            *((n,) for n in self.sizes[1:]),
            *((n, self.sizes[-1]) for n in self.sizes[1:-1]),
        ]
        found = [a.shape for a in (*self.W, *self.b, *self.Y)]
        if found != expected:
            raise ValueError(f"W, b, Y have shapes {found}; a network of {self.sizes} has {expected}")
        self.etas = self.constants.etas(self.depth)
        self.generator = np.random.default_rng(seed)
        self.state = State.at_rest(self.sizes, self.constants.spike_memory)

    def steps(
        self, n: int, x: np.ndarray, label: int | None = None, given: Sequence[np.ndarray] | None = None
    ) -> list[State]:
        """``n`` steps on, the state after each. ``given`` spikes, ``(n, n_l)`` a layer, are replayed."""
        c = self.constants
        states: list[State] = []

        def fire(layer: int, rate: np.ndarray) -> np.ndarray:
            if given is not None:
                return given[layer][len(states)]
            return self.generator.poisson(rate * c.dt) if c.mode == "spiking" else rate

        for _ in range(n):
            self.state = step(self.state, x, label, self.synapses, c, fire)
            states.append(self.state)
        return states

    # --------------------------------------------------------------------------------------------- one example

    def example(
        self,
        x: np.ndarray,
        label: int | None,
        *,
        lengths: tuple[int, ...] | None = None,
        plateaus: np.ndarray | None = None,
        noise: Sequence[np.ndarray] | None = None,
        spikes: Sequence[np.ndarray] | None = None,
        learn: bool = True,
        record: bool = False,
    ) -> Outcome:
        """Show one example: forward phase, plateaus, target phase, plateaus, and the changes of the weights.

        Args:
            x: input in [0, 1], ``(n_0,)``.
            label: in ``0 … n_L - 1``; ``None`` teaches nothing: the target phase is a second forward phase.
            lengths: steps of both phases; drawn if not given.
            plateaus: steps before the end at which the plateaus come, ``(2, hidden units)``; drawn if not given.
            noise: noise of symmetric feedback weights, hidden layers, ``(n_l, n_L)``; drawn if not given.
            spikes: counts to replay, layers 0 … L, each ``(sum of lengths, n_l)``; drawn if not given.
            learn: whether to change the weights.
            record: whether to keep every variable of every step.

        Raises:
            ValueError: an argument has another size or is out of range.
            FloatingPointError: the weights have diverged.
        """
        c = self.constants
        x = self.check(x, 0 if label is None else label)
        lengths = tuple(int(n) for n in (c.draw_lengths(1, self.generator)[0] if lengths is None else lengths))
        if len(lengths) != 2 or min(lengths) < c.window:
            raise ValueError(f"lengths must be two phases of at least the averaging window, {c.window}, not {lengths}")
        if plateaus is None:
            plateaus = c.draw_plateaus(1, sum(self.sizes[1:-1]), self.generator)[0]
        if spikes is not None:
            expected, found = [(sum(lengths), n) for n in self.sizes], [s.shape for s in spikes]
            if found != expected:
                raise ValueError(f"spikes to replay have shapes {found}, expected {expected}")
        self.set_symmetric_feedback(noise)

        given = [None, None] if spikes is None else list(zip(*(np.split(s, lengths[:1]) for s in spikes), strict=True))
        forward, target = phases = [
            self.steps(n, x, taught, replayed)
            for n, taught, replayed in zip(lengths, (None, label), given, strict=True)
        ]
        early = np.split(plateaus, np.cumsum(self.sizes[1:-1])[:-1], axis=1) if self.depth > 1 else []
        seen = [self.apical_means(states, [e[i] for e in early]) for i, states in enumerate(phases)]
        apical_f, apical_t = ([np.sum(Y * m, axis=1) for Y, m in zip(self.Y, means, strict=True)] for means in seen)
        alpha_f, alpha_t = [sigma(a) for a in apical_f], [sigma(a) for a in apical_t]
        soma = _mean([state.soma for state in forward[-c.window :]])
        psp = _mean([state.dendrites.psp for state in forward[-c.window :]])
        target_rate = np.mean([c.phi_max * sigma(state.soma[-1]) for state in target[-c.window :]], axis=0)

        E = [
            -c.k_b * c.phi_max * slope(V) * (at - af)
            for V, at, af in zip(soma[:-1], alpha_t, alpha_f, strict=True)
        ]
        missing = target_rate - c.phi_max * sigma(soma[-1])
        E.append(-c.k_d * c.phi_max * slope(soma[-1]) * missing)
        if not all(np.isfinite(e).all() for e in E):
            raise FloatingPointError("the errors at the dendrites are not finite: training has diverged, lower eta")
        scales = [eta * (c.P_out if layer == self.depth else c.P_hidden) for layer, eta in enumerate(self.etas, 1)]
        delta_b = [-scale * e for scale, e in zip(scales, E, strict=True)]
        delta_W = [np.outer(d, p) for d, p in zip(delta_b, psp, strict=True)]
        delta_Y = [
            self.learn_feedback(V, a, Y, means)
            for V, a, Y, means in zip(soma[:-1], apical_f, self.Y, seen[0], strict=True)
        ]
        if learn:
            for old, change in zip((*self.W, *self.b, *self.Y), (*delta_W, *delta_b, *delta_Y), strict=True):
                old += change
        return Outcome(
            lengths=lengths, plateau_steps=[np.array(lengths)[:, None] - e for e in early], alpha_forward=alpha_f,
            alpha_target=alpha_t, soma=soma, psp=psp, target_rate=target_rate, E=E, delta_W=delta_W, delta_b=delta_b,
            delta_Y=delta_Y, hidden_losses=[float(((at - af) ** 2).sum()) for at, af in zip(alpha_t, alpha_f,
                                                                                         strict=True)],
            output_loss=float((missing**2).sum()), trace=self.trace(phases, c.window) if record else None,
        )

    def apical_means(self, states: Sequence[State], early: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Mean input of each neuron's apical dendrite over the window that its plateau ends, ``(n_l, n_L)`` a layer.

        The voltage is linear in this input, so its mean is ``Y`` times this mean.
        """
        ends = {int(e): len(states) - int(e) for a in early for e in a}
        mean = {
            e: _mean([state.dendrites.feedback for state in states[end - self.constants.window : end]])[0]
            for e, end in ends.items()
        }
        return [np.array([mean[int(e)] for e in of_layer]) for of_layer in early]

    def learn_feedback(self, V: np.ndarray, A: np.ndarray, Y: np.ndarray, means: np.ndarray) -> np.ndarray:
        r"""Change of learned feedback weights: the plateau learns to predict the neuron's own firing.

        .. math:: \Delta Y = \eta_Y P_h\, \big(\sigma(\bar V^f) - \sigma(\bar A^f)\big)\, \sigma'(\bar A^f)\,
                  \bar s_L^\top,

        a descent on :math:`\tfrac12\|\sigma(\bar V^f) - \alpha^f\|^2`, local to the neuron. The authors' code has
        such a rule, unused in the paper, that compares a rate in spikes/ms with a plateau in [0, 1]; here both
        are shares of their maximum. Weights that are zero in a sparse ``Y`` stay zero.
        """
        c = self.constants
        if c.feedback != "learned":
            return np.zeros_like(Y)
        error = (sigma(V) - sigma(A)) * slope(A)
        return c.eta_feedback * c.P_hidden * error[:, None] * means * (Y != 0)

    def set_symmetric_feedback(self, noise: Sequence[np.ndarray] | None = None) -> None:
        """``Y_l = (W_L ⋯ W_{l+1})ᵀ``, with noise if there is any; nothing unless feedback is symmetric.

        A sparse ``Y`` keeps its zeros and its scale.
        """
        c = self.constants
        if c.feedback != "symmetric":
            return
        path = np.eye(self.sizes[-1])
        for layer in range(self.depth - 1, 0, -1):
            path = self.W[layer].T @ path
            Y = self.Y[layer - 1]
            drawn = c.feedback_noise * self.generator.standard_normal(Y.shape) if noise is None else noise[layer - 1]
            Y[:] = (Y != 0) * (path + drawn) / c.feedback_share

    # --------------------------------------------------------------------------------------------------- tests

    def test(
        self, x: np.ndarray, duration: float | None = None, *, spikes: Sequence[np.ndarray] | None = None,
        record: bool = False,
    ) -> tuple[np.ndarray, Trace | None]:
        """Scores of one input, ``(n_L,)``: mean output voltage after ``settle``, from rest; the state stays as it is.

        Args:
            x: input in [0, 1], ``(n_0,)``.
            duration: ms; ``test_phase`` of the constants if not given.
            spikes: counts to replay, layers 0 … L, each ``(steps, n_l)``.
            record: whether to return every variable of every step, too.

        Raises:
            ValueError: the input has another size, or the test is not longer than ``settle``.
        """
        c = self.constants
        x, window = self.check(x, 0), window_of_test(c, duration)
        kept, self.state = self.state, State.at_rest(self.sizes, c.spike_memory)
        try:
            states = self.steps(window + c.steps(c.settle), x, None, spikes)
        finally:
            self.state = kept
        return _mean([state.soma for state in states[-window:]])[-1], self.trace([states], window) if record else None

    def trace(self, phases: Sequence[Sequence[State]], window: int) -> Trace:
        """Every variable of the steps of all phases, the last ``window`` of each averaged."""
        lengths, states = [len(states) for states in phases], [state for states in phases for state in states]
        felt = [state.dendrites for state in states]

        def stacked(of_steps: Iterable[Sequence[np.ndarray]]) -> list[np.ndarray]:
            return [np.array(of_layer) for of_layer in zip(*of_steps, strict=True)]

        return Trace(
            t=self.constants.dt * np.arange(1, sum(lengths) + 1),
            target=np.repeat([False, True][: len(phases)], lengths),
            averaged=np.concatenate([np.arange(n) >= n - window for n in lengths]),
            spikes=stacked([counts[-1] for counts in state.spikes] for state in states),
            psp=stacked(f.psp for f in felt), feedback=stacked(f.feedback for f in felt)[0],
            apical=stacked(f.apical for f in felt), basal=stacked(f.basal for f in felt),
            soma=stacked(state.soma for state in states),
        )

    def check(self, x: np.ndarray, label: int) -> np.ndarray:
        """The input as float64.

        Raises:
            ValueError: it has another size, holds a value outside [0, 1], or the label is not an output unit.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.shape != self.sizes[:1]:
            raise ValueError(f"input has shape {x.shape}, this network takes ({self.sizes[0]},)")
        if not ((x >= 0) & (x <= 1)).all():
            bad = x[~((x >= 0) & (x <= 1))][0]
            raise ValueError(f"input holds {bad}; every value is a share of the highest rate and must be in [0, 1]")
        if not 0 <= label < self.sizes[-1]:
            raise ValueError(f"label {label} is outside 0 … {self.sizes[-1] - 1}")
        return x


def window_of_test(constants: SegregatedParameters, duration: float | None) -> int:
    """Steps of the averaging window of a test of ``duration`` ms.

    Raises:
        ValueError: the test is not longer than ``settle``.
    """
    duration = constants.test_phase if duration is None else duration
    window = constants.steps(duration) - constants.steps(constants.settle)
    if window < 1:
        raise ValueError(
            f"a test of {duration!r} ms is too short to hold the averaging window, which starts after "
            f"settle = {constants.settle!r} ms; it must be longer than that"
        )
    return window
