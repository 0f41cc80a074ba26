"""A step player that walks through one example of dendritic microcircuits, without a target and with one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bioplaus_lite.measures import backprop_errors, error_angles
from bioplaus_lite.rules import Microcircuits
from bioplaus_lite.widgets.panels import bars, diagram, table
from bioplaus_lite.widgets.player import StepPlayer
from bioplaus_lite.widgets.players.values import row_of
from bioplaus_lite.widgets.text import bracket, fixed, in_full, largest, long, short, sub

__all__ = ["microcircuit_walk"]


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
        self.quiet = {key: row_of(v) for key, v in rule.steady_state(x).items()}
        self.taught = {key: row_of(v) for key, v in rule.steady_state(x, y).items()}
        for k in self.hidden:  # what is left of a sum that cancels but for rounding is zero
            apical, smallest = self.quiet["apical", k], 16 * torch.finfo(x.dtype).eps
            apical[np.abs(apical) < smallest * np.abs(self.quiet["top_down", k]).max()] = 0
        self.silent = not any(self.quiet["apical", k].any() for k in self.hidden)
        self.exact = rule.top_down == "symmetric"
        self.target, self.r = row_of(rule.target_voltages(y, self.sizes[-1])), {0: row_of(x)}
        self.r |= {k: _phi(self.quiet["basal", k]) for k in self.hidden}
        self.own = {l: -row_of(error) for l, error in rule.errors(x, y).items()}
        self.true = {l: -row_of(error) for l, error in backprop_errors(rule, x, y).items()}
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
        given = [[name, "given", f"r = {fixed(r)}"] for name, r in zip(self.names[0], self.r[0], strict=True)]
        self.snap("input", f"The rates of the input enter. The right class is {self.names[-1][self.right]}.", given)
        for l in range(1, self.top + 1):
            W, b = self.rule.network.weight(l), self.rule.network.bias(l)
            v = self.quiet["basal", l]
            self.set("soma", l, v)
            sums = in_full(W.detach().double().numpy(), self.r[l - 1], row_of(b[None]))
            results = (
                f"v̂ = {fixed(a)}" if l == self.top else f"v̂ = {fixed(a)}, r = {fixed(float(_phi(a)))}" for a in v
            )
            name, unit = ("output", "score") if l == self.top else (f"layer {l}", "rate")
            rate = "v̂ is its score" if l == self.top else f"its rate is {sub('r', l)} = φ(v̂)"
            text = f"{sub('v̂', l)} = {sub('W', l)}{sub('r', l - 1)} + {sub('b', l)}: basal dendrites drive the "
            self.snap(f"up to {'the ' * (unit == 'score')}{name}", f"{text}soma of each cell; {rate}.",
                      self._rows(self.names[l], sums, results), sub("W", l))  # fmt: skip

    def predict(self) -> None:
        rows: list[list[str]] = []
        misses: dict[str, float] = {}
        for k in self.hidden:
            W_IP, c, _ = (w.detach().double() for w in self.rule.interneuron_weights(k))
            predicted, above = self.quiet["predicted", k], self.quiet["basal", k + 1]
            self.set("interneuron", k, predicted)
            misses |= dict(zip(self.inter[k], predicted - above, strict=True))
            sums = in_full(W_IP.numpy(), self.r[k], c.numpy())
            results = (f"v̂ = {fixed(p)}; the cell has {fixed(a)}" for p, a in zip(predicted, above, strict=True))
            rows += self._rows(self.inter[k], sums, results)
        most = largest(misses)
        right = "They are right." if most == "0" else f"They miss by up to {most}."
        text = "v̂ = W_IP r + c: interneurons listen to their own layer, and each predicts one cell of the layer above."
        self.snap("interneurons predict", f"{text} {right}", rows, *(sub("W_IP", k) for k in self.hidden))

    def top_down(self, k: int) -> None:
        v = self.quiet["top_down", k]
        self.set("apical", k, v)
        down = self.rule.feedback(k + 1).detach().double().numpy()
        sums = in_full(down, _phi(self.quiet["soma", k + 1]))
        most = largest(dict(zip(self.names[k], v, strict=True)))
        self.snap(f"top-down input to layer {k}",
                  f"W_down φ({sub('u', k + 1)}) arrives at the apical dendrites of layer {k}. Alone it would make "
                  f"voltages of up to {most}.", self._rows(self.names[k], sums, (f"{short(a)}" for a in v)),
                  sub("W_down", k))  # fmt: skip

    def cancel(self, k: int) -> None:
        self._interneuron(k, self.quiet)
        self._apical(k, self.quiet)
        self._soma(k, self.quiet)
        v = dict(zip(self.names[k], self.quiet["apical", k], strict=True))
        if any(v.values()):
            text = f"It does not cancel what comes from above: v_A is up to {largest(v)}, and moves somata by λ v_A."
        else:
            text = "It cancels what comes from above: v_A = 0."
        # Interneurons are nudged as always; in the self-predicting state that changes nothing.
        moved = [] if self.silent else [sub("nudge", k), sub("v_A", k)]
        self.snap(f"lateral input to layer {k}", f"Interneurons add W_PI φ(u). {text}",
                  self._apical_rows(k, self.quiet), sub("W_PI", k), sub("W_down", k), *moved)  # fmt: skip

    def pause(self) -> None:
        left = {name: v for k in self.hidden for name, v in zip(self.names[k], self.quiet["apical", k], strict=True)}
        if self.silent:
            text = ("All apical dendrites are silent: what comes from above is just what interneurons predict. This is "
                    "the self-predicting state.")  # fmt: skip
        else:
            text = (f"Apical dendrites are not silent, up to {largest(left)}: interneurons do not cancel what comes "
                    "from above. Cells will take the rest for an error.")  # fmt: skip
        rows = [row for k in self.hidden for row in self._apical_rows(k, self.quiet)]
        self.snap("no target", f"No target yet. {text}", rows)

    def teach(self) -> None:
        top, v, u = self.top, self.quiet["basal", self.top], self.taught["soma", self.top]
        self.set("target", top, self.target)
        self.set("soma", top, u)
        self.error[top] = self.own[top]
        most = largest(dict(zip(self.names[top], u - v, strict=True)))
        text = f"{sub('u', top)} = (1 − λ)v̂ + λu*, λ = {self.lam:g}: the target u* nudges the output by up to {most}."
        self.snap("the target nudges the output", text, self._mixed_rows(self.names[top], v, self.target, u), "target")

    def nudge(self, k: int) -> None:
        self._interneuron(k, self.taught)
        moved = dict(zip(self.inter[k], self.taught["interneuron", k] - self.taught["predicted", k], strict=True))
        above = "output cells" if k + 1 == self.top else "cells above"
        rows = self._mixed_rows(
            self.inter[k], self.taught["predicted", k], self.taught["soma", k + 1], self.taught["interneuron", k]
        )
        text = f"u = (1 − λ)v̂ + λ{sub('u', k + 1)}: the {above} nudge the interneurons that predict them, but only a "
        self.snap(f"interneurons of layer {k}", f"{text}little: by up to {largest(moved)}.", rows, sub("nudge", k))

    def apical(self, k: int) -> None:
        before, now = self.quiet["apical", k], self.taught["apical", k]
        self._apical(k, self.taught)
        if before.any():
            change = largest(dict(zip(self.names[k], now - before, strict=True)))
            text = f"v_A is up to {largest(dict(zip(self.names[k], now, strict=True)))}. The target has changed it by "
            text += f"up to {change} only; the rest was there before."
        else:
            left = "the error" if self.exact else "an error as W_down carries it, which is not backprop's"
            text = f"Cells above have moved, interneurons too little to cancel it. What is left is {left}: v_A is up "
            text += f"to {largest(dict(zip(self.names[k], now, strict=True)))}."
        self.snap(f"apical voltage of layer {k}", text, self._apical_rows(k, self.taught), sub("W_down", k),
                  sub("W_PI", k))  # fmt: skip

    def soma(self, k: int) -> None:
        self._soma(k, self.taught)
        v_A = self.taught["apical", k]
        rest = self.taught["soma", k] - self.lam * v_A
        sums = (f"{fixed(v)} + {self.lam:g}·{bracket(short(a))}" for v, a in zip(rest, v_A, strict=True))
        rows = self._rows(self.names[k], sums, (f"moves by {short(self.lam * a)}" for a in v_A))
        most = largest(dict(zip(self.names[k], self.lam * v_A, strict=True)))
        # v_A is more than the error if it was not 0, and another one if W_down is not the transpose.
        what = "the error" if self.exact and not self.quiet["apical", k].any() else "v_A"
        self.snap(f"somata of layer {k}", f"{sub('u', k)} = v̂ + λv_A: {what} moves each soma away from what its "
                  f"basal dendrite predicts, by up to {most}.", rows, sub("v_A", k))  # fmt: skip

    def plasticity(self) -> None:
        rows = []
        for l in range(1, self.top + 1):
            power = "λ" + "".join("⁰¹²³⁴⁵"[self.top - l + 1] if l < self.top else "")
            mine = (f"(φ(u) − φ(v̂)) / {power} = {short(e)}" for e in self.own[l])
            rows += self._rows(self.names[l], mine, (f"backprop: {short(e)}" for e in self.true[l]))
        angles = [f"{_degrees(self.angles[l])} in layer {l}" for l in range(self.top - 1, 0, -1)]
        texts = {
            "fixed": "W_down is random, as in feedback alignment.",
            "symmetric": "W_down is the transpose of W, which makes them small.",
            "learned": "W_down has learned for itself.",
        }
        quiet, taught = (largest({k: np.abs(s["apical", k]).max() for k in self.hidden})
                         for s in (self.quiet, self.taught))  # fmt: skip
        why = texts[self.rule.top_down] if self.silent else (
            f"v_A is up to {taught}, but was up to {quiet} without a target: interneurons do not cancel it."
        )
        ends = ", ".join([f"{_degrees(self.angles[self.top])} in the output", *angles])
        text = f"W changes by (φ(u) − φ(v̂))r. Angles to backprop's error: {ends}. {why}"
        self.snap("plasticity", text, rows, *(sub("W", l) for l in range(1, self.top + 1)))

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
        sums = (f"{long(d)} + {bracket(long(i))}" for d, i in pairs)
        return self._rows(self.names[k], sums, (f"v_A = {short(v)}" for v in state["apical", k]))

    def _mixed_rows(self, names: list[str], own: NDArray, other: NDArray, now: NDArray) -> list[list[str]]:
        shares = f"{1 - self.lam:.3g}", f"{self.lam:.3g}"
        pairs = zip(map(fixed, own), map(fixed, other), strict=True)
        sums = (f"{shares[0]}·{bracket(a)} + {shares[1]}·{bracket(b)}" for a, b in pairs)
        return self._rows(names, sums, (f"moves by {short(d)}" for d in now - own))

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
            edges[sub("W", l)] = "arrow", all_to_all(below, g["soma", l])
        for k in self.hidden:
            edges[sub("v_A", k)] = "trunk", one_to_one(g["apical", k], g["soma", k])
            edges[sub("W_IP", k)] = "arrow", all_to_all(g["soma", k], g["interneuron", k])
            edges[sub("W_down", k)] = "arrow", all_to_all(g["soma", k + 1], g["apical", k])
            edges[sub("W_PI", k)] = "bar", all_to_all(g["interneuron", k], g["apical", k])
            edges[sub("nudge", k)] = "arrow", one_to_one(g["soma", k + 1], g["interneuron", k])
        edges["target"] = "arrow", one_to_one(g["target", self.top], g["soma", self.top])
        return edges

    def _diagram(self) -> dict:
        shape = {"interneuron": "square", "apical": "ellipse", "target": "hexagon"}
        names: dict[str, list[list[str]] | dict[int, list[str]]] = {
            "input": self.names, "soma": self.names, "interneuron": self.inter,
        }  # fmt: skip
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


def _degrees(angle: float) -> str:
    return f"{angle:.0f}°" if angle >= 10 else f"{angle:.2g}°"


def _nice(value: float) -> float:
    """Just above ``value``, with two figures; 1 for zero."""
    if value == 0:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit - 1e-9) * unit
