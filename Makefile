# Everything that a newcomer needs: `make train`, `make test`. Only Python 3.11 to 3.13 and make are required.
PYTHON ?= python3
EXTRAS ?= dev,mujoco
OUT ?= runs/default
SEEDS ?= 3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder
RLKIT := $(BIN)/python train.py

.PHONY: install docs train train-hopper test test-fast toys mutants soak lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

train: install
	$(RLKIT) train bc --preset pendulum --seeds $(SEEDS) --out $(OUT)/bc --resume auto
	$(RLKIT) train sac-rnd --preset pendulum --seeds $(SEEDS) --out $(OUT)/sac-rnd --resume auto
	$(RLKIT) report $(OUT)/bc $(OUT)/sac-rnd --out $(OUT)

# the embedded Hopper set (docs/collecting.md)
train-hopper: install
	$(RLKIT) train iql --preset hopper/medium --dataset rlkit-hopper/medium-v0 --steps 10000 --eval-every 2500 \
	  --seeds $(SEEDS) --out $(OUT)/hopper --resume auto

# Twice: what compiles much without XLA's optimiser, and what trains much with it (docs/testing.md).
test: install
	$(PYTEST) -m "not learning"
	OPTIMISED=1 $(PYTEST) -m "learning or bits"

test-fast: install
	$(PYTEST) -m "not slow"

mutants: install
	$(BIN)/python -m tests.mutants

# every toy at all its seeds, into tests/toys.csv
toys: install
	$(BIN)/python -m tests.toys

soak: install
	$(BIN)/python -m tests.soak --rounds 50

# the site, from docs/*.md and the agents: docs/_build/index.html
docs: install
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache
