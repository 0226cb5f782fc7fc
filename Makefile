# The two main commands: `make up` runs the whole product, `make test` runs every test. Both run `make setup` first.
# PYTHON: the first suitable one on the PATH, else python3, whose setup says what is wrong.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done),python3)
BIN := .venv/bin

.PHONY: setup up check test image faults model bench lock lock-artifacts

setup:
	@$(PYTHON) infra/setup.py

up: setup
	@exec $(BIN)/headrace up

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# WORKERS: tests at a time. Most of them wait for something, so more than the cores; 0 runs one after another. pytest's
# bytecode is always kept: compiling the tests takes seconds in each of its processes.
WORKERS ?= 4
test: setup
	@$(BIN)/python -m infra.chromium
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS)

# Builds the image without an engine and uses it in containers; Debian, as root (installs its tools with apt).
image: setup
	@$(BIN)/python -m infra.image.build tools
	$(BIN)/python -m infra.image.build
	$(BIN)/python -m pytest tests/integration/infra/test_image.py

# The long form of the fault suite: make faults MINUTES=30 SEED=7 ATTEMPTS=10000 (the fuzzer's)
MINUTES ?= 10
SEED ?= 0
ATTEMPTS ?= 2000
faults: setup
	HEADRACE_FAULTS_MINUTES=$(MINUTES) HEADRACE_FAULTS_SEED=$(SEED) \
	HEADRACE_FUZZ_ATTEMPTS=$(ATTEMPTS) HEADRACE_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/faults --timeout=0 -s

# The protocol's model in TLA+ (docs/model/): all runs of the protocol hold, every naive variant breaks.
model: setup
	$(BIN)/python docs/model/check.py $(MODEL)

# Headrace, its peers and the raw limits on the same work, interleaved: make bench ROUNDS=5 ARGS="--rows A D"
# The other benchmarks are modules: $(BIN)/python -m benchmarks.headrace, .stages, .memory, .growth, .statistics.
ROUNDS ?= 5
bench: setup
	@$(BIN)/python -m benchmarks.peers.redis_server
	@$(BIN)/python -m infra.chromium
	$(BIN)/python -m benchmarks.peers --rounds $(ROUNDS) --picture bench.svg $(ARGS)

# Run after a change of pyproject.toml. The locks have hashes for every platform and name no registry.
lock:
	uv pip compile --quiet --generate-hashes --universal --no-emit-index-url --no-header --python-version 3.11 pyproject.toml --extra dev -o requirements.lock
	uv pip compile --quiet --generate-hashes --universal --no-emit-index-url --no-header --python-version 3.11 pyproject.toml --extra all --extra build -o requirements-image.lock
	uv pip compile --quiet --generate-hashes --universal --no-emit-index-url --no-header --python-version 3.11 pyproject.toml --extra peers -o benchmarks/peers/requirements.lock

# Run after a change of version in infra/local/artifacts.py: downloads all artifacts again.
lock-artifacts:
	$(BIN)/python -m infra.local.artifacts lock
