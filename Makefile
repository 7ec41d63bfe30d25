# Every target does its own set-up; only Python 3.11+, make and a package index are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The validators of rendered files disagree with our own packages: they get an environment by themselves.
VALIDATOR_PINS := tests/rendered/requirements.txt
VALIDATORS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/motley/validators-$(firstword $(shell cksum < $(VALIDATOR_PINS)))
VALIDATORS_READY := $(VALIDATORS)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu soak check check-rendered bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## create .venv and install Motley with every extra

# torch first and pinned: a plain `torch` pulls gigabytes of CUDA libraries onto a CPU machine.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY) ## plan, serve, route, fine-tune and publish on the tiny model, under four minutes
	$(BIN)/motley demo

# Files of tests go to whichever worker is free; each worker keeps to one thread.
WORKERS ?= 2
test: $(READY) ## every test but slow, gpu and soak
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-slow: $(READY) ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY) ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

soak: $(READY) ## long load
	$(BIN)/python -m pytest -m soak

check: $(READY) ## ruff, formatting, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-rendered: $(READY) $(VALIDATORS_READY) ## files of every render target against their real schemas
	rm -rf build/rendered
	$(BIN)/python tests/rendered/render.py build/rendered
	cp -r tests/golden/finetune/kubernetes build/rendered/federation
	mkdir build/rendered/home
	HOME=$(CURDIR)/build/rendered/home SKYPILOT_DISABLE_USAGE_COLLECTION=1 $(VALIDATORS)/bin/python tests/rendered/validate.py build/rendered

# Named by the sum of its pins, so that a fresh clone finds the environment it would make.
$(VALIDATORS_READY):
	rm -rf $(VALIDATORS)
	$(PYTHON) -m venv $(VALIDATORS)
	$(VALIDATORS)/bin/pip install --quiet --disable-pip-version-check --requirement $(VALIDATOR_PINS)
	touch $@

bench: $(READY) ## one benchmark: make bench NAME=drafting
	$(BIN)/python tests/benchmarks/run.py $(NAME)

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
