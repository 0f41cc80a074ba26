"""A step player that follows targets down, in the planes of layers of two units."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bioplaus_lite.rules import DifferenceTargetPropagation, TargetPropagation
from bioplaus_lite.widgets.panels import table, vectors
from bioplaus_lite.widgets.player import StepPlayer
from bioplaus_lite.widgets.players.values import belief, row_of
from bioplaus_lite.widgets.text import fixed, sub

__all__ = ["target_walk"]


def target_walk(rule: DifferenceTargetPropagation, x: Tensor, y: Tensor, *, rate: float = 0.5) -> StepPlayer:
    r"""Targets on their way down, in the planes of hidden layers of two units, with and without the difference.

    Each layer has a plane of its own. There the activity ``h`` is a point, and so is what the inverse makes of the
    activity above, ``g(h)``, and of the target above: ``g(ĥ)`` is the target of TP. The arrow from ``g(h)`` to it,
    moved to ``h``, ends at the target of DTP. ``exact`` is the point that the layer above would really map to its
    target of DTP. A table has the distances. The last step compares the loss after one step of learning by either.
    There are 3L - 3 steps for ``L`` layers of weights.

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
                self.points[l] = {"h": row_of(h), "ĥ": row_of(moved[l])}
                continue
            current = _INVERSES[network.activation](moved[l + 1]) - network.bias(l + 1)
            self.points[l] = {
                "h": row_of(h), "g(h)": row_of(rule.inverse(l + 1, activities[l + 1])), "TP": row_of(carried[l]),
                "DTP": row_of(moved[l]), "exact": row_of(torch.linalg.solve(network.weight(l + 1), current.T).T),
            }  # fmt: skip

    def player(self, rate: float) -> StepPlayer:
        labels, texts = ["activities", "first target"], []
        h, above = sub("h", self.top), sub("ĥ", self.top)
        texts.append("Up: each hidden layer has two units, so its activity is a point in a plane.")
        texts.append(f"{above} = {h} − α∂L/∂{h}. This one target needs the weights of the last layer.")
        since = {self.top: {"h": 0, "ĥ": 1}}
        for l in range(self.top - 1, 0, -1):
            first = len(labels)
            since[l] = {"h": 0, "g(h)": first, "TP": first + 1, "DTP": first + 2, "exact": first + 2}
            g, ha, hta, hb = f"g{sub('', l + 1)}", sub("h", l + 1), sub("ĥ", l + 1), sub("h", l)
            p = self.points[l]
            labels += [f"inverse in layer {l}", f"TP in layer {l}", f"DTP in layer {l}"]
            missed, moves = np.linalg.norm(p["g(h)"] - p["h"]), np.linalg.norm(p["DTP"] - p["h"])
            texts += [
                f"{g}({ha}) should be {hb}. The inverse misses it by {fixed(missed)}.",
                f"TP takes {g}({'' if l == self.top - 1 else 'its own '}{hta}) for the target, and with it what the "
                "inverse misses.",
                f"DTP takes only the arrow from {g}({ha}) to {g}({hta}), {fixed(moves)} long, and sets it at {hb}.",
            ]
        labels.append("one step of learning")
        before = belief(self.rule.network, self.x, self.y)[1]
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
        p, name = self.points[l], sub("h", l)
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
            rows.append([str(l), *(fixed(np.linalg.norm(p[a] - p[b])) if k else ""
                                   for (a, b), k in zip(cells, known, strict=True))])  # fmt: skip
        return rows

    def _loss_after(self, rule: TargetPropagation, rate: float) -> float:
        moved = copy.deepcopy(rule)
        moved.phase = "forward"
        moved.learn(self.x, self.y, torch.optim.SGD(moved.parameters(), lr=rate))
        return belief(moved.network, self.x, self.y)[1]
