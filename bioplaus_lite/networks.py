"""The layered networks that the rules train: layers are objects, a network is a list of them.

A layer can do three *local* things: turn the activity below into an input current, sum the products of two signals
that meet at its synapses, and carry a signal down through weights that it is given. It does not know where those
weights come from. That is the learning rule's business.

Notation: ``h_0 = x``, ``a_l = W_l h_{l-1} + b_l``, ``h_l = σ_l(a_l)`` for ``l = 1 … L``. Examples are rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from bioplaus_lite import checks

__all__ = [
    "ACTIVATIONS", "CNN", "INITS", "MLP", "Activation", "AvgPool", "Connection", "Conv", "Dense", "Flatten", "Layer",
    "MaxPool", "Network", "Reshape", "uniform_like",
]  # fmt: skip


# ------------------------------------------------------------------------------------- activations, initial weights


class Activation(NamedTuple):
    """An activation ``σ`` and its slope ``σ'(a)`` written as a function of the *activity* ``h = σ(a)``."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


#: By name. All but ``linear`` never fall, so that the activity says what the slope is.
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(torch.relu, torch.sign),  # h is 0 or positive, so its sign is the slope, in h's dtype
    "tanh": Activation(torch.tanh, lambda h: 1 - h * h),
    "sigmoid": Activation(torch.sigmoid, lambda h: h * (1 - h)),
    "linear": Activation(lambda a: a, torch.ones_like),
    "leaky_relu": Activation(F.leaky_relu, lambda h: torch.where(h > 0, torch.ones_like(h), torch.full_like(h, 0.01))),
    "elu": Activation(F.elu, lambda h: h.clamp(max=0) + 1),
    "softplus": Activation(F.softplus, lambda h: -torch.expm1(-h)),
}

#: Half-width of the uniform distribution from which a weight matrix is drawn, given (fan in, fan out).
INITS: dict[str, Callable[[int, int], float]] = {
    "pytorch": lambda n_in, n_out: 1 / math.sqrt(n_in),  # what torch.nn.Linear does; the variance is 1/(3 n_in)
    "glorot": lambda n_in, n_out: math.sqrt(6 / (n_in + n_out)),
    "he": lambda n_in, n_out: math.sqrt(6 / n_in),
}


def uniform_like(weight: Tensor, half_width: float, generator: torch.Generator) -> Tensor:
    """A tensor in the shape, dtype and place of ``weight``, uniform in ``±half_width``.

    Drawn in float64 on the processor of the generator and cast, so that networks of one seed hold the same numbers in
    float32 and float64, here and on a graphics card.
    """
    draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64, device=generator.device)
    return ((2 * draw - 1) * half_width).to(weight)


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


# --------------------------------------------------------------------------------------------------------- networks


class Network(nn.Module):
    """A list of layers. They are counted from 1 to ``depth``; layer 0 is the input.

    The parameters are ``W{l}`` and ``b{l}``; ``layers[l - 1]`` says how they act. ``sizes`` holds the number of units
    of each layer, ``(n_0, …, n_L)``; ``input_shape`` the shape of one example; ``activation`` the name of that of the
    hidden layers, ``mixed`` if they differ. The last layer is linear.
    """

    layers: tuple[Layer, ...]
    sizes: tuple[int, ...]
    input_shape: tuple[int, ...]
    activation: str
    _parameters: dict[str, Any]  # Parameter | None: a weight is there, a bias may not be

    def __init__(self, layers: Sequence[Layer], sizes: Sequence[int], input_shape: Sequence[int]) -> None:
        super().__init__()
        self.layers, self.sizes, self.input_shape = tuple(layers), tuple(sizes), tuple(input_shape)
        names = {layer.activation for layer in self.layers[:-1]}
        self.activation = names.pop() if len(names) == 1 else "mixed" if names else "linear"

    @classmethod
    def from_module(cls, module: nn.Sequential, input_shape: Sequence[int] | None = None) -> Network:
        """The network that a stack of PyTorch's own layers describes, with the *same* parameters.

        Takes ``Linear`` and ``Conv2d`` (stride and padding), each but the last followed by an activation (``ReLU``,
        ``LeakyReLU``, ``ELU``, ``Tanh``, ``Sigmoid``, ``Softplus``, ``Identity``), between them ``MaxPool2d``,
        ``AvgPool2d``, ``Flatten`` and ``Unflatten``. What trains the network trains the module.

        Args:
            module: the stack, its last layer linear: the loss takes scores, so there is no softmax at its end.
            input_shape: of one example; needed unless the first layer is ``Linear``.

        Raises:
            TypeError: ``module`` is not a ``Sequential``.
            ValueError: it holds what cannot be taken; the message names the layer, its place and the reason.
        """
        from bioplaus_lite.from_module import read_sequential  # only a reader's own stack needs it

        layers, sizes, shape, parameters = read_sequential(module, input_shape)
        network = Network(layers, sizes, shape)
        for l, (weight, bias) in enumerate(parameters, 1):
            network.register_parameter(f"W{l}", weight)
            network.register_parameter(f"b{l}", bias)
        return network

    @property
    def depth(self) -> int:
        """Number of layers of weights, ``L``."""
        return len(self.layers)

    def weight(self, layer: int) -> nn.Parameter:
        """Forward weights ``W_l`` of layer ``layer``, shape ``(n_l, n_{l-1})`` (convolution: ``(out, in, k, k)``)."""
        return self._parameters[f"W{layer}"]

    def bias(self, layer: int) -> nn.Parameter | None:
        """Bias ``b_l``, shape ``(n_l,)`` (convolution: one a channel); ``None`` if the layer has none."""
        return self._parameters[f"b{layer}"]

    def bias_name(self, layer: int) -> str | None:
        """``"b{l}"``, if the layer has a bias."""
        name = f"b{layer}"
        return None if self._parameters[name] is None else name

    def half_width(self, layer: int) -> float:
        """Half-width of the uniform distribution from which ``W_l`` was drawn; feedback weights use it too.

        Of weights that somebody else drew: of the uniform distribution with their mean square.
        """
        return math.sqrt(3 * self.weight(layer).detach().double().square().mean().item())

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` is a non-empty batch of examples of the right size, dtype and place."""
        checks.tensor("input", x)
        if x.ndim < 2 or x.shape[0] == 0 or tuple(x.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(f"input has shape {tuple(x.shape)}, this network takes (batch ≥ 1, {wanted})")
        weight = self.weight(1)
        if x.dtype != weight.dtype or x.device != weight.device:
            raise ValueError(f"input is {x.dtype} on {x.device}, the weights are {weight.dtype} on {weight.device}")

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``h_L`` of shape ``(batch, n_L)``; differentiable by autograd."""
        self.check_input(x)
        return self.activities(x)[-1]

    def current(self, layer: int, below: Tensor) -> Tensor:
        """Input current ``a_l = W_l h_{l-1} + b_l`` from the activities ``below`` = ``h_{l-1}``."""
        parameters = self._parameters
        return self.layers[layer - 1].current(parameters[f"W{layer}"], parameters[f"b{layer}"], below)

    def activate(self, layer: int, current: Tensor) -> Tensor:
        """``h_l = σ_l(a_l)``, in the shape of the current."""
        return ACTIVATIONS[self.layers[layer - 1].activation].function(current)

    def slope(self, layer: int, activity: Tensor) -> Tensor:
        """``σ'(a_l)`` from the activity ``h_l``, in its shape."""
        return ACTIVATIONS[self.layers[layer - 1].activation].slope(activity)

    def activities(self, x: Tensor, currents: list[Tensor] | None = None) -> list[Tensor]:
        """``[h_0, …, h_L]``; the currents ``a_1 … a_L`` are added to a list, if one is given, with their gradients."""
        return [x, *self.upward(1, self.current(1, x), currents)]

    def upward(self, layer: int, current: Tensor, currents: list[Tensor] | None = None) -> list[Tensor]:
        """``[h_l, …, h_L]`` from the current of layer ``l``; see :meth:`activities`."""
        h: list[Tensor] = []
        for l, this in enumerate(self.layers[layer - 1 :], layer):
            a = current if l == layer else self.current(l, h[-1])
            if currents is not None:
                currents.append(a.requires_grad_())
            h.append(ACTIVATIONS[this.activation].function(a))
        return h

    def send_back(self, layer: int, signal: Tensor, feedback: Tensor, below: Tensor) -> Tensor:
        """A signal at ``a_l`` as it arrives at ``h_{l-1}``, through ``feedback``, a tensor in the shape of ``W_lᵀ``.

        ``Wᵀ`` stands for ``W.transpose(0, 1)``: of a convolution it has the shape ``(in, out, k, k)``.
        """
        return self.layers[layer - 1].back(signal, feedback, below)


class _Drawn(Network):
    """A network that draws its weights itself, uniform, layer by layer; biases start at zero."""

    def __init__(
        self, layers: Sequence[Layer], sizes: Sequence[int], input_shape: Sequence[int],
        shapes: Sequence[tuple[int, ...]], *, init: str, seed: int, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(layers, sizes, input_shape)
        checks.one_of("initialisation", init, sorted(INITS))
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, not {dtype}")
        self.init, self.seed = init, checks.seed("seed", seed)
        generator = torch.Generator().manual_seed(self.seed)
        for l, shape in enumerate(shapes, 1):
            weight = nn.Parameter(torch.empty(shape, dtype=dtype))
            self.register_parameter(f"W{l}", weight)  # before it is drawn: its range depends on its shape
            weight.data = self._draw(l, weight.detach(), generator)
            self.register_parameter(f"b{l}", nn.Parameter(torch.zeros(shape[0], dtype=dtype)))

    def bias(self, layer: int) -> nn.Parameter:
        return self._parameters[f"b{layer}"]

    def _draw(self, layer: int, weight: Tensor, generator: torch.Generator) -> Tensor:
        n_out, n_in = weight.shape[:2]
        area = weight[0, 0].numel()
        return uniform_like(weight, INITS[self.init](n_in * area, n_out * area), generator)

    def half_width(self, layer: int) -> float:
        n_out, n_in = self.weight(layer).shape[:2]
        area = self.weight(layer)[0, 0].numel()
        return INITS[self.init](n_in * area, n_out * area)


def input_and_output(sizes: Sequence[int]) -> tuple[int, ...]:
    """``sizes`` as a tuple, if they are those of an input and an output layer at least."""
    sizes = checks.wholes("sizes", sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes needs an input and an output layer, got {sizes!r}")
    return sizes


class MLP(_Drawn):
    r"""A multilayer perceptron.

    .. math:: a_l = W_l h_{l-1} + b_l, \qquad h_l = \sigma(a_l) \ (l < L), \qquad h_L = a_L

    Args:
        sizes: units of each layer, ``(n_0, …, n_L)``, at least two.
        activation: of the hidden layers, one of :data:`ACTIVATIONS`.
        init: half-width of the uniform weights: ``pytorch`` (1/√n_in, what ``torch.nn.Linear`` does), ``glorot``,
            ``he``.
        seed: of the weights; biases start at zero.
        dtype: of the parameters.

    Raises:
        ValueError: a size is not a positive whole number, or a name is unknown.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        init: str = "pytorch",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sizes = input_and_output(sizes)
        checks.one_of("activation", activation, sorted(ACTIVATIONS))
        layers = [Layer(Dense(), activation) for _ in sizes[1:]]
        layers[-1] = replace(layers[-1], activation="linear")
        shapes = [(n_out, n_in) for n_in, n_out in pairwise(sizes)]
        super().__init__(layers, sizes, sizes[:1], shapes, init=init, seed=seed, dtype=dtype)
        self.activation = activation  # also where there is no hidden layer to have it

    def extra_repr(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, {self.activation}"


class CNN(_Drawn):
    r"""Convolutions of 5 × 5 with ReLU and 2 × 2 max-pooling, then one dense layer to the scores.

    .. math:: a_l = W_l * \mathrm{pool}(h_{l-1}) + b_l \quad (\mathrm{pool}\text{ is absent for } l = 1)

    There is no batch normalisation: its statistics are shared between examples and channels, a second non-local
    signal that these rules do not explain.

    Args:
        image_shape: ``(channels, height, width)``; height and width divisible by ``2 ** len(channels)``.
        channels: of the convolutional layers.
        classes: number of scores.
        kernel: odd width of the convolution kernels; the padding keeps the image's size.
        activation, init, seed, dtype: as for :class:`MLP`. Input is flat, ``(batch, channels·height·width)``.

    Raises:
        ValueError: a size is not a positive whole number, the image cannot be halved that often, or the
            kernel is even.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (16, 32),
        classes: int = 10,
        *,
        kernel: int = 5,
        activation: str = "relu",
        init: str = "pytorch",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        image_shape = checks.wholes("image_shape", image_shape)
        if len(image_shape) != 3:
            raise ValueError(f"image_shape must be (channels, height, width), not {image_shape!r}")
        c, height, width = image_shape
        channels = checks.wholes("channels", channels)
        if not channels:
            raise ValueError("channels must name at least one convolutional layer, got none")
        halvings = 2 ** len(channels)
        if height % halvings or width % halvings:
            raise ValueError(f"an image of {height} × {width} cannot be halved {len(channels)} times without remainder")
        if checks.whole("kernel", kernel) % 2 == 0:
            raise ValueError(f"kernel must be odd so that padding keeps the image's size, not {kernel}")
        classes = checks.whole("classes", classes)
        checks.one_of("activation", activation, sorted(ACTIVATIONS))
        self.image_shape, self.kernel = image_shape, kernel
        pool, conv = MaxPool(2, 2), Conv(padding=(kernel // 2, kernel // 2))
        reads: list[tuple[Read, ...]] = [(Reshape(image_shape),), *((pool,) for _ in channels[1:]), (pool, Flatten())]
        layers = [Layer(conv, activation, reading) for reading in reads[:-1]] + [Layer(Dense(), "linear", reads[-1])]
        shapes: list[tuple[int, ...]] = [
            (n_out, n_in, kernel, kernel) for n_in, n_out in zip((c, *channels[:-1]), channels, strict=True)
        ]
        shapes.append((classes, channels[-1] * (height // halvings) * (width // halvings)))
        sizes = [c * height * width, *(n * (height >> l) * (width >> l) for l, n in enumerate(channels)), classes]
        super().__init__(layers, sizes, (c * height * width,), shapes, init=init, seed=seed, dtype=dtype)

    def extra_repr(self) -> str:
        channels = "-".join(str(self.weight(layer).shape[0]) for layer in range(1, self.depth + 1))
        return f"{'×'.join(map(str, self.image_shape))}, {channels}, {self.activation}"
