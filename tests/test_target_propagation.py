"""Target propagation: every rule against a readable version, its losses against autograd, its claims one by one."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import post_signals

from bioplaus_lite.measures import (
    angle,
    error_angles,
    gauss_newton_angles,
    gradients,
    target_steps,
    true_gradients,
    update_angles,
)
from bioplaus_lite.networks import CNN, MLP
from bioplaus_lite.rules.backprop import Backprop
from bioplaus_lite.rules.base import cross_entropy_and_error
from bioplaus_lite.rules.target_propagation import (
    AuxiliaryOutputSDTP,
    DifferenceTargetPropagation,
    SimplifiedDTP,
    TargetPropagation,
    TargetRule,
)
from bioplaus_lite.training import fit

FAMILY = {
    "tp": TargetPropagation,
    "dtp": DifferenceTargetPropagation,
    "sdtp": SimplifiedDTP,
    "ao_sdtp": AuxiliaryOutputSDTP,
}
SIZES = (7, 6, 5, 8, 4)
ACTIVATIONS = ("relu", "tanh", "sigmoid", "linear")


def make(name, sizes=SIZES, *, activation="tanh", dtype=torch.float64, network_seed=0, **options) -> TargetRule:
    options = {"auxiliary": 9} | options if name == "ao_sdtp" else options
    return FAMILY[name](MLP(sizes, activation=activation, dtype=dtype, seed=network_seed), **options)


def problem(dtype=torch.float64, n=12, size=7, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, generator=g, dtype=torch.float64).to(dtype)
    return x, torch.randint(classes, (n,), generator=g)


def run(rule, x, y):
    """What a rule is given: activities and the error of the output."""
    with torch.no_grad():
        activities = rule.network.activities(x)
    return activities, cross_entropy_and_error(activities[-1], y)[1]


def top(rule, h, scores):
    """The output as the topmost inverse of SDTP and AO-SDTP reads it."""
    return torch.cat([scores.softmax(1), h @ rule.U.T], 1) if hasattr(rule, "U") else scores.softmax(1)


def copy_into(parameter, value):
    with torch.no_grad():
        parameter.copy_(value)


# ---- Targets ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FAMILY)
def test_an_output_without_error_leaves_every_activity_as_it_is_but_in_tp(name, activation, dtype):
    rule = make(name, activation=activation, dtype=dtype)
    activities, error = run(rule, *problem(dtype))
    targets = dict(rule.layer_targets(activities, torch.zeros_like(error)))
    assert list(targets) == [3, 2, 1]
    exact = {layer: torch.equal(target, activities[layer]) for layer, target in targets.items()}
    assert exact == {3: True, 2: name != "tp", 1: name != "tp"}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", FAMILY)
def test_targets_and_errors_against_a_readable_version(name, activation):
    rule = make(name, activation=activation)
    net, (x, y) = rule.network, problem()
    sigma, slope = {
        "tanh": (torch.tanh, lambda h: 1 - h**2),
        "relu": (torch.relu, lambda h: (h > 0).double()),
    }[activation]

    def g(layer, response):
        return sigma(response @ getattr(rule, f"B{layer}").detach().T + getattr(rule, f"c{layer}").detach())

    h1 = sigma(x @ net.W1.detach().T + net.b1.detach())
    h2 = sigma(h1 @ net.W2.detach().T + net.b2.detach())
    h3 = sigma(h2 @ net.W3.detach().T + net.b3.detach())
    scores = (h3 @ net.W4.detach().T) + net.b4.detach()
    right = F.one_hot(y, 4).double()
    e = (scores.softmax(1) - right) / len(x)
    if name in ("tp", "dtp"):
        t3 = h3 - 0.3277 * e @ net.W4.detach()
    else:
        z = h3 @ rule.U.T if name == "ao_sdtp" else h3[:, :0]
        t3 = h3 - g(4, torch.cat([scores.softmax(1), z], 1)) + g(4, torch.cat([right, z], 1))
    t2 = g(3, t3) if name == "tp" else h2 - g(3, h3) + g(3, t3)
    t1 = g(2, t2) if name == "tp" else h1 - g(2, h2) + g(2, t2)
    targets, errors = rule.targets(x, y), rule.errors(x, y)
    torch.testing.assert_close(errors[4], e, rtol=0, atol=1e-15)
    for layer, h, t in [(1, h1, t1), (2, h2, t2), (3, h3, t3)]:
        torch.testing.assert_close(targets[layer], t, rtol=0, atol=1e-14)
        torch.testing.assert_close(errors[layer], 2 / len(x) * (h - t) * slope(h), rtol=0, atol=1e-14)


def jacobians(rule, x, read=lambda h, scores: h):
    """``{l: d read / d h_l}`` of one example for the hidden layers, by autograd."""
    net, out = rule.network, {}
    activities = net.activities(x)
    for layer in range(1, net.depth):

        def upwards(h, layer=layer):
            for above in range(layer + 1, net.depth):
                h = net.activate(1, net.current(above, h))
            return read(h, net.current(net.depth, h))[0]

        out[layer] = torch.autograd.functional.jacobian(upwards, activities[layer].detach())[:, 0]
    return out


@pytest.mark.parametrize("name", ["tp", "dtp"])
def test_exact_inverses_of_a_linear_network_give_gauss_newton_targets(name):
    rule = make(name, (5, 5, 5, 5, 4), activation="linear")
    for layer in (2, 3):
        w = rule.network.weight(layer).detach()
        copy_into(rule.network.bias(layer), torch.linspace(-1, 1, 5))
        copy_into(getattr(rule, f"B{layer}"), w.inverse())
        copy_into(getattr(rule, f"c{layer}"), -w.inverse() @ rule.network.bias(layer))
    x, y = problem(n=1, size=5)
    activities, targets = rule.network.activities(x), rule.targets(x, y)
    step = targets[3] - activities[3]
    assert step.norm() > 1e-2
    for layer, jacobian in jacobians(rule, x).items():
        expected = step @ torch.linalg.pinv(jacobian).T
        torch.testing.assert_close(targets[layer] - activities[layer], expected, rtol=1e-9, atol=1e-12)


def test_an_exact_inverse_of_the_output_makes_sdtp_targets_gauss_newton_targets():
    rule = make("sdtp", (5, 5, 5, 5, 4), activation="linear")
    for layer in (2, 3):  # orthogonal, so that the pseudo-inverse of the whole is the product of the parts
        q = torch.linalg.qr(rule.network.weight(layer).detach())[0]
        copy_into(rule.network.weight(layer), q)
        copy_into(getattr(rule, f"B{layer}"), q.T)
    x, y = problem(n=1, size=5)
    paths = jacobians(rule, x, lambda h, scores: scores.softmax(1))
    copy_into(rule.B4, torch.linalg.pinv(paths[3], rtol=1e-10))
    activities, targets = rule.network.activities(x), rule.targets(x, y)
    e = F.one_hot(y, 4) - activities[4].softmax(1)
    for layer, path in paths.items():
        expected = e @ torch.linalg.pinv(path, rtol=1e-10).T
        torch.testing.assert_close(targets[layer] - activities[layer], expected, rtol=1e-9, atol=1e-11)


def test_the_auxiliary_output_damps_the_gauss_newton_target():
    rule = make("ao_sdtp", (5, 5, 5, 4), activation="linear")
    x, y = problem(n=1, size=5)
    both = jacobians(rule, x, lambda h, scores: top(rule, h, scores))[2]
    copy_into(rule.B3, torch.linalg.pinv(both))
    activities, targets = rule.network.activities(x), rule.targets(x, y)
    e, j = (F.one_hot(y, 4) - activities[3].softmax(1))[0], both[:4]
    damped = torch.linalg.solve(j.T @ j + rule.U.T @ rule.U, j.T @ e)
    torch.testing.assert_close((targets[2] - activities[2])[0], damped, rtol=1e-9, atol=1e-12)
    assert damped.norm() < (torch.linalg.pinv(j, rtol=1e-10) @ e).norm()


@pytest.mark.parametrize("name", ["sdtp", "ao_sdtp"])
def test_a_step_goes_part_of_the_way_to_the_label(name):
    rule = make(name, step=0.3)
    net, (x, y) = rule.network, problem()
    h3, scores = (h.detach() for h in net.activities(x)[-2:])
    now, right = top(rule, h3, scores), top(rule, h3, scores)
    right[:, :4] = F.one_hot(y, 4)
    with torch.no_grad():
        expected = h3 - rule.inverse(4, now) + rule.inverse(4, 0.7 * now + 0.3 * right)
    torch.testing.assert_close(rule.targets(x, y)[3], expected, rtol=0, atol=1e-14)


# ---- Local losses ----


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FAMILY)
def test_forward_gradients_are_those_of_the_local_losses(name, activation):
    rule = make(name, activation=activation)
    net, (x, y) = rule.network, problem()
    loss = rule.assign_gradients(x, y)
    activities, targets = [h.detach() for h in net.activities(x)], rule.targets(x, y)
    for layer in range(1, net.depth + 1):
        a = net.current(layer, activities[layer - 1])
        missed = None if layer == net.depth else net.activate(1, a) - targets[layer]
        local = F.cross_entropy(a, y) if missed is None else missed.square().sum() / len(x)
        w, b = torch.autograd.grad(local, (net.weight(layer), net.bias(layer)))
        torch.testing.assert_close(net.weight(layer).grad, w, rtol=0, atol=1e-13)
        torch.testing.assert_close(net.bias(layer).grad, b, rtol=0, atol=1e-13)
    torch.testing.assert_close(loss, local.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FAMILY)
def test_inverse_gradients_are_those_of_the_reconstruction_losses(name, activation, noise, mode):
    rule = make(name, activation=activation, noise=noise).train(mode == "train")
    net, (x, y) = rule.network, problem()
    for c in (p for n, p in rule.named_parameters() if n.startswith("c")):
        copy_into(c, torch.linspace(-0.5, 0.5, len(c)))
    generator, reconstruction = rule._generator.clone_state(), rule.reconstruction(x)
    rule.assign_gradients(x, y)
    activities = [h.detach() for h in net.activities(x)]
    assert list(reconstruction) == ([2, 3] if name in ("tp", "dtp") else [2, 3, 4])
    for layer, found in reconstruction.items():
        clean = activities[layer - 1]
        corrupted = clean + noise * torch.randn(clean.shape, generator=generator, dtype=clean.dtype) if noise else clean
        a = net.current(layer, corrupted).detach()
        response = top(rule, corrupted, a) if layer == net.depth else net.activate(1, a)
        b, c = getattr(rule, f"B{layer}"), getattr(rule, f"c{layer}")
        wanted = corrupted if name in ("tp", "dtp") else clean
        local = (net.activate(1, response @ b.T + c) - wanted).square().sum(1).mean()
        assert found == pytest.approx(local.item(), abs=1e-12)
        for own, other in zip((b, c), torch.autograd.grad(local, (b, c)), strict=True):
            torch.testing.assert_close(own.grad, other, rtol=0, atol=1e-13)


# ---- What the family claims ----


def test_means_over_units_divide_the_gradients_of_layers_and_inverses_and_not_of_the_output():
    x, y = torch.rand(6, 7, dtype=torch.float64), torch.arange(6) % 4
    summed, meant = (
        SimplifiedDTP(MLP((7, 6, 5, 4), activation="tanh", dtype=torch.float64), mean_losses=mean).gradients(x, y)
        for mean in (False, True)
    )
    units = {"W1": 6, "b1": 6, "W2": 5, "b2": 5, "W3": 1, "b3": 1, "B2": 6, "c2": 6, "B3": 5, "c3": 5}
    assert summed.keys() == units.keys()
    for name, n in units.items():
        torch.testing.assert_close(meant[name], summed[name] / n, rtol=1e-12, atol=0)


@pytest.mark.parametrize("lesion", [2, 3, 4])
@pytest.mark.parametrize("name", FAMILY)
def test_weight_transport_is_at_the_penultimate_layer_of_tp_and_dtp_and_nowhere_else(name, lesion):
    rule = make(name)
    x, y = problem()
    activities, error = run(rule, x, y)  # held: only the credit computation may see the noise
    before = post_signals(rule, activities, error, y)
    w = rule.network.weight(lesion)
    copy_into(w, torch.randn(w.shape, generator=torch.Generator().manual_seed(5), dtype=w.dtype))
    after = post_signals(rule, activities, error, y)
    changed = [layer for layer in before if not torch.equal(before[layer], after[layer])]
    transported = lesion == 4 and name in ("tp", "dtp")
    # Layers below hear of it through their targets; what they read of W_{l+1} themselves is the case of lesion l + 1.
    assert changed == ([3, 2, 1] if transported else [])


@pytest.mark.parametrize("lesion", [2, 3, 4])
def test_the_probe_finds_the_transport_of_backpropagation(lesion):
    rule = Backprop(MLP(SIZES, activation="tanh", dtype=torch.float64))
    x, y = problem()
    activities, error = run(rule, x, y)
    before = post_signals(rule, activities, error, y)
    copy_into(rule.network.weight(lesion), torch.ones_like(rule.network.weight(lesion)))
    after = post_signals(rule, activities, error, y)
    assert not torch.equal(before[lesion - 1], after[lesion - 1])


@pytest.mark.parametrize("name", ["tp", "dtp"])
def test_with_one_hidden_layer_there_is_no_inverse_and_the_update_is_backprop_scaled(name):
    rule = make(name, (7, 6, 4), alpha=0.5)
    assert [group["name"] for group in rule.parameter_groups()] == ["forward"]
    x, y = problem()
    assigned, true = gradients(rule, x, y), true_gradients(rule, x, y)
    torch.testing.assert_close(assigned[1], 2 * 0.5 / len(x) * true[1], rtol=0, atol=1e-15)
    torch.testing.assert_close(assigned[2], true[2], rtol=0, atol=1e-15)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", FAMILY)
def test_inverse_training_lowers_the_reconstruction_loss_and_touches_nothing_else(name, activation):
    rule = make(name, (10, 20, 20, 20, 4), activation=activation, dtype=torch.float32)
    x, y = problem(torch.float32, n=200, size=10)
    rule.phase = "inverse"
    before, forward = rule.reconstruction(x), [p.detach().clone() for p in rule.network.parameters()]
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=3e-3, weight_decay=1e-4)
    for _ in range(150):
        rule.learn(x, y, optimizer)
    after = rule.reconstruction(x)
    assert all(after[layer] < 0.8 * before[layer] for layer in before), (before, after)
    assert all(torch.equal(p, q) for p, q in zip(rule.network.parameters(), forward, strict=True))


@pytest.mark.parametrize("damping", [0.0, 0.05])
@pytest.mark.parametrize("name", FAMILY)
def test_gauss_newton_angles_against_jacobians_by_autograd(name, damping):
    rule, (x, y) = make(name, (7, 6, 5, 6, 4)), problem(n=5)
    activities, targets = rule.network.activities(x), rule.targets(x, y)
    starts_at_output = name in ("sdtp", "ao_sdtp")
    e = F.one_hot(y, 4) - activities[4].softmax(1) if starts_at_output else targets[3] - activities[3]
    expected = {1: [], 2: [], 3: []}
    for i in range(len(x)):
        read = (lambda h, scores: scores.softmax(1)) if starts_at_output else (lambda h, scores: h)
        for layer, j in jacobians(rule, x[i : i + 1], read).items():
            gamma = damping * torch.linalg.matrix_norm(j, 2) ** 2
            inverse = torch.linalg.pinv(j, rtol=1e-10)
            if damping:
                inverse = torch.linalg.solve(j.T @ j + gamma * torch.eye(j.shape[1], dtype=j.dtype), j.T)
            step = (targets[layer] - activities[layer])[i]
            expected[layer].append(angle(step, inverse @ e[i]))
    found = gauss_newton_angles(rule, x, y, damping=damping)
    assert found == pytest.approx({layer: sum(a) / len(a) for layer, a in expected.items()}, abs=1e-5)


def test_the_gauss_newton_angle_refuses_what_has_none():
    with pytest.raises(TypeError, match="Backprop"):
        gauss_newton_angles(Backprop(MLP((7, 5, 4), dtype=torch.float64)), *problem())
    with pytest.raises(ValueError, match="damping must be at least 0 and finite, not -1"):
        gauss_newton_angles(make("dtp"), *problem(), damping=-1)


def test_target_steps_are_relative_to_the_activity():
    rule, (x, y) = make("dtp", alpha=0.1), problem()
    steps, wide = target_steps(rule, x, y), target_steps(make("dtp", alpha=0.2), x, y)
    activities, targets = rule.network.activities(x), rule.targets(x, y)
    ratios = [((targets[2] - activities[2])[i].norm() / activities[2][i].norm()).item() for i in range(len(x))]
    assert steps[2] == pytest.approx(sum(ratios) / len(x), rel=1e-12)
    assert wide[3] == pytest.approx(2 * steps[3], rel=1e-9)


def conditioned(name, activation, low, high, noise):
    """A rule whose square weights have singular values from ``low`` to ``high``, and a teacher's problem for it."""
    rule = make(name, (10, 12, 12, 12, 4), activation=activation, noise=noise)
    for layer in (2, 3):
        u, s, vt = torch.linalg.svd(rule.network.weight(layer).detach())
        copy_into(rule.network.weight(layer), u @ torch.linspace(high, low, len(s), dtype=s.dtype).diag() @ vt)
    x, _ = problem(n=300, size=10)
    return rule, x, MLP((10, 20, 4), activation="tanh", seed=3, dtype=torch.float64)(x).argmax(1)


def train_inverses(rule, x, y, *, steps):
    """Yield after 0, and after each further number of ``steps``, with the forward weights held."""
    rule.phase = "inverse"
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=3e-3)
    yield
    for n in steps:
        for _ in range(n):
            rule.learn(x, y, optimizer)
        yield


def test_better_inverses_turn_dtp_towards_backprop_and_gauss_newton():
    rule, x, y = conditioned("dtp", "tanh", 0.7, 1.3, noise=0.2)
    to_backprop, to_gauss_newton, misses = [], [], []
    for _ in train_inverses(rule, x, y, steps=(100, 300)):
        to_backprop.append(update_angles(rule, x, y))
        to_gauss_newton.append(gauss_newton_angles(rule, x[:30], y[:30]))
        misses.append(rule.reconstruction(x, noise=0))
    for layer in (1, 2):
        for measure in (to_backprop, to_gauss_newton):
            first, second, third = (m[layer] for m in measure)
            assert first > 80 > second > 50 > third, (layer, measure)
    assert all(a[layer] > b[layer] for a, b in itertools.pairwise(misses) for layer in (2, 3)), misses
    assert to_backprop[0][3] < 1e-4 and to_backprop[0][4] < 1e-4  # above the highest inverse it is backprop
    assert error_angles(rule, x, y)[3] < 1e-4


def test_learned_inverses_of_a_linear_network_end_at_gauss_newton_and_not_at_backprop():
    rule, x, y = conditioned("dtp", "linear", 0.5, 1.5, noise=0.3)
    for _ in train_inverses(rule, x, y, steps=(2000,)):
        pass
    assert max(rule.reconstruction(x).values()) < 1e-3
    assert max(gauss_newton_angles(rule, x[:30], y[:30]).values()) < 3
    assert min(update_angles(rule, x, y)[layer] for layer in (1, 2)) > 25


def losses_on_a_separable_problem(name, activation, **options):
    g = torch.Generator().manual_seed(0)
    centres = torch.rand(3, 64, generator=g)
    y = torch.arange(300) % 3
    x = centres[y] + 0.3 * torch.randn(300, 64, generator=g)
    rule = make(name, (64, 40, 30, 3), activation=activation, dtype=torch.float32, **options)
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=3e-3)
    return [rule.learn(x, y, optimizer).item() for _ in range(60)]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", ["dtp", "sdtp", "ao_sdtp"])
def test_difference_rules_learn_a_separable_problem(name, activation):
    losses = losses_on_a_separable_problem(name, activation)
    assert losses[0] > 0.8
    assert losses[-1] < 0.25, f"from {losses[0]:.2f} to {losses[-1]:.2f}"


def test_tp_learns_only_with_steps_larger_than_what_its_inverses_miss():
    assert losses_on_a_separable_problem("tp", "tanh", alpha=300.0)[-1] < 0.25  # a step of 1 for each of 300 examples
    assert losses_on_a_separable_problem("tp", "tanh")[-1] > 0.8
    assert losses_on_a_separable_problem("dtp", "tanh")[-1] < 0.25  # the difference makes it independent of the step


# ---- Phases ----


@pytest.mark.parametrize("name", FAMILY)
def test_alternating_training_moves_one_group_an_epoch(name):
    rule = make(name, dtype=torch.float32)
    seen = []

    def measure(rule):
        seen.append([p.detach().clone() for p in (rule.network.W1, rule.network.W4, rule.B2, rule.c3)])
        return {}

    train = problem(torch.float32, n=40)
    # Adam and weight decay move whatever has a gradient, be it zero.
    make_optimizer = lambda groups: torch.optim.Adam(groups, lr=1e-2, weight_decay=1e-2)  # noqa: E731
    fit(rule, train, epochs=4, batch_size=10, optimizer=make_optimizer, turns=("inverse", "forward"), measure=measure)
    moved = [[not torch.equal(p, q) for p, q in zip(a, b, strict=True)] for a, b in itertools.pairwise(seen)]
    inverse, forward = [False, False, True, True], [True, True, False, False]
    assert moved == [inverse, forward, inverse, forward]
    assert rule.phase == "both"


def test_a_phase_gives_the_gradients_of_its_half_of_both():
    grads = {}
    for phase in TargetRule.phases:
        rule = make("ao_sdtp")
        rule.phase = phase
        rule.assign_gradients(*problem())
        grads[phase] = {name: p.grad for name, p in rule.named_parameters()}
    for name, both in grads["both"].items():
        mine, other = ("forward", "inverse") if name.startswith("network.") else ("inverse", "forward")
        assert torch.equal(grads[mine][name], both) and grads[other][name] is None


def test_a_phase_clears_gradients_of_the_one_before():
    rule = make("sdtp")
    for phase in ("both", "inverse", "forward", "inverse"):
        rule.phase = phase
        rule.assign_gradients(*problem())
        for name, p in rule.named_parameters():
            own = "forward" if name.startswith("network.") else "inverse"
            assert (p.grad is not None) == (phase in ("both", own))


def test_diagnostics_get_all_gradients_whatever_the_phase():
    rule = make("dtp")
    expected = gradients(rule, *problem())
    rule.phase = "inverse"
    assert all(torch.equal(g, expected[layer]) for layer, g in gradients(rule, *problem()).items())


def test_two_groups_take_two_learning_rates():
    rule = make("dtp")
    rates = {"forward": 0.0, "feedback": 0.1}
    before = copy.deepcopy(rule.state_dict())
    fit(rule, problem(), optimizer=lambda groups: torch.optim.SGD([g | {"lr": rates[g["name"]]} for g in groups]))
    moved = {k: not torch.equal(v, before[k]) for k, v in rule.state_dict().items()}
    assert moved == {k: not k.startswith("network.") for k in before}


# ---- State and randomness ----


@pytest.mark.parametrize("name", FAMILY)
def test_evaluation_mode_changes_nothing_but_gradients(name):
    rule = make(name).eval()
    x, y = problem()
    before, state = copy.deepcopy(rule.state_dict()), rule._generator.get_state()
    answers = []
    for _ in range(2):
        rule.assign_gradients(x, y)
        answers.append({n: p.grad.clone() for n, p in rule.named_parameters()})
        rule.reconstruction(x), rule.targets(x, y), rule.errors(x, y)
    assert all(torch.equal(before[k], v) for k, v in rule.state_dict().items() if k != "_extra_state")
    assert torch.equal(state, rule._generator.get_state())
    assert all(torch.equal(g, answers[1][n]) for n, g in answers[0].items())
    rule.train().assign_gradients(x, y)  # what was answered is what training does next
    assert all(torch.equal(p.grad, answers[0][n]) for n, p in rule.named_parameters())


@pytest.mark.parametrize("name", FAMILY)
def test_noise_is_new_for_every_batch_and_only_where_inverses_train(name):
    rule = make(name)
    drawn = []
    for phase in ("both", "inverse", "forward"):
        rule.phase = phase
        state = rule._generator.get_state()
        rule.assign_gradients(*problem())
        drawn.append(not torch.equal(state, rule._generator.get_state()))
        if phase == "both":
            first = rule.B2.grad.clone()
        if phase == "inverse":
            assert angle(first, rule.B2.grad) > 0.1
    assert drawn == [True, True, False]


@pytest.mark.parametrize("name", FAMILY)
def test_a_state_dict_carries_the_rule(name):
    a, b = make(name, network_seed=1, seed=1), make(name, network_seed=2, seed=2)
    assert not torch.equal(a.B2, b.B2)
    b.load_state_dict(a.state_dict())
    x, y = problem()
    assert all(torch.equal(t, b.targets(x, y)[layer]) for layer, t in a.targets(x, y).items())
    assert all(torch.equal(g, gradients(b, x, y)[layer]) for layer, g in gradients(a, x, y).items())
    assert a.reconstruction(x, noise=0) == b.reconstruction(x, noise=0)


@pytest.mark.parametrize("name", FAMILY)
def test_seeds_decide_everything_and_the_global_generator_is_left_alone(name):
    torch.manual_seed(0)
    state, trained = torch.get_rng_state(), []
    for seed in (4, 4, 5):
        rule = make(name, seed=seed)
        optimizer = torch.optim.Adam(rule.parameter_groups(), lr=1e-2)
        for _ in range(3):
            rule.learn(*problem(), optimizer)
        trained.append(torch.cat([v.flatten() for v in (*rule.parameters(), *rule.buffers())]))
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])
    assert torch.equal(state, torch.get_rng_state())


def test_inverses_have_the_shapes_of_the_transposed_weights():
    shapes = {name: {n: tuple(p.shape) for n, p in make(name).named_parameters(recurse=False)} for name in FAMILY}
    below = {"B2": (6, 5), "c2": (6,), "B3": (5, 8), "c3": (5,)}
    assert shapes["tp"] == shapes["dtp"] == below
    assert shapes["sdtp"] == below | {"B4": (8, 4), "c4": (8,)}
    assert shapes["ao_sdtp"] == below | {"B4": (8, 13), "c4": (8,)}
    groups = make("ao_sdtp").parameter_groups()
    assert [(g["name"], len(g["params"])) for g in groups] == [("forward", 8), ("feedback", 6)]


class TestBadInput:
    @pytest.mark.parametrize("name", FAMILY)
    def test_constructors_name_the_value(self, name):
        with pytest.raises(TypeError, match="MLP, not a CNN"):
            FAMILY[name](CNN((1, 8, 8), (4,), 3))
        with pytest.raises(TypeError, match="not Linear"):
            FAMILY[name](torch.nn.Linear(3, 2))
        with pytest.raises(ValueError, match=r"needs a hidden layer, the sizes \(7, 4\) have none"):
            make(name, (7, 4))
        for noise in (-0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"noise must be at least 0 and finite, not {noise}"):
                make(name, noise=noise)

    @pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["tp", "dtp"])
    def test_the_first_step_is_positive(self, name, alpha):
        with pytest.raises(ValueError, match=rf"alpha must be positive and finite, not {alpha}"):
            make(name, alpha=alpha)

    @pytest.mark.parametrize("step", [0, -0.5, 1.1, float("nan")])
    @pytest.mark.parametrize("name", ["sdtp", "ao_sdtp"])
    def test_the_step_to_the_label_does_not_pass_it(self, name, step):
        with pytest.raises(ValueError, match=rf"step must be in \(0, 1\], not {step}"):
            make(name, step=step)

    @pytest.mark.parametrize("auxiliary", [0, -3, 2.5, True])
    def test_the_auxiliary_output_has_units(self, auxiliary):
        with pytest.raises(ValueError, match=rf"auxiliary must be a positive whole number, not {auxiliary}"):
            make("ao_sdtp", auxiliary=auxiliary)

    def test_phases_are_named(self):
        rule = make("dtp")
        with pytest.raises(ValueError, match="unknown phase 'sleep'; choose one of both, inverse, forward"):
            rule.phase = "sleep"
        assert rule.phase == "both"
        with pytest.raises(ValueError, match="unknown phase 'inverse'; choose one of all"):
            fit(Backprop(MLP((7, 6, 4))), problem(torch.float32), turns=("inverse", "forward"))

    @pytest.mark.parametrize("name", FAMILY)
    def test_a_refused_batch_leaves_no_trace(self, name):
        rule, (x, y) = make(name), problem()
        before, state = copy.deepcopy(rule.state_dict()), rule._generator.get_state()
        for bad_x, bad_y, message in [
            (x[:, :5], y, r"\(12, 5\)"),
            (x, y + 4, "outside 0 … 3"),
            (x.float(), y, "float32"),
            (x * float("nan"), y, "holds nan"),
        ]:
            with pytest.raises(ValueError, match=message):
                rule.assign_gradients(bad_x, bad_y)
        with pytest.raises(ValueError, match="noise must be at least 0 and finite, not -1"):
            rule.reconstruction(x, noise=-1)
        with pytest.raises(ValueError, match="outside 0 … 3"):
            rule.targets(x, y - 4)
        assert all(p.grad is None for p in rule.parameters())
        assert torch.equal(state, rule._generator.get_state())
        assert all(torch.equal(before[k], v) for k, v in rule.state_dict().items() if k != "_extra_state")

    def test_divergence_is_said_as_such(self):
        rule = make("sdtp")
        copy_into(rule.network.W4, torch.full_like(rule.network.W4, float("inf")))
        with pytest.raises(FloatingPointError, match="diverged"):
            rule.assign_gradients(*problem())


def test_with_one_hidden_layer_tp_and_dtp_are_one_rule():
    """The first target is a step along the gradient for both, and below it there is no hidden layer."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, 6, generator=g, dtype=torch.float64)
    y, trained = torch.randint(3, (20,), generator=g), {}
    for name in ("tp", "dtp"):
        rule = make(name, (6, 5, 3), seed=1)
        optimizer = torch.optim.Adam(rule.parameter_groups(), lr=0.01)
        for _ in range(5):
            rule.learn(x, y, optimizer)
        trained[name] = [p.detach() for p in rule.network.parameters()]
        assert len(rule.parameter_groups()) == 1, "no inverse is needed"
    assert all(map(torch.equal, *trained.values()))
