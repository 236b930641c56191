# Only python3 (3.11 or newer), pip and make are assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-hosts check wheel-check bench format clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## the whole product on this machine
	$(BIN)/credits demo

test: $(READY)  ## everything that must pass, on SQLite and PostgreSQL
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-hosts:  ## the adapters, each inside its real host, in an environment of its own
	$(PYTHON) tests/hosts/run.py $(HOSTS)

check: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

wheel-check: $(READY)  ## the built wheel, installed alone, plays the whole journey
	rm -rf build/wheel && $(BIN)/python -m build --wheel --outdir build/wheel . >/dev/null
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet --disable-pip-version-check "$$(ls build/wheel/*.whl)[tui]"
	cd build/wheel && venv/bin/credits demo --check && venv/bin/credits-admin --help >/dev/null

bench: $(READY)  ## speed as ratios within one run; writes build/bench.json
	$(BIN)/credits bench

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .demo build dist
