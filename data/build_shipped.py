"""Draw the subsets that ship with the repository from the full sets: ``python data/build_shipped.py [NAME …]``.

Needs the full sets (``python -m bioplaus_lite.data fetch``). Each subset takes its training images from the
official training images and its test images from the official test images, every class in its share, in the
official order. The draw is seeded; a result whose digest is not the constant in ``bioplaus_lite.data.SETS`` is
not written.
"""

from __future__ import annotations

import sys
import zipfile

from bioplaus_lite.data import SETS, load_arrays, stratified_indices
from bioplaus_lite.data.formats import Arrays, Expected, digest, write_npz
from bioplaus_lite.data.sets import SHIPPED

SEED = 2019


def draw(full: Arrays, expected: Expected) -> Arrays:
    """The shipped subset of ``full``: ``expected.n_train`` and ``expected.n_test`` images."""
    train = stratified_indices(full["y_train"], expected.n_train, SEED)
    test = stratified_indices(full["y_test"], expected.n_test, SEED)
    return {
        "x_train": full["x_train"][train],
        "y_train": full["y_train"][train],
        "x_test": full["x_test"][test],
        "y_test": full["y_test"][test],
    }


def main(names: list[str]) -> int:
    """Write ``data/NAME.npz`` for each name; 1 if a digest is not the one in ``SETS``."""
    failed = 0
    for name in names or list(SETS):
        subset = draw(load_arrays(name, "full"), SETS[name].expected["shipped"])
        try:
            SETS[name].expected["shipped"].verify(subset)
        except ValueError as error:
            print(f"{name}: not written: {error}", file=sys.stderr)
            failed = 1
            continue
        path = SHIPPED / f"{name}.npz"
        write_npz(path, subset, compression=zipfile.ZIP_LZMA)  # a fifth smaller than deflate
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 of the decoded arrays {digest(subset)}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
