# `make demo` and `make test` do everything on a machine with Python ≥ 3.11.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := test

# Settings under which torch, MKL and oneDNN take other kernels than this processor's own: tests marked `kernels`.
SETTINGS := ATEN_CPU_CAPABILITY=avx2 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE \
  LERPSCAPE_TEST_THREADS=2

.PHONY: demo quick test test-integrations test-kernels test-all fuzz lint bench docs clean
.DEFAULT_GOAL := test

$(BIN)/python:
	$(PYTHON) -m venv .venv

# One stamp for each set of extras; made again when what to install changes.
.venv/installed-%: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

demo: .venv/installed-demo
	$(BIN)/lerpscape demo

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# About a minute: the tests of what changed, nearest first, or a chosen core; what has not begun after 30 s is left out.
quick: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	files=$$($(BIN)/python tests/quick.py) && $(BIN)/pytest -q -x -n 2 --dist load --seconds 30 -m "not slow" $$files

# With it, `make test` runs these tests too; without the libraries they are skipped, and say so.
test-integrations: .venv/installed-test-integrations
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" tests/integrations lerpscape/integrations

test: lint .venv/installed-test-integrations
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"
	$(MAKE) test-kernels

# Files are found by the mark, as collecting all of them takes longer than these tests. Threads that wait do not spin:
# two tests with two threads each share two cores.
test-kernels: .venv/installed-test
	@files=$$(grep -rl --include='test_*.py' 'mark\.kernels' tests); for setting in $(SETTINGS); do \
	  echo "== $$setting"; \
	  env OMP_WAIT_POLICY=passive $$setting $(BIN)/pytest -q -n 2 --dist worksteal -m "kernels and not slow" $$files || exit 1; \
	done

test-all: lint .venv/installed-test-integrations
	$(BIN)/pytest -n 2 --dist worksteal
	$(MAKE) test-kernels

# Random cases from a fresh seed, against loops and rational arithmetic: `make fuzz SECONDS=600`.
SECONDS ?= 60
fuzz: .venv/installed-test
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS)

bench: .venv/installed-bench
	for part in profile engine models gauss certify training; do $(BIN)/python benchmarks/bench_$$part.py || exit 1; done

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf .venv docs/_build dist lerpscape-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
