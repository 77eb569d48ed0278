# make train   sets up .venv and trains on real digits: BP, layer-wise and SGR side by side
# make test    sets up .venv, builds everything and runs every check
# make docs    builds the documentation in build/docs/html; a warning is an error
# make results-quick  a small version of the first table of docs/results.md, in about ten minutes on two cores, with
#              CIFAR-10 downloaded into the folder data, or DATA=npz:FILE in its place
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD_TOOLS := setuptools wheel cmake ninja pybind11 torch

.PHONY: install train test docs results-quick lint clean

install: $(VENV)/installed

# The version is compiled in: a library that was built for another one is not used.
BUILT_FROM := sgr_kernels/_version.py setup.py CMakeLists.txt $(wildcard cmake/* csrc/* csrc/*/*)

$(VENV)/installed: pyproject.toml constraints.txt $(BUILT_FROM)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt $(BUILD_TOOLS)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

train: install
	$(BIN)/sgr-train compare

QUICK := runs/results-quick
CIFAR = from torchvision.datasets import CIFAR10; CIFAR10("data", download=True)

results-quick: install
	$(if $(DATA),,$(BIN)/python -c '$(CIFAR)')
	$(BIN)/python -m sgr_bench.training run quick --work $(QUICK) --out $(QUICK) --jobs 2 $(if $(DATA),--data $(DATA))

# One thread for each of the two workers: together they would take each other's core, and wait for it.
test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

docs: install
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html -d build/docs/doctrees docs build/docs/html

lint: install
	$(BIN)/ruff check .

clean:
	rm -rf build dist *.egg-info $(VENV)/installed sgr_kernels/*.so
