"""What the playground takes from Python: small digits."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from bioplaus_lite import checks
from bioplaus_lite.data import load_arrays, stratified_indices

__all__ = ["small_digits"]

SIDE, BLOCK, MARGIN = 8, 3, 2  # 28 × 28, less a margin that is all but empty, is 24 × 24: eight blocks of three
GREYS = 16


def small_digits(train: int = 600, test: int = 200, *, seed: int = 0) -> dict[str, dict[str, int | str]]:
    """Digits of the shipped MNIST as 8 × 8 means of blocks in 16 greys, for a page: about 34 kB of JSON.

    Args:
        train, test: how many training and test images, each class in its share; none is in both.
        seed: of the draw.

    Returns:
        ``train`` and ``test``, each ``{"side", "greys", "classes", "images", "labels"}``. ``images`` is base64: row by
        row, one image after the other, two pixels a byte, the first in its upper half; 0 is empty. ``labels`` is a
        string with one digit an image. ``digitsOf`` in ``js/playground/data.js`` reads it.

    Raises:
        ValueError: ``train``, ``test`` or ``seed`` is out of range.
    """
    arrays = load_arrays("mnist")
    return {
        part: _packed(arrays[f"x_{part}"], arrays[f"y_{part}"], checks.whole(part, n), checks.seed("seed", seed))
        for part, n in (("train", train), ("test", test))
    }


def _packed(x: NDArray[np.uint8], y: NDArray[np.uint8], n: int, seed: int) -> dict[str, int | str]:
    chosen = stratified_indices(y, n, seed)
    images = x[chosen].reshape(n, 28, 28)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    means = images.reshape(n, SIDE, BLOCK, SIDE, BLOCK).mean((2, 4))
    pixels = np.rint(means * ((GREYS - 1) / 255)).astype(np.uint8).ravel()
    pairs = (pixels[::2] << 4 | pixels[1::2]).tobytes()
    labels = "".join(map(str, y[chosen]))
    return {"side": SIDE, "greys": GREYS, "classes": 10, "images": base64.b64encode(pairs).decode(), "labels": labels}
