"""Segregated compartments: a hand-worked neuron, a closed form and autograd pin the readable simulation, and the
readable simulation pins the compiled engines, spike for spike."""

import copy
import io
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from bioplaus_lite.data import load
from bioplaus_lite.measures import angle, error_angles, gradients, same_spikes_angles, true_gradients, update_angles
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters, Simulation, rate_update, step
from bioplaus_lite.models.segregated.compiled import compiler
from bioplaus_lite.models.segregated.rate import initial_range
from bioplaus_lite.networks import MLP
from bioplaus_lite.rules.segregated import SegregatedCompartments
from bioplaus_lite.training import evaluate, fit

SIZES = [(12, 4), (12, 9, 4), (12, 9, 20, 4)]
F32, F64 = torch.float32, torch.float64


def make(sizes, constants=None, dtype=F64, **options):
    constants = constants or SegregatedParameters()
    return SegregatedCompartments(RateNetwork(sizes, constants, dtype=dtype), **options)


def problem(n, size=12, classes=4, dtype=F64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, size, generator=g, dtype=F64).to(dtype), torch.randint(classes, (n,), generator=g)


def weights(rule):
    """Copies of W, b and Y as float64 arrays."""
    layers = range(1, rule.network.depth + 1)
    read = (rule.network.weight, rule.network.bias)
    W, b = ([of(l).detach().numpy().astype(np.float64) for l in layers] for of in read)
    return W, b, [rule.direct_feedback(l).numpy().astype(np.float64) for l in layers[:-1]]


def furthest(a, b):
    return max((np.abs(p - q).max() for p, q in zip(a, b, strict=True)), default=0.0)


# ----------------------------------------------------------------------------------------------------- constants


def test_constants_are_those_of_the_paper():
    c = SegregatedParameters()
    assert (c.window, c.spike_memory, c.P_hidden, c.P_out) == (20, 10, pytest.approx(100), pytest.approx(500))
    assert c.k_b == c.k_d == pytest.approx(6 / 7)
    assert c.kernel[0] == pytest.approx((np.exp(-0.1) - np.exp(-1 / 3)) / 7)
    fine = SegregatedParameters(dt=0.001, memory=200.0)
    assert fine.psp_gain == pytest.approx(1, abs=1e-3)  # the whole kernel has area 1 …
    assert c.psp_gain == pytest.approx(0.5104, abs=1e-4)  # … of which 10 ms keep half
    mean, half_width = initial_range(784, 0.2)
    assert (mean, half_width / 3.465) == (pytest.approx(0.0187, abs=1e-4), pytest.approx(0.505, abs=1e-3))


def test_phase_lengths_follow_the_inverse_gaussian():
    lengths = SegregatedParameters().draw_lengths(20000, np.random.default_rng(0)) - 50
    law = stats.invgauss(mu=2, scale=1)
    for k in range(5):
        share = law.cdf(k + 1) - law.cdf(k)
        assert (lengths == k).mean() == pytest.approx(share, abs=4 * (share / lengths.size) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": 30.0}, "phase of 30.0 ms is too short"),
        ({"test_phase": 20.0}, "test_phase of 20.0 ms is too short"),
        ({"g_b": -0.1}, "g_b must be above 0, not -0.1"),
        ({"g_a": -0.1}, "g_a must be at least 0, not -0.1"),
        ({"dt": 1.2}, "below 1.17647 ms"),
        ({"dt": 0.9, "g_a": 2.0}, "lets the voltage diverge"),
        ({"dt": 0}, "dt must be above 0"),
        ({"phi_max": float("nan")}, "phi_max must be a finite number"),
        ({"tau_s": 10.0}, "tau_s must be below tau_L"),
        ({"mode": "burst"}, "mode must be one of spiking, rate"),
        ({"feedback_share": 0.0}, r"feedback_share must be in \(0, 1\]"),
        ({"feedback_noise": 0.1}, "symmetric"),
        ({"plateau_sd": 3.0, "plateau_max": 40.0}, "plateau_max must be at most"),
        ({"E_E": -9.0}, "E_E must be above E_I"),
        ({"eta": (0.1, -0.1)}, "eta must be at least 0, not -0.1"),
    ],
)
def test_impossible_constants_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        SegregatedParameters(**changes)


def test_a_step_just_short_of_divergence_stays_bounded():
    c = SegregatedParameters(dt=1.17)
    simulation = make((12, 9, 4), c).simulation()
    for _ in range(3):
        outcome = simulation.example(np.full(12, 0.5), 1)
    assert np.isfinite(outcome.scores).all()


# ------------------------------------------------------------------------------------------ the readable simulation


@pytest.mark.parametrize("mode", ["spiking", "rate"])
def test_steps_by_hand_are_those_of_a_simulation_and_change_no_state(mode):
    c = SegregatedParameters(mode=mode)
    simulation = make((6, 5, 4), c).simulation()
    first, draws, states = simulation.state, np.random.default_rng(3), [simulation.state]
    simulation.generator, kept = np.random.default_rng(3), copy.deepcopy(first)

    def fire(layer, rate):
        return draws.poisson(rate * c.dt) if mode == "spiking" else rate

    x = np.linspace(0, 1, 6)
    for label in (None, None, 2, 2):
        states.append(step(states[-1], x, label, simulation.synapses, c, fire))
    made = [*simulation.steps(2, x), *simulation.steps(2, x, 2)]
    for by_hand, own in zip(states[1:], made, strict=True):
        assert furthest([*by_hand.soma, *by_hand.spikes], [*own.soma, *own.spikes]) == 0
    assert furthest([*first.soma, *first.spikes], [*kept.soma, *kept.spikes]) == 0
    assert states[-1].soma[-1][2] > states[2].soma[-1][2]
    felt = states[1].dendrites
    np.testing.assert_array_equal(felt.basal[0], simulation.W[0] @ felt.psp[0] + simulation.b[0])


def one_of_each(constants=None):
    """One input, one hidden neuron, one output, unit weights, no biases."""
    one, none = np.ones((1, 1)), np.zeros(1)
    return Simulation([one, one], [none, none], [one], constants or SegregatedParameters())


def replay(simulation, *, inputs=(), hidden=(), output=(), lengths=(50, 50), label=0):
    spikes = [np.zeros((sum(lengths), 1)) for _ in range(3)]
    for of_layer, steps in zip(spikes, (inputs, hidden, output), strict=True):
        of_layer[list(steps)] = 1
    return simulation.example(np.zeros(1), label, lengths=lengths, spikes=spikes, record=True).trace


def test_a_spike_travels_as_the_kernel_says_and_is_forgotten_after_ten_milliseconds():
    kernel = SegregatedParameters().kernel
    trace = replay(one_of_each(), inputs=[3], hidden=[20], output=[30])
    np.testing.assert_array_equal(trace.psp[0][:, 0], np.concatenate([np.zeros(3), kernel, np.zeros(87)]))
    np.testing.assert_array_equal(trace.basal[0], trace.psp[0])
    np.testing.assert_array_equal(trace.psp[1][:, 0], np.concatenate([np.zeros(20), kernel, np.zeros(70)]))
    # The apical dendrite hears of an output spike one step later.
    np.testing.assert_array_equal(trace.apical[0][:, 0], np.concatenate([np.zeros(31), kernel, np.zeros(59)]))


def test_somata_take_the_steps_of_the_paper():
    trace = replay(one_of_each(SegregatedParameters(eta=0.0)), inputs=[3, 60], hidden=[20, 70])
    V, B = trace.soma[0][:, 0], trace.basal[0][:, 0]
    np.testing.assert_allclose(V[1:], 0.3 * V[:-1] + 0.6 * B[1:], atol=1e-15)
    U, B = trace.soma[1][:, 0], trace.basal[1][:, 0]
    np.testing.assert_allclose(U[1:50], 0.3 * U[:49] + 0.6 * B[1:50], atol=1e-15)
    np.testing.assert_allclose(U[50:], -0.7 * U[49:-1] + 0.6 * B[50:] + 8, atol=1e-14)
    assert U[-1] == pytest.approx(8 / 1.7, abs=1e-3)


def test_partial_coupling_lets_the_apical_dendrite_reach_the_soma():
    for g_a, reached in ((0.0, False), (0.05, True)):
        trace = replay(one_of_each(SegregatedParameters(g_a=g_a)), output=[5])
        assert bool(trace.soma[0][6:20].any()) is reached
        assert not trace.soma[0][:6].any()


def test_plateaus_average_the_window_before_them_neuron_by_neuron():
    rule = make((12, 9, 4), SegregatedParameters(plateau_sd=3.0))
    simulation, x = rule.simulation(), np.full(12, 0.5)
    plateaus = np.arange(18).reshape(2, 9) % 6
    outcome = simulation.example(x, 1, plateaus=plateaus, lengths=(52, 55), learn=False, record=True)
    apical, ends = outcome.trace.apical[0], (52, 107)
    for phase, alpha in enumerate((outcome.alpha_forward[0], outcome.alpha_target[0])):
        for neuron, early in enumerate(plateaus[phase]):
            end = ends[phase] - early
            assert alpha[neuron] == pytest.approx(1 / (1 + np.exp(-apical[end - 20 : end, neuron].mean())), abs=1e-14)
    early = rule.constants.draw_plateaus(4000, 5, np.random.default_rng(0))
    assert early.min() == 0
    assert early.max() == 5
    assert (early == 5).mean() == pytest.approx(2 * stats.norm.sf(5 / 3), abs=0.01)


@pytest.mark.parametrize("sizes", SIZES)
def test_updates_descend_the_local_losses(sizes):
    """Each layer's change is -ηP times the gradient of a loss of its own, by autograd, with its target held."""
    c = SegregatedParameters(feedback="learned", eta_feedback=0.3)
    simulation = make(sizes, c).simulation()
    x, y = problem(3)
    for one, label in zip(x.numpy(), y, strict=True):
        W, b, Y = ([torch.tensor(a) for a in arrays] for arrays in (simulation.W, simulation.b, simulation.Y))
        outcome = simulation.example(one, int(label), record=True)
        assert all(np.abs(d).max() > 1e-6 for d in outcome.delta_W)
        window = outcome.trace.averaged & ~outcome.trace.target
        for layer in range(1, len(sizes)):
            # A voltage moves with its weights as at the steady state, around the mean that the phase had.
            top = layer == len(sizes) - 1
            k, P, psp = (c.k_d, c.P_out, outcome.psp) if top else (c.k_b, c.P_hidden, outcome.psp)
            w, v = W[layer - 1].requires_grad_(), b[layer - 1].requires_grad_()
            moved = k * (w @ torch.tensor(psp[layer - 1]) + v)
            rate = c.phi_max * torch.sigmoid(torch.tensor(outcome.soma[layer - 1]) + moved - moved.detach())
            if top:
                target = torch.tensor(outcome.target_rate)
            else:
                change = outcome.alpha_target[layer - 1] - outcome.alpha_forward[layer - 1]
                target = rate.detach() + torch.tensor(change)
            (0.5 * (target - rate).square().sum()).backward()
            np.testing.assert_allclose(outcome.delta_W[layer - 1], -0.21 * P * w.grad.numpy(), atol=1e-14)
            np.testing.assert_allclose(outcome.delta_b[layer - 1], -0.21 * P * v.grad.numpy(), atol=1e-14)
            if not top:
                u = Y[layer - 1].requires_grad_()
                seen = torch.tensor(outcome.trace.feedback[window].mean(0))
                fired = torch.sigmoid(torch.tensor(outcome.soma[layer - 1]))
                (0.5 * (fired - torch.sigmoid(u @ seen)).square().sum()).backward()
                np.testing.assert_allclose(outcome.delta_Y[layer - 1], -0.3 * c.P_hidden * u.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("spiking_feedback", [True, False])
def test_rate_mode_stepped_through_time_is_the_closed_form(sizes, spiking_feedback):
    c = SegregatedParameters.rate_limit(spiking_feedback=spiking_feedback)
    rule = make(sizes, c)
    simulation = rule.simulation()
    x, y = problem(20)
    for one, label in zip(x, y.tolist(), strict=True):
        expected = rate_update(simulation.W, simulation.b, simulation.Y, one.numpy(), label, c)
        before = copy.deepcopy(simulation.W)
        outcome = simulation.example(one.numpy(), label)
        assert furthest(outcome.E, expected.E) < 1e-15
        assert furthest([outcome.scores, outcome.target_rate], [expected.voltage, expected.target_rate]) < 1e-13
        for layer, (new, old) in enumerate(zip(simulation.W, before, strict=True)):
            P = c.P_out if layer == len(sizes) - 2 else c.P_hidden
            change = -0.21 * P * np.outer(expected.E[layer], expected.psp[layer])
            np.testing.assert_allclose(new - old, change, atol=1e-13)


def test_the_rate_network_is_the_closed_form_and_its_operations_are_autograd():
    for c in (SegregatedParameters(), SegregatedParameters.rate_limit()):
        rule = make((12, 9, 20, 4), c)
        x, y = problem(5)
        expected = [rate_update(*weights(rule), one, 0, c).voltage for one in x.numpy()]
        np.testing.assert_allclose(rule(x).detach().numpy(), expected, atol=1e-13)
    from bioplaus_lite.rules import Backprop

    assert max(update_angles(Backprop(rule.network), x, y).values()) < 1e-5


def test_long_spiking_phases_approach_the_rate_limit():
    rule = make((12, 9, 4))
    with torch.no_grad():  # strong noise and a bent line bias the mean: use small weights
        for layer in (1, 2):
            rule.network.weight(layer).mul_(0.1)
    x, _ = problem(1)
    scores = rule.predict_spiking(x, 200_000.0)
    torch.testing.assert_close(scores, rule(x).detach(), atol=0.02, rtol=0)


# -------------------------------------------------------------------------------------------------- compiled engines

OPTIONS = [
    ((12, 4), {}),
    ((12, 9, 4), {}),
    ((12, 9, 20, 4), {"eta": (0.23, 0.2, 0.12)}),
    ((12, 140, 4), {"g_a": 0.05, "plateau_sd": 3.0}),
    ((12, 9, 20, 4), {"feedback": "symmetric", "feedback_noise": 0.05, "feedback_share": 0.5}),
    ((12, 9, 20, 4), {"feedback": "learned", "eta_feedback": 0.1, "plateau_sd": 3.0, "voltages": "steady"}),
    ((12, 9, 4), {"feedback": "learned", "eta_feedback": 0.1, "feedback_share": 0.5}),    # what is zero stays zero
    ((12, 9, 20, 4), {"spiking_feedback": False, "dt": 0.5, "phase": 41.0, "settle": 40.0, "memory": 7.0}),
    ((12, 9, 4), {"phase": 21.0, "settle": 1.0}),  # spikes of the last example are still felt in the window
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5)])
@pytest.mark.parametrize(("sizes", "changes"), OPTIONS)
def test_engine_and_readable_simulation_agree_spike_for_spike(sizes, changes, dtype, tolerance):
    c = SegregatedParameters(**changes)
    rule = make(sizes, c, dtype)
    simulation, engine = rule.simulation(), rule._ready()
    g = np.random.default_rng(0)
    x, y = problem(6, dtype=F32)
    for one, label in zip(x.numpy(), y.numpy(), strict=True):
        lengths, plateaus = c.draw_lengths(1, g), c.draw_plateaus(1, sum(sizes[1:-1]), g)
        noise = [c.feedback_noise * g.standard_normal((n, sizes[-1])) for n in sizes[1:-1]]
        flat = np.concatenate([np.zeros(0), *(a.ravel() for a in noise[::-1])])[None]
        before = weights(rule)
        result = engine.train(
            one[None], label[None], c.etas(len(sizes) - 1), lengths=lengths, plateaus=plateaus,
            noise=flat if c.feedback_noise else np.zeros((1, 0)),
        )
        outcome = simulation.example(
            one, int(label), lengths=lengths[0], plateaus=plateaus[0], noise=noise, spikes=engine.spikes()
        )
        assert max(np.abs(d).max() for d in outcome.delta_W) > 1e-3
        after = weights(rule)
        for new, old, change in zip(after[:2], before[:2], (outcome.delta_W, outcome.delta_b), strict=True):
            assert furthest([p - q for p, q in zip(new, old, strict=True)], change) < tolerance
        size = max((np.abs(a).max() for a in simulation.Y), default=1)  # products of weights, hundreds here
        assert furthest(after[2], simulation.Y) < tolerance * max(size, 1)
        assert furthest([result.voltage[0]], [outcome.scores]) < 3 * tolerance
        assert result.loss[0] == pytest.approx(outcome.output_loss, abs=tolerance)
        state = engine.state
        assert furthest(state.soma, simulation.state.soma) < 3 * tolerance
        assert furthest(state.spikes, simulation.state.spikes) == 0
    if "learned" in changes.values():
        assert furthest(after[2], weights(make(sizes, c, dtype))[2]) > 1e-4


def test_an_example_that_needs_more_room_finds_the_spikes_before_it():
    """The engine makes room for longer phases in the middle of a training; one that has it from the start agrees."""
    c = SegregatedParameters(phase=21.0, settle=1.0)    # so short that the spikes of the last example are felt
    x, y = problem(2, dtype=F32)
    found = []
    for room in (0, 2000):
        rule, g = make((12, 9, 4), c), np.random.default_rng(0)
        engine = rule._ready()
        engine._grow(room)
        start = engine._capacity
        for one, label, taught in zip(x.numpy(), y.numpy(), (21, 600), strict=True):
            lengths, plateaus = c.draw_lengths(1, g), c.draw_plateaus(1, 9, g)
            lengths[:] = 21, taught                     # the window of the forward phase begins after one step
            engine.train(
                one[None], label[None], c.etas(2), lengths=lengths, plateaus=plateaus, noise=np.zeros((1, 0))
            )
        found.append((weights(rule), engine.state.soma, engine.state.spikes, engine._capacity > start))
    (grown, soma, spikes, has_grown), (roomy, soma_roomy, spikes_roomy, never) = found
    assert has_grown and not never
    assert all(furthest(a, b) == 0 for a, b in zip(grown, roomy, strict=True))
    assert furthest(soma, soma_roomy) == furthest(spikes, spikes_roomy) == 0


def test_a_wrong_sign_would_not_pass():
    """The comparison above can fail: an engine that climbs is far outside of its tolerance."""
    rule = make((12, 9, 4))
    simulation, engine = rule.simulation(), rule._ready()
    x, y = problem(1, dtype=F32)
    before = weights(rule)[0]
    engine.train(x.numpy(), y.numpy(), (-0.21, 0.21), lengths=np.array([[50, 50]]))
    outcome = simulation.example(x[0].numpy(), int(y), lengths=(50, 50), spikes=engine.spikes())
    changes = [p - q for p, q in zip(weights(rule)[0], before, strict=True)]
    assert furthest(changes[:1], outcome.delta_W[:1]) > 1e-3
    assert furthest(changes[1:], outcome.delta_W[1:]) < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5)])
@pytest.mark.parametrize(
    "changes", [{}, {"feedback": "learned"}, {"feedback": "symmetric"}, {"spiking_feedback": False}]
)
@pytest.mark.parametrize("sizes", [*SIZES, (12, 140, 4)])
def test_rate_engine_is_the_closed_form(sizes, changes, dtype, tolerance):
    c = SegregatedParameters.rate_limit(**changes)
    rule, readable = make(sizes, c, dtype), make(sizes, c, dtype, engine="readable")
    x, y = problem(15, dtype=dtype)
    x[:, ::3] = 0
    fast, slow = rule.present(x, y), readable.present(x, y)
    torch.testing.assert_close(fast.scores, slow.scores, atol=20 * tolerance, rtol=0)
    torch.testing.assert_close(fast.output_loss, slow.output_loss, atol=tolerance, rtol=0)
    W, b, Y = zip(weights(rule), weights(readable), strict=True)
    assert max(furthest(*W), furthest(*b)) < tolerance
    assert furthest(*Y) < tolerance * max(np.abs(a).max() for a in (np.ones(1), *Y[1]))


def test_engine_tests_as_the_readable_simulation_does():
    """The spikes of a test cannot be replayed, but its scores have the same mean and spread."""
    rule = make((12, 9, 4))
    x = problem(1)[0]
    fast = rule.predict_spiking(x.expand(400, -1), 130.0).numpy()
    simulation = rule.simulation()
    slow = np.array([simulation.test(x[0].numpy(), 130.0)[0] for _ in range(150)])
    error = np.sqrt(fast.var(0) / len(fast) + slow.var(0) / len(slow))
    assert (np.abs(fast.mean(0) - slow.mean(0)) < 4 * error).all()
    assert (np.abs(np.log(fast.std(0) / slow.std(0))) < 4 / np.sqrt(2 * len(slow))).all()


# ----------------------------------------------------------------------------------------------------- randomness


def test_spike_counts_are_poisson():
    """Input: mean and variance 0.2·x a step, over several calls. Hidden, output: those of the rate at each step."""
    c = SegregatedParameters(phase_mean=0.0, phase=830.0, eta=0.0)
    rule = make((12, 140, 4), c)
    x = torch.linspace(0, 1, 12, dtype=F64)[None]
    engine, counts, surprise = rule._ready(), [], []
    for _ in range(12):
        engine.train(x.numpy(), np.array([1]), (0.0, 0.0), lengths=np.array([[830, 830]]))
        spikes = engine.spikes()
        counts.append(spikes[0])
        readable = rule.simulation()
        outcome = readable.example(x[0].numpy(), 1, lengths=(830, 830), spikes=spikes, learn=False, record=True)
        for layer in (1, 2):
            rate = 0.2 / (1 + np.exp(-outcome.trace.soma[layer - 1][20:]))
            surprise.append((layer, ((spikes[layer][20:] - rate) / np.sqrt(rate)).ravel(), rate.ravel()))
    counts = np.concatenate(counts)
    expected, n = 0.2 * x[0].numpy(), len(counts)
    assert counts[:, 0].sum() == 0
    np.testing.assert_array_less(np.abs(counts.mean(0) - expected), 4.5 * np.sqrt(expected / n) + 1e-9)
    spread = np.sqrt((expected + 2 * expected**2) / n)  # of the sample variance of Poisson counts
    np.testing.assert_array_less(np.abs(counts.var(0) - expected), 4.5 * spread + 1e-9)
    assert counts.max() > 1  # several spikes a step are kept
    for layer in (1, 2):
        z = np.concatenate([s for l, s, _ in surprise if l == layer])
        rate = np.concatenate([r for l, _, r in surprise if l == layer])
        assert abs(z.mean()) < 4.5 / np.sqrt(len(z))
        assert abs(z.var() - 1) < 4.5 * np.sqrt((2 + 1 / rate).mean() / len(z))
        low, high = rate < np.quantile(rate, 0.2), rate > np.quantile(rate, 0.8)
        assert abs(z[low].mean()) < 4.5 / np.sqrt(low.sum())
        assert abs(z[high].mean()) < 4.5 / np.sqrt(high.sum())


def test_candidates_are_uniform_and_their_logits_logistic():
    from bioplaus_lite.models.segregated.compiled import draws

    n = 200_000
    who, low, logit = np.empty(n, np.int32), np.empty(n, np.uint32), np.empty(n, np.float32)
    draws.fill_uniform(np.uint64(7), np.uint64(11), 500, who, low)
    exact = np.log((low + 0.5) / (2.0**32 - low - 0.5))
    draws.to_logits(low, logit)
    np.testing.assert_allclose(logit, exact, atol=3e-6)
    assert stats.kstest(logit[:50_000], "logistic").pvalue > 1e-3
    assert stats.chisquare(np.bincount(who, minlength=500)).pvalue > 1e-3
    assert abs(np.corrcoef(who, exact)[0, 1]) < 4 / np.sqrt(n)
    table, until = np.zeros(400, np.uint32), np.zeros(100_001, np.int32)
    for mean in (0.8, 28.0, 100.0):
        first, length = draws.poisson_table(mean, table)
        draws.draw_counts(np.uint64(3), np.uint64(0), first, table, length, until)
        counts, law = np.diff(until), stats.poisson(mean)
        bins = np.unique(law.ppf(np.linspace(0.05, 0.95, 10)))
        found = np.bincount(np.searchsorted(bins, counts), minlength=len(bins) + 1)
        shares = np.diff(np.concatenate([[0], law.cdf(bins), [1]]))
        assert stats.chisquare(found, shares * len(counts)).pvalue > 1e-3


def test_sigmoid_of_the_compiled_loops_is_exact():
    from bioplaus_lite.models.segregated.compiled.arithmetic import sigmoid

    v = np.concatenate([np.linspace(-40, 40, 4001), [-1e6, 1e6, -800, 800]])
    out = np.empty_like(v)
    sigmoid(v, out)
    np.testing.assert_allclose(out, stats.logistic.cdf(v), rtol=4e-15, atol=1e-300)


def test_a_change_in_a_called_file_is_compiled_anew(tmp_path):
    shutil.copy(compiler.__file__, tmp_path / "compiler.py")
    called, caller = tmp_path / "called.py", tmp_path / "caller.py"
    caller.write_text("from called import term\nfrom compiler import jit\n\n@jit\ndef twice():\n    return 2*term()\n")
    for term in (3, 5):
        called.write_text(f"from compiler import jit\n\n@jit\ndef term():\n    return {term}\n")
        show = [sys.executable, "-c", "import caller; print(caller.twice())"]
        assert subprocess.check_output(show, cwd=tmp_path, text=True) == f"{2 * term}\n"


def test_seeds_decide_everything_and_threads_nothing():
    x, y = problem(40, dtype=F32)
    trained = []
    for seed, threads in ((1, 1), (1, 1), (1, 2), (2, 1)):
        rule = make((12, 9, 4), dtype=F32, seed=seed, threads=threads)
        rule.present(x[:25], y[:25])
        rule.present(x[25:], y[25:])
        trained.append((rule.network.W1.detach().clone(), rule.predict_spiking(x, seed=5)))
    for again in trained[1:3]:
        assert torch.equal(again[0], trained[0][0])
        assert torch.equal(again[1], trained[0][1])
    assert not torch.equal(trained[3][0], trained[0][0])
    assert torch.equal(rule.predict_spiking(x[:3], seed=5), trained[3][1][:3])  # an image's spikes are its own
    assert not torch.equal(rule.predict_spiking(x, seed=6), trained[3][1])


def test_threads_do_not_meet_in_a_test_of_real_images():
    x = load("mnist").x_test[:1000]
    one, two = (make((784, 30, 10), dtype=F32, threads=threads).predict_spiking(x) for threads in (1, 2))
    assert torch.equal(one, two)


# ------------------------------------------------------------------------------------------------------------ state


def test_state_carries_over_and_matters():
    rules = [make((12, 9, 4)) for _ in range(2)]
    x, y = problem(2)
    for rule in rules:
        rule.present(x[:1], y[:1])
    rules[0].reset()
    V = [rule._ready().state for rule in rules]
    assert not V[0].soma[1].any()
    assert V[1].soma[1].any()
    assert V[1].spikes[0].any()
    for rule in rules:
        rule.present(x[1:], y[1:])
    # The soma forgets within the 30 ms that are dropped: it is the spikes drawn along its way that differ.
    short = SegregatedParameters(settle=2.0, phase=12.0)
    rules = [make((12, 9, 4), short) for _ in range(2)]
    for rule in rules:
        rule.present(x[:1], y[:1])
    rules[0].reset()
    changes = [rule.present(x[1:], y[1:]).scores for rule in rules]
    assert (changes[0] - changes[1]).abs().max() > 0.1


def test_tests_and_questions_leave_the_training_state_alone():
    rules = [make((12, 9, 4)) for _ in range(2)]
    x, y = problem(6)
    for rule in rules:
        rule.present(x, y)
    rules[0].predict_spiking(x)
    first, second = gradients(rules[0], x, y), gradients(rules[0], x, y)
    assert all(torch.equal(first[l], second[l]) for l in first)
    evaluate(rules[0], x, y)
    for rule in rules:
        rule.present(x, y)
    assert torch.equal(rules[0].network.W1, rules[1].network.W1)
    simulation = rules[0].simulation()
    simulation.example(x[0].numpy(), 0)
    kept = copy.deepcopy(simulation.state)
    simulation.test(x[0].numpy())
    assert furthest(simulation.state.soma + simulation.state.spikes, kept.soma + kept.spikes) == 0


@pytest.mark.parametrize("changes", [{}, {"plateau_sd": 3.0, "feedback": "learned"}])
def test_a_saved_training_is_taken_up_to_the_last_bit(changes):
    c = SegregatedParameters(**changes)
    x, y = problem(30, dtype=F32)
    rule = make((12, 9, 4), c, F32)
    rule.present(x[:10], y[:10])
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    other = make((12, 9, 4), c, F32, seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(rule)
    for each in (rule, other, twin):
        each.present(x[10:], y[10:])
        assert torch.equal(each.network.W1, rule.network.W1)
        assert torch.equal(each.direct_feedback(1), rule.direct_feedback(1))
    assert twin.network.W1.data_ptr() != rule.network.W1.data_ptr()


def test_memory_stays_flat():
    rule = make((12, 9, 4), dtype=F32)
    x, y = problem(500, dtype=F32)
    for _ in range(4):
        rule.present(x, y)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        rule.present(x, y)
        rule.predict_spiking(x[:100])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


# --------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("engine", ["auto", "readable"])
def test_gradients_are_what_learning_does(engine):
    rule = make((12, 9, 4), engine=engine)
    x, y = problem(3)
    rule.present(x, y)
    asked = copy.deepcopy(rule)
    assigned = gradients(asked, x[:1], y[:1])
    before = weights(rule)
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=99.0)
    optimizer.param_groups[1]["lr"] = 0.05
    rule.learn(x[:1], y[:1], optimizer)
    for layer, eta in ((1, 0.21), (2, 0.05)):
        change = weights(rule)[0][layer - 1] - before[0][layer - 1]
        np.testing.assert_allclose(change, -eta * assigned[layer].numpy(), atol=1e-13)
        assert np.abs(change).max() > 1e-4


def test_in_the_rate_limit_the_output_follows_the_gradient_of_its_own_loss():
    rule = make((12, 9, 20, 4), SegregatedParameters.rate_limit())
    x, y = problem(8)
    own = gradients(rule, x, y)
    true = true_gradients(rule, x, y)
    torch.testing.assert_close(own[3], rule.constants.P_out * true[3], atol=1e-12, rtol=0)
    assert angle(own[1], true[1]) > 5  # random feedback is not backprop …
    simulation = rule.simulation()
    expected = [simulation.example(one.numpy(), int(label), learn=False) for one, label in zip(x, y, strict=True)]
    mean = np.mean([np.outer(o.E[0], o.psp[0]) for o in expected], axis=0) * rule.constants.P_hidden
    np.testing.assert_allclose(own[1].numpy(), mean, atol=1e-12)


@pytest.mark.parametrize("constants", [SegregatedParameters(), SegregatedParameters.rate_limit()])
def test_errors_are_those_of_the_gradients_and_leave_no_trace(constants):
    rule = make((12, 9, 20, 4), constants)
    x, y = problem(6)
    rule.present(x, y)
    before = weights(rule)
    errors, assigned = rule.errors(x, y), gradients(rule, x, y)
    assert [e.shape for e in errors.values()] == [(6, 9), (6, 20), (6, 4)]
    assert all(torch.equal(rule.errors(x, y)[l], errors[l]) for l in errors)
    for layer in errors:  # biases have no presynaptic side
        P = constants.P_out if layer == 3 else constants.P_hidden
        rule.assign_gradients(x, y)
        assert assigned[layer].abs().max() > 0
        if constants.mode == "rate":
            torch.testing.assert_close(rule.network.bias(layer).grad, P * errors[layer].mean(0))
    assert furthest(before[0], weights(rule)[0]) == 0
    if constants.mode == "rate":
        angles = error_angles(rule, x, y)
        assert angles[3] < 1e-5  # the output has the gradient of its own loss, example by example
        assert angles[1] > 5
        same = same_spikes_angles(rule, x, y)
        assert same == {1: pytest.approx(angles[1], abs=1e-6), 2: pytest.approx(angles[2], abs=1e-6)}


def test_angles_of_the_same_spikes_are_those_of_the_readable_simulation():
    rule = make((12, 9, 20, 4), engine="readable")
    x, y = problem(4)
    angles, simulation = same_spikes_angles(rule, x, y), rule.simulation()
    expected = {1: [], 2: []}
    for one, label in zip(x.numpy(), y.tolist(), strict=True):
        o = simulation.example(one, label, learn=False)
        delta = o.E[2]
        for layer in (2, 1):
            share = 1 / (1 + np.exp(-o.soma[layer - 1]))
            delta = (simulation.W[layer].T @ delta) * share * (1 - share)
            cosine = o.E[layer - 1] @ delta / np.linalg.norm(o.E[layer - 1]) / np.linalg.norm(delta)
            expected[layer].append(np.degrees(np.arccos(cosine)))
    assert angles == {l: pytest.approx(np.mean(a), abs=1e-6) for l, a in expected.items()}


def test_it_learns_shipped_digits():
    data = load("mnist")
    train, test = (data.x_train[:3000], data.y_train[:3000]), (data.x_test[:500], data.y_test[:500])
    rates = {}
    for c in (SegregatedParameters(), SegregatedParameters.rate_limit()):
        rule = SegregatedCompartments(RateNetwork((784, 100, 10), c))
        history = fit(rule, train, test, epochs=2)
        rates[c.mode] = history.last("accuracy")
        assert history.curve("loss")[1][-1] < history.curve("loss")[1][0]
        if c.mode == "spiking":
            spiking = (rule.predict_spiking(test[0]).argmax(1) == test[1]).float().mean().item()
            assert spiking == pytest.approx(rates["spiking"], abs=0.07)  # the rate limit stands for the spikes
    assert min(rates.values()) > 0.65


def test_feedback_weights_are_what_the_options_say():
    sizes = (12, 9, 20, 4)
    dense, sparse = make(sizes), make(sizes, SegregatedParameters(feedback_share=0.2))
    for layer in (1, 2):
        Y, Z = dense.direct_feedback(layer), sparse.direct_feedback(layer)
        mean, half_width = initial_range(sizes[layer], 0.2)
        assert ((Y - mean).abs() <= half_width).all()
        assert (Z != 0).sum() == round(0.2 * Z.numel())
        torch.testing.assert_close(Z[Z != 0], 5 * Y[Z != 0])
    symmetric = make(sizes, SegregatedParameters(feedback="symmetric"))
    x, y = problem(5)
    for learned in range(2):
        W2, W3 = symmetric.network.W2.detach(), symmetric.network.W3.detach()
        # Set when an example begins, so after learning they are those that the last example saw.
        if learned:
            symmetric.present(x, y, (0.0, 0.0, 0.0))
        torch.testing.assert_close(symmetric.direct_feedback(2), W3.T)
        torch.testing.assert_close(symmetric.direct_feedback(1), W2.T @ W3.T)
        symmetric.present(x, y)
    assert torch.equal(make((12, 9, 4)).feedback(2), make((12, 9, 4)).direct_feedback(1))
    assert torch.equal(dense.feedback(2), dense.direct_feedback(1))
    torch.testing.assert_close(dense.forward_path(2), dense.network.W3.detach() @ dense.network.W2.detach())
    with pytest.raises(ValueError, match="layer must be a whole number from 2 to 3, not 1"):
        dense.feedback(1)


def test_jacobian_condition_is_that_of_the_maps_it_names():
    rule = make((12, 9, 4))
    c, (x, _) = rule.constants, problem(1)
    scores = rule(x).detach()
    W, b, Y = rule.network.W2.detach(), rule.network.b2.detach(), rule.direct_feedback(1)
    hidden = torch.linalg.lstsq(W, scores[0] / c.k_d - b).solution  # some PSP that gives these voltages
    J_beta = torch.autograd.functional.jacobian(lambda h: c.phi_max * torch.sigmoid(c.k_d * (W @ h + b)), hidden)
    J_gamma = torch.autograd.functional.jacobian(lambda o: torch.sigmoid(Y @ o), c.phi_max * scores[0].sigmoid())
    A = torch.eye(4, dtype=F64) - J_beta @ J_gamma
    assert rule.jacobian_condition(scores) == pytest.approx(torch.linalg.eigvalsh(A.T @ A).max().item())
    with torch.no_grad():  # feedback that undoes what the output weights do meets the condition
        Y.copy_(1e-4 * torch.linalg.pinv(J_beta))
    assert rule.jacobian_condition(scores) == pytest.approx((1 - 1e-4 / 4) ** 2, abs=1e-6)
    with pytest.raises(ValueError, match="hidden layer"):
        make((12, 4)).jacobian_condition(scores)


def test_bad_input_is_refused():
    rule, (x, y) = make((12, 9, 4)), problem(3)
    for bad, said in (
        (x + 1, "must be in \\[0, 1\\]"),
        (x - 1, "must be in \\[0, 1\\]"),
        (x.where(x > 0.5, torch.nan), "holds nan"),
        (x[:, :5], "takes \\(batch ≥ 1, 12\\)"),
        (x.float(), "the weights are torch.float64"),
    ):
        for call in (rule, rule.predict_spiking, lambda bad: rule.present(bad, y),
                     lambda bad: rule.assign_gradients(bad, y)):
            with pytest.raises(ValueError, match=said):
                call(bad)
    for labels, said in ((y + 4, "outside 0 … 3"), (y - 9, "outside 0 … 3"), (y.double(), "int64"), (y[:2], "shape")):
        with pytest.raises(ValueError, match=said):
            rule.present(x, labels)
    with pytest.raises(ValueError, match=r"test of 30.0 ms is too short"):
        rule.predict_spiking(x, 30.0)
    with pytest.raises(ValueError, match="one rate for each of 2 layers"):
        rule.present(x, y, (0.1,))
    with pytest.raises(ValueError, match="one rate for each of 2 layers"):
        RateNetwork((12, 9, 4), SegregatedParameters(eta=(0.1,)))
    with pytest.raises(ValueError, match="input and an output"):
        RateNetwork((12,))
    with pytest.raises(ValueError, match="positive whole number"):
        RateNetwork((12, 0, 4))
    with pytest.raises(TypeError, match="RateNetwork"):
        SegregatedCompartments(MLP((12, 9, 4)))
    with pytest.raises(ValueError, match="unknown engine 'fast'; choose one of"):
        make((12, 9, 4), engine="fast")
    with pytest.raises(ValueError, match="threads"):
        make((12, 9, 4), threads=0)
    with pytest.raises(ValueError, match="rate mode"):
        make((12, 9, 4), SegregatedParameters.rate_limit()).predict_spiking(x)
    simulation = rule.simulation()
    with pytest.raises(ValueError, match="takes \\(12,\\)"):
        simulation.example(np.zeros(3), 0)
    with pytest.raises(ValueError, match="averaging window"):
        simulation.example(np.zeros(12), 0, lengths=(10, 50))
    with pytest.raises(ValueError, match="spikes to replay"):
        simulation.example(np.zeros(12), 0, lengths=(50, 50), spikes=[np.zeros((3, 3))])
    with pytest.raises(ValueError, match="shapes"):
        Simulation([np.ones((4, 12))], [np.ones(3)], [])


def test_weights_are_not_held_one_by_one_and_a_layer_has_one_rate():
    rule, (x, y) = make((12, 9, 4)), problem(3)
    groups = rule.parameter_groups()
    unequal = [{"params": [rule.network.W1], "lr": 0.1}, {"params": [rule.network.b1], "lr": 0.2}]
    with pytest.raises(ValueError, match=r"W1 and b1 learn at one rate, not at 0\.1 and 0\.2"):
        rule.learn(x, y, torch.optim.SGD([*unequal, groups[1]]))
    with pytest.raises(ValueError, match=r"W2 and b2 learn at one rate, not at 0\.1 and 0\.0"):
        rule.learn(x, y, torch.optim.SGD([groups[0], {"params": [rule.network.W2], "lr": 0.1}]))
    optimizer, before = torch.optim.SGD(groups), weights(rule)[0]
    rule.network.W2.requires_grad_(False)
    rule.network.b1.requires_grad_(False)
    for call in (rule.parameter_groups, lambda: rule.learn(x, y, optimizer), lambda: fit(rule, (x, y))):
        with pytest.raises(ValueError, match="b1, W2 cannot be held one by one; set the eta of the layer to 0"):
            call()
    assert furthest(weights(rule)[0], before) == 0


def test_divergence_is_reported():
    rule, (x, y) = make((12, 9, 4)), problem(20)
    with torch.no_grad():
        rule.network.W1[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="diverged"):
        rule.present(x, y)
