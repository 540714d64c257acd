# Two commands need nothing but Python 3.11 or newer, pip and make: `make demo` and `make test`. The first one installs into .venv.
PYTHON ?= python3
SEED ?= 0
ARGS ?= # further settings of both trainings of the demo: make demo ARGS=debug=fast

BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/.tools
DEMO := outputs/demo
ALIKE := score_threshold=0.01 nms_iou=0.45 nms=hard candidates_per_class=400 max_detections=200

.PHONY: help demo demo-yolov2 demo-ssd test mutants lint types coverage compatibility release docs clean

help:
	@echo "make demo    train YOLOv2 and SSD side by side on generated shapes, evaluate and compare them (SEED=0): minutes on two cores"
	@echo "make test    the plain tests: on the CPU, offline"
	@echo "make mutants plants one-line mistakes and runs the tests that must notice them (PART=losses: only these): a quarter of an hour"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy: all but training, config and commands; a program that uses the public names"
	@echo "make coverage   the plain tests again, and which lines none of them reaches: build/coverage"
	@echo "make compatibility   other Pythons, and the lowest versions that pyproject.toml allows, in environments of their own: an hour"
	@echo "make release    the wheel and the source distribution, checked: build/dist"
	@echo "make docs    the documentation as pages for a browser, with pictures: build/site/index.html"
	@echo "make clean   remove .venv and what runs and tools made, but no outputs"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "installing into .venv, once; it takes some minutes ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(TOOLS): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	@touch $@

demo: $(READY)
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@echo "training YOLOv2 and SSD side by side, one core each: two to three minutes (tail -f $(DEMO)/*.log shows how it goes)"
	@$(MAKE) --no-print-directory --jobs=2 demo-yolov2 demo-ssd
	@$(BIN)/python -m detectors compare $(DEMO)/yolov2 $(DEMO)/ssd --output $(DEMO)/comparison
	@echo "curves and pictures: $(BIN)/tensorboard --logdir $(DEMO)"

# Each writes its own log, shown when it has ended, but for the lines of single steps: two at once would mix
# their lines.
demo-yolov2: MODEL = yolov2_160
demo-ssd: MODEL = ssd160
demo-yolov2 demo-ssd: $(READY)
	@mkdir -p $(DEMO)
	@run=$(DEMO)/$(@:demo-%=%); \
	{ $(BIN)/python train.py model=$(MODEL) seed=$(SEED) trainer.threads=1 trainer.progress=false hydra.run.dir=$$run $(ARGS) && \
	  $(BIN)/python evaluate.py run=$$run threads=1 progress=false $(ALIKE); } > $$run.log 2>&1; \
	status=$$?; echo "== $(@:demo-%=%)"; grep -v '^step .*: loss' $$run.log; exit $$status

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

mutants: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants.run $(PART)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(TOOLS)
	@$(BIN)/mypy

coverage: $(TOOLS)
	@rm -rf build/coverage
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal; status=$$?; \
	$(BIN)/coverage combine --quiet; \
	$(BIN)/coverage html --quiet; \
	$(BIN)/coverage report --skip-covered --sort=cover; exit $$status

compatibility:
	@.ci/compatibility

release: $(TOOLS)
	@rm -rf build/dist
	@$(BIN)/python -m build --no-isolation --outdir build/dist
	@$(BIN)/twine check --strict build/dist/*
	@DETECTORS_WHEEL_INSTALL=1 $(BIN)/python -m pytest -q -m slow tests/test_wheel.py

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict -f .mkdocs.yml
	@echo "the documentation: build/site/index.html"

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
