"""Files that the command line writes: whole or not at all, and private keys for their owner only."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from handfast.errors import Invalid, NotFound

__all__ = ["read_file", "shown_path", "write_file", "write_result"]

MAX_BYTES = 64 * 1024 * 1024


def shown_path(path: Path | str) -> str:
    """
    >>> shown_path("-"), shown_path(Path("tls.crt"))
    ('standard input', 'tls.crt')
    """
    return "standard input" if str(path) == "-" else str(path)


def read_file(path: Path) -> bytes:
    """A whole file of at most 64 MiB; ``-`` is standard input."""
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise NotFound(f"{shown_path(path)} cannot be read: {error.strerror}", reason="NO_FILE") from error
    if len(data) > MAX_BYTES:
        raise Invalid(f"{shown_path(path)} is larger than {MAX_BYTES} bytes", reason="TOO_LARGE")
    return data


def write_result(path: Path | None, data: bytes) -> None:
    """To the file, or to stdout when there is none."""
    if path is None or str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_file(path, data, mode=0o644)


def write_file(path: Path, data: bytes, *, mode: int) -> None:
    """Atomically: a temporary file in the same directory, fsync, rename. The mode is set before the first byte."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise NotFound(f"{path} cannot be written: {error.strerror}", reason="NO_FILE") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise NotFound(f"{path} cannot be written: {error.strerror}", reason="NO_FILE") from error
