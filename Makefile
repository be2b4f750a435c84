# Every target sets up what it needs; `make demo` and `make test` are all a newcomer has to know.
PYTHON ?= python3
PORT ?= 8000
SECONDS ?= 600
VENV := .venv
BIN := $(VENV)/bin
WHEELS := target/wheels
RUST := $(wildcard src/*.rs) Cargo.toml Cargo.lock pyproject.toml
SOURCES := $(RUST) $(shell find python/keylatch -type f -not -name "*.pyc")

# Without the variable it asks npm at every run whether it is the latest.
PYRIGHT := PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/python -m pyright --pythonpath $(BIN)/python

# cargo and maturin take the `python3` that they find: the environment's, which is new enough.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test check fmt lint rust-test rust-built python-test test-drivers docs docs-cli docs-terminal stubs soak fuzz fuzz-briefly bench bench-timing bench-million bench-bulk bench-scan clean

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 15

demo: $(VENV)/.wheel ## Starts a protected FastAPI app on SQLite and prints curl lines that work.
	@$(BIN)/pip install --quiet --constraint constraints.txt --group demo
	@$(BIN)/python examples/demo/serve.py --port $(PORT)

test: rust-test python-test ## Runs the tests.

# The tests build the documentation, as `make docs` does.
check: lint test fuzz-briefly ## Exactly what CI runs.

# What the Rust tests run, so that it can be compiled beside something else.
rust-built: $(VENV)/.pip
	cargo test --locked --quiet --no-run
	cargo test --locked --quiet --no-run --features shuttle

rust-test: $(VENV)/.pip
	cargo test --locked --quiet
	cargo test --locked --quiet --features shuttle interleavings

python-test: $(VENV)/.wheel $(VENV)/.dev
	$(BIN)/python -m pytest
	$(BIN)/python tests/other_pythons.py $(WHEELS)
	$(BIN)/python tests/oldest.py $(WHEELS)

test-drivers: $(VENV)/.wheel $(VENV)/.dev ## Runs each test of a database with every driver, those included that are alike: half an hour.
	KEYLATCH_TEST_DRIVERS=all $(BIN)/python -m pytest
	KEYLATCH_TEST_DRIVERS=all $(BIN)/python tests/other_pythons.py $(WHEELS)

lint: $(VENV)/.wheel $(VENV)/.dev ## Formatting, lints, types and stubs.
	cargo fmt --check
	cargo clippy --locked --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy typing_tests
	$(PYRIGHT) typing_tests
	$(PYRIGHT) --ignoreexternal --verifytypes keylatch >target/verifytypes || { cat target/verifytypes; exit 1; }
	$(BIN)/maturin generate-stubs --quiet --features stubs --out target/stubs
	diff -u python/keylatch/_native.pyi target/stubs/keylatch/_native.pyi
	$(BIN)/python -m mypy.stubtest keylatch._native

docs: $(VENV)/.dev ## Builds the documentation into target/site, and checks its links.
	$(BIN)/python tools/check_site.py

docs-cli: $(VENV)/.wheel ## Writes docs/reference/cli.md anew.
	$(BIN)/python tools/cli_reference.py

docs-terminal: $(VENV)/.wheel $(VENV)/.dev ## Draws docs/terminal.svg anew.
	$(BIN)/python tools/terminal_picture.py

fmt: $(VENV)/.dev ## Formats Rust and Python.
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

stubs: $(VENV)/.dev ## Writes python/keylatch/_native.pyi anew.
	$(BIN)/maturin generate-stubs --quiet --features stubs --out target/stubs
	cp target/stubs/keylatch/_native.pyi python/keylatch/_native.pyi

soak: $(VENV)/.wheel $(VENV)/.dev ## Tries random lives of keys, races, crashes and revocations in workers for long.
	KEYLATCH_SOAK=1 $(BIN)/python -m pytest tests/test_model.py tests/test_races.py tests/test_crash.py tests/cli/test_import_crash.py tests/test_router_model.py tests/test_router_schema.py
	KEYLATCH_SOAK=1 $(BIN)/python -m pytest --numprocesses=0 --capture=no tests/test_workers.py tests/test_rotating_workers.py

fuzz: $(VENV)/.wheel $(VENV)/.dev ## Fuzzes what reads tokens, headers, hashes and secrets: SECONDS=600 for each, and whole applications.
	cargo clippy --locked --quiet --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	fuzz/run -max_total_time=$(SECONDS)
	KEYLATCH_SOAK=1 $(BIN)/python -m pytest --numprocesses=0 tests/test_agreement.py

# A fixed number of inputs: twenty seconds, of which most build libFuzzer.
fuzz-briefly: $(VENV)/.pip
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	fuzz/run -runs=50000 -seed=1

bench: $(VENV)/.wheel $(VENV)/.dev ## Measures the native core, and protected routes beside peers from PyPI: a quarter of an hour.
	$(BIN)/pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python benches/native.py --json benches/results/native.json
	$(BIN)/python benches/heartbeat.py --json benches/results/heartbeat.json
	$(BIN)/python benches/serving.py --bad-tokens 10000000 --json benches/results/serving.json --chart benches/results/requests.svg

bench-timing: $(VENV)/.wheel $(VENV)/.dev ## Tries to tell by the clock what must not be told: five minutes.
	$(BIN)/python benches/timing.py --json benches/results/timing.json

bench-million: $(VENV)/.wheel $(VENV)/.dev ## Measures a million keys beside a thousand, in each kind of database: half an hour.
	$(BIN)/python benches/million.py --json benches/results/million.json

bench-bulk: $(VENV)/.wheel $(VENV)/.dev ## Measures making 100,000 keys at once beside a plain insert, on each engine: ten minutes.
	$(BIN)/python benches/bulk.py --json benches/results/bulk.json

bench-scan: $(VENV)/.wheel $(VENV)/.dev ## Measures keylatch scan over a tree of 2 GB, beside other search programs that are installed, and over a history: two minutes.
	$(BIN)/python benches/scan.py --json benches/results/scan.json

clean: ## Removes what was built, the environment and the demo's files.
	rm -rf target $(VENV) .demo benches/results

$(VENV)/.pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	@touch $@

# The wheel that a user would install, with its extras.
$(VENV)/.wheel: $(VENV)/.pip $(SOURCES) constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt maturin
	rm -rf $(WHEELS)
	$(BIN)/maturin build --quiet --release --locked --out $(WHEELS)
	$(BIN)/pip install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(echo $(WHEELS)/*.whl)[fastapi,cli]"
	@touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev
	@touch $@
