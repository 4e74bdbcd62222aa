# Tasks of a developer; `make` alone lists them. Each works by itself in a fresh clone.
# Another Python, newest packages:  make test PYTHON=python3.12 CONSTRAINTS=
# More options for a command:       make test ARGS="-k mixture"

# The first Python that starts: 3.11 is what the constraints are for.
PYTHON := $(shell for p in python3.11 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
PYTHON_VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])")
# constraints/py311.txt on Python 3.11; none where no such file exists.
CONSTRAINTS := $(wildcard constraints/py$(subst .,,$(PYTHON_VERSION)).txt)
# .venv for Python 3.11 with constraints, otherwise a folder of its own: .venv-3.12-latest
VENV := .venv$(addprefix -,$(filter-out 3.11,$(PYTHON_VERSION)))$(if $(CONSTRAINTS),,-latest)
ARGS :=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test coverage lint docs bench-quick clean

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.installed-test ## make the environment

demo: $(VENV)/.installed-test ## cluster a small data set and report
	$(VENV)/bin/rmve demo $(ARGS)

# One thread per worker: the workers share the cores already.
test: $(VENV)/.installed-test ## run all tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 2 $(ARGS)

coverage: $(VENV)/.installed-test ## run all tests, and say which lines they miss; fails under 97 %
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 2 \
	    --cov=rmve --cov-report=term-missing:skip-covered --cov-fail-under=97 $(ARGS)

lint: $(VENV)/.installed-test ## check style, format, imports and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m mypy

# From scratch each time: a page that is not read again repeats no warning.
docs: $(VENV)/.installed-doc ## build the documentation in docs/_build/html
	rm -rf docs/generated
	$(VENV)/bin/python -m sphinx --fresh-env -W --keep-going docs docs/_build/html

# One thread, as in the tables; what is there already is not repeated.
bench-quick: $(VENV)/.installed-bench ## the headline rows of the benchmark, in under 10 minutes
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(VENV)/bin/python benchmarks/clustering.py --name quick --seeds 0 \
	    --data "pbmc3k,zeisel,simulated:overlapping:0" --methods "rmve,pca,rmve (no repulsion),rmve (plain bound)" $(ARGS)

clean: ## remove what the tasks wrote (the environments stay: rm -r .venv*)
	rm -rf docs/_build docs/generated docs/tutorials/*.ipynb dist rmve_demo* benchmarks/results/quick.* benchmarks/results/labels/quick
	rm -rf .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache lightning_logs
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamp says which extra of pyproject.toml is installed.
$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) | $(VENV)/.created
	$(VENV)/bin/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable ".[$*]"
	@touch $@
