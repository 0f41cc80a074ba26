"""Full-length trainings: a catalogue, a runner, and records that chapters load.

A chapter never retrains what a full run recorded. It loads the record and says which parameters, seeds and commit:
:func:`~bioplaus_lite.runs.records.load_runs`.

``catalogue`` says which runs there are, ``recipe`` makes networks, rules and optimisers of their settings,
``notebooks`` executes one run, ``work`` many, here or on a cluster, with ``progress``. ``folders`` says where results
go, ``states`` which runs are done, ``runner`` does those that are not. ``records`` keeps the results, ``fingerprints``
say whether the code still gives them, ``results`` makes tables of them, ``scorecard`` puts them beside what papers
report. The command line is ``python -m bioplaus_lite.runs``.
"""

from bioplaus_lite.runs.catalogue import CATALOGUE, Catalogue, CatalogueError, Published, Run, read_catalogue
from bioplaus_lite.runs.recipe import (
    Measures,
    Outcome,
    build_network,
    build_rule,
    optimizer_from,
    report_progress,
    scheduler_from,
    split_of,
    turns_of,
)
from bioplaus_lite.runs.records import MixedRuns, load_runs, provenance, save_run
from bioplaus_lite.runs.results import QUANTITIES, holm, late_error, mean_and_interval, reached, tidy, welch

__all__ = [
    "CATALOGUE", "QUANTITIES", "Catalogue", "CatalogueError", "Measures", "MixedRuns", "Outcome", "Published", "Run",
    "build_network", "build_rule", "holm", "late_error", "load_runs", "mean_and_interval", "optimizer_from",
    "provenance", "reached", "read_catalogue", "report_progress", "save_run", "scheduler_from", "split_of", "tidy",
    "turns_of", "welch",
]  # fmt: skip
