# Every target works from an empty clone, and again after that. `make help` lists them.
PYTHON ?= python3
TORCH ?= 2.13.0
BIN := .venv/bin
EXTRAS := dev$(shell command -v nvidia-smi >/dev/null 2>&1 && echo ,gpu)

.PHONY: help setup eval bench test test-slow docs faults lint
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/' | column -t -s '|'

setup: .venv/ready ## make .venv and install everything into it

# Without a GPU torch comes as a CPU build, which plain pip does not choose on Linux: first as pip is set up here, then
# through uv, which knows where PyTorch keeps those builds, and only then whatever pip takes.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@if ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	  if command -v nvidia-smi >/dev/null 2>&1; then \
	    $(BIN)/python -m pip install --quiet "torch>=2.6"; \
	  else \
	    echo "installing torch $(TORCH) for the CPU"; \
	    $(BIN)/python -m pip install --quiet "torch==$(TORCH)+cpu" 2>/dev/null \
	      || $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu "torch==$(TORCH)" 2>/dev/null \
	      || $(BIN)/python -m pip install --quiet "torch==$(TORCH)"; \
	  fi; \
	fi
	@echo "installing nha-eval and what it needs (a minute or two)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch .venv/ready

eval: setup ## fetch what is needed and run the quick evaluation into results/runs/quickstart/
	$(BIN)/python run_eval.py eval quickstart

bench: setup ## time and memory of the operator beside its peers, into results/runs/bench-op/ (BENCH="--fresh" and other options)
	$(BIN)/python run_eval.py bench op $(BENCH)

test: setup ## the tests, in ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=10

# The report is tried in the system's Chromium, fetched where this may install packages; without one those tests skip.
test-slow: setup ## the tests that take minutes
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && echo "installing Chromium for the report's tests" \
	       && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; } \
	  || echo "no Chromium here: the report's tests in a browser are skipped"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations=10

docs: setup ## the documentation as a site, into site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

faults: setup ## kills, full disks and damaged files at random, into results/runs/faults/ (within an hour)
	$(BIN)/python tests/faults/campaign.py --kills 100

lint: setup ## ruff, and its formatter without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
