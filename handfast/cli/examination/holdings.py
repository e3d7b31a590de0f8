"""Credentials in a directory: the key's mode, the certificate, the roots, the revocation lists."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from handfast.bundle import TrustBundle
from handfast.cli.checks import Check, Level, failed
from handfast.cli.operator import WARN_BELOW, read_credentials
from handfast.cli.output import shown_time
from handfast.credentials import Credentials
from handfast.errors import HandfastError
from handfast.lifetime import format_duration
from handfast.revocation import Freshness, format_crl_number

__all__ = ["check_bundle", "check_certificate", "check_directory", "check_lists"]

ROOT_NOTICE = timedelta(days=180)
"""A root takes that long to replace in a mesh that nobody stops."""


def check_directory(group: str, directory: Path, hint: str) -> tuple[list[Check], Credentials | None]:
    """Reads the directory once. ``hint`` says how new credentials are had when these cannot be used."""
    checks = list(_check_key(group, directory / "tls.key"))
    try:
        found = read_credentials(directory)
    except HandfastError as error:
        return [*checks, failed(group, "credentials", error, hint)], None
    return checks, found


def _check_key(group: str, key: Path) -> Iterator[Check]:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError:
        return  # reading the credentials says so, with the reason
    if mode & 0o077:
        detail = f"mode {mode:04o} of {key} lets others read it"
        yield Check(group, "key", Level.FAILED, detail, f"`chmod 600 {key}`, and renew: others may have the old one")
    else:
        yield Check(group, "key", Level.OK, f"mode {mode:04o}")


def check_certificate(group: str, credentials: Credentials, now: datetime, hint: str) -> Check:
    leaf, validity = credentials.leaf, credentials.leaf.validity
    left = validity.not_after - now
    detail = f"{leaf.spiffe_id} until {shown_time(validity.not_after)}, {format_duration(left)} left"
    revoked = credentials.revocations.revoked(leaf.issuer_key_id, leaf.serial)
    if revoked:
        return Check(group, "certificate", Level.FAILED, f"serial {leaf.serial_text} is revoked", hint)
    soon = left / validity.duration < WARN_BELOW
    return Check(group, "certificate", Level.WARNING if soon else Level.OK, detail, hint if soon else "")


def check_bundle(group: str, bundle: TrustBundle, now: datetime) -> Check:
    if not bundle.roots:
        return Check(
            group, "bundle", Level.FAILED, "no root: nothing is trusted", "`handfast bundle download` gets them"
        )
    ends = min(root.not_valid_after_utc for root in bundle.roots)
    detail = f"{len(bundle.roots)} root{'s' * (len(bundle.roots) != 1)}, the first ends {shown_time(ends)}"
    soon = ends - now < ROOT_NOTICE
    return Check(
        group, "bundle", Level.WARNING if soon else Level.OK, detail, "plan its replacement now" if soon else ""
    )


def check_lists(group: str, credentials: Credentials, now: datetime) -> Check:
    """Only of the list that peers of the same issuer are judged by."""
    key_id = credentials.leaf.issuer_key_id
    state = credentials.revocations.freshness(key_id, now)
    if state is Freshness.UNKNOWN:
        return Check(group, "revocations", Level.FAILED, "no list of the issuer", "`handfast crl download` gets it")
    known = credentials.revocations.lists[key_id]
    detail = f"{state} list number {format_crl_number(known.number)}, next by {shown_time(known.next_update)}"
    level = {Freshness.FRESH: Level.OK, Freshness.STALE: Level.WARNING}.get(state, Level.FAILED)
    return Check(group, "revocations", level, detail, "is the CA's HTTP address right, and does it publish?")
