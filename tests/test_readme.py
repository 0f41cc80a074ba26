"""The README as a reader uses it: its loop runs, its links exist, its commands are in the Makefile."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_loop_runs_and_learns(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    printed = eval(capsys.readouterr().out, {})
    assert printed["accuracy"] > 0.85
    assert set(printed) == {"loss", "accuracy"}


def test_links_and_pictures_exist():
    for name in ("README.md", "CONTRIBUTING.md", "data/README.md"):
        page = ROOT / name
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{name} points to {target}"


def test_the_errata_lead_to_sections_that_exist():
    rows = re.findall(r"^\| (?!chapter|---).*$", (ROOT / "book/errata.md").read_text("utf-8"), re.M)
    assert len(rows) > 40
    for row in rows:
        page, section = re.search(r"\{doc\}`([^`]+)`(?:, \*([^*]+)\*)? \|$", row).groups()
        text = next((ROOT / "book").glob(f"{page}.*")).read_text("utf-8")
        if section:
            cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
            assert re.search(rf"^#+ {re.escape(section)}$", "\n".join(cells), re.M), f"{page} has no section {section}"


def test_commands_exist_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{command}:|[ ]{command}\b.*:", makefile, re.M), f"make {command} is in no rule"


def test_rules_listed_are_the_rules_there_are():
    from bioplaus_lite import RULES

    listed = README.split("The rules there are:")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)`", listed)) == set(RULES)
