"""The audit trail in a file: appended and synced in groups on one thread, opened only when its end is what it was."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from handfast.clock import Clock
from handfast.errors import Broken, HandfastError, Unavailable
from handfast_ca.audit_check import AuditProblem, AuditReport, head_path, read_head, read_record, verify_audit
from handfast_ca.audit_trail import START, AuditLog, AuditValue, Chain, MemoryAudit, Position, check_fields
from handfast_ca.durable import sync_directory
from handfast_ca.ledger import Page

__all__ = ["AuditLog", "AuditProblem", "AuditReport", "FileAudit", "MemoryAudit", "verify_audit"]

RESERVE_BYTES = 256 * 1024
"""Given back to the file system when it is full, so that revocations can still be written down (threat J4)."""

COMPANY = 2
"""Callers of a group that are no crowd: issuing brings its lines in groups already."""

LINGER = 0.002
"""Seconds that a group waits for more, when the last one had more than :data:`COMPANY`: where syncing is fast, groups would
be of one.
"""

_BLOCK = 64 * 1024
_HEAD_BYTES = 128
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Waiting:
    events: Sequence[Mapping[str, AuditValue]]
    essential: bool
    written: asyncio.Future[Sequence[int]]


class FileAudit:
    """One writer per file: a second one is refused (``AUDIT_IN_USE``).

    Beside the trail stand ``.head``, the last position, and ``.reserve``, room for revocations. Whatever waits while
    one group is being synced makes the next group; after a group of many, the next one waits a moment for more.
    """

    def __init__(self, path: Path, clock: Clock, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Opens or makes the file, mode 0600. An unfinished last line is cut off: it was never acknowledged.

        Raises ``Broken`` (``AUDIT_BROKEN``) when the end of the trail is not what the head says, or ``Unavailable``
        (``AUDIT_IN_USE``, ``AUDIT_UNAVAILABLE``).
        """
        self._path = path
        self._reserve = path.with_name(path.name + ".reserve")
        self._waiting: list[_Waiting] = []
        self._draining: asyncio.Task[None] | None = None
        self._last_group = 0
        self._broken = False
        try:
            self._file = _open_alone(path)
            self._head = os.open(head_path(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._size = _cut_unfinished_line(self._file)
            self._chain = Chain(clock, boot=_boot_id(), position=self._end())
            self._write_head()
            _keep_reserve(self._reserve, reserve_bytes)
            sync_directory(path.parent)
        except OSError as error:
            raise _unavailable(path, error) from error
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")

    async def append(self, event: Mapping[str, AuditValue], *, essential: bool = False) -> int:
        (number,) = await self._append([event], essential)
        return number

    async def append_all(self, events: Sequence[Mapping[str, AuditValue]]) -> Sequence[int]:
        return await self._append(events, essential=False)

    async def _append(self, events: Sequence[Mapping[str, AuditValue]], essential: bool) -> Sequence[int]:
        for event in events:
            check_fields(event)
        waiting = _Waiting(events, essential, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await waiting.written

    async def check(self) -> None:
        if self._broken:
            await self.append({"event": "audit-resumed"})

    async def read(self, *, newest_first: bool = False, limit: int = 100, token: str = "") -> Page[str]:
        """``token`` is a place in the file."""
        place = int(token) if token.isdecimal() else None
        read = self._read_backward if newest_first else self._read_forward
        return await asyncio.to_thread(read, place, min(max(limit, 1), 500))

    @property
    def position(self) -> Position:
        return self._chain.position

    async def close(self) -> None:
        while self._draining is not None:
            await asyncio.wait({self._draining})
        self._thread.shutdown()
        os.close(self._file)
        os.close(self._head)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Group after group, until nobody waits."""
        try:
            while self._waiting:
                await asyncio.sleep(LINGER if self._last_group > COMPANY else 0)
                group, self._waiting = self._waiting, []
                self._last_group = len(group)
                await self._write_group(group)
        finally:
            self._draining = None

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        """All of them, or, on a full disk, those that the reserve is for."""
        error = await self._try(group)
        essential = [waiting for waiting in group if waiting.essential]
        if error is not None and essential and self._reserve.exists():
            self._reserve.unlink()
            error_again = await self._try(essential)
            group = [waiting for waiting in group if not waiting.essential or error_again is not None]
        self._broken = error is not None
        for waiting in group:
            if error is not None and not waiting.written.done():
                waiting.written.set_exception(error)

    async def _try(self, group: Sequence[_Waiting]) -> HandfastError | None:
        events = [event for waiting in group for event in waiting.events]
        try:
            last = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, events)
        except OSError as error:
            return _unavailable(self._path, error)
        number = last - len(events) + 1
        for waiting in group:
            after = number + len(waiting.events)
            if not waiting.written.done():
                waiting.written.set_result(range(number, after))
            number = after
        return None

    def _write(self, events: Sequence[Mapping[str, AuditValue]]) -> int:
        """On the writer's thread. Leaves nothing of what it could not write and sync."""
        lines, position = self._chain.lines(events)
        data = b"".join(lines)
        try:
            _write_all(self._file, data)
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self._chain.position = position
        self._write_head()
        return position.seq

    def _write_head(self) -> None:
        """Not synced: after a power cut it may be older than the trail, never newer, and that is all it must be."""
        position = self._chain.position
        text = json.dumps({"seq": position.seq, "hash": position.hash}).ljust(_HEAD_BYTES - 1) + "\n"
        os.pwrite(self._head, text.encode("ascii"), 0)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _end(self) -> Position:
        """Where the trail goes on, when its last line is genuine and no older than what the head remembers."""
        head = read_head(os.pread(self._head, _HEAD_BYTES, 0)) or START
        last = _last_line(self._file, self._size)
        record = read_record(last) if last else None
        if last and (record is None or not record.genuine):
            raise self._damaged("its last line is not what was written")
        position = START if record is None else record.position
        if position.seq < head.seq:
            raise self._damaged(f"records {position.seq + 1} to {head.seq} are missing at its end")
        if position.seq == head.seq and position.hash != head.hash:
            raise self._damaged(f"record {head.seq} is not the one that the head file remembers")
        return position

    def _damaged(self, why: str) -> Broken:
        return Broken(
            f"the audit trail {self._path} is damaged: {why}",
            reason="AUDIT_BROKEN",
            hint="`handfast audit verify` tells more; keep the file, and start a new one beside it",
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read_forward(self, place: int | None, limit: int) -> Page[str]:
        shown: list[str] = []
        start = place or 0
        with self._path.open("rb") as trail:
            trail.seek(start)
            while len(shown) < limit and start < self._size:
                line = trail.readline()
                start += len(line)
                shown.append(line.decode("ascii").rstrip("\n"))
        return Page(tuple(shown), str(start) if start < self._size else "")

    def _read_backward(self, place: int | None, limit: int) -> Page[str]:
        shown: list[str] = []
        end = self._size if place is None else min(place, self._size)
        while len(shown) < limit and end > 0:
            line = _last_line(self._file, end)
            end -= len(line)
            shown.append(line.decode("ascii").rstrip("\n"))
        return Page(tuple(shown), str(end) if end else "")


def _open_alone(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise Unavailable(
            f"another process writes the audit trail {path}",
            reason="AUDIT_IN_USE",
            hint="one CA process writes one trail",
        ) from error
    return file


def _last_line(file: int, end: int) -> bytes:
    """The line that ends at ``end``, with its line feed; empty at the start of the file."""
    tail, start = b"", end
    while start > 0 and tail.count(b"\n", 0, max(len(tail) - 1, 0)) == 0:
        size = min(_BLOCK, start)
        start -= size
        tail = os.pread(file, size, start) + tail
    return tail[tail.rfind(b"\n", 0, max(len(tail) - 1, 0)) + 1 :]


def _cut_unfinished_line(file: int) -> int:
    size = os.fstat(file).st_size
    last = _last_line(file, size)
    if last and not last.endswith(b"\n"):
        size -= len(last)
        os.ftruncate(file, size)
        os.fsync(file)
    return size


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _keep_reserve(path: Path, size: int) -> None:
    """A full disk now is no reason not to start: what can be kept in reserve is."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(file)


def _boot_id() -> str:
    """Lines of one boot share it, so that their monotonic times can be compared (threat G5)."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def _unavailable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"the audit trail {path} cannot be written: {error.strerror}",
        reason="AUDIT_UNAVAILABLE",
        hint="nothing is issued without its record: make room or set the permissions right",
        retry_after=5.0,
    )
