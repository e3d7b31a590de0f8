"""The process that holds a workload's key: no core file, and no reader beside it."""

from __future__ import annotations

import ctypes
import resource

__all__ = ["forbid_core_dumps"]

_PR_SET_DUMPABLE = 4
"""``linux/prctl.h``. Undumpable also means that another process of the same user can't attach and read the memory."""


def forbid_core_dumps() -> bool:
    """Sets RLIMIT_CORE to 0 and, on Linux, PR_SET_DUMPABLE to 0 (threat E2). True when both were done.

    Does not keep the key from being swapped, nor from root. Programs that hooks start leave no core file either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
