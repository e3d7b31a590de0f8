"""Unpacks a backup as an operator's `tar xf` would; what `TarFile.extractall` takes for an argument depends on the Python."""

from __future__ import annotations

import tarfile
from pathlib import Path

__all__ = ["untar"]


def untar(backup: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    with tarfile.open(backup) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None, f"{member.name} is no file"
            (into / member.name).write_bytes(content.read())
