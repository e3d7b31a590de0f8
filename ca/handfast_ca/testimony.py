"""What an agent says of the CA's own lists, and what one of them tells. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from handfast.revocation import Reason
from handfast_ca.ledger import RevokedEntry

__all__ = ["MAX_LIST_BYTES", "Checkpoint", "Claim", "unheard_entries"]

MAX_LIST_BYTES = 16 * 1024 * 1024
"""Of one list that an agent sends: some 350,000 entries."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The newest list of one issuer that an agent ever accepted. ``held``: it can still send it."""

    issuer_key_id: bytes
    number: int
    digest: bytes
    held: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an agent knows of the CA."""

    claims: tuple[Claim, ...]
    bundle_sequence: int = 0


def unheard_entries(der: bytes, since: datetime, unheard: frozenset[int]) -> tuple[RevokedEntry, ...]:
    """Of a verified list: those among ``unheard`` that were revoked at ``since`` or later."""
    if not unheard:
        return ()
    return tuple(
        RevokedEntry(entry.serial_number, entry.revocation_date_utc, _reason(entry))
        for entry in x509.load_der_x509_crl(der)
        if entry.serial_number in unheard and entry.revocation_date_utc >= since
    )


def _reason(entry: x509.RevokedCertificate) -> Reason:
    try:
        given = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        return Reason(given.name.replace("_", "-"))
    except (x509.ExtensionNotFound, ValueError):
        return Reason.UNSPECIFIED
