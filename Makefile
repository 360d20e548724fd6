# `make help` lists the targets. Each sets up what it needs, in .venv, from nothing but python3
# (3.11 or newer), make and a package registry.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types sync test-notebooks test-fast test-arithmetic soak
.PHONY: notebooks export lab wheel clean

# The first Python that is new enough; `make PYTHON=/path/to/python ...` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; \
	done)
PY := .venv/bin/python
STAMP := .venv/.ready
UNFINISHED := .venv/.unfinished
SHAPES := data/shapes/.complete
CODE := nbs memdpc tests .ci setup.py
# Two processes of one thread each use two cores better than one process of two threads; PyTorch
# alone would start a thread per core in each.
WORKERS ?= 2
LIMIT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# An environment that no longer starts, or was made for a checkout at another place, does not count
# as ready.
ifneq ($(wildcard $(STAMP)),)
READY = [ ! -e $(UNFINISHED) ] && [ "$$(cat $(STAMP))" = "$$(pwd -P)" ] && $(PY) -c 'import pip'
ifneq ($(shell { $(READY); } 2>/dev/null && echo ready),ready)
$(shell mv -f $(STAMP) $(UNFINISHED))
endif
endif

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' \
		| awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'

# .unfinished marks an environment that is being made. Found here, it means that pip was killed
# half-way: start again from nothing. A pip that fails by itself (no network, say) leaves the
# environment as it was.
$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed; none was found on the path." >&2; exit 1; fi
	@if [ -e $(UNFINISHED) ] || ! $(PY) -c 'import pip' 2>/dev/null; then \
		rm -rf .venv && $(PYTHON) -m venv .venv; fi
	@touch $(UNFINISHED)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[notebooks,dev]' \
		|| { rm -f $(UNFINISHED); exit 1; }
	@$(PY) -c 'import torch, numpy, nbdev.export, papermill, pytest, memdpc'
	@pwd -P > $(UNFINISHED) && mv $(UNFINISHED) $@

# ---- the demo

$(SHAPES): memdpc/data/shapes.py | $(STAMP)
	rm -rf $(@D)
	$(PY) -m memdpc shapes --out $(@D)
	@touch $@

# The command line trains, for it shows how far it is. The notebook finds the finished run, draws it
# and measures; what papermill says is shown where it fails.
DEMO := runs/demo
demo: $(STAMP) $(SHAPES)  ## pretrain on the embedded dataset, compare with the baselines (minutes)
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@echo "pretraining, a few minutes"
	@$(PY) -m memdpc pretrain --preset demo --root data/shapes --out $(DEMO) > $(DEMO)/pretrain.txt
	@echo "comparing with the baselines, about a minute"
	@$(PY) -m papermill --no-progress-bar nbs/runs/pretrain.ipynb $(DEMO)/pretrain.ipynb \
		-p preset demo -p root data/shapes -p out $(DEMO) -p resume True \
		> $(DEMO)/papermill.log 2>&1 || { tail -n 5 $(DEMO)/papermill.log >&2; exit 1; }
	@$(PY) -m memdpc retrieve --checkpoint $(DEMO) --root data/shapes --out $(DEMO) \
		--readout std > $(DEMO)/retrieve.txt
	@echo
	@$(PY) -c "from memdpc.evaluation.retrieve import print_comparison as p; p('$(DEMO)')"
	@echo
	@echo "picture   $(DEMO)/figures/retrieved.png: test videos and their nearest neighbours"
	@echo "notebook  $(DEMO)/pretrain.ipynb: this run, its loss and its table"
	@echo "next      make lab opens the lessons; README.md has the commands for your own videos"

# ---- tests

test: lint types sync test-notebooks test-fast  ## all that must pass before a change lands

lint: $(STAMP)  ## format and style of notebooks, library and tests
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/ruff check $(CODE)

types: $(STAMP)  ## what a type checker sees of the public surface
	$(PY) -m pyright --pythonpath $(PY)

sync: $(STAMP)
	$(PY) .ci/sync.py

# nbs/runs/ has a file .notest, so nbdev_test leaves it out: tests/ runs those through papermill.
test-notebooks: $(STAMP)
	MPLBACKEND=agg $(LIMIT) .venv/bin/nbdev_test --n_workers $(WORKERS) --do_print --timing

# make test-fast T=tests/method, or T=tests/method/test_golden.py
test-fast: $(STAMP)  ## the fast tests; T=tests/method runs a part of them
	$(LIMIT) $(PY) -m pytest -m "not slow" -n $(WORKERS) --dist loadgroup --durations 10 $(T)

test-slow: $(STAMP)  ## kills, processes, long property tests, real installs
	$(LIMIT) $(PY) -m pytest -m "slow and not alone" -n $(WORKERS) --dist loadgroup --durations 10
	$(LIMIT) $(PY) -m pytest -m alone
	$(PY) .ci/arithmetic.py --only-training

# make MINUTES=60 soak
MINUTES ?= 20
soak: $(STAMP)  ## send runs signals of all kinds for twenty minutes; each must end bit for bit
	MEMDPC_SOAK_MINUTES=$(MINUTES) $(LIMIT) $(PY) -m pytest -s -m slow tests/training/test_kills.py -k soak

# Another processor rounds otherwise, and a training run amplifies that.
test-arithmetic: $(STAMP)  ## all that trains, computed as other processors compute (half an hour)
	$(PY) .ci/arithmetic.py

# ---- notebooks

notebooks: $(STAMP)  ## execute every notebook in place, then export
	$(LIMIT) $(PY) .ci/execute.py --workers $(WORKERS)
	@$(MAKE) export

# .ci/sync.py does the same to a copy.
export: $(STAMP)  ## clean and format the notebooks, and write the library from them
	.venv/bin/ruff format --quiet nbs
	.venv/bin/nbdev_clean
	.venv/bin/nbdev_export
	.venv/bin/ruff check --quiet --select I --fix memdpc
	.venv/bin/ruff format --quiet memdpc

# make LAB=--no-browser lab
lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab $(LAB) nbs/index.ipynb

wheel: $(STAMP)  ## build dist/memdpc-VERSION-py3-none-any.whl
	$(PY) -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .

clean:  ## remove .venv and everything that runs and tools wrote
	rm -rf .venv runs data build dist _docs _proc *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find nbs memdpc tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
