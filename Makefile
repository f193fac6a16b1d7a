PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Two processes, whole files each: half of the time is tracing, on one core.
PYTEST = $(BIN)/pytest -q -n 2 --dist loadfile -m "not slow"

# Quiet by default: TensorFlow's start-up notes are not about this project.
export TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_ENABLE_ONEDNN_OPTS ?= 0

.PHONY: help quickstart arm test test-all lint architectures overhead clean package

help:
	@echo "make quickstart   train, compress, export and verify a CNN on the digits"
	@echo "make arm          set up AArch64 under QEMU (about 100 MB, in ~/.cache)"
	@echo "make test         lint, types, doctests and tests, against the installed package"
	@echo "make test-all     the tests, with those that take minutes each"
	@echo "make architectures  every architecture, all columns; continues docs/architectures.json"
	@echo "make overhead     time a training step with and without quantizers"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (TensorFlow is large: some minutes) ..."
	$(INSTALL) ".[quickstart]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (TensorFlow is large: some minutes) ..."
	$(INSTALL) ".[dev]"
	@touch $@

# Tests and examples run against the installed package, not the source tree.
package:
	@rm -rf build  # Setuptools would pack files that are gone from the source.
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .

quickstart: $(VENV)/.quickstart package
	$(BIN)/python examples/quickstart.py

# Once; the tests that need it are skipped without it, with this as the reason.
arm: $(VENV)/.dev package
	$(BIN)/python -m tflite_export.arm

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/.dev package lint
	KERAS_BACKEND=jax $(PYTEST) tests/codeq_keras/ops/test_functions.py tests/codeq_keras/test_model.py \
		"tests/codeq_keras/callbacks/test_budget.py::test_budget_is_met_under_any_optimizer"
	$(PYTEST) tests --pyargs codeq_keras tflite_export

test-all: $(VENV)/.dev package
	$(BIN)/pytest -q tests --pyargs codeq_keras tflite_export

architectures: $(VENV)/.dev package
	PYTHONPATH=tests $(BIN)/python tests/architectures/run.py

overhead: $(VENV)/.dev package
	$(BIN)/python benchmarks training_time

clean:
	rm -rf $(VENV) build dist *.egg-info artifacts
