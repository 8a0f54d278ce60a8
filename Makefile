# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY := studies/position_encoding.yaml

.PHONY: demo test test-fast test-ray test-slurm lint clean

# The environment: made once, and again when the dependencies change.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/ready  ## position_encoding on the embedded images, always anew, into build/demo
	rm -rf build/demo
	$(BIN)/ablate run $(STUDY) --runs build/demo/runs --results build/demo/results

test: $(VENV)/ready  ## lint, types and every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/ready  ## the tests that answer in seconds
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-ray: $(VENV)/ready  ## trials on Ray: two nodes on this machine, one is killed midway
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	$(BIN)/python -m pytest -v -s -k ray tests/test_study_ray.py tests/test_study_executors.py

test-slurm: $(VENV)/ready  ## trials on Slurm: two nodes on this machine, as root; jobs are cancelled
	PYTHON=$(abspath $(BIN))/python tests/slurm/cluster.sh test -v \
		-k "slurm or submitit" \
		tests/test_study_slurm.py tests/test_study_executors.py tests/test_slurm_cluster.py

lint: $(VENV)/ready  ## format, then check style and types
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
