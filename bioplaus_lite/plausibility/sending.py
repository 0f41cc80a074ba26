"""What a rule sends, seen from outside: every use of weights, upward and downward, counted or turned into spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from bioplaus_lite.layers import Layer
from bioplaus_lite.rules import LearningRule

__all__ = ["Spikes", "poisson", "wires"]

_BY_WEIGHTS = {torch.addmm, Tensor.addmm, Tensor.addmm_}  # their first operand is what the product is added to
_PRODUCTS = {
    torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, Tensor.__rmatmul__, nn.functional.linear,
    torch.conv2d, nn.functional.conv2d, torch.conv_transpose2d, nn.functional.conv_transpose2d,
} | _BY_WEIGHTS  # fmt: skip

Message = Callable[[int, Tensor], Tensor]


class _Downward(Tensor):
    """Feedback weights that notice what they carry: a signal that is multiplied by them goes through ``carry`` first.

    Whatever is made of such weights alone, a transpose or a negative, is such weights again.
    """

    carry: Callable[[Tensor], Tensor]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        weights = next(a for a in (*args, *(kwargs or {}).values()) if isinstance(a, _Downward))
        plain = [a.as_subclass(Tensor) if isinstance(a, _Downward) else a for a in args]
        given = {k: a.as_subclass(Tensor) if isinstance(a, _Downward) else a for k, a in (kwargs or {}).items()}
        others = [i for i, a in enumerate(args) if isinstance(a, Tensor) and not isinstance(a, _Downward)]
        if func in _PRODUCTS:
            signal = next(i for i in others if i > 0 or func not in _BY_WEIGHTS)
            plain[signal] = weights.carry(plain[signal])
        out = func(*plain, **given)
        if func not in _PRODUCTS and not others and isinstance(out, Tensor) and out.ndim >= 2:
            out = out.as_subclass(_Downward)
            out.carry = weights.carry
        return out


class _Hooked:
    """A layer of which ``up`` sees, and changes, what it reads."""

    def __init__(self, layer: Layer, number: int, up: Message) -> None:
        self._layer, self._number, self._up = layer, number, up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def current(self, weight: Tensor, bias: Tensor | None, below: Tensor) -> Tensor:
        return self._layer.current(weight, bias, self._up(self._number, below))


@contextmanager
def wires(rule: LearningRule, *, up: Message, down: Message) -> Iterator[None]:
    """Put hooks on all that one layer of a rule sends to another, for as long as the block lasts.

    Upward a message is what a layer reads to make its currents; downward, what is multiplied by the weights that
    ``rule.feedback`` gives.

    Args:
        rule: whose messages they are.
        up: ``up(layer, below)`` gives what ``layer`` reads in place of ``below``.
        down: ``down(layer, signal)`` gives what arrives in place of a signal that ``feedback(layer)`` carries.
    """
    network, feedback, layers = rule.network, rule.feedback, rule.network.layers

    def hooked(layer: int) -> Tensor:
        weights = feedback(layer).detach().as_subclass(_Downward)
        weights.carry = lambda signal: down(layer, signal)
        return weights

    network.layers = tuple(cast(Layer, _Hooked(layer, number, up)) for number, layer in enumerate(layers, 1))
    rule.__dict__["feedback"] = hooked
    try:
        yield
    finally:
        network.layers = layers
        del rule.__dict__["feedback"]


def poisson(signal: Tensor, time: float, generator: torch.Generator, *, highest: float = 0.2) -> Tensor:
    """A signal as counts of Poisson spikes in ``time`` ms tell it, in its own unit and shape.

    The largest size in it is sent at ``highest`` spikes/ms by one cell; what is negative is sent by a second one.
    """
    scale = highest * time / signal.abs().max().clamp(min=torch.finfo(signal.dtype).tiny)
    return torch.poisson(signal.abs() * scale, generator=generator) / scale * signal.sign()


class Spikes:
    """Messages as spikes: ``up`` and ``down`` for :func:`wires`. The same activity is sent by the same spikes to all.

    Args:
        time: for which a message is sent, ms.
        seed: of the spikes.
    """

    def __init__(self, time: float, seed: int) -> None:
        self.time, self.generator = time, torch.Generator().manual_seed(seed)
        self.sent: dict[int, tuple[Tensor, Tensor]] = {}  # by identity; both are kept, so that no identity is reused
        self.messages = 0

    def up(self, layer: int, below: Tensor) -> Tensor:
        """The counts that stand for ``below``, drawn when it is first sent."""
        self.messages += 1
        if id(below) not in self.sent:
            self.sent[id(below)] = below, poisson(below, self.time, self.generator)
        return self.sent[id(below)][1]

    def down(self, layer: int, signal: Tensor) -> Tensor:
        """The counts that stand for a signal that goes down."""
        self.messages += 1
        return poisson(signal, self.time, self.generator)

    def heard(self, pre: Tensor) -> Tensor:
        """What a synapse sees of the activity ``pre``: the spikes by which it was sent, if it was."""
        return self.sent[id(pre)][1] if id(pre) in self.sent else pre
