"""A reader's own ``torch.nn.Sequential`` as a list of layers: what ``Network.from_module`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from bioplaus_lite import checks
from bioplaus_lite.layers import AvgPool, Conv, Dense, Flatten, Layer, MaxPool, Read, Reshape

__all__ = ["read_sequential"]

#: Each activation by PyTorch's class: our name, and the options that it must have.
ACTIVATION_OF: dict[type, tuple[str, dict[str, float]]] = {
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.ELU: ("elu", {"alpha": 1.0}),
    nn.Tanh: ("tanh", {}),
    nn.Sigmoid: ("sigmoid", {}),
    nn.Softplus: ("softplus", {"beta": 1.0, "threshold": 20.0}),
    nn.Identity: ("linear", {}),
}
TAKEN = ", ".join(
    ["Linear", "Conv2d", *(kind.__name__ for kind in ACTIVATION_OF), "MaxPool2d", "AvgPool2d", "Flatten", "Unflatten"]
)
#: Why some that readers will try are not taken.
REASONS = {
    "Softmax": "the loss takes scores and works out the softmax itself; leave it out",
    "LogSoftmax": "the loss takes scores and works out the softmax itself; leave it out",
    "GELU": "its slope cannot be told from its activity, as it falls and rises",
    "SiLU": "its slope cannot be told from its activity, as it falls and rises",
    "BatchNorm1d": "its statistics are shared between examples, a signal that no rule here explains",
    "BatchNorm2d": "its statistics are shared between examples, a signal that no rule here explains",
    "Dropout": "the rules see each pass as it is; noise of their own belongs to them",
}

Parameters = tuple[nn.Parameter, nn.Parameter | None]


def read_sequential(
    module: nn.Sequential, input_shape: Sequence[int] | None = None
) -> tuple[list[Layer], list[int], tuple[int, ...], list[Parameters]]:
    """Layers, sizes, shape of an example and pairs of weight and bias. See ``Network.from_module``."""
    if type(module) is not nn.Sequential:
        raise TypeError(f"from_module takes a torch.nn.Sequential, not {type(module).__name__}")
    _refuse_hooks("from_module: Sequential", module)
    stack = list(_flat(module))
    if input_shape is None:
        if not stack or not isinstance(stack[0][1], nn.Linear):
            raise ValueError("input_shape, the shape of one example, is needed unless the first layer is Linear")
        input_shape = (stack[0][1].in_features,)
    shape = checks.wholes("input_shape", input_shape, 1)
    layers: list[Layer] = []
    parameters: list[Parameters] = []
    sizes = [int(torch.Size(shape).numel())]
    reads: list[Read] = []
    closed = True  # whether the last layer of weights has its activation
    h = torch.zeros(1, *shape)
    for where, part in stack:
        name = f"layer {where}, {type(part).__name__}"
        if type(part) in ACTIVATION_OF:
            if closed or reads:
                raise ValueError(
                    f"{name}: an activation must stand right behind its Linear or Conv2d"
                    + ("; before max pooling it gives the same network" if reads else "")
                )
            activation, options = ACTIVATION_OF[type(part)]
            for option, needed in options.items():
                if (given := getattr(part, option)) != needed:
                    raise ValueError(f"{name}: {option} must be {needed:g}, not {given!r}")
            layers[-1], closed = replace(layers[-1], activation=activation), True
            last_activation = name
        elif isinstance(part, nn.Linear | nn.Conv2d) and type(part) in (nn.Linear, nn.Conv2d):  # no class of a reader's
            if not isinstance(part.weight, nn.Parameter):
                raise ValueError(f"{name}: its weight must be a plain parameter, not worked out from others")
            layer = Layer(_connection(name, part), "linear", tuple(reads))
            try:
                if isinstance(part, nn.Linear) and layer.read(h).ndim != 2:
                    shaped = tuple(h.shape[1:])
                    raise ValueError(f"{name}: does not fit an activity of shape {shaped}; a Flatten is missing")
                h = layer.connection.current(part.weight.detach().cpu().float(), None, layer.read(h))
            except RuntimeError as error:
                raise ValueError(f"{name}: does not fit an activity of shape {tuple(h.shape[1:])}") from error
            layers.append(layer)
            parameters.append(cast("Parameters", (part.weight, part.bias)))  # torch declares them as tensors
            sizes.append(h.numel())
            reads, closed = [], False
        else:
            reading = _reading(name, part)
            try:
                reading.read(_after(h, reads))
            except RuntimeError as error:
                raise ValueError(f"{name}: does not fit an activity of shape {tuple(h.shape[1:])}") from error
            reads.append(reading)
    if not layers:
        raise ValueError("from_module needs at least one Linear or Conv2d, got none")
    if closed:
        raise ValueError(f"{last_activation}: the last layer must be linear, as the loss takes scores; leave it out")
    if reads or not isinstance(layers[-1].connection, Dense):
        raise ValueError("from_module: the last layer must be Linear, so that there is one score a class")
    return layers, sizes, shape, parameters


def _flat(module: nn.Sequential, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, part in module._modules.items():  # named_children() leaves out a layer that is there twice
        _refuse_hooks(f"layer {path}{name}, {type(part).__name__}", part)
        if type(part) is nn.Sequential:
            yield from _flat(part, f"{path}{name}.")
        else:
            yield f"{path}{name}", part


def _refuse_hooks(name: str, part: nn.Module) -> None:
    if isinstance(part, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"{name}: its size is not known until it has seen an input; show it one batch first")
    if part._forward_hooks or part._forward_pre_hooks:
        raise ValueError(f"{name}: not taken; a hook may change what it does")


def _after(h: Tensor, reads: Sequence[Read]) -> Tensor:
    for reading in reads:
        h = reading.read(h)
    return h


def _connection(name: str, part: nn.Linear | nn.Conv2d) -> Dense | Conv:
    if isinstance(part, nn.Linear):
        return Dense()
    for option, needed in (("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")):
        if (given := getattr(part, option)) != needed:
            raise ValueError(f"{name}: {option} must be {needed}, not {given!r}")
    padding: Any = part.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        if any(k % 2 == 0 for k in part.kernel_size):
            raise ValueError(f"{name}: padding 'same' needs odd kernels, not {part.kernel_size}")
        padding = tuple(k // 2 for k in part.kernel_size)
    height, width = part.stride
    return Conv((height, width), padding)


def _reading(name: str, part: nn.Module) -> Read:
    if isinstance(part, nn.Flatten) and type(part) is nn.Flatten:  # no class of a reader's
        if (part.start_dim, part.end_dim) != (1, -1):
            raise ValueError(f"{name}: start_dim and end_dim must be 1 and -1, not {part.start_dim} and {part.end_dim}")
        return Flatten()
    if isinstance(part, nn.Unflatten) and type(part) is nn.Unflatten:
        if part.dim != 1 or not all(isinstance(n, int) and n > 0 for n in part.unflattened_size):
            raise ValueError(f"{name}: must unflatten dimension 1 to positive sizes, not {part.dim}")
        return Reshape(tuple(part.unflattened_size))
    if type(part) in (nn.MaxPool2d, nn.AvgPool2d):
        square = {}
        for option in ("kernel_size", "stride", "padding"):
            pair = getattr(part, option)
            pair = (pair, pair) if isinstance(pair, int) else tuple(pair)
            if pair[0] != pair[1]:
                raise ValueError(f"{name}: {option} must be equal in both directions, not {pair}")
            square[option] = pair[0]
        wanted = {"ceil_mode": False, "dilation": 1, "return_indices": False, "divisor_override": None}
        for option, needed in wanted.items():
            if (given := getattr(part, option, needed)) != needed:
                raise ValueError(f"{name}: {option} must be {needed}, not {given!r}")
        if isinstance(part, nn.MaxPool2d):
            return MaxPool(square["kernel_size"], square["stride"], square["padding"])
        if square["padding"] and not part.count_include_pad:
            raise ValueError(f"{name}: count_include_pad must be True where there is padding")
        return AvgPool(square["kernel_size"], square["stride"], square["padding"])
    kind = type(part).__name__
    reason = REASONS.get(kind)
    raise ValueError(f"{name}: not taken; {reason}" if reason else f"{name}: not taken; known are {TAKEN}")
