"""What a process that serves as a CA asks of its system: no core file that would hold the key, room for connections, and
few looks at what it keeps anyway.
"""

from __future__ import annotations

import ctypes
import gc
import resource

__all__ = ["collect_seldom", "forbid_core_dumps", "raise_file_limit"]

MOST_FILES = 65_536
"""Open files that are asked for. Each watcher is a connection, and a soft limit of 1024 is what many systems start with."""
YOUNG_OBJECTS = 20_000
"""New containers between two looks for cycles; the interpreter's own 700 are about one group of requests."""
_PR_SET_DUMPABLE = 4
"""``linux/prctl.h``. Undumpable also means that another process of the same user can't attach and read the memory."""


def forbid_core_dumps() -> bool:
    """Sets RLIMIT_CORE to 0 and, on Linux, PR_SET_DUMPABLE to 0 (threat E2). True when both were done.

    Does not keep the key from being swapped, nor from root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0


def raise_file_limit() -> None:
    """Up to what the hard limit grants, which is the administrator's word. Lowers nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def collect_seldom() -> None:
    """To be called when everything is loaded: the collector of cycles does not look at that again, and at new objects less
    often. Most of these end without it; what waits for it longer is at most some megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
