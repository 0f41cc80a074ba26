"""The pages of trainings say what the records say."""

from __future__ import annotations

import re
import statistics

import pytest
from trainings_pages import (
    TITLES,
    anchor,
    by_run,
    catalogued,
    draw,
    plain,
    speaks,
    test_errors,
    training_errors,
    without,
)

from bioplaus_lite.runs.records import path_of, read_lines, recorded

test_errors.__test__ = False  # a function of the pages


def results(group: str, purpose: str = "result") -> list[dict]:
    return list(read_lines(path_of(group, purpose)).records.values())


@pytest.mark.parametrize("group", sorted({record["group"] for record in recorded().values()}))
def test_every_record_of_a_group_is_in_one_row_and_the_rows_are_in_the_order_of_the_catalogue(group: str):
    rows = by_run(results(group))
    assert sorted(r["id"] for records in rows.values() for r in records) == sorted(r["id"] for r in results(group))
    for (dataset, name), records in rows.items():
        assert {r["dataset"] for r in records} == {dataset} and len({r["seed"] for r in records}) == len(records)
        assert {re.sub(r"-s\d+$", "", r["id"]) for r in records} == {anchor(records)}
        assert anchor(records).endswith(name)
    assert list(dict.fromkeys(d for d, _ in rows)) == [d for d in TITLES if d in {d for d, _ in rows}]
    if group in catalogued():
        entries = list(catalogued()[group]["runs"])
        first = next(iter(rows))[1]
        assert first == entries[0] or first.startswith(f"{entries[0]}-")


def test_the_end_of_a_curve_is_the_error_on_record():
    """With spikes where the network is tested with spikes."""
    spiking = 0
    for name, record in recorded(purpose="result").items():
        epochs, errors = test_errors(record)
        assert errors[-1] == pytest.approx(100 * record["test_error"], abs=1e-3), name
        assert epochs[0] == 0 and epochs[-1] == pytest.approx(record["epochs"]), name
        trained = training_errors(record)
        assert trained is None or len(trained[0]) == len(trained[1])
        spiking += "spiking_accuracy" in record.get("metrics", {}).get("rule", {})
    assert spiking > 0


def test_the_trials_of_a_search_are_those_that_differ_in_nothing_else():
    """So the value in bold has the least error, of all those that the run says were tried."""
    searched = 0
    for group in catalogued():
        trials = results(group, "search")
        for records in by_run(results(group)).values():
            if not (chosen := records[0].get("chosen")):
                continue
            but = without(records[0], chosen["key"])[0]
            found: dict = {}
            for trial in trials:
                rest, value = without(trial, chosen["key"])
                if rest == but:
                    found.setdefault(value, []).append(1 - trial["validation_error"])
            assert set(found) == set(chosen["of"]), anchor(records)
            best = max(chosen["of"], key=lambda value: statistics.mean(found[value]))
            assert best == chosen["value"], anchor(records)
            searched += 1
    assert searched > 50


def test_a_drawing_has_a_panel_a_run_and_is_the_same_each_time():
    runs = {name: records for (dataset, name), records in by_run(results("review")).items() if dataset == "mnist"}
    svg = draw(runs)
    assert svg == draw(runs) and svg.startswith("<svg")
    for name, records in runs.items():
        assert f"{name}  {100 * statistics.mean(r['test_error'] for r in records):.2f} %" in svg
    assert "#000000" not in svg and "<text fill=" in svg and "currentColor" in svg  # legible on a dark page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"name": "Adam", "lr": 1e-3, "forward": {"lr": 0.01}}, "Adam, lr 0.001, forward (lr 0.01)"),
        ({"type": "MLP", "hidden": [500, 100]}, "MLP, hidden [500, 100]"),
        ({}, "–"),
        (True, "True"),
    ],
)
def test_a_setting_is_written_as_a_reader_would(value: object, text: str):
    assert plain(value) == text


def test_what_says_nothing_is_left_out_and_a_zero_is_not():
    assert [v for v in (0, 0.0, False, None, [], {}, "x", True) if speaks(v)] == [0, 0.0, "x", True]
