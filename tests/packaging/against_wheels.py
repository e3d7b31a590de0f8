"""Runs the tests against the built wheels, with no source tree in sight. Arguments go to pytest."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.packaging.wheels import DISTRIBUTIONS, ROOT, build, environment, outside_any_environment

# These read the source tree itself: the .proto files beside their code, three pyproject.toml, what is to be built, every
# control, and what builds it, which pytest would look for examples in.
ABOUT_THE_SOURCE = (
    "packaging/test_generated.py",
    "packaging/test_wheels.py",
    "packaging/test_workspace.py",
    "packaging/wheels.py",
    "packaging/against_wheels.py",
    "mutation/test_controls.py",
)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="handfast-wheels-") as name:
        place = Path(name)
        wheels = build(place / "wheels")
        made = environment(place / "environment")
        made.install("--require-hashes", "--requirement", ROOT / "requirements" / "dev.lock")
        made.install("--no-deps", *wheels.values())
        tree = copy_all_but_the_packages(place / "tree")
        for distribution in DISTRIBUTIONS:
            file = made.run(
                "python", "-c", f"import {distribution.package} as it; print(it.__file__)", cwd=tree
            ).strip()
            if not Path(file).is_relative_to(made.directory):
                sys.exit(f"{distribution.package} came from {file}, not from its wheel")
        ignored = [f"--ignore=tests/{test}" for test in ABOUT_THE_SOURCE]
        command = [made.python, "-m", "pytest", *ignored, *arguments, "tests", "--pyargs", "handfast"]
        return subprocess.run(command, cwd=tree, env=outside_any_environment(), check=False).returncode


def copy_all_but_the_packages(into: Path) -> Path:
    packages = {distribution.source for distribution in DISTRIBUTIONS}

    def left_out(directory: str, names: list[str]) -> set[str]:
        return {
            name
            for name in names
            if name.startswith(".") or name in {"__pycache__", "_build", "dist"} or Path(directory, name) in packages
        }

    return Path(shutil.copytree(ROOT, into, ignore=left_out))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
