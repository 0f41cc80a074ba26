"""Full-length trainings: a catalogue, a runner, and records that chapters load.

A chapter never retrains what a full run recorded. It loads the record and says which parameters, seeds and commit:
:func:`~bioplaus_lite.runs.records.load_runs`.

``catalogue`` says which runs there are, ``recipe`` makes networks, rules and optimisers of their settings, ``train``
trains a run in this process, ``notebooks`` executes one as a notebook, ``work`` many, here or on a cluster, with
``progress``. ``folders`` says where results go, ``states`` which runs are done, ``runner`` does those that are not.
``records`` keeps the results, ``fingerprints`` say whether the code still gives them, ``results`` makes tables of them,
``scorecard`` puts them beside what papers report. ``spaces`` says what a search may try, ``folds`` tries a setting by
cross-validation, ``search`` does all that a study asks for. The command line is ``python -m bioplaus_lite.runs``.
"""

from bioplaus_lite.runs.catalogue import (
    CATALOGUE,
    Catalogue,
    CatalogueError,
    Published,
    Run,
    published_of,
    read_catalogue,
)
from bioplaus_lite.runs.recipe import build_network, build_rule, optimizer_from, scheduler_from, split_of, turns_of
from bioplaus_lite.runs.records import MixedRuns, load_runs, provenance, save_run
from bioplaus_lite.runs.results import QUANTITIES, holm, late_error, mean_and_interval, reached, tidy, welch

# `train` itself stays in the module of its name, which a function called so would hide.
from bioplaus_lite.runs.train import Measures, Outcome, Training, prepare, report_progress

__all__ = [
    "CATALOGUE", "QUANTITIES", "Catalogue", "CatalogueError", "Measures", "MixedRuns", "Outcome", "Published", "Run",
    "Training", "build_network", "build_rule", "holm", "late_error", "load_runs", "mean_and_interval", "optimizer_from",
    "prepare", "provenance", "published_of", "reached", "read_catalogue", "report_progress", "save_run",
    "scheduler_from", "split_of", "tidy", "turns_of", "welch",
]  # fmt: skip
