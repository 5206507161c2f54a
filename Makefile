# Common tasks.  Each target first installs what it needs into .venv, once.
# Requires Python 3.11 or newer with pip and venv.
#
#   make demo SUBSET=layout:cpu:random  use another collection
#   make test ARGS="-k kendall -x"  pass arguments to pytest; -n 0 runs tests in one process
#   make bench ARGS=--quick         run short speed benchmarks
#   make quality ARGS="--folds 0"   pass arguments to the quality benchmark
#   make test PYTHON=python3.12     use another interpreter for .venv
#   make oldest ARGS="-k ranker"    run some tests with the oldest dependencies
#   make notebooks ARGS=--overwrite run the notebooks and keep their new outputs

SUBSET ?= tile:cpu
ARGS   ?=
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

VENV := .venv
PY   := $(VENV)/bin/python
DEMO := runs/demo
# One process per core; tests of a file share their fixtures.
PYTEST = $(PY) -m pytest --numprocesses logical --dist loadfile
PINS := --constraint constraints.txt

# Tests of compiled kernels and of readers, which `make kernels` runs as plain Python and with bounds checks.
KERNELS := $(addprefix tests/test_, $(addsuffix .py, program tile \
  layout_features layout_rows layout_copies layout_runs layout_loops losses npz hlo)) \
  tests/test_drift.py::test_columns_have_their_pinned_values

# Waiting OpenMP threads sleep: busy waiting slows a fit a hundredfold on a loaded machine.
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Folder of the OpenMP runtime that `openmp` below provides on a system without one.
export LD_LIBRARY_PATH := $(CURDIR)/$(VENV)/openmp$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test notebooks kernels oldest newest lint docs wheel .wheel bench quality soak clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## Features, training and evaluation on the measured data that comes with gbr; model in runs/demo
	@$(PY) -m gbr.train --subset $(SUBSET) --out $(DEMO)/$(firstword $(subst :, ,$(SUBSET)))

test: $(VENV)/.dev ## Run the tests, on all cores
	@$(PYTEST) $(ARGS)

# Without TpuGraphs, on which the notebook of Kaggle takes hours.
notebooks: $(VENV)/.dev ## Run the notebooks in examples; ARGS=--overwrite keeps their new outputs
	@GBR_DATA=none $(PY) -m pytest --nbmake examples $(ARGS)

kernels: $(VENV)/.dev ## Run the tests of kernels and readers as plain Python, then with bounds checks
	@NUMBA_DISABLE_JIT=1 $(PYTEST) $(KERNELS) $(ARGS)
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(CURDIR)/$(VENV)/numba-checked $(PYTEST) $(KERNELS) $(ARGS)

# One Numba cache per environment: another version of Numba would discard it.
oldest newest: export NUMBA_CACHE_DIR = $(CURDIR)/.venv-$@/numba

oldest: ## Run the tests with the oldest dependencies that pyproject.toml allows, in .venv-oldest (Python 3.11)
	@$(MAKE) --no-print-directory test VENV=.venv-oldest PINS='--constraint constraints-oldest.txt' PYTHON=python3.11

newest: ## Run the tests with the newest dependencies, in .venv-newest
	@rm -f .venv-newest/.dev
	@$(MAKE) --no-print-directory test VENV=.venv-newest PINS='--upgrade --upgrade-strategy eager'

lint: $(VENV)/.dev ## Check style, types and imports between modules
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --quiet --check .
	@$(PY) -m mypy --no-error-summary
	@output=$$($(VENV)/bin/lint-imports --no-logo) || { echo "$$output"; exit 1; }

docs: $(VENV)/.docs ## Build the site into build/docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

wheel: ## Build a wheel into dist, install it into an empty environment and run the quickstart outside of the repository
	@rm -rf dist .venv-wheel
	@$(MAKE) --no-print-directory .wheel VENV=.venv-wheel

.wheel: $(VENV)/.made
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	@$(PY) -m pip install --quiet $(PINS) dist/gbr-*.whl
	@$(openmp)
	@$(PY) -I tests/quickstart.py

bench: $(VENV)/.dev ## Measure speed; table and pages in benchmarks/results
	@$(PY) -m benchmarks $(ARGS)

quality: $(VENV)/.dev ## Measure how well held-out graphs are ranked (hours; resumes when interrupted)
	@$(PY) -m benchmarks.quality $(ARGS)

soak: $(VENV)/.dev ## Fuzz the readers and kill commands (hours)
	@$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[soak]'
	@for driver in fuzz kills; do $(PY) -m tests.soak.$$driver $(ARGS) || exit; done

clean: ## Remove .venv, caches and the feature store; keep trained models
	@rm -rf $(VENV) .venv-oldest .venv-newest .venv-wheel build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks data/store
	@find features gbr tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.dev: EXTRAS := [cluster,collect,dev,search]
$(VENV)/.docs: EXTRAS := [docs]
$(VENV)/.demo $(VENV)/.dev $(VENV)/.docs: pyproject.toml $(wildcard constraints*.txt) $(VENV)/.made
	@echo "gbr: installing gbr$(EXTRAS) and its dependencies into $(VENV)" >&2
	@$(PY) -m pip install --quiet $(PINS) --editable '.$(EXTRAS)'
	@$(openmp)
	@touch $@

# Recreate an environment whose interpreter is missing; keep one that works.
ifneq ($(shell [ -x $(PY) ] && $(PY) -c 'import sys, pip; print(sys.version_info >= (3, 11))' 2>/dev/null),True)
.PHONY: $(VENV)/.made
endif
$(VENV)/.made:
	@if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  chosen=; old=; bare=; \
	  for python in $(PYTHON); do \
	    found=$$($$python -c 'import sys; print(sys.version.split()[0])' 2>/dev/null) || continue; \
	    if ! $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$old $$python is $$found;"; \
	    elif ! $$python -c 'import ensurepip, venv' 2>/dev/null; then bare=$$python; \
	    else chosen=$$python; break; fi; \
	  done; \
	  if [ -n "$$chosen" ]; then \
	    echo "gbr: creating $(VENV) with $$chosen ($$found)" >&2; \
	    $$chosen -m venv --clear $(VENV); \
	  elif [ -n "$$bare" ]; then \
	    echo "gbr: $$bare: expected the modules venv and ensurepip; on Debian or Ubuntu: apt-get install $$(basename $$bare)-venv" >&2; exit 1; \
	  else \
	    echo "gbr: expected Python 3.11 or newer, found none among [$(PYTHON)];$$old" \
	      "install it or give its path: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; \
	  fi; \
	fi
	@touch $@

# LightGBM's wheel needs libgomp.so.1 from the system; where it is missing, use the copy in scikit-learn's wheel.
define openmp
[ "$$(uname)" != Linux ] || $(PY) -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || { \
  mkdir -p $(VENV)/openmp && ln -sf $(CURDIR)/$$(ls $(VENV)/lib/python3*/site-packages/scikit_learn.libs/libgomp*) \
    $(VENV)/openmp/libgomp.so.1; }
endef
