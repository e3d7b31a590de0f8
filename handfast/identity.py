"""SPIFFE identities and DNS names: parsed, frozen, matched whole.

Rules: SPIFFE-ID, 2.1 to 2.3; RFC 1123, 2.1 and RFC 5890, 2.3.1 for DNS names. Nothing is normalised, ever: what is
not already in its one canonical form is refused, so ``str(parse(s)) == s`` or ``parse`` raises.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass

from handfast.errors import Invalid

__all__ = ["MAX_SPIFFE_ID_BYTES", "IPAddress", "SpiffeId", "TrustDomain", "parse_dns_name", "parse_ip_address"]

MAX_SPIFFE_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _shown(text: str) -> str:
    """The text as a person may safely read it in an error: escaped and cut."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of one mesh. Raises ``Invalid`` (``INVALID_TRUST_DOMAIN``) for what is none (SPIFFE-ID, 2.1).

    >>> str(TrustDomain("prod.example"))
    'prod.example'
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.fullmatch(self.name):
            raise Invalid(
                f"trust domain {_shown(self.name)} is not 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z 0-9 . - _",
                reason="INVALID_TRUST_DOMAIN",
                hint="a trust domain looks like prod.example, without scheme, port or path",
            )

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """``spiffe://trust-domain/path``: who a workload is.

    >>> web = SpiffeId.parse("spiffe://prod.example/web")
    >>> web.trust_domain.name, web.path
    ('prod.example', '/web')
    >>> str(web)
    'spiffe://prod.example/web'
    """

    trust_domain: TrustDomain
    path: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Reads an ID with a path. Raises :class:`~handfast.errors.Invalid` (``INVALID_SPIFFE_ID``)."""
        return _parse_spiffe_id(text)

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise _bad_id(f"spiffe://{self.trust_domain}{self.path}", "the path does not start with a slash")
        for segment in self.path[1:].split("/"):
            if segment in ("", ".", ".."):
                raise _bad_id(f"spiffe://{self.trust_domain}{self.path}", "a path segment is empty, . or ..")
            if not _SEGMENT.fullmatch(segment):
                raise _bad_id(
                    f"spiffe://{self.trust_domain}{self.path}", "a path segment has more than letters, digits, . - _"
                )
        if len(self.trust_domain.name) + len(self.path) + len("spiffe://") > MAX_SPIFFE_ID_BYTES:
            raise _bad_id(f"spiffe://{self.trust_domain}{self.path}", f"it is longer than {MAX_SPIFFE_ID_BYTES} bytes")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain.name}{self.path}"


@functools.lru_cache(maxsize=4096)
def _parse_spiffe_id(text: str) -> SpiffeId:
    if len(text) > MAX_SPIFFE_ID_BYTES:
        raise _bad_id(text, f"it is longer than {MAX_SPIFFE_ID_BYTES} bytes")
    if not text.startswith("spiffe://"):
        raise _bad_id(text, "it does not start with spiffe://")
    authority, slash, path = text[len("spiffe://") :].partition("/")
    if not slash or not path:
        raise _bad_id(text, "it has no path, and only a signing authority may lack one")
    try:
        trust_domain = TrustDomain(authority)
    except Invalid as error:
        raise _bad_id(text, error.message) from None
    return SpiffeId(trust_domain, "/" + path)


def _bad_id(text: str, why: str) -> Invalid:
    return Invalid(
        f"SPIFFE ID {_shown(text)}: {why}",
        reason="INVALID_SPIFFE_ID",
        hint="a SPIFFE ID looks like spiffe://prod.example/ns/shop/sa/web",
    )


def parse_dns_name(text: str) -> str:
    """A DNS name as a certificate may carry it: lower-case LDH labels, no wildcard, no trailing dot.

    A-labels (``xn--``) pass as they are; U-labels do not. A name whose last label is numeric is refused because
    some verifiers read it as an address (RFC 1123, 2.1; WHATWG URL, which takes hexadecimal too).

    >>> parse_dns_name("web.shop.svc")
    'web.shop.svc'
    """
    labels = text.split(".")
    if not text or len(text) > 253:
        why = "it is not 1 to 253 characters long"
    elif "*" in text:
        why = "wildcards are not issued"
    elif not all(_DNS_LABEL.fullmatch(label) for label in labels):
        why = "a label is not 1 to 63 of a-z 0-9 - or starts or ends with a hyphen"
    elif _NUMBER.fullmatch(labels[-1]):
        why = "the last label is a number"
    else:
        return text
    raise Invalid(
        f"DNS name {_shown(text)}: {why}",
        reason="INVALID_DNS_NAME",
        hint="write it in lower case, without wildcard and without a dot at the end",
    )


def parse_ip_address(text: str) -> IPAddress:
    """An IPv4 or IPv6 address in its canonical text, without zone. IPv4 inside IPv6 (``::ffff:10.0.0.7``) is refused:
    it has two texts, and verifiers disagree on whether it is the IPv4 address.

    >>> parse_ip_address("10.0.0.7")
    IPv4Address('10.0.0.7')
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or str(address) != text or not _is_plain(address):
        raise Invalid(
            f"IP address {_shown(text)} is not in canonical form",
            reason="INVALID_IP_ADDRESS",
            hint="write it like 10.0.0.7 or 2001:db8::7",
        )
    return address


def _is_plain(address: IPAddress) -> bool:
    return isinstance(address, ipaddress.IPv4Address) or (address.scope_id is None and address.ipv4_mapped is None)
