# Two commands for a newcomer: `make demo` and `make test`. Both make their own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 200

.PHONY: setup demo test test-processes test-logic check sim clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "daitn needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/daitn demo hospitals

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two runs beside each other: tests with processes mostly wait, the others mostly compute. Each shows its own summary when
# it has ended; `make test-processes` and `make test-logic` show progress.
WITH_PROCESSES := tests/system tests/api tests/architecture

test: check
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-processes test-logic

test-processes: setup
	$(BIN)/python -m pytest $(WITH_PROCESSES)

test-logic: setup
	$(BIN)/python -m pytest tests $(addprefix --ignore=,$(WITH_PROCESSES))

sim: setup
	$(BIN)/python -m daitn.simulation --seeds $(SEEDS)

clean:
	rm -rf $(VENV) .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
