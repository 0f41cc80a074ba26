"""The only training loop of the project: :func:`fit`, :func:`evaluate` and the :class:`History` they fill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from bioplaus_lite import checks
from bioplaus_lite.rules import LearningRule

__all__ = ["History", "batches", "evaluate", "fit"]

Batch = tuple[Tensor, Tensor]
MakesOptimizer = torch.optim.Optimizer | Callable[[list[dict]], torch.optim.Optimizer]


class History:
    """What a training recorded: one row for each measured value.

    ``frame`` is a tidy table with the columns ``epoch`` (float: examples / size of the training set),
    ``examples``, ``seconds`` (of training, measurements apart), ``split``, ``metric`` and ``value``.
    """

    COLUMNS = ("epoch", "examples", "seconds", "split", "metric", "value")

    def __init__(self) -> None:
        self._rows: list[tuple] = []

    def __repr__(self) -> str:
        last = self._rows[-1][1] if self._rows else 0
        return f"History({len(self._rows)} values over {last} examples)"

    def add(self, epoch: float, examples: int, seconds: float, split: str, values: Mapping[str, float | None]) -> None:
        """Append one row a metric that has a value. All of them belong to the state after ``examples`` examples."""
        at = (epoch, examples, seconds, split)
        self._rows += [(*at, metric, torch.as_tensor(v).item()) for metric, v in values.items() if v is not None]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._rows, columns=list(self.COLUMNS))

    def curve(self, metric: str, split: str = "test", against: str = "examples") -> tuple[list, list]:
        """``(x, y)`` of one metric, in the order of measurement.

        Raises:
            KeyError: nothing was recorded under ``metric`` and ``split``; the message lists what was.
        """
        i = self.COLUMNS.index(against)
        rows = [row for row in self._rows if row[3] == split and row[4] == metric]
        if not rows:
            known = sorted({f"{row[3]} {row[4]}" for row in self._rows})
            raise KeyError(f"no values of {metric!r} on {split!r}; recorded are: {', '.join(known) or 'none'}")
        return [row[i] for row in rows], [row[5] for row in rows]

    def last(self, metric: str, split: str = "test") -> float:
        """The last recorded value of a metric."""
        return self.curve(metric, split)[1][-1]


def batches(x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
    """Yield ``(x, y)`` batches; shuffled if there is a ``generator``. The last one may be smaller.

    Raises:
        TypeError: ``x`` or ``y`` is not a tensor.
        ValueError: ``batch_size`` is not a positive whole number, or ``x`` and ``y`` do not match.
    """
    batch_size = checks.whole("batch_size", batch_size)
    x, y = checks.labelled((x, y))
    order = torch.randperm(len(x), generator=generator) if generator else torch.arange(len(x))
    for part in order.split(batch_size):
        yield x[part], y[part]


def _check(rule: LearningRule, data: Batch, name: str) -> Batch:
    """A labelled set, if the rule can take all of it."""
    x, y = checks.labelled(data, name)
    try:
        checks.labels(y, len(x), rule.network.sizes[-1])
        rule.network.check_input(x)
        checks.finite_input(x)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return x, y


@torch.no_grad()
def evaluate(rule: LearningRule, x: Tensor, y: Tensor, *, batch_size: int = 1000) -> dict[str, float]:
    """Mean cross-entropy ``loss`` (nats) and ``accuracy`` (fraction) of the rule's scores on a labelled set.

    Raises:
        TypeError: ``x`` or ``y`` is not a tensor.
        ValueError: the examples do not fit the network, or the labels are not int64 classes, one an example.
    """
    batch_size = checks.whole("batch_size", batch_size)
    x, y = _check(rule, (x, y), "data")
    loss, correct = 0.0, 0
    with rule.as_it_is():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            scores = rule(xb)
            loss += F.cross_entropy(scores, yb, reduction="sum").item()
            correct += int((scores.argmax(1) == yb).sum())
    return {"loss": loss / len(x), "accuracy": correct / len(x)}


def fit(
    rule: LearningRule,
    train: Batch,
    test: Batch | Mapping[str, Batch] | None = None,
    *,
    epochs: int = 1,
    batch_size: int = 100,
    optimizer: MakesOptimizer | Mapping[str, MakesOptimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    turns: Sequence[str] = (),
    seed: int = 0,
    measure: Callable[[LearningRule], Mapping[str, float]] | None = None,
    every: int | None = None,
    marks: Sequence[int] = (),
    progress: bool | Callable[[int, int], None] = False,
) -> History:
    """Train ``rule`` and record what happens.

    Args:
        rule: any learning rule.
        train: ``(x, y)`` with ``x`` of shape ``(N, n_0)`` and ``y`` of shape ``(N,)``.
        test: the same, to be evaluated at every record; or several such sets by name, each a split of its own.
        epochs: passes over the training set; 0 only measures.
        batch_size: examples a step.
        optimizer: a torch optimiser, or a function that makes one from ``rule.parameter_groups()``; by default
            ``SGD(lr=0.1, momentum=0.9)``, and for a rule that learns online its own rates. With ``turns`` also such a
            thing for each phase, by name.
        scheduler: makes a scheduler from the optimiser; it steps once an epoch, or once a round of turns.
        turns: phases of the rule that take turns, an epoch each: with ``("inverse", "forward")`` ten epochs are five of
            each. An optimiser keeps its moments through the turns of others. At the end the rule is in the phase in
            which it was.
        seed: of the order of the examples.
        measure: ``measure(rule)`` returns further values, recorded under the split ``rule``.
        every: examples between two records; by default one epoch. State zero is always recorded.
        marks: further records, each after the batch that completes so many examples: what happens early is fast.
        progress: show a progress bar; or a function that is told ``(examples, all examples)`` after every batch.

    Returns:
        A :class:`History`. The split ``train`` holds the running mean of the batch losses since the last
        record; ``test`` the loss and accuracy on the test set.

    Raises:
        ValueError: a number is out of range or the data do not fit the network.
        FloatingPointError: the training diverged. Whatever ends a training, an interrupt too, has an attribute
            ``history``: what was recorded until then.
    """
    epochs = checks.whole("epochs", epochs, 0)
    batch_size = checks.whole("batch_size", batch_size)
    x, y = _check(rule, train, "train")
    every = len(x) if every is None else checks.whole("every", every)
    if isinstance(marks, str) or not isinstance(marks, Iterable):
        raise ValueError(f"marks must be a sequence of numbers of examples, not {marks!r}")
    marks = [checks.whole("every entry of marks", mark) for mark in marks]
    turns = [checks.one_of("phase", phase, rule.phases) for phase in ([turns] if isinstance(turns, str) else turns)]
    optimizers = _optimizers(rule, optimizer, turns)
    schedules = [scheduler(one) for one in dict.fromkeys(optimizers.values())] if scheduler else []
    if any(isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau) for schedule in schedules):
        raise ValueError("scheduler: ReduceLROnPlateau waits for a measurement, which fit does not give it")
    generator = torch.Generator().manual_seed(checks.seed("seed", seed))
    history, examples, seconds = History(), 0, 0.0
    running: list[tuple[Tensor, int]] = []
    sets = test if isinstance(test, Mapping) else {"test": test} if test is not None else {}
    evaluated = {split: _check(rule, labelled, split) for split, labelled in sets.items()}
    report = progress if callable(progress) else lambda examples, total: None

    def record() -> None:
        epoch = examples / len(x)
        if running:
            mean = sum(loss.item() * n for loss, n in running) / sum(n for _, n in running)
            history.add(epoch, examples, seconds, "train", {"loss": mean})
            running.clear()
        for split, labelled in evaluated.items():
            history.add(epoch, examples, seconds, split, evaluate(rule, *labelled))
        if measure is not None:
            history.add(epoch, examples, seconds, "rule", measure(rule))

    with _carried_by_what_ends_it(history):
        rule.train()
        record()
        bar = tqdm(total=epochs * len(x), unit="ex", disable=progress is not True or None)
        with bar, _phase_kept(rule), checks.looked_at():
            for epoch in range(epochs):
                if turns:
                    rule.phase = turns[epoch % len(turns)]
                for xb, yb in batches(x, y, batch_size, generator):
                    start = time.perf_counter()
                    running.append((rule.learn(xb, yb, optimizers[rule.phase]), len(xb)))
                    seconds += time.perf_counter() - start
                    before, examples = examples, examples + len(xb)
                    crossed = examples // every > before // every or any(before < mark <= examples for mark in marks)
                    bar.update(len(xb))
                    report(examples, epochs * len(x))
                    if crossed:
                        record()
                if not turns or (epoch + 1) % len(turns) == 0:
                    for schedule in schedules:
                        schedule.step()
                bar.set_postfix(epoch=epoch + 1)
        if running:
            record()
    return history


@contextmanager
def _carried_by_what_ends_it(history: History) -> Iterator[None]:
    """Also by an interrupt, and wherever it comes: in a step, a measure, a report of progress."""
    try:
        yield
    except BaseException as error:
        error.history = history  # type: ignore[attr-defined]  # a built-in error declares no attributes
        raise


@contextmanager
def _phase_kept(rule: LearningRule) -> Iterator[None]:
    phase = rule.phase
    try:
        yield
    finally:
        rule.phase = phase


def _optimizers(
    rule: LearningRule, given: MakesOptimizer | Mapping[str, MakesOptimizer] | None, turns: Sequence[str]
) -> dict[str, torch.optim.Optimizer]:
    """``{phase: optimiser}``, the same one for all unless each phase is given its own."""
    phases = list(dict.fromkeys(turns)) or [rule.phase]
    if isinstance(given, Mapping):
        for phase in given:
            checks.one_of("phase", phase, phases)
        if missing := [phase for phase in phases if phase not in given]:
            raise ValueError(f"optimizer: there is none for the phase {missing[0]!r}; each of {phases} needs one")
        return {phase: _optimizer(rule, one) for phase, one in given.items()}
    return dict.fromkeys(rule.phases, _optimizer(rule, given))


def _optimizer(rule: LearningRule, given: MakesOptimizer | None) -> torch.optim.Optimizer:
    if isinstance(given, torch.optim.Optimizer):
        return given
    groups = rule.parameter_groups()
    if given is None:
        return torch.optim.SGD(groups, lr=0.1, momentum=0 if rule.online else 0.9)
    if not callable(given):
        raise TypeError(
            f"optimizer must be a torch optimiser or a function that makes one of groups, not {type(given).__name__}"
        )
    return given(groups)
