"""The literature table's criteria: each with a rule that passes and one that does not, and with real rules broken."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from conftest import ROOT

from bioplaus_lite import CNN, MLP
from bioplaus_lite.measures.named import MEASURES
from bioplaus_lite.measures.probe import Probe
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.plausibility import (
    CRITERIA,
    MARKS,
    Case,
    Verdict,
    case,
    case_of,
    columns,
    criteria,
    criterion,
    judge,
    sending,
    table,
)  # fmt: skip
from bioplaus_lite.plausibility.__main__ import main
from bioplaus_lite.rules import RULES, LearningRule, Synapse, Trace
from bioplaus_lite.rules.backprop import Backprop
from bioplaus_lite.rules.base import States
from bioplaus_lite.rules.feedback_alignment import (
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    WeightMirror,
)
from bioplaus_lite.rules.microcircuits import Microcircuits
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.rules.target_propagation import DifferenceTargetPropagation, SimplifiedDTP, TargetPropagation

SIZES = (12, 8, 6, 4)


def examples(n=400, sizes=SIZES, kind=torch.float64):
    """Noisy prototypes of the classes, in [0, 1]: something to learn."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % sizes[-1]
    return (torch.rand(sizes[-1], sizes[0], generator=g)[y] + torch.rand(n, sizes[0], generator=g)).div(2).to(kind), y


def mlp(sizes=SIZES, activation="tanh"):
    return MLP(sizes, activation=activation, init="glorot", dtype=torch.float64)


def rates(**constants):
    return RateNetwork(SIZES, SegregatedParameters(mode="rate", voltages="steady", **constants), dtype=torch.float64)


NETWORKS = {Microcircuits: partial(mlp, activation="sigmoid"), SegregatedCompartments: rates}


def case_with(rule, network=None, **options):
    """A small case of a rule, on a network of the kind that it takes."""
    if network is None:
        network = next((make for kind, make in NETWORKS.items() if issubclass(rule, kind)), mlp)
    return Case(lambda **more: rule(network(), **{**options, **more}), *examples())


def says(row, rule, *, network=None, **options):
    with pytest.MonkeyPatch.context() as patch:
        if issubclass(rule, SegregatedCompartments):
            patch.setattr(case, "PROBED", 20)  # the readable simulation is slow
        return CRITERIA[row](case_with(rule, network, **options)).says


# --------------------------------------------------------------------------- rules made for the purpose


class Noisy(Backprop):
    """The gradient and noise with mean zero."""

    def __init__(self, network):
        super().__init__(network)
        self.generator = torch.Generator().manual_seed(0)

    def synapses(self, trace, error, y):
        for s in super().synapses(trace, error, y):
            yield s._replace(post=s.post + 0.05 * torch.randn(s.post.shape, generator=self.generator).to(s.post))


class Tilted(Backprop):
    """The gradient, as ``tilt`` goes to zero."""

    limits = {"tilt": (0.1, 0.05, 0.025, 0.0125)}  # noqa: RUF012

    def __init__(self, network, *, tilt=0.1):
        super().__init__(network)
        self.tilt = tilt

    def feedback(self, layer):
        return super().feedback(layer) + self.tilt


class Signs(Backprop):
    """Sends errors down by the signs of the weights."""

    def feedback(self, layer):
        return super().feedback(layer).sign()


class OwnWeights(Backprop):
    """Errors travel by fixed weights of its own; subclasses say how they are kept."""

    kept = "buffers"

    def __init__(self, network):
        super().__init__(network)
        g = torch.Generator().manual_seed(5)
        drawn = [torch.randn(w.shape[::-1], generator=g).double() for w in map(network.weight, (2, 3))]
        if self.kept == "list":
            self.drawn = drawn
        else:
            self.below = torch.nn.ParameterList(drawn) if self.kept == "module" else None
            for l, b in enumerate(drawn, 2) if self.kept == "buffers" else ():
                self.register_buffer(f"B{l}", b)

    def feedback(self, layer):
        if self.kept == "list":
            return self.drawn[layer - 2]
        return self.below[layer - 2].detach() if self.kept == "module" else getattr(self, f"B{layer}")


class Listed(OwnWeights):
    kept = "list"


class InModule(OwnWeights):
    kept = "module"


class TopOnly(OwnWeights):
    """Only what comes from the output comes by its forward weights."""

    def own_or_top(self, layer):
        return (Backprop if layer == self.network.depth else OwnWeights).feedback(self, layer)

    feedback = own_or_top


class Sideways(OwnWeights):
    """Reads ``W3`` where nobody sees it: at layer 2."""

    hurt = 2

    def synapses(self, trace, error, y):
        for s in super().synapses(trace, error, y):
            yield s._replace(post=s.post + self.network.W3.detach().sum()) if s.weight == f"W{self.hurt}" else s


class BothWays(Sideways):
    """Reads ``W3`` by feedback at layer 2, and besides at layer 1."""

    hurt = 1
    feedback = TopOnly.own_or_top


class Silent(LearningRule):
    """Only its last layer learns."""

    def synapses(self, trace, error, y):
        yield Synapse(f"W{self.network.depth}", error, trace.h[-2], bias=f"b{self.network.depth}")


class Shaken(LearningRule):
    """Each hidden unit hears one number for all, and has no error: node perturbation."""

    def __init__(self, network):
        super().__init__(network)
        self.generator = torch.Generator().manual_seed(0)

    def observe(self, x):
        network, below, noise = self.network, x, {}
        for l in range(1, network.depth + 1):
            a = network.current(l, below)
            noise[l] = 1e-3 * torch.randn(a.shape, generator=self.generator).to(a) * (l < network.depth)
            below = network.activate(l, a + noise[l])
        return Trace(network.activities(x), {"noise": noise, "scores": below})

    def synapses(self, trace, error, y):
        loss = partial(torch.nn.functional.cross_entropy, target=y, reduction="none")
        worse = (loss(trace.more["scores"]) - loss(trace.h[-1]))[:, None] / (1e-6 * len(y))
        yield Synapse(f"W{self.network.depth}", error, trace.h[-2])
        for l in range(1, self.network.depth):
            yield Synapse(f"W{l}", worse * trace.more["noise"][l], trace.h[l - 1])

    def signals(self, x, y):
        return {}


class Wordless(LearningRule):
    """Does not say what its synapses are."""


class Hebbian(LearningRule):
    """Hidden layers learn from what they do, whatever the error."""

    def synapses(self, trace, error, y):
        yield Synapse(f"W{self.network.depth}", error, trace.h[-2])
        for l in range(1, self.network.depth):
            yield Synapse(f"W{l}", trace.h[l] / len(y), trace.h[l - 1])


class Targets(SimplifiedDTP):
    """Targets by inverses, sent down as differences."""

    def __init__(self, network):
        super().__init__(network)


class Plain(Targets):
    """Targets that inverses give."""

    corrects = False


class Deaf(Backprop):
    """Its units hold an activity that knows of no error."""

    def states(self, x, y, *, met=False):
        errors = super().states(x, y, met=met).errors
        g = torch.Generator().manual_seed(0)
        return States([{"activity": {l: torch.randn(e.shape, generator=g).to(e) for l, e in errors.items()}}], errors)


class Lasting(Backprop):
    """What it calls its error is there when there is nothing to correct."""

    def states(self, x, y, *, met=False):
        found = super().states(x, y, met=met)
        return States([{"error": {l: e + 0.1 for l, e in found.errors.items()}}], found.errors)


class Dendrites(Backprop):
    """Errors arrive in an apical dendrite."""

    reach = 0.0  # of the apical voltage on the basal one

    def states(self, x, y, *, met=False):
        with self.as_it_is(), torch.no_grad():
            trace, a = Trace(self.network.activities(x), {}), {}
            error = self.answer(trace, y)[1] * (not met)
            errors = self._errors_of(self.synapses(trace, error.clone(), y))
            for l in range(self.network.depth - 1, 0, -1):
                error = error @ self.feedback(l + 1).T * self.network.slope(l, trace.h[l])
                a[l] = error
            b = {l: self.network.current(l, trace.h[l - 1]) + self.reach * a[l] for l in a}
            return States([{"basal": b, "apical": a, "soma": b}], {l: errors[l] for l in a})


class Leaking(Dendrites):
    reach = 1e-3


class Unheard(Dendrites):
    """The apical voltage is there, and each layer learns from its own activity."""

    synapses = Hebbian.synapses


class NoSoma(Dendrites):
    def states(self, x, y, *, met=False):
        moments, errors = super().states(x, y, met=met)
        return States([{name: moments[0][name] for name in ("basal", "apical")}], errors)


class HalfLearned(KolenPollack):
    """``B2`` stays."""

    def synapses(self, trace, error, y):
        return (s for s in super().synapses(trace, error, y) if s.weight != "B2")


class Redrawn(OwnWeights):
    """Its weights are drawn anew in each step."""

    def __init__(self, network):
        super().__init__(network)
        self.generator = torch.Generator().manual_seed(0)

    def prepare(self):
        for layer in (2, 3):
            self.feedback(layer).normal_(generator=self.generator)


class Normalised(Backprop):
    """An update of length one: all synapses must know of all."""

    def finish(self, name, gradient):
        gradient.div_(gradient.norm())


class InTraining(Backprop):
    """The same, in training only."""

    def finish(self, name, gradient):
        if self.training:
            gradient.div_(gradient.norm())


class Faint(Backprop):
    """Messages down whose difference is small beside them."""

    size = 8

    def synapses(self, trace, error, y):
        network, h = self.network, trace.h
        for layer in range(network.depth, 0, -1):
            yield Synapse(f"W{layer}", error, h[layer - 1])
            if layer > 1:
                loud = torch.full_like(error, self.size * error.abs().max())
                both = [network.send_back(layer, e, self.feedback(layer), h[layer - 1]) for e in (loud + error, loud)]
                error = (both[0] - both[1]) * network.slope(layer - 1, h[layer - 1])


class Fainter(Faint):
    size = 3e8


class Twice(Backprop):
    """Goes up twice, keeps both, and sends each error down twice."""

    def observe(self, x):
        return Trace(self.network.activities(x), {"again": self.network.activities(x + 1)[1:]})

    def synapses(self, trace, error, y):
        list(super().synapses(trace, error.clone(), y))
        yield from super().synapses(trace, error, y)


class Offline(Backprop):
    """Makes its signals without layers and feedback that anybody could hook."""

    def credit(self, x, y):
        net = self.network
        h1 = torch.tanh(x @ net.W1.T.detach() + net.b1.detach())
        h2 = torch.tanh(h1 @ net.W2.T.detach() + net.b2.detach())
        loss, e = self.answer(Trace([h2 @ net.W3.T.detach() + net.b3.detach()], {}), y)
        return loss, [Synapse("W3", e, h2), Synapse("W2", h2, h1), Synapse("W1", h1, x)]


class Readout(Backprop):
    """The last layer learns by its error, hidden layers next to nothing, and that without one."""

    def synapses(self, trace, error, y):
        yield Synapse(f"W{self.network.depth}", error, trace.h[-2])
        for layer in range(1, self.network.depth):
            yield Synapse(f"W{layer}", 1e-12 * trace.h[layer], trace.h[layer - 1])


CONTROLS = [
    ("exact gradients", Backprop, "holds"),
    ("exact gradients", Noisy, "in the limit"),
    ("exact gradients", Tilted, "in the limit"),
    ("exact gradients", Signs, "fails"),
    ("exact gradients", Silent, "fails"),
    ("no weight transport", OwnWeights, "holds"),
    ("no weight transport", Backprop, "fails"),
    ("no weight transport", TopOnly, "partly"),
    ("no weight transport", Sideways, "not measured"),
    ("no weight transport", BothWays, "not measured"),
    ("no weight transport", Silent, "not measured"),
    ("no weights of its own", Backprop, "holds"),
    ("no weights of its own", OwnWeights, "fails"),
    ("no weights of its own", Listed, "fails"),
    ("no weights of its own", InModule, "fails"),
    ("no error units", Targets, "holds"),
    ("no error units", Backprop, "fails"),
    ("no error units", Deaf, "not measured"),
    ("no error units", Silent, "not measured"),
    ("no error units", Shaken, "not applicable"),
    ("dendritic integration", Dendrites, "holds"),
    ("dendritic integration", Backprop, "fails"),
    ("dendritic integration", Leaking, "fails"),
    ("dendritic integration", Unheard, "fails"),
    ("dendritic integration", NoSoma, "not measured"),
    ("separate weights learned", KolenPollack, "holds"),
    ("separate weights learned", HalfLearned, "partly"),
    ("separate weights learned", OwnWeights, "fails"),
    ("separate weights learned", Redrawn, "fails"),
    ("separate weights learned", Backprop, "not applicable"),
    ("linear stabilisation", Targets, "holds"),
    ("linear stabilisation", Plain, "fails"),
    ("linear stabilisation", Backprop, "not applicable"),
    ("explicit error representation", Backprop, "holds"),
    ("explicit error representation", Targets, "partly"),
    ("explicit error representation", Plain, "fails"),
    ("explicit error representation", Lasting, "fails"),
    ("explicit error representation", Deaf, "fails"),
    ("explicit error representation", Silent, "not measured"),
    ("local", Backprop, "holds"),
    ("local", KolenPollack, "holds"),
    ("local", Normalised, "fails"),
    ("local", InTraining, "fails"),
    ("unsigned errors do", Readout, "holds"),
    ("unsigned errors do", Backprop, "fails"),
    ("unsigned errors do", Silent, "not measured"),
    ("works with spikes", Backprop, "holds"),
    ("works with spikes", Faint, "partly"),
    ("works with spikes", Fainter, "fails"),
    ("works with spikes", Offline, "not measured"),
    ("passes up", Offline, "not measured"),
    ("passes down", Offline, "not measured"),
    ("moments compared", Silent, "not measured"),
]


@pytest.mark.parametrize(("row", "rule", "expected"), CONTROLS, ids=lambda v: getattr(v, "__name__", v))
def test_controls(row, rule, expected):
    assert says(row, rule) == expected


UNITS = 8 + 6 + 4
COUNTED = {
    "moments compared": {Backprop: 1, Targets: 2},
    "passes up": {Backprop: 1, Twice: 2, Hebbian: 1},
    "passes down": {Backprop: 1, Twice: 2, Hebbian: 0, DirectFeedbackAlignment: 1},
    # Activities and errors; activities, corrupted ones, answers to them, and targets.
    "memory beside the weights": {
        Backprop: (UNITS + 14) / UNITS, Twice: (2 * UNITS + 14) / UNITS, Targets: (UNITS + 14 + 10 + 14) / UNITS,
    },
    # 168 weights take part going up and in the update, 72 of them going down.
    "cost of a step": {
        Backprop: 1, Twice: (3 * 168 + 2 * 72) / (2 * 168 + 72), Hebbian: 2 * 168 / (2 * 168 + 72),
    },
}  # fmt: skip


@pytest.mark.parametrize(("row", "rule"), [(row, rule) for row, of in COUNTED.items() for rule in of])
def test_what_is_counted(row, rule):
    verdict = CRITERIA[row](case_with(rule))
    assert (verdict.says, verdict.figure) == ("counted", pytest.approx(COUNTED[row][rule], rel=1e-12))
    assert verdict.mark == f"{verdict.figure:.3g}"


def test_every_criterion_has_a_control_on_either_side():
    told = {row: {expected for r, _, expected in CONTROLS if r == row} for row in CRITERIA}
    counted = {row for row in CRITERIA if row in COUNTED}
    both = {row for row, of in told.items() if "fails" in of and of & {"holds", "in the limit"}}
    assert both == set(CRITERIA) - counted
    assert all(len(set(COUNTED[row].values())) > 1 for row in counted) and len(CRITERIA) == 16
    assert sum(c.slide for c in CRITERIA.values()) == 8


def test_every_criterion_says_what_it_asks_and_has_its_place_in_the_reference():
    page = (ROOT / "book/reference/api/plausibility.md").read_text("utf-8").splitlines()
    named = [line.removeprefix(".. autodata:: ") for line in page if line.startswith(".. autodata::")]
    assert [getattr(criteria, name) for name in named] == list(CRITERIA.values())
    assert sorted(named) == sorted(criteria.__all__)
    for row in CRITERIA.values():
        assert row.__doc__ == row.ask.__doc__ and row.__doc__.splitlines()[0].count("?") == 1


# --------------------------------------------------------------------------- rules of the book, broken


class SignedFA(FeedbackAlignment):
    """FA whose feedback reads the signs of the weights."""

    def feedback(self, layer):
        return super().feedback(layer).abs() * self.network.weight(layer).detach().sign().T


class NoCorrection(DifferenceTargetPropagation):
    corrects = False


class TransportingSDTP(SimplifiedDTP):
    """SDTP whose first target goes down by the forward weights."""

    def feedback(self, layer):
        return self.network.weight(layer).detach().T if layer == self.network.depth else super().feedback(layer)


class TransportingTP(TargetPropagation):
    """TP that sends every target down by forward weights."""

    def feedback(self, layer):
        return self.network.weight(layer).detach().T


class NoSlope(Backprop):
    def synapses(self, trace, error, y):
        for layer in range(self.network.depth, 0, -1):
            yield Synapse(f"W{layer}", error, trace.h[layer - 1])
            if layer > 1:
                error = self.network.send_back(layer, error, self.feedback(layer), trace.h[layer - 1])


class LeakyCells(Microcircuits):
    """The apical voltage reaches the basal one."""

    def states(self, x, y, *, met=False):
        moments, errors = super().states(x, y, met=met)
        moments[0]["basal"] = {k: v + 0.01 * moments[0]["apical"][k] for k, v in moments[0]["basal"].items()}
        return States(moments, errors)


class OneCompartment(Microcircuits):
    states = LearningRule.states


class HeldKP(KolenPollack):
    """Stops learning ``B``."""

    def synapses(self, trace, error, y):
        return (s for s in super().synapses(trace, error, y) if s.weight.startswith("W"))


class Forgetful(WeightMirror):
    """Draws a fresh ``B`` each time, and mirrors nothing."""

    def mirror(self, layer):
        self.feedback(layer).normal_(generator=self._generator)


class Unlabelled(SegregatedCompartments):
    """Its plateaus ignore the label."""

    def states(self, x, y, *, met=False):
        moments, errors = super().states(x, y, met=met)
        return States([moments[0], moments[0]], errors)


class Scaled(FeedbackAlignment):
    finish = Normalised.finish


class Scrambled(FeedbackAlignment):
    """One gradient given as a total that its signals do not make."""

    def synapses(self, trace, error, y):
        for s in super().synapses(trace, error, y):
            yield s._replace(total=s.post.T @ s.pre + 1e-6) if s.weight == "W2" else s


class Copyist(WeightMirror):
    """Copies the forward weights when a batch is prepared."""

    def mirror(self, layer):
        getattr(self, f"B{layer}").copy_(self.network.weight(layer).detach().T)


class BornSymmetric(FeedbackAlignment):
    """Begins with the transpose, and keeps it."""

    def __init__(self, network):
        super().__init__(network)
        for layer in range(2, network.depth + 1):
            getattr(self, f"B{layer}").copy_(network.weight(layer).detach().T)


class Smuggler(Backprop):
    """Its weights travel with what it has seen, as long lists of numbers."""

    def observe(self, x):
        weights = {l: self.network.weight(l).detach().T.flatten() for l in range(2, self.network.depth + 1)}
        return Trace(self.network.activities(x), {"weights": weights})

    def synapses(self, trace, error, y):
        sizes = self.network.sizes
        with sending.instead_of_feedback(self, lambda l: trace.more["weights"][l].reshape(sizes[l - 1], sizes[l])):
            yield from list(super().synapses(trace, error, y))


class BornDoubled(BornSymmetric):
    def __init__(self, network):
        super().__init__(network)
        for layer in range(2, network.depth + 1):
            getattr(self, f"B{layer}").mul_(-2)


class BornSigned(BornSymmetric):
    def __init__(self, network):
        super().__init__(network)
        for layer in range(2, network.depth + 1):
            getattr(self, f"B{layer}").sign_()


class Misfiring(FeedbackAlignment):
    """What it does with spikes is the opposite of what its rates would do."""

    def spikeless(self, x, y):
        return {name: -g for name, g in self.gradients(x, y).items()}


class Firing(FeedbackAlignment):
    def spikeless(self, x, y):
        return {name: 2 * g for name, g in self.gradients(x, y).items()}


class Mute(Backprop):
    """Its units hold their activities, and nothing says where the error is."""

    def states(self, x, y, *, met=False):
        (moment,), errors = super().states(x, y, met=met)
        return States([{"activity": moment["activity"]}], errors)


class Shuffled(Backprop):
    """The error of each unit is read at another."""

    def states(self, x, y, *, met=False):
        (moment,), errors = super().states(x, y, met=met)
        return States([{"error": {l: e.roll(1, 1) for l, e in moment["error"].items()}}], errors)


class Trembling(KolenPollack):
    """``B`` moves, by next to nothing."""

    def synapses(self, trace, error, y):
        for s in super().synapses(trace, error, y):
            yield s if s.weight.startswith("W") else s._replace(total=1e-13 * s.post.T @ s.pre, decay=0)


class Orthogonal(Backprop):
    """All directions of an update made equally long, written as if two signals met."""

    def synapses(self, trace, error, y):
        for s in super().synapses(trace, error, y):
            u, _, vh = torch.linalg.svd(s.post.T @ s.pre, full_matrices=False)
            yield s._replace(post=u.T.contiguous(), pre=vh, bias=None)


class Flat(DifferenceTargetPropagation):
    """DTP seen as if its targets were errors that something carries."""

    states = LearningRule.states


class Reread(DifferenceTargetPropagation):
    def observe(self, x):
        super().observe(x)
        return super().observe(x)


class Hoarder(FeedbackAlignment):
    def observe(self, x):
        return Trace(self.network.activities(x), {"doubled": [2 * h for h in self.network.activities(x)[1:]]})


MUTANTS = [  # row, rule and options, what it says, and what it says broken
    ("exact gradients", (Backprop, {}), (NoSlope, {}), "holds", "fails"),
    ("exact gradients", (Microcircuits, {"feedback": "symmetric"}), (Microcircuits, {}), "in the limit", "fails"),
    ("no weight transport", (FeedbackAlignment, {}), (SignedFA, {}), "holds", "fails"),
    ("no weight transport", (SimplifiedDTP, {}), (TransportingSDTP, {}), "holds", "partly"),
    ("no weight transport", (TargetPropagation, {}), (TransportingTP, {}), "partly", "fails"),
    ("no weight transport", (Microcircuits, {}), (Microcircuits, {"feedback": "symmetric"}), "partly", "fails"),
    ("no weight transport", (Microcircuits, {"lateral": "learned"}), (Microcircuits, {"lateral": "interneurons"}),
     "holds", "partly"),
    ("no weight transport", (WeightMirror, {}), (Copyist, {}), "holds", "fails"),
    ("no weight transport", (KolenPollack, {}), (KolenPollack, {"start": "transpose"}), "holds", "partly"),
    ("no weight transport", (FeedbackAlignment, {}), (Smuggler, {}), "holds", "not measured"),
    ("no weight transport", (FeedbackAlignment, {}), (BornDoubled, {}), "holds", "partly"),
    ("no weight transport", (FeedbackAlignment, {}), (BornSigned, {}), "holds", "partly"),
    ("works with spikes", (Firing, {}), (Misfiring, {}), "holds", "fails"),
    ("exact gradients", (Backprop, {}), (BornSymmetric, {}), "holds", "fails"),
    ("no weight transport", (SegregatedCompartments, {}),
     (SegregatedCompartments, {"network": partial(rates, feedback="symmetric")}), "holds", "fails"),
    ("no weights of its own", (Backprop, {}), (FeedbackAlignment, {}), "holds", "fails"),
    ("no error units", (DifferenceTargetPropagation, {}), (Flat, {}), "holds", "fails"),
    ("no error units", (Microcircuits, {}), (OneCompartment, {}), "holds", "fails"),
    ("no error units", (SegregatedCompartments, {}), (Unlabelled, {}), "holds", "not measured"),
    ("dendritic integration", (Microcircuits, {}), (LeakyCells, {}), "holds", "fails"),
    ("dendritic integration", (Microcircuits, {"feedback": "symmetric"}), (OneCompartment, {}), "holds", "fails"),
    ("separate weights learned", (KolenPollack, {}), (HeldKP, {}), "holds", "fails"),
    ("separate weights learned", (WeightMirror, {}), (Forgetful, {}), "holds", "fails"),
    ("linear stabilisation", (DifferenceTargetPropagation, {}), (NoCorrection, {}), "holds", "fails"),
    ("explicit error representation", (DifferenceTargetPropagation, {}), (NoCorrection, {}), "partly", "not measured"),
    ("explicit error representation", (Backprop, {}), (Mute, {}), "holds", "fails"),
    ("explicit error representation", (Backprop, {}), (Shuffled, {}), "holds", "fails"),
    ("separate weights learned", (KolenPollack, {}), (Trembling, {}), "holds", "fails"),
    ("local", (Backprop, {}), (Orthogonal, {}), "holds", "fails"),
    ("local", (FeedbackAlignment, {}), (Scaled, {}), "holds", "fails"),
    ("local", (FeedbackAlignment, {}), (Scrambled, {}), "holds", "fails"),
    ("unsigned errors do", (Backprop, {}), (Readout, {}), "fails", "holds"),
    ("works with spikes", (Backprop, {}), (Faint, {}), "holds", "partly"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "whole", "broken", "before", "after"), MUTANTS, ids=lambda v: v[0].__name__ if isinstance(v, tuple) else v
)
def test_a_broken_rule_turns_its_tick(row, whole, broken, before, after):
    assert (says(row, whole[0], **whole[1]), says(row, broken[0], **broken[1])) == (before, after)


@pytest.mark.parametrize(
    ("row", "whole", "broken"),
    [
        ("moments compared", DifferenceTargetPropagation, Flat),
        ("passes up", DifferenceTargetPropagation, Reread),
        ("passes down", FeedbackAlignment, Twice),
        ("memory beside the weights", FeedbackAlignment, Hoarder),
        ("cost of a step", DifferenceTargetPropagation, Reread),
    ],
)
def test_a_broken_rule_changes_the_count(row, whole, broken):
    figures = [CRITERIA[row](case_with(rule)).figure for rule in (whole, broken)]
    assert figures[0] != figures[1]


# --------------------------------------------------------------------------- what criteria are made with


def on_file(card):
    return card.make(NETWORKS.get(card.rule, mlp)(), **({"auxiliary": 9} if card.name == "ao_sdtp" else {}))


ON_FILE = {name: partial(on_file, card) for name, card in RULES.items()} | {
    "microcircuits, interneurons": lambda: Microcircuits(mlp(activation="sigmoid"), lateral="interneurons"),
    "microcircuits, learned": lambda: Microcircuits(mlp(activation="sigmoid"), feedback="learned", lateral="learned"),
    "microcircuits, symmetric": lambda: Microcircuits(mlp(activation="sigmoid"), feedback="symmetric"),
    "drawn": lambda: DrawsBothWays(mlp()),
}


class DrawsBothWays(Noisy):
    """Draws on its way up and on its way down."""

    def observe(self, x):
        return Trace(self.network.activities(x + torch.randn(x.shape, generator=self.generator).to(x)), {})


def small(n=20):
    x, y = examples()
    return x[:n], y[:n]


@pytest.mark.parametrize("name", ON_FILE)
def test_what_is_held_gives_the_update_again(name):
    rule, (x, y) = ON_FILE[name](), small()
    if issubclass(type(rule), SegregatedCompartments):
        x, y = x[:3], y[:3]
    written, held = rule.gradients(x, y), rule.hold(x, y)
    for _ in range(2):
        again = held.again(None)
        assert {n for n in written if n.startswith("W")} <= set(again)
        for n, g in again.items():
            torch.testing.assert_close(g, written[n], rtol=1e-12, atol=1e-12 * written[n].abs().max().item())
    if held.error is None:
        with pytest.raises(NotImplementedError, match="does not set its top error apart"):
            held.again(torch.zeros(len(x), SIZES[-1]).double())
    else:
        torch.testing.assert_close(held.again(held.error), again, rtol=0, atol=0)
        top = held.again(2 * held.error)[f"W{rule.network.depth}"]
        if not isinstance(rule, (Microcircuits, Noisy)):
            torch.testing.assert_close(top, 2 * again[f"W{rule.network.depth}"])


@pytest.mark.parametrize("name", ON_FILE)
def test_states_hold_the_errors_of_the_rule(name):
    rule, (x, y) = ON_FILE[name](), small()
    if isinstance(rule, SegregatedCompartments):
        x, y = x[:3], y[:3]
    before = {name: p.detach().clone() for name, p in (*rule.named_parameters(), *rule.named_buffers())}
    moments, errors = rule.states(x, y)
    own = rule.errors(x, y)
    assert set(errors) == {1, 2} and all(set(of) == {1, 2} for moment in moments for of in moment.values())
    for l, e in errors.items():
        torch.testing.assert_close(e, own[l], rtol=1e-9, atol=1e-12)
        assert all(len(of[l]) == len(x) for moment in moments for of in moment.values())
    if "error" in moments[0]:
        assert len(moments) == 1 and moments[0]["error"] is errors
    for name, p in (*rule.named_parameters(), *rule.named_buffers()):
        assert torch.equal(p, before[name])


@pytest.mark.parametrize("name", [name for name in ON_FILE if name not in ("tp", "drawn", "microcircuits, learned")])
def test_with_nothing_to_correct_states_are_silent(name):
    rule, (x, y) = ON_FILE[name](), small()
    if isinstance(rule, SegregatedCompartments):
        x, y = x[:3], y[:3]
    moments, errors = rule.states(x, y, met=True)
    assert all(e.abs().max() < 1e-10 for e in errors.values())
    last = moments[-1]
    for l in (1, 2):
        if "error" in last:
            assert not last["error"][l].any()
        elif "activity" in last:
            assert torch.equal(last["activity"][l], moments[0]["activity"][l])
        elif "plateau" in last:
            torch.testing.assert_close(last["plateau"][l], moments[0]["plateau"][l], rtol=0, atol=1e-12)
        else:
            assert last["apical"][l].abs().max() < 1e-12


def test_compartments_of_microcircuits_are_those_of_the_steady_state():
    rule, (x, y) = ON_FILE["microcircuits"](), small()
    state, (moment,) = rule.steady_state(x, y), rule.states(x, y).moments
    assert set(moment) == {"basal", "apical", "soma"}
    for name, of in moment.items():
        for k in (1, 2):
            assert torch.equal(of[k], state[name, k])


def test_interneurons_that_begin_as_copies_give_the_update_in_closed_form():
    closed, open_ = (case_with(Microcircuits).make(**more) for more in ({}, {"lateral": "interneurons"}))
    assert {name for name, _ in open_.named_parameters(recurse=False)} >= {"W_IP1", "W_IP2"}
    x, y = small()
    written = open_.gradients(x, y)
    for name, g in closed.gradients(x, y).items():
        assert (written[name] - g).norm() < 1e-9 * g.norm()


def test_limits_are_options_that_go_somewhere():
    for rule in {type(make()) for make in ON_FILE.values()}:
        for option, values in rule.limits.items():
            assert all(a > b for a, b in pairwise(values))
            case_with(rule).make(**{option: values[-1]})
    verdict = CRITERIA["exact gradients"](case_with(Microcircuits, feedback="symmetric"))
    assert verdict.says == "in the limit" and "order 1.0" in verdict.why and "lam = 0.1" in verdict.why


def recorded(rule, x, y):
    """Messages of an update: layers that read, and what; layers that send down, and what."""
    up, down = [], []
    feedback, layers = rule.feedback, rule.network.layers
    with sending.wires(rule, up=lambda l, h: up.append((l, h)) or h, down=lambda l, s: down.append((l, s)) or s):
        with pytest.raises(ZeroDivisionError), sending.wires(rule, up=lambda l, h: 1 / 0, down=lambda l, s: s):
            rule.gradients(x, y)
        written = rule.gradients(x, y)
    assert rule.feedback == feedback and rule.network.layers is layers and "feedback" not in vars(rule)
    return up, down, written


@pytest.mark.parametrize("name", ON_FILE)
def test_messages_that_are_let_through_change_nothing(name):
    rule, (x, y) = ON_FILE[name](), small()
    intact = rule.gradients(x, y)
    if isinstance(rule, SegregatedCompartments):
        with sending.wires(rule, up=lambda l, h: 1 / 0, down=lambda l, s: 1 / 0):
            written = rule.gradients(x, y)
    else:
        written = recorded(rule, x, y)[2]
    assert all(type(g) is torch.Tensor and torch.equal(g, intact[n]) for n, g in written.items())


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        ("backprop", [1, 2, 3], [3, 2]),
        ("fa", [1, 2, 3], [3, 2]),
        ("dfa", [1, 2, 3], [3, 2]),
        ("dtp", [1, 2, 3, 2], [3, 2, 2, 2]),
        ("sdtp", [1, 2, 3, 2, 3], [3, 3, 2, 2, 2, 3]),
        ("microcircuits", [1, 2, 3], [3, 2]),
        ("microcircuits, interneurons", [1, 2, 3, 2, 3], [3, 3, 2, 2]),
    ],
)
def test_every_message_is_seen(name, up, down):
    rule, (x, y) = ON_FILE[name](), small()
    read, sent, _ = recorded(rule, x, y)
    assert ([l for l, _ in read], [l for l, _ in sent]) == (up, down)
    h = rule.observe(x).h
    assert all(torch.equal(seen, h[l - 1]) for l, seen in read[:3])
    if name in ("backprop", "fa"):
        errors = rule.errors(x, y)
        assert all(torch.equal(signal, errors[l]) for l, signal in sent)


def test_messages_of_maps_are_seen():
    rule = Backprop(CNN((1, 8, 8), (3, 5), 4, kernel=3, dtype=torch.float64))
    x, y = torch.rand(7, 64, generator=torch.Generator().manual_seed(0)).double(), torch.arange(7) % 4
    intact = rule.gradients(x, y)
    up, down, written = recorded(rule, x, y)
    assert [(l, tuple(h.shape)) for l, h in up] == [(1, (7, 64)), (2, (7, 3, 8, 8)), (3, (7, 5, 4, 4))]
    assert [(l, tuple(s.shape)) for l, s in down] == [(3, (7, 4)), (2, (7, 5, 4, 4))]
    assert all(torch.equal(g, intact[n]) for n, g in written.items())
    with sending.wires(rule, up=lambda l, h: h, down=lambda l, s: 2 * s):
        doubled = rule.gradients(x, y)
    for l, factor in ((3, 1), (2, 2), (1, 4)):
        torch.testing.assert_close(doubled[f"W{l}"], factor * intact[f"W{l}"])
    with sending.wires(rule, up=lambda l, h: 0 * h if l == 3 else h, down=lambda l, s: s):
        assert torch.equal(rule.observe(x).h[-1], rule.network.b3.detach().expand(7, 4))


PRODUCTS = {
    "@": lambda s, b: s @ b.T,
    "@ from the left": lambda s, b: (b @ s.T).T,
    "linear": lambda s, b: torch.nn.functional.linear(s, b),
    "linear, named": lambda s, b: torch.nn.functional.linear(input=s, weight=b, bias=None),
    "linear and bias": lambda s, b: torch.nn.functional.linear(s, b, torch.zeros(8).double()),
    "einsum": lambda s, b: torch.einsum("bi,ji->bj", s, b),
    "inner": lambda s, b: torch.inner(s, b),
    "tensordot": lambda s, b: torch.tensordot(s, b, dims=([1], [1])),
    "addmm": lambda s, b: torch.addmm(torch.zeros(5, 8).double(), s, b.T),
    "addmm in place": lambda s, b: torch.zeros(5, 8).double().addmm_(s, b.T),
    "negative": lambda s, b: -(s @ (-b).T),
    "masked": lambda s, b: s @ (b * torch.ones(8, 6).double()).T,
    "squared": lambda s, b: s @ (b @ b.T @ b).T,
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_signal_is_carried_however_it_is_multiplied(product):
    g = torch.Generator().manual_seed(0)
    weights, signal = torch.randn(8, 6, generator=g).double(), torch.randn(5, 6, generator=g).double()
    intact, carried = PRODUCTS[product](signal, weights), []
    hooked = weights.as_subclass(sending._Downward)
    hooked.carry = lambda s: carried.append(s) or 3 * s
    out = PRODUCTS[product](signal, hooked)
    assert len(carried) == 1 and type(out) is torch.Tensor
    torch.testing.assert_close(out, 3 * intact)


def test_weights_that_are_written_carry_nothing():
    rule = WeightMirror(mlp())
    assert CRITERIA["passes down"](case_with(WeightMirror)).figure == 1
    mirrored = 1 + 2 / 3 * rule.samples / case.PROBED  # two layers answer to noise, once a batch
    assert CRITERIA["passes up"](case_with(WeightMirror)).figure == pytest.approx(mirrored)


def test_another_feedback_is_put_back():
    rule = Backprop(mlp())
    rule.feedback = mine = lambda layer: torch.ones(1)
    with pytest.raises(KeyError), sending.instead_of_feedback(rule, lambda layer: torch.zeros(1)):
        assert not rule.feedback(2).any()
        raise KeyError
    assert rule.feedback is mine


def test_a_lesion_restores_every_bit():
    one = case_with(Backprop)
    before = copy.deepcopy(one.fresh.state_dict())
    rule = case.copied(one.fresh)
    noise = torch.ones_like(rule.network.W2.detach())
    with pytest.raises(ZeroDivisionError):
        criteria._with_weights(rule, 2, noise, lambda: 1 / 0)
    assert torch.equal(criteria._with_weights(rule, 2, noise, lambda: rule.network.W2.detach().clone()), noise)
    assert all(torch.equal(rule.state_dict()[n], t) for n, t in before.items())
    judge(one)
    assert all(torch.equal(one.fresh.state_dict()[n], t) for n, t in before.items())
    for p in one.fresh.parameters():
        assert p.grad is None and p.requires_grad


def test_a_lesion_leaves_what_has_travelled_up():
    """An update of the top layer, and of layers above the lesion, cannot change."""
    rule = case.copied(case_with(Backprop).fresh)
    held = rule.hold(*small())
    intact = held.again(None)
    lesioned = criteria._with_weights(rule, 2, torch.zeros(6, 8).double(), lambda: held.again(None))
    assert [n for n, g in intact.items() if not torch.equal(g, lesioned[n])] == ["W1", "b1"]


# --------------------------------------------------------------------------- spikes


def test_counts_of_spikes_are_unbiased_signed_and_as_noisy_as_told():
    g, time, highest = torch.Generator().manual_seed(0), 100.0, 0.2
    signal = torch.tensor([-2.0, -0.5, 0.0, 0.1, 1.0]).double()
    drawn = torch.stack([sending.poisson(signal, time, g, highest=highest) for _ in range(20_000)])
    unit = 2.0 / (highest * time)  # of the signal, one spike
    torch.testing.assert_close(drawn / unit, (drawn / unit).round())
    assert torch.equal(drawn.sign().abs().amax(0) * signal.sign(), signal.sign()) and (drawn * signal >= 0).all()
    sd = (signal.abs() * unit).sqrt()
    assert ((drawn.mean(0) - signal).abs() <= 5 * sd / 20_000**0.5).all()
    torch.testing.assert_close(drawn.var(0), sd**2, rtol=0.05, atol=0)
    assert not sending.poisson(torch.zeros(3), time, g).any()


def test_one_activity_is_sent_by_the_same_spikes_to_all_who_read_it():
    spikes, h = sending.Spikes(50, seed=0), torch.rand(9, 8).double()
    first = spikes.up(2, h)
    assert spikes.up(3, h) is first and spikes.heard(h) is first
    assert not torch.equal(spikes.up(2, h.clone()), first) and spikes.heard(h + 0) is not first
    assert not torch.equal(spikes.down(2, h), spikes.down(2, h)) and spikes.messages == 5
    one, other = (sending.Spikes(50, seed=seed).up(1, h) for seed in (0, 1))
    assert torch.equal(one, first) and not torch.equal(one, other)


def test_a_synapse_sees_the_spikes_that_it_was_sent():
    """What meets the error there is a count, in steps of one spike."""
    rule, x, y = Hebbian(mlp((3, 2, 2))), torch.tensor([[0.0, 0.5, 1.0]]).double(), torch.tensor([0])
    spikes = sending.Spikes(40, seed=0)
    with sending.wires(rule, up=spikes.up, down=spikes.down), rule.as_it_is(), torch.no_grad():
        pre = {s.weight: spikes.heard(s.pre) for s in rule.credit(x, y)[1]}
    counts = pre["W1"] * 8
    torch.testing.assert_close(counts, counts.round())
    assert not torch.equal(pre["W1"], x)


def test_the_angle_falls_with_the_root_of_the_time_of_a_message():
    one = case_with(Backprop, partial(mlp, (12, 60, 40, 4)))
    angles = [
        criteria._with_spikes(one.fresh, one, time) for time in (1e4, 1e6)
    ]
    falls = criteria._order([1e-4, 1e-6], angles)
    assert falls == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(("ms", "expected"), [(700, "holds"), (900, "partly"), (9e3, "partly"), (11e3, "fails")])
def test_how_soon_is_soon(monkeypatch, ms, expected):
    monkeypatch.setattr(criteria, "_with_spikes", lambda rule, one, time: 45 + 20 * math.log(ms / time))
    verdict = CRITERIA["works with spikes"](case_with(Backprop))
    assert verdict.says == expected and verdict.figure == pytest.approx(ms)


@pytest.mark.parametrize(("turned", "expected"), [(70, "holds"), (80, "fails")])
def test_of_how_much_something_is_left(monkeypatch, turned, expected):
    monkeypatch.setattr(criteria, "_furthest", lambda own, other: (1, turned))
    assert CRITERIA["unsigned errors do"](case_with(Backprop)).says == expected


@pytest.mark.parametrize(("ends", "expected"), [(19, "in the limit"), (21, "fails")])
def test_how_near_is_near(monkeypatch, ends, expected):
    """A tangent that falls as the option, or as the root of the number of draws, and ends where it ends."""
    end = math.tan(math.radians(ends))
    halved = [math.degrees(math.atan(end * 2**k)) for k in (3, 2, 1, 0)]
    drawn = [math.degrees(math.atan(end * (criteria.DRAWS[-1] / k) ** 0.5)) for k in criteria.DRAWS]
    for rule, angles in ((Tilted, halved), (Noisy, drawn)):
        told = iter([angles[0], *angles, 80])  # at first, on the way, and after a training
        monkeypatch.setattr(criteria, "_furthest", lambda own, other, told=told: (1, next(told)))
        assert CRITERIA["exact gradients"](case_with(rule)).says == expected


@pytest.mark.parametrize(("change", "expected"), [(0.009, "fails"), (0.011, "holds")])
def test_how_much_is_learned(monkeypatch, change, expected):
    monkeypatch.setattr(criteria, "_deviation", lambda one, other: change)
    assert CRITERIA["separate weights learned"](case_with(KolenPollack))[:2] == (expected, change)


def test_what_was_drawn_anew_is_not_said_to_stay():
    whys = {rule: CRITERIA["separate weights learned"](case_with(rule)).why for rule in (Redrawn, OwnWeights)}
    assert whys == {
        Redrawn: "Its weights B2, B3 are drawn anew, whatever is learned.",
        OwnWeights: "Its weights B2, B3 stay as they were drawn.",
    }


def test_what_is_assumed_is_said_where_weights_are_counted():
    copies = ", and assumes interneurons whose weights are copies of forward weights."
    for options, said in (
        ({}, f"It has 72 weights of its own beside 168 of the network{copies}"),
        ({"feedback": "symmetric"}, f"The rule has no weights beside those of the network{copies}"),
        ({"lateral": "learned"}, "It has 216 weights of its own beside 168 of the network."),
    ):
        assert CRITERIA["no weights of its own"](case_with(Microcircuits, **options)).why == said


@pytest.mark.parametrize(("times", "more"), [(1, 0), (2, SIZES[0])])
def test_what_is_kept_of_the_input_is_counted_only_if_it_is_not_the_input(times, more):
    class Remembering(Backprop):
        def observe(self, x):
            return Trace(self.network.activities(x), {"seen": times * x})

    figure = CRITERIA["memory beside the weights"](case_with(Remembering)).figure
    assert figure == pytest.approx((UNITS + 14 + more) / UNITS)


# --------------------------------------------------------------------------- verdicts, cases, tables


def test_blank_cards_change_no_verdict(monkeypatch):
    monkeypatch.setattr(case, "EPOCHS", 1)
    names = ("fa", "dtp", "microcircuits")
    before = {name: judge(case_of(name)) for name in names}
    for name in names:
        blank = dict(label="", short="", family="", cite=(), look=RULES["backprop"].look, settings={}, also={})
        unnamed = type("Unnamed", (RULES[name].rule,), {})
        monkeypatch.setitem(RULES, name, replace(RULES[name], rule=unnamed, **blank))
    assert {name: judge(case_of(name)) for name in names} == before


def test_what_is_lacking_is_named():
    whys = {
        (Sideways, "no weight transport"): "the update of layer 2 reads W3 otherwise than through feedback(3)",
        (BothWays, "no weight transport"): "the update of layer 1 reads W3 otherwise than through feedback(3)",
        (Silent, "no weight transport"): "an update of W1, which no synapse names",
        (Silent, "explicit error representation"): "a state of the units of layer 1",
        (SegregatedCompartments, "unsigned errors do"): "an error at the top that can be changed by itself",
        (SegregatedCompartments, "works with spikes"): "messages that go through the layers of the network",
        (Microcircuits, "works with spikes"): "messages as units send them; it assumes interneurons whose weights are",
        (NoSoma, "dendritic integration"): "the voltage of the soma",
        (Wordless, "local"): "Wordless must say what its synapses are",
    }
    for (rule, row), why in whys.items():
        verdict = CRITERIA[row](case_with(rule))
        assert (verdict.says, verdict.figure) == ("not measured", None) and why in verdict.why


def test_a_rule_without_errors_is_not_told_that_something_carries_them():
    one = case_with(Shaken)
    assert one.states.errors == one.fresh.errors(one.x, one.y) == {} and list(one.states.moments[0]) == ["activity"]
    verdicts = judge(one)
    assert verdicts["no error units"].why == "No error arrives at a hidden unit."
    assert verdicts["local"].says == "holds" and "carried" not in verdicts["local"].why
    assert verdicts["moments compared"].why == "What a unit holds, moment by moment: activity."
    assert verdicts["no weight transport"].says == "holds" and verdicts["explicit error representation"].says == "fails"
    assert verdicts["exact gradients"].says == "in the limit" and "of its noise" in verdicts["exact gradients"].why
    assert {MEASURES["error_angle"].ask(Probe(one.fresh, one.x, one.y))[l] for l in (1, 2)} == {None}


def test_no_rule_fails_for_what_it_lacks():
    verdicts = judge(case_with(Wordless))
    assert {v.says for v in verdicts.values()} <= {"not measured", "holds", "not applicable"}


class Bursting(Backprop):
    """Diverges when it is trained."""

    def answer(self, trace, y):
        loss, error = super().answer(trace, y)
        return loss * (torch.nan if self.training else 1), error


def test_a_training_that_diverges_is_not_measured():
    verdict = CRITERIA["unsigned errors do"](case_with(Bursting))
    assert verdict.says == "not measured" and "training has diverged" in verdict.why


def test_maps_are_judged_too():
    network = partial(CNN, (1, 4, 4), (3,), 4, kernel=3, dtype=torch.float64)
    one = Case(lambda **o: Backprop(network(), **o), *examples(sizes=(16, 4)))
    verdicts = {row: v.says for row, v in judge(one).items() if row != "unsigned errors do"}
    assert verdicts == {row: CRITERIA[row](case_with(Backprop)).says for row in verdicts}
    assert "activities of 48 hidden units 48 errors" in CRITERIA["no error units"](one).why


def test_a_case_says_what_does_not_fit():
    x, y = examples()

    class Global(Backprop):
        """Draws from the generator that all share."""

        def synapses(self, trace, error, y):
            return super().synapses(trace, error + torch.randn_like(error), y)

    for wrong, problem in [
        (lambda: Case(lambda: Backprop(mlp()), x[:119], y[:119]), "at least 120 examples, not 119"),
        (lambda: Case(lambda: Backprop(MLP(SIZES)), x.float(), y), r"torch\.float64, not in torch\.float32"),
        (lambda: Case(lambda: Backprop(mlp((12, 4))), x, y), r"without hidden layers, \(12, 4\)"),
        (lambda: Case(lambda: Global(mlp()), x, y), "two Globals made alike give different updates"),
        (lambda: case_of("hebb"), "unknown rule 'hebb'; choose one of backprop, fa"),
        (lambda: columns(["cnn"]), "unknown rule 'cnn'"),
        (lambda: judge(case_with(Backprop), ["beauty"]), "unknown criterion 'beauty'; choose one of exact gradients"),
        (lambda: criterion("local", unit="")(lambda case: None), "the criterion 'local' is taken by"),
    ]:
        with pytest.raises(ValueError, match=problem):
            wrong()
    with pytest.raises(TypeError, match="must give a LearningRule, not a MLP"):
        Case(mlp, x, y)


def test_a_criterion_of_ones_own_joins_the_table(monkeypatch):
    monkeypatch.setattr(sys.modules["bioplaus_lite.plausibility.verdicts"], "CRITERIA", mine := dict(CRITERIA))
    deep = criterion("of mine", unit="layers")
    made = deep(lambda one: Verdict("fails", float(one.fresh.network.depth), "It has layers."))
    assert mine["of mine"] is made and made(case_with(Backprop)) == ("fails", 3.0, "It has layers.")
    odd = criterion("odd", unit="")(lambda one: Verdict("perhaps", None, ""))
    with pytest.raises(ValueError, match="unknown verdict of 'odd' 'perhaps'; choose one of holds"):
        odd(case_with(Backprop))


def test_every_rule_on_file_is_a_column():
    found = columns()
    own = [label for label in found if "," not in label or label == "Segregated, spikes"]
    assert own == [c.short for c in RULES.values()]
    settings = {label: dict(options) for card in RULES.values() for label, options in card.settings.items()}
    assert settings == {label: options for label, (_, options) in found.items() if options} and len(settings) >= 4
    assert found["TP"] == ("tp", {"alpha": 10.0})  # a setting in the place of the defaults
    assert list(columns(["dtp", "fa"])) == ["DTP", "FA"]
    for name, options in found.values():  # what a setting says can be made
        network = options.get("network", RULES[name].network)
        RULES[name].make(network(SIZES), **{k: v for k, v in options.items() if k != "network"})


def test_a_table_has_a_line_a_rule_and_criterion():
    frame = table(["backprop"], ["local", "passes up"])
    assert list(frame.rule) == ["Backprop"] * 2 and list(frame.criterion) == ["local", "passes up"]
    assert list(frame.says) == ["holds", "counted"] and list(frame["mark"]) == [MARKS["holds"], "1"]
    assert list(frame.unit) == [CRITERIA[row].unit for row in frame.criterion]
    again = table({"mine": ("backprop", {"network": partial(MLP, activation="tanh")})}, iter(["local"]))
    assert list(again.rule) == ["mine"]


BOOK = {  # ✓, l: in the limit, p: partly, ✗, –: the rows of the review in the order of CRITERIA
    "Backprop": "✓✗✓✗✗–– ✓", "FA": "✗✓✗✗✗✗– ✓", "TP": "✗p✗✓✗✓✗ ?", "DTP": "✗p✗✓✗✓✓ p", "SDTP": "✗✓✗✓✗✓✓ p",
    "Segregated, rates": "✗✓✗✓✓✗– p", "Microcircuits": "✗p✗✓✓✗– ✓",
}  # fmt: skip
LETTERS = {"holds": "✓", "in the limit": "l", "partly": "p", "fails": "✗", "not applicable": "–", "not measured": "?"}


@cache
def book():
    return columns()


@pytest.mark.parametrize("label", BOOK)
def test_the_rows_of_the_review(label, monkeypatch):
    if label.startswith("Segregated"):
        monkeypatch.setattr(case, "PROBED", 20)  # the readable simulation is slow
    name, options = book()[label]
    rows = [row for row, c in CRITERIA.items() if c.slide]
    verdicts = judge(case_of(name, **options), rows)
    assert "".join(LETTERS[v.says] for v in verdicts.values()) == BOOK[label].replace(" ", "")


# --------------------------------------------------------------------------- the command line

MINE = '''
from bioplaus_lite.rules import Synapse
from bioplaus_lite.rules.base import LearningRule
from bioplaus_lite.rules.backprop import Backprop


class Mine(Backprop):
    """Feedback by signs."""

    def feedback(self, layer):
        return super().feedback(layer).sign()


class Quiet(LearningRule):
    def synapses(self, trace, error, y):
        yield Synapse(f"W{self.network.depth}", error, trace.h[-2])
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder but for a file of rules; what it imports is forgotten."""
    (tmp_path / "rules_of_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("rules_of_mine", None)


def test_a_rule_of_ones_own_from_the_command_line(folder):
    command = [sys.executable, "-m", "bioplaus_lite.plausibility", "rules_of_mine:Mine", "--json", "--row",
               "no weight transport", "--row", "passes down"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["rule"], line["criterion"], line["says"]) for line in lines] == [
        ("Mine", "no weight transport", "fails"), ("Mine", "passes down", "counted"),
    ]  # fmt: skip
    assert set(lines[0]) == {"rule", "criterion", "unit", "says", "figure", "why"}


def test_the_command_line_says_which_row_lacks_what(folder, capsys):
    assert main(["rules_of_mine:Quiet", "--row", "no weight transport", "--row", "passes up"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Quiet"
    assert told[1].split() == ["no", "weight", "transport", "?"]
    assert told[2].strip() == "Not measured, for want of an update of W1, which no synapse names."
    assert told[3].split() == ["passes", "up", "1", "of", "an", "example"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["hebb"], "unknown rule 'hebb'; choose one of backprop, fa"),
        (["fa", "--row", "beauty"], "unknown criterion 'beauty'; choose one of exact gradients"),
        (["rules_of_mine:Nothing"], "has no attribute 'Nothing'"),
        (["nowhere:Mine"], "No module named 'nowhere'"),
    ],
)
def test_the_command_line_refuses_what_it_does_not_know(folder, capsys, arguments, problem):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert problem in said.err and not said.out


def test_two_rules_of_one_name_are_two_columns(folder):
    (folder / "others.py").write_text(MINE)
    try:
        assert list(columns(["rules_of_mine:Mine", "others:Mine"])) == ["Mine", "others:Mine"]
    finally:
        sys.modules.pop("others", None)
