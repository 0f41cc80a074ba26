"""Microcircuits: hand-worked cells pin the dynamics, the dynamics pin the steady state, a version in NumPy and autograd
pin the rule that learns by it."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import post_signals

from bioplaus_lite.data import load
from bioplaus_lite.measures import (
    angle,
    backprop_errors,
    error_angles,
    gradients,
    true_gradients,
    update_angles,
    weight_angles,
)
from bioplaus_lite.models.microcircuits import (
    MicrocircuitParameters,
    PyramidalNetwork,
    Simulation,
    compartments,
    random_weights,
    self_predicting,
    step,
    teacher_regression,
)
from bioplaus_lite.models.microcircuits.dynamics import REGRESSION, Weights
from bioplaus_lite.networks import CNN, MLP
from bioplaus_lite.rules.feedback_alignment import FeedbackAlignment
from bioplaus_lite.rules.microcircuits import Microcircuits, rate_change
from bioplaus_lite.training import fit

F32, F64 = torch.float32, torch.float64
SIZES = (7, 6, 5, 8, 4)
DEPTHS = [(7, 4), (7, 6, 4), (7, 6, 5, 4), SIZES, (7, 6, 5, 8, 6, 4)]
KINDS = {
    "fixed": {},
    "symmetric": {"feedback": "symmetric"},
    "learned": {"feedback": "learned"},
    "interneurons": {"lateral": "interneurons", "by_circuit": True},
    "lateral": {"lateral": "learned"},
    "all": {"feedback": "learned", "lateral": "learned"},
    "convex": {"mixing": "convex"},
}


def make(kind="fixed", sizes=SIZES, *, width=0.6, dtype=F64, network_seed=0, biased=True, **options):
    """A rule whose biases are not zero, so that a forgotten one shows."""
    network = PyramidalNetwork(sizes, width=width, dtype=dtype, seed=network_seed)
    if biased:
        for layer in range(1, network.depth + 1):
            copy_into(network.bias(layer), torch.linspace(-0.4, 0.5, sizes[layer]))
    rule = Microcircuits(network, **KINDS[kind], **options)
    if biased and rule.lateral != "self_predicting":
        for k in rule.circuits:
            copy_into(rule.interneuron_weights(k)[1], torch.linspace(0.3, -0.2, sizes[k + 1]))
    return rule


def problem(dtype=F64, n=12, size=7, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, generator=g, dtype=F64).to(dtype)
    return x, torch.randint(classes, (n,), generator=g)


def copy_into(parameter, value):
    with torch.no_grad():
        parameter.copy_(value)


def held(rule, x, y):
    """What credit assignment is given: the voltages of the pass up, and the error of the output's voltage."""
    with torch.no_grad():
        forward = rule.run_up(x)
        return forward, forward.basal[-1] - rule.target_voltages(y, rule.network.sizes[-1])


def slope(lams, values):
    return np.polyfit(np.log(lams), np.log(values), 1)[0]


# ---------------------------------------------------------------------------------------------------- the constants


def test_constants_are_those_of_the_paper():
    c = MicrocircuitParameters()
    assert (c.g_l, c.g_B, c.g_D, c.g_A, c.g_som, c.tau_w, c.tau_0, c.dt) == (0.1, 1.0, 1.0, 0.8, 0.8, 30.0, 3.0, 0.1)
    assert c.attenuation(False) == pytest.approx(1 / 1.9) and c.attenuation(True) == pytest.approx(1 / 1.1)
    assert c.attenuation_I == pytest.approx(1 / 1.1)
    assert c.lambda_A == c.lambda_I == c.lambda_out == pytest.approx(0.8 / 1.9)
    assert c.etas(2) == (0.0011875, 0.0005) and c.replace(eta_up=0.1).etas(3) == (0.1,) * 3
    assert c.phi(np.array([3.0, 103.0])) == pytest.approx([0.1 * np.log(2), 10.0])
    logistic = c.replace(transfer="logistic", gamma=2.0, beta=3.0, theta=1.0)
    assert logistic.phi(np.array([1.0, 2.0])) == pytest.approx([1.0, 2 / (1 + np.exp(-3))])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"g_B": 0.0}, "g_B must be above 0, not 0.0"),
        ({"g_A": -0.1}, "g_A must be at least 0, not -0.1"),
        ({"dt": 0.6}, "dt = 0.6 ms is too long a step .* below 0.526316 ms"),
        ({"tau_0": 0.05}, "below 0.05 ms"),
        ({"pattern": 0.05}, "at least one step of 0.1 ms, not 0.05"),
        ({"theta": float("nan")}, "theta must be a finite number, not nan"),
        ({"transfer": "relu"}, "transfer must be one of soft_relu, logistic, not 'relu'"),
        ({"eta_up": (0.1, -0.1)}, "eta_up must be at least 0, not -0.1"),
        ({"noise": True}, "noise must be a finite number"),
    ],
)
def test_impossible_constants_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        MicrocircuitParameters(**changes)


# ----------------------------------------------------------------------------------------------------- the dynamics


def test_a_step_is_that_of_the_equations():
    c = MicrocircuitParameters(
        g_l=0.15, g_B=0.9, g_A=0.7, g_D=1.1, g_som=0.6, eta_up=(0.3, 0.4), eta_IP=0.5, eta_PI=0.6, eta_down=0.7,
        noise=0.2, beta=0.8, theta=0.1,
    )  # fmt: skip
    one = [np.full((1, 1), w) for w in (0.5, -0.8, 1.2, 0.9, -0.7)]
    simulation = Simulation(Weights(tuple(one[:2]), *((w,) for w in one[2:])), c)
    given = [np.full((1, 1), v) for v in (0.3, 0.6, -0.4, 0.8, 0.2)]
    change = Weights(
        *(tuple(np.full((1, 1), 0.01 * i) for i in range(n)) for n in (2, 1, 1, 1)),
    )
    state = simulation.state._replace(
        x=given[0], u=(given[1], given[2]), u_I=(given[3],), target=given[4], change=change
    )
    before = copy.deepcopy(state)
    xi = [np.full((1, 1), z) for z in (0.5, -1.0, 2.0)]
    after = step(state, np.full((1, 1), 0.9), np.full((1, 1), 1.5), c, xi)

    def phi(u):
        return 0.1 * np.log(1 + np.exp(0.8 * (u - 0.1)))

    x, u1, u2, uI, t = 0.3, 0.6, -0.4, 0.8, 0.2
    vB1, vB2, vI = 0.5 * x, -0.8 * phi(u1), 0.9 * phi(u1)
    vA = 1.2 * phi(u2) - 0.7 * phi(uI)
    white = 0.2 * np.sqrt(0.1)
    expected = {
        "u1": u1 + 0.1 * (-0.15 * u1 + 0.9 * (vB1 - u1) + 0.7 * (vA - u1)) + white * 0.5,
        "u2": u2 + 0.1 * (-0.15 * u2 + 0.9 * (vB2 - u2) + 0.6 * (t - u2)) - white,
        "uI": uI + 0.1 * (-0.15 * uI + 1.1 * (vI - uI) + 0.6 * (u2 - uI)) + white * 2,
        "x": x + 0.1 / 3 * (0.9 - x),
        "t": t + 0.1 / 3 * (1.5 - t),
    }
    found = dict(zip(expected, (*after.u, *after.u_I, after.x, after.target), strict=True))
    assert {k: v.item() for k, v in found.items()} == {k: pytest.approx(v, abs=1e-15) for k, v in expected.items()}
    products = [
        (0.0, (phi(u1) - phi(0.9 / 1.75 * vB1)) * x, 0.5, 0.3),
        (0.01, (phi(u2) - phi(0.9 / 1.05 * vB2)) * phi(u1), -0.8, 0.4),
        (0.0, (phi(u1) - phi(1.2 * phi(u2))) * phi(u2), 1.2, 0.7),
        (0.0, (phi(uI) - phi(1.1 / 1.25 * vI)) * phi(u1), 0.9, 0.5),
        (0.0, -vA * phi(uI), -0.7, 0.6),
    ]
    moved = [w for kind in after.weights for w in kind]
    for (old, product, w, eta), now in zip(products, moved, strict=True):
        new = old + 0.1 / 30 * (product - old)
        assert now.item() == pytest.approx(w + 0.1 * eta * new, abs=1e-15)
    for a, b in zip(state[:2] + state.u + state.u_I, before[:2] + before.u + before.u_I, strict=True):
        np.testing.assert_array_equal(a, b)  # a step changes nothing it was given
    for a, b in zip(
        itertools.chain(*state.weights, *state.change), itertools.chain(*before.weights, *before.change), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_copies_of_a_batch_live_apart_and_add_up_what_they_learn():
    c = MicrocircuitParameters(noise=0.0, eta_down=0.001, theta=0.0)
    weights = random_weights((4, 3, 2), up=2.0, seed=1)
    x, target = np.random.default_rng(0).random((3, 4)), np.random.default_rng(1).random((3, 2))
    together = Simulation(weights, c, batch=3)
    together.record(x, target, duration=0.5, every=5)
    alone = [Simulation(weights, c) for _ in x]
    for one, a, t in zip(alone, x, target, strict=True):
        one.record(a, t, duration=0.5, every=5)
    for l in range(2):
        np.testing.assert_allclose(together.state.u[l], np.concatenate([s.state.u[l] for s in alone]), atol=1e-7)
    for kind, start in enumerate(weights):
        for i, w in enumerate(start):
            total = sum(s.weights[kind][i] - w for s in alone)
            assert np.abs(total).max() > 0
            np.testing.assert_allclose(together.weights[kind][i] - w, total, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("sizes", DEPTHS[1:])
def test_the_self_predicting_state_is_silent_without_a_target_and_speaks_with_one(sizes):
    c = MicrocircuitParameters(theta=0.0, gamma=1.0, eta_up=0.1)
    simulation = Simulation(self_predicting(random_weights(sizes, seed=1), c), c)
    x = np.random.default_rng(0).random((6, 7))
    kept = copy.deepcopy(simulation.state)
    state, v = simulation.settle(x)
    assert max(np.abs(a).max() for a in v.v_A) < 1e-12 < 0.1 < min(np.abs(a).max() for a in v.top_down)
    for u, hat in zip(state.u, v.v_B_hat, strict=True):
        np.testing.assert_allclose(u, hat, atol=1e-12)
    for inter, above in zip(state.u_I, state.u[1:], strict=True):
        np.testing.assert_allclose(inter, above, atol=1e-12)
    _, nudged = simulation.settle(x, v.v_B_hat[-1] + 1)
    assert min(np.abs(a).max() for a in nudged.v_A) > 1e-3
    for a, b in zip(itertools.chain(*simulation.weights), itertools.chain(*kept.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(simulation.state.u[0], kept.u[0])


@pytest.mark.parametrize("mixing", [0.001, 0.8])
def test_the_apical_voltage_is_the_error_of_the_output_sent_down(mixing):
    c = MicrocircuitParameters(theta=0.0, gamma=1.0, g_A=mixing, g_som=mixing)
    simulation = Simulation(self_predicting(random_weights((7, 9, 4), seed=1), c), c)
    x, target = np.random.default_rng(0).random((40, 7)), np.random.default_rng(1).normal(size=(40, 4))
    _, v = simulation.settle(x)
    rest = v.v_B_hat[-1]
    error = (target - rest) / (1 + np.exp(-rest))  # the slope of the soft ReLU is logistic
    sent = error @ simulation.weights.down[0].T
    apical = simulation.settle(x, target)[1].v_A[0]
    gain = (apical * sent).sum() / (sent**2).sum()
    explained = 1 - ((apical - gain * sent) ** 2).sum() / (apical**2).sum()
    lam = c.lambda_I
    if mixing < 0.1:
        assert explained > 0.99999
        assert gain == pytest.approx(lam * (1 - lam), rel=1e-2)
    else:
        assert explained > 0.9


def test_the_self_predicting_state_is_learned_from_random_patterns():
    c = MicrocircuitParameters(
        dt=0.25, pattern=50.0, theta=0.0, gamma=1.0, noise=0.05, eta_up=0.0, eta_IP=0.02, eta_PI=0.01
    )
    weights = random_weights((8, 5, 3), up=(3.0, 1.0), seed=1)
    simulation = Simulation(weights, c, batch=20, seed=3)
    progress = simulation.run(np.random.default_rng(0).random((20 * 60, 8)))
    assert progress.apical[0] > 0.5 and progress.apical[-5:].mean() < 0.05
    assert progress.IP[0] > 0.5 and progress.IP[-1] < 0.1
    assert progress.PI[0] > 0.5 and progress.PI[-1] < 0.15
    for kind in ("up", "down"):
        for a, b in zip(getattr(simulation.weights, kind), getattr(weights, kind), strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isnan(progress.loss).all() and list(progress.patterns[:2]) == [20, 40]


def test_a_teacher_is_learned_with_all_weights_plastic_at_all_times():
    result = teacher_regression(patterns=480)
    assert result.before > 2 and result.after < 0.7
    assert result.progress.loss[-5:].mean() < 0.4 * result.progress.loss[:5].mean()
    # With the hidden layer held it learns less: errors at the apical dendrites are of use.
    held = teacher_regression(REGRESSION.replace(eta_up=(0.0, REGRESSION.eta_up[1])), patterns=480)
    assert held.after > 1.2 * result.after
    a, b, c = (teacher_regression(patterns=32, seed=seed).after for seed in (3, 3, 4))
    assert a == b != c


def test_a_recording_has_every_voltage():
    c = MicrocircuitParameters(theta=0.0)
    simulation = Simulation(self_predicting(random_weights((4, 3, 2)), c), c, batch=2)
    x = np.random.default_rng(0).random((2, 4))
    r = simulation.record(x, duration=20, every=4)
    assert r.t[0] == pytest.approx(0.4) and r.t[-1] == pytest.approx(20) and len(r.t) == 50
    assert [v.shape for v in (*r.u, *r.v_B_hat)] == [(50, 2, 3), (50, 2, 2)] * 2
    assert [v[0].shape for v in (r.u_I, r.v_I_hat, r.top_down, r.lateral, r.v_A)] == [(50, 2, 2)] * 2 + [(50, 2, 3)] * 3
    np.testing.assert_allclose(r.v_A[0], r.top_down[0] + r.lateral[0], atol=1e-15)
    np.testing.assert_array_equal(r.u[1][-1], simulation.state.u[1])
    np.testing.assert_array_equal(r.v_A[0][-1], compartments(simulation.state, c).v_A[0])
    np.testing.assert_array_equal(r.target, r.u[1])  # without a target it follows the output
    again = Simulation(self_predicting(random_weights((4, 3, 2)), c), c, batch=2)
    np.testing.assert_array_equal(again.record(x, duration=20, every=4).u[0], r.u[0])


def test_impossible_simulations_are_refused():
    weights, x = random_weights((4, 3, 2)), np.ones((2, 4))
    with pytest.raises(ValueError, match="weights have shapes"):
        Simulation(weights._replace(PI=weights.IP))
    with pytest.raises(ValueError, match="batch must be a positive whole number, not 0"):
        Simulation(weights, batch=0)
    with pytest.raises(ValueError, match="one rate for each of 3 layers, not 2"):
        Simulation(random_weights((4, 3, 3, 2)))
    simulation = Simulation(weights, batch=2)
    for bad, target, said in [
        (np.ones((2, 3)), None, r"x has shape \(2, 3\), this network takes \(patterns ≥ 1, 4\)"),
        (x, np.ones((2, 4)), r"target has shape \(2, 4\)"),
        (x, np.ones((1, 2)), "2 patterns and 1 targets"),
        (x * np.nan, None, "x holds nan"),
        (np.ones((3, 4)), None, "must be a multiple of batch = 2, not 3"),
    ]:
        with pytest.raises(ValueError, match=said):
            simulation.run(bad, target)
    with pytest.raises(ValueError, match="x holds 1 patterns; this simulation has 2 copies"):
        simulation.record(x[:1], duration=1)
    for every in (0, 11, 2.5):
        with pytest.raises(
            ValueError, match=f"every must be a whole number from 1 to the 10 steps of 1 ms, not {every}"
        ):
            simulation.record(x, duration=1, every=every)
    wild = Simulation(weights, MicrocircuitParameters(theta=0.0, eta_PI=1e200, eta_up=0.1), batch=2)
    before = wild.state
    for call in (wild.run, lambda x: wild.record(x, duration=100)):
        with pytest.raises(FloatingPointError, match="diverged"):
            call(x)
    assert wild.state is before


# --------------------------------------------------------------------------------- the steady state of the dynamics


def as_simulation(rule) -> Simulation:
    """The same network in continuous time; both take their thresholds at zero."""
    G = 1.1 * rule.lam / (1 - rule.lam)
    c = MicrocircuitParameters(transfer="logistic", gamma=1.0, theta=0.0, g_A=G, g_som=G, eta_up=0.0, dt=0.2)
    L = rule.network.depth
    W = [rule.network.weight(l).detach().numpy() for l in range(1, L + 1)]
    circuits = [[w.detach().numpy() for w in rule.interneuron_weights(k)] for k in rule.circuits]
    return Simulation(
        Weights(
            tuple(w / c.attenuation(l == L) for l, w in enumerate(W, 1)),
            tuple(rule.feedback(k + 1).detach().numpy() for k in rule.circuits),
            tuple(W_IP / c.attenuation_I for W_IP, _, _ in circuits),
            tuple(W_PI for _, _, W_PI in circuits),
        ),
        c,
    )


@pytest.mark.parametrize("kind", ["fixed", "symmetric", "all"])
@pytest.mark.parametrize("sizes", [(7, 6, 4), SIZES])
def test_the_steady_state_is_where_the_dynamics_come_to_rest(sizes, kind):
    rule, (x, y) = make(kind, sizes, biased=False, lam=0.3), problem(n=5)
    simulation = as_simulation(rule)
    for labels in (None, y):
        target = None if y is None or labels is None else rule.target_voltages(y, 4).numpy()
        state, v = simulation.settle(x.numpy(), target, duration=120.0)
        found = rule.steady_state(x, labels, sweeps=100)
        expected = {
            **{("basal", l): a for l, a in enumerate(v.v_B_hat, 1)},
            **{("predicted", k): a for k, a in enumerate(v.v_I_hat, 1)},
            **{("soma", l): a for l, a in enumerate(state.u, 1)},
            **{("interneuron", k): a for k, a in enumerate(state.u_I, 1)},
            **{("top_down", k): a for k, a in enumerate(v.top_down, 1)},
            **{("lateral", k): a for k, a in enumerate(v.lateral, 1)},
            **{("apical", k): a for k, a in enumerate(v.v_A, 1)},
        }
        assert found.keys() == expected.keys()
        for name, value in found.items():
            np.testing.assert_allclose(value.numpy(), expected[name], atol=1e-10, err_msg=str(name))
    # One sweep, as the rule takes it, is the same without a target, and near it with a weak one.
    once = rule.steady_state(x)
    if kind != "all":
        assert all((once[name] - v).abs().max() < 1e-12 for name, v in rule.steady_state(x, sweeps=100).items())
    top, misses = ("apical", rule.network.depth - 1), []
    for lam in (1e-1, 1e-2):
        rule.lam = lam
        once, often = rule.steady_state(x, y)[top], rule.steady_state(x, y, sweeps=50)[top]
        rest = rule.steady_state(x)[top]  # lateral weights that are learned may not be silent
        misses.append(((once - often).norm() / (often - rest).norm()).item())
    if kind != "all":
        assert 1e-5 < misses[0] < 0.05 and misses[1] < 0.02 * misses[0], misses


def test_voltages_come_in_an_order_in_which_each_follows_from_those_before():
    rule, (x, y) = make(sizes=(7, 6, 5, 4)), problem()
    assert list(rule.steady_state(x, y)) == [
        ("basal", 1), ("basal", 2), ("basal", 3), ("predicted", 1), ("predicted", 2), ("soma", 3),
        ("interneuron", 2), ("top_down", 2), ("lateral", 2), ("apical", 2), ("soma", 2),
        ("interneuron", 1), ("top_down", 1), ("lateral", 1), ("apical", 1), ("soma", 1),
    ]  # fmt: skip
    assert list(rule.apical(x, y)) == [2, 1]
    with pytest.raises(ValueError, match="sweeps must be a positive whole number, not 0"):
        rule.steady_state(x, sweeps=0)


# --------------------------------------------------------------------------------------------------------- the rule


def sigma(v):
    return 1 / (1 + np.exp(-v))


def readable(rule, x, y):
    """The rule as its docstring has it, in NumPy: errors, and pseudo-gradients of what the circuits learn."""
    L, lam, B = rule.network.depth, rule.lam, len(x)
    W, b = ([of(l).detach().numpy() for l in range(1, L + 1)] for of in (rule.network.weight, rule.network.bias))
    down = {k: rule.feedback(k + 1).detach().numpy() for k in range(1, L)}
    IP, PI = {k: (W[k], b[k]) for k in down}, {k: -down[k] for k in down}
    if rule.lateral != "self_predicting":
        IP = {k: (getattr(rule, f"W_IP{k}").detach().numpy(), getattr(rule, f"c_IP{k}").detach().numpy()) for k in down}
    if rule.lateral == "learned":
        PI = {k: getattr(rule, f"W_PI{k}").detach().numpy() for k in down}
    r, v = [x.numpy()], {}
    for l in range(1, L + 1):
        v[l] = r[-1] @ W[l - 1].T + b[l - 1]
        r.append(sigma(v[l]))
    share = 1 - lam if rule.mixing == "convex" else 1.0
    rest = {l: share * v[l] if l < L else v[l] for l in v}
    target = np.full((B, len(b[-1])), np.log(0.1 / 0.9))
    target[np.arange(B), y.numpy()] = np.log(0.8 / 0.2)
    u, grads = {L: (1 - lam) * v[L] + lam * target}, {}
    for k in range(L - 1, 0, -1):
        v_I = r[k] @ IP[k][0].T + IP[k][1]
        u_I = (1 - lam) * v_I + lam * u[k + 1]
        v_A = sigma(u[k + 1]) @ down[k].T + sigma(u_I) @ PI[k].T
        u[k] = rest[k] + lam * v_A
        scale = lam * B * (lam ** (L - k) if rule.by_circuit else 1)
        grads[f"W_IP{k}"] = -(sigma(u_I) - sigma(v_I)).T @ r[k] / scale
        grads[f"c_IP{k}"] = -(sigma(u_I) - sigma(v_I)).sum(0) / scale
        grads[f"W_PI{k}"] = v_A.T @ sigma(u_I) / B
        grads[f"W_down{k}"] = -(sigma(u[k]) - sigma(sigma(u[k + 1]) @ down[k].T)).T @ sigma(u[k + 1]) / B
    errors = {l: -(sigma(u[l]) - sigma(rest[l])) / (B * lam ** (L - l + 1)) for l in u}
    return errors, {l: errors[l].T @ r[l - 1] for l in u}, {l: errors[l].sum(0) for l in u}, grads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", DEPTHS)
def test_errors_and_gradients_against_a_readable_version(sizes, kind):
    rule, (x, y) = make(kind, sizes, lam=0.3), problem()
    errors, dW, db, circuits = readable(rule, x, y)
    found = rule.errors(x, y)
    assert sorted(found) == list(range(1, len(sizes)))
    loss = rule.assign_gradients(x, y)
    torch.testing.assert_close(loss, F.cross_entropy(rule(x), y))
    for l in found:
        np.testing.assert_allclose(found[l].numpy(), errors[l], atol=1e-13)
        np.testing.assert_allclose(rule.network.weight(l).grad.numpy(), dW[l], atol=1e-12)
        np.testing.assert_allclose(rule.network.bias(l).grad.numpy(), db[l], atol=1e-12)
    for name, p in rule.named_parameters(recurse=False):
        assert p.grad.abs().max() > 1e-4
        np.testing.assert_allclose(p.grad.numpy(), circuits[name], atol=1e-12)


def test_the_short_way_is_the_way_through_the_interneurons():
    rule, (x, y) = make(lam=0.2), problem()
    forward, error = held(rule, x, y)
    with torch.no_grad():
        explicit = dict(rule._errors_of_rates(forward, rule.run_down(forward, error)))
        for l, delta in rule.layer_errors(forward, error):
            torch.testing.assert_close(delta, explicit[l], rtol=0, atol=1e-12)
            assert delta.abs().max() > 1e-3


def test_a_small_change_of_rate_keeps_its_digits():
    v, g = torch.linspace(-30, 30, 61, dtype=F64), torch.sigmoid
    for d in (-2.0, -0.1, 0.3, 5.0):
        torch.testing.assert_close(rate_change(g(v), torch.full_like(v, d)), g(v + d) - g(v), rtol=0, atol=1e-14)
    tiny = rate_change(g(v), torch.full_like(v, 1e-14))
    torch.testing.assert_close(tiny, g(v) * (1 - g(v)) * 1e-14, rtol=1e-12, atol=0)
    wild = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4])
    for dtype in (F32, F64):
        rates = torch.tensor([0.0, 1e-30, 0.5, 1 - 6e-8, 1.0], dtype=dtype).expand(5, 5)
        change = rate_change(rates, wild[:, None].to(dtype).expand(5, 5))
        assert ((change + rates >= 0) & (change + rates <= 1)).all()


@pytest.mark.parametrize("kind", ["fixed", "symmetric", "learned"])
@pytest.mark.parametrize("sizes", DEPTHS[1:])
def test_without_a_target_every_apical_dendrite_is_silent(sizes, kind):
    rule, (x, y) = make(kind, sizes), problem()
    apical = rule.apical(x)
    assert sorted(apical) == list(range(1, len(sizes) - 1))
    assert max(v.abs().max() for v in apical.values()) <= 1e-12
    assert min(v.abs().max() for v in rule.apical(x, y).values()) > 1e-8
    learned = make("lateral", sizes)
    assert min(v.abs().max() for v in learned.apical(x).values()) > 1e-2
    learned.set_self_predicting()
    assert max(v.abs().max() for v in learned.apical(x).values()) <= 1e-12


LAMS = (1e-1, 1e-2, 1e-3, 1e-4)


@pytest.mark.parametrize("measure", [update_angles, error_angles])
@pytest.mark.parametrize("sizes", [(7, 6, 4), SIZES])
def test_with_transposed_weights_the_angle_to_backprop_is_of_the_order_of_lambda(sizes, measure):
    x, y = problem()
    found = [measure(make("symmetric", sizes, lam=lam), x, y) for lam in LAMS]
    for l in found[0]:
        angles = [f[l] for f in found]
        assert slope(LAMS, angles) == pytest.approx(1, abs=0.1), (l, angles)
        assert 1e-5 < angles[-1] < 0.02


def test_in_the_limit_it_is_the_gradient_of_the_objective_in_size_too():
    rule, (x, y) = make("symmetric", lam=1e-9), problem()
    for own, true in (
        (rule.errors(x, y), backprop_errors(rule, x, y)),
        (gradients(rule, x, y), true_gradients(rule, x, y)),
    ):
        for l in true:
            torch.testing.assert_close(own[l], true[l], rtol=1e-6, atol=1e-10)


def test_with_random_weights_down_the_limit_is_feedback_alignment():
    x, y = problem()
    misses = []
    for lam in LAMS:
        rule = make(lam=lam)
        fa = FeedbackAlignment(rule.network)
        for l in range(2, rule.network.depth + 1):
            fa.feedback(l).copy_(rule.feedback(l))
        activities = [h.detach() for h in rule.network.activities(x)]
        scores = activities[-1].clone().requires_grad_()
        (output_error,) = torch.autograd.grad(rule.objective(scores, y), scores)
        own, expected = rule.errors(x, y), post_signals(fa, activities, output_error, y)
        misses.append([((own[l] - expected[l]).norm() / expected[l].norm()).item() for l in sorted(expected)])
        assert misses[-1][0] < 15 * lam
        angles = error_angles(rule, x, y)
        assert min(angles[l] for l in (1, 2, 3)) > 20  # … and not backpropagation
        assert rule.feedback(3).shape == rule.network.W3.T.shape
        assert all(60 < a < 120 for a in weight_angles(rule).values())
    for of_layer in np.array(misses).T:
        assert slope(LAMS, of_layer) == pytest.approx(1, abs=0.1)


def test_the_convex_reading_breaks_the_self_predicting_state():
    x, y = problem()
    for lam in LAMS[:3]:
        rule = make("convex", lam=lam)
        for k in range(1, 4):  # as with transposed weights
            copy_into(rule.feedback(k + 1), rule.network.weight(k + 1).T)
        apical = rule.apical(x)
        assert apical[3].abs().max() <= 1e-12
        assert min(apical[k].abs().max() for k in (1, 2)) > 1e-2 * lam
        angles = update_angles(rule, x, y)
        assert angles[4] < 100 * lam and angles[3] < 100 * lam
        assert min(angles[1], angles[2]) > 45


@pytest.mark.parametrize("targets", [(0.1, 0.8), (0.3, 0.6)])
def test_the_objective_is_a_relative_entropy_with_the_gradient_that_nudging_has(targets):
    rule, (_, y) = make(targets=targets), problem()
    scores = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    wanted = torch.full((12, 4), targets[0], dtype=F64)
    wanted[range(12), y] = targets[1]
    r = scores.sigmoid()
    expected = (r * (r / wanted).log() + (1 - r) * ((1 - r) / (1 - wanted)).log()).sum(1).mean()
    torch.testing.assert_close(rule.objective(scores, y), expected)
    assert rule.objective(wanted.logit(), y).abs() < 1e-12
    h, delta = 1e-5, r * (1 - r) * (scores - wanted.logit()) / 12
    for i, j in [(0, 0), (3, 2), (11, 3), (5, int(y[5]))]:
        d = torch.zeros_like(scores)
        d[i, j] = h
        numeric = (rule.objective(scores + d, y) - rule.objective(scores - d, y)) / (2 * h)
        assert numeric.item() == pytest.approx(delta[i, j].item(), abs=1e-9)


def test_finite_differences_of_the_objective_are_the_update():
    rule, (x, y) = make("symmetric", lam=1e-9), problem()
    assigned, h = gradients(rule, x, y), 1e-5
    for l in range(1, 5):
        w = rule.network.weight(l)
        for i, j in ((0, 0), (3, 4)):
            values = []
            for sign in (1, -1):
                copy_into(w[i, j], w[i, j] + sign * h)
                values.append(rule.objective(rule(x), y).item())
                copy_into(w[i, j], w[i, j] - sign * h)
            numeric = (values[0] - values[1]) / (2 * h)
            assert assigned[l][i, j].item() == pytest.approx(numeric, rel=1e-4, abs=1e-9)


# ---- Weight transport ----


@pytest.mark.parametrize("lesion", [2, 3, 4])
@pytest.mark.parametrize("kind", ["fixed", "symmetric", "learned", "interneurons", "lateral", "all"])
def test_weight_transport_is_in_symmetric_weights_and_nowhere_else_if_voltages_are_held(kind, lesion):
    rule, (x, y) = make(kind), problem()
    with torch.no_grad():
        forward, error = held(rule, x, y)
        before = dict(rule.layer_errors(forward, error))
        w = rule.network.weight(lesion)
        w.copy_(torch.randn(w.shape, generator=torch.Generator().manual_seed(5), dtype=w.dtype))
        after = dict(rule.layer_errors(forward, error))
    changed = [l for l in before if not torch.equal(before[l], after[l])]
    assert changed == (list(range(lesion - 1, 0, -1)) if kind == "symmetric" else [])


@pytest.mark.parametrize("kind", ["fixed", "interneurons", "lateral"])
def test_interneurons_that_are_set_copy_weights_and_those_that_learn_do_not(kind):
    rule, (x, y) = make(kind), problem()
    with torch.no_grad():
        forward, error = held(rule, x, y)
        before = dict(rule._errors_of_rates(forward, rule.run_down(forward, error)))
        copy_into(rule.network.W3, -rule.network.W3)
        predicted = [F.linear(forward.rates[k], *rule.interneuron_weights(k)[:2]) for k in rule.circuits]
        after = dict(rule._errors_of_rates(forward, rule.run_down(forward._replace(predicted=predicted), error)))
    changed = [l for l in before if not torch.allclose(before[l], after[l], rtol=0, atol=1e-12)]
    assert changed == ([2, 1] if kind == "fixed" else [])


# ---- Learning in the circuits ----


def test_learned_lateral_weights_come_to_predict_the_layer_above():
    rule = make("lateral", (7, 5, 5, 4), width=2.0, down_width=0.5)
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=0.1)
    before, silent = [p.detach().clone() for p in rule.network.parameters()], []
    for i in range(1500):
        x, _ = problem(n=50, seed=i)
        silent.append(rule.assign_without_target(4 * x).item())  # rates that vary show the weights in all directions
        optimizer.step()
        if i == 1000:
            optimizer.param_groups[1]["lr"] = optimizer.param_groups[2]["lr"] = 0.01
    assert all(torch.equal(p, q) for p, q in zip(rule.network.parameters(), before, strict=True))
    assert silent[0] > 0.05 and silent[-1] < 1e-5
    for k in rule.circuits:
        W_IP, c, W_PI = rule.interneuron_weights(k)
        assert angle(W_IP, rule.network.weight(k + 1)) < 5 and angle(W_PI, -rule.feedback(k + 1)) < 5
        torch.testing.assert_close(c, rule.network.bias(k + 1), rtol=0, atol=0.1)
    errors, reference = rule.errors(*problem()), make(sizes=(7, 5, 5, 4), width=2.0, down_width=0.5).errors(*problem())
    assert angle(errors[2], reference[2]) < 10


def test_interneurons_take_the_steps_of_the_cells_that_they_predict():
    """In the self-predicting state, to first order in λ: what keeps them there while the cells above learn."""
    off = []
    for lam in (1e-2, 1e-3):
        rule = make("interneurons", (7, 6, 5, 4), lam=lam, biased=False)
        rule.assign_gradients(*problem())
        pairs = [(rule.W_IP1, rule.network.W2), (rule.W_IP2, rule.network.W3), (rule.c_IP2, rule.network.b3)]
        off.append([((p.grad - q.grad).norm() / q.grad.norm()).item() for p, q in pairs])
        assert all(torch.equal(p, q) for p, q in pairs[:2])
    assert all(a < 0.05 and b < 0.15 * a for a, b in zip(*off, strict=True))


def test_without_a_target_the_circuits_gradients_are_those_of_a_silent_output():
    rule, (x, _) = make("all", lam=0.3), problem()
    rule.assign_gradients(*problem())
    mean = rule.assign_without_target(x)
    assert all(p.grad is None for p in rule.network.parameters())
    v = rule.steady_state(x)
    torch.testing.assert_close(
        mean, torch.cat([a for (name, _), a in v.items() if name == "apical"], 1).square().mean()
    )
    k = 3
    u_I, hat = v["interneuron", k].sigmoid(), v["predicted", k].sigmoid()
    torch.testing.assert_close(rule.W_IP3.grad, (hat - u_I).T @ v["basal", k].sigmoid() / (12 * 0.3))
    torch.testing.assert_close(rule.W_PI3.grad, v["apical", k].T @ u_I / 12)
    torch.testing.assert_close(v["soma", 4], v["basal", 4])
    with pytest.raises(ValueError, match="nothing learns without a target if feedback is 'fixed'"):
        make().assign_without_target(x)
    with pytest.raises(ValueError, match="in that state always"):
        make().set_self_predicting()


def test_learned_weights_down_come_to_predict_the_layer_below():
    rule = make("learned", (7, 6, 20, 4), width=1.0)
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.5)
    optimizer.param_groups[0]["lr"] = 0.0

    def miss():
        v = rule.steady_state(*problem(n=100))
        return [(v["top_down", k].sigmoid() - v["soma", k].sigmoid()).square().mean().item() for k in rule.circuits]

    before = miss()
    for i in range(300):
        rule.learn(*problem(n=20, seed=i), optimizer)
    assert all(after < 0.3 * first for after, first in zip(miss(), before, strict=True))


def test_the_parameters_that_learn_are_in_a_group_of_their_own():
    names = {kind: [n for n, _ in make(kind, (7, 6, 5, 4)).named_parameters(recurse=False)] for kind in KINDS}
    assert names["fixed"] == names["symmetric"] == names["convex"] == []
    assert names["learned"] == ["W_down1", "W_down2"]
    assert names["lateral"] == ["W_IP1", "c_IP1", "W_PI1", "W_IP2", "c_IP2", "W_PI2"]
    assert sorted(names["all"]) == sorted(names["learned"] + names["lateral"])
    assert names["interneurons"] == ["W_IP1", "c_IP1", "W_IP2", "c_IP2"]
    assert [(g["name"], len(g["params"])) for g in make("all", (7, 6, 4)).parameter_groups()] == [
        ("forward", 4), ("interneuron", 2), ("lateral", 1), ("feedback", 1),
    ]  # fmt: skip
    assert [g["name"] for g in make().parameter_groups()] == ["forward"]
    assert tuple(make().W_down1.shape) == (6, 5)
    assert make(down_width=0.2).W_down2.abs().max() <= 0.2 < make().W_down2.abs().max() <= 1


def test_sgd_takes_the_steps_of_the_model():
    rule, (x, y) = make(lam=0.2), problem()
    before, v = [rule.network.weight(l).detach().clone() for l in range(1, 5)], rule.steady_state(x, y)
    rule.learn(x, y, torch.optim.SGD(rule.parameter_groups(), lr=0.05))
    for l in range(1, 5):
        r = x if l == 1 else v["basal", l - 1].sigmoid()
        eta = 0.05 * 0.2 ** -(4 - l + 1)
        change = eta * (v["soma", l].sigmoid() - v["basal", l].sigmoid()).T @ r / 12
        torch.testing.assert_close(rule.network.weight(l) - before[l - 1], change, rtol=0, atol=1e-12)


def test_it_learns_shipped_digits():
    data = load("mnist")
    train, test = (data.x_train[:3000], data.y_train[:3000]), (data.x_test[:500], data.y_test[:500])
    for kind in ("fixed", "symmetric"):
        rule = Microcircuits(PyramidalNetwork((784, 100, 10)), **KINDS[kind])
        history = fit(rule, train, test, epochs=2, batch_size=10, optimizer=lambda g: torch.optim.SGD(g, lr=0.2))
        assert history.last("accuracy") > 0.8


# ---- State, randomness and bad input ----


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_mode_changes_nothing_but_gradients(kind):
    rule, (x, y) = make(kind).eval(), problem()
    before, answers = copy.deepcopy(rule.state_dict()), []
    for _ in range(2):
        rule.assign_gradients(x, y)
        answers.append({n: p.grad.clone() for n, p in rule.named_parameters()})
        rule.errors(x, y), rule.apical(x, y), rule.steady_state(x)
    assert all(torch.equal(before[k], v) for k, v in rule.state_dict().items())
    assert all(torch.equal(g, answers[1][n]) for n, g in answers[0].items())


@pytest.mark.parametrize("kind", ["fixed", "all"])
def test_a_state_dict_carries_the_rule(kind):
    a, b = make(kind, network_seed=1, seed=1), make(kind, network_seed=2, seed=2)
    assert not torch.equal(a.feedback(2), b.feedback(2))
    b.load_state_dict(a.state_dict())
    x, y = problem()
    assert all(torch.equal(e, b.errors(x, y)[l]) for l, e in a.errors(x, y).items())


@pytest.mark.parametrize("kind", ["fixed", "all"])
def test_seeds_decide_everything_and_the_global_generator_is_left_alone(kind):
    torch.manual_seed(0)
    state, trained = torch.get_rng_state(), []
    for seed in (4, 4, 5):
        rule = make(kind, seed=seed)
        optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.1)
        for _ in range(3):
            rule.learn(*problem(), optimizer)
        trained.append(torch.cat([v.flatten() for v in rule.state_dict().values()]))
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])
    assert torch.equal(state, torch.get_rng_state())


def test_the_network_starts_in_the_range_of_the_model():
    a, b = (PyramidalNetwork((50, 40, 10), dtype=dtype, seed=3) for dtype in (F32, F64))
    for l in (1, 2):
        assert 0.09 < a.weight(l).abs().max() <= 0.1 and not a.bias(l).any()
        assert torch.equal(a.weight(l), b.weight(l).float())
        assert a.half_width(l) == 0.1
    assert not torch.equal(a.W1, PyramidalNetwork((50, 40, 10), seed=4).W1)
    assert Microcircuits(MLP((5, 4, 3), activation="sigmoid")).errors(*problem(F32, size=5, classes=3)).keys() == {1, 2}


class TestBadInput:
    def test_constructors_name_the_value(self):
        with pytest.raises(TypeError, match="MLP, not a CNN"):
            Microcircuits(CNN((1, 8, 8), (4,), 3, activation="sigmoid"))
        with pytest.raises(TypeError, match="not Linear"):
            Microcircuits(torch.nn.Linear(3, 2))
        with pytest.raises(ValueError, match="logistic, activation 'sigmoid', not 'relu'"):
            Microcircuits(MLP((7, 6, 4)))
        network = PyramidalNetwork((7, 6, 4))
        for options, said in [
            ({"feedback": "random"}, "unknown feedback 'random'; choose one of fixed, symmetric, learned"),
            ({"lateral": "fixed"}, "unknown lateral 'fixed'; choose one of self_predicting, interneurons, learned"),
            ({"mixing": "linear"}, "unknown mixing 'linear'; choose one of attenuated, convex"),
            ({"lam": 0.0}, r"lam must be in \(0, 1\), not 0.0"),
            ({"lam": float("nan")}, r"lam must be in \(0, 1\), not nan"),
            ({"down_width": -1.0}, "down_width must be positive and finite, not -1.0"),
            ({"targets": (0.8, 0.1)}, r"0 < wrong < right < 1, not \(0.8, 0.1\)"),
            ({"targets": (0.0, 0.8)}, r"0 < wrong < right < 1"),
        ]:
            with pytest.raises(ValueError, match=said):
                Microcircuits(network, **options)
        with pytest.raises(ValueError, match="width must be positive and finite, not 0"):
            PyramidalNetwork((7, 6, 4), width=0)

    @pytest.mark.parametrize("kind", ["fixed", "all"])
    def test_a_refused_batch_leaves_no_trace(self, kind):
        rule, (x, y) = make(kind), problem()
        before = copy.deepcopy(rule.state_dict())
        infinite = x.clone()
        infinite[3, 2] = float("inf")
        for bad_x, bad_y, message in [
            (x[:, :5], y, r"\(12, 5\)"),
            (x, y + 4, "outside 0 … 3"),
            (x, y - 4, "outside 0 … 3"),
            (x, y.double(), "int64"),
            (x.float(), y, "float32"),
            (x * float("nan"), y, "holds nan"),
            (infinite, y, "holds inf"),
        ]:
            for call in (rule.assign_gradients, rule.errors, rule.apical, rule.steady_state):
                with pytest.raises(ValueError, match=message):
                    call(bad_x, bad_y)
        with pytest.raises(ValueError, match="holds inf"):
            rule.apical(infinite)
        assert all(p.grad is None for p in rule.parameters())
        assert all(torch.equal(before[k], v) for k, v in rule.state_dict().items())

    @pytest.mark.parametrize("kind", ["fixed", "symmetric", "all"])
    def test_divergence_is_said_as_such_and_leaves_no_gradient(self, kind):
        x, y = problem()
        for broken in ("W1", "W3", "W4"):
            rule = make(kind)
            copy_into(getattr(rule.network, broken), torch.full_like(getattr(rule.network, broken), float("inf")))
            for call in (rule.assign_gradients, rule.errors, rule.apical):
                with pytest.raises(FloatingPointError, match=rf"basal voltages of layer {broken[1]} .* diverged"):
                    call(x, y)
            assert all(p.grad is None for p in rule.parameters())
        if kind != "symmetric":
            rule = make(kind)
            copy_into(rule.feedback(3), torch.full_like(rule.feedback(3), float("inf")))
            with pytest.raises(FloatingPointError, match=r"apical voltages of layer 2 .* diverged"):
                rule.assign_gradients(x, y)
            assert all(p.grad is None for p in rule.parameters())
