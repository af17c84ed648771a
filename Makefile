# The README's commands. `make quickstart` needs Python 3.11 or newer, git and make; nothing else.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/quickstart
# For example: make quickstart GAN="stage/perceptual=vgg19"
PSNR ?=
GAN ?=
# For example: make miniature PHOTOGRAPHS=my/photos MINIATURE="--vgg vgg19.pth --seeds 0 1 2"
PHOTOGRAPHS ?=
MINIATURE ?=

.PHONY: install quickstart notebooks miniature test lint wheel clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	# uv installs in a minute what takes pip seven; where uv cannot (a proxy only pip knows of), pip does it.
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[test]' \
		|| $(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	@touch $@

quickstart: install
	$(BIN)/esrgan-train +experiment=quickstart_psnr hydra.run.dir=$(RUN)/psnr $(PSNR)
	$(BIN)/esrgan-train +experiment=quickstart_gan stage.start_from=$(RUN)/psnr/checkpoints/last.ckpt hydra.run.dir=$(RUN)/gan $(GAN)
	$(BIN)/esrgan-compare $(RUN)/psnr/checkpoints/last.ckpt $(RUN)/gan/checkpoints/last.ckpt --output $(RUN)

# Executes them with the networks of `make quickstart`, and keeps their outputs in them.
notebooks: install
	$(BIN)/python notebooks/execute.py

miniature: install
	@test -n "$(PHOTOGRAPHS)" || { echo "Name a folder with 16 photographs or more: make miniature PHOTOGRAPHS=FOLDER"; exit 2; }
	$(BIN)/python benchmarks/paper_in_miniature.py --photographs $(PHOTOGRAPHS) --output runs/miniature $(MINIATURE)

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

clean:
	rm -rf .venv build dist
