"""The table on record, the command that makes it, and the widget that walks it."""

from __future__ import annotations

import html
import json
import re
import sys

import pandas as pd
import pytest
import traitlets
from conftest import ROOT
from test_widgets import browser, show  # noqa: F401  fixtures

from bioplaus_lite.plausibility import (
    CRITERIA,
    MARKS,
    REVIEW,
    REVIEWED,
    BesideReview,
    case_of,
    columns,
    judge,
    record,
    recorded,
)
from bioplaus_lite.plausibility.__main__ import main
from bioplaus_lite.plausibility.record import RECORD
from bioplaus_lite.widgets.players.criteria import TableWalk

# --- the record ----------------------------------------------------------------------------------------------


def test_the_record_has_every_rule_and_every_criterion_of_one_commit():
    found = recorded()
    assert list(found.rule.unique()) == list(columns())
    assert (found.groupby("rule").criterion.apply(list).map(lambda rows: rows == list(CRITERIA))).all()
    assert found.commit.nunique() == 1 and not found.commit[0].endswith("+")
    assert (found.seconds > 0).all()


@pytest.mark.parametrize("label", ["Backprop", "uSF", "DTP", "Microcircuits, symmetric"])
def test_the_record_is_what_the_code_says_today(label: str):
    """Rows that need no training; a chapter recomputes the others."""
    name, options = columns()[label]
    rows = ["no weight transport", "no weights of its own", "no error units", "linear stabilisation",
            "local", "moments compared", "passes up", "passes down", "memory beside the weights"]  # fmt: skip
    was = recorded().query("rule == @label").set_index("criterion")
    for row, verdict in judge(case_of(name, **options), rows).items():
        assert (verdict.says, verdict.mark) == (was.says[row], was["mark"][row]), row
        if verdict.figure is not None:
            assert verdict.figure == pytest.approx(was.figure[row], rel=1e-3, abs=1e-9), row


def test_a_record_can_be_made_and_read(tmp_path, monkeypatch):
    few = {row: CRITERIA[row] for row in ("no weight transport", "linear stabilisation")}
    monkeypatch.setattr(sys.modules["bioplaus_lite.plausibility.table"], "CRITERIA", few)
    record(["fa", "tp"], tmp_path / "table.jsonl")
    found = recorded(tmp_path / "table.jsonl")
    assert list(found["mark"]) == ["✓", "–", "partly", "✗"]
    assert found.figure[3] == float(f"{few['linear stabilisation'](case_of('tp')).figure:.4g}")
    assert set(found.columns) >= {"rule", "criterion", "says", "mark", "figure", "unit", "why", "seconds", "commit"}


BROKEN = {
    "a key less": (lambda line: line.pop("seconds"), "its keys must be"),
    "a key more": (lambda line: line.update(extra=1), "its keys must be"),
    "no such criterion": (lambda line: line["verdicts"].update(charm=line["verdicts"]["local"]), "'charm'"),
    "no such answer": (lambda line: line["verdicts"]["local"].update(says="maybe"), "'maybe'"),
    "no such field": (lambda line: line["verdicts"]["local"].update(mark="✓"), "mark"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(tmp_path, change, message: str):
    lines = RECORD.read_text("utf-8").splitlines()
    second = json.loads(lines[1])
    change(second)
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join([lines[0], json.dumps(second), *lines[2:]]), "utf-8")
    with pytest.raises(ValueError, match=rf"table\.jsonl, line 2: .*{message}"):
        recorded(path)


def test_the_command_records_all_or_nothing(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("bioplaus_lite.plausibility.__main__.record", lambda: asked.append("all"))
    assert main(["--record"]) == 0 and asked == ["all"]
    for more in (["fa"], ["--row", "local"], ["--json"]):
        with pytest.raises(SystemExit):
            main(["--record", *more])
    assert asked == ["all"] and "takes all rules" in capsys.readouterr().err


# --- beside the review ---------------------------------------------------------------------------------------


def test_the_review_is_quoted_whole_and_the_rows_are_those_that_answer_it():
    assert REVIEW.shape == (7, 7) and (REVIEW.map(len) > 0).all(axis=None)
    assert list(REVIEWED) == [name for name, one in CRITERIA.items() if one.slide]
    assert list(dict.fromkeys(REVIEWED.values())) == list(REVIEW.index)
    assert set(REVIEW) == {label.split(",")[0] for label in columns()} & set(REVIEW)


def of(*rules: str, rows=("exact gradients",)) -> pd.DataFrame:
    found = recorded()
    return found[found.rule.isin(rules) & found.criterion.isin(rows)]


SPLIT = "no weights of its own", "no error units"
CELLS = {  # rules and rows: signs of the verdicts, and what becomes of the cell
    "the same": (("TP",), ("linear stabilisation",), "=", "confirmed"),
    "the same with a qualification": (("DTP",), ("no weight transport",), "=", "confirmed"),
    "another": (("DTP",), ("explicit error representation",), "≠", "contradicted"),
    "not measured": (("TP",), ("explicit error representation",), "~", "undecided"),
    "two readings": (("Backprop",), SPLIT, "=≠", "undecided"),
    "two readings, neither as it says": (("Microcircuits, all learned",), SPLIT, "≠~", "undecided"),
    "two settings": (tuple(columns(["segregated"])), ("explicit error representation",), "=≠", "undecided"),
    "no such column": (("DTP-DRL", "uSF"), ("exact gradients",), ["", ""], ""),
    "no such row": (("Backprop",), ("local",), [""], ""),
}


@pytest.mark.parametrize(("rules", "rows", "signs", "outcome"), CELLS.values(), ids=CELLS)
def test_a_cell_of_the_review_is_compared_with_all_that_is_measured_of_it(rules, rows, signs, outcome: str):
    lines = BesideReview(of(*rules, rows=rows)).lines
    assert list(lines.sign) == list(signs) and set(lines.outcome) == {outcome}
    assert all((review == "") == (outcome == "") for review in lines.review)


def test_the_cells_of_an_outcome_can_be_shown_alone():
    parts = {outcome: BesideReview(recorded(), outcome).lines for outcome in ("confirmed", "undecided", "contradicted")}
    cells = {outcome: set(zip(lines["row"], lines.column, strict=True)) for outcome, lines in parts.items()}
    assert sum(map(len, cells.values())) == REVIEW.size == len(set().union(*cells.values()))
    with pytest.raises(ValueError, match="unknown outcome 'true'; choose one of confirmed"):
        BesideReview(recorded(), "true")


def test_a_terminal_and_a_page_are_told_the_same():
    both = BesideReview(of("FA", "TP", "SDTP", "Microcircuits, symmetric", rows=list(REVIEWED)[::-1]))
    text, page = repr(both), both._repr_html_()
    heads = [line.partition(" [")[0] for line in text.splitlines() if line.endswith("]")]
    assert heads == list(REVIEWED) == re.findall(r"font-weight:bold\">([^<]+)<", page)  # in the order of the table
    assert "  TP:  ✗ ≠ ✓  0.91\n" in text and max(map(len, text.splitlines())) <= 76
    assert "  FA; SDTP:  ✓ = ✓  0\n" in text and text.count("no apical and no basal") == 1  # said once of all
    assert "  FA; Microcircuits, symmetric:  – = –\n" in text and "nan" not in text + page
    plain = " ".join(re.sub(r"<[^>]+>", " ", html.unescape(page)).split())
    for line in both.lines.itertuples():
        assert line.why in plain and line.why in " ".join(text.split())
    assert page.count("<tbody>") == 8 and re.search(r">✓ in the limit<.*>=<.*>✓ in the limit<.*>0\.96<", page)


def sections() -> dict[str, list[dict]]:
    """The cells of the section "The literature table" of each chapter that has one."""
    found: dict[str, list[dict]] = {}
    for path in sorted((ROOT / "book").glob("[pr]*/*.ipynb")):
        inside = False
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            parts = re.split(r"^(?=## )", "".join(cell["source"]), flags=re.MULTILINE)
            for part in parts if cell["cell_type"] == "markdown" else []:
                inside = part.startswith("## The literature table") or (inside and not part.startswith("## "))
                if inside:
                    found.setdefault(path.stem, []).append({"cell_type": "markdown", "source": part})
            if inside and cell["cell_type"] == "code":
                found[path.stem].append(cell)
    return found


def test_no_chapter_types_a_mark_and_each_leads_to_the_whole_table():
    found = sections()
    assert set(found) == {"backprop", "weight_transport", "feedback_alignment", "target_propagation",
                          "segregated_compartments", "microcircuits"}  # fmt: skip
    for chapter, cells in found.items():
        prose = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
        drawn = [cell for cell in cells if cell["cell_type"] == "code" and "\nBesideReview(" in "".join(cell["source"])]
        assert drawn and not re.search("[✓✗]", prose), chapter
        assert prose.strip().endswith("{doc}`../synthesis/literature_table`."), chapter


def test_the_tables_of_the_chapters_are_those_on_record():
    """What a chapter computes where it stands is what one command has computed of all."""
    told = repr(BesideReview(recorded()))
    for chapter, cells in sections().items():
        (first, *_) = (output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output)
        says = re.sub(r"\s+", " ", "".join(first["text/plain"])).split("]")[1:]
        assert len(says) == (1 if chapter == "weight_transport" else 8)
        for why in re.findall(r"^ {6}\S.*(?:\n {6}\S.*)*", "".join(first["text/plain"]), re.MULTILINE):
            assert " ".join(why.split()) in " ".join(told.split()), chapter


@pytest.mark.browser
def test_on_a_phone_nothing_is_cut_off(browser):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    with browser.new_page(viewport={"width": 390, "height": 800}) as page:
        table = BesideReview(of(*columns(["microcircuits"]), rows=list(REVIEWED)))._repr_html_()
        page.set_content(f'<html lang="en"><title>A table</title><main><h1>A table</h1>{table}</main></html>')
        assert Axe().run(page).violations_count == 0
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("tbody").count() == 8


# --- the widget, in Python -----------------------------------------------------------------------------------


def verdicts() -> pd.DataFrame:
    return recorded()


def test_the_widget_says_what_the_record_says():
    found = verdicts()
    walk = TableWalk(found, rule="DTP")
    spec = walk.spec
    assert spec["rules"][walk.rule] == "DTP" and [c["name"] for c in spec["criteria"]] == list(CRITERIA)
    for r, rule in enumerate(spec["rules"]):
        for k, one in enumerate(spec["criteria"]):
            row = found[(found.rule == rule) & (found.criterion == one["name"])].iloc[0]
            assert (spec["cells"][r][k]["mark"], spec["cells"][r][k]["why"]) == (row["mark"], row.why)
    assert all(one["asks"].endswith("?") and "`" not in one["asks"] for one in spec["criteria"])
    assert repr(walk) == "TableWalk(21 rules, 16 criteria)"


def test_without_scripts_the_table_remains():
    page = TableWalk(verdicts())._page_fallback()
    assert page.count("<tr>") == 22 and page.count("<td>") == 336
    assert re.search(r'Backprop</th><td>✓</td><td>✗</td>', page)


REFUSED = {
    "none": (lambda: TableWalk(verdicts()[:0]), "no verdicts"),
    "one missing": (lambda: TableWalk(verdicts()[1:]), "once for every rule"),
    "one twice": (lambda: TableWalk(pd.concat([verdicts(), verdicts()[:1]])), "once for every rule"),
    "rule": (lambda: TableWalk(verdicts(), rule="BP"), "rule is 'BP'"),
    "criterion": (lambda: TableWalk(verdicts().replace("local", "charm")), "unknown criterion 'charm'"),
    "title": (lambda: TableWalk(verdicts(), title=" "), "title is ' '"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_input_is_refused_by_name(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_step_and_rule_are_checked_when_they_are_set():
    walk = TableWalk(verdicts())
    for name, wrong in (("step", 16), ("step", -1), ("rule", 21), ("rule", -1)):
        with pytest.raises(traitlets.TraitError, match=rf"{name} is {wrong}; it must be from 0 to"):
            setattr(walk, name, wrong)


# --- the widget, in a browser --------------------------------------------------------------------------------


def shown_rules(page) -> list[str]:
    return page.locator(".bp-verdicts tbody tr:visible th").all_text_contents()


@pytest.mark.browser
def test_a_reader_walks_the_checks_of_a_rule(show):  # noqa: F811
    found = verdicts().set_index(["rule", "criterion"])
    page = show(TableWalk(verdicts()))
    page.locator(".bp-rule-select").select_option(label="TP")
    for k, name in enumerate(CRITERIA):
        said = found.loc[("TP", name)]
        text = page.locator("output.bp-text").text_content()
        assert f"Check {k + 1} of 16 · {name}" in text and "TP: " in text and text.endswith(said.why)
        badge = page.locator(".bp-badge").text_content()
        assert said.says in badge and (said.says == "counted" or MARKS[said.says] in badge)
        assert page.locator("td.bp-here").text_content() == said["mark"]
        page.locator(".bp-slider").press("ArrowRight")
    page.locator(".bp-verdicts tr", has_text="FA").first.locator("td").nth(1).click()
    assert "no weight transport" in page.locator("output.bp-text").text_content()
    assert page.locator(".bp-rule-select").evaluate("s => s.selectedOptions[0].text") == "FA"


@pytest.mark.browser
def test_a_reader_sorts_and_filters_by_criterion(show):  # noqa: F811
    found = verdicts()
    page = show(TableWalk(found))
    everyone = shown_rules(page)
    assert everyone == list(found.rule.unique())

    page.get_by_role("button", name="memory beside the weights").press("Enter")  # by keyboard
    memory = found[found.criterion == "memory beside the weights"].set_index("rule").figure
    sizes = [memory[rule] for rule in shown_rules(page)]
    assert sizes == sorted(sizes) and "memory" in page.locator("output.bp-text").text_content()
    page.get_by_role("button", name="memory beside the weights").press("Enter")
    sizes = [memory[rule] for rule in shown_rules(page)]
    assert sizes == sorted(sizes, reverse=True)
    assert page.locator('th[aria-sort="descending"]').count() == page.locator("th[aria-sort]").count() == 1

    page.get_by_role("button", name="no weight transport").click()
    page.locator(".bp-filter").select_option("holds")
    page.get_by_role("button", name="separate weights learned").click()
    page.locator(".bp-filter").select_option("holds")
    wide = found.pivot(index="rule", columns="criterion", values="says")
    both = wide[(wide["no weight transport"] == "holds") & (wide["separate weights learned"] == "holds")].index
    assert 0 < len(both) < 21 and set(shown_rules(page)) == set(both)
    told = page.locator(".bp-found").text_content()
    assert told == f"{len(both)} of 21 rules: no weight transport ✓, separate weights learned ✓."
    page.locator(".bp-reset").click()
    assert shown_rules(page) == everyone and page.locator("th[aria-sort]").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", 800), ("dark", 800), ("light", 390)])
def test_the_widget_is_accessible_and_fits(show, theme, width):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    page = show(TableWalk(verdicts()), theme=theme, width=width)
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    faint = page.locator(".bp-widget").evaluate(
        """(root) => [...root.querySelectorAll("td.bp-says, .bp-badge")].filter((e) => {
            const paper = getComputedStyle(e).backgroundColor;
            return paper === "rgba(0, 0, 0, 0)" && !/[–?\\d]/.test(e.textContent);
        }).map((e) => e.textContent)"""
    )
    assert faint == []  # what holds or fails has a colour beside its mark
