"""What a rule sends, seen from outside: every use of weights, upward and downward, counted or turned into spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bioplaus_lite.layers import Layer
from bioplaus_lite.rules import LearningRule

__all__ = ["Spikes", "answering_by", "instead_of_feedback", "poisson", "wires"]

_ADDED = {torch.addmm, Tensor.addmm, Tensor.addmm_}  # their first operand is what the product is added to, no factor
_PRODUCTS = {
    torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__, Tensor.__rmatmul__, nn.functional.linear,
    torch.einsum, torch.inner, Tensor.inner, torch.tensordot, torch.conv2d, nn.functional.conv2d,
    torch.conv_transpose2d, nn.functional.conv_transpose2d,
} | _ADDED  # fmt: skip

Message = Callable[[int, Tensor], Tensor]


class _Downward(Tensor):
    """Feedback weights that notice what they carry: a signal that is multiplied by them goes through ``carry`` first.

    Whatever is made of such weights alone, a transpose or a product, is such weights again; so are weights whose every
    entry is changed, by a mask or a sign.
    """

    carry: Callable[[Tensor], Tensor]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        plain, named = tree_map(_as_plain, (list(args), kwargs or {}))
        weights = next(a for a in tree_leaves((args, kwargs)) if isinstance(a, _Downward))
        operands = [*enumerate(args), *(kwargs or {}).items()][func in _ADDED :]
        factors = [(place, a) for place, a in operands if isinstance(a, Tensor)]
        signals = [place for place, a in factors if not isinstance(a, _Downward)]
        if func in _PRODUCTS and signals and len(signals) < len(factors):
            signal = signals[0]  # what comes after it is a bias
            held: Any = plain if isinstance(signal, int) else named
            held[signal] = weights.carry(held[signal])
        out = func(*plain, **named)
        if isinstance(out, Tensor) and out.ndim >= 2:
            alone = not any(isinstance(a, Tensor) and not isinstance(a, _Downward) for a in tree_leaves((args, kwargs)))
            if alone or (func not in _PRODUCTS and out.shape == _as_plain(weights).shape):
                out = out.as_subclass(_Downward)
                out.carry = weights.carry
        return out


def _as_plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, _Downward) else value


class _Hooked:
    """A layer of which ``up`` sees, and changes, what it reads."""

    def __init__(self, layer: Layer, number: int, up: Message) -> None:
        self._layer, self._number, self._up = layer, number, up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def current(self, weight: Tensor, bias: Tensor | None, below: Tensor) -> Tensor:
        return self._layer.current(weight, bias, self._up(self._number, below))


@contextmanager
def instead_of_feedback(rule: LearningRule, feedback: Callable[[int], Tensor]) -> Iterator[None]:
    """Let ``rule.feedback`` be another function for as long as the block lasts."""
    before = vars(rule).get("feedback")
    vars(rule)["feedback"] = feedback
    try:
        yield
    finally:
        del vars(rule)["feedback"]
        if before is not None:
            vars(rule)["feedback"] = before


class _True(_Hooked):
    """A layer that answers by weights other than those that it is given."""

    def __init__(self, layer: Layer, weight: Tensor) -> None:
        super().__init__(layer, 0, lambda _, below: below)
        self._weight = weight

    def current(self, weight: Tensor, bias: Tensor | None, below: Tensor) -> Tensor:
        return self._layer.current(self._weight, bias, below)


@contextmanager
def answering_by(rule: LearningRule, layer: int, weight: Tensor) -> Iterator[None]:
    """Let a layer answer by ``weight`` for as long as the block lasts, whatever ``network.weight(layer)`` is."""
    layers = rule.network.layers
    true = cast(Layer, _True(layers[layer - 1], weight))
    rule.network.layers = (*layers[: layer - 1], true, *layers[layer:])
    try:
        yield
    finally:
        rule.network.layers = layers


@contextmanager
def wires(rule: LearningRule, *, up: Message, down: Message) -> Iterator[None]:
    """Put hooks on all that one layer of a rule sends to another, for as long as the block lasts.

    Upward a message is what a layer reads to make its currents; downward, what is multiplied by the weights that
    ``rule.feedback`` gives. What goes another way, through weights of neither, is not seen.

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
    try:
        with instead_of_feedback(rule, hooked):
            yield
    finally:
        network.layers = layers


def poisson(signal: Tensor, time: float, generator: torch.Generator, *, highest: float = 0.2) -> Tensor:
    """A signal as counts of Poisson spikes in ``time`` ms tell it, in its own unit and shape.

    The largest size in it is sent at ``highest`` spikes/ms by one cell; what is negative is sent by a second one.
    """
    most, size = highest * time, signal.abs().max().clamp(min=torch.finfo(signal.dtype).tiny)
    return torch.poisson(signal.abs() / size * most, generator=generator) / most * size * signal.sign()


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
