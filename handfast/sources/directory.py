"""Credentials from a directory in the agent's layout: one generation at a time behind ``..data``, or plain files."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, load_certificates
from handfast.clock import Clock, SystemClock
from handfast.credentials import Credentials, Subscriber
from handfast.errors import HandfastError, NotFound
from handfast.keys import load_private_key
from handfast.revocation import EMPTY, RevocationList, split_pem
from handfast.sources.static import StaticSource

__all__ = ["DirectorySource"]

_log = logging.getLogger(__name__)
LOOK_EVERY = 0.2
"""Seconds between two looks at the directory: a handful of stat calls."""
_FILES = ("tls.crt", "tls.key", "ca.crt", "crl.pem")


class DirectorySource:
    """Follows a directory. Raises ``NotFound`` or what is wrong when the first reading fails.

    Later a broken generation is logged once, and the old snapshot stays. Files that are gone are another thing: an agent takes
    key and certificate away when they count no more (revoked, expired, all trust withdrawn), so they are withdrawn here too,
    and come back with the files. Whoever replaces plain files without an agent does it by rename, or is without credentials
    in between. Revocation lists only move forward, over a withdrawal too.
    """

    def __init__(self, path: Path | str, *, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._clock = clock or SystemClock()
        self._generation = 0
        self._seen = self._look()
        self._known = EMPTY
        self._holder = StaticSource(self._read())
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="handfast-directory", daemon=True)
        self._thread.start()

    def current(self) -> Credentials:
        return self._holder.current()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._holder.subscribe(subscriber)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=5)
        self._holder.close()

    def _follow(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            seen = self._look()
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                self._holder.publish(self._read())
            except HandfastError as error:
                self._without(error)

    def _without(self, error: HandfastError) -> None:
        """What was swapped while it was read is looked at again, and was not withdrawn."""
        if error.reason != "NO_FILE":
            _log.error("the new credentials in %s are not used: %s", self._path, error.message)
        elif self._look() == self._seen and self._holder.peek() is not None:
            _log.error("the credentials in %s were withdrawn: %s", self._path, error.message)
            self._holder.publish(None)

    def _look(self) -> tuple[object, ...]:
        """What changes when a generation does: where ``..data`` points to, or each file's identity."""
        seen: list[object] = []
        for name in ("..data", *_FILES):
            try:
                found = os.stat(self._path / name)  # noqa: PTH116  several times a second
                seen.append((found.st_ino, found.st_mtime_ns, found.st_size))
            except OSError:
                seen.append(None)
        return tuple(seen)

    def _read(self) -> Credentials:
        # All files of one generation: the link is resolved once.
        root = (self._path / "..data").resolve() if (self._path / "..data").exists() else self._path
        chain = load_certificates(_bytes(root / "tls.crt"))
        issuers = TrustBundle.from_pem(Leaf.of(chain[0]).spiffe_id.trust_domain, _bytes(root / "ca.crt"))
        bundle = TrustBundle(issuers.trust_domain, issuers.roots, (*issuers.issuers, *chain[1:]))
        now = self._clock.now()
        lists = split_pem(_bytes(root / "crl.pem")) if (root / "crl.pem").exists() else ()
        known = self._known
        for der in lists:
            if not any(one.der == der for one in known.lists.values()):
                known = known.with_list(RevocationList.verify(der, bundle, now=now))
        self._generation += 1
        made = Credentials.build(
            key=load_private_key(_bytes(root / "tls.key")),
            chain=chain,
            bundle=bundle,
            revocations=known,
            generation=self._generation,
            now=now,
        )
        self._known = known
        return made


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "NO_FILE" if gone else "UNREADABLE_FILE"
        raise NotFound(f"{file} cannot be read: {error.strerror}", reason=reason) from error
