# The same targets locally and in CI. VENV may point anywhere; CI keeps it outside the checkout.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# What an environment was installed from: a change of recipe, pins or extras, or another checkout, installs again. An install
# takes away the stamps of others: the environment now runs this checkout's code, and theirs may be gone.
STAMP := $(VENV)/.installed-$(shell (cat Makefile pyproject.toml constraints.txt; pwd) | cksum | cut -d' ' -f1)

.PHONY: demo test lint bench eval dashboard clean

demo: $(STAMP)  ## install what is needed and run the main job on the bundled scene
	$(BIN)/sightflow demo --out demo-out

# Half of the time of the tests is waiting, for clusters and browsers, so two files of them run at a time: in the order they
# have, for the reordering would leave the longest, with few tests, to the end.
test: $(STAMP)-dev postgis chromium lint  ## everything a change must pass
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)-dev  ## figures as JSON, each with its baseline in the same run
	$(BIN)/python -m pytest -s -o python_files='bench_*.py' -o python_functions='bench_*' tests/benchmarks

eval: $(STAMP)-dev  ## how good the tracks are, beside the golden file; EVAL='--seeds 20', EVAL=--update
	$(BIN)/python -m tests.golden.evaluation $(EVAL)

dashboard: $(STAMP)
	$(BIN)/sightflow dashboard --store demo-out/store

.PHONY: postgis chromium
postgis chromium:
	sh tests/install_$@.sh

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip setuptools wheel

# sam2 builds against the torch that is installed, so torch comes first and build isolation is off for it alone.
$(STAMP): | $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	SAM2_BUILD_CUDA=0 $(BIN)/pip install -q -c constraints.txt --no-build-isolation sam2
	$(BIN)/pip install -q -c constraints.txt -e '.[video,serve,dashboard]'
	@rm -f $(VENV)/.installed-*
	@touch $@

$(STAMP)-dev: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[video,serve,dashboard,dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info demo-out sightflow-data eval-scenes .mypy_cache .ruff_cache .pytest_cache
