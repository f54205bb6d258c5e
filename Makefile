# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= runs/demo

.PHONY: demo test evidence notebooks readme judge repair heads refusal judgments lint types install install-dev organisms clean families

demo: install          ## the refusal cliff on the bundled model, without a hub, a GPU or a token
	$(BIN)/verdictscope demo --out $(OUT)

# A file is one worker's, heavy files first (tests/conftest.py); one thread a worker, since two each would fight over
# two cores.
test: install-dev lint types ## every fast test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

evidence: install-dev  ## simulations, kills and many-seed runs
	$(BIN)/python -m pytest -q -m slow --timeout 3600

notebooks: install-dev ## run the notebooks in a clean kernel and store them with their outputs
	$(BIN)/python notebooks/build.py

probes: install-dev    ## put what `make evidence` measured into docs/probes.md
	$(BIN)/python -m tools.docs.probes

repair: install-dev    ## write docs/repair.md and its figure from what `make evidence` measured
	$(BIN)/python -m tools.docs.repair

heads: install-dev     ## put what `make evidence` measured into docs/heads.md
	$(BIN)/python -m tools.docs.heads

readme: demo           ## put the demo's numbers and figures into the README
	$(BIN)/python -m tools.docs.update $(OUT)

formats: install-dev    ## write the tables of docs/formats.md from their declarations
	$(BIN)/python -m tools.docs.formats

judge: install-dev      ## run the judge demo and write docs/judge.md from it
	$(BIN)/verdictscope demo judge --out runs/demo_judge
	$(BIN)/python -m tools.docs.update runs/demo_judge

refusal: install-dev   ## measure the refusal matcher against XSTest's human labels: XSTEST=FOLDER [WORDS=FILE]
	$(BIN)/python -m tools.docs.refusal $(XSTEST) $(WORDS)

judgments: install-dev ## put the figures of public judge logs into docs/judgments.md: DATA=FOLDER [LLMBAR=CLONE]
	$(BIN)/python -m tools.docs.judgments $(DATA) $(LLMBAR)

families: install-dev  ## examine every family that TransformerLens and transformers share, and write docs/doctor.md
	$(BIN)/python -m pytest -q -m slow --timeout 3600 tests/activations/test_families.py
	$(BIN)/python -m tools.docs.doctor

lint: install-dev      ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: install-dev     ## static types
	$(BIN)/mypy

organisms: install-dev ## train the bundled models again
	$(BIN)/python -m tools.organisms train cliff
	$(BIN)/python -m tools.organisms train judge

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch goes first and pinned: the bare name pulls gigabytes of CUDA on a machine that has no use for them.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,repair]"
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info
