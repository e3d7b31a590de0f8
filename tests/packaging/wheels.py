"""Builds the three wheels and installs them into environments of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

__all__ = ["DISTRIBUTIONS", "ROOT", "Distribution", "Environment", "build", "environment"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Distribution:
    name: str
    package: str
    project: Path

    @property
    def source(self) -> Path:
        return self.project / self.package


DISTRIBUTIONS = (
    Distribution("handfast", "handfast", ROOT),
    Distribution("handfast-ca", "handfast_ca", ROOT / "ca"),
    Distribution("handfast-agent", "handfast_agent", ROOT / "agent"),
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment that knows nothing of the source tree."""

    directory: Path

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What the command printed on stdout. The first word is a program of this environment."""
        program, *rest = command
        done = subprocess.run(
            [self.directory / "bin" / program, *rest],
            cwd=cwd or self.directory,  # never the root, whose packages Python would find first
            env=outside_any_environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout

    def install(self, *arguments: str | Path) -> None:
        _uv("pip", "install", "--python", self.python, *arguments)


def outside_any_environment() -> dict[str, str]:
    """The caller's variables, his mirrors and proxies among them, less what points Python at another environment."""
    return {
        name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
    }


def build(into: Path) -> dict[str, Path]:
    """The wheel of each distribution, by its name."""
    for distribution in DISTRIBUTIONS:
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(into)]
        subprocess.run(
            command, cwd=distribution.project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    return {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in into.glob("*.whl")}


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def environment(directory: Path) -> Environment:
    """An empty one, for the interpreter that runs us."""
    _uv("venv", "--no-project", "--python", sys.executable, directory)
    return Environment(directory)


def _uv(*arguments: str | Path) -> None:
    settings = outside_any_environment() | {"UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(
        [find_uv_bin(), "--quiet", "--no-progress", *arguments],
        env=settings,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"uv {' '.join(map(str, arguments))}: {done.stderr}")
