"""Registration entries: who may become whom. Parsed once; past this line nobody checks them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TypeVar

from handfast.certificates import Usage
from handfast.errors import Invalid, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId, TrustDomain, parse_dns_name, parse_ip_address
from handfast.lifetime import format_duration

__all__ = [
    "MAX_COMMENT",
    "MINIMUM_LIFETIME",
    "RESERVED_PATH",
    "WHY_CLIENT",
    "Entry",
    "Proof",
    "kept_by_agents",
    "register",
]

MINIMUM_LIFETIME = timedelta(minutes=1)
MAX_COMMENT = 200
MAX_NAMES = 8
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

RESERVED_PATH = "/handfast/"
"""Identities of the CA itself and its operators live here; `entry add` refuses them."""


WHY_CLIENT = "an agent renews and hears of revocations as a TLS client: the usages must have client"


class Proof(StrEnum):
    """How a workload may prove that it is an identity."""

    JOIN_TOKEN = "join-token"  # noqa: S105 - the name of a proof, not one
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Entry:
    """One identity and what its certificates may carry. ``version`` rises with every change."""

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPAddress, ...] = ()
    usages: frozenset[Usage] = frozenset(Usage)
    lifetime: timedelta = timedelta(hours=24)
    proofs: frozenset[Proof] = frozenset(Proof)
    selectors: tuple[str, ...] = ()
    allow_rsa: bool = False
    comment: str = ""
    created_at: datetime | None = None
    created_by: str = ""
    version: int = 1

    def stamped(self, *, now: datetime, by: str, version: int) -> Entry:
        return replace(self, created_at=now, created_by=by, version=version)


def register(
    spiffe_id: str,
    *,
    trust_domain: TrustDomain,
    longest: timedelta,
    dns_names: Iterable[str] = (),
    ip_addresses: Iterable[str] = (),
    usages: Iterable[str] = (),
    lifetime: timedelta | None = None,
    proofs: Iterable[str] = (),
    selectors: Iterable[str] = (),
    allow_rsa: bool = False,
    comment: str = "",
) -> Entry:
    """Turns what a person wrote into an entry, or raises ``Invalid`` with every mistake at once."""
    found = ViolationsCollector()
    identity = _one(found, "spiffe_id", spiffe_id, SpiffeId.parse)
    if identity is not None and identity.trust_domain != trust_domain:
        found.add("spiffe_id", "FOREIGN_TRUST_DOMAIN", f"{identity} is not of trust domain {trust_domain}")
    if identity is not None and identity.path.startswith(RESERVED_PATH):
        found.add("spiffe_id", "RESERVED_PATH", f"{identity}: paths below {RESERVED_PATH} belong to the CA itself")
    names = _each(found, "dns_names", dns_names, parse_dns_name)
    addresses = _each(found, "ip_addresses", ip_addresses, parse_ip_address)
    if len(names) + len(addresses) > MAX_NAMES:
        found.add(
            "dns_names", "TOO_MANY_NAMES", f"{len(names) + len(addresses)} names exceed the maximum of {MAX_NAMES}"
        )
    wanted = lifetime if lifetime is not None else min(timedelta(hours=24), longest)
    if not MINIMUM_LIFETIME <= wanted <= longest:
        found.add(
            "lifetime",
            "LIFETIME",
            f"lifetime {format_duration(wanted)} is not "
            f"{format_duration(MINIMUM_LIFETIME)} to {format_duration(longest)}",
        )
    if len(comment) > MAX_COMMENT or not comment.isprintable():
        found.add("comment", "INVALID_COMMENT", f"the comment is not at most {MAX_COMMENT} printable characters")
    used_for = _each(found, "usages", usages, partial(_chosen, Usage)) or tuple(Usage)
    proved_by = _each(found, "proofs", proofs, partial(_chosen, Proof)) or _proofs_for(used_for)
    if Proof.JOIN_TOKEN in proved_by and not kept_by_agents(used_for):
        found.add("proofs", "CLIENT_USAGE_NEEDED", f"{Proof.JOIN_TOKEN}: {WHY_CLIENT}")
    found.raise_if_any("the entry is not valid", kind=Invalid)
    assert identity is not None
    return Entry(
        spiffe_id=identity,
        dns_names=names,
        ip_addresses=addresses,
        usages=frozenset(used_for),
        lifetime=wanted,
        proofs=frozenset(proved_by),
        selectors=tuple(selectors),
        allow_rsa=allow_rsa,
        comment=comment,
    )


def kept_by_agents(usages: Iterable[Usage]) -> bool:
    """Whether a certificate for these may prove itself to the CA, as every renewal does (RFC 5280, 4.2.1.12)."""
    return Usage.CLIENT in usages


def _proofs_for(usages: Iterable[Usage]) -> tuple[Proof, ...]:
    return tuple(Proof) if kept_by_agents(usages) else (Proof.OPERATOR,)


def _one(found: ViolationsCollector, field: str, text: str, parse: Callable[[str], T]) -> T | None:
    try:
        return parse(text)
    except Invalid as error:
        found.add(field, error.reason, error.message)
    return None


def _chosen(kind: type[E], text: str) -> E:
    if text not in list(kind):
        raise Invalid(f"{text[:60]!a} is not one of {', '.join(kind)}", reason="INVALID")
    return kind(text)


def _each(found: ViolationsCollector, field: str, texts: Iterable[str], parse: Callable[[str], T]) -> tuple[T, ...]:
    read = (_one(found, f"{field}[{index}]", text, parse) for index, text in enumerate(texts))
    values = tuple(value for value in read if value is not None)
    if len(set(values)) != len(values):
        found.add(field, "DUPLICATE", "the same value stands twice")
    return values
