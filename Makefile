# Every target sets up .venv by itself when it is missing or older than the lock.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check bench bench-estimate bench-load bench-measure bench-nodes bench-optouts bench-overlap bench-refresh bench-scaling bench-consent lock clean bench-audit

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("comity needs Python 3.11 to 3.13") if not (3, 11) <= sys.version_info < (3, 14) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)  ## two partners on loopback, end to end, on real data
	$(BIN)/comity demo --report demo-report.html

test: $(READY)  ## every test but the benchmarks
	$(BIN)/python -m pytest -q

check: $(READY)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: bench-overlap bench-consent  ## every benchmark; results are appended to benchmarks/RESULTS.md by hand, after reading them

bench-estimate: $(READY)  ## an estimate over 100 M people a side, beside a bare scan
	$(BIN)/python benchmarks/estimate.py

bench-load: $(READY)  ## two hundred clients at a node at work, and how long its event loop keeps them waiting
	$(BIN)/python benchmarks/load.py

bench-measure: $(READY)  ## what summing a column adds to an overlap, beside one Paillier ciphertext a row
	$(BIN)/python benchmarks/measure.py

bench-scaling: $(READY)  ## an overlap from 10 k to 10 M people a side
	$(BIN)/python benchmarks/scaling.py

bench-overlap: $(READY)  ## overlap against SecretFlow's ECDH PSI, both in the same run
	$(BIN)/python benchmarks/overlap.py

bench-refresh: $(READY)  ## a refresh after a change of 1 %, beside the cold run of its epoch
	$(BIN)/python benchmarks/refresh.py

bench-nodes: $(READY)  ## an overlap and a measure between two whole nodes, beside the bare protocol
	$(BIN)/python benchmarks/nodes.py

bench-audit: $(READY)  ## goodness of fit of the noise and an empirical ε, over whole core runs
	$(BIN)/python benchmarks/noise_audit.py

bench-optouts: $(READY)  ## opt-out to enforced at the partner, two nodes under 500 decisions/s; then a minute of outage
	$(BIN)/python benchmarks/consent/optouts.py

bench-consent: $(READY)  ## the ledger's figures beside bare SQL loops and pymerkle, all in one run
	$(BIN)/python benchmarks/consent/ledger.py

lock: $(READY)  ## resolve pyproject.toml again, with hashes (needs uv)
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra dev --extra fast --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --quiet --output-file requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist demo-report.html
	find . -name __pycache__ -prune -exec rm -rf {} +
