"""What the database says when it cannot, in our words."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import SQLAlchemyError

from handfast.errors import Broken, HandfastError, Unavailable

__all__ = ["TROUBLE", "Trouble", "disk_full", "is_busy", "is_damage", "is_full", "translated"]

TROUBLE = (SQLAlchemyError, sqlite3.Error)
"""From SQLAlchemy where it opens, begins and commits; from the driver where a step runs."""

Trouble = SQLAlchemyError | sqlite3.Error

_PRIMARY = 0xFF
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: Trouble) -> int:
    return getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & _PRIMARY


def is_busy(error: Trouble) -> bool:
    return _code(error) in _BUSY


def is_full(error: Trouble) -> bool:
    """SQLite reports a full disk as FULL, or as IOERR when it is the shared-memory file that cannot grow."""
    return _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def is_damage(error: sqlite3.Error) -> bool:
    """Of a reader: the file is not what was written, or the disk does not give it back."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in {*_DAMAGED, sqlite3.SQLITE_IOERR}


def translated(error: Trouble) -> HandfastError:
    code, said = _code(error), str(getattr(error, "orig", error))
    if code in _BUSY:
        return Unavailable(
            "the ledger is locked by another process", reason="LEDGER_BUSY", hint="end what holds it", retry_after=1.0
        )
    if code == sqlite3.SQLITE_FULL:
        return disk_full(f"the ledger cannot grow: {said}")
    if code in _DAMAGED:
        return Broken(f"the ledger is damaged: {said}", reason="LEDGER_DAMAGED", hint="`handfast ca restore`")
    return Unavailable(f"the ledger failed: {said}", reason="LEDGER_FAILED", retry_after=5.0)


def disk_full(message: str) -> Unavailable:
    """Callers try again after half a minute: a person has to make room first."""
    return Unavailable(message, reason="DISK_FULL", hint="make room on the ledger's disk", retry_after=30.0)
