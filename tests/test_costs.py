"""What a step costs, against counts by hand."""

import pytest
import torch

from bioplaus_lite.costs import Cost, _Traffic, step_cost
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.networks import CNN, MLP
from bioplaus_lite.rules import make_rule


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.rand(20, 30, generator=g), torch.arange(20) % 4


def test_products_of_backprop_and_feedback_alignment(batch):
    up, error = 30 * 12 + 12 * 8 + 8 * 4, 12 * 8 + 8 * 4  # no error is sent below the first hidden layer
    for name in ("backprop", "fa"):
        rule = make_rule(name, MLP((30, 12, 8, 4)))
        before = [p.clone() for p in rule.parameters()]
        assert step_cost(rule, *batch).macs == 2 * up + error
        assert all(map(torch.equal, before, rule.parameters())), "the rule is left as it is"
        assert all(p.grad is None for p in rule.parameters())


def test_products_of_direct_feedback(batch):
    up = 30 * 12 + 12 * 8 + 8 * 4
    assert step_cost(make_rule("dfa", MLP((30, 12, 8, 4))), *batch).macs == 2 * up + 4 * (12 + 8)


def test_both_products_of_a_mirror(batch):
    """Noise up, and noise times response into ``B``: two products a layer and a batch of 20."""
    rule = make_rule("weight_mirror", MLP((30, 12, 8, 4)), samples=5)
    mirrored = 12 * 8 + 8 * 4
    assert step_cost(rule, *batch).macs == 2 * (30 * 12 + mirrored) + mirrored + 2 * 5 * mirrored / 20


def test_products_of_a_convolution():
    x, y = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    cost = step_cost(make_rule("backprop", CNN((1, 8, 8), (3,), 4)), x, y)
    assert cost.macs == 2 * (25 * 3 * 64 + 48 * 4) + 48 * 4


def test_bytes_fall_with_the_batch_and_grow_with_the_state_of_the_optimiser(batch):
    x, y = batch
    rule = make_rule("backprop", MLP((30, 12, 4)))
    one, many = step_cost(rule, x[:1], y[:1]), step_cost(rule, x, y)
    adam = step_cost(rule, x, y, torch.optim.Adam(rule.parameter_groups(), lr=1e-3))
    assert one.macs == many.macs == adam.macs
    assert many.bytes < one.bytes / 5
    assert adam.bytes > many.bytes
    # At the least, weights and gradients are read once each and both are written once.
    assert one.bytes >= 4 * 4 * (30 * 12 + 12 * 4)


def test_bytes_are_those_of_tensors_that_operations_read_and_write_and_views_are_free():
    a, b = torch.ones(3, 4), torch.ones(5, 4)
    with _Traffic() as traffic:
        turned = b.T
        assert traffic.bytes == 0
        product = a @ turned
        assert traffic.bytes == 4 * (3 * 4 + 4 * 5 + 3 * 5)
        product.add_(1.0)
    assert traffic.bytes == 4 * (3 * 4 + 4 * 5 + 3 * 5) + 4 * 2 * 3 * 5
    labels, double = torch.arange(5), torch.zeros(5, dtype=torch.float64)
    with _Traffic() as traffic:    # numbers count by their own width: 8 bytes, 8, and 1
        labels.gt(double)
    assert traffic.bytes == 5 * (8 + 8 + 1)


def test_segregated_compartments_by_hand(batch):
    x, y = batch
    sizes, weights, apical = (30, 12, 4), 30 * 12 + 12 * 4, 12 * 4
    rate = make_rule("segregated", RateNetwork(sizes, SegregatedParameters(mode="rate", voltages="steady")))
    assert step_cost(rate, x, y) == Cost(2 * weights + 2 * apical, 4 * (weights + 2 * apical + 2 * weights))

    silent = make_rule("segregated", RateNetwork(sizes, SegregatedParameters(phase_mean=0.0, phi_max=1e-9)))
    assert step_cost(silent, x, y).macs == weights + 3 * 100 * 16  # two phases of 50 ms, and nobody fires
    rule = make_rule("segregated", RateNetwork(sizes))
    spikes = [rule.simulation().example(x[0].numpy(), 0, learn=False, record=True).trace.spikes]
    expected = weights + sum(float(s.sum()) * n for s, n in zip(spikes[0], (12, 4, 12), strict=True))
    steps = len(spikes[0][0])
    assert step_cost(rule, x[:1], y[:1]).macs == expected + 3 * steps * 16
