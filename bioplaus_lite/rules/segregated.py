"""Segregated compartments as a learning rule of this package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.models.segregated.condition import jacobian_condition
from bioplaus_lite.models.segregated.parameters import SegregatedParameters
from bioplaus_lite.models.segregated.rate import RateNetwork, initial_range, rate_update
from bioplaus_lite.models.segregated.readable import ReadableEngine
from bioplaus_lite.models.segregated.simulation import Outcome, Result, Simulation
from bioplaus_lite.models.segregated.weights import Weights
from bioplaus_lite.networks import uniform_like
from bioplaus_lite.rules.base import Held, LearningRule, States, Synapse
from bioplaus_lite.rules.cards import Look, register

if TYPE_CHECKING:
    from bioplaus_lite.models.segregated.compiled import Engine, RateEngine, SharedMemory

__all__ = ["Presented", "SegregatedCompartments"]

ENGINES = ("auto", "readable")


class Presented(NamedTuple):
    """What presented examples gave, a row each.

    ``scores``: mean output voltages in the forward window, ``(N, n_L)``; ``output_loss``:
    :math:`\\|\\varphi^* - \\varphi(\\bar V^f)\\|^2`, ``(N,)``, float64.
    """

    scores: Tensor
    output_loss: Tensor


@register(
    "segregated", label="Segregated compartments", short="Segregated, spikes", family="Compartments",
    cite="guerguiev2017", network=RateNetwork, look=("vermilion", "-"),
    also={"segregated": {}, "segregated_rate": {"short": "Segregated, rates", "look": Look("sky", "--")}},
    settings={
        "Segregated, rates": {
            "network": partial(RateNetwork, constants=SegregatedParameters(mode="rate", voltages="steady"))
        },
    },
)  # fmt: skip
class SegregatedCompartments(LearningRule):
    r"""Neurons with apical and basal dendrites that learn from the difference of two plateau potentials.

    A hidden neuron sums its feedforward input in the basal dendrite, which drives the soma, and feedback from the
    output, :math:`A_l = Y_l s_L`, in the apical dendrite, which (with :math:`g_a = 0`) does not. In a forward phase the
    network answers; in a target phase the output is driven towards the label. At the end of each the apical dendrite
    fires a plateau potential, :math:`\alpha_l = \sigma(\overline A_l)`, and their difference is the error. With
    :math:`\overline s{}^f` the mean postsynaptic potentials of the forward phase,

    .. math::

        \Delta W_l &= \eta P_h\, k_b\, \varphi_{max}\sigma'(\overline V{}_l^f) \odot (\alpha_l^t - \alpha_l^f)\,
            (\overline s{}_{l-1}^f)^\top \qquad (l < L) \\
        \Delta W_L &= \eta P_{out}\, k_d\, \varphi_{max}\sigma'(\overline V{}_L^f) \odot
            (\varphi^* - \varphi(\overline V{}_L^f))\, (\overline s{}_{L-1}^f)^\top

    It learns online: :meth:`learn` shows the examples of a batch one after another and changes the weights after
    each. Voltages and recent spikes carry over from one example to the next; nothing resets them but :meth:`reset`.

    Rates of learning come from the optimiser's groups; :meth:`parameter_groups` puts the model's own ``eta`` there,
    one group a layer, so that schedules work. An optimiser that does more than that, with momentum or decay or
    moments of its own, is refused: there is no place for it between two examples. ``assign_gradients`` answers for
    a batch what the rule would do at weights that stay: the mean over its examples.

    Scores are mean voltages of the output somata: in ``forward`` those of the rate limit, the same for every
    call; in :meth:`predict_spiking` those of a spiking test.

    Args:
        network: the weights, a ``RateNetwork``, which also holds the constants of the model.
        seed: draws the feedback weights ``Y_l``, shape ``(n_l, n_L)``, in the range of ``initial_range``, which
            zeros they have if they are sparse, and all spikes, phase lengths and plateau times.
        threads: 2 lets a second thread draw random numbers ahead; results do not depend on it.
        engine: ``auto``, compiled where it can be (all but the rate mode with an ODE or with ``g_a > 0``);
            ``readable``, the NumPy simulation, some hundred times slower.

    Raises:
        TypeError: ``network`` is not a RateNetwork.
        ValueError: ``engine`` is unknown, or ``threads`` is not a positive whole number.

    Source: Guerguiev, Lillicrap & Richards (2017), eLife 6:e22901. Chapter: *Segregated compartments*.
    """

    takes = RateNetwork
    online = True
    network: RateNetwork

    def __init__(self, network: RateNetwork, *, seed: int = 1, threads: int = 1, engine: str = "auto") -> None:
        super().__init__(network)
        self.seed, self.threads = checks.seed("seed", seed), checks.whole("threads", threads)
        self.engine = checks.one_of("engine", engine, ENGINES)
        self._engine: Engine | RateEngine | ReadableEngine | None = None
        self._memory: SharedMemory | None = None
        self._pending: dict | None = None
        generator = torch.Generator().manual_seed(seed)
        drawn, share = [], self.constants.feedback_share
        for n in network.sizes[1:-1]:
            empty = torch.empty(n, network.sizes[-1], dtype=torch.float64)
            spread = initial_range(n, self.constants.phi_max)
            drawn.append(spread.mean + uniform_like(empty, spread.half_width, generator))
        for layer, Y in enumerate(drawn, 1):
            silent = torch.randperm(Y.numel(), generator=generator)[: round((1 - share) * Y.numel())]
            Y.view(-1)[silent] = 0
            self.register_buffer(f"Y{layer}", (Y / share).to(network.weight(1).dtype))
        if self.constants.feedback == "symmetric":
            self.copy_symmetric()

    @property
    def constants(self) -> SegregatedParameters:
        """The constants of the model."""
        return self.network.constants

    def direct_feedback(self, layer: int) -> Tensor:
        """Feedback weights ``Y_l`` from the output to hidden layer ``layer``, shape ``(n_l, n_L)``."""
        return self._buffers[f"Y{layer}"]

    def feedback(self, layer: int) -> Tensor:
        """Weights that carry the output down to the apical dendrites of ``layer - 1``, ``(n_{l-1}, n_L)``.

        Raises:
            ValueError: there is no hidden layer there.
        """
        return self.direct_feedback(checks.whole("layer", layer, 2, max(self.network.depth, 2)) - 1)

    def sender(self, layer: int) -> int:
        return self.network.depth

    @torch.no_grad()
    def copy_symmetric(self) -> None:
        """``Y_l = (W_L ⋯ W_{l+1})ᵀ``, without noise; the zeros and the scale of a sparse ``Y`` stay."""
        path = torch.eye(self.network.sizes[-1], dtype=self.network.weight(1).dtype)
        for layer in range(self.network.depth - 1, 0, -1):
            path = self.network.weight(layer + 1).T @ path
            Y = self.direct_feedback(layer)
            Y.copy_((Y != 0) * path / self.constants.feedback_share)

    def parameter_groups(self) -> list[dict]:
        """One group a layer, ``forward 1 … L``, each with the model's own learning rate."""
        etas = self.constants.etas(self.network.depth)
        self._refuse_held()
        return [
            {"params": [self.network.weight(l), self.network.bias(l)], "name": f"forward {l}", "lr": eta}
            for l, eta in enumerate(etas, 1)
        ]

    def _refuse_held(self) -> None:
        held = [name for name, p in self.network._parameters.items() if not p.requires_grad]
        if held:
            raise ValueError(f"{', '.join(held)} cannot be held one by one; set the eta of the layer to 0")

    # ------------------------------------------------------------------------------------------------ learning

    def present(self, x: Tensor, y: Tensor, etas: Sequence[float] | None = None) -> Presented:
        """Show examples, one after another, and learn from each.

        Args:
            x: ``(N, n_0)`` in [0, 1].
            y: ``(N,)``, int64 labels.
            etas: learning rates of the layers 1 … L; the model's own if not given. Zeros show without learning.

        Raises:
            ValueError: a shape, a dtype, a value or a label is wrong.
            FloatingPointError: training has diverged.
        """
        self._check(x, y)
        etas = self.constants.etas(self.network.depth) if etas is None else tuple(etas)
        if len(etas) != self.network.depth:
            raise ValueError(f"etas must hold one rate for each of {self.network.depth} layers, not {len(etas)}")
        etas = [checks.number("every entry of etas", eta) for eta in etas]
        result = self._ready().train(x.numpy(), y.numpy(), etas)
        return Presented(torch.as_tensor(result.voltage, dtype=x.dtype), torch.from_numpy(result.loss))

    def learn(self, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Learn online from each example of the batch, at the rates of the optimiser's groups.

        Returns:
            Mean cross-entropy of the scores that the forward phases gave, each before its own update.
        """
        _refuse_what_is_not_a_rate(optimizer)
        self._refuse_held()
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for l in range(1, self.network.depth + 1):
            both = [rates.get(id(p), 0.0) for p in (self.network.weight(l), self.network.bias(l))]
            if both[0] != both[1]:
                raise ValueError(f"W{l} and b{l} learn at one rate, not at {both[0]!r} and {both[1]!r}")
        etas = [float(rates.get(id(self.network.weight(l)), 0.0)) for l in range(1, self.network.depth + 1)]
        presented = self.present(x, y, etas)
        for p in self.network.parameters():
            p.grad = None
        optimizer.step()  # finds no gradients; it only lets a scheduler see that a step was made
        return F.cross_entropy(presented.scores, y)

    def credit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Iterable[Synapse]]:
        """Mean cross-entropy of the scores of the forward phases, and what met at the dendrites in both phases.

        The examples are shown one after another, all to the same weights. In training mode their voltages and spikes
        carry on from the last example seen and to the next one; in evaluation mode all that is taken back, so
        that the same call gives the same answer.
        """
        result = self.traces(x, y, keep_state=self.training)
        loss = F.cross_entropy(torch.as_tensor(result.voltage, dtype=x.dtype), y)
        return loss, self._met(result, x.dtype)

    def _met(self, result: Result, dtype: torch.dtype) -> Iterator[Synapse]:
        """Errors at the dendrites and presynaptic potentials, so that the sum is ``-ΔW / η`` averaged over examples."""
        for layer in range(self.network.depth, 0, -1):
            P = self.constants.P_out if layer == self.network.depth else self.constants.P_hidden
            E = torch.as_tensor(result.E[layer - 1], dtype=dtype)
            psp = torch.as_tensor(result.psp[layer - 1], dtype=dtype)
            post = E * (P / len(E))
            yield Synapse(f"W{layer}", post, psp, total=post.T @ psp)
            yield Synapse(f"b{layer}", post, torch.ones_like(post[:, :1]), total=post.sum(0))

    @torch.no_grad()
    def signals(self, x: Tensor, y: Tensor) -> dict[str, dict[int, Tensor]]:
        """``error``: ``E_l`` at the dendrites of each layer, a row an example; no weight and no state is changed."""
        result = self.traces(x, y)
        return {"error": {layer: torch.as_tensor(E, dtype=x.dtype) for layer, E in enumerate(result.E, 1)}}

    @torch.no_grad()
    def traces(self, x: Tensor, y: Tensor, *, keep_state: bool = False) -> Result:
        """Show examples without learning, and say what the updates would have been made of.

        Returns:
            ``voltage``, ``loss``, ``E``, ``psp`` and ``soma`` as NumPy arrays, a row each example.
        """
        self._check(x, y)
        engine, depth = self._ready(), self.network.depth
        snapshot = None if keep_state else engine.snapshot()
        Y = [self.direct_feedback(l).clone() for l in range(1, depth)]
        try:
            return engine.train(x.numpy(), y.numpy(), (0.0,) * depth, traces=True)
        finally:
            if snapshot is not None:
                engine.restore(snapshot)
                for layer, before in enumerate(Y, 1):  # symmetric feedback may have drawn noise
                    self.direct_feedback(layer).copy_(before)

    # ------------------------------------------------------------------------------------------------ what can be asked

    @torch.no_grad()
    def hold(self, x: Tensor, y: Tensor) -> Held:
        """Hold all spikes (in rate mode: rates) of the examples, each shown from rest, by the readable simulation.

        The output's error is part of its dendrites' voltages and not set apart: ``error`` is ``None``.
        """
        depth, c, shown = self.network.depth, self.constants, self._from_rest(x, y, y.tolist())
        rest = [np.zeros((2, 0), int)]  # a network without hidden layers has no plateaus
        early = [np.array(o.lengths)[:, None] - np.concatenate([*rest, *o.plateau_steps], 1) for o in shown]

        def again(error: Tensor | None = None) -> dict[str, Tensor]:
            if error is not None:
                raise NotImplementedError(f"{type(self).__name__} does not set its top error apart from its voltages")
            simulation, sums = self.simulation(), dict[str, Tensor]()
            for one, label, before, plateaus in zip(x.numpy(), y.tolist(), shown, early, strict=True):
                assert before.trace is not None  # it was asked for
                o = simulation.example(one, label, lengths=before.lengths, plateaus=plateaus.astype(int),
                                       spikes=before.trace.spikes, learn=False)  # fmt: skip
                for l in range(1, depth + 1):
                    P = (c.P_out if l == depth else c.P_hidden) / len(shown)
                    met = torch.from_numpy(np.outer(P * o.E[l - 1], o.psp[l - 1]))
                    sums[f"W{l}"] = sums[f"W{l}"] + met if f"W{l}" in sums else met
            return {name: total.to(x.dtype) for name, total in sums.items()}

        return Held(again, None)

    @torch.no_grad()
    def states(self, x: Tensor, y: Tensor, *, met: bool = False) -> States:
        """Two moments, the ends of the phases: ``plateau`` potentials, mean ``basal``, ``apical``, ``soma`` voltages.

        Each example is shown from rest, by the readable simulation. With ``met`` nothing is taught in the second phase.
        """
        hidden = range(1, self.network.depth)
        shown = self._from_rest(x, y, [None] * len(y) if met else y.tolist())

        def stacked(of: Callable[..., np.ndarray]) -> dict[int, Tensor]:
            return {l: torch.as_tensor(np.array([of(o, l=l - 1) for o in shown]), dtype=x.dtype) for l in hidden}

        def mean(o: Outcome, name: str, l: int, taught: bool) -> np.ndarray:
            assert o.trace is not None  # it was asked for
            return getattr(o.trace, name)[l][o.trace.averaged & (o.trace.target == taught)].mean(0)

        moments = []
        for taught in (False, True):
            voltages = {n: stacked(partial(mean, name=n, taught=taught)) for n in ("basal", "apical", "soma")}
            plateaus = [o.alpha_target if taught else o.alpha_forward for o in shown]
            found = {l: torch.as_tensor(np.array([a[l - 1] for a in plateaus]), dtype=x.dtype) for l in hidden}
            moments.append({"plateau": found} | voltages)
        return States(moments, stacked(lambda o, l: o.E[l]))

    @torch.no_grad()
    def spikeless(self, x: Tensor, y: Tensor) -> dict[str, Tensor] | None:
        """In spiking mode the mean update of the rate limit, by ``rate_update``, which needs ``g_a = 0``."""
        c, depth = self.constants, self.network.depth
        if c.mode != "spiking" or c.g_a:
            return None
        self._check(x, y)
        W, b, Y = ([t.detach().numpy() for t in tensors] for tensors in self._weights())
        sums = {f"W{l}": torch.zeros_like(self.network.weight(l)) for l in range(1, depth + 1)}
        for one, label in zip(x.numpy(), y.tolist(), strict=True):
            update = rate_update(W, b, Y, one, label, c)
            for l in range(1, depth + 1):
                P = (c.P_out if l == depth else c.P_hidden) / len(x)
                sums[f"W{l}"] += torch.from_numpy(np.outer(P * update.E[l - 1], update.psp[l - 1]))
        return sums

    def _from_rest(self, x: Tensor, y: Tensor, taught: Sequence[int | None]) -> list[Outcome]:
        """What the readable simulation makes of each example, from rest, with every variable; nothing is learned."""
        self._check(x, y)
        return [
            self.simulation(seed=self.seed + i).example(one, label, learn=False, record=True)
            for i, (one, label) in enumerate(zip(x.numpy(), taught, strict=True))
        ]

    def predict_spiking(self, x: Tensor, duration: float | None = None, *, seed: int = 0) -> Tensor:
        """Scores of a spiking test, ``(N, n_L)``: mean output voltages after ``settle``, each input from rest.

        Args:
            x: ``(N, n_0)`` in [0, 1].
            duration: ms; ``test_phase`` of the constants if not given.
            seed: of the spikes.

        Raises:
            ValueError: the model is in rate mode, the test is too short, or the input does not fit.
        """
        if self.constants.mode != "spiking":
            raise ValueError("predict_spiking needs the mode 'spiking'; in rate mode the rule itself gives the scores")
        self.network.check_input(x)
        engine = self._ready()
        assert hasattr(engine, "test")  # only that of the rate mode has none
        return torch.as_tensor(engine.test(x.numpy(), duration, seed=seed), dtype=x.dtype)

    def other_answers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"spiking": self.predict_spiking} if self.constants.mode == "spiking" else {}

    def counted_step(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """What an example costs, counted in the readable simulation if there are spikes.

        One addition for each spike and each synapse that it reaches (forward and apical), three products for the
        voltage of each neuron in each step, and the update of every weight; each of them reads a weight or a voltage,
        and an update writes it too. In rate mode the two phases and the update are counted alike, without spikes and
        steps: each phase moves the output's rates up to the apical dendrites once.
        """
        sizes, width = self.network.sizes, self.network.weight(1).element_size()
        weights = sum(below * above for below, above in pairwise(sizes))
        apical = sizes[-1] * sum(sizes[1:-1])
        if self.constants.mode == "rate":
            sums, neurons = float(weights + 2 * apical), 0.0
        else:
            simulation = self.simulation()
            outcomes = [
                simulation.example(one, int(label), learn=False, record=True)
                for one, label in zip(x.numpy(), y, strict=True)
            ]
            reached = [*sizes[1:], sum(sizes[1:-1])]  # by a spike of each layer; the output's go to apical dendrites
            counts = [[float(s.sum()) for s in o.trace.spikes] for o in outcomes if o.trace is not None]
            sums = sum(n * to for spikes in counts for n, to in zip(spikes, reached, strict=True)) / len(x)
            neurons = 3 * sum(sum(o.lengths) for o in outcomes) / len(x) * sum(sizes[1:])
        return sums + neurons + weights, width * (sums + neurons + 2 * weights)

    def jacobian_condition(self, scores: Tensor) -> float:
        """See :func:`~bioplaus_lite.models.segregated.condition.jacobian_condition`, of the weights as they are now.

        Args:
            scores: output voltages of the examples, ``(N, n_L)``: those of the last 100 presented, or ``rule(x)``.

        Raises:
            ValueError: the network has no hidden layer, or the scores have another shape.
        """
        if (depth := self.network.depth) < 2:
            raise ValueError("the Jacobian condition needs a hidden layer, and this network has none")
        return jacobian_condition(self.network.weight(depth), self.direct_feedback(depth - 1), scores, self.constants)

    def objective(self, scores: Tensor, y: Tensor) -> Tensor:
        r"""The model's own loss, of output voltages ``V_L`` as scores.

        .. math:: \mathcal L = \tfrac1N \sum \tfrac12 \|\varphi^* - \varphi_{max}\sigma(V_L)\|^2

        :math:`\varphi^*`, the output rate that the target phase would have, counts as given. The gradient of this by
        autograd is what backpropagation would compute in the rate limit; ``assign_gradients`` holds
        ``gain/φ_max`` (hidden) and ``gain/φ_max²`` (output) times as much.
        """
        c = self.constants
        E = torch.full_like(scores, c.E_I).scatter_(1, y[:, None], c.E_E)
        dendrite = scores.detach() * (c.g_l + c.g_d)
        target = torch.sigmoid((dendrite + c.g_teach * E) / (c.g_l + c.g_d + c.g_teach))
        return 0.5 * (c.phi_max * (target - torch.sigmoid(scores))).square().sum(1).mean()

    def reset(self) -> None:
        """Put all voltages at rest and forget all spikes. Training never does this by itself."""
        engine = self._ready()
        if hasattr(engine, "reset"):
            engine.reset()

    # ------------------------------------------------------------------------------------------------- engines

    def _weights(self) -> Weights:
        layers, network = range(1, self.network.depth + 1), self.network
        return Weights(
            [network.weight(l) for l in layers], [network.bias(l) for l in layers],
            [self.direct_feedback(l) for l in layers[:-1]],
        )  # fmt: skip

    def simulation(self, *, seed: int | None = None) -> Simulation:
        """A readable simulation with copies of the weights as they are now, at rest."""
        return self._weights().simulation(self.constants, seed=self.seed if seed is None else seed)

    def _check(self, x: Tensor, y: Tensor) -> None:
        checks.no_autocast(x)
        if (place := self.network.weight(1).device.type) != "cpu":
            raise ValueError(f"segregated compartments run on the processor, not on {place}; bring them back by cpu()")
        self.network.check_input(x)
        checks.labels(y, len(x), self.network.sizes[-1])

    def _ready(self) -> Engine | RateEngine | ReadableEngine:
        """The engine, made at first use and made anew if the weights have moved to other memory."""
        c = self.constants
        closed_form = c.voltages == "steady" and c.g_a == 0
        if self.engine == "readable" or (c.mode == "rate" and not closed_form):
            if not isinstance(self._engine, ReadableEngine):
                self._engine = ReadableEngine(self._weights, c, seed=self.seed)
        elif self._engine is None or self._memory is None or not self._memory.holds(self._weights()):
            from bioplaus_lite.models.segregated.compiled import Engine, RateEngine  # numba takes a moment to import

            snapshot = self._engine.snapshot() if self._engine is not None else None
            arrays = self._move_weights().arrays
            if c.mode == "rate":
                self._engine = RateEngine(self.network.sizes, c, *arrays, seed=self.seed)
            else:
                self._engine = Engine(self.network.sizes, c, *arrays, seed=self.seed, threads=self.threads)
            if snapshot is not None:
                self._engine.restore(snapshot)
        assert self._engine is not None  # it is made above, or works on these weights
        if self._pending is not None:
            self._engine.restore(self._pending)
            self._pending = None
        return self._engine

    def _move_weights(self) -> SharedMemory:
        """Move the weights to memory as an engine wants it; the parameters become views of that."""
        from bioplaus_lite.models.segregated.compiled import SharedMemory

        self._memory = SharedMemory(self.network.sizes, self.network.weight(1).dtype)
        weights, views = self._weights(), self._memory.views
        for tensor, view in zip((*weights.W, *weights.b, *weights.Y), (*views.W, *views.b, *views.Y), strict=True):
            view.copy_(tensor.detach())
        for parameter, view in zip((*weights.W, *weights.b), (*views.W, *views.b), strict=True):
            parameter.data = view
        for layer, view in enumerate(views.Y, 1):
            self._buffers[f"Y{layer}"] = view
        return self._memory

    # --------------------------------------------------------------------------------------------- state_dict

    def progress_state(self) -> dict[str, Any]:
        """Voltages, recent spikes and the places in the random streams, so that a training can be taken up again."""
        state = self._pending if self._engine is None else self._engine.snapshot()
        return super().progress_state() | {"seed": self.seed, "engine": _to_tensors(state)}

    def take_up(self, state: dict[str, Any]) -> None:
        """Take up the training whose ``progress_state`` this was, at its next example."""
        super().take_up(state)
        self.seed = state["seed"]  # the random streams start from it
        self._engine, self._memory, self._pending = None, None, _to_arrays(state["engine"])

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes an engine of its own: one of this rule would go on working on the weights of this rule.
        pending = self._pending if self._engine is None else self._engine.snapshot()
        return self.__dict__ | {"_engine": None, "_memory": None, "_pending": copy.deepcopy(pending)}


def _refuse_what_is_not_a_rate(optimizer: torch.optim.Optimizer) -> None:
    """Raise ``ValueError`` if an optimiser would do anything but multiply by a rate."""
    if type(optimizer) is not torch.optim.SGD:
        raise ValueError(
            f"a rule that learns online takes only rates from its optimiser, an SGD; it cannot honour "
            f"{type(optimizer).__name__}"
        )
    for group in optimizer.param_groups:
        for option in ("momentum", "dampening", "weight_decay", "nesterov", "maximize"):
            if group[option]:
                raise ValueError(
                    "a rule that learns online takes only rates from its optimiser; it cannot honour "
                    f"{option} {group[option]!r}"
                )


def _to_tensors(value: Any) -> Any:
    """Arrays in a nest of dicts and lists as tensors, which ``torch.load`` reads without unpickling code."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {k: _to_tensors(v) for k, v in value.items()}
    return [_to_tensors(v) for v in value] if isinstance(value, list) else value


def _to_arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {k: _to_arrays(v) for k, v in value.items()}
    return [_to_arrays(v) for v in value] if isinstance(value, list) else value
