# One virtual environment, .venv, is made and kept up to date as needed; nothing else is touched.

VENV := .venv
BIN := $(VENV)/bin
# Twice quiet: errors only.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# More arguments for pytest or the benchmarks: make test ARGS="-k layout"
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all fuzz browser lint bench peers docs models clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.models ## install, compile a small network, run it encrypted and print its accuracy
	@sh scripts/demo

test: lint browser ## lint and the usual tests, as many at a time as there are cores
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

# Those at 128-bit one after another, as each takes gigabytes of memory and all cores; the others of one core meanwhile.
# Four times as many examples of property tests as in the usual run are drawn in both; GLYPHC_EXAMPLES=1 draws all of them.
test-all: export GLYPHC_EXAMPLES ?= 0.4
test-all: test ## the same, then the slow tests: encrypted runs at 128-bit
	$(BIN)/python -m pytest -m slow --numprocesses auto --dist loadgroup --durations=20 $(ARGS)

# Goes on where it stopped, with its counters and failures in .fuzz: make fuzz ARGS="--minutes 60 --processes 4".
fuzz: $(VENV)/.dev ## feed random hostile files to every reader and the passes, for an hour
	nice $(BIN)/python -W ignore -m tests.fuzz $(ARGS)

browser: ## find Chromium for the tests of the HTML report, or install it (root, apt)
	@sh scripts/chromium

lint: $(VENV)/.dev ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.models ## run the benchmarks
	$(BIN)/python benchmarks/run.py $(ARGS)

# Where OpenFHE's headers come from, with which what HEIR writes is compiled.
OPENFHE_SOURCE ?= https://github.com/openfheorg/openfhe-development
CEREAL_SOURCE ?= https://github.com/openfheorg/cereal

# Each in an environment of its own; together they take some 7 GB of disk. HEIR is left out where it cannot be compiled.
peers: $(VENV)/.models .peers/concrete-ml/.made .peers/tenseal/.made .peers/heir/.made ## glyphc beside Concrete ML, HEIR and TenSEAL on one network
	-@test -e .peers/heir/headers/.made || \
	(sh benchmarks/peers/heir-headers .peers/heir/headers $(OPENFHE_SOURCE) $(CEREAL_SOURCE) && touch .peers/heir/headers/.made)
	$(BIN)/python benchmarks/peers/run.py $(ARGS)

docs: $(VENV)/.dev ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

models: $(VENV)/.train-models ## train the networks of models/ again
	$(BIN)/python models/digits_mlp.py
	$(BIN)/python models/breast_cancer_mlp.py
	$(BIN)/python models/mnist_mlp.py
	$(BIN)/python models/mnist_lenet.py
	$(BIN)/python models/digits_resnet.py
	$(BIN)/python models/shapes_resnet.py
	$(BIN)/python models/elnino_cnn.py
	$(BIN)/python models/digits_backbone.py

clean: ## delete the virtual environment, the build folders and all caches
	rm -rf $(VENV) .peers build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@python=$$(sh scripts/find-python) && \
	echo "Making $(VENV) with $$python" && \
	"$$python" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.models: $(VENV)/.created pyproject.toml
	@echo "Installing glyphc into $(VENV)"
	@$(PIP) --editable '.[models]'
	@touch $@

$(VENV)/.train-models: $(VENV)/.models
	@echo "Installing what training needs into $(VENV)"
	@$(PIP) --editable '.[train-models]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml
	@echo "Installing glyphc and its development tools into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@

.peers/%/.made: benchmarks/peers/%.txt $(VENV)/.created
	@echo "Making .peers/$*"
	@$(BIN)/python -m venv --clear .peers/$*
	@.peers/$*/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@
