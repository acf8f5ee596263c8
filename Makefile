PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
# Where the recordings are, for tests and for training; nothing else needs them.
ERAREC_DATA ?= ../shared/data
export ERAREC_DATA

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

app: $(ENV)/.app  ## Open the page; the first time, install what it needs
	$(BIN)/python app.py

test: $(ENV)/.test  ## All tests
	$(BIN)/python -m pytest

lint: $(ENV)/.test  ## Format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(ENV)/.test  ## Where the time goes
	$(BIN)/python -m erarec.tools.bench

models: $(ENV)/.test  ## Train and evaluate all models, write checkpoints, model cards and maps
	$(BIN)/python -m erarec.tools.build_models $(ERAREC_DATA)

$(ENV)/.app: requirements.txt
	$(PYTHON) -m venv $(ENV)
	$(BIN)/pip install -q -r requirements.txt
	touch $@

$(ENV)/.test: $(ENV)/.app pyproject.toml
	$(BIN)/pip install -q -e '.[test]'
	touch $@

.PHONY: help app test lint bench models
