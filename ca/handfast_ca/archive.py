"""The file that a backup is: a tar with a manifest in front, which names every member and its SHA-256.

The digests find damage. They do not find an attacker, who can write a manifest too: keep backups where nobody else can
write, and read them as secret. They hold no key, but every name in the mesh.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from handfast.errors import Conflict, HandfastError, Invalid, NotFound, Unavailable
from handfast.identity import TrustDomain
from handfast_ca.durable import sync_directory

__all__ = ["CONFIG", "ISSUER_KEY", "LEDGER", "TRAIL", "TRAIL_HEAD", "Manifest", "create", "pack", "unpack"]

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST = 64 * 1024
CONFIG, LEDGER, TRAIL, TRAIL_HEAD, ISSUER_KEY = (
    "handfast.yaml",
    "ledger.db",
    "audit.jsonl",
    "audit.jsonl.head",
    "issuer.key",
)
MEMBERS = frozenset({CONFIG, LEDGER, TRAIL, TRAIL_HEAD, ISSUER_KEY, "issuer.crt", "root.crt", "root.crl"})
REQUIRED = frozenset({CONFIG, LEDGER, "issuer.crt", "root.crt", "root.crl"})


@dataclass(frozen=True, slots=True)
class Manifest:
    """Whose backup it is and from when. ``sha256`` has every member but the manifest itself, in hexadecimal."""

    made_at: datetime
    trust_domain: TrustDomain
    root: str
    sha256: Mapping[str, str]

    def dump(self) -> bytes:
        return json.dumps(
            {
                "format": FORMAT,
                "made_at": self.made_at.isoformat(timespec="seconds"),
                "trust_domain": str(self.trust_domain),
                "root": self.root,
                "sha256": dict(sorted(self.sha256.items())),
            },
            indent=2,
        ).encode("ascii")

    @classmethod
    def load(cls, data: bytes) -> Manifest:
        read = json.loads(data)
        if read["format"] != FORMAT:
            raise ValueError(f"its format is {str(read['format'])[:20]!a}, this program knows {FORMAT}")
        made_at = datetime.fromisoformat(read["made_at"])
        if made_at.tzinfo is None:
            raise ValueError("its time has no zone")
        digests = {str(name): str(digest) for name, digest in read["sha256"].items()}
        return cls(made_at, TrustDomain(read["trust_domain"]), str(read["root"]), digests)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def create(target: Path) -> Iterator[Path]:
    """A private directory beside ``target`` to work in; its name ``target`` is taken from the start.

    Raises ``Conflict`` (``BACKUP_EXISTS``): nothing is ever written over. After an error ``target`` is gone; after
    ``kill -9`` it is empty, and no backup.
    """
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except FileExistsError as error:
        raise Conflict(f"{target} exists already", reason="BACKUP_EXISTS", hint="choose another name") from error
    except OSError as error:
        raise NotFound(f"{target} cannot be written: {error.strerror}", reason="NO_FILE") from error
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            yield Path(scratch)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def pack(members: Mapping[str, Path], manifest: Manifest, scratch: Path, target: Path) -> None:
    """Whole and durable under its name, or not at all. Mode 0600. ``Unavailable`` (``DISK_FULL``) when it cannot be."""
    packed = scratch / "packed.tar"
    try:
        with packed.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            with tarfile.open(fileobj=file, mode="w") as archive:
                _add(archive, MANIFEST, io.BytesIO(data := manifest.dump()), len(data), manifest.made_at)
                for name, path in members.items():
                    with path.open("rb") as member:
                        _add(archive, name, member, path.stat().st_size, manifest.made_at)
            file.flush()
            os.fsync(file.fileno())
        packed.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise Unavailable(f"{target} cannot be written: {error.strerror}", reason="DISK_FULL") from error


def _add(archive: tarfile.TarFile, name: str, data: BinaryIO, size: int, at: datetime) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode, about.mtime = size, 0o600, int(at.timestamp())
    archive.addfile(about, data)


def unpack(source: Path, into: Path) -> Manifest:
    """Writes every member into the private directory ``into``, and says whose they are.

    Only members that a backup has, as plain files of these names: no path in the tar is ever followed (threat E5).
    Raises ``NotFound`` (``NO_FILE``) or ``Invalid`` (``BACKUP_DAMAGED``).
    """
    try:
        with tarfile.open(source, mode="r:") as archive:
            manifest = _manifest(archive)
            for about in archive:
                if about.name != MANIFEST:
                    _extract(archive, about, into, manifest)
            _check_complete(manifest, {about.name for about in archive.getmembers()} - {MANIFEST})
    except OSError as error:
        raise NotFound(f"{source} cannot be read: {error.strerror or error}", reason="NO_FILE") from error
    except (tarfile.TarError, KeyError, ValueError, TypeError, AttributeError, RecursionError, HandfastError) as error:
        raise Invalid(
            f"{source} is no backup, or a damaged one: {error}",
            reason="BACKUP_DAMAGED",
            hint="take another backup; `handfast ca backup` makes them",
        ) from error
    return manifest


def _manifest(archive: tarfile.TarFile) -> Manifest:
    first = archive.next()
    file = archive.extractfile(first) if first and first.isreg() and first.name == MANIFEST else None
    if file is None:
        raise ValueError("it does not begin with a manifest")
    return Manifest.load(file.read(MAX_MANIFEST))


def _extract(archive: tarfile.TarFile, about: tarfile.TarInfo, into: Path, manifest: Manifest) -> None:
    file = archive.extractfile(about) if about.isreg() and about.name in MEMBERS else None
    if file is None:
        raise ValueError(f"unexpected member {about.name[:60]!a}")
    path = into / about.name
    if path.exists():
        raise ValueError(f"member {about.name} stands twice")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as copy:
        shutil.copyfileobj(file, copy)
    if sha256_of(path) != manifest.sha256.get(about.name):
        raise ValueError(f"member {about.name} is not what the manifest says")


def _check_complete(manifest: Manifest, found: set[str]) -> None:
    missing = (REQUIRED | manifest.sha256.keys()) - found
    if missing:
        raise ValueError(f"{', '.join(sorted(missing)[:5])} missing")
