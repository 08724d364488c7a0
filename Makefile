# `make demo` shows it working, `make test` proves it. Both set up their own environment first.

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# How many processes run the tests; they share the engines. 0: this one alone, for a debugger.
JOBS   ?= 2
# elasticsearch or opensearch
ENGINE ?=
# local (started here) or docker
ENGINES ?= local
PACKAGES := engines mappings encoders ingest query evaluation workers serving

.PHONY: help setup demo test lint types check bench bench-live bench-sizes bench-verify bench-gate bench-reindex bench-search bench-relevance simulate chaos table clean

help: ## Show this.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## Set up the virtual environment, with everything.

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "knnex needs Python 3.11 or later; none found. Set PYTHON=/path/to/python3." >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (torch alone is some gigabytes: minutes, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mkdir -p $(VENV)/typing && ln -sfn "$(CURDIR)" $(VENV)/typing/knnex
	@touch $@

demo: $(READY) ## Search Python's own documentation by meaning. ENGINE=opensearch for the other engine.
	@$(BIN)/python examples/stdlib_search/demo.py $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

test: $(READY) ## Run the whole suite against real engines. ENGINES=docker takes them from Docker.
	@KNNEX_TEST_ENGINES=$(ENGINES) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## Check style.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY) ## Check types.
	@MYPYPATH=$(VENV)/typing $(BIN)/mypy $(PACKAGES:%=-p knnex.%) -m knnex -m knnex.cli -m knnex.client

check: lint types test ## Everything CI runs.

bench: $(READY) ## Measure documents per second, side by side; figures go to benchmarks/results/.
	@$(BIN)/python benchmarks/ingest.py $(ARGS)

bench-live: $(READY) ## Measure what log and worker cost, an unchanged corpus, and freshness.
	@$(BIN)/python benchmarks/live.py $(ARGS)

bench-sizes: $(READY) ## Weigh vectors at every level of quantization, beside the estimate.
	@$(BIN)/python benchmarks/sizes.py $(ARGS)

bench-verify: $(READY) ## Inject faults into 100,000 documents, and count what the audit finds.
	@$(BIN)/python benchmarks/verify.py $(ARGS)

bench-gate: $(READY) ## Hold versions of one corpus against each other on real judgments.
	@$(BIN)/python benchmarks/gate.py $(ARGS)

bench-reindex: $(READY) ## Build new versions under fire: what is lost, who waits, how fast. ARGS="--only others --runs 20"
	@$(BIN)/python benchmarks/reindexing.py $(ARGS)

bench-search: $(READY) ## Measure searching: what a client adds, recall beside latency, the parts of a question in words.
	@$(BIN)/python benchmarks/search.py $(ARGS)

bench-relevance: $(READY) ## Measure nDCG on real judgments, by words, by meaning and by both, on both engines.
	@$(BIN)/python benchmarks/relevance.py $(ARGS)

simulate: $(READY) ## Drive the worker's code through 100,000 seeded schedules; minutes.
	@$(BIN)/python benchmarks/simulate.py $(ARGS)

chaos: $(READY) ## Kill workers, servers and connections at full size. ARGS="--size small --only soak" for a part.
	@$(BIN)/python benchmarks/chaos $(ARGS)

table: $(READY) ## Write the README's table of what works on which engine, from the suite's marks.
	@$(BIN)/python -m pytest --collect-only -q --support-table=$(VENV)/table.md >/dev/null
	@$(BIN)/python -c "import re, pathlib as p; r = p.Path('README.md'); t = p.Path('$(VENV)/table.md').read_text(); \
	r.write_text(re.sub(r'(<!-- support table[^>]*-->\n).*?(<!-- end -->)', lambda m: m[1] + t + m[2], r.read_text(), flags=re.S))"

clean: ## Remove the virtual environment and what the demo left behind.
	@test ! -x $(BIN)/knnex || $(BIN)/knnex down
	rm -rf $(VENV) .knnex build dist *.egg-info
