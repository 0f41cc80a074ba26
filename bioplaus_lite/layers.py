"""Layers as objects: how one reads the activity below, how its weights act, and the name of its activation.

A layer can do three *local* things: turn the activity below into an input current, sum the products of two signals
that meet at its synapses, and carry a signal down through weights that it is given. It does not know where those
weights come from. That is the learning rule's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

__all__ = ["AvgPool", "Connection", "Conv", "Dense", "Flatten", "Layer", "MaxPool", "Read", "Reshape"]


# ---------------------------------------------------------------------- what stands between an activity and weights


@dataclass(frozen=True)
class Reshape:
    """An activity ``(batch, …)`` as ``(batch, *shape)``."""

    shape: tuple[int, ...]

    def read(self, h: Tensor) -> Tensor:
        """What the next layer sees of ``h``."""
        return h.reshape(-1, *self.shape)

    def seen(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what it sees of an activity of this shape."""
        return (shape[0], *self.shape)

    def back(self, signal: Tensor, shape: Sequence[int], h: Tensor | None) -> Tensor:
        """A signal at what was seen, as it arrives at the activity ``h`` of this shape; only max pooling reads it."""
        return signal.reshape(*shape)


@dataclass(frozen=True)
class Flatten:
    """An activity ``(batch, …)`` as ``(batch, n)``."""

    def read(self, h: Tensor) -> Tensor:
        return h.flatten(1)

    def seen(self, shape: Sequence[int]) -> tuple[int, ...]:
        return shape[0], math.prod(shape[1:])

    def back(self, signal: Tensor, shape: Sequence[int], h: Tensor | None) -> Tensor:
        return signal.reshape(*shape)


@dataclass(frozen=True)
class _Pool:
    kernel: int
    stride: int
    padding: int = 0

    def seen(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:2], *((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in shape[2:]))


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest value of each window, maps ``(batch, channels, height, width)``."""

    def read(self, h: Tensor) -> Tensor:
        return F.max_pool2d(h, self.kernel, self.stride, self.padding)

    def back(self, signal: Tensor, shape: Sequence[int], h: Tensor | None) -> Tensor:
        """Only the unit that won its window was read, so only it receives the signal; a sum, if it won several."""
        assert h is not None  # this one reads it
        _, places = F.max_pool2d(h, self.kernel, self.stride, self.padding, return_indices=True)
        if self.stride >= self.kernel:  # windows do not overlap
            kernel, stride, padding = ((n, n) for n in (self.kernel, self.stride, self.padding))
            return F.max_unpool2d(signal, places, kernel, stride, padding, output_size=h.shape[-2:])
        out = torch.zeros_like(h).flatten(2)
        return out.scatter_add_(2, places.flatten(2), signal.flatten(2)).view_as(h)


@dataclass(frozen=True)
class AvgPool(_Pool):
    """The mean of each window, maps ``(batch, channels, height, width)``."""

    def read(self, h: Tensor) -> Tensor:
        return F.avg_pool2d(h, self.kernel, self.stride, self.padding)

    def back(self, signal: Tensor, shape: Sequence[int], h: Tensor | None) -> Tensor:
        """Every unit was read by its window's share, and receives that share of the signal."""
        share = signal.new_full((shape[1], 1, self.kernel, self.kernel), 1 / self.kernel**2)
        padded = F.conv_transpose2d(signal, share, stride=self.stride, groups=shape[1])
        # No window may reach the last rows and columns; the border that was added is cut off.
        missing = [n + 2 * self.padding - reached for n, reached in zip(shape[-2:], padded.shape[-2:], strict=True)]
        rows, columns = (slice(self.padding, self.padding + n) for n in shape[-2:])
        return F.pad(padded, (0, missing[1], 0, missing[0]))[..., rows, columns]


Read = Reshape | Flatten | MaxPool | AvgPool


# ------------------------------------------------------------------------------------------------------ connections


class Connection(Protocol):
    """How weights act: what a layer asks of :class:`Dense`, :class:`Conv`, or a kind of your own."""

    def current(self, weight: Tensor, bias: Tensor | None, pre: Tensor) -> Tensor: ...

    def outer(self, post: Tensor, pre: Tensor, out: Tensor) -> None: ...

    def total(self, post: Tensor, out: Tensor) -> None: ...

    def back(self, signal: Tensor, feedback: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Dense:
    """Each unit reads every value: ``a = W h + b`` with ``W`` of shape ``(n_out, n_in)``."""

    def current(self, weight: Tensor, bias: Tensor | None, pre: Tensor) -> Tensor:
        """Input currents ``(batch, n_out)`` of activities ``pre``, ``(batch, n_in)``."""
        return F.linear(pre, weight, bias)

    def outer(self, post: Tensor, pre: Tensor, out: Tensor) -> None:
        """Write ``Σ_batch post preᵀ``, in the shape of the weights, to ``out``."""
        if (*post.shape[1:], *pre.shape[1:]) != out.shape:  # or PyTorch would give ``out`` another shape
            shapes = f"{tuple(post.shape)} and {tuple(pre.shape)}"
            raise ValueError(f"signals of the shapes {shapes} do not meet at weights of the shape {tuple(out.shape)}")
        torch.mm(post.T, pre, out=out)

    def total(self, post: Tensor, out: Tensor) -> None:
        """Write ``Σ_batch post``, in the shape of the bias, to ``out``."""
        if post.shape[1:] != out.shape:
            raise ValueError(f"a signal of the shape {tuple(post.shape)} does not meet a bias of {tuple(out.shape)}")
        torch.sum(post, 0, out=out)

    def back(self, signal: Tensor, feedback: Tensor) -> Tensor:
        """Carry ``signal``, ``(batch, n_out)``, down through ``feedback``, ``(n_in, n_out)``."""
        return signal @ feedback.T


@dataclass(frozen=True)
class Conv:
    """Each unit reads a window of maps: ``a = W * h + b`` with ``W`` of shape ``(out, in, height, width)``."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def current(self, weight: Tensor, bias: Tensor | None, pre: Tensor) -> Tensor:
        """Input currents, maps ``(batch, out, height, width)``."""
        return F.conv2d(pre, weight, bias, self.stride, self.padding)

    def outer(self, post: Tensor, pre: Tensor, out: Tensor) -> None:
        """Write ``Σ_batch,places post preᵀ``, in the shape of the weights, to ``out``."""
        out.copy_(conv2d_weight(pre, out.shape, post, self.stride, self.padding))

    def total(self, post: Tensor, out: Tensor) -> None:
        """Write ``Σ_batch,places post``, one number a channel, to ``out``."""
        if post.ndim != 4 or post.shape[1:2] != out.shape:  # or PyTorch would give ``out`` another shape
            raise ValueError(f"a signal of the shape {tuple(post.shape)} does not meet a bias of {tuple(out.shape)}")
        torch.sum(post, (0, 2, 3), out=out)

    def back(self, signal: Tensor, feedback: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Carry maps down through ``feedback``, ``(in, out, height, width)``, to maps of ``size`` (height, width)."""
        weight = feedback.transpose(0, 1)
        rest: tuple[int, ...] = (0, 0)
        if size is not None and self.stride != (1, 1):  # several sizes give maps of this one; which was it?
            natural = [
                (n - 1) * s - 2 * p + k
                for n, s, p, k in zip(signal.shape[-2:], self.stride, self.padding, weight.shape[-2:], strict=True)
            ]
            rest = tuple(full - n for full, n in zip(size, natural, strict=True))
        return F.conv_transpose2d(signal, weight, None, self.stride, self.padding, rest)


# ------------------------------------------------------------------------------------------------------------ the layer


@dataclass(frozen=True)
class Layer:
    """One layer of weights: how it reads the activity below, how the weights act, and the activation of its units.

    ``reads`` belong to the layer that reads, so that every activity is ``σ(a_l)`` and every rule treats the layers
    of a convolutional network as it treats those of a perceptron.
    """

    connection: Connection
    activation: str
    reads: tuple[Read, ...] = ()

    def read(self, below: Tensor) -> Tensor:
        """What the weights see of the activity ``below``."""
        for reading in self.reads:
            below = reading.read(below)
        return below

    def current(self, weight: Tensor, bias: Tensor | None, below: Tensor) -> Tensor:
        """Input currents of the units, from the activity ``below``."""
        return self.connection.current(weight, bias, self.read(below) if self.reads else below)

    def outer(self, post: Tensor, below: Tensor, out: Tensor) -> None:
        """Write ``Σ_batch post preᵀ`` to ``out``, ``pre`` being what the weights see of ``below``."""
        self.connection.outer(post, self.read(below) if self.reads else below, out)

    def total(self, post: Tensor, out: Tensor) -> None:
        """Write ``Σ_batch post``, in the shape of the bias, to ``out``."""
        self.connection.total(post, out)

    def back(self, signal: Tensor, feedback: Tensor, below: Tensor) -> Tensor:
        """A signal at the units of this layer as it arrives at those ``below``, through ``feedback``."""
        if not self.reads and isinstance(self.connection, Dense):
            return self.connection.back(signal, feedback)
        # Only max pooling looks at values; of all else the shapes are enough, and cost nothing.
        shapes = [tuple(below.shape)]
        for reading in self.reads:
            shapes.append(reading.seen(shapes[-1]))
        size = (shapes[-1][-2:],) if isinstance(self.connection, Conv) else ()
        signal = self.connection.back(signal, feedback, *size)
        for i in reversed(range(len(self.reads))):
            h = None
            if isinstance(self.reads[i], MaxPool):
                h = below
                for reading in self.reads[:i]:
                    h = reading.read(h)
            signal = self.reads[i].back(signal, shapes[i], h)
        return signal
