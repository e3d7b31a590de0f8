"""One file with all that a CA must not lose, made while the CA serves. Private keys only when they are asked for.

1. The ledger first, as of one moment; 2. the head of the audit trail; 3. the trail, which therefore is never older than
what the ledger and the head remember of it. What is in the trail and not in the ledger happened between 1 and 3.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from handfast.certificates import fingerprint, load_certificates
from handfast.errors import HandfastError, Invalid, NotFound, Refused
from handfast_ca import archive
from handfast_ca.audit_check import AuditReport, head_path, verify_audit
from handfast_ca.config import Config
from handfast_ca.custody.file import is_sealed, read_container
from handfast_ca.stores.snapshot import snapshot, summary

__all__ = ["BackedUp", "Keys", "back_up"]


class Keys(enum.Enum):
    """Which private keys go into a backup. The root's key never does: it has no business on the CA's machine."""

    NONE = "none"
    SEALED = "sealed"
    UNSEALED = "unsealed"
    """Also a key that only its file mode protects, which is then worth as much as the backup's."""


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What the file holds. ``counts``: entries, certificates, revoked, crl_number."""

    manifest: archive.Manifest
    counts: Mapping[str, int]
    audit: AuditReport | None
    keys: Keys
    size: int


def back_up(config_file: Path, config: Config, target: Path, *, keys: Keys = Keys.NONE, now: datetime) -> BackedUp:
    """Writes ``target``, mode 0600, over nothing that exists. Blocks; the CA may run, and does not notice.

    Raises ``Conflict`` (``BACKUP_EXISTS``), ``Invalid`` (``BACKUP_MEMBER``) for a public file that holds something else,
    ``Refused`` (``KEY_NOT_SEALED``), ``NotFound`` (``NO_LEDGER``, ``NO_FILE``, ``NO_KEY``), ``Broken``
    (``LEDGER_DAMAGED``, ``KEY_FILE_MODE``), ``Unavailable`` (``LEDGER_BUSY``, ``DISK_FULL``).
    """
    trail = config.state / "audit.jsonl"
    with archive.create(target) as scratch:
        members = {archive.CONFIG: _copy(config_file, scratch / archive.CONFIG)}
        members |= _public(config, scratch)
        if keys is not Keys.NONE:
            members[archive.ISSUER_KEY] = _key(config.issuer_key, keys, scratch / archive.ISSUER_KEY)
        snapshot(config.state / archive.LEDGER, scratch / archive.LEDGER)
        members[archive.LEDGER] = scratch / archive.LEDGER
        if head_path(trail).exists():
            members[archive.TRAIL_HEAD] = _copy(head_path(trail), scratch / archive.TRAIL_HEAD)
        if trail.exists():
            members[archive.TRAIL] = _copy_lines(trail, scratch / archive.TRAIL)
        root = load_certificates(members["root.crt"].read_bytes())[0]
        digests = {name: archive.sha256_of(path) for name, path in members.items()}
        manifest = archive.Manifest(now, config.trust_domain, fingerprint(root), digests)
        archive.pack(members, manifest, scratch, target)
        report = verify_audit(members[archive.TRAIL]) if archive.TRAIL in members else None
        stored = _stored_keys(members)
        return BackedUp(manifest, summary(members[archive.LEDGER]), report, stored, target.stat().st_size)


def _stored_keys(members: Mapping[str, Path]) -> Keys:
    if archive.ISSUER_KEY not in members:
        return Keys.NONE
    return Keys.SEALED if is_sealed(members[archive.ISSUER_KEY]) else Keys.UNSEALED


def _public(config: Config, scratch: Path) -> dict[str, Path]:
    places = {"issuer.crt": config.issuer_certificate, "root.crt": config.root_certificate, "root.crl": config.root_crl}
    return {name: _checked(_copy(path, scratch / name), path) for name, path in places.items()}


def _checked(copy: Path, source: Path) -> Path:
    """A certificate or list, and no key beside it in the same file (threat E3)."""
    octets = copy.read_bytes()
    try:
        x509.load_pem_x509_crl(octets) if copy.suffix == ".crl" else load_certificates(octets)
        why = "it holds a private key" if b"PRIVATE KEY-----" in octets else ""
    except (ValueError, HandfastError) as error:
        why = str(error)
    if why:
        raise Invalid(f"{source} does not belong in a backup as {copy.name}: {why}", reason="BACKUP_MEMBER")
    return copy


def _key(source: Path, keys: Keys, copy: Path) -> Path:
    """The file as it is: sealed it stays sealed."""
    data = read_container(source)
    copy.touch(0o600)
    copy.write_bytes(data)
    if keys is Keys.SEALED and not is_sealed(copy):
        raise Refused(
            f"the key {source} is not sealed: who reads the backup would have it",
            reason="KEY_NOT_SEALED",
            hint="--unsealed-keys takes it all the same: keep such a backup as you would keep the key",
        )
    return copy


def _copy(source: Path, target: Path) -> Path:
    try:
        target.touch(0o600)
        shutil.copyfile(source, target)
    except OSError as error:
        raise NotFound(f"{source} cannot be read: {error.strerror}", reason="NO_FILE") from error
    return target


def _copy_lines(trail: Path, target: Path) -> Path:
    """Whole lines only: the last one may be in the middle of being written, and is not acknowledged then."""
    _copy(trail, target)
    with target.open("r+b") as copy:
        end = copy.seek(0, 2)
        while end:
            start = max(end - 64 * 1024, 0)
            copy.seek(start)
            found = copy.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        copy.truncate(end)
    return target
