# `make` prints these. Needs Python 3.11 or newer, git and make; nothing else.
PYTHON ?= python3
BIN := .venv/bin
# What decides over versions. The oldest ones (with uv): make install VERSIONS="--resolution lowest-direct"
VERSIONS ?= --constraint constraints.txt
# Processes that run tests side by side, with one thread each. For example: make test WORKERS=4
WORKERS ?= 2
# Tests start some hundred processes: compiled anew in each, what they import would take twice as long.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup
RUN ?= runs/quickstart
# For example: make quickstart GAN="stage/perceptual=vgg19"
PSNR ?=
GAN ?=
# For example: make miniature PHOTOGRAPHS=my/photos MINIATURE="--vgg vgg19.pth --seeds 0 1 2"
PHOTOGRAPHS ?=
MINIATURE ?=

# For example: make fuzz CASES=5000 SEED=1 FUZZ="--kind weights"
CASES ?= 2000
SEED ?= 0
FUZZ ?=

.PHONY: help install check test fuzz lint wheel docs quickstart notebooks miniature clean

help: ## print these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with everything, in the versions that are tested together

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	# uv installs in a minute what takes pip seven; where uv cannot (a proxy only pip knows of), pip does it.
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode $(VERSIONS) --editable '.[test]' \
		|| $(BIN)/python -m pip install $(VERSIONS) --editable '.[test]'
	@touch $@

check: lint ## before each commit: lint, types and the fast tests, in under two minutes on two cores
	$(PYTEST) -m "not slow"

test: install ## all tests
	$(PYTEST)

fuzz: install ## try hostile files by the thousand: make fuzz CASES=5000 SEED=1
	$(BIN)/python tests/fuzz/fuzzing.py --cases $(CASES) --seed $(SEED) $(FUZZ)

lint: install ## ruff and basedpyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

wheel: install ## source distribution and wheel, in dist/
	$(BIN)/python -m build --no-isolation

docs: install ## the site, in site/; fails at any warning and at any broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

quickstart: install ## train a small network of each stage in minutes and compare them
	$(BIN)/esrgan-train +experiment=quickstart_psnr hydra.run.dir=$(RUN)/psnr $(PSNR)
	$(BIN)/esrgan-train +experiment=quickstart_gan stage.start_from=$(RUN)/psnr/checkpoints/last.ckpt hydra.run.dir=$(RUN)/gan $(GAN)
	$(BIN)/esrgan-compare $(RUN)/psnr/checkpoints/last.ckpt $(RUN)/gan/checkpoints/last.ckpt --output $(RUN)

notebooks: install ## execute the notebooks with the quickstart's networks and keep their outputs in them
	$(BIN)/python notebooks/execute.py

miniature: install ## judge the paper's claims on small networks, in an hour: make miniature PHOTOGRAPHS=FOLDER
	@test -n "$(PHOTOGRAPHS)" || { echo "Name a folder with 16 photographs or more: make miniature PHOTOGRAPHS=FOLDER"; exit 2; }
	$(BIN)/python benchmarks/paper_in_miniature.py --photographs $(PHOTOGRAPHS) --output runs/miniature $(MINIATURE)

clean: ## remove what `make` made, but for runs/
	rm -rf .venv build dist site
