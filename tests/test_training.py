"""The training loop: what it records, what it leaves alone, what it refuses."""

import pytest
import torch

from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import make_rule
from bioplaus_lite.training import History, batches, evaluate, fit


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    return torch.rand(3, 8, generator=g)[y] + 0.1 * torch.randn(120, 8, generator=g), y


def rule(name="fa", **options):
    return make_rule(name, MLP((8, 16, 3)), **options)


def test_history_is_tidy_and_counts_examples(data):
    history = fit(rule(), data, data, epochs=3, batch_size=4, measure=lambda r: {"norm": r.network.W1.norm().item()})
    frame = history.frame
    assert list(frame.columns) == ["epoch", "examples", "seconds", "split", "metric", "value"]
    assert frame[frame.split == "test"].examples.unique().tolist() == [0, 120, 240, 360]
    assert history.curve("norm", "rule", "epoch")[0] == [0, 1, 2, 3]
    assert history.last("accuracy") > 0.9
    assert frame.seconds.is_monotonic_increasing
    with pytest.raises(KeyError, match="recorded are: rule norm, test accuracy"):
        history.curve("error")


def test_every_counts_examples_within_epochs(data):
    history = fit(rule(), data, data, epochs=2, batch_size=20, every=60)
    assert history.curve("loss")[0] == [0, 60, 120, 180, 240]
    assert history.curve("loss", "train")[0] == [60, 120, 180, 240]


def test_marks_add_records_after_the_batch_that_completes_them(data):
    history = fit(rule(), data, data, epochs=2, batch_size=20, marks=[1, 20, 50, 130, 999])
    assert history.curve("loss")[0] == [0, 20, 60, 120, 140, 240]
    assert history.curve("loss", "train")[0] == [20, 60, 120, 140, 240]


def test_weights_that_are_held_fixed_are_given_to_no_optimiser(data):
    r = rule("kolen_pollack")
    r.network.W1.requires_grad_(False)
    (forward, feedback), before = r.parameter_groups(), r.network.W1.detach().clone()
    assert forward["name"] == "forward" and feedback["name"] == "feedback"
    assert not any(p is r.network.W1 for group in (forward, feedback) for p in group["params"])
    fit(r, data, epochs=1)
    assert torch.equal(r.network.W1, before)


def test_the_running_training_loss_is_the_mean_of_the_batch_losses(data):
    r = rule("backprop")
    expected = evaluate(r, *data)["loss"]
    history = fit(r, data, epochs=1, batch_size=50, optimizer=torch.optim.SGD(r.parameters(), lr=0.0))
    assert history.last("loss", "train") == pytest.approx(expected, rel=1e-5)


def test_same_seed_same_history(data):
    first, second, other = (fit(rule(), data, data, epochs=2, seed=s).last("loss") for s in (0, 0, 1))
    assert first == second != other


def test_batches_cover_every_example_once(data):
    x, y = data
    got = list(batches(x, y, 50, torch.Generator().manual_seed(0)))
    assert [len(b) for _, b in got] == [50, 50, 20]
    assert torch.equal(torch.cat([b for b, _ in got]).sort(0).values, x.sort(0).values)
    assert not torch.equal(got[0][0], x[:50])


def test_evaluate_agrees_with_a_direct_count(data):
    r = rule()
    x, y = data
    direct = (r(x).argmax(1) == y).double().mean().item()
    assert evaluate(r, x, y, batch_size=7)["accuracy"] == pytest.approx(direct)
    assert r.training


def test_what_is_asked_leaves_gradients_and_every_mode(data):
    r = rule()
    r.assign_gradients(*data)
    r.network.eval()  # a mode of its own, to be given back too
    kept = r.network.W1.grad
    values = kept.clone()
    evaluate(r, *data)
    r.gradients(data[0][:5], data[1][:5])
    with r.as_it_is():
        assert not r.training
    assert r.training and not r.network.training
    assert r.network.W1.grad is kept and torch.equal(kept, values)


def test_schedulers_step_once_an_epoch(data):
    rates = []
    r = rule()
    optimizer = torch.optim.SGD(r.parameter_groups(), lr=1.0)
    fit(
        r,
        data,
        epochs=3,
        batch_size=30,
        optimizer=optimizer,
        measure=lambda _: rates.append(optimizer.param_groups[0]["lr"]) or {},
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.1),
    )
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.01])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("turns", [("inverse", "forward"), ("inverse", "inverse", "forward")])
def test_schedulers_step_after_the_last_turn_of_a_round(data, turns):
    rates = []
    r = rule("dtp")
    optimizer = torch.optim.SGD(r.parameter_groups(), lr=1.0)
    fit(
        r,
        data,
        epochs=2 * len(turns) + 1,  # the last round is not whole, and does not count
        batch_size=30,
        optimizer=optimizer,
        turns=turns,
        measure=lambda _: rates.append(optimizer.param_groups[0]["lr"]) or {},
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5),
    )
    first, *learned = rates
    assert (first, learned) == (1.0, [1.0] * len(turns) + [0.5] * len(turns) + [0.25])
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_zero_epochs_only_measure(data):
    r = rule()
    before = r.network.W1.detach().clone()
    assert fit(r, data, data, epochs=0).curve("loss")[0] == [0]
    assert torch.equal(before, r.network.W1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "not -1"),
        ({"epochs": 1.5}, r"not 1\.5"),
        ({"batch_size": 0}, "not 0"),
        ({"every": 0}, "not 0"),
        ({"marks": [10, 0]}, "every entry of marks must be a positive whole number, not 0"),
        ({"marks": [2.5]}, r"not 2\.5"),
    ],
)
def test_bad_numbers_are_named(data, options, message):
    with pytest.raises(ValueError, match=message):
        fit(rule(), data, **options)


def test_empty_and_unequal_data_are_refused(data):
    x, y = data
    with pytest.raises(ValueError, match="0 examples and 0 labels"):
        fit(rule(), (x[:0], y[:0]))
    with pytest.raises(ValueError, match="120 examples and 119 labels"):
        evaluate(rule(), x, y[:-1])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["backprop", "dtp"])
def test_input_that_is_not_finite_is_refused_although_the_loss_is(data, name, value):
    r = rule(name)
    with torch.no_grad():
        r.network.W1[:, 0] = -1 if value > 0 else 1  # a ReLU makes 0 of it
    x, y = data[0].clone(), data[1]
    x[5, 0] = value
    assert torch.isfinite(r(x)).all()
    said = f"input holds {value}; every value must be finite"
    for call in (lambda: r.assign_gradients(x, y), lambda: r.gradients(x, y)):
        with pytest.raises(ValueError, match=f"^{said}"):
            call()
    for who, call in (
        ("train", lambda: fit(r, (x, y))),
        ("test", lambda: fit(r, data, (x, y))),
        ("data", lambda: evaluate(r, x, y)),
    ):
        with pytest.raises(ValueError, match=f"^{who}: {said}"):
            call()


class Stop(Exception):
    """A reader's own."""


class Slotted(Exception):
    __slots__ = ("why",)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration, Stop, Slotted])
@pytest.mark.parametrize(
    ("place", "call"), [("learn", 3), ("measure", 1), ("measure", 3), ("progress", 3), ("scheduler", 3)]
)
def test_whatever_ends_a_training_carries_what_was_recorded(data, error, place, call):
    r, calls = rule(), []

    def stops(*_):
        calls.append(None)
        if len(calls) == call:
            raise error("enough")
        return {}

    options = {place: stops} if place in ("measure", "progress") else {}
    if place == "learn":
        learn = r.learn
        r.learn = lambda *given: stops() or learn(*given)
    if place == "scheduler":
        options = {"scheduler": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1.0 if not stops() else 0)}
    with pytest.raises(error, match="enough") as caught:
        fit(r, data, data, epochs=9, batch_size=60, **options)
    assert isinstance(caught.value.history, History)
    assert caught.value.history.curve("loss")[0][0] == 0


def test_a_scheduler_that_waits_for_a_measurement_is_refused(data):
    with pytest.raises(ValueError, match="ReduceLROnPlateau waits for a measurement"):
        fit(rule(), data, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


@pytest.mark.parametrize("turns", [(), ("inverse", "forward")])
def test_one_optimiser_serves_all_phases_also_of_a_rule_that_changes_its_own(data, turns):
    class Restless(type(rule("dtp"))):
        def learn(self, x, y, optimizer):
            loss = super().learn(x, y, optimizer)
            self.phase = self.phases[len(seen) % 3]
            seen.append((self.phase, optimizer))
            return loss

    seen = []
    fit(Restless(MLP((8, 16, 3))), data, epochs=2, batch_size=20, turns=turns)
    assert {phase for phase, _ in seen} == {"both", "inverse", "forward"}
    assert len({id(optimizer) for _, optimizer in seen}) == 1


def test_a_value_that_is_none_leaves_no_row():
    history = History()
    for epoch, angle in enumerate([None, 3.0, None, torch.tensor(4.0)]):
        history.add(epoch, 10 * epoch, 0.0, "rule", {"angle_1": angle, "angle_2": None})
    assert history.curve("angle_1", "rule") == ([10, 30], [3.0, 4.0])
    assert history.frame.metric.tolist() == ["angle_1"] * 2
    with pytest.raises(KeyError, match="no values of 'angle_2' on 'rule'; recorded are: rule angle_1"):
        history.curve("angle_2", "rule")
    with pytest.raises(KeyError, match="no values of 'loss' on 'test'; recorded are: none"):
        History().last("loss")


def test_divergence_stops_the_training(data):
    with pytest.raises(FloatingPointError, match="diverged"):
        fit(rule("backprop"), data, epochs=50, optimizer=lambda p: torch.optim.SGD(p, lr=1e30))


def test_history_repr_is_stable():
    assert repr(History()) == "History(0 values over 0 examples)"
