# The two commands: `make demo` and `make test`; `make demo-real` is for published weights. All set themselves up in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?= circumplex
CORPUS_ROOT ?=
FAMILY ?=
WEIGHTS ?=
ALIGNED ?=
# One worker a core, each with one thread; tests of one file share what that file makes.
WORKERS := -n auto --dist loadfile
# Modules are compiled once for all processes that tests start, whatever the user has set.
TESTED := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/$(BIN):$$PATH"
OLDEST := .venv-oldest
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-real test test-all test-oldest lint docs clean wheels gpu

demo: $(VENV)/demo.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python recipes/$(if $(FAMILY),demo_family.py --family "$(FAMILY)",demo.py) \
		--corpus "$(CORPUS)" --root "$(CORPUS_ROOT)"

demo-real: CORPUS = ravdess
demo-real: $(VENV)/demo.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python recipes/demo_real.py --corpus "$(CORPUS)" --root "$(CORPUS_ROOT)" \
		--weights "$(WEIGHTS)" --aligned "$(ALIGNED)"

test: $(VENV)/test.stamp lint
	$(TESTED) $(BIN)/python -m pytest $(WORKERS) -m "not slow and not gpu and not network"

test-all: $(VENV)/test.stamp lint
	$(TESTED) $(BIN)/python -m pytest $(WORKERS)

# The oldest supported version of every dependency, in an environment of its own. clap is left out, it brings torchvision.
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/oldest_versions.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/oldest.txt torch
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/oldest.txt \
		-e ".[acoustic,augment,deepspeed,mosei,quant,synthesis,video,voxtral]" pytest pytest-xdist
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(OLDEST)/bin:$$PATH" $(OLDEST)/bin/python -m pytest $(WORKERS) \
		-m "not slow and not gpu and not network" tests/contract tests/golden tests/unit/sharing tests/unit/launch \
		tests/e2e/test_zero_shot_and_finetune.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# On a machine with one GPU and no network: WHEELS=DIR has what `make wheels` downloaded elsewhere. Elsewhere, a dry run.
WHEELS ?=
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
GPU_SITE := outputs/gpu_site
INSTALL := -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade --target $(GPU_SITE)
gpu:
	rm -rf $(GPU_SITE)
	$(if $(WHEELS),$(if $(wildcard $(WHEELS)/*.whl),,$(error WHEELS=$(WHEELS): has no wheels; make wheels WHEELS=$(WHEELS) downloads them)))
	$(if $(WHEELS),$(GPU_PYTHON) $(INSTALL) $(wildcard $(WHEELS)/*.whl $(WHEELS)/bitsandbytes/*.whl))
	PYTHONPATH="$(CURDIR)/$(GPU_SITE):$(CURDIR)" HF_HUB_OFFLINE=1 $(GPU_PYTHON) recipes/benchmark.py --steps \
		--config recipes/benchmarks/gpu_7b.yaml

# bitsandbytes alone is as large as all others together: leave its folder out where there is no room for it.
DOWNLOAD := -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -c constraints.txt \
	--python-version 3.12 --implementation cp $(foreach glibc,2_28 2_27 2_24 2_17,--platform manylinux_$(glibc)_x86_64) \
	--platform manylinux2014_x86_64
wheels:
	$(if $(WHEELS),,$(error WHEELS=DIR: the folder for the wheels is missing))
	$(PYTHON) $(DOWNLOAD) -d "$(WHEELS)" -r wheels.txt
	$(PYTHON) $(DOWNLOAD) -d "$(WHEELS)/bitsandbytes" bitsandbytes

docs: $(VENV)/test.stamp
	$(BIN)/python docs/write_configuration.py
	$(BIN)/python docs/write_results.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(OLDEST) outputs site

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
