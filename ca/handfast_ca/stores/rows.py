"""Between rows and the ledger's values."""

from __future__ import annotations

import ipaddress
import json
import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from handfast.certificates import Usage
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.ledger import CertificateRecord, Intention, Status, TokenRecord
from handfast_ca.registration import Entry, Proof
from handfast_ca.stores.prepared import Row

__all__ = [
    "ceiling",
    "dump_certificate",
    "dump_entry",
    "dump_number",
    "dump_token",
    "epoch",
    "load_certificate",
    "load_entry",
    "load_number",
    "load_token",
    "moment",
]

NUMBER_OCTETS = 20
CACHED_TEXTS = 4096
"""Most rows are of few identities, again and again."""

_identity = lru_cache(CACHED_TEXTS)(SpiffeId.parse)


@lru_cache(CACHED_TEXTS)
def _texts(written: str) -> tuple[str, ...]:
    return tuple(json.loads(written))


def epoch(at: datetime) -> int:
    return math.floor(at.timestamp())


def ceiling(at: datetime) -> int:
    """The first whole second that is not before ``at``: ``stored >= at`` and ``stored >= ceiling(at)`` are the same."""
    return math.ceil(at.timestamp())


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def dump_number(number: int) -> bytes:
    return number.to_bytes(NUMBER_OCTETS, "big")


def load_number(octets: bytes | None) -> int:
    return int.from_bytes(octets or b"", "big")


def dump_entry(entry: Entry) -> str:
    return json.dumps(
        {
            "dns_names": entry.dns_names,
            "ip_addresses": [str(address) for address in entry.ip_addresses],
            "usages": sorted(entry.usages),
            "lifetime": entry.lifetime.total_seconds(),
            "proofs": sorted(entry.proofs),
            "selectors": entry.selectors,
            "allow_rsa": entry.allow_rsa,
            "comment": entry.comment,
            "created_at": entry.created_at.isoformat() if entry.created_at else None,
            "created_by": entry.created_by,
        }
    )


def load_entry(spiffe_id: str, version: int, body: str) -> Entry:
    read = json.loads(body)
    return Entry(
        spiffe_id=SpiffeId.parse(spiffe_id),
        dns_names=tuple(read["dns_names"]),
        ip_addresses=tuple(ipaddress.ip_address(text) for text in read["ip_addresses"]),
        usages=frozenset(map(Usage, read["usages"])),
        lifetime=timedelta(seconds=read["lifetime"]),
        proofs=frozenset(map(Proof, read["proofs"])),
        selectors=tuple(read["selectors"]),
        allow_rsa=read["allow_rsa"],
        comment=read["comment"],
        created_at=datetime.fromisoformat(read["created_at"]) if read["created_at"] else None,
        created_by=read["created_by"],
        version=version,
    )


def dump_token(token: TokenRecord) -> dict[str, Any]:
    return {
        "digest": token.digest,
        "prefix": token.prefix,
        "spiffe_id": str(token.spiffe_id),
        "expires_at": epoch(token.expires_at),
        "created_by": token.created_by,
        "allowed_cidr": token.allowed_cidr,
    }


def load_token(row: Row) -> TokenRecord:
    return TokenRecord(
        digest=row.digest,
        prefix=row.prefix,
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        expires_at=moment(row.expires_at),
        created_by=row.created_by,
        allowed_cidr=row.allowed_cidr,
    )


def dump_certificate(intention: Intention) -> dict[str, Any]:
    return {
        "issuer_key_id": intention.issuer_key_id,
        "serial": dump_number(intention.serial),
        "spiffe_id": str(intention.spiffe_id),
        "spki_sha256": intention.spki_sha256,
        "request_digest": intention.request_digest,
        "dns_names": json.dumps(intention.dns_names),
        "not_before": epoch(intention.not_before),
        "not_after": epoch(intention.not_after),
        "obtained_by": intention.obtained_by,
        "parent_serial": dump_number(intention.presented.serial) if intention.presented else None,
    }


def load_certificate(row: Row) -> CertificateRecord:
    return CertificateRecord(
        serial=load_number(row.serial),
        issuer_key_id=row.issuer_key_id,
        spiffe_id=_identity(row.spiffe_id),
        spki_sha256=row.spki_sha256,
        dns_names=_texts(row.dns_names),
        not_before=moment(row.not_before),
        not_after=moment(row.not_after),
        obtained_by=row.obtained_by,
        status=Status.INTENDED if row.der is None else Status.ISSUED,
        der=row.der,
        parent_serial=None if row.parent_serial is None else load_number(row.parent_serial),
        revoked_at=None if row.revoked_at is None else moment(row.revoked_at),
        reason=None if row.reason is None else Reason(row.reason),
    )
