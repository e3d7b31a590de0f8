"""Why nobody could be reached, in the words of the system and not of the library that met it."""

from __future__ import annotations

import os
import ssl

__all__ = ["why_unreachable"]


def why_unreachable(error: Exception) -> str:
    """
    >>> why_unreachable(ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"))
    'Connection refused'
    >>> why_unreachable(TimeoutError())
    'no answer in time'
    """
    if isinstance(error, ssl.SSLError):  # an OSError whose number is none of the system's
        return f"TLS {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error) or "no answer in time"
