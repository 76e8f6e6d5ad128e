# `make` says what there is. Every target makes .venv and installs what it needs first.

# The first Python that runs (a pyenv shim can be on the path and refuse to), is 3.11 to 3.13, and can make
# environments. To choose another: make test PYTHON=/path/to/python3.12
CAN_RUN_US := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c "$(CAN_RUN_US)" 2>/dev/null && echo "$$python" && break; done)

VENV := .venv
INSTALLED := $(VENV)/.installed

# Python 3.12 has Megatron-Core 0.19; an environment of its own, so that both can be tested from one clone.
NEWEST_VENV := .venv-newest
NEWEST_INSTALLED := $(NEWEST_VENV)/.installed
IS_NEWEST := import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 12))
NEWEST_PYTHON ?= $(shell for python in python3.12 $(HOME)/.pyenv/versions/3.12.*/bin/python; do \
	"$$python" -c "$(IS_NEWEST)" 2>/dev/null && echo "$$python" && break; done)

# SGLang pins a torch and a transformers of its own: an environment of its own, for tests on the CPU.
SGLANG_VENV := .venv-sglang
SGLANG_INSTALLED := $(SGLANG_VENV)/.installed
SGLANG_ENVIRONMENT := tests/sglang/environment

# Two processes of two threads each on two cores are slower than two of one.
export OMP_NUM_THREADS ?= 1

# How many processes share all the tests out; with ARGS there is one. Each has up to four ranks of its own (1.6 GB).
WORKERS ?= 2

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install quickstart test lint types unit test-newest has-newest test-sglang format docs clean \
	test-slurm test-gpu test-long long-conformance long-converter long-parity long-resume long-recipes long-verifier long-kills long-slurm

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv and install the package and what checks it

$(INSTALLED): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "no working Python 3.11, 3.12 or 3.13 with venv; name one: make PYTHON=..." >&2; exit 2; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV), with torch the larger part of it ..."
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(INSTALLED) ## pacing and its baselines on tiny models; FAST=1: two arms, one seed
	$(VENV)/bin/paced quickstart $(if $(FAST),--fast)

test: lint types unit ## all that has to pass: lint, types, tests

lint: $(INSTALLED) ## style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(INSTALLED) ## type checks of the package and the tools
	$(VENV)/bin/mypy paced_megatron tools

# Whole files are dealt out, the long ones first (tests/conftest.py): each process has a pool and fixtures of its own.
unit: $(INSTALLED) ## the tests that need no GPU, no Slurm and no SGLang; ARGS="tests/pacing -x" chooses
	CUDA_VISIBLE_DEVICES= $(VENV)/bin/python -m pytest -q -m "not gpu and not slurm and not sglang" --session-timeout=2400 \
		$(if $(ARGS),$(ARGS),-n $(WORKERS) --dist loadfile --no-loadscope-reorder)

# The rows that `make test` has no time for. $(call long,VARIABLE): the test files that ask for it, with it set.
long = @files=$$(grep -rlw --include='test_*.py' $(1) tests); test -n "$$files" || { echo "no test asks for $(1)"; exit 0; }; \
	set -x; $(1)=1 $(VENV)/bin/python -m pytest -q -m "not gpu and not slurm" --session-timeout=14400 $$files $(ARGS)

test-long: long-conformance long-converter long-parity long-resume long-recipes long-verifier long-kills long-slurm ## all of these, hours

long-conformance: $(INSTALLED) ## each divergence x ranks x dtype x KL x temperature x chunk size
	$(call long,PACED_FULL_CONFORMANCE)

long-converter: $(INSTALLED) ## every model family in every dtype, at layouts of up to eight processes
	$(call long,PACED_FULL_CONVERTER)

long-parity: $(INSTALLED) ## the gradient of every parameter at every layout, against transformers in float64
	$(call long,PACED_FULL_PARITY)

long-resume: $(INSTALLED) ## fifty kills at three layouts
	$(call long,PACED_FULL_RESUME)

long-recipes: $(INSTALLED) ## every recipe to its end, with small models
	$(call long,PACED_FULL_RECIPES)

long-verifier: $(INSTALLED) ## MATH-500's solutions against twenty other answers each
	$(call long,PACED_FULL_VERIFIER)

long-kills: $(INSTALLED) $(SGLANG_INSTALLED) ## twenty moments at which a run with an SGLang server is killed
	PACED_FULL_KILLS=1 PACED_SGLANG_PYTHON=$(CURDIR)/$(SGLANG_VENV)/bin/python \
		$(VENV)/bin/python -m pytest -q -m sglang --timeout=3600 tests/sglang/test_kills.py

long-slurm: $(INSTALLED) $(SGLANG_INSTALLED) ## a real Slurm: time limits, a dead node, real SGLang servers as steps of a job
	PACED_FULL_SLURM=1 PACED_SGLANG_PYTHON=$(CURDIR)/$(SGLANG_VENV)/bin/python \
		$(VENV)/bin/python -m pytest -q -m slurm --session-timeout=7200 tests/slurm $(ARGS)

test-newest: $(NEWEST_INSTALLED) ## a smoke on Python 3.12 and Megatron-Core 0.19: layouts, models, the loop, a step on a GPU that isn't there
	$(NEWEST_VENV)/bin/python -m pytest -q --session-timeout=900 tests/parallel tests/models tests/fake_gpu \
		tests/loop/test_loop.py tests/divergence/test_no_sync.py

has-newest:
	@test -n "$(NEWEST_PYTHON)" || { echo "no working Python 3.12; name one: NEWEST_PYTHON=..." >&2; exit 2; }

$(NEWEST_INSTALLED): setup.py constraints.txt | has-newest
	@$(NEWEST_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(NEWEST_PYTHON) -m venv --clear $(NEWEST_VENV)
	@echo "installing into $(NEWEST_VENV); torch brings CUDA with it here, 5 GB ..."
	@$(NEWEST_VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

test-sglang: $(INSTALLED) $(SGLANG_INSTALLED) ## the tests that need a real SGLang server, here on the CPU
	PACED_SGLANG_PYTHON=$(CURDIR)/$(SGLANG_VENV)/bin/python \
		$(VENV)/bin/python -m pytest -q -m sglang --session-timeout=600 tests/sglang $(ARGS)

# Made anew each time: what an older list left behind could hide that something is missing from this one.
$(SGLANG_INSTALLED): $(SGLANG_ENVIRONMENT)/install.sh $(wildcard $(SGLANG_ENVIRONMENT)/*.txt)
	@test -n "$(PYTHON)" || { echo "no working Python 3.11, 3.12 or 3.13 with venv; name one: make PYTHON=..." >&2; exit 2; }
	@echo "installing into $(SGLANG_VENV), 1.8 GB with torch for the CPU ..."
	@bash $(SGLANG_ENVIRONMENT)/install.sh $(PYTHON) $(SGLANG_VENV)
	@touch $@

test-slurm: $(INSTALLED) ## the tests that need a real Slurm: starts one here (as root; installs Debian's where none is)
	$(VENV)/bin/python -m pytest -q -m slurm --session-timeout=520 tests/slurm $(ARGS)

# Nothing is installed: on a machine that is lent for minutes its own Python has a torch for its GPU, and wheels come
# with the tree (tools/gpu). With PYTHON=... that one, else .venv where there is one.
GPU_PYTHON := $(if $(filter command environment,$(firstword $(origin PYTHON))),$(PYTHON),$(or $(wildcard $(VENV)/bin/python),python3))

test-gpu: ## the tests on one GPU, under ten minutes; PYTHON=python3 has the machine's own Python run them
	PYTHON=$(GPU_PYTHON) tools/gpu/test.sh $(ARGS)

format: $(INSTALLED) ## bring the code into the form that lint asks for
	$(VENV)/bin/ruff check --fix --quiet . || true
	$(VENV)/bin/ruff format .

docs: $(INSTALLED) ## write docs/configuration.md from the dataclasses
	$(VENV)/bin/python tools/write_config_reference.py

clean: ## remove .venv and caches; runs stay
	rm -rf $(VENV) $(NEWEST_VENV) $(SGLANG_VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
