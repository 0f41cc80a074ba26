"""The rows of the literature table, each a computation.

The first eight are those of the table in Lange's review of 2019, whose slides name them and define none (two readings
of one row make two). The others are what the field argues about besides. What a row asks is in its docstring. No rule
is asked its name or its card; all are asked what their units hold (``LearningRule.states``), and some rows take their
word for which dendrite or moment that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bioplaus_lite.costs import step_cost
from bioplaus_lite.layers import Dense, Layer
from bioplaus_lite.measures import angle, backprop_errors, true_gradients
from bioplaus_lite.plausibility.case import Case, copied
from bioplaus_lite.plausibility.sending import Spikes, answering_by, instead_of_feedback, wires
from bioplaus_lite.plausibility.verdicts import Verdict, criterion
from bioplaus_lite.rules import LearningRule
from bioplaus_lite.rules.backprop import Backprop
from bioplaus_lite.rules.base import Held, Synapse

__all__ = [
    "cost_of_a_step", "dendritic_integration", "exact_gradients", "explicit_error", "linear_stabilisation", "local",
    "memory_beside_weights", "moments_compared", "no_error_units", "no_weight_transport", "no_weights_of_its_own",
    "passes_down", "passes_up", "separate_weights_learned", "unsigned_errors_do", "works_with_spikes",
]  # fmt: skip

EXACT = 0.1  # degrees
ROUNDING = 1e-9
READABLE = 2.0  # times what other units of the layer explain of an error, which has few dimensions
SHUFFLES = 10
LEARNED = 0.01  # relative change
UNSIGNED = 75  # degrees; an update without any sign lies near 90
NEAR = 20  # degrees, at the end of a way to a limit
ONE_BY_ONE = 20  # examples, each sent by itself
DRAWS = (1, 64, 1024, 4096)
HALF = 0.15  # how far an order may lie from ½
SOON, TOO_LATE, NEVER = 800, 10_000, 10**9  # ms

Moments = list[dict[str, dict[int, Tensor]]]
Answer = TypeVar("Answer")


def _layers(layers: Iterable[int]) -> str:
    named = sorted(layers)
    return f"layer{'s' if len(named) > 1 else ''} {' and '.join(map(str, named))}"


def _of_layers(rule: LearningRule, gradients: dict[str, Tensor]) -> dict[int, Tensor]:
    return {l: gradients[f"W{l}"] for l in range(1, rule.network.depth + 1) if f"W{l}" in gradients}


def _of_hidden(rule: LearningRule, gradients: dict[str, Tensor]) -> dict[int, Tensor]:
    for layer in range(1, rule.network.depth):
        if f"W{layer}" not in gradients:
            raise NotImplementedError(f"an update of W{layer}, which no synapse names")
    return {l: gradients[f"W{l}"] for l in range(1, rule.network.depth)}


def _furthest(own: dict[int, Tensor], other: dict[int, Tensor]) -> tuple[int, float]:
    """Layer and size of the largest angle, degrees; what is zero or missing lies at 90°."""
    angles = {l: angle(own[l], g) if l in own and own[l].any() else 90.0 for l, g in other.items()}
    layer = max(angles, key=lambda l: angles[l])
    return layer, angles[layer]


def _order(small: Sequence[float], angles: Sequence[float]) -> float:
    """With which power of what gets small an angle falls: the slope of ``log tan angle`` over the last two points."""
    if max(angles[-2:]) >= 89.9:
        return 0.0
    one, two = (math.log(max(math.tan(math.radians(a)), 1e-300)) for a in angles[-2:])
    return (two - one) / math.log(small[-1] / small[-2])


# ------------------------------------------------------------------------------------------- the rows of the review


@criterion("exact gradients", unit="degrees", slide=True)
def exact_gradients(case: Case) -> Verdict:
    """Is the update the negative gradient?

    It is if the angle to the gradient of the rule's own objective by autograd, in the layer where it is largest, is
    below 0.1°, before a short training and after it. *In the limit*: it is not, but falls, to less than 20°, with an
    option that the rule's theory sends to a limit (``LearningRule.limits``), or as draws of its noise are averaged; the
    order is the slope in log–log at the end.
    """
    rule, x, y = case.fresh, case.x, case.y
    layer, worst = _furthest(_of_layers(rule, rule.gradients(x, y)), true_gradients(rule, x, y))
    if worst < EXACT:
        _, then = _furthest(_of_layers(case.after, case.after.gradients(x, y)), true_gradients(case.after, x, y))
        if then < EXACT:
            return Verdict("holds", worst, "The angle to the gradient by autograd is zero, but for rounding.")
        said = "The update begins as the gradient by autograd, and after a short training"
        return Verdict("fails", then, f"{said} lies up to {then:.0f}° from it.")
    for option, values in rule.limits.items():
        angles = []
        for value in values:
            changed = case.make(**{option: value})
            angles.append(_furthest(_of_layers(changed, changed.gradients(x, y)), true_gradients(changed, x, y))[1])
        order = _order(values, angles)
        if order > 0.8 and angles[-1] < NEAR:
            ends = f"{angles[0]:.2g}° at {option} = {values[0]} to {angles[-1]:.2g}° at {values[-1]}"
            return Verdict("in the limit", worst, f"The largest angle falls from {ends}, with order {order:.1f}.")
    if means := _averaged(rule, x, y):
        true = true_gradients(rule, x, y)
        angles = [_furthest(mean, true)[1] for mean in means]
        order = _order([1 / k for k in DRAWS], angles)
        if abs(order - 0.5) < HALF and angles[-1] < NEAR:
            ends = f"{angles[0]:.0f}° for one draw of its noise to {angles[-1]:.0f}° for the mean of {DRAWS[-1]:,}"
            return Verdict("in the limit", worst, f"The largest angle falls from {ends}, with order {order:.1f}.")
    said = f"In layer {layer} the update lies {worst:.0f}° from the gradient by autograd"
    try:
        later = case.after
    except NotImplementedError:  # it has not learned
        return Verdict("fails", worst, f"{said}.")
    _, then = _furthest(_of_layers(later, later.gradients(x, y)), true_gradients(later, x, y))
    return Verdict("fails", worst, f"{said}; after a short training the largest angle is {then:.0f}°.")


def _averaged(rule: LearningRule, x: Tensor, y: Tensor) -> list[dict[int, Tensor]]:
    """Updates averaged over more and more draws of a rule's noise; none if its updates do not hang on a draw."""
    drawing = copied(rule)
    total: dict[int, Tensor] = {}
    means = []
    for draw in range(DRAWS[-1]):
        for i, generator in enumerate(drawing._generators().values()):
            generator.manual_seed(1000 * i + draw)
        now = _of_layers(drawing, drawing.gradients(x, y))
        if draw == 1 and all(torch.equal(now[l], total[l]) for l in now):
            return []
        total = {l: total[l] + g if total else g.clone() for l, g in now.items()}
        if draw + 1 in DRAWS:
            means.append({l: t / (draw + 1) for l, t in total.items()})
    return means


@criterion("no weight transport", unit="degrees", slide=True)
def no_weight_transport(case: Case) -> Verdict:
    """Does a layer learn without knowing the weights above it?

    The lesion: all that has travelled up, the error at the top and the rule's own weights are held, and the forward
    weights ``W_k`` of one layer after another become noise where credit is assigned. No update of a layer below ``k``
    may change. What layer ``k - 1`` reads of ``W_k`` it may tell those below; they have not read it then. Nor may
    weights of the rule's own change with ``W_k`` when they are prepared for a batch, except by what a layer answers.
    *Partly*: some layers read weights above, or weights of the rule's own begin as copies of the network's.

    If an update changes otherwise than when ``W_k`` is noise in ``feedback`` alone, or weights may travel with what is
    held, ways up and down cannot be told apart, and the row is not measured.
    """
    rule = copied(case.fresh)
    held = rule.hold(case.x, case.y)
    _refuse_weights_that_travel(rule, case)
    intact, turned = _of_hidden(rule, held.again(None)), dict[int, float]()
    for k in range(2, rule.network.depth + 1):
        noise = _noise_like(rule.network.weight(k).detach(), seed=k)
        lesioned = _of_hidden(rule, _with_weights(rule, k, noise, lambda: held.again(None)))
        read = [l for l in range(1, k) if _deviation(lesioned[l], intact[l]) > ROUNDING]
        through = _of_hidden(rule, _through_feedback(rule, held, k, noise)) if read else lesioned
        if otherwise := [l for l in read if _deviation(through[l], lesioned[l]) > ROUNDING]:
            raise NotImplementedError(
                f"a way down that can be told from a way up: the update of {_layers(otherwise)} reads W{k} otherwise "
                f"than through feedback({k})"
            )
        for l in [k - 1] if k - 1 in read else read:  # if the layer below W_k reads it, the others are told by that one
            turned[l] = max(turned.get(l, 0.0), angle(lesioned[l], intact[l]))
    if not turned:
        if copied_anew := _prepared_from_weights(case):
            said = f"No update reads a weight above, but {', '.join(copied_anew)} do when a batch is prepared"
            return Verdict("fails", None, f"{said}: forward weights are copied there.")
        if rule.assumes:
            return Verdict("partly", 0.0, f"No update reads a weight above, but the rule assumes {rule.assumes}.")
        if begun := _begin_as_copies(case.fresh):
            verb = "begins as a copy" if len(begun) == 1 else "begin as copies"
            said = f"No update reads a weight above, but {', '.join(begun)} {verb} of forward weights"
            return Verdict("partly", 0.0, f"{said}.")
        return Verdict("holds", 0.0, "With the weights above replaced by noise no update changes.")
    worst = max(turned.values())
    says = f"With the weights above it replaced by noise the update of {_layers(turned)} turns, by up to {worst:.0f}°"
    if spared := [l for l in range(1, rule.network.depth) if l not in turned]:
        verb = "reads" if len(spared) == 1 else "read"
        return Verdict("partly", worst, f"{says}; {_layers(spared)} {verb} no weight above.")
    return Verdict("fails", worst, f"{says}.")


def _refuse_weights_that_travel(rule: LearningRule, case: Case) -> None:
    """Raise if what is held may hold weights: tensors that do not have a row for each example."""
    if type(rule).hold is not LearningRule.hold:
        return
    with rule.as_it_is(), torch.no_grad():
        more = tree_leaves(rule.observe(case.x).more)
    for t in more:
        if isinstance(t, Tensor) and t.ndim and len(t) % len(case.x):
            shape = "×".join(map(str, t.shape))
            raise NotImplementedError(f"a trace of examples only: it holds {shape} numbers that may be weights")


def _prepared_from_weights(case: Case) -> list[str]:
    """Weights of the rule's own that ``prepare`` makes of forward weights otherwise than by what a layer answers."""
    intact, found = copied(case.fresh).train(), dict[str, None]()
    with torch.no_grad():
        intact.prepare()
    for k in range(2, intact.network.depth + 1):
        lesioned = copied(case.fresh).train()
        weight = lesioned.network.weight(k)
        true = weight.detach().clone()
        weight.data.copy_(_noise_like(true, seed=k))
        with torch.no_grad(), answering_by(lesioned, k, true):
            lesioned.prepare()
        now = _own(lesioned)
        found |= {n: None for n, t in _own(intact).items() if _deviation(now[n], t) > ROUNDING}
    return list(found)


def _begin_as_copies(rule: LearningRule) -> list[str]:
    """Weights of the rule's own that have the direction of the network's, transposed or not, or all of their signs."""
    forward = [rule.network.weight(l).detach() for l in range(2, rule.network.depth + 1)]
    forms = [form for w in forward for form in (w, w.transpose(0, 1))]

    def same(own: Tensor, form: Tensor) -> bool:
        if own.shape != form.shape:
            return False
        turned = angle(own, form)
        return min(turned, 180 - turned) < EXACT or torch.equal(own.sign(), form.sign())

    return [name for name, own in _own(rule).items() if any(same(own, form) for form in forms)]


def _deviation(one: Tensor, other: Tensor) -> float:
    """Size of what one differs by, as a share of the other."""
    return ((one - other).norm() / other.norm().clamp(min=torch.finfo(other.dtype).tiny)).item()


def _noise_like(weight: Tensor, *, seed: int) -> Tensor:
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype)
    return drawn * weight.square().mean().sqrt()


def _with_weights(rule: LearningRule, k: int, instead: Tensor, ask: Callable[[], Answer]) -> Answer:
    """What ``ask()`` says while ``W_k`` is something else."""
    weight = rule.network.weight(k)
    kept = weight.detach().clone()
    weight.data.copy_(instead)
    try:
        return ask()
    finally:
        weight.data.copy_(kept)


def _through_feedback(rule: LearningRule, held: Held, k: int, noise: Tensor) -> dict[str, Tensor]:
    """The updates if ``W_k`` is noise only while ``feedback`` is read."""
    if type(rule).hold is not LearningRule.hold:  # a simulation, which holds all that goes up and reads its own weights
        return _with_weights(rule, k, noise, lambda: held.again(None))
    feedback = rule.feedback

    def lesioned(layer: int) -> Tensor:
        return _with_weights(rule, k, noise, lambda: feedback(layer).detach().clone())

    with instead_of_feedback(rule, lesioned):
        return held.again(None)


def _own(rule: LearningRule) -> dict[str, Tensor]:
    """Weights that are the rule's and not the network's, by name: parameters, buffers, and tensors that it holds."""
    theirs = {t.data_ptr() for t in (*rule.network.parameters(), *rule.network.buffers())}
    held = [(name, tree_leaves(value)) for name, value in vars(rule).items() if not name.startswith("_")]
    plain = [(f"{name}[{i}]" if len(of) > 1 else name, t) for name, of in held for i, t in enumerate(of)]
    return {
        name: t.detach()
        for name, t in (*rule.named_parameters(), *rule.named_buffers(), *plain)
        if isinstance(t, Tensor) and t.ndim >= 2 and t.is_floating_point() and t.data_ptr() not in theirs
    }


@criterion("no weights of its own", unit="per forward weight", slide=True)
def no_weights_of_its_own(case: Case) -> Verdict:
    """Are there no weights besides those by which the network computes?

    This is the first reading of the review's "no separate pathways". Counted is all that the rule holds. What it works
    out from other weights at that moment, a transpose or a negative, or assumes, is not among them, though a brain
    would need synapses for it.
    """
    rule = case.fresh
    own = sum(t.numel() for t in _own(rule).values())
    forward = sum(rule.network.weight(l).numel() for l in range(1, rule.network.depth + 1))
    assumed = f", and assumes {rule.assumes}" if rule.assumes else ""
    if not own:
        return Verdict("holds", 0.0, f"The rule has no weights beside those of the network{assumed}.")
    said = f"It has {own:,} weights of its own beside {forward:,} of the network"
    return Verdict("fails", own / forward, f"{said}{assumed}.")


@criterion("no error units", unit="share of variance", slide=True)
def no_error_units(case: Case) -> Verdict:
    """Do units hold their errors themselves?

    This is the second reading of the review's "no separate pathways". They do if none of the ``states`` that the rule
    names is an ``error``, and its own errors can be read from one of them, or from its change between two moments: if
    it explains more than half of their variance, unit by unit. Of a rule without errors it is not asked.
    """
    moments, errors = case.states
    if any("error" in moment for moment in moments):
        carried = sum(e[0].numel() for e in errors.values())
        units = sum(case.fresh.network.sizes[1:-1])
        said = f"Beside the activities of {units} hidden units {carried} errors must be carried."
        return Verdict("fails", None, said)
    if not errors:
        return Verdict("not applicable", None, "No error arrives at a hidden unit.")
    for layer in range(1, case.fresh.network.depth):
        if layer not in errors:
            raise NotImplementedError(f"the rule's own error of layer {layer}, in States.errors")
    name, share = max(
        ((name, _explained(of, errors)) for name, of in (*_held_at_once(moments), *_changes(moments))),
        key=lambda found: found[1],
    )
    said = f"Of the variance of its errors {100 * share:.0f} % can be read from {name} of the same unit."
    if share <= 0.5:
        raise NotImplementedError(f"states from which its errors can be read; from {name} it is {100 * share:.0f} %")
    return Verdict("holds", share, said)


def _words(state: str) -> str:
    """A state's name in a sentence."""
    if state in ("error", "activity"):
        return state
    return f"{state} potential" if state == "plateau" else f"{state.replace('_', '-')} voltage"


def _held_at_once(moments: Moments) -> list[tuple[str, dict[int, Tensor]]]:
    """What can be read at one moment, with words for it."""
    found = []
    for i, moment in enumerate(moments, 1):
        when = f" at moment {i}" if len(moments) > 1 else ""
        found += [(f"the {_words(name)}{when}", of) for name, of in moment.items()]
    return found


def _changes(moments: Moments) -> list[tuple[str, dict[int, Tensor]]]:
    """What changes between the first and the last moment."""
    first, last = moments[0], moments[-1]
    return [
        (f"the change of the {_words(name)} between two moments", {l: last[name][l] - h for l, h in of.items()})
        for name, of in first.items() if len(moments) > 1 and name in last
    ]  # fmt: skip


def _explained(state: dict[int, Tensor], wanted: dict[int, Tensor]) -> float:
    """Share of an error's variance that a state explains linearly, unit by unit, in the layer where it is least."""
    shares = []
    for layer, values in state.items():
        v, e = (part.flatten(1) - part.flatten(1).mean(0) for part in (values.double(), wanted[layer].double()))
        tiny = torch.finfo(v.dtype).tiny
        read = ((v * e).sum(0) ** 2 / v.square().sum(0).clamp(min=tiny)).sum()
        shares.append((read / e.square().sum().clamp(min=tiny)).item())
    return min(shares, default=0.0)


def _explained_elsewhere(state: dict[int, Tensor], wanted: dict[int, Tensor]) -> float:
    """What :func:`_explained` gives on average if each unit is asked about the error of another."""
    generator, shares = torch.Generator().manual_seed(0), []
    for _ in range(SHUFFLES):
        orders = {l: torch.randperm(v.flatten(1).shape[1], generator=generator) for l, v in state.items()}
        shares.append(_explained({l: v.flatten(1)[:, orders[l]] for l, v in state.items()}, wanted))
    return sum(shares) / len(shares)


@criterion("dendritic integration", unit="of the apical change", slide=True)
def dendritic_integration(case: Case) -> Verdict:
    """Do units receive feedback in a dendrite of its own, which acts on learning?

    They do if ``states`` have an ``apical`` and a ``basal`` voltage that differ, and finite differences of the apical
    one, made by a little more feedback onto one unit of each hidden layer, move the unit's own update and not its basal
    voltage. The figure is by how much the soma moves, as a share of the apical change: in segregated compartments it
    does not, and the dendrite acts on learning alone.
    """
    rule = case.fresh
    before = case.states.moments[-1]
    if not {"apical", "basal"} <= set(before):
        return Verdict("fails", None, "A unit is one number: it has no apical and no basal dendrite.")
    if "soma" not in before:
        raise NotImplementedError("the voltage of the soma, in the last moment of states()")
    updates, moved = rule.gradients(case.x, case.y), []
    for layer in range(1, rule.network.depth):
        pushed = _with_more_feedback(rule, layer)
        after, then = case.states_of(pushed).moments[-1], pushed.gradients(case.x, case.y)[f"W{layer}"]
        change = {name: (after[name][layer] - before[name][layer])[:, 0].norm() for name in ("apical", "basal", "soma")}
        teaches = _deviation(then[0], updates[f"W{layer}"][0]) > ROUNDING
        apart = not before["apical"][layer].equal(before["basal"][layer])
        felt = change["apical"] > ROUNDING * before["apical"][layer][:, 0].norm()
        if not (apart and felt and teaches) or change["basal"] > ROUNDING * change["apical"]:
            said = f"In layer {layer} the apical dendrite is not one of its own, or teaches nothing."
            return Verdict("fails", None, said)
        share = (change["soma"] / change["apical"]).item()
        moved.append(share if share > ROUNDING else 0.0)
    said = "Where the apical voltage of a unit changes, so does its update, and its basal voltage does not"
    soma = f"its soma moves {max(moved):.2g} times as much" if max(moved) else "nor does its soma"
    return Verdict("holds", max(moved), f"{said}; {soma}.")


def _with_more_feedback(rule: LearningRule, layer: int, by: float = 1e-3) -> LearningRule:
    """A copy in which the first unit of ``layer`` receives more of all feedback: ``1 + by`` times as much.

    The same added to all weights could change nothing, since errors of a softmax add up to zero.
    """
    pushed = copied(rule)
    weights = pushed.feedback(layer + 1)
    mine = {t.untyped_storage().data_ptr() for t in _own(pushed).values()}
    if weights.untyped_storage().data_ptr() in mine:
        weights.data[0] *= 1 + by
        return pushed
    feedback = pushed.feedback

    def more(of: int) -> Tensor:
        given = feedback(of).detach().clone()
        if of == layer + 1:
            given[0] *= 1 + by
        return given

    pushed.__dict__["feedback"] = more
    return pushed


@criterion("separate weights learned", unit="relative change", slide=True)
def separate_weights_learned(case: Case) -> Verdict:
    """Do the rule's own weights learn?

    They do if they change in a short training, by ‖B_T - B_0‖ / ‖B_0‖ of at least 1 %, and to other values after one
    with other labels: what is drawn anew whatever is learned has not learned. The figure is the largest change.
    """
    before = _own(case.fresh)
    if not before:
        return Verdict("not applicable", None, "The rule has no weights of its own.")
    now, then = _own(case.begun), _own(case.after_others)
    changes = {name: _deviation(now[name], b) for name, b in before.items()}
    learned = [name for name in before if changes[name] >= LEARNED and _deviation(now[name], then[name]) > ROUNDING]
    still = [name for name in before if name not in learned]
    if not learned:
        how = "are drawn anew, whatever is learned" if max(changes.values()) >= LEARNED else "stay as they were drawn"
        return Verdict("fails", max(changes.values()), f"Its weights {', '.join(still)} {how}.")
    most = max(changes[name] for name in learned)
    verb = "changes" if len(learned) == 1 else "change"
    said = f"In a short training {', '.join(learned)} {verb} by up to {100 * most:.0f} %"
    if still:
        return Verdict("partly", most, f"{said}; of {', '.join(still)} none is learned.")
    return Verdict("holds", most, f"{said}.")


@criterion("linear stabilisation", unit="activity", slide=True)
def linear_stabilisation(case: Case) -> Verdict:
    """Does a layer whose target is met hand on a target that is met?

    It concerns rules that give units an ``activity`` at two moments, the second their target. With inverses that have
    not learned and no error at the top, each target must equal its activity, to rounding.
    """
    if not all("activity" in moment for moment in case.states.moments) or len(case.states.moments) < 2:
        return Verdict("not applicable", None, "The rule sends no targets.")
    moments = case.met.moments
    first, last = moments[0]["activity"], moments[-1]["activity"]
    largest = max((last[l] - first[l]).abs().max().item() for l in first)
    if largest <= ROUNDING * max(h.abs().max().item() for h in first.values()):
        return Verdict("holds", largest, "With nothing to correct every target equals its activity.")
    return Verdict("fails", largest, f"With nothing to correct targets differ from activities by up to {largest:.2g}.")


@criterion("explicit error representation", unit="share of variance", slide=True)
def explicit_error(case: Case) -> Verdict:
    """Is there, at one moment, a state that is the error?

    After a short training: a state from ``states`` that is zero when the output meets its target, and that explains
    backprop's error, unit by unit, in each hidden layer: at least twice as much of its variance as the same state of
    *other* units does, since an error of few dimensions can in part be read anywhere. *Partly*: no state is that, but
    the change of one between two moments.
    """
    rule = case.after
    wanted = backprop_errors(rule, case.x, case.y)
    there, met = (case.states_of(rule, met=met).moments for met in (False, True))
    best = 0.0, "No state that is zero when there is nothing to correct says anything of backprop's error"
    for says, kind in (("holds", _held_at_once), ("partly", _changes)):
        for (name, of), (_, silent) in zip(kind(there), kind(met), strict=True):
            share, elsewhere = _explained(of, wanted), _explained_elsewhere(of, wanted)
            quiet = all(silent[l].abs().max() <= ROUNDING * of[l].abs().max() for l in of)
            if quiet and share >= READABLE * elsewhere:
                said = f"{name.capitalize()} is zero when there is nothing to correct, and explains {100 * share:.0f} %"
                why = f"{said} of the variance of backprop's error; that of other units {100 * elsewhere:.0f} %."
                return Verdict(says, share, why)
            if share > best[0]:
                verb, then = ("is", ", but") if quiet else ("is not", "; it")
                said = f"{name.capitalize()} {verb} zero when there is nothing to correct{then} explains"
                other = f"; that of other units {100 * elsewhere:.0f} %"
                best = share, f"{said} {100 * share:.0f} % of the variance of backprop's error{other}"
    return Verdict("fails", best[0], f"{best[1]}.")


# ------------------------------------------------------------------------------------------- what the field adds


@criterion("local", unit="relative deviation")
def local(case: Case) -> Verdict:
    """Is a synapse changed by nothing but the two signals that meet there?

    Each update of a step of training must be the sum over examples of products of one signal at the unit and one at the
    unit below, and a decay of the synapse itself. Then a state of any other unit, with these two held, cannot move it.
    That the two can be there is *not* asked: whether something must carry an error to the unit, and by which weights,
    are rows of their own. The figure is by how much an update differs from that sum.
    """
    rule, twin = (copied(case.fresh).train() for _ in range(2))
    rule.assign_gradients(case.x, case.y)
    with torch.no_grad():
        synapses = list(twin.credit(case.x, case.y)[1])
        for s in synapses:
            if len(s.post) % len(case.x) or len(s.pre) != len(s.post):
                said = f"What meets at {s.weight} are {len(s.post)} and {len(s.pre)} rows"
                return Verdict("fails", None, f"{said}, which are no examples: each must have one of each signal.")
        sums = _products(twin, synapses)
    own, of_network = rule._parameters, rule.network._parameters
    written = {name: (own if name in own else of_network)[name].grad for name in sums}
    off = {name: _deviation(g, sums[name]) for name, g in written.items() if g is not None}
    if not off:
        raise NotImplementedError("a weight that learns")
    name, largest = max(off.items(), key=lambda found: found[1])
    if largest < ROUNDING:
        said = f"The updates of all {len(off)} weights are sums of products of the two signals that meet there"
        carried = any("error" in moment for moment in case.states.moments)
        return Verdict("holds", largest, f"{said}{', one of which is the carried error' if carried else ''}.")
    said = f"The update of {name} differs by {100 * largest:.2g} % from the sum of products of the two signals"
    return Verdict("fails", largest, f"{said} that meet there.")


def _products(rule: LearningRule, synapses: Iterable[Synapse]) -> dict[str, Tensor]:
    """``{name: Σ post preᵀ + decay · W}``, whatever a rule says that the sum is, or makes of it in the end."""
    sums: dict[str, Tensor] = {}
    for s in synapses:
        mine = s.weight in rule._parameters
        weight = (rule if mine else rule.network)._parameters[s.weight].detach()
        out = torch.empty_like(weight)
        if isinstance(s.total, Tensor) and weight.ndim == 2:
            torch.mm(s.post.T, s.pre, out=out)
        elif weight.ndim > 1:
            layer = Layer(Dense(), "linear") if mine else rule.network.layers[int(s.weight[1:]) - 1]
            layer.outer(s.post, s.pre, out)
        else:  # a bias that is named by itself: what is at its unit, times one
            out.copy_((s.post * s.pre).sum(0))
        decay = s.decay.reshape(-1, *[1] * (weight.ndim - 1)) if isinstance(s.decay, Tensor) else s.decay
        sums[s.weight] = sums.get(s.weight, 0) + out + decay * weight
    return sums


@criterion("unsigned errors do", unit="degrees")
def unsigned_errors_do(case: Case) -> Verdict:
    """Does the rule do without the sign of the errors at the output?

    After a short training the error at the top is replaced by its size, and all else held. An update of which nothing
    is left lies near 90° from what it was; the rule does without the sign if that of no hidden layer turns by 75°.
    """
    if case.fresh.hold(case.x[:1], case.y[:1]).error is None:
        raise NotImplementedError("an error at the top that can be changed by itself, see hold()")
    rule = case.after
    held = rule.hold(case.x, case.y)
    assert held.error is not None  # it was not, before the training
    signed, unsigned = (_of_hidden(rule, held.again(e)) for e in (None, held.error.abs()))
    layer, worst = _furthest(unsigned, signed)
    said = f"With errors that have lost their sign the update of layer {layer} turns by {worst:.0f}°."
    return Verdict("holds" if worst < UNSIGNED else "fails", worst, said)


@criterion("works with spikes", unit="ms")
def works_with_spikes(case: Case) -> Verdict:
    """How long must messages take if they are counts of spikes?

    Each activity that a layer sends up and each signal that feedback weights carry down is replaced by a Poisson count,
    at 0.2 spikes/ms for the largest in the message; a signed signal takes two cells. The figure is the time in which
    the update of one example, on average over twenty, comes within 45° of that without spikes, in every layer. Up to
    800 ms it *holds*, up to 10 s it does *partly*. A simulation of spikes is asked how far its update lies from that of
    its rates.
    """
    rule, time = case.fresh, 3.125
    if without := rule.spikeless(case.x, case.y):
        own = _of_layers(rule, rule.gradients(case.x, case.y))
        turned = _furthest(own, _of_layers(rule, without))[1]
        said = f"The rule sends spikes of its own; its update for {len(case.x)} examples lies {turned:.0f}° from that"
        return Verdict("holds" if turned < 45 else "fails", None, f"{said} of its rates.")
    if rule.assumes:
        raise NotImplementedError(f"messages as units send them; it assumes {rule.assumes}, and works out differences")
    before: float | None = None
    while time < NEVER:
        now = _with_spikes(rule, case, time)
        if now < 45:
            time *= 4 ** -((45 - now) / (before - now)) if before else 1.0
            says = "holds" if time <= SOON else "partly" if time <= TOO_LATE else "fails"
            said = f"Sent as counts of spikes, messages must take {_lasting(time)} for the update of one example"
            return Verdict(says, time, f"{said} to come within 45°.")
        time, before = time * 4, now
    said = f"Sent as counts of spikes, messages leave the update {before:.0f}° away, even if they take"
    return Verdict("fails", None, f"{said} {_lasting(time / 4)}.")


def _lasting(ms: float) -> str:
    """A time in the unit in which it can be imagined."""
    for unit, size in (("days", 86.4e6), ("hours", 3.6e6), ("minutes", 6e4), ("s", 1e3), ("ms", 1.0)):
        if ms >= 1.5 * size or unit == "ms":
            return f"{float(f'{ms / size:.1g}'):g} {unit}"
    raise AssertionError


def _with_spikes(rule: LearningRule, case: Case, time: float) -> float:
    """The largest angle between updates with and without spikes, of one example, on average over twenty; degrees."""
    angles = []
    for i in range(ONE_BY_ONE):
        one = case.x[i : i + 1], case.y[i : i + 1]
        clean = _of_layers(rule, rule.gradients(*one))
        spikes = Spikes(time, seed=i)
        with rule.as_it_is(), torch.no_grad(), wires(rule, up=spikes.up, down=spikes.down):
            synapses = [s._replace(pre=spikes.heard(s.pre)) for s in rule.credit(*one)[1]]
            summed = rule._sum(synapses, torch.empty_like).values()
            noisy = {name: g for p, g in summed for name in rule._names(p)}
        if not spikes.messages:
            raise NotImplementedError("messages that go through the layers of the network and through feedback()")
        angles.append(_furthest(_of_layers(rule, noisy), clean)[1])
    return sum(angles) / len(angles)


@criterion("moments compared", unit="moments")
def moments_compared(case: Case) -> Verdict:
    """At how many moments must a unit be read, for one update? Counted are those that ``states`` has."""
    moments = case.states.moments
    names = [", ".join(moment) for moment in moments]
    return Verdict("counted", float(len(moments)), f"What a unit holds, moment by moment: {'; then '.join(names)}.")


@criterion("passes up", unit="of an example")
def passes_up(case: Case) -> Verdict:
    """How often does an example run up the network in one step of training? Counted at the layers."""
    up, _ = _counted(case)
    return Verdict("counted", up, f"Each layer answers {up:.3g} times for one example.")


@criterion("passes down", unit="of an example")
def passes_down(case: Case) -> Verdict:
    """How often do signals of an example run down in one step of training? Counted at the weights of ``feedback``."""
    _, down = _counted(case)
    return Verdict("counted", down, f"Each set of feedback weights carries {down:.3g} signals for one example.")


def _counted(case: Case) -> tuple[float, float]:
    rule, rows = copied(case.fresh).train(), {"up": 0, "down": 0}

    def count(which: str, signal: Tensor) -> Tensor:
        rows[which] += len(signal)
        return signal

    with wires(rule, up=lambda _, h: count("up", h), down=lambda _, s: count("down", s)):
        rule.assign_gradients(case.x, case.y)
    if not rows["up"]:
        raise NotImplementedError("messages that go through the layers of the network")
    depth, batch = rule.network.depth, len(case.x)
    return rows["up"] / (depth * batch), rows["down"] / ((depth - 1) * batch)


@criterion("memory beside the weights", unit="numbers a unit")
def memory_beside_weights(case: Case) -> Verdict:
    """What must be kept of one example until weights change? Counted are numbers of the passes up and of the states.

    The input is not counted, and what is there twice is counted once.
    """
    rule = case.fresh
    with rule.as_it_is(), torch.no_grad():
        trace = rule.observe(case.x)
    states = [t for moment in case.states.moments for of in moment.values() for t in of.values()]
    found = [trace.h[0]]
    for t in (*tree_leaves((trace.h[1:], trace.more)), *states):
        if isinstance(t, Tensor) and t.ndim > 1 and not any(torch.equal(t, other) for other in found):
            found.append(t)
    kept = sum(t.numel() for t in found[1:])
    units = sum(math.prod(h.shape[1:]) for h in trace.h[1:])
    each = kept / len(case.x) / units
    return Verdict("counted", each, f"{each:.2g} numbers are kept for each unit and example until the weights change.")


@criterion("cost of a step", unit="of backprop's")
def cost_of_a_step(case: Case) -> Verdict:
    """How many multiply-accumulates does a step take, as a share of backpropagation's in the same network? Counted."""
    exact = step_cost(Backprop(case.make().network), case.x, case.y).macs
    share = step_cost(case.fresh, case.x, case.y).macs / exact
    return Verdict("counted", share, f"A step takes {share:.3g} times the multiplications of backpropagation.")
