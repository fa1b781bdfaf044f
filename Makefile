# demo, test, bench, check: each sets up what it needs first.
PY := .venv/bin/python
# Most tests wait for real parts: two processes take two thirds of the time of one. A file stays in one process, with its fixtures.
WORKERS ?= 2
CODE := proto edge cloud firmware-sim hsm-sim demo bench tests

.PHONY: demo test bench check setup lock proto

demo: setup
	@$(PY) -m farthing_demo

test: setup
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile

bench: setup
	@$(PY) -m bench

check: setup
	@.venv/bin/ruff check $(CODE)
	@.venv/bin/ruff format --check --quiet $(CODE)
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@cd proto && ../.venv/bin/buf lint
	@$(PY) -m pytest -q tests/test_tidy.py

setup:
	@./setup.sh

# Writes the stubs; `make check` fails when they are not what the .proto files give.
proto: setup
	@proto/generate.sh

# Resolves the dependencies of pyproject.toml again; needs the `uv` command.
lock:
	uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --all-extras --python-version 3.11 pyproject.toml -o requirements.lock
