# `make demo` and `make test` are the only set-up: each builds .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two at a time, file by file, because half of a test on Ray is waiting for processes to start. With one thread each: of
# more than there are cores, each waits for the others in a loop.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test test-faults test-slow test-all lint format schemas docs bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(INSTALLED) ## Build .venv with everything the job, the demo and the tests need

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED) ## Explain 40 real photos and look at the result (about two minutes)
	$(BIN)/finer-ray demo demo_export

test: $(INSTALLED) ## Run the tests, all but those of the next two (five minutes on 2 cores)
	$(PYTEST) -m "not faults and not slow"

test-faults: $(INSTALLED) ## Kill processes, lose nodes, fail stores, fill disks, fuzz
	$(PYTEST) -m faults

test-slow: $(INSTALLED) ## Train, draw, browse the report, run the demo, notebooks, every command of the docs, benchmarks in miniature
	$(PYTEST) -m "slow and not faults"

# The last two together, so that neither process waits for the other twice.
test-all: test ## Run all of them
	$(PYTEST) -m "faults or slow"

lint: $(INSTALLED) ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: $(INSTALLED) ## Write schemas/ anew from the code
	$(BIN)/finer-ray schema schemas

docs: $(INSTALLED) ## Build the documentation as a site, in .site
	$(BIN)/python -m mkdocs build --strict --quiet

bench: $(INSTALLED) ## Run the benchmarks: tables on the screen, JSON beside them
	set -e; for file in benchmarks/bench_*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py); done

clean: ## Remove .venv and what the demo wrote
	rm -rf $(VENV) demo_export demo_export.log .site
