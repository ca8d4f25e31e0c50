.PHONY: setup train test bench lint format ui docs-screenshots
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RIVALS := .venv/.rivals

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Segue needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; use make PYTHON=<path>")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

train: $(READY)   ## make train ARGS="model=track seed=2"
	$(BIN)/python train.py $(ARGS)

test: $(READY)    ## make test ARGS="-k ranking"
	$(BIN)/python -m pytest $(ARGS)

bench: $(RIVALS)  ## make bench ARGS="--full", or the names of stages
	$(BIN)/python experiments/throughput/bench.py $(ARGS)

$(RIVALS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,bench]"
	@touch $(RIVALS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

STORE := $(or $(MLFLOW_TRACKING_URI),sqlite:///mlflow.db)

ui: $(READY)      ## the MLflow UI on the runs of this folder
	@case "$(STORE)" in http*) echo "open $(STORE) in a browser";; *) MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --backend-store-uri $(STORE) $(ARGS);; esac

docs-screenshots: $(READY)   ## needs Chromium, and a sweep that compare.py has looked at
	$(BIN)/python docs/screenshots.py $(ARGS)
