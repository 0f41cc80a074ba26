"""MNIST, Fashion-MNIST and CIFAR-10: small subsets that ship with the book, full sets fetched and verified.

``load("mnist")`` reads a shipped subset and needs no network; ``load("mnist", subset="full")`` reads what
``python -m bioplaus_lite.data fetch mnist`` left in ``data/cache/``.

Bytes may come from a mirror, from a package or from the reader's own hand. They are used only if the sha256 of
the *decoded* pixels and labels is the constant in ``SETS``; a file that fails is named and removed.

``sets`` says what is known of the data and loads it, ``sources`` are ways to it, ``formats`` decode what nobody vouches
for, ``fetching`` fills the cache.
"""

from bioplaus_lite.data.fetching import fetch
from bioplaus_lite.data.formats import DataError
from bioplaus_lite.data.sets import SETS, Dataset, cache_dir, load, load_arrays, stratified_indices

__all__ = ["SETS", "DataError", "Dataset", "cache_dir", "fetch", "load", "load_arrays", "stratified_indices"]
