"""The files of one workload: a generation at a time behind ``..data`` (the layout that the kubelet uses).

A generation is a directory that is complete and on disk before one rename makes it the present one, so a reader sees
the old one or the new one, and so does a restart after ``kill -9``, power loss or a full disk. All work is relative to an
open directory, and nothing follows a symbolic link (threats E5, E6, E7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from handfast.errors import Broken, Conflict, Refused, Unavailable

__all__ = ["Directory", "Ownership"]

DATA = "..data"
_NEXT = "..data.next"
_GENERATION = "..generation-"
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
READERS_GRACE = 5.0
"""Seconds that a replaced generation stays for readers who are in the middle of it, however many follow."""
MAX_FILE_BYTES = 64 * 1024 * 1024
LONG_FILE = 64 * 1024
"""A public file of more octets that did not change is linked from the generation before, not written again."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose the files are, and how wide at most. -1 leaves owner or group as they come."""

    uid: int = -1
    gid: int = -1
    private_mode: int = 0o600
    public_mode: int = 0o644


class Directory:
    """Writes and reads generations. Not safe for two writers: :meth:`held` keeps the second one away."""

    def __init__(self, path: Path, ownership: Ownership = Ownership()) -> None:
        self.path = path
        self._ownership = ownership
        self._replaced: dict[str, float] = {}
        self._written: tuple[str, Mapping[str, bytes]] = ("", {})

    def prepare(self) -> None:
        """Makes the directory (0755 at most), refuses one that others may write to, and sweeps what a crash left."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._opened() as root:
            self._sweep(root, {_target(root)})

    @contextlib.contextmanager
    def held(self, mode: int = 0o755) -> Iterator[None]:
        """The directory is this process's alone until the block ends, or the process does, however it dies; made when it
        is not there. Raises ``Conflict`` (``AGENT_RUNNING``) while another has it.
        """
        self.path.mkdir(mode=mode, parents=True, exist_ok=True)
        with self._opened() as root:
            try:
                fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"another agent keeps {self.path}",
                    reason="AGENT_RUNNING",
                    hint="`handfast agent status` asks it how it is, SIGUSR1 has it renew at once; or end it first",
                ) from error
            yield

    def read(self) -> dict[str, bytes]:
        """The present generation, whole; empty when there is none."""
        with self._opened() as root:
            target = _target(root)
            if target is None:
                return {}
            present = os.open(target, _OPEN_DIR, dir_fd=root)
            try:
                return {name: _read(name, present) for name in os.listdir(present)}  # noqa: PTH208  # relative to an open directory
            finally:
                os.close(present)

    def write(self, number: int, private: Mapping[str, bytes], public: Mapping[str, bytes]) -> None:
        """Makes generation ``number`` the present one, or raises ``Unavailable`` (``STORAGE_FAILED``) and keeps the old.

        Names that the old generation showed and the new one lacks disappear.
        """
        name = f"{_GENERATION}{number:012d}"
        with self._opened() as root:
            old = _target(root)
            if name == old:
                raise Broken(f"generation {number} is the present one already", reason="GENERATION_REUSED")
            try:
                _remove_tree(name, root)
                self._fill(root, name, private, public, old)
                _swap_link(name, DATA, _NEXT, root)
                self._show(root, {*private, *public})
                os.fsync(root)
            except OSError as error:
                if _target(root) == old:
                    with contextlib.suppress(OSError):
                        _remove_tree(name, root)
                raise _failed(self.path, number, error) from error
            self._written = (name, {file: content for file, content in public.items() if len(content) > LONG_FILE})
            self._sweep(root, {name, *self._still_read(old, withdrawn=not private)})

    def _still_read(self, old: str | None, *, withdrawn: bool) -> set[str]:
        """Generations that a reader may be in the middle of. A withdrawal spares none: the key must be gone."""
        now = time.monotonic()
        if old is not None:
            self._replaced[old] = now
        recent = {name: at for name, at in self._replaced.items() if now - at < READERS_GRACE}
        self._replaced = {} if withdrawn else recent
        return set(self._replaced)

    def _fill(
        self, root: int, name: str, private: Mapping[str, bytes], public: Mapping[str, bytes], old: str | None
    ) -> None:
        before, same = self._written if old == self._written[0] else ("", {})
        os.mkdir(name, 0o700, dir_fd=root)
        made = os.open(name, _OPEN_DIR, dir_fd=root)
        try:
            for file, content in private.items():
                self._write_file(made, file, content, self._ownership.private_mode)
            for file, content in public.items():
                if same.get(file) is content and _link(f"{before}/{file}", file, root, made):
                    continue
                self._write_file(made, file, content, self._ownership.public_mode)
            os.fchown(made, self._ownership.uid, self._ownership.gid)
            os.fchmod(made, 0o755)
            os.fsync(made)
        finally:
            os.close(made)

    def _write_file(self, directory: int, name: str, content: bytes, mode: int) -> None:
        _check_name(name)
        file = os.open(name, _CREATE, 0o600, dir_fd=directory)
        try:
            written = 0
            while written < len(content):
                written += os.write(file, content[written:])
            os.fchown(file, self._ownership.uid, self._ownership.gid)
            os.fchmod(file, mode)
            os.fsync(file)
        finally:
            os.close(file)

    def _show(self, root: int, names: set[str]) -> None:
        """One link for each visible file; whatever was planted under its name is replaced, never written through."""
        for name in names:
            if name.startswith("."):
                continue
            if not _points_to(name, f"{DATA}/{name}", root):
                _swap_link(f"{DATA}/{name}", name, f"..{name}.next", root)
        for name in os.listdir(root):
            if name not in names and _points_to(name, f"{DATA}/{name}", root):
                os.unlink(name, dir_fd=root)

    def _sweep(self, root: int, keep: Collection[str | None]) -> None:
        for name in os.listdir(root):
            if name.startswith(_GENERATION) and name not in keep:
                _remove_tree(name, root)
            elif name == _NEXT or (name.startswith("..") and name.endswith(".next")):
                os.unlink(name, dir_fd=root)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            root = os.open(self.path, _OPEN_DIR)
        except OSError as error:
            raise Refused(
                f"directory {self.path} cannot be opened as a directory: {error.strerror}", reason="UNSAFE_DIRECTORY"
            ) from error
        try:
            found = os.fstat(root)
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or found.st_uid not in (0, os.geteuid()):
                raise Refused(
                    f"directory {self.path} has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}: "
                    "others could swap what is in it",
                    reason="UNSAFE_DIRECTORY",
                    hint=f"chmod go-w {self.path}, and let it belong to the agent's user",
                )
            yield root
        finally:
            os.close(root)


def _check_name(name: str) -> None:
    if not name or "/" in name or "\0" in name or name in (".", "..") or name.startswith(".."):
        raise Refused(f"file name {name[:80]!a} is not a plain name", reason="UNSAFE_PATH")


def _target(root: int) -> str | None:
    """The generation that ``..data`` names; None when there is none. A link that leads anywhere else is not ours."""
    try:
        target = os.readlink(DATA, dir_fd=root)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise
    return target if target.startswith(_GENERATION) and "/" not in target else None


def _points_to(name: str, target: str, root: int) -> bool:
    try:
        return os.readlink(name, dir_fd=root) == target
    except OSError:
        return False


def _swap_link(target: str, name: str, through: str, root: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(through, dir_fd=root)
    os.symlink(target, through, dir_fd=root)
    os.rename(through, name, src_dir_fd=root, dst_dir_fd=root)


def _link(old: str, name: str, root: int, directory: int) -> bool:
    """False when that is no file any more, or the file system has no links."""
    try:
        if not stat.S_ISREG(os.stat(old, dir_fd=root, follow_symlinks=False).st_mode):
            return False
        os.link(old, name, src_dir_fd=root, dst_dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _read(name: str, directory: int) -> bytes:
    file = os.open(name, _READ, dir_fd=directory)
    with os.fdopen(file, "rb") as stream:
        return stream.read(MAX_FILE_BYTES)


def _remove_tree(name: str, root: int) -> None:
    """A flat directory of ours. A link in its place is removed, not followed."""
    try:
        directory = os.open(name, _OPEN_DIR, dir_fd=root)
    except FileNotFoundError:
        return
    except OSError:
        os.unlink(name, dir_fd=root)
        return
    try:
        for file in os.listdir(directory):  # noqa: PTH208  # relative to an open directory
            os.unlink(file, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=root)


def _failed(path: Path, number: int, error: OSError) -> Unavailable:
    return Unavailable(
        f"generation {number} cannot be written to {path}: {error.strerror}",
        reason="STORAGE_FAILED",
        hint="the generation before stays in place; is the disk full?" if error.errno == errno.ENOSPC else "",
    )
