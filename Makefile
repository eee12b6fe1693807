PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
FLOOR := .venv-floor
FAST := -m "not slow and not network"

.PHONY: demo test faults lint check fix docs coverage audit floor

demo: $(VENV)/installed
	$(BIN)/autotune search --trials 50

# Each process has one thread. How many there are: tests/conftest.py.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# Kill processes at a hundred random moments, all other faults, and the tests that take too long for `make test`. SEED=1
# draws other moments. More than 20 minutes on two cores.
SEED ?= 0
faults: $(VENV)/installed
	AUTOTUNE_FAULT_TIMES=34 AUTOTUNE_FUZZ_FILES=10000 AUTOTUNE_FAULT_SEED=$(SEED) OMP_NUM_THREADS=1 \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n auto --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest $(FAST)

fix: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

coverage: $(VENV)/installed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder $(FAST) --cov

# Known vulnerabilities of the installed packages, from the service of pypi.org.
audit: $(VENV)/installed
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

# The fast tests with the lowest versions that pyproject.toml allows, in a separate venv.
floor: $(FLOOR)/installed
	$(FLOOR)/bin/pytest $(FAST)

$(VENV)/installed: pyproject.toml autotune/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e '.[dev]'
	touch $@

$(FLOOR)/installed: pyproject.toml autotune/__init__.py
	$(PYTHON) -m venv --clear $(FLOOR)
	$(FLOOR)/bin/pip install uv
	$(FLOOR)/bin/uv pip install --python $(FLOOR)/bin/python --resolution lowest-direct -e '.[dev]'
	touch $@
