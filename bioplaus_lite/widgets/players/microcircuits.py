"""Step players that walk through one example of a small network, equation by equation; and through trainings."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bioplaus_lite.measures import backprop_errors, error_angles
from bioplaus_lite.networks import MLP
from bioplaus_lite.plots import SHORT
from bioplaus_lite.rules import Backprop, DifferenceTargetPropagation, Microcircuits, TargetPropagation
from bioplaus_lite.widgets import StepPlayer, bars, diagram, image, table, vectors

__all__ = ["backprop_walk", "microcircuit_walk", "target_walk", "training_walk"]


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


def training_walk(accuracy: pd.DataFrame, names: Mapping[str, str]) -> StepPlayer:
    """Step through trainings record by record, all rules side by side on each data set.

    Args:
        accuracy: of :func:`~bioplaus_lite.runs.results.tidy`, the metric ``accuracy``: a fraction. Every run of a data
            set was recorded at the same numbers of examples, and all data sets have as many records.
        names: what the data sets are called, ``{dataset: title}``; a panel each, in this order.

    Raises:
        ValueError: the runs were not recorded alike; the message names the data set.
    """
    panels, tables = [], {}
    for dataset, title in names.items():
        own = accuracy[accuracy.dataset == dataset]
        error = 100 * (1 - own.pivot_table(values="value", index="examples", columns="name", aggfunc="mean"))
        error = error[[name for name in SHORT if name in error]]
        if error.empty or error.isna().any(axis=None):
            raise ValueError(f"training walk: the runs on {dataset!r} were not all recorded at the same examples")
        tables[dataset] = error
        limit = 1.15 * error.iloc[-1].max()  # the beginning, where all are at chance, may run over the edge
        labels = [SHORT[name] for name in error]
        panels.append(bars(title, labels, error.to_numpy(), "validation error (%)", ylim=(0, limit)))
    counts = {len(error) for error in tables.values()}
    if len(counts) > 1:
        raise ValueError(f"training walk: the data sets have {sorted(counts)} records; they must have as many")
    steps, texts = [], []
    for k in range(counts.pop()):
        seen = " / ".join(dict.fromkeys(f"{error.index[k]:,}" for error in tables.values()))
        steps.append(f"{seen} examples")
        best = (f"{names[d]}: {SHORT[e.iloc[k].idxmin()]}, {e.iloc[k].min():.1f} %" for d, e in tables.items())
        texts.append("Nothing is learned yet." if k == 0 else f"Fewest errors on {'; '.join(best)}.")
    return StepPlayer(
        panels,
        steps,
        texts,
        title="Every rule, record by record",
        description="Validation errors while rules train, means over seeds. A panel a data set, a bar a rule.",
        step=len(steps) - 1,
        step_name="record",
    )


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
        moved.phase = "forward"
        moved.learn(self.x, self.y, torch.optim.SGD(moved.parameters(), lr=rate))
        return _belief(moved.network, self.x, self.y)[1]


def microcircuit_walk(rule: Microcircuits, x: Tensor, y: Tensor) -> StepPlayer:
    r"""Dendritic microcircuits on one example: silent apical dendrites first, then a target, and the errors it makes.

    A diagram has every compartment with its voltage. Cells are called by layer and letter, and an interneuron after
    the cell above that it predicts: ``i3a`` lies in layer 2 and predicts ``3a``. The steps are those of
    :meth:`~bioplaus_lite.rules.microcircuits.Microcircuits.steady_state`, first without a target:

    .. math::

        \hat v_l &= W_l r_{l-1} + b_l, \qquad \hat v_{I,k} = W^{IP}_k r_k + c_k \\
        v_{A,k} &= W^{down}_k\, \varphi(u_{k+1}) + W^{PI}_k\, \varphi(u_{I,k}), \qquad
        u_{I,k} = (1 - \lambda)\, \hat v_{I,k} + \lambda\, u_{k+1}

    Top-down input arrives alone, then interneurons cancel it, if their weights are in the self-predicting state; the
    texts say how far. Then the target nudges the output, and layer by layer follow interneurons, apical dendrites, and
    somata, :math:`u_k = \hat v_k + \lambda v_{A,k}`. Apical voltages have a scale of colours for each layer, because
    errors shrink by about :math:`\lambda` from layer to layer. Bars show them undone of that, as
    :math:`(\varphi(u_l) - \varphi(\hat v_l)) / \lambda^{L-l+1}`, which the last step sets beside the errors of
    backpropagation of the rule's objective. There are 6L steps for ``L`` layers of weights.

    Args:
        rule: dendritic microcircuits, in whatever state their weights are, with one to three hidden layers of at most
            4 units; input and output have at most 4 units too.
        x: the example, shape ``(1, n_0)``.
        y: its label, shape ``(1,)``.

    Raises:
        TypeError: the rule is not :class:`~bioplaus_lite.rules.microcircuits.Microcircuits`.
        ValueError: there is more than one example, or the network is too deep, too wide, or has no hidden layer.
    """
    if not isinstance(rule, Microcircuits):
        raise TypeError(f"the walk needs the rule of microcircuits, not {type(rule).__name__}")
    sizes = rule.network.sizes
    if len(x) != 1 or max(sizes) > 4 or not 3 <= len(sizes) <= 5:
        raise ValueError(
            f"the walk takes 1 example and 3 to 5 layers, input and output included, of up to 4 units each, not "
            f"{len(x)} and {sizes}"
        )
    return _MicrocircuitWalk(rule, x, y).player()


class _MicrocircuitWalk:
    """The voltages with and without a target, and snapshots of how far they are known."""

    def __init__(self, rule: Microcircuits, x: Tensor, y: Tensor) -> None:
        self.rule, self.top, self.lam, self.right = rule, rule.network.depth, rule.lam, int(y)
        self.sizes, self.hidden = rule.network.sizes, range(1, rule.network.depth)
        self.quiet = {key: _row(v) for key, v in rule.steady_state(x).items()}
        self.taught = {key: _row(v) for key, v in rule.steady_state(x, y).items()}
        for k in self.hidden:  # what is left of a sum that cancels but for rounding is zero
            apical, smallest = self.quiet["apical", k], 16 * torch.finfo(x.dtype).eps
            apical[np.abs(apical) < smallest * np.abs(self.quiet["top_down", k]).max()] = 0
        self.silent = not any(self.quiet["apical", k].any() for k in self.hidden)
        self.target, self.r = _row(rule.target_voltages(y, self.sizes[-1])), {0: _row(x)}
        self.r |= {k: _phi(self.quiet["basal", k]) for k in self.hidden}
        self.own = {l: -_row(error) for l, error in rule.errors(x, y).items()}
        self.true = {l: -_row(error) for l, error in backprop_errors(rule, x, y).items()}
        self.angles = error_angles(rule, x, y)

        self.names = [[f"{l}{chr(97 + i)}" for i in range(n)] for l, n in enumerate(self.sizes)]
        self.inter = {k: [f"i{name}" for name in self.names[k + 1]] for k in self.hidden}
        self.groups = {("input", 0): [f"input {name}" for name in self.names[0]]}
        for l in range(1, self.top + 1):
            self.groups["soma", l] = [f"soma {name}" for name in self.names[l]]
        for k in self.hidden:
            self.groups["interneuron", k] = [f"interneuron {name}" for name in self.inter[k]]
            self.groups["apical", k] = [f"apical dendrite {name}" for name in self.names[k]]
        self.groups["target", self.top] = [f"target {name}" for name in self.names[self.top]]
        self.value = {name: 0.0 for group in self.groups.values() for name in group}
        self.since: dict[str, int] = {}
        self.error = {l: np.zeros(n) for l, n in enumerate(self.sizes) if l}
        self.snapshots: list[dict] = []

    # ---- What becomes known, and when ----

    def set(self, kind: str, layer: int, values: NDArray) -> None:
        for name, value in zip(self.groups[kind, layer], values, strict=True):
            self.value[name] = float(value)
            self.since.setdefault(name, len(self.snapshots))

    def snap(self, label: str, text: str, arithmetic: list[list[str]], *active: str) -> None:
        apical = [self.value[name] for k in self.hidden for name in self.groups["apical", k]]
        self.snapshots.append({
            "label": label, "text": text, "arithmetic": arithmetic, "active": active, "apical": apical,
            "values": list(self.value.values()), "error": np.concatenate(list(self.error.values())),
        })  # fmt: skip

    def walk(self) -> None:
        self.up()
        self.predict()
        for k in reversed(self.hidden):
            self.top_down(k)
            self.cancel(k)
        self.pause()
        self.teach()
        for k in reversed(self.hidden):
            self.nudge(k)
            self.apical(k)
            self.soma(k)
        self.plasticity()

    def up(self) -> None:
        self.set("input", 0, self.r[0])
        given = [[name, "given", f"r = {_text(r)}"] for name, r in zip(self.names[0], self.r[0], strict=True)]
        self.snap("input", f"The rates of the input enter. The right class is {self.names[-1][self.right]}.", given)
        for l in range(1, self.top + 1):
            W, b = self.rule.network.weight(l), self.rule.network.bias(l)
            v = self.quiet["basal", l]
            self.set("soma", l, v)
            sums = _sums(W.detach().double().numpy(), self.r[l - 1], _row(b[None]))
            results = (f"v̂ = {_text(a)}" if l == self.top else f"v̂ = {_text(a)}, r = {_text(_phi(a))}" for a in v)
            name, unit = ("output", "score") if l == self.top else (f"layer {l}", "rate")
            rate = "v̂ is its score" if l == self.top else f"its rate is {_sub('r', l)} = φ(v̂)"
            text = f"{_sub('v̂', l)} = {_sub('W', l)}{_sub('r', l - 1)} + {_sub('b', l)}: basal dendrites drive the "
            self.snap(f"up to {'the ' * (unit == 'score')}{name}", f"{text}soma of each cell; {rate}.",
                      self._rows(self.names[l], sums, results), _sub("W", l))  # fmt: skip

    def predict(self) -> None:
        rows, misses = [], {}
        for k in self.hidden:
            W_IP, c, _ = (w.detach().double() for w in self.rule.interneuron_weights(k))
            predicted, above = self.quiet["predicted", k], self.quiet["basal", k + 1]
            self.set("interneuron", k, predicted)
            misses |= dict(zip(self.inter[k], predicted - above, strict=True))
            sums = _sums(W_IP.numpy(), self.r[k], c.numpy())
            results = (f"v̂ = {_text(p)}; the cell has {_text(a)}" for p, a in zip(predicted, above, strict=True))
            rows += self._rows(self.inter[k], sums, results)
        most = _most(misses)
        right = "They are right." if most == "0" else f"They miss by up to {most}."
        text = "v̂ = W_IP r + c: interneurons listen to their own layer, and each predicts one cell of the layer above."
        self.snap("interneurons predict", f"{text} {right}", rows, *(_sub("W_IP", k) for k in self.hidden))

    def top_down(self, k: int) -> None:
        v = self.quiet["top_down", k]
        self.set("apical", k, v)
        down = self.rule.feedback(k + 1).detach().double().numpy()
        sums = _sums(down, _phi(self.quiet["soma", k + 1]))
        most = _most(dict(zip(self.names[k], v, strict=True)))
        self.snap(f"top-down input to layer {k}",
                  f"W_down φ({_sub('u', k + 1)}) arrives at the apical dendrites of layer {k}. Alone it would make "
                  f"voltages of up to {most}.", self._rows(self.names[k], sums, (f"{_two(a)}" for a in v)),
                  _sub("W_down", k))  # fmt: skip

    def cancel(self, k: int) -> None:
        self._interneuron(k, self.quiet)
        self._apical(k, self.quiet)
        self._soma(k, self.quiet)
        v = dict(zip(self.names[k], self.quiet["apical", k], strict=True))
        if any(v.values()):
            text = f"It does not cancel what comes from above: v_A is up to {_most(v)}, and moves somata by λ v_A."
        else:
            text = "It cancels what comes from above: v_A = 0."
        # Interneurons are nudged as always; in the self-predicting state that changes nothing.
        moved = [] if self.silent else [_sub("nudge", k), _sub("v_A", k)]
        self.snap(f"lateral input to layer {k}", f"Interneurons add W_PI φ(u). {text}",
                  self._apical_rows(k, self.quiet), _sub("W_PI", k), _sub("W_down", k), *moved)  # fmt: skip

    def pause(self) -> None:
        left = {name: v for k in self.hidden for name, v in zip(self.names[k], self.quiet["apical", k], strict=True)}
        if self.silent:
            text = ("All apical dendrites are silent: what comes from above is just what interneurons predict. This is "
                    "the self-predicting state.")  # fmt: skip
        else:
            text = (f"Apical dendrites are not silent, up to {_most(left)}: interneurons do not cancel what comes from "
                    "above. Cells will take the rest for an error.")  # fmt: skip
        rows = [row for k in self.hidden for row in self._apical_rows(k, self.quiet)]
        self.snap("no target", f"No target yet. {text}", rows)

    def teach(self) -> None:
        top, v, u = self.top, self.quiet["basal", self.top], self.taught["soma", self.top]
        self.set("target", top, self.target)
        self.set("soma", top, u)
        self.error[top] = self.own[top]
        most = _most(dict(zip(self.names[top], u - v, strict=True)))
        text = f"{_sub('u', top)} = (1 − λ)v̂ + λu*, λ = {self.lam:g}: the target u* nudges the output by up to {most}."
        self.snap("the target nudges the output", text, self._mixed_rows(self.names[top], v, self.target, u), "target")

    def nudge(self, k: int) -> None:
        before = [self.value[name] for name in self.groups["interneuron", k]]
        self._interneuron(k, self.taught)
        moved = dict(zip(self.inter[k], self.taught["interneuron", k] - before, strict=True))
        above = "output cells" if k + 1 == self.top else "cells above"
        rows = self._mixed_rows(
            self.inter[k], self.taught["predicted", k], self.taught["soma", k + 1], self.taught["interneuron", k]
        )
        text = f"u = (1 − λ)v̂ + λ{_sub('u', k + 1)}: the {above} nudge the interneurons that predict them, but only a "
        self.snap(f"interneurons of layer {k}", f"{text}little: by up to {_most(moved)}.", rows, _sub("nudge", k))

    def apical(self, k: int) -> None:
        before, now = self.quiet["apical", k], self.taught["apical", k]
        self._apical(k, self.taught)
        if before.any():
            change = _most(dict(zip(self.names[k], now - before, strict=True)))
            text = f"v_A is up to {_most(dict(zip(self.names[k], now, strict=True)))}. The target has changed it by up "
            text += f"to {change} only; the rest was there before."
        else:
            text = "Cells above have moved, interneurons too little to cancel it. What is left is the error: v_A is up "
            text += f"to {_most(dict(zip(self.names[k], now, strict=True)))}."
        self.snap(f"apical voltage of layer {k}", text, self._apical_rows(k, self.taught), _sub("W_down", k),
                  _sub("W_PI", k))  # fmt: skip

    def soma(self, k: int) -> None:
        self._soma(k, self.taught)
        v_A = self.taught["apical", k]
        rest = self.taught["soma", k] - self.lam * v_A
        sums = (f"{_text(v)} + {self.lam:g}·{_bracket(_two(a))}" for v, a in zip(rest, v_A, strict=True))
        rows = self._rows(self.names[k], sums, (f"moves by {_two(self.lam * a)}" for a in v_A))
        most = _most(dict(zip(self.names[k], self.lam * v_A, strict=True)))
        what = "v_A" if self.quiet["apical", k].any() else "the error"  # v_A is more than the error if it was not 0
        self.snap(f"somata of layer {k}", f"{_sub('u', k)} = v̂ + λv_A: {what} moves each soma away from what its "
                  f"basal dendrite predicts, by up to {most}.", rows, _sub("v_A", k))  # fmt: skip

    def plasticity(self) -> None:
        rows = []
        for l in range(1, self.top + 1):
            power = "λ" + "".join("⁰¹²³⁴⁵"[self.top - l + 1] if l < self.top else "")
            mine = (f"(φ(u) − φ(v̂)) / {power} = {_two(e)}" for e in self.own[l])
            rows += self._rows(self.names[l], mine, (f"backprop: {_two(e)}" for e in self.true[l]))
        angles = [f"{_degrees(self.angles[l])} in layer {l}" for l in range(self.top - 1, 0, -1)]
        texts = {
            "fixed": "W_down is random, as in feedback alignment.",
            "symmetric": "W_down is the transpose of W, which makes them small.",
            "learned": "W_down has learned for itself.",
        }
        quiet, taught = (_most({k: np.abs(s["apical", k]).max() for k in self.hidden})
                         for s in (self.quiet, self.taught))  # fmt: skip
        why = texts[self.rule.top_down] if self.silent else (
            f"v_A is up to {taught}, but was up to {quiet} without a target: interneurons do not cancel it."
        )
        ends = ", ".join([f"{_degrees(self.angles[self.top])} in the output", *angles])
        text = f"W changes by (φ(u) − φ(v̂))r. Angles to backprop's error: {ends}. {why}"
        self.snap("plasticity", text, rows, *(_sub("W", l) for l in range(1, self.top + 1)))

    # ---- Parts of steps ----

    def _interneuron(self, k: int, state: dict) -> None:
        self.set("interneuron", k, state["interneuron", k])

    def _apical(self, k: int, state: dict) -> None:
        self.set("apical", k, state["apical", k])

    def _soma(self, k: int, state: dict) -> None:
        self.set("soma", k, state["soma", k])
        u, power = state["soma", k], self.lam ** (self.top - k + 1)
        without = (_phi(u) - _phi(u - self.lam * state["apical", k])) / power
        self.error[k] = self.own[k] if state is self.taught else without

    def _apical_rows(self, k: int, state: dict) -> list[list[str]]:
        pairs = zip(state["top_down", k], state["lateral", k], strict=True)
        sums = (f"{_long(d)} + {_bracket(_long(i))}" for d, i in pairs)
        return self._rows(self.names[k], sums, (f"v_A = {_two(v)}" for v in state["apical", k]))

    def _mixed_rows(self, names: list[str], own: NDArray, other: NDArray, now: NDArray) -> list[list[str]]:
        shares = f"{1 - self.lam:.3g}", f"{self.lam:.3g}"
        pairs = zip(map(_text, own), map(_text, other), strict=True)
        sums = (f"{shares[0]}·{_bracket(a)} + {shares[1]}·{_bracket(b)}" for a, b in pairs)
        return self._rows(names, sums, (f"moves by {_two(d)}" for d in now - own))

    @staticmethod
    def _rows(*columns: Iterable[str]) -> list[list[str]]:
        return [list(cells) for cells in zip(*columns, strict=True)]

    # ---- The picture ----

    def _places(self) -> dict[str, tuple[float, float]]:
        """Rows from the bottom up. Interneurons stand between the trunks of the pyramidal cells of their layer."""
        places: dict[str, tuple[float, float]] = {}

        def put(kind: str, l: int, y: float, shift: float = 0.0) -> None:
            group = self.groups[kind, l]
            places.update((name, (i - (len(group) - 1) / 2 + shift, y)) for i, name in enumerate(group))

        put("input", 0, 0)
        y = 1.35
        for k in self.hidden:
            put("soma", k, y)
            put("interneuron", k, y + 1, 0.0 if (self.sizes[k] - self.sizes[k + 1]) % 2 else 0.5)
            put("apical", k, y + 1.9)
            y += 3.2
        put("soma", self.top, y)
        put("target", self.top, y + 1)
        return places

    def _edges(self) -> dict[str, tuple[str, list[tuple[str, str]]]]:
        def all_to_all(a: list[str], b: list[str]) -> list[tuple[str, str]]:
            return [(one, other) for one in a for other in b]

        def one_to_one(a: list[str], b: list[str]) -> list[tuple[str, str]]:
            return list(zip(a, b, strict=True))

        g, edges = self.groups, {}
        for l in range(1, self.top + 1):
            below = g["soma", l - 1] if l > 1 else g["input", 0]
            edges[_sub("W", l)] = "arrow", all_to_all(below, g["soma", l])
        for k in self.hidden:
            edges[_sub("v_A", k)] = "trunk", one_to_one(g["apical", k], g["soma", k])
            edges[_sub("W_IP", k)] = "arrow", all_to_all(g["soma", k], g["interneuron", k])
            edges[_sub("W_down", k)] = "arrow", all_to_all(g["soma", k + 1], g["apical", k])
            edges[_sub("W_PI", k)] = "bar", all_to_all(g["interneuron", k], g["apical", k])
            edges[_sub("nudge", k)] = "arrow", one_to_one(g["soma", k + 1], g["interneuron", k])
        edges["target"] = "arrow", one_to_one(g["target", self.top], g["soma", self.top])
        return edges

    def _diagram(self) -> dict:
        shape = {"interneuron": "square", "apical": "ellipse", "target": "hexagon"}
        names = {"input": self.names, "soma": self.names, "interneuron": self.inter}
        places = self._places()
        order = list(self.value)
        bands = {"input": self.groups["input", 0]}
        for k in self.hidden:
            bands[f"layer {k}"] = [name for kind in ("soma", "interneuron", "apical") for name in self.groups[kind, k]]
        bands["output"] = self.groups["soma", self.top]
        others = [name for (kind, _), group in self.groups.items() if kind != "apical" for name in group]
        scales = {"all but apical": (self._largest(others), others)}
        for k in reversed(self.hidden):
            # The scale of the error: top-down input alone may go beyond it.
            most = max(np.abs(state["apical", k]).max() for state in (self.quiet, self.taught))
            scales[f"apical, layer {k}"] = (_nice(most), self.groups["apical", k])
        key = {
            "circle": "soma (input: a rate)", "ellipse": "apical dendrite", "square": "interneuron",
            "hexagon": "target", "arrow": "from pyramidal cells", "bar": "from interneurons",
            "new": "has changed", "empty": "not known yet",
        }  # fmt: skip
        return diagram(
            "The circuits", {name: places[name] for name in order}, [s["values"] for s in self.snapshots],
            self._edges(), "Layers of cells from the input at the bottom to the output at the top.",
            shapes={name: shape[kind] for (kind, _), group in self.groups.items() if kind in shape for name in group},
            labels={name: label for (kind, l), group in self.groups.items() if kind in names
                    for name, label in zip(group, names[kind][l], strict=True)},
            active=[s["active"] for s in self.snapshots], since=self.since, bands=bands, scales=scales, key=key,
            clabel="voltage",
        )  # fmt: skip

    def _largest(self, names: list[str]) -> float:
        at = [i for i, name in enumerate(self.value) if name in names]
        return _nice(max(abs(s["values"][i]) for s in self.snapshots for i in at))

    def player(self) -> StepPlayer:
        self.walk()

        def frames(key: str) -> list:
            return [snapshot[key] for snapshot in self.snapshots]

        hidden = [name for k in self.hidden for name in self.names[k]]
        panels = [
            self._diagram(),
            bars("Apical voltages", hidden, frames("apical"), "v_A"),
            bars("Error that moves each soma", [name for names in self.names[1:] for name in names], frames("error"),
                 "(φ(u) − φ(v̂)) / λ^(L − l + 1)"),
            table("The arithmetic of this step", ["cell", "sum", "result"], frames("arithmetic")),
        ]  # fmt: skip
        sizes = "-".join(map(str, self.sizes))
        description = (
            f"A network of {sizes} cells. First rates go up and interneurons cancel what comes down, then a target "
            "nudges the output, and errors appear in apical dendrites from the top down."
        )
        return StepPlayer(panels, frames("label"), frames("text"), title="Errors in apical dendrites",
                          description=description, seconds_per_step=3)  # fmt: skip


def _phi(voltage: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-voltage))


def _two(value: float) -> str:
    """Two significant figures, with a power of ten below 0.0001."""
    if value == 0:
        return "0"
    figures, power = f"{value:.1e}".split("e")
    if int(power) >= -4:
        return f"{value:.{max(0, 1 - int(power))}f}".replace("-", "−")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{figures}×10{raised}".replace("-", "−")


def _degrees(angle: float) -> str:
    return f"{angle:.0f}°" if angle >= 10 else f"{angle:.2g}°"


def _long(value: float) -> str:
    return f"{value + 0.0:.4f}".replace("-", "−")


def _bracket(text: str) -> str:
    return f"({text})" if text.startswith("−") else text


def _most(values: Mapping[str, float]) -> str:
    """The largest magnitude."""
    return _two(max(map(abs, values.values())))


def _nice(value: float) -> float:
    """Just above ``value``, with two figures; 1 for zero."""
    if value == 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit - 1e-9) * unit
