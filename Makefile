# Needs Python >= 3.11, make and git; everything else goes into $(VENV). `make help` lists the commands.
# Paths are relative where make itself reads them, and quoted where the shell does: a clone may lie in "My folder".
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
NB ?=
EXECUTE ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile -c requirements.txt
JUPYTER_BOOK := TQDM_DISABLE=1 $(BIN)/jupyter-book build book -W -n --keep-going -q
EXECUTED := $(filter-out 0,$(EXECUTE))
BOOK_STAMP := $(VENV)/book.stamp
STAMP := $(VENV)/installed.stamp
SITE := _build/html
STEPS := lint unit nbval site browser

# One instruction set, so that the stored digits of the notebooks come out alike on different processors.
ifeq ($(shell uname -m),x86_64)
export MKL_CBWR ?= AVX2
export ATEN_CPU_CAPABILITY ?= avx2
endif

ifneq ($(words $(VENV)),1)
$(error VENV is "$(VENV)"; make allows no space in it, so name a path without one)
endif

# Why $(PYTHON) will not do; empty if it will.
PYTHON_PROBLEM = $(shell \
  command -v "$(PYTHON)" >/dev/null 2>&1 \
    || { echo "$(PYTHON) was not found; Python 3.11 or newer is needed (make PYTHON=/path/to/python)"; exit; }; \
  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); Python 3.11 or newer is needed (make PYTHON=/path/to/python)"; exit; }; \
  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
    || echo "$(PYTHON) has no venv module; install it (Debian and Ubuntu: apt-get install python3-venv)")

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book test serve lab notebooks runs data clean claim $(STEPS)
.DELETE_ON_ERROR:

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install all of requirements.txt; the others do this when needed

# The environment holds this package as a link to one clone, and its scripts hold their own path. This is asked each
# time, and is no reason to install again.
claim:
	@test ! -f $(VENV)/clone || test "$$(cat $(VENV)/clone)" = "$$(pwd -P)" || { \
	  echo "make: $(VENV) was set up by the clone in $$(cat $(VENV)/clone), and this one is in $$(pwd -P):" \
	    "remove it (rm -r $(VENV)), or name another (make VENV=...)" >&2; exit 1; }

# What the book takes. Bytecode is compiled when a module is first used: all of it at once takes half of the time.
$(BOOK_STAMP): requirements.txt pyproject.toml | claim
	$(if $(PYTHON_PROBLEM),$(error $(PYTHON_PROBLEM)))
	@test -x $(BIN)/python || { echo "Creating $(VENV) ..."; "$(PYTHON)" -m venv $(VENV); }
	@pwd -P >$(VENV)/clone
	@echo "Installing into $(VENV), once; a minute or two, and the time that 0.4 GB take on your network:"
	@echo "  1 of 3: PyTorch (on Linux with several GB of CUDA, unless you do as the head of requirements.txt says) ..."
	@$(PIP) torch setuptools
	@echo "  2 of 3: NumPy, SciPy, Numba, pandas, Matplotlib ..."
	@$(PIP) numpy scipy numba pandas matplotlib
	@echo "  3 of 3: Jupyter Book, and the package of this clone ..."
	@$(PIP) --no-build-isolation -e '.[book]'
	@# Kernels listen on this machine only; their warning about it, once a notebook, would hide others.
	@mkdir -p $(VENV)/etc/ipython
	@echo "c.IPKernelApp.log_level = 40" >$(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@

$(STAMP): $(BOOK_STAMP)
	@echo "Installing JupyterLab, Dask and the test tools, once; another minute ..."
	@$(PIP) -r requirements.txt
	@$(BIN)/python -m pip check
	@touch $@

# A page with a warning would not be read again, and so not fail again: after a failure all are.
book: $(BOOK_STAMP)  ## build the book from the stored outputs (EXECUTE=1 computes them anew)
	@echo "Building the book$(if $(EXECUTED),; notebooks are executed when their turn comes), a line a page ..."
	@BIOPLAUS_EXECUTE=$(EXECUTED) $(JUPYTER_BOOK) || { rm -rf _build/.doctrees; exit 1; }
	@echo "The book is ready. Open $$(pwd)/$(SITE)/index.html, or run: make serve"

test: $(STAMP)  ## every check: ruff, mypy, pytest, nbval, the build with warnings as errors, browser
	@$(MAKE) --no-print-directory -k $(STEPS)
	@echo "make test: all of $(STEPS) passed"

lint: $(STAMP)  ## ruff on the package, the tests and the notebooks; mypy on the package
	@echo "== ruff"
	@$(BIN)/ruff check .
	@echo "== mypy"
	@$(BIN)/mypy --no-error-summary

unit: $(STAMP)  ## the tests that need neither the built site nor a browser
	@echo "== pytest"
	@TQDM_DISABLE=1 $(BIN)/python -m pytest -q -n auto --dist worksteal -m "not browser and not live"

nbval: $(STAMP)  ## execute every notebook with another instruction set (ISA=name) and compare all stored outputs
	@echo "== nbval"
	@TQDM_DISABLE=1 $(BIN)/python book/_tools/instructions.py $(ISA) -- $(BIN)/python -m pytest -q -n 2 --dist loadfile \
	  --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --ignore-glob='*/trainings/*-s[0-9]*.ipynb' book

# From stored outputs, which `nbval` has compared with new ones. All pages anew: one that is not read again could hide
# its warning.
site: $(STAMP)  ## build the whole site anew, warnings are errors
	@echo "== jupyter-book"
	@rm -rf $(SITE) _build/.doctrees
	@BIOPLAUS_EXECUTE= $(JUPYTER_BOOK)
	@echo "built $(SITE), no warnings"

browser: site  ## the built site in Chromium, and a live JupyterLab
	@echo "== browser"
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m "browser or live"

serve: $(BOOK_STAMP)  ## serve the built book on this machine, http://127.0.0.1:8000 (PORT=...)
	@test -f $(SITE)/index.html || { echo "make: there is no $(SITE) yet; run: make book" >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C ends)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE) >/dev/null 2>&1

# The first entry of JUPYTER_PATH: this environment's kernel, whatever else on this machine is called python3.
lab: $(STAMP)  ## the chapters in JupyterLab, on this machine only
	@JUPYTER_PATH="$$(cd $(VENV) && pwd)/share/jupyter$${JUPYTER_PATH:+:$$JUPYTER_PATH}" \
	  $(BIN)/python -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$$(pwd)/book" --LabApp.news_url= \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.extension_manager=readonly \
	  --Application.log_level=WARN $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: $(STAMP)  ## execute every notebook and store its outputs (NB=path for one)
	@TQDM_DISABLE=1 $(BIN)/python book/_tools/execute.py $(if $(NB),"$(NB)")

runs: $(STAMP)  ## do the full-length trainings that are not done (ID="…", JOBS=2, QUICK=1, SCHEDULER=address)
	@$(BIN)/python -m bioplaus_lite.runs run $(if $(ID),$(ID),--all) $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(QUICK),--quick) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

data: $(BOOK_STAMP)  ## download the full data sets into data/cache
	@$(BIN)/python -m bioplaus_lite.data fetch

clean:  ## remove the built site and the caches; .venv and data stay
	@rm -rf _build .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
