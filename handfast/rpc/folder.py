"""Where private sockets lie: a directory that nobody else may enter, with a path that leaves room for their names."""

from __future__ import annotations

import os
import tempfile

__all__ = ["LONGEST_ADDRESS", "private_folder"]

LONGEST_ADDRESS = 107
"""Bytes of a Unix socket's path: ``sun_path`` has 108, the last is a zero (unix(7))."""


def private_folder(prefix: str, *, room: int = 32) -> tempfile.TemporaryDirectory[str]:
    """A directory of mode 0700 for sockets whose names take ``room`` bytes. In ``/tmp`` when the path of ``TMPDIR`` is too
    long for that. Removed when it is cleaned up, or its ``with`` ends. Raises ``OSError``.
    """
    name = len(prefix) + 1 + 8  # a slash, and what tempfile draws
    too_long = len(os.fsencode(tempfile.gettempdir())) + name + room > LONGEST_ADDRESS
    return tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp" if too_long else None)  # noqa: S108  mode 0700
