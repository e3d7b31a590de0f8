"""The way back from a backup, without losing a revocation that this machine still knows.

1. unpack, and check every member; 2. whose it is, and where the configuration says things go; 3. hold the ledger, so that
no CA runs; 4. carry into the backup's ledger what only moves forward, from the present ledger and the audit trail;
5. put in place what is missing; 6. write it down; 7. swap the ledger in. Stopped at any point, it can be repeated.

What was issued or revoked after the backup, on a machine whose ledger is lost, is unknown to the restored ledger: the CA starts
in quarantine, and learns it from the agents (:mod:`handfast_ca.witnesses`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from handfast.certificates import fingerprint, load_certificates, subject_key_id
from handfast.clock import Clock
from handfast.errors import Conflict, Refused
from handfast_ca import archive
from handfast_ca.audit import FileAudit
from handfast_ca.audit_check import read_record
from handfast_ca.audit_revocations import recorded_revocations
from handfast_ca.config import Config, load
from handfast_ca.durable import sync_directory
from handfast_ca.incident import check_window
from handfast_ca.stores.database import check_sound, hold
from handfast_ca.stores.forward import Carried, carry_forward, carry_recorded, leap_numbers, quarantine, want_reissue
from handfast_ca.stores.snapshot import snapshot, summary

__all__ = ["Restored", "restore"]

_PATHS = ("issuer_certificate", "issuer_key", "root_certificate", "root_crl", "state")


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done. ``carried``: from the ledger that was there; ``recorded``: revocations that only the trail knew."""

    config: Config
    manifest: archive.Manifest
    counts: Mapping[str, int]
    carried: Carried | None
    recorded: int
    reissue: timedelta | None
    placed: tuple[Path, ...] = field(default=())
    kept: tuple[Path, ...] = field(default=())
    replaced: Path | None = None


def restore(
    source: Path, config_file: Path, *, merge: bool, clock: Clock, reissue: timedelta | None = None
) -> Restored:
    """Restores the CA of ``config_file``, or makes it from the configuration in the backup when there is none.

    ``merge`` agrees that a ledger which is there is replaced: the old file stays beside it, and all that moves only
    forward goes into the restored one. What else is in place stays, since it is no older. Without a ledger to take that from,
    the restored CA is in quarantine. ``reissue``: the window in which every agent shall replace its certificate, from the
    moment on in which the CA signs again.

    Blocks, and needs a thread without an event loop. Raises ``Invalid`` (``BACKUP_DAMAGED``, ``INVALID_WINDOW``), ``Refused`` (``STATE_EXISTS``, ``BACKUP_FOREIGN``, ``RESTORE_OUTSIDE``,
    ``AUDIT_DIVERGED``), ``Conflict`` (``LEDGER_IN_USE``, ``AUDIT_IN_USE``) while a CA runs, ``Broken``
    (``LEDGER_DAMAGED``) for a present ledger that cannot be read. Then nothing that was there has changed.
    """
    if reissue is not None:
        check_window(reissue)
    config_file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config_file.parent, prefix=".restore.") as directory:
        scratch = Path(directory)
        manifest = archive.unpack(source, scratch)
        config = load(config_file) if config_file.exists() else _config_of(scratch, config_file)
        _check_ours(manifest, config)
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        ledger = config.state / archive.LEDGER
        if ledger.exists() and not merge:
            raise Refused(
                f"{ledger} exists already",
                reason="STATE_EXISTS",
                hint="--merge replaces it, keeps it aside, and keeps its revocations",
            )
        lock = hold(ledger)
        try:
            return _with_lock(scratch, manifest, config_file, config, clock, reissue)
        finally:
            os.close(lock)


def _config_of(scratch: Path, config_file: Path) -> Config:
    """The backup's own. It decides where files are written, so its paths may not leave the directory (threat E5)."""
    unpacked, home = scratch.resolve(), config_file.parent.resolve()
    trial = load(scratch / archive.CONFIG)
    for path in _places(trial).values():
        if not path.is_relative_to(unpacked):
            raise Refused(
                f"the configuration in the backup names {path}, outside {home}",
                reason="RESTORE_OUTSIDE",
                hint=f"write {config_file} yourself, then restore again",
            )
    moved = {name: home / getattr(trial, name).relative_to(unpacked) for name in _PATHS}
    return replace(trial, **moved)


def _places(config: Config) -> dict[str, Path]:
    return {
        "root.crt": config.root_certificate,
        "root.crl": config.root_crl,
        "issuer.crt": config.issuer_certificate,
        archive.ISSUER_KEY: config.issuer_key,
        archive.TRAIL_HEAD: config.state / archive.TRAIL_HEAD,
        archive.TRAIL: config.state / archive.TRAIL,
        archive.LEDGER: config.state / archive.LEDGER,
    }


def _check_ours(manifest: archive.Manifest, config: Config) -> None:
    if manifest.trust_domain != config.trust_domain:
        raise Refused(
            f"the backup is of {manifest.trust_domain}, this CA is of {config.trust_domain}", reason="BACKUP_FOREIGN"
        )
    if config.root_certificate.exists():
        root = fingerprint(load_certificates(config.root_certificate.read_bytes())[0])
        if root != manifest.root:
            raise Refused(
                f"the backup is of the root {manifest.root}, this CA's root is {root}",
                reason="BACKUP_FOREIGN",
                hint="name the configuration of the CA that the backup is of, or an empty directory",
            )


def _with_lock(
    scratch: Path,
    manifest: archive.Manifest,
    config_file: Path,
    config: Config,
    clock: Clock,
    reissue: timedelta | None,
) -> Restored:
    places = _places(config)
    ledger, trail = places.pop(archive.LEDGER), places[archive.TRAIL]
    if not config_file.exists():
        places[archive.CONFIG] = config_file
    if trail.exists():
        places.pop(archive.TRAIL_HEAD)  # head and trail belong together
        _check_continues(trail, scratch / archive.TRAIL)
    carried, recorded = _carry(scratch, config, ledger, trail, clock.now())
    if reissue is not None:
        want_reissue(scratch / archive.LEDGER, clock.now(), reissue)
    present = {name: path for name, path in places.items() if (scratch / name).exists()}
    kept = tuple(path for path in present.values() if path.exists())
    placed = tuple(_place(scratch / name, path) for name, path in present.items() if not path.exists())
    asyncio.run(_write_down(trail, clock, manifest, carried, recorded))
    counts = summary(scratch / archive.LEDGER)
    replaced = _swap(scratch / archive.LEDGER, ledger, clock.now())
    return Restored(config, manifest, counts, carried, recorded, reissue, (*placed, ledger), kept, replaced)


def _check_continues(trail: Path, backed_up: Path) -> None:
    """The trail in place must be the backup's own, gone on: another one would be evidence of something else."""
    last = _last_line(backed_up) if backed_up.exists() else b""
    record = read_record(last) if last else None
    if record is None:
        return
    with trail.open("rb") as lines:
        if not any(line == last for line in lines):
            raise Refused(
                f"the audit trail {trail} does not have record {record.position.seq} of the backup's",
                reason="AUDIT_DIVERGED",
                hint=f"move {trail} and its .head file to another place and keep them, then restore again",
            )


def _last_line(trail: Path) -> bytes:
    last = b""
    with trail.open("rb") as lines:
        for line in lines:
            last = line
    return last


def _carry(scratch: Path, config: Config, ledger: Path, trail: Path, now: datetime) -> tuple[Carried | None, int]:
    """Into the copy in ``scratch``; nothing in place has changed yet."""
    older = scratch / archive.LEDGER
    check_sound(older)
    if ledger.exists():
        check_sound(ledger, hint=f"move {ledger} and its -wal to another place, then restore again: the audit trail "
                    "says what was revoked")  # fmt: skip
        carried = carry_forward(ledger, older)
    else:
        carried = None
        quarantine(older, now)
    leap_numbers(older, now)
    recorded = 0
    if trail.exists():
        issuer = load_certificates((scratch / "issuer.crt").read_bytes())[0]
        recorded = carry_recorded(recorded_revocations(trail), older, subject_key_id(issuer) or b"")
    return carried, recorded


def _place(source: Path, target: Path) -> Path:
    """A new file, mode 0600 and durable; certificates too, since nobody but the CA reads them here."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{target} exists already", reason="STATE_EXISTS") from error
    with os.fdopen(handle, "wb") as file, source.open("rb") as content:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())
    return target


async def _write_down(
    trail: Path, clock: Clock, manifest: archive.Manifest, carried: Carried | None, recorded: int
) -> None:
    audit = FileAudit(trail, clock)
    try:
        merged = "no ledger was there" if carried is None else f"{carried.revocations} revocations from the ledger"
        detail = f"backup of {manifest.made_at.isoformat()}; {merged}, {recorded} from this trail"
        await audit.append({"event": "restore", "decision": "granted", "by": "ca restore", "detail": detail})
    finally:
        await audit.close()


def _swap(merged: Path, ledger: Path, now: datetime) -> Path | None:
    aside = None
    if ledger.exists():
        aside = ledger.with_name(f"{ledger.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
        snapshot(ledger, aside)
    ready = ledger.with_name(f"{ledger.name}.restoring")
    ready.unlink(missing_ok=True)
    _place(merged, ready)
    for suffix in ("-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
    ready.replace(ledger)
    sync_directory(ledger.parent)
    return aside
