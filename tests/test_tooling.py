"""The Makefile, the notebook runner and the book's Sphinx extension."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import conftest
import execute
import instructions
import nbformat
import numpy as np
import pytest
import yaml
from bioplaus_book import FINISH, source_digest
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

# --- make ----------------------------------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as a person would, whatever make runs this test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        (None, "was not found; Python 3.11 or newer is needed"),
        ('case "$1" in --version) echo "Python 3.10.4";; *) exit 1;; esac', "is Python 3.10.4; Python 3.11 or newer"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "has no venv module; install it"),
    ],
    ids=["missing", "old", "without venv"],
)
def test_make_says_in_one_line_why_a_python_will_not_do(tmp_path: Path, behaviour: str | None, complaint: str):
    python = tmp_path / "python"
    if behaviour is not None:
        script(python, behaviour)
    result = make("setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert result.returncode != 0
    assert result.stdout == ""
    assert re.fullmatch(rf".*{re.escape(str(python))} {re.escape(complaint)}.*\n", result.stderr), result.stderr
    assert not (tmp_path / "venv").exists()


def test_make_installs_once(tmp_path: Path):
    """With the stamp newer than what it depends on, no target sets anything up."""
    (tmp_path / "installed.stamp").touch()
    plan = make("-n", "test", "book", f"VENV={tmp_path}", "PYTHON=no-such-python")
    assert plan.returncode == 0, plan.stderr
    assert "pip install" not in plan.stdout
    os.utime(tmp_path / "installed.stamp", (0, 0))
    assert "pip install" in make("-n", "book", f"VENV={tmp_path}").stdout


def test_make_help_lists_every_command():
    listed = re.findall(r"^  make (\w+)", make("help").stdout, re.MULTILINE)
    assert {"book", "test", "lab", "serve", "notebooks", "data", "lint", "clean", "help"} <= set(listed)


# --- the notebook runner -------------------------------------------------------------------------------------


def stored(path: Path, *sources: str) -> Path:
    cells = [new_markdown_cell("# Title"), *(new_code_cell(source) for source in sources)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "mine", "display_name": "x"}}), path)
    return path


def test_a_notebook_is_executed_in_its_own_folder_and_the_second_time_nothing_changes(tmp_path: Path):
    (tmp_path / "beside.txt").write_text("beside")
    path = stored(tmp_path / "a.ipynb", "import sys\nprint(open('beside.txt').read())\nprint('more')", "1 + 1")
    assert execute.execute(path) is True
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[1].outputs[0].text == "beside\nmore\n"
    assert notebook.cells[2].outputs[0].data == {"text/plain": "2"}
    assert notebook.metadata == execute.METADATA
    before = path.read_bytes()
    assert execute.execute(path) is False
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ipynb", "beside.txt"]


def test_a_failing_cell_is_named_and_the_file_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = stored(tmp_path / "bad.ipynb", "x = 1", "raise ValueError('no such rule')")
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    said = capsys.readouterr().err
    assert f"{path}: cell 2 (id " in said and "no such rule" in said
    assert path.read_bytes() == before


def test_what_varies_from_run_to_run_is_left_out():
    view = {execute.WIDGET_VIEW: {"model_id": "4f1c"}, "text/html": "<b>1</b>"}
    cell = new_code_cell("w", execution_count=1, outputs=[new_output("display_data", view)])
    cell.metadata.execution = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    notebook = new_notebook(cells=[cell, new_code_cell("w")], metadata={"widgets": {"state": {}}})
    notebook.cells[1].id = cell.id
    execute.normalise(notebook)
    assert notebook.metadata == execute.METADATA
    assert dict(notebook.cells[0].outputs[0].data) == {"text/html": "<b>1</b>"}
    assert notebook.cells[0].metadata == {}
    ids = [c.id for c in notebook.cells]
    assert len(set(ids)) == 2
    assert [c.id for c in execute.normalise(notebook).cells] == ids


def test_figures_are_packed_pixel_by_pixel_the_same():
    pixels = np.random.default_rng(0).integers(0, 4, (40, 60, 4), np.uint8) * 60
    for alpha, kept in ((255, "RGB"), (pixels[..., 3].copy(), "RGBA")):
        pixels[..., 3], raw = alpha, io.BytesIO()
        Image.fromarray(pixels).save(raw, "PNG", compress_level=0)
        data = {"image/png": base64.b64encode(raw.getvalue()).decode(), "text/plain": "<Figure>"}
        notebook = new_notebook(cells=[new_code_cell("plot()", outputs=[new_output("display_data", data)])])
        execute.pack_figures(notebook)
        packed = base64.b64decode(notebook.cells[0].outputs[0].data["image/png"])
        assert len(packed) < len(raw.getvalue()) / 2
        image = Image.open(io.BytesIO(packed))
        assert image.mode == kept
        np.testing.assert_array_equal(image.convert("RGBA"), pixels)


def test_the_runner_reads_the_table_of_contents_and_leaves_the_trainings(tmp_path: Path):
    chapters = [{"file": "a", "sections": [{"file": "b"}]}, {"file": "trainings/t-fa-s0"}, {"glob": "trainings/*"}]
    toc = {"format": "jb-book", "root": "index", "parts": [{"caption": "P", "chapters": chapters}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert execute.toc_entries(tmp_path) == ["index", "a", "b", "trainings/t-fa-s0"]
    (tmp_path / "trainings").mkdir()
    for name in ("b", "trainings/t-fa-s0"):
        (tmp_path / f"{name}.ipynb").touch()
    assert execute.toc_notebooks(tmp_path) == [tmp_path / "b.ipynb"]


# --- the extension of the book -------------------------------------------------------------------------------


def test_the_cache_key_follows_package_data_and_versions_but_not_downloads(tmp_path: Path):
    for name in ("bioplaus_lite/widgets/player.js", "data/mnist.npz", "requirements.txt", "data/cache/big.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    keys = [source_digest(tmp_path)]
    for name in ("bioplaus_lite/widgets/player.js", "data/mnist.npz", "requirements.txt"):
        (tmp_path / name).write_text("2")
        keys.append(source_digest(tmp_path))
    (tmp_path / "bioplaus_lite/new.py").touch()
    keys.append(source_digest(tmp_path))
    assert len(set(keys)) == 5
    (tmp_path / "data/cache/big.npz").write_text("2")
    assert source_digest(tmp_path) == keys[-1]


def test_the_last_changes_to_a_page_find_what_they_change():
    """If a new version of the theme writes these otherwise, this and the browser tests say so."""
    page = (
        '<script defer src="../_static/scripts/fontawesome.js?digest=5"></script><script src="a.js"></script>'
        '<div id="pst-primary-sidebar" class="x"><div role="list" class="citation-list"><div role="doc-biblioentry">'
    )
    for pattern, replacement in FINISH:
        assert pattern.search(page), pattern.pattern
        page = pattern.sub(replacement, page)
    assert page == (
        '<script src="a.js"></script>'
        '<div id="pst-primary-sidebar" role="region" aria-label="Book" class="x"><div class="citation-list"><div>'
    )


# --- the rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "required"), [("CI", "1", True), ("CI", "", False), ("CI", "false", False)])
def test_a_missing_browser_is_an_error_in_continuous_integration(monkeypatch, name: str, value: str, required: bool):
    monkeypatch.delenv("BIOPLAUS_REQUIRE_BROWSER", raising=False)
    monkeypatch.setenv(name, value)
    assert conftest.browser_is_required() is required
    monkeypatch.setenv("BIOPLAUS_REQUIRE_BROWSER", "1")
    assert conftest.browser_is_required()


def test_one_version_and_one_title_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == [project["license"], "CC-BY-4.0"]
    assert yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["title"] in citation["title"]


def test_every_requirement_has_one_exact_version_and_covers_what_the_package_imports():
    lines = [line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if line and line[0] != "#"]
    pinned = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)
    assert len(pinned) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {*project["dependencies"], *project["optional-dependencies"]["runs"]} <= set(pinned)


# --- instruction sets ----------------------------------------------------------------------------------------


def test_the_commit_chooses_an_instruction_set_and_a_name_overrules_it():
    names = ["a", "b", "c"]
    hashes = [f"{7919 * k:040x}" for k in range(30)]
    assert {instructions.choose(names, None, commit) for commit in hashes} == set(names)
    assert [instructions.choose(names, None, commit) for commit in hashes] == [names[7919 * k % 3] for k in range(30)]
    assert instructions.choose(names, None, "") == "a"  # without git
    assert {instructions.choose(names, "c", commit) for commit in hashes} == {"c"}
    with pytest.raises(ValueError, match="no setting 'd'; there are a, b, c"):
        instructions.choose(names, "d", hashes[0])


def test_a_setting_is_offered_where_the_processor_has_its_instructions(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu sse4_2 avx avx2\n")
    assert list(instructions.offered("x86_64", cpuinfo)) == ["free", "sse", "intel", "amd"]
    cpuinfo.write_text("flags : fpu sse4_2 avx avx2 avx512f avx512dq\n")
    assert list(instructions.offered("x86_64", cpuinfo)) == list(instructions.X86_64)
    assert list(instructions.offered("x86_64", tmp_path / "none")) == ["free"]
    assert list(instructions.offered("aarch64", cpuinfo)) == list(instructions.ALL)


def test_a_setting_replaces_every_other():
    """Also what the Makefile exports: in ``free`` nothing of it is left."""
    given = dict.fromkeys(("MKL_CBWR", "ATEN_CPU_CAPABILITY", "NUMBA_CPU_NAME", "HOME"), "x")
    assert instructions.environment({}, given) == {"HOME": "x"}
    assert instructions.environment({"MKL_CBWR": "AVX2"}, given) == {"HOME": "x", "MKL_CBWR": "AVX2"}


def test_a_command_is_run_with_its_setting():
    command = [sys.executable, str(ROOT / "book/_tools/instructions.py")]
    show = ["--", sys.executable, "-c", "import os; print(os.environ.get('MKL_CBWR'))"]
    env = {**os.environ, "MKL_CBWR": "AVX2"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=60)

    assert run("free", *show).stdout == "instruction set: free; this one again: make nbval ISA=free\nNone\n"
    assert re.match(r"instruction set: (\S+); this one again: make nbval ISA=\1\n", run(*show).stdout)
    for arguments, complaint in ((("mmx", *show), "there is no setting 'mmx'; there are free"), (("free",), "usage")):
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (2, "") and complaint in result.stderr
    assert "instructions.py sse -- " in make("-n", "nbval", "ISA=sse").stdout
