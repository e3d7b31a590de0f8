"""A copy of a ledger file that a CA may be writing to, made from another process that only reads."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from handfast.errors import Broken, HandfastError, NotFound, Unavailable
from handfast_ca.stores.rows import load_number

__all__ = ["audit_mark", "snapshot", "summary"]

BUSY_SECONDS = 5.0


def snapshot(source: Path, target: Path) -> None:
    """Writes ``target``, a new file of mode 0600: one moment of ``source``, as of one read transaction.

    Takes no lock that a writer would wait for (SQLite, WAL mode), and not the CA's own. Raises ``NotFound``
    (``NO_LEDGER``), ``Broken`` (``LEDGER_DAMAGED``) when the copy is not sound (threat J3), ``Unavailable``
    (``LEDGER_BUSY``, ``DISK_FULL``).
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with _translated(source), closing(_open(source, "rw")) as reading, closing(sqlite3.connect(target)) as writing:
        reading.execute("PRAGMA query_only=ON")
        reading.backup(writing)  # all pages in one step, hence in one transaction
        writing.execute("PRAGMA journal_mode=DELETE")
        said = writing.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        raise Broken(f"ledger {source} is damaged: {said}", reason="LEDGER_DAMAGED", hint="`handfast ca restore`")


def summary(ledger: Path) -> dict[str, int]:
    """How much is in a ledger that nobody writes to: entries, certificates, those revoked, the highest CRL number."""
    with _translated(ledger), closing(_open(ledger, "ro")) as reading:
        entries, certificates, revoked, number = reading.execute(
            "SELECT (SELECT count(*) FROM entries), count(*), count(revoked_at), (SELECT max(number) FROM issuers)"
            " FROM certificates"
        ).fetchone()
    return {
        "entries": entries,
        "certificates": certificates,
        "revoked": revoked,
        "crl_number": load_number(number),
    }


def audit_mark(ledger: Path) -> int:
    """How many records of the audit trail the ledger remembers, which may be in use; 0 when it remembers none."""
    with _translated(ledger), closing(_open(ledger, "rw")) as reading:
        reading.execute("PRAGMA query_only=ON")
        (value,) = reading.execute("SELECT coalesce(max(value), 0) FROM marks WHERE name = 'audit'").fetchone()
    return int(value)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """``rw`` and not ``ro`` over what may be in use: a reader of a WAL takes its place in the shared-memory file."""
    if not path.is_file():
        raise NotFound(f"there is no ledger {path}", reason="NO_LEDGER", hint="is `state` in the configuration right?")
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS)


@contextmanager
def _translated(source: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _ours(source, error) from error


def _ours(source: Path, error: sqlite3.Error) -> HandfastError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return Broken(f"ledger {source} is damaged: {error}", reason="LEDGER_DAMAGED", hint="`handfast ca restore`")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"ledger {source} is locked by another process", reason="LEDGER_BUSY", retry_after=1.0)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return Unavailable(f"ledger {source} cannot be copied: {error}", reason="DISK_FULL", hint="make room")
    return Unavailable(f"ledger {source} cannot be read: {error}", reason="LEDGER_FAILED")
