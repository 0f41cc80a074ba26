"""The only training loop of the project: :func:`fit`, :func:`evaluate` and the :class:`History` they fill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from bioplaus_lite.rules import LearningRule

__all__ = ["History", "batches", "evaluate", "fit", "frozen"]

Batch = tuple[Tensor, Tensor]


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

    def add(self, epoch: float, examples: int, seconds: float, split: str, values: Mapping[str, float]) -> None:
        """Append one row a metric. All of them belong to the state after ``examples`` examples."""
        at = (epoch, examples, seconds, split)
        self._rows += [(*at, metric, torch.as_tensor(v).item()) for metric, v in values.items()]

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


@contextmanager
def frozen(rule: LearningRule):
    """The rule in evaluation mode, its gradients and its mode given back at the end."""
    modes = {module: module.training for module in rule.modules()}
    gradients = {p: p.grad for p in rule.parameters()}
    for p in gradients:
        p.grad = None  # set aside, so that what happens inside writes to tensors of its own
    rule.eval()
    try:
        yield rule
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, gradient in gradients.items():
            p.grad = gradient


def check_labelled(x: Tensor, y: Tensor, what: str = "data") -> None:
    """Raise ``ValueError`` unless ``x`` and ``y`` are a non-empty set of as many examples as labels."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"{what}: {len(x)} examples and {len(y)} labels; both must be equal and at least 1")


def batches(x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator | None = None):
    """Yield ``(x, y)`` batches; shuffled if there is a ``generator``. The last one may be smaller.

    Raises:
        ValueError: ``batch_size`` is not a positive whole number, or ``x`` and ``y`` do not match.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive whole number, not {batch_size!r}")
    check_labelled(x, y)
    order = torch.randperm(len(x), generator=generator) if generator else torch.arange(len(x))
    for part in order.split(batch_size):
        yield x[part], y[part]


@torch.no_grad()
def evaluate(rule: LearningRule, x: Tensor, y: Tensor, *, batch_size: int = 1000) -> dict[str, float]:
    """Mean cross-entropy ``loss`` (nats) and ``accuracy`` (fraction) of the rule's scores on a labelled set."""
    check_labelled(x, y)
    loss, correct = 0.0, 0
    with frozen(rule):
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
    optimizer: torch.optim.Optimizer | Callable[[list[dict]], torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
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
        optimizer: a torch optimiser, or a function that makes one from ``rule.parameter_groups()``;
            by default ``SGD(lr=0.1, momentum=0.9)``.
        scheduler: makes a scheduler from the optimiser; it steps once an epoch.
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
        FloatingPointError: the training diverged; its attribute ``history`` is what was recorded until then.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"epochs must be a whole number of at least 0, not {epochs!r}")
    x, y = train
    check_labelled(x, y, "train")
    every = len(x) if every is None else every
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a positive number of examples, not {every!r}")
    for mark in marks:
        if isinstance(mark, bool) or not isinstance(mark, int) or mark < 1:
            raise ValueError(f"marks must be positive numbers of examples, not {mark!r}")
    if optimizer is None:
        optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.1, momentum=0.9)
    elif not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(rule.parameter_groups())
    schedule = scheduler(optimizer) if scheduler else None
    generator = torch.Generator().manual_seed(seed)
    history, examples, seconds, running = History(), 0, 0.0, []
    evaluated = test if isinstance(test, Mapping) else {"test": test} if test is not None else {}
    told = progress if callable(progress) else lambda examples, total: None

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

    rule.train()
    record()
    with tqdm(total=epochs * len(x), unit="ex", disable=progress is not True or None) as bar:
        for epoch in range(epochs):
            for xb, yb in batches(x, y, batch_size, generator):
                start = time.perf_counter()
                try:
                    running.append((rule.learn(xb, yb, optimizer), len(xb)))
                except FloatingPointError as error:
                    error.history = history
                    raise
                seconds += time.perf_counter() - start
                before, examples = examples, examples + len(xb)
                crossed = examples // every > before // every or any(before < mark <= examples for mark in marks)
                bar.update(len(xb))
                told(examples, epochs * len(x))
                if crossed:
                    record()
            if schedule:
                schedule.step()
            bar.set_postfix(epoch=epoch + 1)
    if running:
        record()
    return history
