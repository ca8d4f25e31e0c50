.PHONY: setup owned train test test-setup wheel flaky bench studies spark container mutants lint format docs lock ui docs-screenshots
.DELETE_ON_ERROR:
SHELL := bash

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RIVALS := .venv/.rivals
SPARK := .venv/.spark
MUTANTS := .venv/.mutants
CONTAINER := .venv/.container
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# $(call REQUIREMENTS,<expression>): requirements of pyproject.toml, one per line; `project` is its table of that name.
REQUIREMENTS = $(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*($(1)), sep="\n")'
# Reads what pip prints; prints a line every 25 packages and one for every download above 100 MB.
PROGRESS = awk -v total="$(1)" '/^Collecting/ && ++count % 25 == 0 {print "  " count total} /^Installing/ {print "  installing"} \
	/Downloading/ && $$NF == "MB)" && substr($$(NF - 1), 2) + 0 > 100 {print "  " $$2 " " $$(NF - 1) " MB)"} {fflush()}'

# From pip's report to .venv/torch.json: which archive torch was installed from, which the lock cannot say. A report of a
# call that kept torch has no torch, and the record of before stays.
define ARCHIVE_OF_TORCH
import json, urllib.parse
for item in json.load(open(".venv/report.json"))["install"]:
    if item["metadata"]["name"] == "torch":
        given = item["download_info"]
        archive = given.get("archive_info", {})
        sha256 = archive.get("hashes", {}).get("sha256") or archive.get("hash", "unknown").removeprefix("sha256=")
        name = urllib.parse.unquote(given["url"].rpartition("/")[2])
        record = {"version": item["metadata"]["version"], "archive": name, "sha256": sha256}
        json.dump(record, open(".venv/torch.json", "w"))
endef
$(READY): export ARCHIVE_OF_TORCH := $(ARCHIVE_OF_TORCH)

setup: $(READY)   ## .venv with the versions of requirements.lock; does nothing where .venv is up to date
	@echo ".venv is ready"

owned:            ## refuses a .venv that was created for another folder: its scripts would change that one
	@test ! -e .venv || { \
		owner="$$(sed -n 's/^command = .* -m venv \(--[^ ]* \)*//p' .venv/pyvenv.cfg 2> /dev/null)"; \
		test "$$owner" = "$(CURDIR)/.venv" || { \
			echo ".venv belongs to $${owner:-another program}, not to this folder; remove it with rm -r .venv, then call make again" >&2; \
			exit 1; }; }

$(READY): pyproject.toml requirements.lock | owned
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 15) else f"Segue needs Python 3.11 to 3.14, {sys.executable} is {sys.version.split()[0]}; use make PYTHON=<path>")' \
		&& $(PYTHON) -m venv --clear .venv; }
	@echo "Installing $$(grep -c '==' requirements.lock) packages and PyTorch (0.2 GB, with CUDA 3 GB) into .venv; this takes 1 to 10 minutes"
	@for info in .venv/lib/python*/site-packages/*.dist-info; do test -e "$$info/INSTALLER" || rm -rf "$$info"; done   # pip was interrupted there
	@awk '/^[^ #]/ {keep = /^setuptools==/} keep' requirements.lock > .venv/build.txt
	@$(INSTALL) --quiet --require-hashes --no-deps --requirement .venv/build.txt
	@set -o pipefail; $(INSTALL) --require-hashes --no-deps --no-build-isolation --use-pep517 --requirement requirements.lock \
		| $(call PROGRESS, of $$(grep -c '==' requirements.lock) packages)
	@$(BIN)/python -m pip freeze --disable-pip-version-check --exclude torch > .venv/locked.txt
	@set -o pipefail; rm -f .venv/report.json; $(INSTALL) --constraint .venv/locked.txt --report .venv/report.json \
		--requirement <($(call REQUIREMENTS,need for need in project["dependencies"] if need.startswith("torch>"))) | $(call PROGRESS, packages of PyTorch)
	@test ! -e .venv/report.json || $(BIN)/python -c "$$ARCHIVE_OF_TORCH"
	@$(BIN)/python -m pip check --disable-pip-version-check > .venv/check.txt || { cat .venv/check.txt >&2; exit 1; }
	@touch $(READY)

train: $(READY)   ## make train ARGS="model=track seed=2"
	$(BIN)/python train.py $(ARGS)

test: export PYTHONDONTWRITEBYTECODE =   # each process that a test starts would compile the project again
test: $(READY)    ## make test ARGS="-k ranking"
	$(BIN)/python -m pytest $(ARGS)

test-setup: $(READY)   ## the tests of make setup, of the locks and of the settings of make mutants
	$(BIN)/python -m pytest .ci/setup_tests/test_setup.py .ci/setup_tests/test_lock.py .ci/setup_tests/test_mutants.py

wheel: $(READY)   ## the wheel in empty environments; make wheel ARGS="serve room sweep spark rivals all" tries its extras
	$(BIN)/python -m pytest -n 0 .ci/setup_tests/test_built_wheel.py
	PYTHONPATH=.ci $(BIN)/python -m setup_tests.wheel $(ARGS)

flaky: export PYTHONDONTWRITEBYTECODE =
flaky: $(READY)   ## make flaky REPEATS=2: repeats the tests that wait for something, idle and beside busy processes
	PYTHONPATH=.ci $(BIN)/python -m setup_tests.flaky $(or $(REPEATS),20)

bench: $(RIVALS)  ## make bench ARGS="--full", or the names of stages
	$(BIN)/python experiments/throughput/bench.py $(ARGS)

studies: $(RIVALS)   ## each living study at its smallest size; ARGS="online room": only scripts with such a part in their path
	$(BIN)/python experiments/smoke.py $(ARGS)

$(RIVALS): $(READY)
	@echo "Installing the rivals of make bench into .venv; this takes a minute"
	@$(INSTALL) --quiet --constraint .venv/locked.txt --requirement <($(call REQUIREMENTS,project["optional-dependencies"]["bench"]))
	@touch $(RIVALS)

spark: $(SPARK)   ## the tests of engine=spark, which need Java too
	WITH_SPARK=1 $(BIN)/python -m pytest -n 0 tests/datamodules/test_spark.py tests/e2e/test_prepare.py $(ARGS)

$(SPARK): $(READY)
	@echo "Installing pyspark (450 MB) into .venv; this takes minutes"
	@$(INSTALL) --quiet --constraint .venv/locked.txt --requirement <($(call REQUIREMENTS,project["optional-dependencies"]["spark"]))
	@touch $(SPARK)

container: $(CONTAINER)   ## what deploy/ says, without a container engine; needs bubblewrap, Prometheus and Redis
	$(BIN)/python -m pytest -n 0 .ci/setup_tests/test_container.py $(ARGS)

$(CONTAINER): $(READY)
	@echo "Installing linters of the Dockerfile and of compose.yaml into .venv; this takes seconds"
	@$(INSTALL) --quiet --constraint .venv/locked.txt --requirement <($(call REQUIREMENTS,project["optional-dependencies"]["container"]))
	@touch $(CONTAINER)

mutants: $(MUTANTS)   ## puts faults into the code and looks whether a test fails; make mutants ARGS="--seed 2"
	PYTHONPATH=.ci $(BIN)/python -m setup_tests.mutants $(ARGS)

$(MUTANTS): $(READY)
	@echo "Installing cosmic-ray into .venv; this takes seconds"
	@$(INSTALL) --quiet --constraint .venv/locked.txt --requirement <($(call REQUIREMENTS,project["optional-dependencies"]["mutants"]))
	@touch $(MUTANTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Where ARGS say that mkdocs writes, as --site-dir=x or --site-dir x.
SITE = $(abspath $(or $(patsubst --site-dir=%,%,$(filter --site-dir=%,$(subst -dir ,-dir=,$(ARGS)))),site))

docs: $(READY)    ## the pages of this project as a site, in site/, and the tests of the site and of the notebook
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@SITE="$(SITE)" $(BIN)/python -m pytest -q -n 0 .ci/setup_tests/test_built_site.py .ci/setup_tests/test_notebook.py
	@echo "First page: $(SITE)/index.html"

lock:             ## both locks for a changed pyproject.toml; ARGS=--upgrade takes the newest versions
	@echo "Resolving the versions of requirements.lock and requirements-serve.lock; this takes half a minute"
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; "$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	compile() { "$$folder/venv/bin/uv" pip compile --universal --python-version 3.11 --fork-strategy fewest \
		--no-emit-index-url --quiet --no-annotate --custom-compile-command "make lock" "$$@"; }; \
	renew() { touch "$$1"; diff <(grep == "$$1" | tr -d '\\') <(grep == "$$folder/lock" | tr -d '\\') | grep '^[<>]' || echo "No version of $$1 changes"; \
		cp "$$folder/lock" "$$1"; }; \
	touch requirements.lock; cp requirements.lock "$$folder/with_torch"; compile pyproject.toml --extra dev --output-file "$$folder/with_torch" $(ARGS); \
	echo "torch ; python_version < '3'" > "$$folder/no_torch"; set -- --constraint "$$folder/with_torch" --generate-hashes --output-file "$$folder/lock"; \
	compile pyproject.toml --extra dev --override "$$folder/no_torch" "$$@"; renew requirements.lock; \
	compile --group serving "$$@"; renew requirements-serve.lock
	@echo "Next: make test-setup, then commit pyproject.toml and both locks together"

STORE := $(or $(MLFLOW_TRACKING_URI),sqlite:///mlflow.db)

# $(call OPTION,--port|-p): its value in ARGS, the last one of several
OPTION = $(shell sed -nE 's/.* ($(1))[= ] *([^ ]+).*/\2/p' <<< ' $(ARGS)')
# 0.0.0.0 is every address of this machine, which no browser can open
UI_HOST = $(patsubst 0.0.0.0,127.0.0.1,$(or $(call OPTION,--host|-h),127.0.0.1))
RUNS_PAGE = http://$(UI_HOST):$(or $(call OPTION,--port|-p),5000)/\#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=segue

ui: $(READY)      ## the MLflow UI on the runs of this folder: make ui ARGS="--port 5050"
	@case "$(STORE)" in http*) echo "open $(STORE) in a browser";; *) echo "training runs: $(RUNS_PAGE), or as train.py printed it"; MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri $(STORE) $(ARGS);; esac

docs-screenshots: $(READY)   ## needs Chromium, and a sweep that compare.py has looked at
	$(BIN)/python docs/screenshots.py $(ARGS)
