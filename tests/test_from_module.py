"""A reader's own stack of PyTorch layers: its arithmetic is the stack's, rules train it, what it cannot be is said."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from bioplaus_lite import evaluate, fit, load
from bioplaus_lite.measures import backprop_errors, gradients, true_gradients
from bioplaus_lite.networks import MLP, Network
from bioplaus_lite.rules import make_rule

F64 = torch.float64


def lenet(activation=nn.Tanh, pool=nn.AvgPool2d):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2),
        nn.Conv2d(6, 16, 5), activation(), pool(2), nn.Flatten(),
        nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10),
    )  # fmt: skip


def strided():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ELU(), nn.Sequential(nn.Conv2d(4, 3, (3, 2), stride=(1, 2)),
        nn.Softplus()), nn.Flatten(), nn.Linear(3 * 3 * 2, 5, bias=False), nn.LeakyReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def pooled(kind, **options):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same"), nn.Sigmoid(), kind(3, **options), nn.Flatten(), nn.LazyLinear(3)
    )


STACKS = {
    "LeNet": (lenet, (784,)),
    "LeNet, max": (lambda: lenet(nn.ReLU, nn.MaxPool2d), (784,)),
    "strides": (strided, (2, 9, 9)),
    "overlapping max": (lambda: pooled(nn.MaxPool2d, stride=2), (2, 9, 9)),
    "overlapping mean": (lambda: pooled(nn.AvgPool2d, stride=2), (2, 9, 9)),
    "padded max": (lambda: pooled(nn.MaxPool2d, stride=2, padding=1), (2, 8, 8)),
    "padded mean": (lambda: pooled(nn.AvgPool2d, stride=2, padding=1), (2, 8, 8)),
    "rest": (lambda: pooled(nn.AvgPool2d), (2, 8, 7)),
    "rest, max": (lambda: pooled(nn.MaxPool2d), (2, 8, 7)),
    "gaps": (lambda: pooled(nn.MaxPool2d, stride=4), (2, 9, 9)),
    "gaps, mean": (lambda: pooled(nn.AvgPool2d, stride=4), (2, 9, 9)),
    "linear pair": (lambda: nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5), nn.Identity(), nn.Linear(5, 3)), (7,)),
}


def stack_of(name):
    make, shape = STACKS[name]
    torch.manual_seed(0)
    module = make().double()
    g = torch.Generator().manual_seed(1)
    x = torch.rand(6, *shape, generator=g, dtype=F64)
    module(x)  # lazy layers learn their size
    return module, shape, x, torch.randint(3, (6,), generator=g)


@pytest.mark.parametrize("name", STACKS)
def test_scores_are_the_modules_and_backprop_is_autograd(name):
    module, shape, x, y = stack_of(name)
    network = Network.from_module(module, shape)
    torch.testing.assert_close(network(x), module(x), rtol=1e-12, atol=1e-14)
    rule = make_rule("backprop", network)
    module.zero_grad()
    nn.functional.cross_entropy(module(x), y).backward()
    expected = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    rule.assign_gradients(x, y)
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)
    true = backprop_errors(rule, x, y)
    for layer, error in rule.errors(x, y).items():
        torch.testing.assert_close(error, true[layer], rtol=1e-10, atol=1e-14)
    assert network.sizes[0] == x[0].numel() and network.sizes[-1] == module(x).shape[1]


@pytest.mark.parametrize("rule", ["fa", "usf", "frsf", "brsf", "kolen_pollack"])
@pytest.mark.parametrize("name", ["LeNet", "strides", "padded max"])
def test_a_feedback_rule_with_the_transpose_is_backprop_and_with_its_own_weights_is_not(name, rule):
    module, shape, x, y = stack_of(name)
    learner = make_rule(rule, Network.from_module(module, shape)).eval()
    true = true_gradients(learner, x, y)
    own = gradients(learner, x, y)
    assert not torch.allclose(own[1], true[1])
    learner.feedback = lambda layer: learner.network.weight(layer).detach().transpose(0, 1)
    for layer, gradient in gradients(learner, x, y).items():
        torch.testing.assert_close(gradient, true[layer], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", ["backprop", "fa", "usf", "kolen_pollack"])
def test_a_lenet_learns_and_the_module_with_it(rule):
    mnist = load("mnist")
    module = lenet()
    learner = make_rule(rule, Network.from_module(module, (784,)))
    train, test = (mnist.x_train[:3000], mnist.y_train[:3000]), (mnist.x_test[:500], mnist.y_test[:500])
    fit(learner, train, epochs=3, batch_size=50, optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-3))
    assert evaluate(learner, *test)["accuracy"] > 0.8
    with torch.no_grad():
        assert (module(test[0]).argmax(1) == test[1]).float().mean() > 0.8


def test_feedback_weights_have_the_spread_of_the_weights_as_given():
    module = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100))
    nn.init.normal_(module[2].weight, std=0.7)
    rule = make_rule("fa", Network.from_module(module))
    assert rule.B2.std().item() == pytest.approx(0.7, rel=0.02)
    own = make_rule("fa", MLP((300, 200, 100)))
    assert own.B2.abs().max().item() <= 1 / 200**0.5


@pytest.mark.parametrize("rule", ["dfa", "weight_mirror", "dtp", "microcircuits", "segregated"])
def test_rules_of_other_networks_say_so(rule):
    with pytest.raises(TypeError, match=r"takes a network of the kind (MLP|RateNetwork), not a Network"):
        make_rule(rule, Network.from_module(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))))


def doubled(kind):
    """A subclass of a reader's that does something else."""
    return type("Doubled", (kind,), {"forward": lambda self, x: 2 * kind.forward(self, x)})


def frozen(part):
    weight = part.weight.detach()
    del part.weight
    part.weight = weight
    return part


def hooked(part, before=False):
    (part.register_forward_pre_hook if before else part.register_forward_hook)(lambda module, *_: None)
    return part


L = nn.Linear
SUB = {kind.__name__: doubled(kind) for kind in (nn.Linear, nn.ReLU, nn.Sequential, nn.Conv2d, nn.Flatten, nn.Unflatten,
                                                 nn.MaxPool2d)}  # fmt: skip
REFUSED = {
    "softmax": (lambda: [L(4, 3), nn.Softmax(1)], "layer 1, Softmax: not taken; the loss takes scores"),
    "final relu": (lambda: [L(4, 3), nn.ReLU()], "layer 1, ReLU: the last layer must be linear"),
    "gelu": (lambda: [L(4, 3), nn.GELU(), L(3, 2)], "layer 1, GELU: not taken; its slope"),
    "batch norm": (lambda: [L(4, 3), nn.BatchNorm1d(3), L(3, 2)], "layer 1, BatchNorm1d: not taken; its statistics"),
    "dropout": (lambda: [L(4, 3), nn.ReLU(), nn.Dropout(), L(3, 2)], "layer 2, Dropout: not taken"),
    "lstm": (lambda: [L(4, 3), nn.LSTM(3, 2)], "layer 1, LSTM: not taken; known are Linear, Conv2d"),
    "nested": (lambda: [L(4, 3), nn.Sequential(nn.ReLU(), nn.GELU())], r"layer 1\.1, GELU"),
    "slope": (lambda: [L(4, 3), nn.LeakyReLU(0.2), L(3, 2)], r"LeakyReLU: negative_slope must be 0\.01, not 0\.2"),
    "first activation": (lambda: [L(4, 3), nn.ReLU(), nn.ReLU(), L(3, 2)], "layer 2, ReLU: an activation must stand"),
    "sizes": (lambda: [L(4, 3), nn.ReLU(), L(5, 2)], r"layer 2, Linear: does not fit an activity of shape \(3,\)"),
    "own linear": (lambda: [L(4, 3), nn.ReLU(), SUB["Linear"](3, 2)], "layer 2, Doubled: not taken"),
    "own relu": (lambda: [L(4, 3), SUB["ReLU"](), L(3, 2)], "layer 1, Doubled: not taken"),
    "own sequence": (lambda: [L(4, 3), SUB["Sequential"](nn.ReLU()), L(3, 2)], "layer 1, Doubled: not taken"),
    "lazy": (lambda: [nn.LazyLinear(3), nn.ReLU(), L(3, 2)], r"layer 0, LazyLinear: its size is not known until"),
    "hook": (lambda: [L(4, 3), hooked(nn.ReLU()), L(3, 2)], "layer 1, ReLU: not taken; a hook may change"),
    "hook before": (lambda: [L(4, 3), nn.ReLU(), hooked(L(3, 2), True)], "layer 2, Linear: not taken; a hook may"),
    "hooked sequence": (lambda: [L(4, 3), hooked(nn.Sequential(nn.ReLU())), L(3, 2)], "layer 1, Sequential: not taken"),
    "worked out": (lambda: [L(4, 3), nn.ReLU(), weight_norm(L(3, 2))], "layer 2, ParametrizedLinear: not taken"),
    "no parameter": (lambda: [L(4, 3), nn.ReLU(), frozen(L(3, 2))], "layer 2, Linear: its weight must be a plain"),
    "empty": (lambda: [], "input_shape, the shape of one example, is needed"),
    "conv first": (lambda: [nn.Conv2d(1, 2, 3)], "input_shape, the shape of one example, is needed"),
}
REFUSED_MAPS = {
    "dilation": (lambda: [nn.Conv2d(2, 4, 3, dilation=2)], r"layer 0, Conv2d: dilation must be \(1, 1\), not \(2, 2\)"),
    "groups": (lambda: [nn.Conv2d(2, 4, 3, groups=2)], "layer 0, Conv2d: groups must be 1, not 2"),
    "padding mode": (lambda: [nn.Conv2d(2, 4, 3, padding_mode="circular")], "padding_mode must be zeros"),
    "same, even": (lambda: [nn.Conv2d(2, 4, 2, padding="same")], "padding 'same' needs odd kernels"),
    "ends in maps": (lambda: [nn.Conv2d(2, 4, 3)], "the last layer must be Linear"),
    "pool, then relu": (lambda: [nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU()], "before max pooling it gives the"),
    "ceil": (lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)], "ceil_mode must be False"),
    "oblong": (lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d((2, 1))], "kernel_size must be equal in both"),
    "divisor": (lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2, divisor_override=3)], "divisor_override must"),
    "border": (
        lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2, padding=1, count_include_pad=False)],
        "count_include_pad must be True",
    ),
    "flatten": (lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(2), L(49, 3)], "start_dim and end_dim must be 1"),
    "ends in a pool": (lambda: [nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)], "the last layer must be Linear"),
    "no flatten": (lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), L(7, 3)], r"layer 2, Linear: .*\(4, 7, 7\); a Flatten is"),
    "own convolution": (lambda: [SUB["Conv2d"](2, 4, 3)], "layer 0, Doubled: not taken"),
    "own flatten": (lambda: [nn.Conv2d(2, 4, 3), SUB["Flatten"](), L(196, 3)], "layer 1, Doubled: not taken"),
    "own unflatten": (lambda: [SUB["Unflatten"](1, (1, 2)), nn.Conv2d(1, 4, 3)], "layer 0, Doubled: not taken"),
    "own pool": (lambda: [nn.Conv2d(2, 4, 3), SUB["MaxPool2d"](2), L(196, 3)], "layer 1, Doubled: not taken"),
    "does not fit": (lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), L(5, 3)], r"layer 2, Linear: does not fit an activity"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_take_is_named_with_its_place(name):
    make, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        Network.from_module(nn.Sequential(*make()))


@pytest.mark.parametrize("name", REFUSED_MAPS)
def test_what_it_cannot_take_of_maps_is_named_with_its_place(name):
    make, said = REFUSED_MAPS[name]
    with pytest.raises(ValueError, match=said):
        Network.from_module(nn.Sequential(*make()), (2, 9, 9))


def test_only_a_sequence_is_taken():
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Sequential, not Linear"):
        Network.from_module(nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Sequential, not Doubled"):
        Network.from_module(SUB["Sequential"](nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="from_module: Sequential: not taken; a hook may change what it does"):
        Network.from_module(hooked(nn.Sequential(nn.Linear(3, 2))))
    with pytest.raises(ValueError, match="every entry of input_shape must be a positive whole number, not 0"):
        Network.from_module(nn.Sequential(nn.Linear(4, 2)), (0,))


def test_weights_that_two_layers_share_are_summed():
    shared = nn.Linear(6, 6, dtype=F64)
    module = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3, dtype=F64))
    rule = make_rule("backprop", Network.from_module(module))
    x, y = torch.rand(5, 6, dtype=F64), torch.arange(5) % 3
    nn.functional.cross_entropy(module(x), y).backward()
    expected = [p.grad.clone() for p in module.parameters()]
    rule.assign_gradients(x, y)
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-11, atol=1e-15)
