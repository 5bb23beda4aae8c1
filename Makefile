# Every target sets up what it needs: a virtual environment in .venv, from pyproject.toml with the
# versions of constraints.txt. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SCALE ?= paper
SEEDS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test slow lint demo bench bench-bf16 bench-gpu figures tables clean \
	figure-1 figure-2 figure-3 figure-4

help:  ## list the targets
	@grep -hE '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | \
		awk -F '\t' '{printf "  make %-20s %s\n", $$1, $$2}'

setup: $(VENV)/.done  ## virtual environment with the tested versions

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## train three units on a generated language (2 minutes), draw a table and a figure
	$(BIN)/python scripts/demo.py

test: setup  ## run the test suite (under 5 minutes on 2 cores)
	$(BIN)/python -m pytest

slow: setup  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## layers against torch's (time, memory, growth), import time, the trainer's overhead
	$(BIN)/python scripts/bench_layers.py
	$(BIN)/python scripts/bench_tasks.py
	$(BIN)/python scripts/bench_attention.py
	$(BIN)/python scripts/bench_data.py
	$(BIN)/python scripts/bench.py

bench-bf16: setup  ## products and layers in bf16 on this processor: checked, then timed
	$(BIN)/python scripts/bench_bf16.py

bench-gpu: setup  ## layers on a GPU against cuDNN's
	$(BIN)/python scripts/bench_gpu.py

check-gpu: setup  ## on a GPU, in six minutes: its tests, the benchmark, seeds of Table 2
	$(BIN)/python scripts/check_gpu.py

# For example: make reproduce-table-2 SCALE=cpu SEEDS=0,1
reproduce-table-%: setup  ## run what is missing of a table, then write results/tableN.md and .csv
	$(BIN)/python scripts/reproduce.py table$* --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS))

figure-1 figure-3 figure-4: setup
	$(BIN)/python scripts/make_figures.py $(subst figure-,fig,$@)

figure-2: setup  ## gradient descent with and without noise: measure (half a minute), then draw
	$(BIN)/python scripts/escape.py
	$(BIN)/python scripts/make_figures.py fig2

# Where the series of a figure are, if not in a folder of its own.
figure-7: ROWS := fig6
figure-9: ROWS := table2
figure-10: ROWS := table1

figure-%: setup  ## run what is missing of a figure's series (figure-11), then draw it
	$(BIN)/python scripts/reproduce.py $(or $(ROWS),fig$*) --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS))
	$(BIN)/python scripts/make_figures.py fig$*

tables: setup  ## write every table and pilot page again from the committed records
	$(BIN)/python scripts/make_table.py
	$(BIN)/python scripts/make_pilot.py

figures: setup  ## draw every figure again from the committed records
	$(BIN)/python scripts/make_figures.py

clean:  ## remove the virtual environment; runs/ and data/ stay
	rm -rf $(VENV)
