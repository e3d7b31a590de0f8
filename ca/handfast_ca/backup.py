"""One file with all that a CA must not lose, except keys; and the way back.

The file is a tar: ``ledger.db``, ``audit.jsonl``, the public certificates, and ``manifest.json`` with the SHA-256 of
each. Keys are never in it. Restoring never loses a revocation that the present ledger knows: it is refused unless the
caller asks for both to be merged; keys that were blocked stay blocked, and the
join tokens of the backup, which may have been spent since, are gone. CRL numbers begin a new epoch, past all that was
ever published. Quarantine after a restore (what was issued after the backup is unknown) is not part
of this module yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from handfast.certificates import format_serial
from handfast.errors import Conflict, Invalid, Refused
from handfast_ca.ledger import CertificateFilter, CertificateRecord, Ledger
from handfast_ca.stores.forward import carry_forward, raise_crl_epoch
from handfast_ca.stores.sqlite import SqliteLedger

__all__ = ["back_up", "restore"]

FORMAT = 1
LEDGER = "ledger.db"
MANIFEST = "manifest.json"
MEMBERS = frozenset({LEDGER, "audit.jsonl", "root.crt", "issuer.crt", "latest.crl", MANIFEST})


async def back_up(ledger: Ledger, target: Path, public: Mapping[str, Path], *, now: datetime) -> None:
    """Writes ``target``, mode 0600, while the ledger serves. ``public`` names further members and where they are.

    Raises ``Invalid`` (``BACKUP_MEMBER``) for a name that does not belong in a backup or a file that holds a private
    key, and ``Conflict`` (``BACKUP_EXISTS``) when there is a file at ``target``.
    """
    members = {name: await asyncio.to_thread(_public, name, path) for name, path in public.items()}
    with TemporaryDirectory(dir=target.parent) as directory:
        copy = Path(directory) / LEDGER
        await ledger.backup(str(copy))
        members[LEDGER] = await asyncio.to_thread(copy.read_bytes)
    await asyncio.to_thread(_write, target, members, now)


def _public(name: str, path: Path) -> bytes:
    octets = path.read_bytes()
    if name not in MEMBERS - {LEDGER, MANIFEST} or b"PRIVATE KEY-----" in octets:
        raise Invalid(f"{path} does not belong in a backup as {name[:60]!a}", reason="BACKUP_MEMBER")
    return octets


def _write(target: Path, members: Mapping[str, bytes], now: datetime) -> None:
    digests = {name: hashlib.sha256(octets).hexdigest() for name, octets in sorted(members.items())}
    manifest = json.dumps({"format": FORMAT, "made_at": now.isoformat(), "sha256": digests}, indent=2).encode()
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{target} exists already", reason="BACKUP_EXISTS", hint="choose another name") from error
    with os.fdopen(handle, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, octets in {MANIFEST: manifest, **members}.items():
                about = tarfile.TarInfo(name)
                about.size, about.mode, about.mtime = len(octets), 0o600, int(now.timestamp())
                archive.addfile(about, io.BytesIO(octets))
        file.flush()
        os.fsync(file.fileno())


async def restore(source: Path, directory: Path, *, merge: bool, now: datetime) -> int:
    """Puts the members of ``source`` into ``directory``; returns how many revocations came from the present ledger.

    Raises ``Invalid`` (``BACKUP_DAMAGED``), ``Conflict`` (``LEDGER_IN_USE``) while a CA runs, and ``Refused``
    (``STATE_EXISTS``) for a directory that has a ledger, unless ``merge``: then the present one stays beside it as
    ``ledger.db.replaced``, and all that it knows as revoked is revoked in the restored one too; other members of the backup are left
    aside, since the present ones are newer. ``RESTORE_UNKNOWN``:
    it knows revoked certificates that the backup has never seen; restoring would lose them.
    """
    members = await asyncio.to_thread(_read, source)
    present = directory / LEDGER
    if not present.exists():
        await asyncio.to_thread(_place, directory, members)
        await asyncio.to_thread(raise_crl_epoch, present, now)
        return 0
    if not merge:
        raise Refused(
            f"{present} exists already", reason="STATE_EXISTS", hint="merge its revocations into the backup's"
        )
    return await _merge(directory, members, now)


def _read(source: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(source, mode="r:") as archive:
            members = {about.name: _octets(archive, about) for about in archive}
        manifest = json.loads(members.pop(MANIFEST))
        digests = {name: hashlib.sha256(octets).hexdigest() for name, octets in members.items()}
        sound = manifest["format"] == FORMAT and digests == manifest["sha256"] and LEDGER in members
    except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise Invalid(f"backup {source} cannot be read: {error}", reason="BACKUP_DAMAGED") from error
    if not sound:
        raise Invalid(f"backup {source} is not what its manifest says", reason="BACKUP_DAMAGED")
    return members


def _octets(archive: tarfile.TarFile, about: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(about) if about.isreg() and about.name in MEMBERS else None
    if file is None:
        raise ValueError(f"unexpected member {about.name[:60]!a}")
    return file.read()


def _place(directory: Path, members: Mapping[str, bytes]) -> None:
    for name, octets in members.items():
        path = directory / name
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())


async def _merge(directory: Path, members: Mapping[str, bytes], now: datetime) -> int:
    present = await SqliteLedger.open(directory / LEDGER)
    try:
        revoked = await _matching(present, CertificateFilter(status="revoked", now=now))
        with TemporaryDirectory(dir=directory) as scratch:
            await asyncio.to_thread(_place, Path(scratch), {LEDGER: members[LEDGER]})
            merged = await _carry_over(Path(scratch) / LEDGER, revoked, now)
            await present.close()
            await asyncio.to_thread(carry_forward, directory / LEDGER, Path(scratch) / LEDGER)
            await asyncio.to_thread(raise_crl_epoch, Path(scratch) / LEDGER, now)
            await asyncio.to_thread(_swap, directory, Path(scratch) / LEDGER)
    finally:
        await present.close()
    return merged


async def _matching(ledger: Ledger, wanted: CertificateFilter) -> list[CertificateRecord]:
    page = await ledger.list_certificates(wanted, limit=500)
    found = list(page.items)
    while page.next_token:
        page = await ledger.list_certificates(wanted, limit=500, token=page.next_token)
        found.extend(page.items)
    return found


async def _carry_over(path: Path, revoked: list[CertificateRecord], now: datetime) -> int:
    ledger = await SqliteLedger.open(path)
    try:
        known = {record.serial for record in await _matching(ledger, CertificateFilter())}
        lost = [record for record in revoked if record.serial not in known]
        if lost:
            raise Refused(
                f"the backup does not know {len(lost)} revoked certificates, such as {format_serial(lost[0].serial)}",
                reason="RESTORE_UNKNOWN",
                hint="restore a newer backup",
            )
        merged = 0
        for record in revoked:
            if (await ledger.find(record.serial)).revoked_at is None and record.reason is not None:
                await ledger.revoke_serial(record.serial, record.reason, now=record.revoked_at or now)
                merged += 1
        return merged
    finally:
        await ledger.close()


def _swap(directory: Path, merged: Path) -> None:
    present = directory / LEDGER
    shutil.copy2(present, directory / f"{LEDGER}.replaced")
    for suffix in ("-wal", "-shm"):
        Path(f"{present}{suffix}").unlink(missing_ok=True)
    merged.replace(present)
