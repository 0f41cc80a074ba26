"""Difference reconstruction: losses against autograd, minimisers against closed forms, targets against their claims."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import post_signals

from bioplaus_lite.measures import gauss_newton_angles, gradients, true_gradients, update_angles, weight_angles
from bioplaus_lite.networks import CNN, MLP
from bioplaus_lite.rules.base import cross_entropy_and_error
from bioplaus_lite.rules.cards import RULES, in_family
from bioplaus_lite.rules.difference_reconstruction import (
    DifferenceReconstruction,
    DirectDifferenceReconstruction,
    LocalDifferenceReconstruction,
)

NAMED = {
    "dtp_drl": DifferenceReconstruction,
    "ddtp_linear": DirectDifferenceReconstruction,
    "ldrl": LocalDifferenceReconstruction,
}
SHAPES = [(7, 6, 5, 8, 4), (9, 12, 10, 3)]
SEEDS = [0, 1, 2]
GLOBAL = ("dtp_drl", "ddtp_linear")

each_case = pytest.mark.parametrize(("sizes", "seed"), list(itertools.product(SHAPES, SEEDS)), ids=str)


def make(name, sizes=SHAPES[0], *, activation="tanh", seed=0, dtype=torch.float64, **options):
    network = MLP(sizes, activation=activation, init="glorot", dtype=dtype, seed=seed)
    return NAMED[name](network, seed=seed + 1, **options)


def problem(sizes=SHAPES[0], *, n=12, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, sizes[0], generator=g, dtype=torch.float64).to(dtype)
    return x, torch.randint(sizes[-1], (n,), generator=g)


def weights(rule):
    """Forward weights and biases, then feedback weights and biases, each by its layer, as plain tensors."""
    net, layers = rule.network, range(1, rule.network.depth + 1)
    w, b = {l: net.weight(l).detach() for l in layers}, {l: net.bias(l).detach() for l in layers}
    back = {l: getattr(rule, f"B{l}").detach().clone().requires_grad_() for l in rule.inverses}
    c = {l: getattr(rule, f"c{l}").detach().clone().requires_grad_() for l in rule.inverses if hasattr(rule, f"c{l}")}
    return w, b, back, c


FUNCTIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "linear": lambda a: a}


def written_losses(rule, x, generator):
    """The losses as the docstrings have them, with the noise of ``generator``, and the parameters that descend them."""
    w, b, back, c = weights(rule)
    depth, noise = rule.network.depth, rule.noise
    sigma = {l: FUNCTIONS[rule.network.activation] if l < depth else FUNCTIONS["linear"] for l in w}
    f = {l: lambda h, l=l: sigma[l](h @ w[l].T + b[l]) for l in w}
    h = [x]
    for l in w:
        h.append(f[l](h[-1]))
    draw = lambda like: noise * torch.randn(like.shape, generator=generator, dtype=like.dtype)  # noqa: E731
    losses, draws = {}, {}
    for l in back:  # noise is drawn from the bottom up
        many = [t.repeat(getattr(rule, "draws", 1), 1) for t in (h[l - 1], h[l])]
        draws[l] = [draw(t) for t in (many if isinstance(rule, LocalDifferenceReconstruction) else many[:1])]
        if isinstance(rule, LocalDifferenceReconstruction):
            g = lambda t, l=l: sigma[l](t) @ back[l].T  # noqa: E731
            eps, zeta = draws[l]
            hebb = (eps * (g(f[l](many[0] + eps)) - g(many[1]))).sum(1)
            losses[l] = (-2 * hebb + (g(many[1] + zeta) - g(many[1])).square().sum(1)).mean()
            continue
        top = corrupted = h[l - 1] + draws[l][0]
        for k in range(l, depth + 1):
            top = f[k](top)
        if isinstance(rule, DirectDifferenceReconstruction):
            rebuilt = h[l - 1] + (top - h[depth]) @ back[l].T
        else:
            rebuilt = top
            for k in range(depth, l - 1, -1):
                g = lambda t, k=k: sigma[k - 1](t @ back[k].T + c[k])  # noqa: E731
                rebuilt = h[k - 1] + g(rebuilt) - g(h[k])
        losses[l] = (rebuilt - corrupted).square().sum(1).mean() / noise**2
    return losses, back, c


@each_case
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("name", NAMED)
def test_gradients_of_the_inverses_are_those_of_the_written_losses(name, activation, sizes, seed):
    rule = make(name, sizes, activation=activation, seed=seed, noise=0.3, **({"decay": 0.07} if name in GLOBAL else {}))
    x, y = problem(sizes, seed=seed)
    with torch.no_grad():
        for c in (p for n, p in rule.named_parameters() if n.startswith("c")):
            c.copy_(torch.linspace(-0.5, 0.5, len(c)))
    losses, back, c = written_losses(rule, x, rule._generator.clone_state())
    assert rule.reconstruction(x) == pytest.approx({l: loss.item() for l, loss in losses.items()}, rel=1e-12)
    rule.assign_gradients(x, y)
    assert list(losses) == [*range(2, len(sizes))]
    for l, loss in losses.items():
        whole = loss + 0.07 * back[l].square().sum() if name in GLOBAL else loss
        own = [rule.get_parameter(f"B{l}"), *([rule.get_parameter(f"c{l}")] if c else [])]
        expected = torch.autograd.grad(whole, [back[l], *([c[l]] if c else [])], retain_graph=True)
        for mine, true in zip(own, expected, strict=True):
            torch.testing.assert_close(mine.grad, true, rtol=1e-11, atol=1e-13)


@each_case
@pytest.mark.parametrize("name", NAMED)
def test_targets_and_errors_against_a_readable_version(name, sizes, seed):
    rule = make(name, sizes, seed=seed)
    x, y = problem(sizes, seed=seed)
    _, _, back, c = weights(rule)
    h = [t.detach() for t in rule.network.activities(x)]
    depth, e = rule.network.depth, h[-1].softmax(1) - F.one_hot(y, sizes[-1])
    target, targets = h[-1] - (0.7 if name == "ldrl" else rule.alpha / len(x)) * e, {}
    step = target - h[-1]
    for l in range(depth, 1, -1):
        if name == "ddtp_linear":
            targets[l - 1] = h[l - 1] + step @ back[l].T
        elif name == "dtp_drl":
            g = lambda t, l=l: torch.tanh(t @ back[l].T + c[l])  # noqa: E731
            target = targets[l - 1] = h[l - 1] + g(target) - g(h[l])
        else:
            g = lambda t, l=l: (torch.tanh(t) if l < depth else t) @ back[l].T  # noqa: E731
            target = targets[l - 1] = h[l - 1] + g(target) - g(h[l])
    found, errors = rule.targets(x, y), rule.errors(x, y)
    assert set(found) == set(targets)
    torch.testing.assert_close(errors[depth], e / len(x))
    for l, expected in targets.items():
        torch.testing.assert_close(found[l], expected.detach(), rtol=0, atol=1e-14)
        wanted = 2 / len(x) * (h[l] - expected.detach()) * (1 - h[l] ** 2)
        torch.testing.assert_close(errors[l], wanted, rtol=0, atol=1e-15)


# ---- Where the losses are least ----


def train_inverses(rule, x, y, *, steps, rate):
    """Feedback weights alone, at a rate that falls to zero, so that the noise of the draws averages out."""
    rule.phase = "inverse"
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    forward = [p.detach().clone() for p in rule.network.parameters()]
    for _ in range(steps):
        rule.learn(x, y, optimizer)
        schedule.step()
    rule.phase = "both"
    assert all(map(torch.equal, forward, rule.network.parameters()))


def largest_miss(rule, expected):
    return max(((rule.feedback(l) - b).norm() / b.norm()).item() for l, b in expected.items())


def path(rule, layer):
    """The Jacobian of the output by ``h_{layer-1}`` in a linear network."""
    j = rule.network.weight(layer).detach()
    for above in range(layer + 1, rule.network.depth + 1):
        j = rule.network.weight(above).detach() @ j
    return j


def damped(j, decay):
    """``(JᵀJ + λI)⁻¹Jᵀ``, which is ``Jᵀ(JJᵀ + λI)⁻¹``."""
    return torch.linalg.solve(j.T @ j + decay * torch.eye(j.shape[1], dtype=j.dtype), j.T)


@each_case
@pytest.mark.parametrize("name", GLOBAL)
def test_inverses_of_a_linear_network_become_damped_pseudo_inverses(name, sizes, seed):
    decay = 0.1
    rule = make(name, sizes, activation="linear", seed=seed, decay=decay)
    x, y = problem(sizes, n=200, seed=seed)
    if name == "ddtp_linear":
        expected = {l: damped(path(rule, l), decay) for l in rule.inverses}
    else:  # each, given those above it: of ‖B C - I‖² + λ‖B‖², with C what arrives at layer l of noise at l - 1
        expected, down = {}, torch.eye(sizes[-1], dtype=torch.float64)
        for l in reversed(rule.inverses):
            expected[l] = damped(down @ path(rule, l), decay)
            down = expected[l] @ down
    assert largest_miss(rule, expected) > 1
    train_inverses(rule, x, y, steps=600, rate=0.03)
    assert largest_miss(rule, expected) < 0.06


@each_case
@pytest.mark.parametrize("name", GLOBAL)
def test_targets_become_those_of_gauss_newton(name, sizes, seed):
    rule = make(name, sizes, seed=seed, decay=1e-3)
    x, y = problem(sizes, n=100, seed=seed)
    x, top = 0.2 * x, rule.network.depth - 1
    before = gauss_newton_angles(rule, x, y)
    assert min(before.values()) > 65
    train_inverses(rule, x, y, steps=1000, rate=0.03)
    after, to_backprop = gauss_newton_angles(rule, x, y), update_angles(rule, x, y)
    assert after[top] < 3
    # Below, the direct rule has one matrix for the Jacobians of all examples.
    assert max(after.values()) < (10 if name == "dtp_drl" else 20)
    assert all(angle < 0.5 * to_backprop[l] for l, angle in after.items())


@each_case
@pytest.mark.parametrize("activation", ["linear", "tanh", "elu"])
def test_local_inverses_become_transposes_and_their_updates_those_of_backprop(activation, sizes, seed):
    rule = make("ldrl", sizes, activation=activation, seed=seed, noise=0.1, beta=0.01)
    x, y = problem(sizes, n=50, seed=seed)
    x, hidden = 0.3 * x, range(1, rule.network.depth)
    before = update_angles(rule, x, y)
    assert min(before[l] for l in hidden) > 60
    train_inverses(rule, x, y, steps=400, rate=0.03)
    after = update_angles(rule, x, y)
    assert max(after.values()) < 4
    assert max(weight_angles(rule).values()) < 3
    if activation == "linear":
        assert largest_miss(rule, {l: rule.network.weight(l).detach().T for l in rule.inverses}) < 0.05
        true, own = true_gradients(rule, x, y), gradients(rule, x, y)
        for l in hidden:  # in size too: 2 β times backpropagation's
            assert (own[l].norm() / (2 * rule.beta * true[l].norm())).item() == pytest.approx(1, abs=0.05)


def test_a_silent_rectifier_lets_pass_what_is_positive():
    """Where backpropagation lets nothing pass: the slope at the activity is not that at the current."""
    rule = make("ldrl", (7, 6, 5, 4), activation="relu")
    below, silent = torch.zeros(2, 6, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64)
    step = torch.tensor([[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]], dtype=torch.float64)
    sent = rule.send_down(2, below, silent, silent + step).detach()
    assert torch.equal(sent[0], rule.B2[:, 0].detach()) and torch.equal(sent[1], below[1])


# ---- What else they claim ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("name", NAMED)
def test_an_output_without_error_leaves_every_activity_as_it_is(name, activation, dtype):
    rule = make(name, activation=activation, dtype=dtype)
    h = rule.network.activities(problem(dtype=dtype)[0])
    targets = dict(rule.layer_targets(h, torch.zeros_like(h[-1])))
    assert list(targets) == [3, 2, 1] and all(torch.equal(t, h[l]) for l, t in targets.items())


@pytest.mark.parametrize("lesion", [2, 3, 4])
@pytest.mark.parametrize("name", NAMED)
def test_no_weight_is_transported(name, lesion):
    rule, (x, y) = make(name), problem()
    h = [t.detach() for t in rule.network.activities(x)]
    error = cross_entropy_and_error(h[-1], y)[1]
    before = post_signals(rule, h, error, y)
    with torch.no_grad():
        rule.network.weight(lesion).normal_(generator=torch.Generator().manual_seed(5))
    after = post_signals(rule, h, error, y)
    assert set(before) == {1, 2, 3, 4} and all(torch.equal(before[l], after[l]) for l in before)


@pytest.mark.parametrize("name", NAMED)
def test_one_hidden_layer_has_an_inverse_too(name):
    rule = make(name, (7, 6, 4))
    assert rule.B2.shape == (6, 4) and len(rule.parameter_groups()) == 2
    x, y = problem((7, 6, 4))
    assert set(rule.targets(x, y)) == {1} and set(rule.reconstruction(x)) == {2}


def test_shapes_of_the_feedback():
    shapes = {name: {n: tuple(p.shape) for n, p in make(name).named_parameters(recurse=False)} for name in NAMED}
    local = {"B2": (6, 5), "B3": (5, 8), "B4": (8, 4)}
    assert shapes["ldrl"] == local and shapes["dtp_drl"] == local | {"c2": (6,), "c3": (5,), "c4": (8,)}
    assert shapes["ddtp_linear"] == {"B2": (6, 4), "B3": (5, 4), "B4": (8, 4)}


def test_draws_are_averaged():
    few, many = (make("ldrl", draws=draws) for draws in (1, 400))
    x, y = problem()
    spread = {}
    for rule in (few, many):
        found = []
        for _ in range(6):
            rule.assign_gradients(x, y)
            found.append(rule.B3.grad.clone())
        spread[rule.draws] = torch.stack(found).std(0).mean().item()
        size = torch.stack(found).mean(0).norm().item()
    assert spread[400] < 0.1 * spread[1] and size > 0


@pytest.mark.parametrize("name", NAMED)
def test_phases_move_one_group_and_noise_is_drawn_only_for_inverses(name):
    rule = make(name, dtype=torch.float32)
    drawn, moved = [], []
    for phase in ("inverse", "forward", "both"):
        rule.phase = phase
        state, before = rule._generator.get_state(), copy.deepcopy(rule.state_dict())
        rule.learn(*problem(dtype=torch.float32), torch.optim.Adam(rule.parameter_groups(), lr=0.01, weight_decay=0.01))
        drawn.append(not torch.equal(state, rule._generator.get_state()))
        moved.append([not torch.equal(before[n], p) for n, p in rule.named_parameters() if n in ("B2", "network.W1")])
    assert drawn == [True, False, True] and moved == [[True, False], [False, True], [True, True]]


@pytest.mark.parametrize("name", NAMED)
def test_evaluation_mode_changes_nothing_but_gradients(name):
    rule, (x, y) = make(name).eval(), problem()
    before, state = copy.deepcopy(rule.state_dict()), rule._generator.get_state()
    rule.assign_gradients(x, y)
    answered = {n: p.grad.clone() for n, p in rule.named_parameters()}
    rule.reconstruction(x), rule.targets(x, y), rule.errors(x, y)
    assert all(torch.equal(before[k], v) for k, v in rule.state_dict().items() if k != "_extra_state")
    assert torch.equal(state, rule._generator.get_state())
    rule.train().assign_gradients(x, y)  # what was answered is what training does next
    assert all(torch.equal(p.grad, answered[n]) for n, p in rule.named_parameters())


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", NAMED)
def test_they_learn_a_separable_problem_with_hidden_layers_alone_too(name, held):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.rand(3, 64, generator=g)[y] + 0.3 * torch.randn(300, 64, generator=g)
    rule = make(name, (64, 40, 30, 3), dtype=torch.float32)
    rule.network.W3.requires_grad_(not held)
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=3e-3)
    losses = [rule.learn(x, y, optimizer).item() for _ in range(60)]
    assert losses[0] > 0.8 and losses[-1] < 0.5


def test_each_member_of_the_family_looks_different():
    looks = [RULES[name].look for name in in_family("Targets")]
    assert len(set(looks)) == len({look.colour for look in looks}) == len(looks) == 7


class TestBadInput:
    @pytest.mark.parametrize("name", NAMED)
    def test_constructors_name_the_value(self, name):
        with pytest.raises(TypeError, match="MLP, not a CNN"):
            NAMED[name](CNN((1, 8, 8), (4,), 3))
        with pytest.raises(ValueError, match=r"needs a hidden layer, the sizes \(7, 4\) have none"):
            make(name, (7, 4))
        for noise in (0, -0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"noise must be positive and finite, not {noise}"):
                make(name, noise=noise)
        with pytest.raises(ValueError, match="noise must be positive and finite, not 0"):
            make(name).reconstruction(problem()[0], noise=0)

    @pytest.mark.parametrize("step", [0, -1.0, float("nan")])
    @pytest.mark.parametrize("name", NAMED)
    def test_the_first_step_is_positive(self, name, step):
        option = "beta" if name == "ldrl" else "alpha"
        with pytest.raises(ValueError, match=rf"{option} must be positive and finite, not {step}"):
            make(name, **{option: step})

    def test_options_of_their_own(self):
        with pytest.raises(ValueError, match=r"decay must be at least 0 and finite, not -0.1"):
            make("dtp_drl", decay=-0.1)
        for draws in (0, 1.5, True):
            with pytest.raises(ValueError, match=f"draws must be a positive whole number, not {draws}"):
                make("ldrl", draws=draws)
