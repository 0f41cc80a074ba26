"""Networks: their arithmetic against PyTorch's own layers and autograd."""

import pytest
import torch
import torch.nn.functional as F

from bioplaus_lite.networks import ACTIVATIONS, CNN, INITS, MLP


@pytest.fixture(params=[*ACTIVATIONS])
def activation(request):
    return request.param


def test_mlp_forward_is_that_of_torch_layers(activation):
    net = MLP((7, 5, 3), activation=activation, seed=3, dtype=torch.float64)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = ACTIVATIONS[activation].function(F.linear(x, net.W1, net.b1))
    torch.testing.assert_close(net(x), F.linear(hidden, net.W2, net.b2))
    assert [tuple(h.shape) for h in net.activities(x)] == [(4, 7), (4, 5), (4, 3)]


def test_slope_from_the_activity_is_the_derivative(activation):
    a = torch.linspace(-2, 2, 9, dtype=torch.float64).add(0.05).requires_grad_()
    function, slope = ACTIVATIONS[activation]
    h = function(a)
    (expected,) = torch.autograd.grad(h.sum(), a)
    torch.testing.assert_close(slope(h.detach()).double(), expected, rtol=0, atol=1e-15)


def test_cnn_forward_is_that_of_torch_layers():
    net = CNN((3, 8, 8), (4, 6), 5, kernel=3, seed=1, dtype=torch.float64)
    x = torch.randn(2, 192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = F.max_pool2d(F.relu(F.conv2d(x.view(2, 3, 8, 8), net.W1, net.b1, padding=1)), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, net.W2, net.b2, padding=1)), 2)
    torch.testing.assert_close(net(x), F.linear(h.flatten(1), net.W3, net.b3))
    assert net.sizes == (192, 256, 96, 5)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_sending_back_through_the_transpose_is_the_derivative_by_the_layer_below(layer):
    net = CNN((2, 8, 8), (3, 4), 5, kernel=3, dtype=torch.float64)
    x = torch.rand(2, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    below = net.activities(x)[layer - 1].detach().requires_grad_()
    current = net.current(layer, below)
    delta = torch.randn(current.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected,) = torch.autograd.grad(current, below, delta)
    got = net.send_back(layer, delta, net.weight(layer).detach().transpose(0, 1), below.detach())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_one_seed_gives_one_network_in_both_precisions():
    single, double = MLP((6, 4, 2), seed=5), MLP((6, 4, 2), seed=5, dtype=torch.float64)
    torch.testing.assert_close(single.W1.double(), double.W1, rtol=0, atol=1e-7)
    assert not torch.equal(MLP((6, 4, 2), seed=6).W1, single.W1)


@pytest.mark.parametrize("init", [*INITS])
def test_weights_fill_their_range_and_biases_are_zero(init):
    net = MLP((200, 100, 10), init=init)
    width = INITS[init](200, 100)
    assert width * 0.99 < net.W1.abs().max() <= width
    assert net.half_width(1) == width
    assert not net.b1.any()
    convolution = CNN((3, 8, 8), (40, 60), 10, init=init)    # each unit has 5 x 5 weights for each channel
    width = INITS[init](40 * 25, 60 * 25)
    assert width * 0.99 < convolution.W2.abs().max() <= width
    assert convolution.half_width(2) == pytest.approx(width)


def test_construction_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    MLP((4, 3, 2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((784,)), "at least|needs an input"),
        (lambda: MLP((784, 0, 10)), "not 0"),
        (lambda: MLP((784, -5, 10)), "not -5"),
        (lambda: MLP((784, 2.5, 10)), r"not 2\.5"),
        (lambda: MLP((784, 10), activation="swish"), "'swish'; choose one of elu, leaky_relu, linear, relu"),
        (lambda: MLP((784, 10), init="zeros"), "'zeros'; choose one of glorot"),
        (lambda: MLP((784, 10), dtype=torch.int64), "torch.int64"),
        (lambda: CNN((28, 28)), r"\(28, 28\)"),
        (lambda: CNN((1, 30, 28)), "30 × 28"),
        (lambda: CNN(kernel=4), "not 4"),
        (lambda: CNN(channels=()), "none"),
        (lambda: CNN(classes=0), "not 0"),
    ],
)
def test_bad_construction_names_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(784,), (0, 784), (3, 783), (3, 28, 28)])
def test_bad_input_names_its_shape(shape):
    with pytest.raises(ValueError, match=r"this network takes \(batch ≥ 1, 784\)"):
        MLP((784, 10))(torch.zeros(shape))


def test_input_of_another_precision_is_refused():
    with pytest.raises(ValueError, match=r"float64 on cpu, the weights are torch.float32 on cpu"):
        MLP((4, 2))(torch.zeros(1, 4, dtype=torch.float64))
