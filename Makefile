# `make demo` and `make test` are all a newcomer needs: both make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
TORCH := .venv-torch
TORCH_VERSION := 2.13.0

.PHONY: demo test test-slow test-latest test-torch bench bench-quick check format install clean

demo: install  ## the main job on a small network and real digits, with INC
	$(BIN)/quantize demo --output build/demo

test: install  ## the tests, real data and long ones left out
	$(BIN)/python -m pytest -m "not slow" -n 2 -q

test-slow: install  ## the long tests on real data
	$(BIN)/python -m pytest -m slow -n 2 -q

test-latest: $(LATEST)/.made  ## the same tests with the newest onnx, onnxruntime, numpy 2, no INC
	$(LATEST)/bin/python -m pytest -m "not slow and not inc" -n 2 -q

test-torch: $(TORCH)/.made  ## what needs PyTorch, in an environment of its own
	$(TORCH)/bin/python -m pytest -m "not slow" -q tests/test_conversion_torch.py

bench: install  ## an hour, alone on two cores: the peers too, each in an environment of its own
	$(BIN)/python -m benchmarks $(BENCH)

bench-quick: install  ## minutes: whether all of it runs, not how fast
	$(BIN)/python -m benchmarks --quick --output build/bench-quick $(BENCH)

check: install  ## what CI asks of the source
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x scripts/*.sh

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.made

$(VENV)/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "make: $(PYTHON) is not Python 3.11 to 3.13; say which is: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[inc,mlflow,dev]' --constraint constraints.txt
	touch $@

$(LATEST)/.made: pyproject.toml
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[dev]'
	touch $@

$(TORCH)/.made: pyproject.toml
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,torch]' torch==$(TORCH_VERSION) --constraint constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(LATEST) $(TORCH) build
