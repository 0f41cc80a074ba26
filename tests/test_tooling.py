"""The Makefile, the notebook runner and the book's Sphinx extension."""

from __future__ import annotations

import ast
import base64
import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
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
from jupyter_client.kernelspec import find_kernel_specs
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from bioplaus_lite._kernel import own_kernel_path

# --- make ----------------------------------------------------------------------------------------------------


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as a person would, whatever make runs this test."""
    variables = ("MAKE", "MFLAGS", "BIOPLAUS", "EXECUTE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(variables)}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


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


def installed(venv: Path, root: Path = ROOT) -> Path:
    """What looks to make like an environment that the clone in ``root`` has set up."""
    venv.mkdir(exist_ok=True)
    (venv / "clone").write_text(f"{root}\n")
    for stamp in ("book.stamp", "installed.stamp"):
        (venv / stamp).touch()
    return venv


def test_make_installs_once(tmp_path: Path):
    """With the stamps newer than what they depend on, no target sets anything up."""
    installed(tmp_path)
    plan = make("-n", "test", "book", f"VENV={tmp_path}", "PYTHON=no-such-python")
    assert plan.returncode == 0, plan.stderr
    assert "-m pip" not in plan.stdout
    os.utime(tmp_path / "book.stamp", (0, 0))
    assert "-m pip" in make("-n", "book", f"VENV={tmp_path}").stdout


@pytest.mark.parametrize(
    ("target", "everything"), [("book", False), ("serve", False), ("data", False), ("lint", True), ("lab", True)]
)
def test_the_book_needs_no_more_than_the_book_takes(tmp_path: Path, target: str, everything: bool):
    plan = make("-n", target, f"VENV={tmp_path / 'venv'}").stdout
    assert "-e '.[book]'" in plan
    assert ("-r requirements.txt" in plan) is everything


def test_an_environment_belongs_to_one_clone(tmp_path: Path):
    """It links to that clone's package: from another, make would build and test the wrong code."""
    installed(tmp_path, Path("/elsewhere/a clone"))
    for target in ("lint", "book", "serve"):
        result = make(target, f"VENV={tmp_path}")
        assert result.returncode != 0 and result.stdout == ""
        said, *rest = result.stderr.splitlines()
        assert said == (
            f"make: {tmp_path} was set up by the clone in /elsewhere/a clone, and this one is in {ROOT}: "
            f"remove it (rm -r {tmp_path}), or name another (make VENV=...)"
        )
        assert all(re.match(r"make: \*\*\* ", line) for line in rest)
    assert make("help", f"VENV={tmp_path}").returncode == 0


def test_an_environment_is_not_to_lie_below_a_space():
    result = make("help", "VENV=a b")
    assert result.returncode != 0
    assert 'VENV is "a b"; make allows no space in it' in result.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in a folder with a difficult name; what it would start says with what, a line an argument."""
    root = tmp_path / "Zoë's “book” ü $HOME"
    (root / "_build" / "html").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (root / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    (root / "_build" / "html" / "index.html").touch()
    (installed(root / ".venv", root) / "bin").mkdir()
    for name in ("python", "jupyter-book", "ruff", "mypy"):
        said = 'echo "EXECUTE=$BIOPLAUS_EXECUTE" "JUPYTER_PATH=$JUPYTER_PATH"; for a in "$@"; do echo "<$a>"; done'
        script(root / ".venv" / "bin" / name, said)
    return root


def test_a_clone_may_lie_in_a_folder_with_spaces_quotes_and_umlauts(clone: Path, monkeypatch):
    for target in ("setup", "book", "lint", "unit", "nbval", "serve", "site", "data", "runs", "help", "clean"):
        result = make(target, cwd=clone)
        assert (result.returncode, result.stderr) == (0, ""), f"{target}: {result.stderr}"
    assert not (clone / "_build").exists() and (clone / ".venv").exists()
    monkeypatch.setenv("JUPYTER_PATH", "/elsewhere")
    lab = make("lab", cwd=clone)
    assert f"<--ServerApp.root_dir={clone}/book>" in lab.stdout and lab.stderr == ""
    assert f"JUPYTER_PATH={clone}/.venv/share/jupyter:/elsewhere\n" in lab.stdout  # its own kernel comes first
    assert f"Open {clone}/_build/html/index.html" in make("book", cwd=clone).stdout
    assert "<book/my notebook.ipynb>" in make("notebooks", "NB=book/my notebook.ipynb", cwd=clone).stdout


def test_a_book_is_executed_only_on_request(clone: Path):
    for arguments, expected in (([], ""), (["EXECUTE=0"], ""), (["EXECUTE=1"], "1")):
        assert f"EXECUTE={expected} " in make("book", *arguments, cwd=clone).stdout
    assert "EXECUTE= " in make("site", "EXECUTE=1", cwd=clone).stdout  # compared with new outputs by nbval


def test_a_page_that_failed_is_read_again_by_the_next_build(clone: Path):
    """Sphinx would take it for done, and the second `make book` would pass."""
    script(clone / ".venv/bin/jupyter-book", "mkdir -p _build/.doctrees; exit 1")
    result = make("book", cwd=clone)
    assert result.returncode != 0 and "is ready" not in result.stdout
    assert not (clone / "_build/.doctrees").exists() and (clone / "_build/html").exists()


def test_every_step_of_the_tests_runs_and_one_that_fails_fails_all(clone: Path):
    script(clone / ".venv/bin/ruff", "exit 1")
    result = make("test", cwd=clone)
    assert result.returncode != 0 and "passed" not in result.stdout
    for step in ("ruff", "pytest", "nbval", "jupyter-book", "browser"):
        assert f"== {step}\n" in result.stdout
    script(clone / ".venv/bin/ruff", "exit 0")
    assert make("test", cwd=clone).stdout.endswith("make test: all of lint unit nbval site browser passed\n")


@pytest.mark.parametrize("failing", ["ruff", "mypy"])
def test_lint_is_ruff_and_mypy_and_either_fails_it(clone: Path, failing: str):
    result = make("lint", cwd=clone)
    assert result.returncode == 0 and "== ruff\n" in result.stdout and "== mypy\n" in result.stdout
    script(clone / ".venv/bin" / failing, "exit 1")
    assert make("lint", cwd=clone).returncode != 0


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


def test_the_kernel_is_this_interpreter_s_whatever_else_is_called_python3(tmp_path: Path, monkeypatch):
    foreign = tmp_path / "jupyter/kernels/python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "Another", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert find_kernel_specs()["python3"] == str(foreign)  # without us Jupyter takes it
    path = stored(tmp_path / "a.ipynb", "import sys\nprint(sys.executable)")
    execute.execute(path)
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == f"{sys.executable}\n"
    once = os.environ["JUPYTER_PATH"]
    assert once.endswith(f"{os.pathsep}{tmp_path / 'jupyter'}")  # other kernels are still found
    assert own_kernel_path() == once


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
    for name in ("bioplaus_lite/widgets/js/player.js", "data/mnist.npz", "requirements.txt", "data/cache/big.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    keys = [source_digest(tmp_path)]
    for name in ("bioplaus_lite/widgets/js/player.js", "data/mnist.npz", "requirements.txt"):
        (tmp_path / name).write_text("2")
        keys.append(source_digest(tmp_path))
    (tmp_path / "bioplaus_lite/new.py").touch()
    keys.append(source_digest(tmp_path))
    assert len(set(keys)) == 5
    (tmp_path / "data/cache/big.npz").write_text("2")
    assert source_digest(tmp_path) == keys[-1]


@pytest.fixture
def small_book(tmp_path: Path) -> Callable[[], Sphinx]:
    """A book of two pages, with nothing but our extension."""
    for name, text in (("index", "Title\n=====\n\n.. toctree::\n\n   part/one\n"), ("part/one", "One\n===\n")):
        (tmp_path / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "book" / f"{name}.rst").write_text(text)

    def build() -> Sphinx:
        with docutils_namespace():
            folders = (tmp_path / "book", None, tmp_path / "_build/html", tmp_path / "_build/.doctrees")
            app = Sphinx(*folders, "html", {"extensions": ["bioplaus_book"]}, status=None, warning=None)
            app.build()
        return app

    return build


def test_a_build_says_at_which_page_it_is(small_book, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rest = "writing the source of the package, the index and the search"
    small_book()
    assert capsys.readouterr().out.splitlines() == [
        "[1/2] index", "[2/2] part/one", "writing index", "writing part/one", rest,
    ]  # fmt: skip
    (tmp_path / "book/part/one.rst").write_text("One\n===\n\nmore\n")
    small_book()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "[1/1] part/one" and "writing part/one" in said and said[-1] == rest


def test_pages_show_stored_outputs_unless_executing_is_asked_for(small_book, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("BIOPLAUS_EXECUTE", raising=False)
    monkeypatch.setenv("JUPYTER_PATH", "/elsewhere")
    old = tmp_path / "_build/.jupyter_cache/old"
    old.mkdir(parents=True)
    assert small_book().config.nb_execution_mode == "off"
    assert old.is_dir()
    monkeypatch.setenv("BIOPLAUS_EXECUTE", "1")
    config = small_book().config
    assert getattr(config, "nb_execution_mode", "as _config.yml says") != "off"
    assert config.nb_execution_cache_path == str(tmp_path / "_build/.jupyter_cache" / source_digest())
    assert not old.exists()  # of other code
    assert os.environ["JUPYTER_PATH"].startswith(sys.prefix)


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


@pytest.mark.parametrize(("limit", "expected"), [("max 100000", 3), ("200000 100000", 2), ("50000 100000", 1), ("", 3)])
def test_as_many_workers_as_processors_that_may_be_used(monkeypatch, tmp_path: Path, limit: str, expected: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert conftest.processors(tmp_path / "cpu.max") == expected


def test_one_version_and_one_title_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == [project["license"], "CC-BY-4.0"]
    assert yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["title"] in citation["title"]


def test_every_requirement_has_one_exact_version_and_covers_what_the_package_and_the_book_bring_in():
    lines = [line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if line and line[0] != "#"]
    pinned = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)
    assert len(pinned) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = {*project["dependencies"], *extras["book"], *extras["runs"]}
    assert named <= set(pinned)
    # `make book` installs by these names, with the file for the versions: what they bring in must be in it.
    known, open_, seen = {canonicalize_name(name) for name in pinned}, {*map(canonicalize_name, named)}, set()
    while open_:
        name = open_.pop()
        seen.add(name)
        needs = (Requirement(line) for line in importlib.metadata.requires(name) or [])
        open_ |= {canonicalize_name(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})} - seen
    assert seen <= known, sorted(seen - known)


def test_a_model_knows_no_rule():
    for path in (ROOT / "bioplaus_lite/models").rglob("*.py"):
        found = re.findall(r"^\s*(?:from|import) bioplaus_lite\.(\w+)", path.read_text("utf-8"), re.MULTILINE)
        assert set(found) <= {"checks", "models", "networks"}, path.name


def test_what_the_package_imports_is_what_it_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["runs"]}
    # A module of another name than its project, or of one that a project above always brings.
    names = {"PIL": "pillow", "IPython": "ipykernel", "jupyter_client": "ipykernel", "llvmlite": "numba"}
    names |= {"traitlets": "ipywidgets", "sklearn": "scikit-learn"}
    imported = set()
    for path in (ROOT / "bioplaus_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"bioplaus_lite"}
    assert {names.get(name, name) for name in foreign} <= asked


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
    env.pop("PYTHONUNBUFFERED", None)    # the first line must not stay in a buffer when the process is replaced

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True, timeout=60)

    assert run("free", *show).stdout == "instruction set: free; this one again: make nbval ISA=free\nNone\n"
    assert re.match(r"instruction set: (\S+); this one again: make nbval ISA=\1\n", run(*show).stdout)
    for arguments, complaint in ((("mmx", *show), "there is no setting 'mmx'; there are free"), (("free",), "usage")):
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (2, "") and complaint in result.stderr
    assert "instructions.py sse -- " in make("-n", "nbval", "ISA=sse").stdout
