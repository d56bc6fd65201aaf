# SPDX-License-Identifier: MIT
# ane_native - developer commands. `make demo` and `make test` work in a fresh
# clone: they install what they need (tools/system.sh, .venv) once, and later
# only rebuild what changed, without network.
#
#   PYTHON=python3.12   the Python to make .venv with
#   ANE_NATIVE_GCD=bundled|system   which GCD to build with
#   V=1                 show compiler commands

PYTHON ?= python3
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
PY     := $(BIN)/python
PYTEST := $(BIN)/pytest
PIP    := $(PY) -m pip --disable-pip-version-check install -q

.DEFAULT_GOAL := tiny
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# ------------------------------ Setting up ----------------------------------

.PHONY: system
system:
	@tools/system.sh $(PYTHON)

$(VENV)/.made: | system
	@echo "making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) 'setuptools>=77' 'cffi>=1.15'
	@touch $@

# The package in place, with what a user has / with what a developer needs.
# The extension is compiled first: its messages are clearer than pip's.
$(VENV)/.user: pyproject.toml | $(VENV)/.made
	@$(PY) setup.py -q build_ext --inplace
	@echo "installing the package and what it needs into $(VENV)"
	@$(PIP) --no-build-isolation -e '.[plot]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	@$(PY) setup.py -q build_ext --inplace
	@echo "installing the package and the test tools into $(VENV)"
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.user

.PHONY: build
build: system $(VENV)/.user ## compile the core and the software engine in place
	@$(PY) setup.py -q build_ext --inplace

.PHONY: dev
dev: system $(VENV)/.dev ## build, with the test tools
	@$(PY) setup.py -q build_ext --inplace

# ------------------------------ Running -------------------------------------

.PHONY: demo
demo: build ## train a small model while its next weights compile
	@$(BIN)/ane-native train --preset demo

.PHONY: bench
bench: dev ## benchmarks, with pytest-benchmark
	@$(PYTEST) --benchmark-only benchmarks

# ------------------------------ Testing -------------------------------------

.PHONY: tiny
tiny: dev ## the quick gate before a commit
	@$(PY) softane/tests/run.py
	@$(PYTEST) -q -x $(wildcard tests/tiny tests/unit)

.PHONY: test
test: dev ctest fuzz-replay dispatch core-ctest mypy macos-check bundled ## everything; pytest's line comes last
	@$(PYTEST)

.PHONY: ctest
ctest: dev
	@$(PY) softane/tests/run.py

.PHONY: fuzz-replay
fuzz-replay: dev ## corpus and past findings through every fuzz target, under sanitizers
	@$(PY) softane/fuzz/build.py

.PHONY: fuzz
fuzz: dev ## libFuzzer, FUZZ_SECONDS on each target
	@$(PY) softane/fuzz/build.py --fuzz $(or $(FUZZ_SECONDS),60)

.PHONY: dispatch
dispatch: dev ## the bundled GCD and a real one against the same assertions
	@$(PY) tools/test_dispatch.py

.PHONY: core-ctest
core-ctest: dev
	@$(PY) tools/test_core.py
	@$(PY) tools/test_core.py --gcd bundled
	@$(PY) tools/test_pool.py --jobs 80

.PHONY: mypy
mypy: dev
	@$(BIN)/mypy

.PHONY: bundled
bundled: dev ## engine and scheduler tests on a core built with the bundled GCD
	@$(PY) tools/variant.py --gcd bundled $(PYTEST) $(addprefix $(CURDIR)/,$(wildcard tests/engine tests/sched))

.PHONY: asan
asan: dev ## C tests, engine and scheduler tests under address and undefined-behaviour sanitizers
	@$(PY) softane/tests/run.py --sanitize address,undefined
	@$(PY) tools/test_dispatch.py --sanitize address,undefined
	@$(PY) tools/test_core.py --sanitize address,undefined
	@$(PY) tools/test_pool.py --sanitize address,undefined
	@$(PY) tools/variant.py --gcd bundled --sanitize address,undefined \
	    $(PYTEST) -q -p no:cacheprovider $(addprefix $(CURDIR)/,$(wildcard tests/engine tests/sched))

.PHONY: tsan
tsan: dev ## C tests of softane, the core and the bundled GCD under the thread sanitizer
	@$(PY) tools/test_dispatch.py --sanitize thread --repeat 3
	@$(PY) tools/test_core.py --sanitize thread --repeat 3
	@$(PY) tools/test_pool.py --sanitize thread
	@$(PY) softane/tests/run.py --sanitize thread

.PHONY: macos-check
macos-check: dev ## cross-compile the core for macOS
	@$(PY) tools/check_macos.py

# ------------------------------ Reading -------------------------------------

.PHONY: lint
lint: dev core-lint layers mypy ## C lint, ruff, mypy, imports that point the wrong way
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: core-lint
core-lint:
	@$(PYTHON) tools/core_lint.py

.PHONY: layers
layers: ## imports and includes that point the wrong way
	@$(PYTHON) tools/layers.py

.PHONY: lines
lines: ## sizes
	@$(PYTHON) tools/lines.py

.PHONY: clean
clean: ## remove what was built, but not .venv
	@rm -rf build dist *.egg-info ane_native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1	\2/p' Makefile | expand -t 16
