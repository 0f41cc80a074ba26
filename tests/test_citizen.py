"""A good PyTorch citizen: what users of PyTorch do with a module works with every rule, or is refused in words."""

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bioplaus_lite import evaluate, fit
from bioplaus_lite.measures import gradients, true_gradients
from bioplaus_lite.networks import ACTIVATIONS, CNN, MLP
from bioplaus_lite.rules import RULES, LearningRule, make_rule

SIZES, CLASSES = (20, 16, 12, 4), 4
ACTIVATION_OF = {name: [*ACTIVATIONS] if card.network.__class__.__name__ == "type" and card.network is MLP else ["tanh"]
                 for name, card in RULES.items()}  # fmt: skip
BATCHED = [name for name, card in RULES.items() if not card.rule.online]


def problem(n=64, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, SIZES[0], generator=g, dtype=dtype), torch.randint(0, CLASSES, (n,), generator=g)


def make(name, *, seed=0, **options):
    """The rule on the network at which its card says it is at home; a network's own options by ``net_…``."""
    net = {key.removeprefix("net_"): options.pop(key) for key in [*options] if key.startswith("net_")}
    network = RULES[name].network(SIZES, seed=seed, **net)
    takes_seed = "seed" in RULES[name].takes
    return make_rule(name, network, **({"seed": seed + 1} if takes_seed else {}), **options)


def optimizer_of(rule, cls=torch.optim.SGD, **options):
    groups = rule.parameter_groups()
    return cls(groups, **({} if rule.online else {"lr": 0.05} | options))


# --- E1: going on ----------------------------------------------------------------------------------------------------


def options_of(name):
    more = {
        "microcircuits": [{}, {"feedback": "learned", "lateral": "learned"}, {"feedback": "symmetric"}],
        "ao_sdtp": [{"auxiliary": 5}],
    }
    return more.get(name, [{}])


CASES = [(name, options) for name in RULES for options in options_of(name)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_state_dict_goes_on_bit_for_bit(name, options):
    x, y = problem(20 if RULES[name].rule.online else 64)
    rule = make(name, **options)
    optimizer = optimizer_of(rule)
    rule.phase = rule.phases[-1] if name != "microcircuits" else "all"
    for _ in range(2):
        rule.learn(x, y, optimizer)
    torch.save({"rule": rule.state_dict(), "optimizer": optimizer.state_dict()}, buffer := io.BytesIO())
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in saved["rule"].values())
    other = make(name, seed=7, **options)
    other.load_state_dict(saved["rule"])
    again = torch.save(other.state_dict(), io.BytesIO())  # saved before its first use, nothing is lost
    assert again is None and other.state_dict().keys() == rule.state_dict().keys()
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in saved["rule"].items())
    went_on = optimizer_of(other)
    went_on.load_state_dict(saved["optimizer"])
    for _ in range(3):
        assert torch.equal(rule.learn(x, y, optimizer), other.learn(x, y, went_on))
    assert rule.phase == other.phase
    for (key, value), (_, theirs) in zip(rule.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, theirs), key


# --- E2: what is held stays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", BATCHED)
def test_a_held_weight_does_not_move_whichever_optimiser_was_made_when(name, when):
    x, y = problem()
    rule = make(name)
    if when == "before":
        rule.network.W1.requires_grad_(False)
        rule.network.b2.requires_grad_(False)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    if when == "after":
        rule.learn(x, y, optimizer)
        rule.network.W1.requires_grad_(False)
        rule.network.b2.requires_grad_(False)
    held = rule.network.W1.detach().clone(), rule.network.b2.detach().clone()
    moves = rule.network.W2.detach().clone()
    for _ in range(2):
        rule.learn(x, y, optimizer)
    assert torch.equal(held[0], rule.network.W1) and torch.equal(held[1], rule.network.b2)
    assert not torch.equal(moves, rule.network.W2)
    assert rule.network.W1.grad is None and rule.network.b2.grad is None
    assert set(gradients(rule, x, y)) == {1, 2, 3}  # what it would have learned can still be asked


# --- E3, E4: bad numbers and labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(("name", "activation"), [(n, a) for n in RULES for a in ACTIVATION_OF[n]])
def test_an_input_that_is_not_finite_is_refused_and_the_next_batch_is_taken(name, activation, bad):
    options = {"net_activation": activation} if ACTIVATION_OF[name] != ["tanh"] else {}
    rule, (x, y) = make(name, **options), problem(20)
    optimizer = optimizer_of(rule)
    before = copy.deepcopy(rule.state_dict())
    spoiled = x.clone()
    spoiled[3, 2] = bad
    with pytest.raises(ValueError, match=r"input holds -?(inf|nan)"):
        rule.learn(spoiled, y, optimizer)
    assert all(p.grad is None for p in rule.parameters())
    assert all(torch.equal(v, before[k]) for k, v in rule.state_dict().items())
    assert torch.isfinite(rule.learn(x, y, optimizer))


BAD_LABELS = {
    "one-hot": (lambda y: F.one_hot(y, CLASSES).float(), ValueError, r"int64 of shape \(64,\), not torch.float32"),
    "int32": (lambda y: y.int(), ValueError, "not torch.int32"),
    "float": (lambda y: y.float(), ValueError, "not torch.float32"),
    "a column": (lambda y: y[:, None], ValueError, r"of \(64, 1\)"),
    "too large": (lambda y: y + 3, ValueError, "outside 0 … 3"),
    "negative": (lambda y: y - 4, ValueError, "label -4 is outside 0 … 3"),
    "NumPy": (lambda y: y.numpy(), TypeError, "must be a torch Tensor, not ndarray"),
    "a list": (lambda y: y.tolist(), TypeError, "must be a torch Tensor, not list"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
@pytest.mark.parametrize("name", ["backprop", "dtp", "microcircuits"])
def test_labels_that_are_none_are_refused_everywhere_in_the_same_words(name, kind):
    spoil, error, said = BAD_LABELS[kind]
    rule, (x, y) = make(name), problem()
    optimizer = optimizer_of(rule)
    for call in (
        lambda bad: rule.learn(x, bad, optimizer),
        lambda bad: evaluate(rule, x, bad),
        lambda bad: fit(rule, (x, bad)),
        lambda bad: fit(rule, (x, y), (x, bad)),
        lambda bad: rule.errors(x, bad),
        lambda bad: gradients(rule, x, bad),
    ):
        with pytest.raises(error, match=said):
            call(spoil(y))


def test_examples_of_another_size_or_kind_are_refused_by_evaluate_and_fit():
    rule, (x, y) = make("fa"), problem()
    for bad, error, said in [
        (x[:, :5], ValueError, r"data: input has shape \(64, 5\)"),
        (x.double(), ValueError, "torch.float64"),
        (x.numpy(), TypeError, "data: x must be a torch Tensor, not ndarray"),
        (x * float("nan"), ValueError, "data: input holds nan"),
        (x[:10], ValueError, "10 examples and 64 labels"),
    ]:
        with pytest.raises(error, match=said):
            evaluate(rule, bad, y)
        with pytest.raises(error, match=said.replace("data: ", "train: ")):
            fit(rule, (bad, y))
    with pytest.raises(TypeError, match=r"train must be a pair \(x, y\)"):
        fit(rule, x)
    with pytest.raises(TypeError, match="optimizer must be a torch optimiser"):
        fit(rule, (x, y), optimizer="SGD")


# --- E5, E6: tied weights, copies ------------------------------------------------------------------------------------


def test_tied_weights_take_the_sum_of_both_places():
    network = MLP((16, 16, 16, 4), activation="tanh", dtype=torch.float64)
    network.W2 = network.W1
    rule = make_rule("backprop", network)
    x, y = torch.rand(12, 16, dtype=torch.float64), torch.arange(12) % 4
    rule.assign_gradients(x, y)
    expected = torch.autograd.grad(rule.objective(rule(x), y), [network.W1, network.W3])
    torch.testing.assert_close(network.W1.grad, expected[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(network.W3.grad, expected[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("way", ["pickle", "torch.save", "deepcopy"])
@pytest.mark.parametrize("name", RULES)
def test_a_copy_of_a_rule_learns_as_the_rule_does(name, way):
    rule, (x, y) = make(name), problem(20)
    rule.learn(x, y, optimizer_of(rule))
    if way == "deepcopy":
        other = copy.deepcopy(rule)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(rule))
    else:
        torch.save(rule, buffer := io.BytesIO())
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    losses = [one.learn(x, y, optimizer_of(one)) for one in (rule, other) for _ in range(2)]
    assert torch.equal(losses[0], losses[2]) and torch.equal(losses[1], losses[3])
    assert torch.equal(rule.network.W1, other.network.W1)


# --- E7, E8: places, precisions, modes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BATCHED)
def test_everything_a_rule_makes_is_where_the_weights_are(name):
    network = RULES[name].network(SIZES).to("meta")
    options = {"lateral": "learned", "feedback": "learned"} if name == "microcircuits" else {}
    rule = make_rule(name, network, **options)
    places = {n: t.device.type for n, t in (*rule.named_parameters(), *rule.named_buffers())}
    assert set(places.values()) == {"meta"}, places
    trace = rule.observe(torch.rand(5, SIZES[0], device="meta"))
    assert {h.device.type for h in trace.h} == {"meta"}
    _, error = rule.answer(trace, torch.zeros(5, dtype=torch.int64, device="meta"))
    rule.prepare()
    for synapse in rule.synapses(trace, error, torch.zeros(5, dtype=torch.int64, device="meta")):
        assert synapse.post.device.type == synapse.pre.device.type == "meta", synapse.weight


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_rule_on_a_gpu_learns_what_it_learns_here(name):
    x, y = problem(dtype=torch.float64)
    here, there = make(name, net_dtype=torch.float64), make(name, net_dtype=torch.float64).to("cuda")
    for _ in range(3):
        here.learn(x, y, optimizer_of(here))
        there.learn(x.cuda(), y.cuda(), optimizer_of(there))
    torch.testing.assert_close(there.network.W1.cpu(), here.network.W1, rtol=1e-9, atol=1e-12)


def test_segregated_compartments_refuse_another_place_by_name():
    rule = make("segregated").to("meta")
    x, y = problem(5)
    with pytest.raises(ValueError, match="meta"):
        rule.learn(x, y, torch.optim.SGD(rule.parameter_groups()))
    with pytest.raises(ValueError, match="segregated compartments run on the processor"):
        rule.learn(x.to("meta"), y.to("meta"), torch.optim.SGD(rule.parameter_groups()))


def test_an_input_elsewhere_is_refused():
    rule, (x, y) = make("fa"), problem()
    with pytest.raises(ValueError, match=r"on meta, the weights are torch\.float32 on cpu"):
        rule.assign_gradients(x.to("meta"), y)


@pytest.mark.parametrize("name", RULES)
def test_mixed_precision_is_refused_in_words(name):
    rule, (x, y) = make(name), problem(10)
    optimizer = optimizer_of(rule)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match=r"leave torch\.autocast"):
        rule.learn(x, y, optimizer)
    rule.learn(x, y, optimizer)


@pytest.mark.parametrize("name", BATCHED)
def test_a_rule_learns_in_double_and_after_a_change_of_precision(name):
    rule, (x, y) = make(name).double(), problem(dtype=torch.float64)
    rule.learn(x, y, optimizer_of(rule))
    for parameter in (*rule.parameters(), *rule.buffers()):
        assert parameter.dtype == torch.float64


@pytest.mark.parametrize("name", BATCHED)
def test_gradients_are_overwritten_and_input_that_wants_gradients_is_taken(name):
    rule, (x, y) = make(name).eval(), problem()
    rule.assign_gradients(x, y)
    first = {n: p.grad.clone() for n, p in rule.named_parameters() if p.grad is not None}
    rule.assign_gradients(x.clone().requires_grad_(), y)
    second = {n: p.grad for n, p in rule.named_parameters() if p.grad is not None}
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
    assert not any(p.grad.requires_grad for p in rule.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", BATCHED)
def test_inference_mode_does_not_spoil_later_training(name):
    rule, (x, y) = make(name), problem()
    with torch.inference_mode():
        rule.errors(x, y)
        scores = rule(x)
    assert scores.shape == (64, CLASSES)
    optimizer = optimizer_of(rule, momentum=0.9)
    rule.learn(x, y, optimizer)
    rule.learn(x, y, optimizer)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_an_online_rule_refuses_an_optimiser_that_it_cannot_honour(optimizer):
    rule, (x, y) = make("segregated"), problem(5)
    with pytest.raises(ValueError, match=f"cannot honour {optimizer.__name__}"):
        rule.learn(x, y, optimizer(rule.parameter_groups()))
    for option in ({"momentum": 0.9}, {"weight_decay": 1e-4}, {"momentum": 0.5, "nesterov": True}, {"maximize": True}):
        with pytest.raises(ValueError, match=r"cannot honour (momentum|weight_decay|maximize)"):
            rule.learn(x, y, torch.optim.SGD(rule.parameter_groups(), **option))
    before = rule.network.W1.detach().clone()
    fit(rule, (x, y))  # without one it has its own rates
    assert not torch.equal(before, rule.network.W1)


def test_numbers_of_numpy_are_numbers():
    network = MLP(np.array([20, 16, 12, 4]), seed=np.int64(3))
    assert torch.equal(network.W1, MLP((20, 16, 12, 4), seed=3).W1)
    rule = make_rule("weight_mirror", network, samples=np.int32(4), rate=np.float32(0.5), seed=np.int64(2))
    assert (rule.samples, rule.rate) == (4, 0.5)
    fit(rule, problem(), epochs=np.int64(1), batch_size=np.int64(32), seed=np.int64(0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MLP(5), "sizes must be a sequence of positive whole numbers, not 5"),
        (lambda: MLP((20, 4), seed=1.5), "seed must be a whole number from 0 to 9223372036854775807, not 1.5"),
        (lambda: MLP((20, 4), seed=-1), "seed must be a whole number .*, not -1"),
        (lambda: MLP((20, 4), seed=2**70), "seed must be a whole number"),
        (lambda: MLP((20, 4), dtype="float32"), "dtype must be a floating-point type, not float32"),
        (lambda: CNN((1, 8, 8), 4), "channels must be a sequence"),
        (lambda: make_rule("fa", MLP((20, 8, 4)), seed="3"), "seed must be a whole number .*, not '3'"),
        (lambda: make_rule("microcircuits", MLP((20, 8, 4), activation="sigmoid"), lam="0.1"), "lam must be in"),
        (lambda: make_rule("usf", MLP((20, 8, 4)), magnitudes="fixed"), "'usf' has magnitudes 'uniform'"),
        (lambda: make_rule("dtp", MLP((20, 8, 4)), noise=True), "noise must be at least 0 and finite, not True"),
        (lambda: make_rule("nothing", MLP((20, 8, 4))), "unknown rule 'nothing'; choose one of backprop"),
        (lambda: fit(make("fa"), problem(), marks=3), "marks must be a sequence of numbers of examples, not 3"),
        (lambda: fit(make("fa"), problem(), batch_size=0), "batch_size must be a positive whole number, not 0"),
        (lambda: evaluate(make("fa"), *problem(), batch_size=0), "batch_size must be a positive whole number, not 0"),
        (lambda: fit(make("fa"), problem(), seed=-1), "seed must be a whole number"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# --- one promise for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS])
def test_backprop_is_autograd_for_every_activation(activation):
    rule = make_rule("backprop", MLP(SIZES, activation=activation, dtype=torch.float64))
    x, y = problem(dtype=torch.float64)
    true = true_gradients(rule, x, y)
    for layer, gradient in gradients(rule, x, y).items():
        torch.testing.assert_close(gradient, true[layer], rtol=1e-10, atol=1e-14)


def test_only_compiled_models_find_their_synapses_otherwise():
    """``assign_gradients`` is written once, and so is the way from a batch to its synapses but for compiled engines."""
    kinds = {card.rule for card in RULES.values()}
    for method in ("assign_gradients", "gradients", "errors"):
        assert not [kind.__name__ for kind in kinds if getattr(kind, method) is not getattr(LearningRule, method)]
    assert [kind.__name__ for kind in kinds if kind.credit is not LearningRule.credit] == ["SegregatedCompartments"]
    assert [kind.__name__ for kind in kinds if kind.online] == ["SegregatedCompartments"]


def test_nothing_that_only_unix_has_stops_an_import():
    code = """
import importlib, pkgutil, sys
for name in ("fcntl", "resource", "termios"):
    sys.modules[name] = None
import bioplaus_lite
for module in pkgutil.walk_packages(bioplaus_lite.__path__, "bioplaus_lite."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
