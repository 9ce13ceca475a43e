# Everything a newcomer needs: `make demo` and `make test`. Both set up their own virtual environment.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PACKAGES := api compress export cli
CHECKED  := $(PACKAGES) tests examples benchmarks docs

# One process of pytest keeps little more than one core busy: so one process a core, with one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: demo check test test-all test-quick lint format types wheel-test bench bench-gpu clean

# The stamp follows pyproject.toml, so a changed dependency is installed again.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --folder demo-run

# While you work: under a minute on 2 cores.
check: lint types test-quick

test: lint types test-all wheel-test

test-all: $(VENV)/.installed
	$(PYTEST)

test-quick: $(VENV)/.installed
	$(PYTEST) -m 'not slow and not processes and not browser'

lint: $(VENV)/.installed
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

# mypy cannot follow the mapping from compress/ to iterand_compress.compress: show it the installed layout.
types: $(VENV)/.installed
	rm -rf build/types && mkdir -p build/types/iterand_compress
	for file in api/*; do ln -s ../../../$$file build/types/iterand_compress; done
	for package in compress export cli; do ln -s ../../../$$package build/types/iterand_compress; done
	cd build/types && MYPYPATH=. $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p iterand_compress

# What users get: the wheel, in an environment without this tree.
wheel-test: $(VENV)/.installed
	$(BIN)/python tests/wheel_smoke.py

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/train_step.py --batch-size 128
	$(BIN)/python benchmarks/train_step.py --batch-size 32

bench-gpu: $(VENV)/.installed
	$(BIN)/python benchmarks/gpu_check.py --json benchmarks/results/gpu.json

clean:
	rm -rf build dist demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
