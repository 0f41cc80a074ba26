"""A step player that walks through backpropagation on one example, one equation a step."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import Backprop
from bioplaus_lite.widgets.panels import bars, image, table
from bioplaus_lite.widgets.player import StepPlayer
from bioplaus_lite.widgets.players.values import belief, row_of
from bioplaus_lite.widgets.text import fixed, in_full, listed, sub

__all__ = ["backprop_walk"]


def backprop_walk(network: MLP, x: Tensor, y: Tensor, *, rate: float = 0.5) -> StepPlayer:
    r"""Backpropagation on one example, one equation a step: up, across, down, and an update of the weights.

    Units are called by layer and letter: ``2c`` is the third of layer 2. Two heat maps place all weights in one
    square, the row the unit that receives and the column the unit that sends: the weights that a step *reads*, and
    the gradients known so far. A table spells out the arithmetic. There are 3L + 2 steps.

    Args:
        network: an MLP with at most 26 units a layer.
        x: the example, shape ``(1, n_0)``.
        y: its label, shape ``(1,)``.
        rate: step size of the update, applied once at the end to a copy of the network.

    Raises:
        TypeError: ``network`` is not an MLP.
        ValueError: there is more than one example, or a layer has more than 26 units.
    """
    if not isinstance(network, MLP):
        raise TypeError(f"a walk needs an MLP, not {type(network).__name__}")
    if len(x) != 1 or max(network.sizes) > 26:
        raise ValueError(f"a walk takes 1 example and up to 26 units a layer, not {len(x)} and {max(network.sizes)}")
    walk = _Walk(network, x, y)
    walk.enter()
    for l in range(1, network.depth + 1):
        walk.up(l)
    walk.output_error()
    for l in range(network.depth, 0, -1):
        walk.gradient(l)
        if l > 1:
            walk.down(l)
    walk.update(rate)
    return walk.player()


class _Walk:
    """The values of one pass, and snapshots of how far they are known."""

    def __init__(self, network: MLP, x: Tensor, y: Tensor) -> None:
        self.network, self.x, self.y, self.depth = network, x, y, network.depth
        self.h = [row_of(h) for h in network.activities(x)]
        self.delta = {l: row_of(error) for l, error in Backprop(network).errors(x, y).items()}
        self.W = {l: network.weight(l).detach().numpy() for l in range(1, self.depth + 1)}
        self.p, self.loss = belief(network, x, y)
        start = np.cumsum([0, *network.sizes])
        self.where = [slice(a, b) for a, b in pairwise(start)]  # a layer among all units
        self.names = [[f"{l}{chr(97 + i)}" for i in range(n)] for l, n in enumerate(network.sizes)]
        inputs = start[1]  # units of layer 0 receive nothing: they have no error, and no row of weights
        self.rows = {l: slice(start[l] - inputs, start[l + 1] - inputs) for l in self.W}
        self.known_h, self.known_delta = np.zeros(start[-1]), np.zeros(start[-1] - inputs)
        self.known_gradient, self.known_p = np.zeros((start[-1] - inputs, start[-2])), np.zeros(len(self.p))
        self.snapshots: list[dict] = []

    def snap(self, label: str, text: str, arithmetic: list[list[str]], reads: int | None = None) -> None:
        read = np.zeros_like(self.known_gradient)
        if reads:
            read[self.rows[reads], self.where[reads - 1]] = self.W[reads]
        self.snapshots.append({
            "label": label, "text": text, "arithmetic": arithmetic, "read": read, "h": self.known_h.copy(),
            "delta": self.known_delta.copy(), "gradient": self.known_gradient.copy(), "p": self.known_p.copy(),
        })  # fmt: skip

    def enter(self) -> None:
        self.known_h[self.where[0]] = self.h[0]
        arithmetic = [[name, "given", "", fixed(v)] for name, v in zip(self.names[0], self.h[0], strict=True)]
        self.snap("input", f"The input enters: h₀ = x. The right class is {self.names[-1][self.y]}.", arithmetic)

    def up(self, l: int) -> None:
        self.known_h[self.where[l]] = self.h[l]
        W, h, b, a = (sub(*pair) for pair in (("W", l), ("h", l - 1), ("b", l), ("a", l)))
        top = l == self.depth
        name, sigma = ("up to the scores", "linear") if top else (f"up to layer {l}", self.network.activation)
        equation = f"{sub('h', l)} = {a} = {W}{h} + {b}" if top else f"{a} = {W}{h} + {b} and {sub('h', l)} = σ({a})"
        sums = in_full(self.W[l], self.h[l - 1], row_of(self.network.bias(l)[None]))
        arithmetic = [[*cells[:2], sigma, cells[2]] for cells in self._by_unit(l, sums, map(fixed, self.h[l]))]
        self.snap(name, f"{equation}. Each unit sums along its row of {W}.", arithmetic, reads=l)

    def output_error(self) -> None:
        top = self.depth
        self.known_delta[self.rows[top]], self.known_p = self.delta[top], self.p
        beliefs = (f"p = {fixed(p)}" for p in self.p)
        truths = (f"−\u00a0{int(k == self.y)}" for k in range(len(self.p)))
        arithmetic = self._by_unit(top, beliefs, truths, map(fixed, self.delta[top]))
        text = f"Softmax turns the scores into p; the loss is {self.loss:.2f}. The error is {sub('δ', top)} = p − y."
        self.snap("output error", f"{text} No weight is read.", arithmetic)

    def gradient(self, l: int) -> None:
        block = np.outer(self.delta[l], self.h[l - 1])
        self.known_gradient[self.rows[l], self.where[l - 1]] = block
        W, h = sub("W", l), sub("h", l - 1)
        products = (f"{fixed(d)} · {listed(self.h[l - 1])}" for d in self.delta[l])
        arithmetic = self._by_unit(l, products, [""] * len(block), map(listed, block))
        text = f"∂L/∂{W} = {sub('δ', l)}{h}ᵀ: the error above times the activity below. No weight is read."
        self.snap(f"gradient of {W}", text, arithmetic)

    def down(self, l: int) -> None:
        self.known_delta[self.rows[l - 1]] = self.delta[l - 1]
        W, below = sub("W", l), sub("δ", l - 1)
        slopes = row_of(self.network.slope(l - 1, torch.from_numpy(self.h[l - 1])[None]))
        factors = (f"×\u00a0{s:.3g}" for s in slopes)
        arithmetic = self._by_unit(l - 1, in_full(self.W[l].T, self.delta[l]), factors, map(fixed, self.delta[l - 1]))
        equation = f"{below} = ({W}ᵀ{sub('δ', l)}) ⊙ σ′({sub('a', l - 1)})"
        text = f"{equation}. The block {W} is read again, now by its columns."
        self.snap(f"down to layer {l - 1}", text, arithmetic, reads=l)

    def update(self, rate: float) -> None:
        moved = copy.deepcopy(self.network)
        Backprop(moved).learn(self.x, self.y, torch.optim.SGD(moved.parameters(), lr=rate))
        self.known_h = np.concatenate([row_of(h) for h in moved.activities(self.x)])
        self.known_p, loss = belief(moved, self.x, self.y)
        text = f"Every weight and bias moves by −{rate:g} times its gradient. Forward again: "
        change = f"the loss goes from {self.loss:.2f} to {loss:.2f}."
        before, after = [f"p was {fixed(v)}" for v in self.p], [f"p is {fixed(v)}" for v in self.known_p]
        self.snap("update", text + change, self._by_unit(self.depth, before, [""] * len(before), after))

    def _by_unit(self, l: int, *columns: Iterable[str]) -> list[list[str]]:
        return [list(cells) for cells in zip(self.names[l], *columns, strict=True)]

    def player(self) -> StepPlayer:
        def frames(key: str) -> list:
            return [snapshot[key] for snapshot in self.snapshots]

        names = [name for layer in self.names for name in layer]
        receiving = names[len(self.names[0]) :]
        panels = [
            bars("Activity h, layer by layer", names, frames("h"), "activity (output layer: score)"),
            bars("Error δ, layer by layer", receiving, frames("delta"), "error (nats per unit of current)"),
            image("Weights read in this step", frames("read"), "All weights in one square; those read are coloured.",
                  clabel="weight (row receives, column sends)"),
            image("Gradients known so far", frames("gradient"), "The gradients of all weights, in the same places.",
                  clabel="∂L/∂W (row receives, column sends)"),
            table("The arithmetic of this step", ["unit", "sum", "σ or σ′", "result"], frames("arithmetic")),
            bars("Belief p", self.names[-1], frames("p"), "probability", ylim=(0, 1)),
        ]  # fmt: skip
        sizes = "-".join(map(str, self.network.sizes))
        description = (
            f"A network of {sizes} units. Activities are worked out from the input to the output, then errors and "
            "gradients from the output to the input, and last the weights move."
        )
        return StepPlayer(
            panels, frames("label"), frames("text"), title="Up, across, and down again", description=description,
            seconds_per_step=2,
        )  # fmt: skip
