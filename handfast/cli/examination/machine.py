"""This machine: which versions are at work, and whether the context can be read."""

from __future__ import annotations

import platform
import stat
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from handfast.cli.checks import Check, Level
from handfast.cli.context import Context

__all__ = ["check_context", "check_versions"]


def check_versions() -> Iterator[Check]:
    """The three distributions are released together, so that they are installed together is worth a look."""
    found = {name: _version(name) for name in ("handfast", "handfast-ca", "handfast-agent")}
    installed = {name: number for name, number in found.items() if number}
    text = ", ".join(f"{name} {number}" for name, number in installed.items())
    libraries = (
        f"Python {platform.python_version()}, cryptography {_version('cryptography')}, grpcio {_version('grpcio')}"
    )
    same = len(set(installed.values())) == 1
    yield Check(
        "versions",
        "distributions",
        Level.OK if same else Level.WARNING,
        text,
        "" if same else "install the same version of all of them",
    )
    yield Check("versions", "libraries", Level.OK, libraries)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def check_context(context: Context, file: Path) -> Iterator[Check]:
    yield Check("context", "file", Level.OK, f"{file}: {context.trust_domain} at {context.authority}")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o022:
        yield Check("context", "mode", Level.FAILED, f"{mode:04o} lets others choose your CA", f"`chmod go-w {file}`")
