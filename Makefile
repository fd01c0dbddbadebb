# Every command here works from nothing on a fresh Debian 12, as root, and may be run again.
VENV := .venv
PYTHON := $(VENV)/bin/python
SUITES := tests/unit tests/store tests/netns tests/lab tests/kernel tests/chaos tests/bench

.PHONY: help demo demo-down test check bench chaos lab lab-down packages clean

help:
	@echo "make demo       a three-node Swarm on this machine, with links that carry traffic, and the proof"
	@echo "make demo-down  takes it away again"
	@echo "make test       every suite: unit, store, netns, lab, kernel, chaos (short)"
	@echo "make check      ruff, mypy --strict, import-linter"
	@echo "make chaos      the long chaos run"
	@echo "make bench      measurements, side by side in one run"
	@echo "make lab        a Swarm to play in (python -m tests.lab run n1 -- docker node ls); make lab-down ends it"

packages:
	@deploy/bootstrap.sh lab kernel

$(VENV)/ready: pyproject.toml | packages
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@echo "installing the project into $(VENV)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready
	$(PYTHON) -m tests.demo up

demo-down: $(VENV)/ready
	$(PYTHON) -m tests.demo down

test: $(VENV)/ready
	$(PYTHON) -m pytest --durations=20 --durations-min=20 $(SUITES)

check: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

chaos: $(VENV)/ready
	LINKWIRE_CHAOS=long $(PYTHON) -m pytest -s tests/chaos tests/netns/test_linkkeys.py tests/lab/test_linkkeys.py

bench: $(VENV)/ready
	$(PYTHON) -m tests.bench

lab: $(VENV)/ready
	$(PYTHON) -m tests.lab up
	$(PYTHON) -m tests.lab images

lab-down: $(VENV)/ready
	$(PYTHON) -m tests.lab down

clean:
	rm -rf $(VENV) build
