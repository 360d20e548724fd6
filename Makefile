# `make help` lists the targets. Each sets up what it needs, in .venv, from nothing but python3 (3.11 or newer), make and a package registry.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow sync test-notebooks test-fast test-arithmetic notebooks export lab clean

# The first Python that is new enough; `make PYTHON=/path/to/python ...` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PY := .venv/bin/python
STAMP := .venv/.ready
UNFINISHED := .venv/.unfinished
SHAPES := data/shapes/.complete
# Two processes of one thread each use two cores better than one process of two threads; PyTorch alone would start a thread per core in each.
WORKERS ?= 2
LIMIT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# An environment that no longer starts, or was made for a checkout at another place, does not count as ready.
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell [ ! -e $(UNFINISHED) ] && [ "$$(cat $(STAMP))" = "$$(pwd -P)" ] && $(PY) -c 'import pip' 2>/dev/null && echo ready),ready)
$(shell mv -f $(STAMP) $(UNFINISHED))
endif
endif

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'

# .unfinished marks an environment that is being made. Found here, it means that pip was killed half-way: start again from nothing.
# A pip that fails by itself (no network, say) leaves the environment as it was.
$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed; none of python3, python3.13, python3.12, python3.11 is." >&2; exit 1; fi
	@if [ -e $(UNFINISHED) ] || ! $(PY) -c 'import pip' 2>/dev/null; then rm -rf .venv && $(PYTHON) -m venv .venv; fi
	@touch $(UNFINISHED)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[notebooks,dev]' || { rm -f $(UNFINISHED); exit 1; }
	@$(PY) -c 'import torch, numpy, nbdev.export, papermill, pytest, memdpc'
	@pwd -P > $(UNFINISHED) && mv $(UNFINISHED) $@

# ---- the demo

$(SHAPES): memdpc/shapes.py | $(STAMP)
	rm -rf $(@D)
	$(PY) -m memdpc shapes --out $(@D)
	@touch $@

demo: $(STAMP) $(SHAPES)  ## pretrain on the embedded dataset and compare with the baselines (minutes; writes runs/demo)
	rm -rf runs/demo && mkdir -p runs/demo
	$(PY) -m papermill --log-output --no-progress-bar nbs/runs/pretrain.ipynb runs/demo/pretrain.ipynb \
		-p preset demo -p root data/shapes -p out runs/demo
	@# the table at the end:
	$(PY) -c "from memdpc.evaluation.retrieve import report; report('runs/demo')"

# ---- tests

test: sync test-notebooks test-fast  ## notebooks and library agree, every notebook runs, the fast tests pass

sync: $(STAMP)
	$(PY) .ci/sync.py

# nbs/runs/ has a file .notest, so nbdev_test leaves it out: tests/ runs those through papermill.
test-notebooks: $(STAMP)
	MPLBACKEND=agg $(LIMIT) .venv/bin/nbdev_test --n_workers $(WORKERS) --do_print --timing

test-fast: $(STAMP)
	$(LIMIT) $(PY) -m pytest -m "not slow" -n $(WORKERS) --dist loadgroup --durations 10

test-slow: $(STAMP)  ## kills, processes, long property tests, real installs
	$(LIMIT) $(PY) -m pytest -m "slow and not alone" -n $(WORKERS) --dist loadgroup --durations 10
	$(LIMIT) $(PY) -m pytest -m alone
	$(PY) .ci/arithmetic.py --only-training

# Another processor rounds otherwise, and a training run amplifies that.
test-arithmetic: $(STAMP)  ## every lesson and all that trains, computed as other processors compute (half an hour)
	$(PY) .ci/arithmetic.py

# ---- notebooks

notebooks: $(STAMP)  ## execute every notebook in place, clean, export
	$(LIMIT) $(PY) .ci/execute.py --workers $(WORKERS)
	@$(MAKE) export

export: $(STAMP)  ## clean the notebooks and write the library from them
	.venv/bin/nbdev_clean
	.venv/bin/nbdev_export

# make LAB=--no-browser lab
lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab $(LAB) nbs/index.ipynb

clean:  ## remove .venv and everything that runs and tools wrote
	rm -rf .venv runs data build dist _docs _proc .pytest_cache .hypothesis *.egg-info
	find nbs memdpc tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
