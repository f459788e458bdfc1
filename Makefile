# The two commands: `make demo` and `make test`. Both set themselves up in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?= circumplex
CORPUS_ROOT ?=
FAMILY ?=
# One worker a core, each with one thread; tests of one file share what that file makes.
WORKERS := -n auto --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint docs clean

demo: $(VENV)/demo.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python recipes/$(if $(FAMILY),demo_family.py --family "$(FAMILY)",demo.py) \
		--corpus "$(CORPUS)" --root "$(CORPUS_ROOT)"

test: $(VENV)/test.stamp lint
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(WORKERS) -m "not slow and not gpu and not network"

test-all: $(VENV)/test.stamp lint
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(WORKERS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/test.stamp
	$(BIN)/python docs/write_configuration.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) outputs site

# torch first and pinned: what follows must not choose another build of it.
$(VENV)/torch.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) -e ".[acoustic,synthesis]"
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) -e ".[augment,deepspeed,mosei,quant,video,dev]"
	touch $@
