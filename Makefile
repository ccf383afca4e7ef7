# make demo    install, then the complete chain on phantoms (about three minutes)
# make test    install, then the default tests
# make test-cpp   install, then build and test export/cpp
# make test-triton   install, make .venv-triton with a Triton server, then test serving with it
# make test-web   install, then open reports and the page that segments in Debian's chromium, and test its scripts in node
# make docs    install, then the documentation site in site/
# make image   the container image, where docker or podman works
# make check   style, types, import rules, generated files, advisories on dependencies
# make fuzz    broken files for ten minutes, and both readers on 10,000 of them
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-slow test-cpp test-triton test-web docs image check audit fuzz schema faults web-libraries pictures format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,cpu,test]'
	touch $(INSTALLED)

demo: install
	$(BIN)/rare demo -o rare-demo --overwrite

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow

test-cpp: install
	export/cpp/install_packages.sh
	$(BIN)/pytest -m slow tests/integration/cpp

test-triton: install
	PYTHON=$(BIN)/python export/triton/install_server.sh
	$(BIN)/pytest -m slow tests/integration/test_triton.py

test-web: install
	tests/integration/browser/install_packages.sh
	$(BIN)/pytest tests/engines/test_web_consumer.py tests/engines/test_segment_page.py
	$(BIN)/pytest -m slow tests/integration/browser

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

image:
	packaging/build_image.sh

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/test_house.py
	$(BIN)/python -m rarecli.core.engines.manifest | diff - export/manifest.schema.json
	$(BIN)/python .ci/audit.py

audit: install
	$(BIN)/python .ci/audit.py

# ten minutes of mutated files, then 10,000 scans and 2,000 manifests that C++, with sanitizers, reads as well; findings are kept in rare-fuzz
fuzz: install
	export/cpp/install_packages.sh
	cmake -S export/cpp -B rare-fuzz/build -DRARE_OPENVINO=OFF -DRARE_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug
	cmake --build rare-fuzz/build --target rare_verdicts
	export OMP_NUM_THREADS=1 seed=$$(date +%s); \
	$(BIN)/python tests/faults/fuzz.py --seconds 600 --seed $$seed --findings rare-fuzz/$$seed/python && \
	$(BIN)/python tests/faults/differential.py rare-fuzz/build --num-files 10000 --seed $$seed --findings rare-fuzz/$$seed/scans && \
	$(BIN)/python tests/faults/differential.py rare-fuzz/build --num-files 2000 --manifests --seed $$seed --findings rare-fuzz/$$seed/manifests

faults: install
	$(BIN)/python tests/faults/table.py > docs/faults.md

schema: install
	$(BIN)/python -m rarecli.core.engines.manifest > export/manifest.schema.json
	$(BIN)/python -m rarecli.commands.schemas docs/schemas

# fetches the libraries of the page and of its tests from the npm registry, in the versions that their versions.json pin
web-libraries: install
	$(BIN)/python export/web/libraries/renew.py export/web/libraries tests/integration/browser/libraries

# every picture of the README and of docs/, from benchmarks/results and from a demo
pictures: install
	tests/integration/browser/install_packages.sh
	$(BIN)/python benchmarks/pictures.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-triton rare-demo site
