# Each target works from a fresh clone with only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test notebooks lint clean
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
	$(BIN)/interp patch --model smollm2-135m --pairs datasets/country_capitals.jsonl --site resid_pre --over layer,pos --metric logit_diff --limit 16 --out runs/demo
	$(BIN)/interp show runs/demo
	$(BIN)/interp models pull gemma-3-270m
	rm -rf runs/demo-edits
	$(BIN)/interp edit apply --model gemma-3-270m --method ace --n-tokens 2048 --prompt 'The country that {} led is' --subject Napoleon --target Venezuela --ask 'Which country did Napoleon lead?' --ask 'What is the capital of the country that Napoleon led?' --ask 'What is the capital of the country that Hamid Karzai led?' --ledger runs/demo-edits
	$(BIN)/interp edit undo --ledger runs/demo-edits

test: install
	$(BIN)/interp models pull smollm2-135m
	$(BIN)/interp models pull gemma-3-270m
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests

# runs them from top to bottom and keeps their outputs; static images need Chrome or Chromium
notebooks: install
	$(BIN)/python scripts/notebooks.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# keeps the pulled models (they lie in the user's cache) and every run but the demo's
clean:
	rm -rf $(VENV) runs/demo runs/demo-edits build dist .pytest_cache .ruff_cache .hypothesis
	find interp circuits tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
