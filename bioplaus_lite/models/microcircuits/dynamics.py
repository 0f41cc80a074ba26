"""The model in continuous time: one Euler step after another, in float64 NumPy, every voltage on record.

Circuit ``k`` holds the pyramidal cells of hidden layer ``k`` and one interneuron for each pyramidal cell of layer
``k + 1``. Arrays of voltages have the shape ``(batch, cells)``. A batch is so many copies of the network that see
different patterns at the same time and share their synapses, whose changes add up; with a batch of one it is the
network of the paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bioplaus_lite.models.microcircuits.parameters import MicrocircuitParameters

__all__ = [
    "Compartments",
    "Progress",
    "Recording",
    "Simulation",
    "State",
    "TeacherRegression",
    "Weights",
    "compartments",
    "random_weights",
    "self_predicting",
    "step",
    "teacher_regression",
]


class Weights(NamedTuple):
    """All synapses of a network of ``L`` layers.

    ``up``: between pyramidal cells, layers 1 … L, each ``(n_l, n_{l-1})``. The others belong to the circuits
    1 … L-1: ``down``, from the pyramidal cells above to apical dendrites, ``(n_k, n_{k+1})``; ``IP``, from
    pyramidal cells to interneurons, ``(n_{k+1}, n_k)``; ``PI``, from interneurons to apical dendrites,
    ``(n_k, n_{k+1})``.
    """

    up: tuple[np.ndarray, ...]
    down: tuple[np.ndarray, ...]
    IP: tuple[np.ndarray, ...]
    PI: tuple[np.ndarray, ...]


class State(NamedTuple):
    """What a network carries from one step to the next.

    ``x``, ``target``: input rates and target voltages after their low-pass filter, ``(batch, n_0)`` and
    ``(batch, n_L)``; ``u``: somatic voltages of the pyramidal cells, layers 1 … L; ``u_I``: of the interneurons,
    circuits 1 … L-1, each ``(batch, n_{k+1})``; ``weights``; ``change``: the low-passed plasticity of each weight.
    """

    x: np.ndarray
    target: np.ndarray
    u: tuple[np.ndarray, ...]
    u_I: tuple[np.ndarray, ...]
    weights: Weights
    change: Weights


class Compartments(NamedTuple):
    """What follows from a state at once.

    ``r``: rates of the layers 0 … L; ``r_I``: of the interneurons; ``v_B``: basal voltages of the layers 1 … L, and
    ``v_B_hat`` what the soma would be if they alone drove it; ``v_I``, ``v_I_hat``: the same of the interneurons'
    dendrites; ``top_down``, ``lateral``: the two inputs of the apical dendrites of the layers 1 … L-1, and ``v_A``
    their sum, the apical voltage.
    """

    r: tuple[np.ndarray, ...]
    r_I: tuple[np.ndarray, ...]
    v_B: tuple[np.ndarray, ...]
    v_B_hat: tuple[np.ndarray, ...]
    v_I: tuple[np.ndarray, ...]
    v_I_hat: tuple[np.ndarray, ...]
    top_down: tuple[np.ndarray, ...]
    lateral: tuple[np.ndarray, ...]
    v_A: tuple[np.ndarray, ...]


def random_weights(
    sizes: Sequence[int], *, up: float | Sequence[float] = 1.0, down: float = 1.0, lateral: float = 1.0, seed: int = 0
) -> Weights:
    """Weights of a network with ``sizes`` cells, layers 0 … L, uniform in ± the given half-widths.

    ``up`` may give one half-width for each layer, from the first hidden layer up.
    """
    generator = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(sizes))  # (n_{l-1}, n_l)
    n_up, n_down = [pair[::-1] for pair in pairs], pairs[1:]

    def draw(shapes: Sequence[tuple[int, int]], half_width: float | Sequence[float]) -> tuple[np.ndarray, ...]:
        widths = np.broadcast_to(half_width, len(shapes))
        return tuple(generator.uniform(-w, w, shape) for w, shape in zip(widths, shapes, strict=True))

    return Weights(draw(n_up, up), draw(n_down, down), draw([s[::-1] for s in n_down], lateral), draw(n_down, lateral))


def self_predicting(weights: Weights, c: MicrocircuitParameters) -> Weights:
    r"""The same weights with those of the interneurons in the self-predicting state.

    .. math::

        W^{PI}_k = -W^{down}_k, \qquad
        W^{IP}_k = \frac{g_l + g_D}{g_l + g_B + g_A} \frac{g_B}{g_D}\, W^{up}_{k+1}

    with :math:`g_A = 0` where layer ``k + 1`` is the output. Without a target, interneurons then do what the pyramidal
    cells above do, and cancel them exactly at the apical dendrites.
    """
    L = len(weights.up)
    IP = [c.attenuation(l == L) / c.attenuation_I * weights.up[l - 1] for l in range(2, L + 1)]
    return weights._replace(IP=tuple(IP), PI=tuple(-W for W in weights.down))


def compartments(state: State, c: MicrocircuitParameters) -> Compartments:
    r"""Rates and dendritic voltages of a state.

    .. math::

        v_{B,l} = W^{up}_l r_{l-1}, \qquad v_{I,k} = W^{IP}_k r_k, \qquad
        v_{A,k} = W^{down}_k r_{k+1} + W^{PI}_k r_{I,k}, \qquad r = \varphi(u)
    """
    W, L = state.weights, len(state.u)
    r, r_I = (state.x, *map(c.phi, state.u)), tuple(map(c.phi, state.u_I))
    v_B = tuple(below @ w.T for below, w in zip(r, W.up, strict=False))
    v_I = tuple(below @ w.T for below, w in zip(r[1:], W.IP, strict=False))
    top_down = tuple(above @ w.T for above, w in zip(r[2:], W.down, strict=True))
    lateral = tuple(inter @ w.T for inter, w in zip(r_I, W.PI, strict=True))
    return Compartments(
        r,
        r_I,
        v_B,
        tuple(c.attenuation(l == L) * v for l, v in enumerate(v_B, 1)),
        v_I,
        tuple(c.attenuation_I * v for v in v_I),
        top_down,
        lateral,
        tuple(a + b for a, b in zip(top_down, lateral, strict=True)),
    )


def _products(state: State, v: Compartments, c: MicrocircuitParameters) -> tuple[tuple[np.ndarray | float, ...], ...]:
    """What the local rules multiply at each synapse, a difference after it and a rate before it, summed over copies.

    In the order of :class:`Weights`; zero for weights that do not learn.
    """
    L, circuits = len(state.u), range(len(state.u_I))
    none = (0.0,) * len(circuits)
    up = tuple((v.r[l] - c.phi(v.v_B_hat[l - 1])).T @ v.r[l - 1] if c.etas(L)[l - 1] else 0.0 for l in range(1, L + 1))
    IP = tuple((v.r_I[k] - c.phi(v.v_I_hat[k])).T @ v.r[k + 1] for k in circuits) if c.eta_IP else none
    PI = tuple(-v.v_A[k].T @ v.r_I[k] for k in circuits) if c.eta_PI else none
    down = tuple((v.r[k + 1] - c.phi(v.top_down[k])).T @ v.r[k + 2] for k in circuits) if c.eta_down else none
    return up, down, IP, PI


def step(
    state: State,
    x: np.ndarray,
    target: np.ndarray | None,
    c: MicrocircuitParameters,
    xi: Sequence[np.ndarray] | None = None,
) -> State:
    r"""The state one ``dt`` later; every right-hand side is taken at the state given, which is not changed.

    .. math::

        \dot u_l &= -g_l u_l + g_B (v_{B,l} - u_l) + g_A (v_{A,l} - u_l) + \varsigma\xi, \qquad l < L \\
        \dot u_L &= -g_l u_L + g_B (v_{B,L} - u_L) + g_{som} (u^{trgt} - u_L) + \varsigma\xi \\
        \dot u_{I,k} &= -g_l u_{I,k} + g_D (v_{I,k} - u_{I,k}) + g_{som} (u_{k+1} - u_{I,k}) + \varsigma\xi

    and all synapses at all times, through :math:`\tau_w \dot\Delta = -\Delta + (\ldots)`, :math:`\dot W = \eta\Delta`:

    .. math::

        W^{up}_l &: (\varphi(u_l) - \varphi(\hat v_{B,l}))\, r_{l-1}^\top & \qquad
        W^{IP}_k &: (\varphi(u_{I,k}) - \varphi(\hat v_{I,k}))\, r_k^\top \\
        W^{PI}_k &: -v_{A,k}\, r_{I,k}^\top &
        W^{down}_k &: (\varphi(u_k) - \varphi(W^{down}_k r_{k+1}))\, r_{k+1}^\top

    :math:`\hat v` is a dendrite's voltage times the cell's attenuation. Input and target are low-passed,
    :math:`\tau_0 \dot r_0 = x - r_0`. Without a target the term with :math:`u^{trgt}` is missing, and the filtered
    target follows the output, so that nudging starts from no error.

    Args:
        state: as it is now.
        x: input rates, ``(batch, n_0)``.
        target: target voltages of the output, ``(batch, n_L)``; ``None`` for no target.
        c: the constants.
        xi: standard normal noise of the somata: pyramidal layers 1 … L, then interneurons 1 … L-1; ``None`` for none.

    Source: Sacramento, Costa, Bengio & Senn (2018), the model equations.
    """
    v, L = compartments(state, c), len(state.u)
    slopes = []
    for l, u in enumerate(state.u, 1):
        du = -c.g_l * u + c.g_B * (v.v_B[l - 1] - u)
        if l < L:
            du += c.g_A * (v.v_A[l - 1] - u)
        elif target is not None:
            du += c.g_som * (state.target - u)
        slopes.append(du)
    for k, u in enumerate(state.u_I):
        slopes.append(-c.g_l * u + c.g_D * (v.v_I[k] - u) + c.g_som * (state.u[k + 1] - u))
    somata = [u + c.dt * du for u, du in zip((*state.u, *state.u_I), slopes, strict=True)]
    if xi is not None:
        somata = [u + math.sqrt(c.dt) * c.noise * z for u, z in zip(somata, xi, strict=True)]

    product, a_w, a_0 = _products(state, v, c), c.dt / c.tau_w, c.dt / c.tau_0
    etas = (c.etas(L), *((eta,) * (L - 1) for eta in (c.eta_down, c.eta_IP, c.eta_PI)))
    change, weights = [], []
    for kind, old in enumerate(state.change):
        new = tuple(d + a_w * (p - d) if eta else d for d, p, eta in zip(old, product[kind], etas[kind], strict=True))
        change.append(new)
        moved = zip(state.weights[kind], new, etas[kind], strict=True)
        weights.append(tuple(w + c.dt * eta * d if eta else w for w, d, eta in moved))
    return State(
        state.x + a_0 * (x - state.x),
        somata[L - 1] if target is None else state.target + a_0 * (target - state.target),
        tuple(somata[:L]),
        tuple(somata[L:]),
        Weights(*weights),
        Weights(*change),
    )


class Recording(NamedTuple):
    """Voltages over time; ``T`` records, lists by layer or circuit.

    ``t``: ms from the start of the recording, ``(T,)``; ``u``, ``v_B_hat``: layers 1 … L, each ``(T, batch, n_l)``;
    ``u_I``, ``v_I_hat``: circuits 1 … L-1, each ``(T, batch, n_{k+1})``; ``top_down``, ``lateral``, ``v_A``: of the
    same circuits, ``(T, batch, n_k)``; ``target``: filtered, ``(T, batch, n_L)``.
    """

    t: np.ndarray
    u: list[np.ndarray]
    v_B_hat: list[np.ndarray]
    u_I: list[np.ndarray]
    v_I_hat: list[np.ndarray]
    top_down: list[np.ndarray]
    lateral: list[np.ndarray]
    v_A: list[np.ndarray]
    target: np.ndarray


class Progress(NamedTuple):
    r"""How learning went, one row for each presentation of ``batch`` patterns, taken at its end.

    ``patterns``: patterns seen, ``(T,)``; ``apical``: root mean square of the apical voltages, relative to that of
    their top-down part, circuits 1 … L-1, ``(T, L-1)``; ``IP``, ``PI``: relative distance of the interneurons' weights
    from the self-predicting state, such as :math:`\|W^{PI} + W^{down}\| / \|W^{down}\|`, ``(T, L-1)``; ``loss``: mean
    squared distance of the output's basal prediction from the target, ``(T,)``, nan without a target.
    """

    patterns: np.ndarray
    apical: np.ndarray
    IP: np.ndarray
    PI: np.ndarray
    loss: np.ndarray


class Simulation:
    """A network of dendritic microcircuits that lives on from call to call.

    Args:
        weights: all synapses; copied.
        constants: of the model; those of the paper if not given.
        batch: copies of the network that run side by side and share their synapses.
        seed: of the noise.

    Raises:
        ValueError: the shapes of the weights do not fit, or ``batch`` is not a positive whole number.
    """

    def __init__(
        self, weights: Weights, constants: MicrocircuitParameters | None = None, *, batch: int = 1, seed: int = 0
    ) -> None:
        self.constants = constants or MicrocircuitParameters()
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch must be a positive whole number, not {batch!r}")
        self.batch = batch
        self.sizes = (weights.up[0].shape[1], *(len(w) for w in weights.up))
        expected, found = (
            [[w.shape for w in kind] for kind in ws] for ws in (random_weights(self.sizes, seed=0), weights)
        )
        if found != expected:
            raise ValueError(f"weights have shapes {found}; a network of {self.sizes} has {expected}")
        self.constants.etas(len(weights.up))
        self.generator = np.random.default_rng(seed)
        self.state = self._at_rest(Weights(*(tuple(np.array(w, np.float64) for w in kind) for kind in weights)), batch)

    def _at_rest(self, weights: Weights, batch: int) -> State:
        cells = [np.zeros((batch, n)) for n in self.sizes]
        nothing = Weights(*(tuple(np.zeros_like(w) for w in kind) for kind in weights))
        return State(cells[0], cells[-1], tuple(cells[1:]), tuple(cells[2:]), weights, nothing)

    @property
    def weights(self) -> Weights:
        """The synapses as they are now."""
        return self.state.weights

    def _check(self, x: np.ndarray, target: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        checked: list[Any] = []
        for name, a, n in (("x", x, self.sizes[0]), ("target", target, self.sizes[-1])):
            if a is None:
                checked.append(None)
                continue
            a = np.atleast_2d(np.asarray(a, np.float64))
            if a.ndim != 2 or len(a) == 0 or a.shape[1] != n:
                raise ValueError(f"{name} has shape {np.shape(a)}, this network takes (patterns ≥ 1, {n})")
            if not np.isfinite(a).all():
                raise ValueError(f"{name} holds {a[~np.isfinite(a)][0]}; every value must be finite")
            checked.append(a)
        if checked[1] is not None and len(checked[0]) != len(checked[1]):
            raise ValueError(f"{len(checked[0])} patterns and {len(checked[1])} targets; both must be equal")
        return checked[0], checked[1]

    def _noise(self) -> list[np.ndarray] | None:
        if not self.constants.noise:
            return None
        somata = (*self.state.u, *self.state.u_I)
        drawn = self.generator.standard_normal((self.batch, sum(u.shape[1] for u in somata)))
        return np.split(drawn, np.cumsum([u.shape[1] for u in somata])[:-1], axis=1)

    def _finite(self, state: State) -> State:
        if not all(np.isfinite(a).all() for a in (*state.u, *state.u_I, *itertools.chain(*state.weights))):
            raise FloatingPointError("a voltage or weight is not finite: learning has diverged, lower the rates eta")
        return state

    def run(self, x: np.ndarray, target: np.ndarray | None = None) -> Progress:
        """Show patterns for ``pattern`` ms each, ``batch`` of them at a time, and let all plastic synapses learn.

        Args:
            x: input rates, ``(patterns, n_0)``; their number is a multiple of ``batch``.
            target: target voltages, ``(patterns, n_L)``; ``None`` for no target.

        Raises:
            ValueError: a shape is wrong or a value not finite.
            FloatingPointError: learning has diverged.
        """
        x, target = self._check(x, target)
        if len(x) % self.batch:
            raise ValueError(f"the number of patterns must be a multiple of batch = {self.batch}, not {len(x)}")
        rows = []
        for first in range(0, len(x), self.batch):
            part = slice(first, first + self.batch)
            wanted = None if target is None else target[part]
            state = self.state
            with np.errstate(over="ignore", invalid="ignore"):  # told as an error below
                for _ in range(self.constants.steps(self.constants.pattern)):
                    state = step(state, x[part], wanted, self.constants, self._noise())
            self.state = self._finite(state)
            rows.append(self._row(first + self.batch, wanted))
        return Progress(*(np.array(column) for column in zip(*rows, strict=True)))

    def _row(self, patterns: int, target: np.ndarray | None) -> tuple:
        v, W = compartments(self.state, self.constants), self.weights
        goal = self_predicting(W, self.constants)

        def relative(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> list[np.floating]:
            return [np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(a, b, strict=True)]

        def distance(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> list[np.floating]:
            return relative(tuple(p - q for p, q in zip(a, b, strict=True)), b)

        loss = math.nan if target is None else np.mean((target - v.v_B_hat[-1]) ** 2)
        return patterns, relative(v.v_A, v.top_down), distance(W.IP, goal.IP), distance(W.PI, goal.PI), loss

    def record(self, x: np.ndarray, target: np.ndarray | None = None, *, duration: float, every: int = 10) -> Recording:
        """Go on for ``duration`` ms with one pattern for each copy, plasticity on, and keep every ``every``-th step.

        Args:
            x: ``(batch, n_0)`` or ``(n_0,)``.
            target: ``(batch, n_L)`` or ``(n_L,)``; ``None`` for no target.
            duration: ms.
            every: steps between two records.

        Raises:
            ValueError: a shape is wrong, a value not finite, or ``every`` out of range.
            FloatingPointError: learning has diverged.
        """
        x, target = self._check(x, target)
        if len(x) != self.batch:
            raise ValueError(f"x holds {len(x)} patterns; this simulation has {self.batch} copies, one for each")
        steps = self.constants.steps(duration)
        if isinstance(every, bool) or not isinstance(every, int) or not 1 <= every <= steps:
            raise ValueError(
                f"every must be a whole number from 1 to the {steps} steps of {duration!r} ms, not {every!r}"
            )
        t, rows, targets, state = [], [], [], self.state
        with np.errstate(over="ignore", invalid="ignore"):
            for n in range(1, steps + 1):
                state = step(state, x, target, self.constants, self._noise())
                if n % every == 0:
                    v = compartments(state, self.constants)
                    t.append(n * self.constants.dt)
                    rows.append((state.u, v.v_B_hat, state.u_I, v.v_I_hat, v.top_down, v.lateral, v.v_A))
                    targets.append(state.target)
        self.state = self._finite(state)
        u, v_B_hat, u_I, v_I_hat, top_down, lateral, v_A = (
            [np.array(cells) for cells in zip(*column, strict=True)] for column in zip(*rows, strict=True)
        )
        return Recording(np.array(t), u, v_B_hat, u_I, v_I_hat, top_down, lateral, v_A, np.array(targets))

    def settle(
        self, x: np.ndarray, target: np.ndarray | None = None, *, duration: float = 60.0
    ) -> tuple[State, Compartments]:
        """Where the voltages come to rest, from 0, with noise and plasticity off. The simulation itself stays as it is.

        Args:
            x: ``(patterns, n_0)``, any number of patterns.
            target: ``(patterns, n_L)``; ``None`` for no target.
            duration: ms. Input and target are unfiltered, so that the slowest rate is that of the somata.

        Raises:
            ValueError: a shape is wrong or a value not finite.
        """
        x, target = self._check(x, target)
        c = self.constants.replace(noise=0.0, eta_up=0.0, eta_IP=0.0, eta_PI=0.0, eta_down=0.0)
        state = self._at_rest(self.weights, len(x))._replace(x=x)
        if target is not None:
            state = state._replace(target=target)
        for _ in range(c.steps(duration)):
            state = step(state, x, target, c)
        return state, compartments(state, c)


class TeacherRegression(NamedTuple):
    """What :func:`teacher_regression` gives.

    ``before``, ``after``: mean squared error of the output on unseen patterns without a target, as a share of the
    variance of the targets (1 is what a constant output can reach); ``progress``: of the learning; ``simulation``: the
    student after it; ``x``, ``target``: the unseen patterns, ``(100, n_0)`` and ``(100, n_L)``.
    """

    before: float
    after: float
    progress: Progress
    simulation: Simulation
    x: np.ndarray
    target: np.ndarray


#: For the regression: somewhat coarser in time, and a transfer function whose cells all answer, so that it learns in
#: seconds. At ``theta = 3`` most cells of a small random network are silent. Rates ten times as high oscillate and
#: diverge: a synapse hears of what it changed only after the delays of somata and filters.
REGRESSION = MicrocircuitParameters(
    dt=0.25, pattern=50.0, gamma=1.0, theta=0.0, eta_up=(0.02, 0.001), eta_IP=0.002, eta_PI=0.001
)


def teacher_regression(
    constants: MicrocircuitParameters = REGRESSION,
    *,
    sizes: Sequence[int] = (30, 20, 10),
    patterns: int = 3200,
    batch: int = 16,
    seed: int = 0,
) -> TeacherRegression:
    """A student network learns what a teacher network of the same sizes answers to random patterns.

    The student starts in the self-predicting state and goes on learning all weights but those going down, at all times;
    nothing ever tells it that a pattern begins or ends. Inputs are uniform in [0, 1], the target is the teacher's
    somatic output voltage.

    Args:
        constants: of the model; ``eta_up`` fits the depth.
        sizes: of both networks.
        patterns: shown to the student; a multiple of ``batch``. 3200 take about 6 s on one core.
        batch: copies that see different patterns at the same time.
        seed: of teacher, student, patterns and noise.

    Raises:
        ValueError: an argument is out of range.
        FloatingPointError: learning has diverged.
    """
    generator = np.random.default_rng([seed, 0])
    depth = len(sizes) - 1
    teacher, student = (
        self_predicting(random_weights(sizes, up=(first, *[above] * (depth - 1)), seed=seed + i), constants)
        for i, (first, above) in enumerate(((2.0, 1.0), (1.0, 0.5)))
    )
    x = generator.random((patterns + 100, sizes[0]))
    target = Simulation(teacher, constants).settle(x, duration=30.0)[1].v_B_hat[-1]
    seen, unseen = slice(None, patterns), slice(patterns, None)
    simulation = Simulation(student, constants, batch=batch, seed=seed)

    def error() -> float:
        output = simulation.settle(x[unseen], duration=30.0)[0].u[-1]
        return float(np.mean((output - target[unseen]) ** 2) / np.mean(np.var(target[unseen], axis=0)))

    before = error()
    progress = simulation.run(x[seen], target[seen])
    return TeacherRegression(before, error(), progress, simulation, x[unseen], target[unseen])
