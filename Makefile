# The two commands of a fresh machine: make demo, make test. Both do all set-up.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# stock fairseq 0.12.2 needs an older Python, and a pip that still reads its old dependencies' metadata
LEGACY := .venv-legacy
PYTHON310 ?= $(shell for p in python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null && echo $$p && break; done)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# threads that wait for others must not keep a core busy: beside other work that makes training and tests 3 times slower
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup lint test test-legacy proofs docs demo benchmarks clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## virtual environment with everything
	@:

$(VENV)/.done: setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found: install one (apt install python3.11), or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version); this takes a few minutes once."
	@$(PYTHON) -m venv $(VENV)
	@{ $(BIN)/pip install -c constraints.txt torch && $(BIN)/pip install -c constraints.txt -e '.[dev]'; } \
		> $(VENV)/setup.log 2>&1 || { tail -n 15 $(VENV)/setup.log >&2; echo "error: set-up failed; all of it: $(VENV)/setup.log" >&2; exit 1; }
	@touch $@

lint: setup ## ruff, and type hints by mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup lint ## tests; real recordings from the folder in ECG_DATA
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

$(LEGACY)/.done: setup.py constraints-legacy.txt
	@test -n "$(PYTHON310)" || { echo "error: no Python 3.10 found: install one, or name it: make test-legacy PYTHON310=/path/to/python3.10" >&2; exit 1; }
	@echo "Setting up $(LEGACY) with $$($(PYTHON310) --version): 5 GB, as there is only a CUDA build of this torch."
	$(PYTHON310) -m venv $(LEGACY)
	$(LEGACY)/bin/pip install --quiet 'pip<24.1'
	$(LEGACY)/bin/pip install --quiet -c constraints-legacy.txt -e '.[train]' pytest
	@touch $@

test-legacy: $(LEGACY)/.done ## tests with stock fairseq 0.12.2 on Python 3.10, in an environment of its own
	$(LEGACY)/bin/python -m pytest tests/legacy

proofs: setup ## longer tests
	$(BIN)/python -m pytest -m slow -s

docs: setup ## documentation as a site in site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

demo: setup ## simulate (or DATA=folder of WFDB records), prepare, split, verify, pretrain, draw the loss curve
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo/run.sh

benchmarks: setup ## all of them, into benchmarks/results; takes two to four hours
	$(BIN)/python benchmarks/preparation.py --out benchmarks/results/preparation.md
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results/scaling.md
	$(BIN)/python benchmarks/loading.py --out benchmarks/results/loading.md
	$(BIN)/python benchmarks/training.py --out benchmarks/results/training.md
	$(BIN)/python benchmarks/training.py --compare --pairs 4 --updates 3 --out benchmarks/results/training_switches.md
	$(BIN)/python benchmarks/training.py --compare --config tiny --pairs 16 --updates 10 \
		--out benchmarks/results/training_switches_tiny.md
	$(BIN)/python benchmarks/fast_learning.py --seeds 1 2 3 --runs fast --out benchmarks/results/fast_learning.md
	$(BIN)/python benchmarks/many_gpus.py --out benchmarks/results/many_gpus.md
	$(BIN)/python benchmarks/operations.py --out benchmarks/results/operations.md
	$(BIN)/python benchmarks/bootstrap.py --out benchmarks/results/bootstrap.md
	$(BIN)/python benchmarks/recipes.py --seconds 90 --out benchmarks/results/recipes.md
	$(BIN)/python benchmarks/objectives.py --out benchmarks/results/objectives.md
	$(BIN)/python benchmarks/inference.py --seconds 8 --out benchmarks/results/inference.md
	$(BIN)/python benchmarks/exporting.py --out benchmarks/results/exporting.md

clean: ## remove the environments, the site and the demo's output
	rm -rf $(VENV) $(LEGACY) runs site *.egg-info
