# Everything happens in .venv, which each target makes for itself. Needed before: Python 3.11+, make, package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
UV_VERSION := 0.13.8
PROTOS := $(wildcard handfast/wire/v1/*.proto)
CORE := handfast/errors.py,handfast/clock.py,handfast/identity.py,handfast/keys.py,handfast/csr.py,handfast/certificates.py,handfast/bundle.py,handfast/revocation.py,handfast/lifetime.py,handfast/access.py,handfast/credentials.py,ca/handfast_ca/profile.py,ca/handfast_ca/registration.py,ca/handfast_ca/enrolment.py,ca/handfast_ca/admission.py,ca/handfast_ca/template.py,ca/handfast_ca/lint.py,ca/handfast_ca/issuer.py,ca/handfast_ca/ledger.py,ca/handfast_ca/authority.py,ca/handfast_ca/feed.py,agent/handfast_agent/lifecycle.py,agent/handfast_agent/plan.py,agent/handfast_agent/backoff.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-wheels check format bench docs proto lock coverage clean

help: ## Show this
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit("Handfast needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

$(STAMP): requirements/dev.lock pyproject.toml ca/pyproject.toml agent/pyproject.toml | $(BIN)/uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/dev.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e . -e ca -e agent
	touch $(STAMP)

demo: $(STAMP) ## A CA, two agents, two gRPC services: enrol, call, rotate under load, revoke, refuse
	$(BIN)/handfast demo

test: $(STAMP) ## The tests, under ten minutes on two cores
	tests/system-packages.sh
	$(BIN)/pytest -m "not slow"

test-all: $(STAMP) ## Also what takes longer: kill -9 in hundreds, built wheels, long rotations
	tests/system-packages.sh
	$(BIN)/pytest

test-wheels: $(STAMP) ## The tests against the built wheels instead of the source tree
	$(BIN)/python tests/packaging/against_wheels.py

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
	$(BIN)/coverage report --include="$(CORE)" --fail-under=95

bench: $(STAMP) ## Benchmarks: each prints ratios measured in one run
	$(BIN)/python -m tests.bench

docs: $(STAMP) ## The documentation as HTML, in docs/_build
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/docs.lock
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build

proto: $(STAMP) ## Regenerate the code for the .proto files
	$(BIN)/python tests/packaging/generate.py

lock: | $(BIN)/uv ## Resolve again, with hashes and without any registry's address
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --no-emit-package handfast --no-emit-package handfast-ca --no-emit-package handfast-agent --group dev -o requirements/dev.lock requirements/workspace.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --no-emit-package handfast --no-emit-package handfast-ca --no-emit-package handfast-agent --group docs -c requirements/dev.lock -o requirements/docs.lock requirements/workspace.in

clean: ## Remove what was made, the environment too
	rm -rf $(VENV) dist build .coverage* htmlcov docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
