"""What a step of learning costs: multiply-accumulates and bytes moved, counted while it runs.

Seconds depend on a machine. These counts do not, and they are what energy goes into: arithmetic, and above all the
way of numbers to and from memory (Horowitz 2014).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bioplaus_lite.rules import LearningRule, SegregatedCompartments

__all__ = ["Cost", "step_cost"]


@dataclass(frozen=True)
class Cost:
    """What learning from one example costs.

    Attributes:
        macs: multiply-accumulates of matrix products and convolutions. With spikes an addition of one weight counts
            as one, though it is cheaper.
        bytes: read and written by all operations, as if nothing stayed in a cache: an upper bound.
    """

    macs: float
    bytes: float


class _Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def step_cost(rule: LearningRule, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Cost:
    """Cost of one step of learning, an example's share of it. The rule is copied and stays as it is.

    Segregated compartments learn from each example on its own. With spikes, the readable simulation shows them the
    examples, and an example costs one addition for each spike and each synapse that it reaches (forward and apical),
    three products for the voltage of each neuron in each step, and the update of every weight; each of them reads a
    weight or a voltage, and an update writes it too. In rate mode the two phases and the update are counted alike,
    without spikes and steps: each phase moves the output's rates up to the apical dendrites once.

    Args:
        rule: any rule.
        x: ``(batch, n_0)``, the batch of the step. The larger it is, the fewer bytes an example costs.
        y: ``(batch,)``, int64 labels.
        optimizer: of the rule's parameters; SGD unless given. Its bytes count.

    Returns:
        A :class:`Cost`.
    """
    if isinstance(rule, SegregatedCompartments):
        return _segregated(rule, x, y)
    options = (type(optimizer), optimizer.defaults) if optimizer else (torch.optim.SGD, {"lr": 0.0})
    trained = copy.deepcopy(rule).train()
    stepper = options[0](trained.parameter_groups(), **options[1])
    trained.learn(x, y, stepper)  # the first step also makes the state of the optimiser
    with FlopCounterMode(display=False) as flops:
        trained.learn(x, y, stepper)
    with _Traffic() as traffic:
        trained.learn(x, y, stepper)
    return Cost(flops.get_total_flops() / 2 / len(x), traffic.bytes / len(x))


def _segregated(rule: SegregatedCompartments, x: Tensor, y: Tensor) -> Cost:
    sizes, width = rule.network.sizes, rule.network.weight(1).element_size()
    weights = sum(below * above for below, above in pairwise(sizes))
    apical = sizes[-1] * sum(sizes[1:-1])
    if rule.constants.mode == "rate":
        sums, neurons = weights + 2 * apical, 0
    else:
        simulation = rule.simulation()
        outcomes = [
            simulation.example(one, int(label), learn=False, record=True)
            for one, label in zip(x.numpy(), y, strict=True)
        ]
        reached = [*sizes[1:], sum(sizes[1:-1])]  # by a spike of each layer; those of the output go to the apical ones
        counts = [[float(s.sum()) for s in o.trace.spikes] for o in outcomes]
        sums = sum(n * to for spikes in counts for n, to in zip(spikes, reached, strict=True)) / len(x)
        neurons = 3 * sum(sum(o.lengths) for o in outcomes) / len(x) * sum(sizes[1:])
    return Cost(sums + neurons + weights, width * (sums + neurons + 2 * weights))
