# Everything happens in .venv, which each target makes for itself. Needed before: Python 3.11+, make, package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
DOCS_STAMP := $(VENV)/.made-docs
# Most of what a test waits for is other processes; files are shared out whole.
WORKERS ?= 2
UV_VERSION := 0.13.8
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --no-header --no-emit-package handfast --no-emit-package handfast-ca \
	--no-emit-package handfast-agent $(LOCK)
# What `make coverage` holds to 95 % of branches: all that decides. Edges are held by tests with real parts.
CORE := $(addprefix handfast/,errors clock identity keys csr certificates bundle crl_change crl_history revocation lifetime access overdue \
		credentials ocsp) \
	$(addprefix ca/handfast_ca/,registration enrolment profile admission template lint issuer ledger urls quotas access crl status \
		audit_trail audit_check ceremony feed timekeeper publisher registrar revoker incident mass_revoker reissuer reports vitals entries issuing assembly authority refusals limits alarm quorum quarantine testimony witnesses readmission \
		ocsp/encoding ocsp/question ocsp/certificate ocsp/signer ocsp/responder) \
	$(addprefix agent/handfast_agent/,lifecycle order plan backoff trust acceptance driver condition freshness stapling)

comma := ,
space := $(subst ,, )

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-wheels check format bench docs proto lock coverage clean

help: ## Show this
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit("Handfast needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "making the environment in $(VENV), once; it takes about half a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

$(STAMP): requirements/dev.lock pyproject.toml ca/pyproject.toml agent/pyproject.toml | $(BIN)/uv
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/dev.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e . -e ca -e agent
	@touch $(STAMP)

demo: $(STAMP) ## A CA, two agents, two gRPC services: enrol, call, rotate under load, revoke, refuse
	$(BIN)/handfast demo

test: $(STAMP) ## The tests, under ten minutes on two cores
	tests/system-packages.sh
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-all: $(STAMP) ## Also what takes longer: kill -9 in hundreds, mutants, fuzzing, Envoy, Java, built wheels
	tests/system-packages.sh all
	$(BIN)/pytest
	$(BIN)/python -m tests.mutation
	$(BIN)/python -m tests.fuzz
	$(MAKE) test-wheels

test-wheels: $(STAMP) ## The tests against the built wheels instead of the source tree
	tests/system-packages.sh
	$(BIN)/python -m tests.packaging.against_wheels -m "not slow"

check: $(STAMP) ## ruff, mypy strict, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Let ruff write what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

coverage: $(STAMP) ## Branch coverage of the core, at least 95 %
	tests/system-packages.sh
	$(BIN)/coverage run -m pytest -m "not slow"
	$(BIN)/coverage json --quiet --include="$(subst $(space),$(comma),$(strip $(CORE:=.py)))" -o .coverage.json
	$(BIN)/python -m tests.packaging.branches 95 < .coverage.json

bench: $(STAMP) ## Benchmarks: each prints ratios measured in one run
	$(BIN)/python -m tests.bench $(BENCH)

$(DOCS_STAMP): requirements/docs.lock $(STAMP)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/docs.lock
	@touch $(DOCS_STAMP)

docs: $(DOCS_STAMP) ## The documentation as HTML, in docs/_build
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

proto: $(STAMP) ## Regenerate the code for the .proto files
	$(BIN)/python tests/packaging/generate.py

lock: | $(BIN)/uv ## Resolve again, with hashes and no registry's address; LOCK=--upgrade takes newer versions
	$(COMPILE) --group dev -o requirements/dev.lock requirements/workspace.in
	$(COMPILE) --group docs -c requirements/dev.lock -o requirements/docs.lock requirements/workspace.in
	$(COMPILE) -o requirements/envoy.lock requirements/envoy.in

clean: ## Remove what was made, the environment too
	rm -rf $(VENV) dist build .coverage* htmlcov docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
