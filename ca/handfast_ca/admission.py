"""Decides whether a request gets a certificate, and what that certificate says. Pure.

The certificate is built from the registration entry. From the request we take only the public key; a name in it that
the entry does not give is an error, never dropped and never merged (threat A0). All reasons are reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from handfast.certificates import Usage
from handfast.csr import CertificateRequest
from handfast.errors import Refused, ViolationsCollector
from handfast.identity import IPAddress, SpiffeId
from handfast.keys import DEFAULT_LEAF_KEYS, LEAF_KEYS_WITH_RSA, KeyPolicy, PublicKey
from handfast.lifetime import format_duration
from handfast_ca.profile import Profile
from handfast_ca.registration import MINIMUM_LIFETIME, Entry, Proof

__all__ = ["Admitted", "admit", "key_policy"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a leaf will say, before anybody chose its serial and its dates."""

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...]
    ip_addresses: tuple[IPAddress, ...]
    usages: frozenset[Usage]
    lifetime: timedelta
    public_key: PublicKey = field(repr=False)
    spki_sha256: bytes = field(repr=False)


def key_policy(entry: Entry) -> KeyPolicy:
    """RSA only where the entry says so."""
    return LEAF_KEYS_WITH_RSA if entry.allow_rsa else DEFAULT_LEAF_KEYS


def admit(
    request: CertificateRequest,
    entry: Entry,
    profile: Profile,
    *,
    binding: str | None,
    lifetime: timedelta | None = None,
    proof: Proof | None = None,
) -> Admitted:
    """The decision. ``binding`` is what the request must carry to belong to its proof (threat A13); None: no proof to
    bind to.

    ``proof`` is how the caller showed who it is, where the entry has a say in that. ``lifetime`` only ever shortens.
    Raises ``Refused`` with every violation: ``NOT_ENTITLED``, ``PROOF_NOT_ALLOWED``, ``CSR_NOT_BOUND``, ``LIFETIME``.
    """
    found = ViolationsCollector()
    if proof is not None and proof not in entry.proofs:
        allowed = ", ".join(sorted(entry.proofs)) or "no proof"
        found.add("proof", "PROOF_NOT_ALLOWED", f"the entry of {entry.spiffe_id} takes {allowed}, not {proof}")
    if binding is not None and request.binding != binding:
        found.add("csr.challengePassword", "CSR_NOT_BOUND", "the CSR was not made for the proof it came with")
    _check_names(request, entry, found)
    life = _lifetime(lifetime, entry, profile, found)
    found.raise_if_any(
        f"{entry.spiffe_id} is refused",
        kind=Refused,
        hint=f"`handfast entry show {entry.spiffe_id}` tells what it may have",
    )
    return Admitted(
        spiffe_id=entry.spiffe_id,
        dns_names=entry.dns_names,
        ip_addresses=entry.ip_addresses,
        usages=entry.usages,
        lifetime=life,
        public_key=request.public_key,
        spki_sha256=request.spki_sha256,
    )


def _check_names(request: CertificateRequest, entry: Entry, found: ViolationsCollector) -> None:
    """Byte for byte: no case folding, no trailing dot, no wildcard (threats A2, A3, A6)."""
    for index, uri in enumerate(request.uris):
        if uri != str(entry.spiffe_id):
            found.add(f"csr.uris[{index}]", "NOT_ENTITLED", f"SPIFFE ID {uri} is not {entry.spiffe_id}")
    for index, name in enumerate(request.dns_names):
        if name not in entry.dns_names:
            found.add(
                f"csr.dns_names[{index}]", "NOT_ENTITLED", f"DNS name {name} is not in the entry of {entry.spiffe_id}"
            )
    for index, address in enumerate(request.ip_addresses):
        if address not in entry.ip_addresses:
            found.add(
                f"csr.ip_addresses[{index}]",
                "NOT_ENTITLED",
                f"IP address {address} is not in the entry of {entry.spiffe_id}",
            )


def _lifetime(wanted: timedelta | None, entry: Entry, profile: Profile, found: ViolationsCollector) -> timedelta:
    """The entry's, bounded by the profile (which may have become stricter since); a wish beyond it is refused, not
    cut.
    """
    longest = min(entry.lifetime, profile.longest)
    if wanted is None:
        return longest
    whole = timedelta(seconds=wanted // timedelta(seconds=1))
    if not MINIMUM_LIFETIME <= whole <= longest:
        found.add(
            "lifetime",
            "LIFETIME",
            f"lifetime {format_duration(wanted)} is not "
            f"{format_duration(MINIMUM_LIFETIME)} to {format_duration(longest)}",
        )
    return whole
