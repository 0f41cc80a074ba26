"""Diagnostics against values known in closed form."""

import math

import pytest
import torch

from bioplaus_lite import measures as d
from bioplaus_lite.networks import CNN, MLP
from bioplaus_lite.rules import RULES, make_rule
from bioplaus_lite.rules.backprop import Backprop


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.rand(20, 7, generator=g, dtype=torch.float64), torch.randint(4, (20,), generator=g)


def make(name, sizes=(7, 6, 5, 4), **options):
    return make_rule(name, MLP(sizes, activation="tanh", dtype=torch.float64), **options)


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 0.01, 30.0, 90.0, 179.99, 180.0])
def test_angles_are_exact_even_near_zero(degrees):
    t = math.radians(degrees)
    u = torch.tensor([2.0, 0.0], dtype=torch.float64)
    v = 3 * torch.tensor([math.cos(t), math.sin(t)], dtype=torch.float64)
    assert d.angle(u, v) == pytest.approx(degrees, abs=1e-9)


def test_angle_has_a_sign_convention_and_refuses_other_shapes():
    u = torch.tensor([1.0, 2.0])
    assert d.angle(u, -u) == 180
    assert math.isnan(d.angle(u, torch.zeros(2)))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        d.angle(u, torch.zeros(3))


def test_backprop_is_at_zero_degrees(batch):
    rule = make("backprop")
    assert max(d.update_angles(rule, *batch).values()) < 1e-6
    assert max(d.error_angles(rule, *batch).values()) < 1e-6
    assert max(d.weight_angles(rule).values()) == 0
    torch.testing.assert_close(d.feedback_product(rule, *batch), torch.ones(20, dtype=torch.float64))


def test_a_layer_held_fixed_has_an_angle_too(batch):
    rule = make("fa")
    expected = d.update_angles(rule, *batch)
    rule.network.W2.requires_grad_(False)
    assert d.update_angles(rule, *batch) == expected
    assert not rule.network.W2.requires_grad


def test_negated_feedback_points_uphill(batch):
    rule = make("fa", sizes=(7, 6, 4))
    rule.B2.copy_(-rule.network.W2.detach().T)
    assert d.weight_angles(rule)[2] == 180
    assert d.update_angles(rule, *batch)[1] == pytest.approx(180)
    assert d.update_angles(rule, *batch)[2] == pytest.approx(0, abs=1e-6)
    assert (d.feedback_product(rule, *batch) + 1).abs().max() < 1e-12


def test_pseudo_inverse_angle_is_zero_for_the_pseudo_inverse(batch):
    rule = make("fa", sizes=(7, 6, 4))
    assert d.pseudo_inverse_angle(rule, *batch) > 20
    rule.B2.copy_(torch.linalg.pinv(rule.network.W2.detach()))
    assert d.pseudo_inverse_angle(rule, *batch) < 1e-6
    # Wᵀe and W⁺e agree only when the rows of W are orthogonal and of one length.
    with torch.no_grad():
        rule.network.W2.copy_(torch.linalg.qr(rule.network.W2.T)[0].T)
    rule.B2.copy_(rule.network.W2.detach().T)
    assert d.pseudo_inverse_angle(rule, *batch) < 1e-6


def test_direct_feedback_is_compared_with_the_whole_path(batch):
    rule = make("dfa", sizes=(7, 6, 5, 4))
    net = rule.network
    path = (net.W3 @ net.W2).detach()
    assert d.weight_angles(rule)[2] == pytest.approx(d.angle(path, rule.B1.T))
    rule.B1.copy_(path.T)
    assert d.weight_angles(rule)[2] == 0


class Skips(Backprop):
    """Feedback from two layers above, as far as there are so many; it says no more than that."""

    def sender(self, layer):
        return min(layer + 1, self.network.depth)


@pytest.mark.parametrize(("name", "senders"), [("dfa", 4), ("segregated", 4), ("skips", 3), ("fa", 2)])
def test_the_forward_path_goes_from_the_layer_to_its_sender(name, senders):
    sizes = (7, 6, 5, 8, 4)
    make = RULES[name].network if name in RULES else MLP
    net = make(sizes, dtype=torch.float64)
    rule = make_rule(name, net) if name in RULES else Skips(net)
    W = {layer: net.weight(layer).detach() for layer in (1, 2, 3, 4)}
    assert rule.sender(2) == senders
    torch.testing.assert_close(rule.forward_path(2), {2: W[2], 3: W[3] @ W[2], 4: W[4] @ W[3] @ W[2]}[senders])
    torch.testing.assert_close(rule.forward_path(4), W[4])
    assert not rule.forward_path(2).requires_grad


def test_backprop_errors_agree_with_the_rule_on_a_cnn():
    rule = make_rule("backprop", CNN((1, 8, 8), (3, 4), 4, dtype=torch.float64))
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(5) % 4
    for layer, delta in d.backprop_errors(rule, x, y).items():
        torch.testing.assert_close(delta, rule.errors(x, y)[layer], rtol=0, atol=1e-12)


def test_diagnostics_leave_no_trace(batch):
    rule = make("weight_mirror")
    rule.assign_gradients(*batch)
    state = {k: v.clone() for k, v in rule.state_dict().items()}
    grads = [p.grad.clone() for p in rule.network.parameters()]
    d.update_angles(rule, *batch), d.error_angles(rule, *batch), d.update_snr(rule, [batch, batch])
    d.inverse_jacobian_angles(rule, *batch), d.gradient_noise(rule, [batch, batch])
    d.Dynamics(rule)(rule, *batch)
    assert all(torch.equal(state[k], v) for k, v in rule.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, rule.network.parameters(), strict=True))
    assert rule.training


def test_snr_of_two_known_gradients(batch):
    rule = make("fa")
    x, y = batch
    first, second = (x[:10], y[:10]), (x[10:], y[10:])
    g1, g2 = d.gradients(rule, *first)[1], d.gradients(rule, *second)[1]
    expected = ((g1 + g2) / 2).norm() / ((g1 - g2).norm() / math.sqrt(2))
    assert d.update_snr(rule, [first, second])[1] == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="at least 2 batches, got 1"):
        d.update_snr(rule, [first])


def test_the_participation_ratio_counts_directions():
    rows = torch.zeros(6, 5)
    for i in range(3):
        rows[2 * i, i], rows[2 * i + 1, i] = 1, -1
    assert d.participation_ratio(rows + 7) == pytest.approx(3)
    assert d.participation_ratio(torch.arange(4.0).unsqueeze(1) @ torch.ones(1, 5)) == pytest.approx(1)
    eigenvalues = torch.tensor([4.0, 1.0])
    rows = torch.stack([eigenvalues.sqrt(), -eigenvalues.sqrt(), eigenvalues.sqrt() * torch.tensor([1, -1])])
    rows = torch.cat([rows, -rows[2:]])
    assert d.participation_ratio(rows) == pytest.approx(25 / 17)
    assert math.isnan(d.participation_ratio(torch.ones(4, 3)))


def test_dynamics_are_relative_to_start_and_to_the_last_call(batch):
    rule = make("backprop")
    dynamics = d.Dynamics(rule)
    w0 = rule.network.W1.detach().clone()
    assert dynamics(rule, *batch) == pytest.approx({f"weight_norm_{layer}": 1.0 for layer in (1, 2, 3)})
    with torch.no_grad():
        rule.network.W1.mul_(3)
    values = dynamics(rule, *batch)
    assert values["weight_norm_1"] == pytest.approx(3)
    assert values["update_norm_1"] == pytest.approx((2 * w0).norm().item() / (3 * w0).norm().item())
    assert values["update_norm_2"] == 0
    assert values["gradient_change_3"] > 0


def test_independent_gradients_show_the_floor_of_root_two():
    rule = make_rule("backprop", MLP((2000, 4)))
    dynamics = d.Dynamics(rule)
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4)
    changes = [dynamics(rule, torch.randn(4, 2000, generator=g), y).get("gradient_change_1") for _ in range(20)]
    assert sum(changes[1:]) / 19 == pytest.approx(math.sqrt(2), rel=0.02)


def test_feedback_of_a_layer_that_has_none_is_refused(batch):
    with pytest.raises(ValueError, match="layer must be a whole number from 2 to 3, not 1"):
        d.path_feedback(make("fa"), 1)


@pytest.mark.parametrize("layer", [1, 2])
def test_the_inverse_jacobian_error_is_the_smallest_that_moves_the_scores(batch, layer):
    x, y = batch
    rule = make("backprop")
    net = rule.network
    h = net.activities(x)
    e = torch.softmax(h[-1], 1) - torch.nn.functional.one_hot(y, 4)

    def scores(a):
        above = torch.tanh(a)
        for k in range(layer + 1, 4):
            above = net.current(k, above)
            above = torch.tanh(above) if k < 3 else above
        return above

    steps = []
    for i in range(len(x)):  # one by one, by least squares
        jacobian = torch.autograd.functional.jacobian(scores, net.current(layer, h[layer - 1][i]).detach())
        steps.append(torch.linalg.lstsq(jacobian, e[i, :, None].detach(), driver="gelsd").solution[:, 0])
    expected = d.angles_by_row(rule.errors(x, y)[layer], torch.stack(steps)).mean().item()
    assert expected > 5
    assert d.inverse_jacobian_angles(rule, x, y)[layer] == pytest.approx(expected, abs=1e-4)


def test_feedback_by_the_pseudo_inverse_is_at_the_inverse_jacobian(batch):
    rule = make_rule("fa", MLP((7, 6, 4), activation="relu", dtype=torch.float64, seed=1))
    with torch.no_grad():
        rule.network.b1.add_(10)  # every unit is on: the Jacobian is W₂ for all examples
    rule.B2.copy_(torch.linalg.pinv(rule.network.W2.detach()))
    assert d.inverse_jacobian_angles(rule, *batch)[1] == pytest.approx(0, abs=1e-4)
    rule.B2.neg_()
    assert d.inverse_jacobian_angles(rule, *batch)[1] == pytest.approx(180, abs=1e-4)


def test_the_inverse_jacobian_exists_for_every_rule_that_has_hidden_layers():
    x, y = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    cnn = d.inverse_jacobian_angles(make_rule("backprop", CNN((1, 8, 8), (3, 4), 4)), x, y)
    assert sorted(cnn) == [1, 2] and all(0 < angle < 90 for angle in cnn.values())
    assert d.inverse_jacobian_angles(make_rule("backprop", MLP((64, 4))), x, y) == {}


@pytest.mark.parametrize(("n", "parts"), [(20, 10), (20, 3), (19, 9)])
def test_parts_of_a_probe_use_every_example(batch, n, parts):
    rule, (x, y) = make("backprop"), (part[:n] for part in batch)
    seen = []
    rule.gradients = lambda x, y: seen.append((x, y)) or {}
    assert len(d.Probe(rule, x, y, parts=parts).part_gradients) == len(seen) == parts
    assert torch.equal(torch.cat([part for part, _ in seen]), x)
    assert torch.equal(torch.cat([labels for _, labels in seen]), y)
    sizes = {len(labels) for _, labels in seen}
    assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match=f"11 parts need at least 22 examples, not {n}"):
        _ = d.Probe(rule, x, y, parts=11).part_gradients


def test_gradient_noise_of_known_gradients(batch):
    rule = make("fa")
    x, y = batch
    parts = [(x[:8], y[:8]), (x[8:14], y[8:14]), (x[14:], y[14:])]
    g = [d.gradients(rule, *part)[2] for part in parts]
    expected = ((g[1] - g[0]).norm() / g[0].norm() + (g[2] - g[1]).norm() / g[1].norm()) / 2
    assert d.gradient_noise(rule, parts)[2] == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="at least 2 batches, got 1"):
        d.gradient_noise(rule, parts[:1])
