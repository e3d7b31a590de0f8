"""The committed code is what the .proto files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.packaging.generate import DIRECTORIES, ROOT

GENERATOR = Path(__file__).with_name("generate.py")


def generated_below(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): file.read_text()
        for directory in DIRECTORIES
        for file in sorted((root / directory).glob("*_pb2*.py*"))
    }


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GENERATOR, "--into", tmp_path], check=True)
    assert generated_below(tmp_path) == generated_below(ROOT), "run `make proto` and commit what it wrote"


def test_every_proto_file_is_generated_from() -> None:
    protos = {
        str(file.parent.relative_to(ROOT)) for top in ("handfast", "examples") for file in (ROOT / top).rglob("*.proto")
    }
    assert protos == set(DIRECTORIES)
