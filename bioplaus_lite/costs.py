"""What a step of learning costs: multiply-accumulates and bytes moved, counted while it runs.

Seconds depend on a machine. These counts do not, and they are what energy goes into: arithmetic, and above all the
way of numbers to and from memory (Horowitz 2014).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bioplaus_lite import checks
from bioplaus_lite.rules import LearningRule

__all__ = ["Cost", "step_cost"]


def _product_in_place(into: Any, a: Any, b: Any, **kwargs: Any) -> int:
    """Operations of ``into.addmm_(a, b)``, from shapes."""
    return 2 * a[0] * a[1] * b[1]


IN_PLACE = {torch.ops.aten.addmm_: _product_in_place}  # PyTorch's counter knows this product only out of place


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

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def step_cost(rule: LearningRule, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Cost:
    """Cost of one step of learning, an example's share of it. The rule is copied and stays as it is.

    A rule that does not learn by tensor arithmetic counts for itself: see
    :meth:`~bioplaus_lite.rules.base.LearningRule.counted_step`.

    Args:
        rule: any rule.
        x: ``(batch, n_0)``, the batch of the step. The larger it is, the fewer bytes an example costs.
        y: ``(batch,)``, int64 labels.
        optimizer: of the rule's parameters; SGD unless given. Its bytes count.

    Returns:
        A :class:`Cost`.
    """
    if counted := rule.counted_step(x, y):
        return Cost(*counted)
    checks.finite_input(x)
    options = (type(optimizer), optimizer.defaults) if optimizer else (torch.optim.SGD, {"lr": 0.0})
    trained = copy.deepcopy(rule).train()
    stepper = options[0](trained.parameter_groups(), **options[1])
    trained.learn(x, y, stepper)  # the first step also makes the state of the optimiser
    with checks.looked_at(), FlopCounterMode(display=False, custom_mapping=IN_PLACE) as flops:
        trained.learn(x, y, stepper)
    with checks.looked_at(), _Traffic() as traffic:
        trained.learn(x, y, stepper)
    return Cost(flops.get_total_flops() / 2 / len(x), traffic.bytes / len(x))
