# make demo    install, then the whole chain on phantoms (about three minutes)
# make test    install, then the default tests
# make test-cpp   install, then build and test export/cpp
# make test-triton   install, make .venv-triton with a Triton server, then test serving with it
# make check   style, types, import rules, generated files
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-slow test-cpp test-triton check schema format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,cpu,test]'
	touch $(INSTALLED)

demo: install
	$(BIN)/rare demo -o rare-demo

test: install
	$(BIN)/pytest

test-slow: install
	$(BIN)/pytest -m slow

test-cpp: install
	export/cpp/install_packages.sh
	$(BIN)/pytest -m slow tests/integration/test_cpp.py

test-triton: install
	PYTHON=$(BIN)/python export/triton/install_server.sh
	$(BIN)/pytest -m slow tests/integration/test_triton.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m rarecli.core.engines.manifest | diff - export/manifest.schema.json

schema: install
	$(BIN)/python -m rarecli.core.engines.manifest > export/manifest.schema.json

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-triton rare-demo
