"""Step players that walk through one example of a small network, equation by equation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import Backprop, DifferenceTargetPropagation, TargetPropagation
from bioplaus_lite.widgets import StepPlayer, bars, image, table, vectors

__all__ = ["backprop_walk", "target_walk"]


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
        self.h = [_row(h) for h in network.activities(x)]
        self.delta = {l: _row(error) for l, error in Backprop(network).errors(x, y).items()}
        self.W = {l: network.weight(l).detach().numpy() for l in range(1, self.depth + 1)}
        self.p, self.loss = _belief(network, x, y)
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
        arithmetic = [[name, "given", "", _text(v)] for name, v in zip(self.names[0], self.h[0], strict=True)]
        self.snap("input", f"The input enters: h₀ = x. The right class is {self.names[-1][self.y]}.", arithmetic)

    def up(self, l: int) -> None:
        self.known_h[self.where[l]] = self.h[l]
        W, h, b, a = (_sub(*pair) for pair in (("W", l), ("h", l - 1), ("b", l), ("a", l)))
        top = l == self.depth
        name, sigma = ("up to the scores", "linear") if top else (f"up to layer {l}", self.network.activation)
        equation = f"{_sub('h', l)} = {a} = {W}{h} + {b}" if top else f"{a} = {W}{h} + {b} and {_sub('h', l)} = σ({a})"
        sums = _sums(self.W[l], self.h[l - 1], _row(self.network.bias(l)[None]))
        arithmetic = [[*cells[:2], sigma, cells[2]] for cells in self._by_unit(l, sums, map(_text, self.h[l]))]
        self.snap(name, f"{equation}. Each unit sums along its row of {W}.", arithmetic, reads=l)

    def output_error(self) -> None:
        top = self.depth
        self.known_delta[self.rows[top]], self.known_p = self.delta[top], self.p
        beliefs = (f"p = {_text(p)}" for p in self.p)
        truths = (f"−\u00a0{int(k == self.y)}" for k in range(len(self.p)))
        arithmetic = self._by_unit(top, beliefs, truths, map(_text, self.delta[top]))
        text = f"Softmax turns the scores into p; the loss is {self.loss:.2f}. The error is {_sub('δ', top)} = p − y."
        self.snap("output error", f"{text} No weight is read.", arithmetic)

    def gradient(self, l: int) -> None:
        block = np.outer(self.delta[l], self.h[l - 1])
        self.known_gradient[self.rows[l], self.where[l - 1]] = block
        W, h = _sub("W", l), _sub("h", l - 1)
        products = (f"{_text(d)} · {_list(self.h[l - 1])}" for d in self.delta[l])
        arithmetic = self._by_unit(l, products, [""] * len(block), map(_list, block))
        text = f"∂L/∂{W} = {_sub('δ', l)}{h}ᵀ: the error above times the activity below. No weight is read."
        self.snap(f"gradient of {W}", text, arithmetic)

    def down(self, l: int) -> None:
        self.known_delta[self.rows[l - 1]] = self.delta[l - 1]
        W, below = _sub("W", l), _sub("δ", l - 1)
        slopes = _row(self.network.slope(l - 1, torch.from_numpy(self.h[l - 1])[None]))
        factors = (f"×\u00a0{s:.3g}" for s in slopes)
        arithmetic = self._by_unit(l - 1, _sums(self.W[l].T, self.delta[l]), factors, map(_text, self.delta[l - 1]))
        equation = f"{below} = ({W}ᵀ{_sub('δ', l)}) ⊙ σ′({_sub('a', l - 1)})"
        text = f"{equation}. The block {W} is read again, now by its columns."
        self.snap(f"down to layer {l - 1}", text, arithmetic, reads=l)

    def update(self, rate: float) -> None:
        moved = copy.deepcopy(self.network)
        Backprop(moved).learn(self.x, self.y, torch.optim.SGD(moved.parameters(), lr=rate))
        self.known_h = np.concatenate([_row(h) for h in moved.activities(self.x)])
        self.known_p, loss = _belief(moved, self.x, self.y)
        text = f"Every weight and bias moves by −{rate:g} times its gradient. Forward again: "
        change = f"the loss goes from {self.loss:.2f} to {loss:.2f}."
        before, after = [f"p was {_text(v)}" for v in self.p], [f"p is {_text(v)}" for v in self.known_p]
        self.snap("update", text + change, self._by_unit(self.depth, before, [""] * len(before), after))

    def _by_unit(self, l: int, *columns: Sequence[str]) -> list[list[str]]:
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


def _row(values: Tensor) -> NDArray[np.float64]:
    return values[0].detach().double().numpy()


def _belief(network: MLP, x: Tensor, y: Tensor) -> tuple[NDArray[np.float64], float]:
    """Probabilities of the classes and the loss, for one example."""
    scores = network(x)
    return _row(torch.softmax(scores, 1)), F.cross_entropy(scores, y).item()


def _sub(letter: str, layer: int) -> str:
    return letter + "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(layer))


def _text(value: float) -> str:
    return f"{value + 0.0:.2f}".replace("-", "−").replace("−0.00", "0.00")


def _list(values: Sequence[float]) -> str:
    return f"({', '.join(map(_text, values))})"


def _sums(weights: NDArray, values: NDArray, bias: NDArray | None = None) -> list[str]:
    """Each row's weighted sum, spelled out; a bias of zero is left out."""
    biases = np.zeros(len(weights)) if bias is None else bias
    spelled = []
    for row, b in zip(weights, biases, strict=True):
        factors = ((_text(w), f"({_text(v)})" if v < 0 else _text(v)) for w, v in zip(row, values, strict=True))
        terms = " + ".join([*(f"{w}·{v}" for w, v in factors), *([_text(b)] if b else [])])
        spelled.append(f"{terms.replace('+ −', '− ')} = {_text(row @ values + b)}")
    return spelled


def target_walk(rule: DifferenceTargetPropagation, x: Tensor, y: Tensor, *, rate: float = 0.5) -> StepPlayer:
    r"""Targets on their way down, in the planes of hidden layers of two units, with and without the difference.

    Each layer has a plane of its own. There the activity ``h`` is a point, and so is what the inverse makes of the
    activity above, ``g(h)``, and of the target above: ``g(ĥ)`` is the target of TP. The arrow from ``g(h)`` to it,
    moved to ``h``, ends at the target of DTP. ``exact`` is the point that the layer above would really map to its
    target of DTP. A table has the distances. The last step compares the loss after one step of learning by either.
    There are 3L - 2 steps for ``L`` layers of weights.

    Args:
        rule: DTP on an MLP with two units in every hidden layer, with tanh, sigmoid or linear activation.
        x: the example, shape ``(1, n_0)``.
        y: its label, shape ``(1,)``.
        rate: step size of the learning at the end, applied to copies.

    Raises:
        TypeError: the rule is not :class:`~bioplaus_lite.rules.target_propagation.DifferenceTargetPropagation`.
        ValueError: a hidden layer has not two units, the activation has no inverse, or there is more than one example.
    """
    if not isinstance(rule, DifferenceTargetPropagation):
        raise TypeError(f"the walk compares DTP with TP, it needs the rule of DTP, not {type(rule).__name__}")
    if set(rule.network.sizes[1:-1]) != {2} or len(x) != 1:
        raise ValueError(
            f"the walk takes 1 example and hidden layers of 2 units, not {len(x)} and {rule.network.sizes[1:-1]}"
        )
    if rule.network.activation not in _INVERSES:
        raise ValueError(f"activation must be one of {', '.join(_INVERSES)}, not {rule.network.activation!r}")
    return _TargetWalk(rule, x, y).player(rate)


#: The inverse of an activation; a target that no activity can reach is first brought back into its range.
_INVERSES = {
    "tanh": lambda h: torch.atanh(h.clamp(-0.999, 0.999)),
    "sigmoid": lambda h: torch.logit(h.clamp(0.001, 0.999)),
    "linear": lambda h: h,
}


class _TargetWalk:
    """The points of one way down, and when each becomes known."""

    def __init__(self, rule: DifferenceTargetPropagation, x: Tensor, y: Tensor) -> None:
        self.rule, self.x, self.y, self.top = rule, x, y, rule.network.depth - 1
        self.plain = TargetPropagation(copy.deepcopy(rule.network), alpha=rule.alpha, noise=rule.noise)
        self.plain.load_state_dict(rule.state_dict())
        network, activities = rule.network, rule.network.activities(x)
        moved, carried = rule.targets(x, y), self.plain.targets(x, y)
        self.points: dict[int, dict[str, NDArray]] = {}
        for l in range(1, self.top + 1):
            h = activities[l]
            if l == self.top:
                self.points[l] = {"h": _row(h), "ĥ": _row(moved[l])}
                continue
            current = _INVERSES[network.activation](moved[l + 1]) - network.bias(l + 1)
            self.points[l] = {
                "h": _row(h), "g(h)": _row(rule.inverse(l + 1, activities[l + 1])), "TP": _row(carried[l]),
                "DTP": _row(moved[l]), "exact": _row(torch.linalg.solve(network.weight(l + 1), current.T).T),
            }  # fmt: skip

    def player(self, rate: float) -> StepPlayer:
        labels, texts = ["activities", "first target"], []
        h, above = _sub("h", self.top), _sub("ĥ", self.top)
        texts.append("Up: each hidden layer has two units, so its activity is a point in a plane.")
        texts.append(f"{above} = {h} − α∂L/∂{h}. This one target needs the weights of the last layer.")
        since = {self.top: {"h": 0, "ĥ": 1}}
        for l in range(self.top - 1, 0, -1):
            first = len(labels)
            since[l] = {"h": 0, "g(h)": first, "TP": first + 1, "DTP": first + 2, "exact": first + 2}
            g, ha, hta, hb = f"g{_sub('', l + 1)}", _sub("h", l + 1), _sub("ĥ", l + 1), _sub("h", l)
            p = self.points[l]
            labels += [f"inverse in layer {l}", f"TP in layer {l}", f"DTP in layer {l}"]
            missed, moves = np.linalg.norm(p["g(h)"] - p["h"]), np.linalg.norm(p["DTP"] - p["h"])
            texts += [
                f"{g}({ha}) should be {hb}. The inverse misses it by {_text(missed)}.",
                f"TP takes {g}({'' if l == self.top - 1 else 'its own '}{hta}) for the target, and with it what the "
                "inverse misses.",
                f"DTP takes only the arrow from {g}({ha}) to {g}({hta}), {_text(moves)} long, and sets it at {hb}.",
            ]
        labels.append("one step of learning")
        before = _belief(self.rule.network, self.x, self.y)[1]
        after = {name: self._loss_after(rule, rate) for name, rule in (("TP", self.plain), ("DTP", self.rule))}
        texts.append(f"All layers move towards their targets. The loss was {before:.2f}; it is now "
                     f"{after['TP']:.2f} with TP and {after['DTP']:.2f} with DTP.")  # fmt: skip
        n = len(labels)
        rows = [self._distances(since, step) for step in range(n)]
        reach = 1.2 * max(np.abs(v).max() for p in self.points.values() for v in p.values())
        panels = [self._plane(l, since[l], n, reach) for l in range(self.top, 0, -1)]
        panels.append(table("Distances so far", ["layer", "inverse misses", "TP from exact", "DTP from exact"], rows))
        description = (
            "One plane a hidden layer, from the top down. In each, points for the activity, for what the inverse makes "
            "of the activity above, and for the targets of TP, of DTP, and the exact one."
        )
        return StepPlayer(panels, labels, texts, title="Targets on their way down", description=description,
                          seconds_per_step=2.5)  # fmt: skip

    def _plane(self, l: int, since: dict[str, int], n: int, reach: float) -> dict:
        p, name = self.points[l], _sub("h", l)
        starts = {"ĥ": "h", "TP": "g(h)", "DTP": "h"}
        arrows, origins = {}, {}
        for key in since:
            start = p[starts.get(key, key)]
            arrows[key], origins[key] = np.tile(p[key] - start, (n, 1)), np.tile(start, (n, 1))
        return vectors(f"Layer {l}", arrows, f"first unit of {name}", f"second unit of {name}", lim=reach,
                       origin=origins, since=since)  # fmt: skip

    def _distances(self, since: dict[int, dict[str, int]], step: int) -> list[list[str]]:
        rows = []
        for l in range(self.top - 1, 0, -1):
            p = self.points[l]
            cells = [("g(h)", "h"), ("TP", "exact"), ("DTP", "exact")]
            known = [max(since[l][a], since[l][b]) <= step for a, b in cells]
            rows.append([str(l), *(_text(np.linalg.norm(p[a] - p[b])) if k else ""
                                   for (a, b), k in zip(cells, known, strict=True))])  # fmt: skip
        return rows

    def _loss_after(self, rule: TargetPropagation, rate: float) -> float:
        moved = copy.deepcopy(rule)
        moved.trains = "forward"
        moved.learn(self.x, self.y, torch.optim.SGD(moved.parameters(), lr=rate))
        return _belief(moved.network, self.x, self.y)[1]
