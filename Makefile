.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help setup demo test check bench bench-training bench-convergence bench-serving

help:
	@echo "make demo   train a small model with two volunteers on this machine, then spend the credits"
	@echo "make test   run every test"
	@echo "make check  lint, types, import rules, migrations"
	@echo "make bench  measure what docs/experiments.md states"
	@echo "make bench-training   the same of the learner's pipeline; ARGS=\"--corpus DIR\" on a corpus of your own"
	@echo "make bench-convergence   low-communication training, simulated; ARGS=--quick in three minutes, all of it in hours"
	@echo "make bench-serving   the completion service's figures beside other engines; ARGS=--quick only tries it"
	@echo "make setup  only install, into .venv"

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	@$(BIN)/python -m fai_project.demo $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

test: setup
	$(BIN)/python tools/run_tests.py $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

bench-training: setup
	$(BIN)/python -m benchmarks --training $(ARGS)

bench-convergence: setup
	$(BIN)/python -m benchmarks.convergence $(ARGS)

bench-serving: setup
	$(BIN)/python -m benchmarks.serving $(ARGS)
