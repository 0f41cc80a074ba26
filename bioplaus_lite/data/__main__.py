"""``python -m bioplaus_lite.data fetch|status``: get full sets, or say what is here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bioplaus_lite import checks
from bioplaus_lite.data.fetching import fetch, print_to_stderr
from bioplaus_lite.data.formats import DataError
from bioplaus_lite.data.sets import SETS, load_arrays


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
        names = [checks.one_of("data set", name, SETS) for name in options.names] or list(SETS)
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
            print_to_stderr(str(error))
            sound = False
        except KeyboardInterrupt:
            print_to_stderr("interrupted; the same command goes on from here")
            return 130
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
