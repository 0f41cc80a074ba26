"""The scorecard holds every published figure once, and its verdicts are what the intervals say."""

from __future__ import annotations

import json
import math
import re

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, SITE
from promise_rules import printed, shows
from trainings_pages import TITLES, in_common, units

from bioplaus_lite.runs import MixedRuns, mean_and_interval, save_run
from bioplaus_lite.runs.catalogue import Published, figures, read_published
from bioplaus_lite.runs.results import HIGHER_IS_BETTER, QUANTITIES
from bioplaus_lite.runs.scorecard import VERDICTS, count, judge, scorecard

ERROR, ACCURACY = "test error (%)", "test accuracy (%)"
SEEDS = [2.0, 2.1, 2.4]
MEAN, HALF = mean_and_interval(SEEDS)


# --- a verdict -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (MEAN, ("inside", "", "")),
        (MEAN + HALF, ("inside", "", "")),
        (MEAN - HALF, ("inside", "", "")),
        (math.nextafter(MEAN + HALF, 9), ("outside", "lower", "better")),
        (math.nextafter(MEAN - HALF, 0), ("outside", "higher", "worse")),
        (0.1, ("outside", "higher", "worse")),
    ],
)
def test_a_figure_is_inside_up_to_the_ends_of_the_interval(figure: float, verdict: tuple[str, str, str]):
    said = judge(ERROR, figure, SEEDS)
    assert (said.mean, said.half) == (MEAN, HALF) and said[2:] == verdict


def test_more_is_better_of_accuracies_and_less_of_all_else():
    assert judge(ACCURACY, 90.0, [97.0, 97.1]).better == "better"
    assert judge(ACCURACY, 99.0, [97.0, 97.1]).better == "worse"
    assert judge("angle of the hidden error (°)", 30.0, [5.0, 5.1]).better == "better"
    assert {what for what in QUANTITIES if "accuracy" in what} == HIGHER_IS_BETTER


def test_of_one_seed_it_cannot_be_told_not_even_if_the_numbers_agree():
    for figure in (2.0, 9.0):
        said = judge(ERROR, figure, [2.0])
        assert said[2:] == ("cannot be told", "", "") and said.mean == 2.0 and math.isnan(said.half)
    nothing = judge(ERROR, 2.0, [])
    assert nothing.verdict == "cannot be told" and math.isnan(nothing.mean)


def test_seeds_that_agree_leave_no_room():
    assert judge(ERROR, 2.0, [2.0, 2.0]).verdict == "inside"
    assert judge(ERROR, 2.01, [2.0, 2.0]).verdict == "outside"


def test_a_wider_level_takes_in_more():
    figure = MEAN + 1.5 * HALF
    assert [judge(ERROR, figure, SEEDS, level).verdict for level in (0.95, 0.99)] == ["outside", "inside"]


def test_what_is_no_quantity_is_named():
    with pytest.raises(KeyError, match=r"unknown quantity 'error'; choose one of test error \(%\)"):
        judge("error", 2.0, SEEDS)


# --- made-up records -----------------------------------------------------------------------------------------


def figure_of(run: str, figure: float, **more) -> Published:
    said = {"paper": "a2000", "what": ERROR, "where": "table 1", "known": "paper", "differs": "the rate"} | more
    return Published("made", run, "mnist", said.pop("rule", "fa"), figure=figure, **said)


def record(run: str, seed: int, error: float, commit: str = "c0") -> dict:
    named = {"id": f"made-mnist-{run}-s{seed}", "group": "made", "name": run, "rule": "fa", "dataset": "mnist"}
    return named | {"sizes": [4, 2], "seed": seed, "epochs": 3, "test_error": error, "commit": commit}


@pytest.fixture
def data(tmp_path):
    for run, errors in {"a": (0.020, 0.021, 0.024), "b": (0.03, 0.03), "c": (0.05,)}.items():
        for seed, error in enumerate(errors):
            save_run(record(run, seed, error), tmp_path)
    return tmp_path


def test_a_row_is_a_figure_and_its_verdict_that_of_the_nearest_run(data):
    told = {"nearest": True, "reason": "The length."}
    card = scorecard([figure_of("a", 2.2), figure_of("b", 2.2, **told), figure_of("c", 5.0, rule="dfa")], data)
    assert list(card.run) == ["b", "c"] and list(card.verdict) == ["outside", "cannot be told"]
    first = card.iloc[0]
    assert (first.published, first["mean"], first.half, first.seeds) == (2.2, 3.0, 0.0, 2)
    assert (first.side, first.better, first.reason) == ("higher", "worse", "The length.")
    assert first.distance == pytest.approx(0.8) and first["values"] == [3.0, 3.0]
    ((name, other),) = first.others
    assert name == "a" and other.verdict == "inside" and other.mean == pytest.approx(MEAN)
    assert list(card.others)[1] == [] and (card.sizes[1], card.epochs[1]) == ([4, 2], 3)
    assert count(card) == "2 figures of 1 papers: 0 inside, 1 outside (ours: 0 better, 1 worse), 1 cannot be told"


def test_a_figure_without_a_record_stays_in_its_row(data):
    (row,) = scorecard([figure_of("none", 2.2)], data).itertuples()
    assert (row.seeds, row.verdict) == (0, "cannot be told") and math.isnan(row.mean)


def test_seeds_of_different_code_are_refused(data):
    save_run(record("a", 3, 0.02, commit="c1"), data)
    with pytest.raises(MixedRuns, match="of made, a"):
        scorecard([figure_of("a", 2.2)], data)


# --- the book ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card():
    return scorecard()


def test_every_published_figure_is_in_one_row_and_none_is_left_out(card):
    published = read_published()
    keys = ["paper", "where", "what", "dataset", "published", "rule"]
    assert not card.duplicated(keys).any()
    rows = set(card[keys].itertuples(index=False, name=None))
    assert rows == {(one.paper, one.where, one.what, one.dataset, one.figure, one.rule) for one in published}
    assert len(card) == len(figures(published))
    assert len(card) + sum(map(len, card.others)) == len(published)
    assert set(card.verdict) <= set(VERDICTS) and (card.seeds > 0).all()


def test_verdicts_are_what_the_records_say(card):
    for row in card.itertuples():
        if row.seeds == 1:
            assert row.verdict == "cannot be told"
            continue
        mean, half = mean_and_interval(row.values)
        assert (row.verdict == "inside") == (abs(row.published - mean) <= half + 1e-12), row.run
        assert (row.mean, row.half) == (mean, half)


def test_what_is_outside_has_a_reason_and_what_is_inside_needs_none(card):
    assert card[(card.verdict == "outside") & (card.reason == "")].run.tolist() == []
    assert card[(card.verdict == "inside") & (card.reason != "")].run.tolist() == []
    assert card.reason.str.startswith("Not known").any()
    assert all(reason.endswith(".") for reason in card.reason if reason)


def straight(text: str) -> str:
    """With the apostrophes that Sphinx bends, and with plain spaces."""
    return text.replace("’", "'").replace("\xa0", " ")


# --- the page ------------------------------------------------------------------------------------------------

PAGE = ROOT / "book/synthesis/scorecard.ipynb"
#: Numbers in the table of claims that are the review's own, each in the words around it.
THEIRS = ("48 % of CIFAR-10",)


@pytest.fixture(scope="module")
def page() -> list[dict]:
    return json.loads(PAGE.read_text("utf-8"))["cells"]


@pytest.fixture(scope="module")
def prose(page) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in page if cell["cell_type"] == "markdown")


def claims(prose: str) -> list[list[str]]:
    table = prose.split("| the review | where | verdict | how we know |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.split("\n")]
    return [row for row in rows if len(row) == 4]  # the others are headings


def test_the_page_says_how_many_figures_and_claims_there_are(card, page, prose):
    outputs = "".join("".join(output.get("text", "")) for cell in page for output in cell.get("outputs", []))
    assert count(card) in outputs
    of = card.verdict.value_counts()
    first = f"Of {len(card)} published figures that trainings of this book stand beside, {of['inside']} lie inside"
    assert first in prose and f"{of['outside']} outside and {of['cannot be told']} cannot be told" in prose
    verdicts = [verdict.strip("*") for _, _, verdict, _ in claims(prose)]
    held, failed, open_ = (verdicts.count(v) for v in ("holds", "does not hold", "cannot be told"))
    assert held + failed + open_ == len(verdicts)
    said = f"{held} hold, {failed} do not hold, and {open_} cannot be told"
    assert f"of {len(verdicts)} claims of the 2019 review {said}" in prose
    assert f"Of {len(verdicts)} claims {said}" in prose
    assert prose.count("```{scorecard}\n```") == 1


def test_each_claim_has_a_place_and_leads_to_a_section_that_exists(prose):
    for claim, place, _, why in claims(prose):
        assert re.search(r"report, section [1-6]|slides|figure", place), claim
        (link,) = re.findall(r"\{doc\}`\.\./([\w/-]+)`", why)
        (path,) = (ROOT / "book").glob(f"{link}.*")
        for section in re.findall(r"`, \*([^*]+)\*", why):
            heading = rf'^ *"?#+ {re.escape(section)}(\\n)?"?,?$'
            assert re.search(heading, path.read_text("utf-8"), re.M), f"{link} has no section {section}"


def test_the_numbers_of_the_claims_are_printed_above_them_or_are_the_reviews(page, prose):
    outputs = set().union(*(printed(cell) for cell in page if cell["cell_type"] == "code"))
    checked = 0
    for row in claims(prose):
        why = row[3]
        for phrase in THEIRS:
            why = why.replace(phrase, "")
        why = re.sub(r"\{doc\}.*|\$[^$]*\$", "", why)
        for number in re.findall(r"(?<![\w.,-])\d+(?:,\d{3})*(?:\.\d+)?", why):
            if number not in ("1", "2", "5"):  # of a layer, or of an epoch
                assert shows(outputs, number.replace(",", "")), f"{number} in {row[3]}"
                checked += 1
    assert checked > 15
    assert all(any(phrase in " ".join(row) for row in claims(prose)) for phrase in THEIRS)


def test_what_rows_share_is_found_and_sizes_are_written_short():
    assert in_common(["the rate; 5,000 held out", "loss; 5,000 held out; the rate"]) == ["the rate", "5,000 held out"]
    assert in_common(["the rate"]) == ["the rate"] and in_common(["a", "b"]) == []
    assert [units(s) for s in ([784, 256, 256, 256, 10], [784, 500, 500, 10])] == ["784-3×256-10", "784-500-500-10"]


@pytest.mark.browser
def test_the_built_page_has_a_row_for_every_figure_and_its_links_lead_to_records(card):
    built = BeautifulSoup((SITE / "synthesis/scorecard.html").read_text("utf-8"), "html.parser")
    parts = built.select(".recorded-runs.scorecard")
    for part, (_, own) in zip(parts, card.groupby("paper", sort=False), strict=True):
        heads, above = [head.text for head in part.select("thead th")], straight(part.select_one("p").text)
        assert count(own).partition(": ")[2] in above
        for row, one in zip(part.select("tbody tr"), own.itertuples(), strict=True):
            cells = dict(zip(heads, (straight(cell.get_text()) for cell in row.select("td")), strict=True))
            assert float(cells["published"]) == one.published and cells["our run"].startswith(f"{one.run}, ")
            interval = f"{one.mean:.2f} ± {one.half:.2f}" if one.seeds > 1 else f"{one.mean:.2f}"
            assert cells["ours (seeds)"].startswith(f"{interval} ({one.seeds})")
            assert all(name in cells["ours (seeds)"] for name, _ in one.others)
            assert cells["verdict"].startswith(one.verdict)
            assert one.better in cells["verdict"] and one.side in cells["verdict"]
            assert all(said in above + cells.get("figure", "") for said in (one.what, one.where, TITLES[one.dataset]))
            not_the_same = above + cells.get("not the same", "") + cells.get("also not the same", "")
            assert all(said in not_the_same for said in one.differs.split("; "))
            assert cells["reason"] == (one.reason or "–")
            page, _, anchor = row.select_one("a")["href"].partition("#")
            target = BeautifulSoup((SITE / "synthesis" / page).read_text("utf-8"), "html.parser")
            assert target.find(id=anchor), row.select_one("a")["href"]
