# `make demo` and `make test` need Python 3.11 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
SOURCES := $(shell find ntre_deploy export -type f -not -name '*.pyc') pyproject.toml README.md LICENSE

.PHONY: demo test lint format clean

demo: $(VENV)/.installed
	$(BIN)/ntre demo --out demo_out

test: $(VENV)/.installed
	$(BIN)/pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# from elsewhere, so that the installed wheel is what is checked
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p ntre_deploy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.dependencies: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[cpu,export,dev]'
	touch $@

# setuptools would pack what an earlier build left behind
$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	rm -rf build
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	rm -rf build
	touch $@

clean:
	rm -rf $(VENV) build demo_out *.egg-info
