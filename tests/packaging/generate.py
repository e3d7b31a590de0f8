"""Regenerates the Python code for every .proto file, beside it. ``--into DIR`` writes elsewhere, for comparing."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
DIRECTORIES = ("handfast/wire/v1", "examples/shop/v1")


def generate(into: Path) -> None:
    files = [
        str(file.relative_to(ROOT)) for directory in DIRECTORIES for file in sorted((ROOT / directory).glob("*.proto"))
    ]
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # protoc looks for its mypy plugins there
    )
    well_known = Path(protoc.__file__).parent / "_proto"
    targets = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    status = protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *targets, *files])
    if status:
        sys.exit(status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT)
    generate(parser.parse_args().into)
