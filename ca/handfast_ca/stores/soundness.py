"""Whether the ledger's file is whole (threat J3).

1. SQLite reads every page and says so; with a million certificates that is more than a gigabyte.
2. A ledger that was found whole, and then closed in order, leaves a mark when it is closed: which file that was, to the nanosecond.
3. Opened again, a file that is the one of the mark is served at once, after a look at all that is small, and read whole
   on a thread beside. Every other file (a crash, a copy, an edit) is read whole before anything else happens.
4. Damage that is found while serving refuses every write from then on: nothing is signed over it.

A mark is used once. Not promised: that step 3 notices what changed a file and none of its times (a disk that rots)
before the first seconds are over; the thread does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event, Thread, get_native_id

from sqlalchemy import Connection

from handfast.errors import Broken, HandfastError
from handfast_ca.durable import sync_directory
from handfast_ca.stores.schema import certificates, metadata
from handfast_ca.stores.trouble import is_damage

__all__ = ["Soundness", "check_whole", "mark_path"]

_log = logging.getLogger(__name__)
INTERRUPT_EVERY = 0.02
NICE = 10
"""Of the thread that reads: on a busy machine those who ask come first."""
_WHOLE = "PRAGMA quick_check(1)"
_SMALL = tuple(sorted(set(metadata.tables) - {certificates.name}))


def mark_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sound")


class Soundness:
    """Of one opened file. :meth:`check`, then :meth:`stop` before its connections are closed and :meth:`keep` after.

    ``problem`` is why nothing may be written any more; None while nothing is known to be wrong.
    """

    def __init__(self, path: Path) -> None:
        """Takes the mark away, so that only an orderly end puts one there. Nobody has opened the file yet."""
        self.problem: HandfastError | None = None
        self._path = path
        mark, identity = _take_mark(path), _identity(path)
        self._known_whole = identity is not None and mark == identity
        self._found_whole = False
        self._checked = Event()
        self._reading: sqlite3.Connection | None = None
        self._thread = Thread(target=self._read_beside, name="ledger-check", daemon=True)

    def check(self, connection: Connection) -> None:
        """Raises ``Broken`` (``LEDGER_DAMAGED``), or leaves the greater part to the thread beside."""
        if self._known_whole:
            for table in _SMALL:
                _judge(self._path, connection.exec_driver_sql(f"PRAGMA quick_check('{table}')").scalar())
        else:
            check_whole(connection, self._path)
            self._know_whole()
            self._checked.set()

    def check_beside(self) -> None:
        """Reads the whole file on a thread, when :meth:`check` did not."""
        if not self._checked.is_set():
            self._reading = sqlite3.connect(self._path, check_same_thread=False)
            self._thread.start()

    def wait(self) -> None:
        """Returns when the whole file was read, or reading was given up."""
        self._checked.wait()

    def stop(self) -> None:
        """Gives up what still reads. A file that was not read to its end gets no mark."""
        if self._reading is None:
            return
        while not self._checked.wait(INTERRUPT_EVERY):  # what is not running yet is not interrupted
            with contextlib.suppress(sqlite3.ProgrammingError):  # it ended between the two
                self._reading.interrupt()
        self._thread.join()

    def keep(self) -> None:
        """Leaves the mark of a whole file that nobody has open any more. One that cannot be written costs time only."""
        if self._found_whole and self.problem is None and not _journal(self._path).exists():
            with contextlib.suppress(OSError):
                _put_mark(self._path)

    def _read_beside(self) -> None:
        assert self._reading is not None
        with contextlib.suppress(OSError, AttributeError):  # a thread's own niceness, which only Linux knows
            os.setpriority(os.PRIO_PROCESS, get_native_id(), NICE)
        try:
            with closing(self._reading) as connection:
                _judge(self._path, connection.execute(_WHOLE).fetchone()[0])
            self._know_whole()
        except Broken as error:
            self._refuse_from_now_on(error)
        except sqlite3.Error as error:
            if is_damage(error):
                self._refuse_from_now_on(_damaged(self._path, error))
            else:
                _log.warning("the ledger was not read to its end: %s", error)
        finally:
            self._checked.set()

    def _know_whole(self) -> None:
        self._found_whole = True
        _log.info("the ledger was read whole, and nothing is wrong with it")

    def _refuse_from_now_on(self, error: Broken) -> None:
        self.problem = error
        _log.critical("nothing is signed any more: %s", error.message)


def check_whole(connection: Connection, path: Path) -> None:
    """Reads every page. Raises ``Broken`` (``LEDGER_DAMAGED``)."""
    _judge(path, connection.exec_driver_sql(_WHOLE).scalar())


def _judge(path: Path, said: object) -> None:
    if said != "ok":
        raise _damaged(path, said)


def _damaged(path: Path, said: object) -> Broken:
    return Broken(f"ledger {path} is damaged: {said}", reason="LEDGER_DAMAGED", hint="`handfast ca restore`")


def _journal(path: Path) -> Path:
    """What SQLite leaves beside a file that was not closed well."""
    return path.with_name(f"{path.name}-wal")


def _identity(path: Path) -> dict[str, int] | None:
    """Of a file whose every page is in it; None while some wait in the journal."""
    if _journal(path).exists():
        return None
    found = path.stat()
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "octets": found.st_size,
        "modified_ns": found.st_mtime_ns,
        "changed_ns": found.st_ctime_ns,
    }


def _take_mark(path: Path) -> object:
    """The mark, which is gone now. None when there is none, or it says nothing."""
    place = mark_path(path)
    try:
        handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        text = file.read(4096)
    place.unlink()
    sync_directory(path.parent)
    try:
        return json.loads(text)
    except ValueError:
        return None


def _put_mark(path: Path) -> None:
    handle = os.open(mark_path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        json.dump(_identity(path), file)
