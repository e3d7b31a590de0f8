"""Opens the ledger's file: its modes, its one owner, its soundness, its schema version."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from handfast.errors import Broken, Conflict, Refused, Unavailable
from handfast_ca.stores.schema import SCHEMA_VERSION, certificates, metadata
from handfast_ca.stores.soundness import Soundness, check_whole
from handfast_ca.stores.trouble import translated

__all__ = ["check_place", "check_sound", "hold", "open_reader", "open_writer", "prepare"]

BUSY_MILLISECONDS = 5000


def check_place(path: Path) -> None:
    """Nobody else may write into the directory, or read the file. Makes the file, mode 0600, when it is missing."""
    if not path.parent.is_dir():
        raise Unavailable(f"directory {path.parent} does not exist", reason="LEDGER_DIRECTORY")
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    if mode & 0o022:
        raise Refused(
            f"directory {path.parent} has mode {mode:04o}: others may write into it",
            reason="LEDGER_DIRECTORY",
            hint=f"chmod 0700 {path.parent}",
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Refused(
            f"ledger {path} has mode {mode:04o}, wider than 0600", reason="LEDGER_MODE", hint=f"chmod 0600 {path}"
        )


def hold(path: Path) -> int:
    """Takes the lock that makes this process the only one on the ledger; the kernel lets go when it dies."""
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise Conflict(
            f"ledger {path} is in use by another CA process", reason="LEDGER_IN_USE", hint="end the other one first"
        ) from error
    return handle


def open_writer(path: Path) -> Engine:
    return _engine(path, begin="BEGIN IMMEDIATE", connections=1)


def open_reader(path: Path, connections: int) -> Engine:
    return _engine(path, begin="BEGIN", connections=connections)


def _engine(path: Path, *, begin: str, connections: int) -> Engine:
    """SQLAlchemy's recipe for SQLite: the driver begins nothing by itself, we say how a transaction begins."""
    engine = create_engine(f"sqlite:///{path}", pool_size=connections, max_overflow=0)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={BUSY_MILLISECONDS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def prepare(engine: Engine, path: Path) -> Soundness:
    """Refuses what is damaged (threat J3) or newer than this program; makes the tables of an empty file.

    From then on no transaction begins on ``engine`` when damage was found: ``Broken`` (``LEDGER_DAMAGED``).
    """
    soundness = Soundness(path)
    try:
        with engine.begin() as connection:
            soundness.check(connection)
            _migrate(connection, path)
    except SQLAlchemyError as error:
        raise translated(error) from error

    @event.listens_for(engine, "begin", insert=True)
    def refuse(_connection: Connection) -> None:
        if soundness.problem is not None:
            raise soundness.problem

    soundness.check_beside()
    return soundness


def check_sound(path: Path, hint: str = "") -> None:
    """A ledger that nobody serves is whole and of our schema, or this raises as :func:`prepare` does, with ``hint``."""
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            check_whole(connection, path)
            _migrate(connection, path)
    except Broken as error:
        raise Broken(error.message, reason=error.reason, hint=hint or error.hint) from error
    except SQLAlchemyError as error:
        raise translated(error) from error
    finally:
        engine.dispose()


def _migrate(connection: Connection, path: Path) -> None:
    found = int(connection.exec_driver_sql("PRAGMA user_version").scalar() or 0)
    if found > SCHEMA_VERSION:
        raise Refused(
            f"ledger {path} has schema version {found}, this program knows up to {SCHEMA_VERSION}",
            reason="LEDGER_NEWER",
            hint="use the newer program, or restore an older backup",
        )
    if found == 1:
        connection.exec_driver_sql("ALTER TABLE certificates ADD COLUMN listed_by BLOB")
    if found < SCHEMA_VERSION:
        metadata.create_all(connection)
        for index in certificates.indexes:
            index.create(connection, checkfirst=True)
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
