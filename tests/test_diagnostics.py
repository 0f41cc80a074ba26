"""Diagnostics against values known in closed form."""

import math

import pytest
import torch

from bioplaus_lite import diagnostics as d
from bioplaus_lite.networks import CNN, MLP
from bioplaus_lite.rules import make_rule


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
    with pytest.raises(ValueError, match="layers 2 … 3, not 1"):
        d.path_feedback(make("fa"), 1)
