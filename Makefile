# The two commands of the README are `make run` and `make test`.
# Everything is built into .venv, from pyproject.toml; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find fastzk -name '*.pyx' -o -name '*.pxd' ! -name '_constants.pxd') fastzk/protocol.py setup.py pyproject.toml

.PHONY: run build test lint bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.built
	exec $(BIN)/fastzk-server

build: $(VENV)/.built

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastzk needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV) || { echo "no usable 'venv' module: on Debian, apt-get install python3-venv python3-dev" >&2; exit 1; }
	$(BIN)/pip --quiet --disable-pip-version-check install 'setuptools>=69' wheel 'Cython>=3.1'
	touch $@

$(VENV)/.built: $(VENV)/.created $(SOURCES)
	$(BIN)/pip --quiet --disable-pip-version-check install --no-build-isolation --editable .
	touch $@

$(VENV)/.test: $(VENV)/.built
	$(BIN)/pip --quiet --disable-pip-version-check install --no-build-isolation --editable '.[test]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/pip --quiet --disable-pip-version-check install --no-build-isolation --editable '.[lint]'
	touch $@

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadgroup tests

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/cython-lint fastzk

bench: $(VENV)/.built
	$(BIN)/python bench/compare.py

clean:
	rm -rf $(VENV) build fastzk.egg-info data
	find fastzk -name '*.so' -delete -o -name '*.c' -delete -o -name '_constants.pxd' -delete
