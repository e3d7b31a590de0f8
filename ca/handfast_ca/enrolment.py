"""What a caller asks for and how it proves who it is: requests as values, join tokens as text and as digests."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from handfast.certificates import Leaf
from handfast.errors import Invalid, Unauthenticated
from handfast.identity import SpiffeId
from handfast.lifetime import format_duration
from handfast_ca.ledger import PresentedCertificate, TokenRecord
from handfast_ca.registration import Proof

__all__ = [
    "LONGEST_TOKEN_LIFETIME",
    "Application",
    "CreatedToken",
    "Enrolment",
    "JoinToken",
    "Renewal",
    "parse_cidr",
    "present",
    "request_digest",
    "token_lifetime",
]

LONGEST_TOKEN_LIFETIME = timedelta(minutes=10)
_TOKEN = re.compile(r"hft_([A-Za-z0-9_-]{43})", re.ASCII)
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class JoinToken:
    """256 random bits that stand for one enrolment of one identity. Only :attr:`digest` is ever stored."""

    text: str = field(repr=False)

    @classmethod
    def make(cls, random_bytes: Callable[[int], bytes]) -> JoinToken:
        """
        >>> JoinToken.make(lambda count: bytes(count))
        JoinToken(hft_AAAAAAAA...)
        """
        return cls("hft_" + base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode("ascii"))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Raises ``Unauthenticated`` (``TOKEN_MALFORMED``) without repeating what was sent: it may be a secret of
        another kind.
        """
        if not _TOKEN.fullmatch(text):
            raise Unauthenticated(
                f"the join token of {len(text)} characters is not hft_ and 43 of A-Z a-z 0-9 - _",
                reason="TOKEN_MALFORMED",
                hint="`handfast token create` prints one",
            )
        return cls(text)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.text.encode("ascii")).digest()

    @property
    def prefix(self) -> str:
        """All of it that a log may show: 48 bits of 256."""
        return self.text[len("hft_") :][:_SHOWN]

    def record(
        self, spiffe_id: SpiffeId, *, expires_at: datetime, created_by: str, allowed_cidr: str = ""
    ) -> TokenRecord:
        """What the ledger keeps of it."""
        return TokenRecord(self.digest, self.prefix, spiffe_id, expires_at, created_by, allowed_cidr)

    def __repr__(self) -> str:
        return f"JoinToken(hft_{self.prefix}...)"


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token, shown once."""

    token: JoinToken
    spiffe_id: SpiffeId
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A workload's first request. ``spiffe_id`` is who it believes to be; empty when it does not say."""

    token: str = field(repr=False)
    csr: bytes = field(repr=False)
    lifetime: timedelta | None = None
    spiffe_id: str = ""
    peer_address: str = ""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A later request, over the connection whose handshake proved ``presented``."""

    presented: Leaf
    csr: bytes = field(repr=False)
    lifetime: timedelta | None = None
    peer_address: str = ""


@dataclass(frozen=True, slots=True)
class Application:
    """One request of a caller that proved who it is: whose certificate it asks for, and what proved that.

    ``credential``: what its CSR is bound to; None on an operator's word and for the CA itself.
    """

    spiffe_id: SpiffeId
    csr: bytes = field(repr=False)
    obtained_by: str
    lifetime: timedelta | None = None
    credential: bytes | None = field(default=None, repr=False)
    proof: Proof | None = None
    peer_address: str = ""
    token_digest: bytes | None = None
    presented: PresentedCertificate | None = None


def present(leaf: Leaf) -> PresentedCertificate:
    """Issuer, serial *and* the whole bytes: a serial alone says little (threat C1)."""
    return PresentedCertificate(
        issuer_key_id=leaf.issuer_key_id,
        serial=leaf.serial,
        der_sha256=hashlib.sha256(leaf.der).digest(),
        spiffe_id=leaf.spiffe_id,
    )


def request_digest(credential: bytes, csr: bytes) -> bytes:
    """Names one request, so that it is answered again and not once more when its answer was lost."""
    return hashlib.sha256(hashlib.sha256(credential).digest() + csr).digest()


def token_lifetime(wanted: timedelta | None) -> timedelta:
    """At most ten minutes, which is also the default. Raises ``Invalid`` (``LIFETIME``)."""
    lifetime = LONGEST_TOKEN_LIFETIME if wanted is None else wanted
    if not timedelta() < lifetime <= LONGEST_TOKEN_LIFETIME:
        raise Invalid(
            f"token lifetime {format_duration(lifetime)} is not 1s to {format_duration(LONGEST_TOKEN_LIFETIME)}",
            reason="LIFETIME",
        )
    return lifetime


def parse_cidr(text: str) -> str:
    """A network in canonical form, or empty for any. Raises ``Invalid`` (``INVALID_CIDR``).

    >>> parse_cidr("10.1.0.0/16")
    '10.1.0.0/16'
    """
    if not text:
        return ""
    try:
        if str(ipaddress.ip_network(text)) == text:
            return text
    except ValueError:
        pass
    raise Invalid(
        f"network {text[:60]!a} is not in canonical form", reason="INVALID_CIDR", hint="write it like 10.1.0.0/16"
    )
