# Each target works from a fresh clone with only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NEWEST := .venv-newest
NEWEST_STAMP := $(NEWEST)/.installed
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.installed
NEWEST_TESTS := tests/interp/interventions tests/interp/model tests/interp/loading/test_loading.py tests/interp/loading/test_validation.py tests/interp/patching/test_patching.py tests/interp/forward/test_tails.py tests/interp/attribution/test_attribution_calls.py tests/circuits/editing/test_editing.py tests/test_doctor.py

# one room of each kind, with numbers in it and no real model
QUICK_TESTS := tests/test_house.py tests/test_options.py tests/test_early_refusals.py tests/interp/statistics tests/interp/results tests/interp/forward tests/interp/interventions/test_recording.py tests/interp/interventions/test_runs.py tests/interp/patching/test_metric_functions.py tests/interp/patching/test_patch_results.py tests/interp/attribution/test_path_patching.py tests/interp/attribution/test_logit_attribution.py tests/circuits/discovery/test_discovery.py tests/circuits/editing/test_solver.py tests/circuits/editing/test_neurons.py tests/circuits/emotion/test_emotion_components.py tests/circuits/recall_reasoning/test_recall_data.py
# comparisons in fp32 and bf16 of every method of the core
KERNEL_TESTS := tests/interp/attribution tests/interp/ablation tests/interp/forward tests/interp/patching/test_patched_answers.py tests/interp/loading/test_number_formats.py tests/circuits/query_value tests/circuits/editing/test_neurons.py tests/circuits/editing/test_trunk.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: install demo test quick test-kernels test-newest test-lowest models lint newcomer notebooks pages docs clean
.DELETE_ON_ERROR:

install: $(STAMP)

# torch by pip, which takes the build that the user's pip is set up for; uv has no part in that
# choice and would fetch the CUDA one. uv then keeps the torch it finds and is quicker at the rest.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("interp needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/interp models pull smollm2-135m
	$(BIN)/interp patch --model smollm2-135m --pairs country_capitals --site resid_pre --over layer,pos --metric logit_diff --limit 16 --out runs/demo
	$(BIN)/interp show runs/demo
	$(BIN)/interp models pull gemma-3-270m
	rm -rf runs/demo-edits
	$(BIN)/interp edit apply --model gemma-3-270m --method ace --n-tokens 2048 --fact 'The country that [Napoleon] led is [Venezuela]' --ask 'Which country did Napoleon lead?' --ask 'What is the capital of the country that Napoleon led?' --ask 'What is the capital of the country that Hamid Karzai led?' --ledger runs/demo-edits
	$(BIN)/interp edit undo --ledger runs/demo-edits

models: install
	$(BIN)/interp models pull smollm2-135m
	$(BIN)/interp models pull gemma-3-270m

test: models
	$(PYTEST) tests

quick: models
	$(PYTEST) $(QUICK_TESTS)

# as a processor without AVX-512 computes
test-kernels: models
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(KERNEL_TESTS)

# the newest and the lowest versions that pyproject.toml allows, beside the pinned ones: what pip
# gives a newcomer, and what an old environment has. torch alone stays pinned. Their own warnings
# of what will change are no errors.
$(NEWEST_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(shell grep '^torch==' constraints.txt) uv
	$(NEWEST)/bin/uv pip install --quiet --upgrade --python $(NEWEST)/bin/python -e '.[dev]' $(shell grep '^torch==' constraints.txt)
	@touch $@

$(LOWEST_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $(shell grep '^torch==' constraints.txt) uv
	$(LOWEST)/bin/uv pip install --quiet --resolution lowest-direct --python $(LOWEST)/bin/python -e '.[dev]' $(shell grep '^torch==' constraints.txt)
	@touch $@

test-newest: models $(NEWEST_STAMP)
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q -n 2 --dist worksteal -W default $(NEWEST_TESTS)

test-lowest: models $(LOWEST_STAMP)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n 2 --dist worksteal -W default $(NEWEST_TESTS)

# runs them from top to bottom and keeps their outputs; static images need Chrome or Chromium
notebooks: install
	$(BIN)/python scripts/notebooks.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The README in a fresh environment and an empty folder; minutes, and packages from the network.
newcomer:
	$(PYTHON) scripts/newcomer.py

# a page of every kind of result in a browser; needs Chromium and Node
pages: install
	$(BIN)/python scripts/look_at_pages.py

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	@touch $@

# keeps the pulled models (they lie in the user's cache) and every run but the demo's
clean:
	rm -rf $(VENV) $(NEWEST) $(LOWEST) runs/demo runs/demo-edits build dist site .pytest_cache .ruff_cache .hypothesis
	find interp circuits tests benchmarks datasets scripts -type d -name __pycache__ -prune -exec rm -rf {} +
