"""The pages of trainings say what the records say."""

from __future__ import annotations

import math
import re
import statistics

import numpy as np
import pytest
from bs4 import BeautifulSoup
from conftest import SITE
from trainings_pages import (
    KNOWN,
    TITLES,
    anchor,
    by_run,
    catalogued,
    draw,
    plain,
    reached_here,
    speaks,
    test_errors,
    training_errors,
    without,
)

from bioplaus_lite.plots import COLOURS
from bioplaus_lite.runs import QUANTITIES, mean_and_interval
from bioplaus_lite.runs.catalogue import published_in, read_catalogue
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
        known = [(run.parameters["dataset"], run.name) for run in read_catalogue().runs.values() if run.group == group]
        assert list(rows) == sorted(dict.fromkeys(known), key=lambda row: list(TITLES).index(row[0]))


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


STYLE = r"fill: none; ([^\"]*)stroke: (#[0-9a-f]{6}); stroke-width: (?:0.8|1.1)[;\"]"
DRAWN = re.compile(rf'<path d="([^"]+)"[^>]*style="{STYLE}')


def test_lines_of_a_drawing_are_the_errors_on_record():
    """In the order of the records, dotted where they are of training images, and as high as the errors say."""
    runs = {name: records for (dataset, name), records in by_run(results("review")).items() if dataset == "mnist"}
    drawn = iter([match.groups() for match in DRAWN.finditer(draw(runs)) if len(match[1].split()) > 6])
    for name, records in runs.items():
        heights, errors = [], []
        for record in records:
            expected = [(training_errors(record), COLOURS[1], True), (test_errors(record), COLOURS[0], False)]
            for curve, colour, dotted in expected[0 if expected[0][0] else 1 :]:
                path, style, stroke = next(drawn)
                assert (stroke, "dasharray" in style) == (colour.lower(), dotted), name
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
                heights += [numbers[1], numbers[-1]]
                errors += [math.log(curve[1][0]), math.log(curve[1][-1])]
        slope, offset = np.polyfit(errors, heights, 1)
        assert slope < 0 and np.abs(slope * np.array(errors) + offset - heights).max() < 0.05, name
    assert next(drawn, None) is None


def page_of(group: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / "trainings" / f"{group}.html").read_text("utf-8"), "html.parser")


def rows_of(table) -> list[dict[str, str]]:
    heads = [head.text for head in table.select("thead th")]
    return [dict(zip(heads, [cell.text for cell in row.select("td")], strict=True)) for row in table.select("tbody tr")]


@pytest.mark.browser
@pytest.mark.parametrize("group", sorted(catalogued()))
def test_the_page_of_a_group_says_what_its_records_say(group: str):
    page, made, trials = page_of(group), results(group), results(group, "search")
    by_row: dict[tuple[str, str], list[dict]] = {}
    for record in made:
        by_row.setdefault((TITLES[record["dataset"]], record["name"]), []).append(record)

    rows = rows_of(page.select(".recorded-runs")[0])
    assert len(rows) == len(by_row)
    for row in rows:
        records = sorted(by_row[row["data"], row["run"]], key=lambda record: record["seed"])
        errors = [100 * record["test_error"] for record in records]
        assert row["test error, seed by seed (%)"].split() == [f"{error:.2f}" for error in errors]
        assert row["mean"] == f"{statistics.mean(errors):.2f}"
        assert row["seconds"] == f"{statistics.mean(record['wall_seconds'] for record in records):.0f}"
        assert row["units"].split("-") == [str(size) for size in records[0]["sizes"]]
    said = page.select(".recorded-runs")[0].select("p")[-1].text
    hours = sum(record["wall_seconds"] for record in (*made, *trials)) / 3600
    assert f"{len(made)} trainings" in said and f"{hours:.1f} hours" in said
    assert not trials or f"{len(trials)} trials" in said
    assert set(re.findall(r"[0-9a-f]{12}", said)) == {record["commit"][:12] for record in made}

    for row in rows_of(page.select(".recorded-runs.settings")[0]):
        p = by_row[row["data"], row["run"]][0]["parameters"]
        assert row["rule"] == p["rule"]
        for column in ("network", "options", "optimizer"):
            assert row[column] == plain(p[column])
    assert bool(page.select(".searches")) == bool(trials)
    for searches in page.select(".searches"):
        for row, cells in zip(rows_of(searches), searches.select("tbody tr"), strict=True):
            chosen = by_row[row["data"], row["run"]][0]["chosen"]
            values = [text.split(" → ")[0] for text in cells.select("td")[-1].text.split(" · ")]
            assert values == [plain(value) for value in sorted(chosen["of"])]
            assert [bold.text.split(" → ")[0] for bold in cells.select("strong")] == [plain(chosen["value"])]

    captions = page.select("figure.learning-curves")
    for figure, title in zip(captions, dict.fromkeys(row["data"] for row in rows), strict=True):
        ends = [statistics.mean(r["test_error"] for r in records) for (d, _), records in by_row.items() if d == title]
        label = figure.select_one("svg")["aria-label"]
        assert label.startswith(f"{title}: learning curves of {len(ends)} run")
        assert f"end between {100 * min(ends):.1f} and {100 * max(ends):.1f} per cent" in label
        records = [r for (d, _), records in by_row.items() if d == title for r in records]
        assert ("dotted" in figure.text) == any(r["metrics"].get("train_sample") for r in records)
        assert ("with spikes" in figure.text) == any("spiking_accuracy" in r["metrics"]["rule"] for r in records)


def straight(text: str) -> str:
    """With the apostrophes that Sphinx bends."""
    return text.replace("’", "'")


def figures_of(group: str) -> list:
    return list(published_in(group, catalogued()[group]))


@pytest.mark.browser
@pytest.mark.parametrize("group", sorted(group for group in catalogued() if figures_of(group)))
def test_what_papers_report_stands_beside_what_the_records_say(group: str):
    section = page_of(group).select_one(".recorded-runs.published")
    rows, said, figures = rows_of(section), section.select("p")[-1].text, figures_of(group)
    for row, one in zip(rows, figures, strict=True):
        own = [r for r in results(group) if (r["name"], r["dataset"]) == (one.run, one.dataset)]
        ours = [QUANTITIES[one.what](record) for record in own]
        mean, half = mean_and_interval(ours)
        assert row["run"] == one.run and float(row["published"]) == one.figure
        assert row["here"] == (f"{mean:.2f} ± {half:.2f}" if len(ours) > 1 else f"{mean:.2f} (one seed)")
        # What all rows share is said once, below the table.
        cells = {"data": TITLES[one.dataset], "number": one.what, "known": KNOWN[one.known]}
        cells["not the same"] = one.differs
        for head, text in cells.items():
            assert straight(row[head]) == text if head in row else f"{head.capitalize()}: {text}." in straight(said)
        where = straight(row.get("where", said))
        assert one.where in where and re.search(r"\w+ et al|Lange", where)
    for link in section.select("tbody a[href^='#']"):
        assert page_of(group).find(id=link["href"][1:])


def test_seeds_have_a_mean_and_an_interval_and_one_seed_is_called_one():
    seeds = [{"test_error": error, "validation_error": 0.2} for error in (0.01, 0.02, 0.03)]
    assert reached_here("test error (%)", seeds) == "2.00 ± 2.48"
    assert reached_here("test error (%)", seeds[:1]) == "1.00 (one seed)"
    assert reached_here("test accuracy (%)", seeds[:1]) == "99.00 (one seed)"
    assert reached_here("validation accuracy (%)", seeds) == "80.00 ± 0.00"
    angles = [{"metrics": {"rule": {"error_angle_1": [90.0, 35.25]}}}]
    assert reached_here("angle of the hidden error (°)", angles) == "35.25 (one seed)"
    assert reached_here("test error (%)", []) == "not on record yet"


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
