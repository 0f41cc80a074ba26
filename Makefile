# Needs Python >= 3.11, make and git; everything else goes into $(VENV). `make help` lists the commands.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
NB ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
SITE := _build/html
STEPS := lint unit nbval site browser

# One instruction set, so that the stored digits of the notebooks come out alike on different processors.
ifeq ($(shell uname -m),x86_64)
export MKL_CBWR ?= AVX2
export ATEN_CPU_CAPABILITY ?= avx2
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
.PHONY: help setup book test serve lab notebooks runs data clean $(STEPS)
.DELETE_ON_ERROR:

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install what requirements.txt says; the others do this when needed

$(STAMP): requirements.txt pyproject.toml
	$(if $(PYTHON_PROBLEM),$(error $(PYTHON_PROBLEM)))
	@echo "Installing requirements.txt into $(VENV) (once; a minute or two, about 2 GB) ..."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check
	@# Kernels listen on this machine only; their warning about it, once a notebook, would hide others.
	@mkdir -p $(VENV)/etc/ipython
	@echo "c.IPKernelApp.log_level = 40" >$(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@

book: $(STAMP)  ## execute the chapters and build the book
	@echo "Building the book; chapters that changed are executed ..."
	@TQDM_DISABLE=1 $(BIN)/jupyter-book build book -W -n --keep-going -q
	@echo "The book is ready. Open $(CURDIR)/$(SITE)/index.html, or run: make serve"

test: $(STAMP)  ## every check: ruff, pytest, nbval, the build with warnings as errors, browser
	@$(MAKE) --no-print-directory -k $(STEPS)
	@echo "make test: all of $(STEPS) passed"

lint: $(STAMP)  ## ruff on the package, the tests and the notebooks
	@echo "== ruff"
	@$(BIN)/ruff check .

unit: $(STAMP)  ## the tests that need neither the built site nor a browser
	@echo "== pytest"
	@TQDM_DISABLE=1 $(BIN)/python -m pytest -q -m "not browser and not live"

nbval: $(STAMP)  ## execute every notebook with another instruction set (ISA=name) and compare all stored outputs
	@echo "== nbval"
	@TQDM_DISABLE=1 $(BIN)/python book/_tools/instructions.py $(ISA) -- $(BIN)/python -m pytest -q -n 2 --dist loadfile \
	  --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --ignore-glob='*/trainings/*-s[0-9]*.ipynb' book

# From stored outputs, which `nbval` has compared with new ones; `make book` executes. All pages anew: one that is not
# read again could hide its warning.
site: $(STAMP)  ## build the whole site anew, warnings are errors
	@echo "== jupyter-book"
	@rm -rf $(SITE) _build/.doctrees
	@BIOPLAUS_STORED_OUTPUTS=1 TQDM_DISABLE=1 $(BIN)/jupyter-book build book -W -n --keep-going -q
	@echo "built $(SITE), no warnings"

browser: site  ## the built site in Chromium, and a live JupyterLab
	@echo "== browser"
	@$(BIN)/python -m pytest -q -m "browser or live"

serve: $(STAMP)  ## serve the built book on this machine, http://127.0.0.1:8000 (PORT=...)
	@test -f $(SITE)/index.html || { echo "make: there is no $(SITE) yet; run: make book" >&2; exit 1; }
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C ends)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE) >/dev/null 2>&1

lab: $(STAMP)  ## the chapters in JupyterLab, on this machine only
	@$(BIN)/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=$(CURDIR)/book --LabApp.news_url= \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.extension_manager=readonly \
	  --Application.log_level=WARN $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: $(STAMP)  ## execute every notebook and store its outputs (NB=path for one)
	@TQDM_DISABLE=1 $(BIN)/python book/_tools/execute.py $(NB)

runs: $(STAMP)  ## do the full-length trainings that are not done (ID="…", JOBS=2, QUICK=1, SCHEDULER=address)
	@$(BIN)/python -m bioplaus_lite.runs run $(if $(ID),$(ID),--all) $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(QUICK),--quick) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

data: $(STAMP)  ## download the full data sets into data/cache
	@$(BIN)/python -m bioplaus_lite.data fetch

clean:  ## remove the built site and the caches; .venv and data stay
	@rm -rf _build .pytest_cache .ruff_cache
	@find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
