"""What an import brings into a process, seen from a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

REPORT = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
COMMAND_LINE = {"click", "rich"}
DATABASE = {"sqlalchemy", "sqlite3"}


def imported_by(module: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", REPORT, module], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "module", ["handfast", "handfast.rpc", "handfast.sources", "handfast.wire.codec", "handfast.testing"]
)
def test_a_service_pays_for_no_command_line_yaml_database_or_vault(module: str) -> None:
    unwanted = COMMAND_LINE | DATABASE | {"apscheduler", "handfast_agent", "handfast_ca", "hvac", "starlette", "yaml"}
    assert not imported_by(module) & unwanted


def test_the_agent_brings_no_database_vault_or_web_framework() -> None:
    assert not imported_by("handfast_agent.serve") & (
        DATABASE | {"handfast_ca", "hvac", "rich", "starlette", "uvicorn"}
    )


def test_the_ca_brings_no_agent() -> None:
    assert not imported_by("handfast_ca.authority") & {"handfast_agent", "hvac"}


def test_help_imports_neither_grpc_nor_cryptography() -> None:
    """The command line answers `--help` from its table; what a command needs comes with the command."""
    assert not imported_by("handfast.cli.main") & (DATABASE | {"cryptography", "grpc", "rich", "yaml"})
