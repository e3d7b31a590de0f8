"""Disk space put aside for revocations: SQLite refuses even a DELETE when the disk is full (threat J4)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RESERVE_OCTETS", "Reserve"]

RESERVE_OCTETS = 8 * 1024 * 1024


class Reserve:
    """A file of allocated octets beside the ledger. Used from the writer's thread."""

    def __init__(self, path: Path, size: int = RESERVE_OCTETS) -> None:
        self._path = path
        self._size = size
        self.is_held = False
        self.refill()

    def refill(self) -> bool:
        """True when all of it is allocated; False when the disk has no room for it."""
        if self.is_held:
            return True
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(handle, 0, self._size)
            self.is_held = True
        except OSError:
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)
        return self.is_held

    def release(self) -> None:
        os.truncate(self._path, 0)
        self.is_held = False
