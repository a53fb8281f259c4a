# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 200

.PHONY: setup demo test check sim clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "daitn needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# On all cores, which pip does on one; what is no module of this Python is passed over.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	# Sandboxed children see the package read-only and could not keep what they compile.
	$(BIN)/python -m compileall -q -j 0 src
	touch $@

demo: setup
	$(BIN)/daitn demo hospitals

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers, each takes the next file when it has done one; large files come before the many small ones of tests/unit.
WORKERS ?= 2

test: check
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

sim: setup
	$(BIN)/python -m daitn.simulation --seeds $(SEEDS)

clean:
	rm -rf $(VENV) .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
