# make quickstart   install everything, collect a dataset, train, evaluate, report: a table and pictures in runs/quickstart
# make suite        every dataset of the small suite, every baseline on it, one table: about two hours on two cores
# make test         install everything, check style and types, pass the tests
# make docs         the site, in build/site: open index.html there
# make test-tpu     every stage of every method compiled for a TPU slice, without one; needs the TPU compiler, 0.5 GB
# make test-slurm   jobs of a real Slurm; without one, as root, its packages are installed from Debian
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/quickstart
SUITE_OUT ?= runs/suite
DATASET := medium-fixedgoal-v0
# Three for two cores: tests of programs wait, for disks, signals and one another.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder

export PYTHONUNBUFFERED := 1
# Containers often set it, and then every program compiles all that it imports: eight seconds of processor time each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install quickstart suite docs test test-all test-tpu test-slurm lint format bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("diffrl needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: install
	@echo '1 of 4: 200,000 steps of play in a maze, as a Minari dataset (seconds)'
	$(BIN)/python launch/collect.py --recipe=pointmaze/$(DATASET)
	@echo '2 of 4: behaviour cloning, four seeds; first scores and pictures (half a minute on two cores)'
	$(BIN)/python launch/train.py --config=experiments/bc_pointmaze.py --workdir=$(OUT)/bc
	$(BIN)/python launch/evaluate.py --workdir=$(OUT)/bc
	$(BIN)/python launch/report.py $(OUT)/bc --out=$(OUT)/report
	@echo '3 of 4: IQL (two minutes)'
	$(BIN)/python launch/train.py --config=experiments/iql_pointmaze.py --workdir=$(OUT)/iql
	$(BIN)/python launch/evaluate.py --workdir=$(OUT)/iql
	@echo '4 of 4: SRPO: behaviour, critic, policy (three minutes)'
	$(BIN)/python launch/train.py --config=experiments/srpo_pointmaze.py --workdir=$(OUT)/srpo
	$(BIN)/python launch/evaluate.py --workdir=$(OUT)/srpo
	$(BIN)/python launch/report.py $(OUT)/bc $(OUT)/iql $(OUT)/srpo --out=$(OUT)/report

suite: install
	$(BIN)/python launch/collect.py --suite=small
	$(BIN)/python launch/suite.py --suite=small --out=$(SUITE_OUT)
	$(BIN)/python launch/report.py --suite '$(SUITE_OUT)/*/*' --out=$(SUITE_OUT)/report

# The variable leaves out an advertisement.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What tests compile runs for moments, so it is compiled with little effort; test-all compiles as users do.
test: export JAX_DISABLE_MOST_OPTIMIZATIONS = 1
test: export XLA_FLAGS = --xla_cpu_use_fusion_emitters=false
test: lint
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-all: lint
	$(BIN)/python -m pytest $(WORKERS)

test-tpu: install
	$(PYTHON) -m venv --clear $(VENV)-tpu
	$(VENV)-tpu/bin/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,tpu]'
	JAX_PLATFORMS=cpu $(VENV)-tpu/bin/python -m pytest -m slow tests/benchmarks/test_aot.py

test-slurm: install
	DIFFRL_INSTALL_SLURM=1 $(BIN)/python -m pytest -s tests/sweeps/test_slurm_scripts.py tests/end_to_end/test_slurm.py

bench: install
	$(BIN)/python launch/benchmark.py --out=runs/benchmark

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
