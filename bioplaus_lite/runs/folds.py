"""k-fold cross-validation of a setting. The official test images are not among what it sees."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from statistics import fmean
from typing import Any

import numpy as np

from bioplaus_lite import checks
from bioplaus_lite.data import Dataset, load, stratified_indices
from bioplaus_lite.runs.catalogue import Run
from bioplaus_lite.runs.train import complete, other_accuracies, prepare, train

__all__ = ["CrossValidation", "cross_validate", "folds_of", "stored_folds"]

LARGEST_SEED = 2**32 - 1  # of the generators of scikit-learn


@dataclass(frozen=True)
class CrossValidation:
    """What came of the folds.

    Attributes:
        accuracies: fraction of a fold that was right after a training on the others, in the order of the folds; of a
            spiking rule, in a test with spikes. A training that diverged has none, and those after it were not done.
        diverged: whether one did.
        seconds: all of them took, with their tests.
    """

    accuracies: tuple[float, ...]
    diverged: bool
    seconds: float

    @property
    def accuracy(self) -> float:
        """The mean over the folds.

        Raises:
            ValueError: a training diverged, and there is none.
        """
        if self.diverged:
            raise ValueError(f"fold {len(self.accuracies) + 1} diverged: there is no accuracy, see `diverged`")
        return fmean(self.accuracies)


def folds_of(data: Dataset, folds: int = 3, *, examples: int | None = None, seed: int = 0) -> Iterator[Dataset]:
    """Data sets whose test images are one part of the training images, and whose training images are the others.

    The official test images are in none of them.

    Args:
        data: with N training images.
        folds: k, the number of parts, stratified by class.
        examples: how many of the N to share out, drawn by ``seed``, each class in its share; all if ``None``.
        seed: of the draw and of the parts.

    Yields:
        k data sets of N (k - 1) / k training and N / k test images, to within one a class.

    Raises:
        ValueError: a number is not whole or out of range, or a class has fewer images than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold  # a second to import, and only those who search need it

    checks.whole("folds", folds, 2)
    checks.whole("seed", seed, 0, LARGEST_SEED)
    x, y = data.x_train, data.y_train
    if examples is not None:
        if checks.whole("examples", examples) > len(y):
            raise ValueError(f"examples must be at most the {len(y)} training images of {data.name}, not {examples}")
        if examples < len(y):
            chosen = stratified_indices(y.numpy(), examples, seed)
            x, y = x[chosen], y[chosen]
    if (least := int(y.bincount(minlength=len(data.classes)).min())) < folds:
        raise ValueError(f"folds must be at most {least}, the images of the smallest class, not {folds}")
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for rest, held_out in parts.split(np.zeros(len(y)), y.numpy()):
        yield replace(data, x_train=x[rest], y_train=y[rest], x_test=x[held_out], y_test=y[held_out])


@lru_cache(maxsize=2)
def stored_folds(name: str, subset: str, folds: int, examples: int | None, seed: int) -> tuple[Dataset, ...]:
    """The folds of a stored set, see :func:`folds_of`; kept, since unpacking it takes longer than a short training.

    Raises:
        DataError: see :func:`~bioplaus_lite.data.sets.load`.
        ValueError: see :func:`folds_of`.
    """
    return tuple(folds_of(load(name, subset), folds, examples=examples, seed=seed))


def cross_validate(
    run: Run | Mapping[str, Any],
    data: Dataset | None = None,
    *,
    folds: int = 3,
    examples: int | None = None,
    seed: int = 0,
) -> CrossValidation:
    """Train a setting on all parts of the training images but one, test it on that, and so for each part.

    Each training is one of :func:`~bioplaus_lite.runs.train.train`, and its accuracy what the catalogue records as
    ``1 - test_error``. Nothing is measured but that. The seed of the settings counts up from fold to fold, so that each
    has weights of its own; the parts are the same for all settings that are given one ``seed``.

    Args:
        run: of the catalogue, or its settings; what these say of ``validation`` and ``examples`` does not count.
        data: the data set if it is loaded already, instead of that which the settings name.
        folds, examples, seed: see :func:`folds_of`.

    Raises:
        DataError: the data set is not at hand.
        TypeError, ValueError: as :func:`~bioplaus_lite.runs.train.prepare` and :func:`folds_of`.
    """
    p = complete(run)
    begin, accuracies = time.perf_counter(), []
    if data is None:
        parts = stored_folds(p["dataset"], p["subset"], folds, examples, seed)
    else:
        parts = tuple(folds_of(data, folds, examples=examples, seed=seed))
    for i, part in enumerate(parts):
        # Turns double the epochs: an interval that long leaves a test before the first step, and one at the end.
        once = {"every": 2 * max(1, p["epochs"]) * len(part.y_train), "marks": []}
        fold = {"validation": {"size": 0, "seed": 0}, "examples": None, "seed": p["seed"] + i, "purpose": "result"}
        ready = prepare({**p, **once, **fold}, part)
        ready.measure = partial(other_accuracies, x=ready.sets["test"][0], y=part.y_test)
        try:
            accuracies.append(1 - train(ready, progress=False).test_error)
        except FloatingPointError:
            return CrossValidation(tuple(accuracies), True, time.perf_counter() - begin)
    return CrossValidation(tuple(accuracies), False, time.perf_counter() - begin)
