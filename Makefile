# `make demo` or `make test` in a fresh clone is enough: each makes .venv, installs and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a test process: two processes of two threads each on two cores are slower by far.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test lint paper install clean

demo: install
	$(BIN)/adaeagle demo

test: install
	$(TEST_ENV) $(BIN)/python -m pytest -n auto -m "not slow and not gpu and not hub"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/words.py

# The six tasks of the EAGLE papers on SmolLM2, hours long and resumed by the same command. PROMPTS is
# the folder eagle/data of https://github.com/SafeAILab/EAGLE.
paper: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,gguf]"
	$(BIN)/adaeagle fetch smollm2
	$(BIN)/python -m experiments.smollm2.paper --prompts "$(PROMPTS)" --out runs/paper

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
