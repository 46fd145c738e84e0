# Two commands for everybody: `make demo` and `make test`. Both set up all they need in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
READY := .venv/ready
UNIT := tests/unit
CHAOS := tests/chaos/test_chaos.py tests/chaos/test_outages.py
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml -c requirements/dev.txt

.PHONY: help setup demo test chaos lint unit lock generate clean

help:  ## What there is to do
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

demo: setup  ## Train on real reviews, start Kafka, label a stream, show it
	@$(BIN)/review-worker demo

test: setup lint  ## Lint, types, import rules and all tests (TEST_KAFKA=host:port, local or testcontainers chooses the broker)
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(UNIT) tests/conformance
	$(BIN)/pytest tests/integration $(CHAOS)

unit: setup  ## The fast tests: no model, broker or network
	$(BIN)/pytest $(UNIT)

chaos: setup  ## The chaos suite against broken workers, then its long, resumable form: RECORDS (1000000), KILLS (100) a mode
	$(BIN)/pytest tests/chaos/test_mutations.py
	$(BIN)/python -m tests.chaos.long --records $(or $(RECORDS),1000000) --kills $(or $(KILLS),100)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --cache-dir .venv/import-linter

setup: $(READY)

$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: none found (or set PYTHON=)"; exit 2; }
	@echo "Setting up .venv with $$($(PYTHON) --version) (the first time some 5 GB, one to three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --require-hashes requirements/uv.txt requirements/dev.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock: setup  ## Refresh the locked dependencies (hashes, no addresses)
	echo 'uv>=0.9' | $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header - -o requirements/uv.txt
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header --all-extras pyproject.toml -o requirements/dev.txt
	$(BIN)/$(LOCK) --extra librdkafka --extra s3 --extra gs -o requirements/worker.txt
	$(BIN)/$(LOCK) --extra train --extra parquet --extra s3 --extra gs -o requirements/training.txt

generate: setup  ## JSON Schemas, AsyncAPI page, dashboards and README parts, from the code
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m deploy.grafana.overview
	$(BIN)/python -m worker.tools.readme

clean:  ## Remove the environment and what the demo made
	rm -rf .venv .demo
