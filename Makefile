# Every target sets up what it needs: a virtual environment in .venv, from pyproject.toml with the
# versions of constraints.txt. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NOISYEXP := $(BIN)/noisyexp
SCALE ?= paper
SEEDS ?=
WORKERS ?= 2
JOBS ?= 1
# PLAN=1: say what reproduce-... and figure-... would do and cost, and start nothing.
PLAN ?=

.DEFAULT_GOAL := help
.PHONY: help setup test slow engines lint docs demo bench bench-bf16 bench-gpu figures tables queue build clean \
	figure-1 figure-2 figure-3 figure-4

help:  ## list the targets
	@grep -hE '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | \
		awk -F '\t' '{printf "  make %-20s %s\n", $$1, $$2}'

setup: $(VENV)/.done  ## virtual environment with the tested versions

# $(call install,extra): the package as it lies here, with what the extra names.
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[$(1)]'
endef

$(VENV)/.done: pyproject.toml constraints.txt
	@echo "setting up $(VENV): packages of constraints.txt, two minutes"
	$(call install,dev)
	touch $@

# What an experiment needs, without the tools of the tests.
$(VENV)/.experiments: pyproject.toml constraints.txt
	@echo "setting up $(VENV): packages of constraints.txt, one to two minutes"
	$(call install,experiments)
	touch $@

demo: $(VENV)/.experiments  ## train three units on a generated language (two minutes), draw a table and a figure
	$(BIN)/python scripts/demo.py

test: setup  ## run the test suite, three tests at a time (seven to sixteen minutes on two cores)
	$(BIN)/python -m pytest -n 3 --dist worksteal

slow: setup  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

# An environment of its own: nothing else here needs Ray, which is large.
.venv-engines/.done: pyproject.toml constraints.txt
	test -x .venv-engines/bin/python || $(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[experiments,ray]' pytest
	touch $@

engines: .venv-engines/.done  ## sweeps on Ray, in an environment of its own (minutes)
	.venv-engines/bin/python -m pytest -m slow --durations=0 tests/cli/test_ray.py

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## build the documentation site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "read it: $(BIN)/python -m http.server -d site"

bench: setup  ## layers, cells, bf16, compiled code and updates against torch's; the trainer's overhead
	$(BIN)/python -m benchmarks.layers
	$(BIN)/python -m benchmarks.bf16
	$(BIN)/python -m benchmarks.compiled
	$(BIN)/python -m benchmarks.tasks
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.trainer

bench-bf16: setup  ## products and layers in bf16 on this processor: checked, then timed
	$(BIN)/python -m benchmarks.bf16

bench-gpu: setup  ## layers on a GPU against cuDNN's
	$(BIN)/python -m benchmarks.gpu

check-gpu: setup  ## on a GPU, in six minutes: its tests, the benchmark, seeds of Table 2
	$(BIN)/python -m benchmarks.check_gpu

# For example: make reproduce-table-2 SCALE=cpu SEEDS=0,1 JOBS=2
reproduce-table-%: setup  ## run what is missing of a table, then write results/tableN.md and .csv
	$(NOISYEXP) reproduce $* scale=$(SCALE) jobs=$(JOBS) $(if $(SEEDS),seeds=$(SEEDS)) \
		$(if $(PLAN),plan=true)

figure-1 figure-3 figure-4: setup
	$(NOISYEXP) figure $(subst figure-,,$@)

figure-2: setup  ## gradient descent with and without noise: measure (half a minute), then draw
	$(BIN)/python scripts/escape.py
	$(NOISYEXP) figure 2

figure-%: setup  ## run what is missing of a figure's series (figure-11), then draw it
	$(NOISYEXP) reproduce fig$* scale=$(SCALE) jobs=$(JOBS) $(if $(SEEDS),seeds=$(SEEDS)) \
		$(if $(PLAN),plan=true)
	$(if $(PLAN),,$(NOISYEXP) figure fig$*)

queue: setup  ## do the runs of results/queue.yaml that have no record, two at a time (days)
	$(NOISYEXP) queue workers=$(WORKERS)

tables: setup  ## write every table and pilot page again from the committed records
	$(NOISYEXP) table

figures: setup  ## draw every figure again from the committed records
	$(NOISYEXP) figure

build: setup  ## source distribution and wheel, in dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:  ## remove the virtual environment; runs/ and data/ stay
	rm -rf $(VENV)
