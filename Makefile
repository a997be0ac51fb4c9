# The two commands of the README. Both work in a fresh clone with nothing but Python 3.11 and make, and when repeated.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test

demo: .venv/installed-demo
	$(BIN)/gramian train demo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

.venv/installed-demo: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[plot,data]'
	touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[test]'
	touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv
