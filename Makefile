# demo, test, bench, sim, check: each sets up what it needs first.
PY := .venv/bin/python
# Most tests wait for real parts, the longest (demo, kills, a file played whole) a minute each: three processes on two cores. A file stays in one process, with its
# fixtures; they are begun in the order that tests/conftest.py says.
WORKERS ?= 3
# Demo and tests start processes by the hundred: each would compile every module anew where this is set.
unexport PYTHONDONTWRITEBYTECODE
CODE := proto edge cloud firmware-sim hsm-sim demo bench tests

.PHONY: demo test bench sim fuzz crash model check setup lock proto

demo: setup
	@$(PY) -m farthing_demo

test: setup
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# SOAK=1 adds the soak: 1,000 devices for SOAK_S seconds (300).
bench: setup
	@$(PY) -m bench
	@$(if $(SOAK),$(PY) -m bench soak)

# Histories of N gateways, devices and a ledger, each from a seed: `make sim SEEDS=20000` is the long run (FIRST=…: from another seed on).
# SEED=7 tells one with its history, STORY=out/sim/seed-7.json one that was written down, WITHOUT="recorded ends" turns a protection off.
SEEDS ?= 1000
sim: setup
	@PYTHONPATH=tests/sim $(PY) -m simulation $(if $(STORY),--story $(STORY),$(if $(SEED),--seed $(SEED),--seeds $(SEEDS))) \
		$(if $(FIRST),--first $(FIRST)) $(if $(WITHOUT),--without "$(WITHOUT)")

# FRAMES=1000000 SEED=1: the long run of what `make test` does with a few thousand.
fuzz: setup
	@FARTHING_FUZZ_FRAMES=$(or $(FRAMES),1000000) FARTHING_FUZZ_SEED=$(or $(SEED),1) $(PY) -m pytest -p no:xdist tests/edge/engine/test_fuzzed_frames.py

# kill -9 of a gateway with a real broker and stubborn devices, of the public log, and of the cloud in the middle of batches that gateways
# push: `make crash KILLS=1000` is the long run.
KILLS ?= 50
crash: setup
	@FARTHING_KILLS=$(KILLS) $(PY) -m pytest -q tests/system/test_kills.py
	@FARTHING_LOG_KILLS=$(KILLS) $(PY) -m pytest -q -o timeout=0 tests/cloud/publiclog/test_sequencer.py -k kill_nine
	@FARTHING_CLOUD_KILLS=$(KILLS) $(PY) -m pytest -q tests/cloud/serve/test_whole_cloud.py -k middle_of_batches

# The ledger over PostgreSQL with several at work, held in the middle and cut off: `make model EXAMPLES=2000` is the long run.
EXAMPLES ?= 200
model: setup
	@LEDGER_EXAMPLES=$(EXAMPLES) $(PY) -m pytest -q -o timeout=0 tests/cloud/ledger/test_ledger_interleaved.py

check: setup
	@.venv/bin/ruff check $(CODE)
	@.venv/bin/ruff format --check --quiet $(CODE)
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@cd proto && ../.venv/bin/buf lint && ../.venv/bin/buf breaking --against wire.binpb
	@$(PY) -m pytest -q tests/test_tidy.py

setup:
	@./setup.sh

# Writes the stubs, and the wire as it is now; `make check` fails when the stubs are not what the .proto files give, or these break the wire.
proto: setup
	@proto/generate.sh

# Resolves the dependencies of pyproject.toml again; needs the `uv` command.
lock:
	uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --all-extras --python-version 3.11 pyproject.toml -o requirements.lock
