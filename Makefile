# The two commands of the README are `make run` and `make test`.
# Everything is built into .venv, from pyproject.toml; nothing outside this folder is touched.
PYTHON ?= python3
# Arguments for the server: make run ARGS="--client-port 2182 --set 4lw.commands.whitelist=*"
ARGS ?=
# What to test, and pytest's options: make test TESTS="tests/unit -k log"
TESTS ?= tests
# How many frames `make fuzz` sends, and from which seed: make fuzz FRAMES=1000000 SEED=7
FRAMES ?= 1000000
SEED ?= 1
# Tests that run at a time. Many wait for servers more than they compute: one more than there are processors.
WORKERS ?= $(shell expr 1 + $$(nproc))
# Which workloads `make instructions` counts (all), and its options.
COUNT ?=
# Arguments for `asv run`: make bench-asv ASV="--quick --bench znode_tree"
ASV ?=
# Which seeds to simulate.
SEEDS ?= 1-1000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := $(shell find fastzk -name '*.pyx' -o -name '*.pxd' ! -name '_constants.pxd') fastzk/protocol.py setup.py pyproject.toml
# A .py with a .pxd beside it is compiled, too.
SOURCES += $(wildcard $(patsubst %.pxd,%.py,$(filter %.pxd,$(SOURCES))))

.PHONY: help run build test test-benchmarks simulate fuzz lint bench bench-quick bench-asv instructions clean
.DELETE_ON_ERROR:

help:
	@echo 'make run    build, then serve 127.0.0.1:2181 from ./data until Ctrl-C (ARGS="..." for the server)'
	@echo 'make test   build, then run all tests (TESTS="tests/unit -k log" for some)'
	@echo 'make test-benchmarks  a smoke pass of the benchmarks, and the count of instructions beside its baseline'
	@echo 'make fuzz   build a copy with sanitizers, then send it damaged frames (FRAMES=1000000 SEED=1)'
	@echo 'make simulate SEEDS=1-10000  whole ensembles under faults, by seed, on all cores'
	@echo 'make lint   ruff, mypy --strict, cython-lint'
	@echo 'make bench-quick  micro-benchmarks in half a minute (TESTS="bench/quick -k tree" for some)'
	@echo 'make bench-asv    the whole suite, kept by commit, as pages in .asv/html (ASV="--quick")'
	@echo 'make bench  compare with Apache ZooKeeper, Redis and etcd; see bench/README.md'
	@echo 'make instructions  count what fixed pieces of work take (COUNT="server-get --top 9" for some), and compare'
	@echo 'make clean  remove what was built; ./data stays'

# `exec`: Ctrl-C and signals reach the server itself, and its exit code is that of make's recipe.
run: $(VENV)/.built
	@exec $(BIN)/fastzk-server $(ARGS)

build: $(VENV)/.built

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastzk needs Python 3.11 or newer, this is " + sys.version)'
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV) || { echo "no usable 'venv' module: on Debian, apt-get install python3-venv python3-dev" >&2; exit 1; }
	$(PIP) install 'setuptools>=77' 'Cython>=3.1'
	@touch $@

# Dependencies and the command. pip would compile everything anew each time, so that is left to the next step.
$(VENV)/.installed: $(VENV)/.created pyproject.toml setup.py
	FASTZK_NO_EXTENSIONS=1 $(PIP) install --no-build-isolation --editable .
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	@echo 'compiling (a minute or two the first time)'
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: $(VENV)/.installed
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$*"], sep="\n")' > $@.txt
	$(PIP) install --requirement $@.txt
	@touch $@

test: $(VENV)/.built $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not benchmarks" $(TESTS)

# What measures wants the processors for itself, so these are not among the others.
test-benchmarks: $(VENV)/.built $(VENV)/.test
	$(BIN)/python -m pytest -m benchmarks tests/integration

# A copy, because a checked extension does not load without the sanitizer's library. tar keeps the times of the
# files, so only what has changed is compiled again.
CHECKED := build/checked
$(CHECKED)/.built: $(SOURCES) $(wildcard fastzk/*.py fastzk/*/*.py fastzk/*/*/*.py) $(VENV)/.installed
	@mkdir -p $(CHECKED)
	tar --exclude='*.so' --exclude='*.c' --exclude=__pycache__ -cf - fastzk setup.py pyproject.toml LICENSE README.md | tar -xf - -C $(CHECKED)
	@echo 'compiling with sanitizers (a minute the first time)'
	cd $(CHECKED) && FASTZK_CHECKED=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

fuzz: $(CHECKED)/.built $(VENV)/.test
	$(BIN)/python tests/fuzz/fuzz_frames.py --frames $(FRAMES) --seed $(SEED) --tree $(CHECKED) --out build/fuzz

# A seed that fails is printed with what happened, and how to replay it.
simulate: $(VENV)/.built
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

lint: $(VENV)/.built $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint fastzk # it calls pycodestyle by its name

bench: $(VENV)/.built $(VENV)/.bench
	$(BIN)/python bench/compare.py

bench-quick: TESTS = bench/quick
bench-quick: $(VENV)/.built $(VENV)/.bench
	$(BIN)/python -m pytest $(TESTS) --benchmark-max-time=0.2 --benchmark-min-rounds=3 --benchmark-warmup=off \
		--benchmark-columns=min,median,iqr,rounds --benchmark-sort=name

# asv builds each commit it measures in an environment of its own. `asv machine` is for its first run, which would ask.
# Its forkserver (asv.conf.json) gives every parameter a fork of a process that has imported everything: to start an
# interpreter for each of the hundreds would take longer than to measure them.
bench-asv: $(VENV)/.bench
	$(BIN)/asv machine --yes
	$(BIN)/asv run $(ASV)
	$(BIN)/asv publish

instructions: $(VENV)/.built
	$(BIN)/python -m bench.instructions $(COUNT)

# ./data stays: it is what `make run` was given to keep; so do asv's results.
clean:
	rm -rf $(VENV) build dist fastzk.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .asv/env .asv/html
	find fastzk -name '*.so' -delete -o -name '*.c' -delete -o -name '_constants.pxd' -delete
	find fastzk tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
