"""Where the public facts of a CA are found: the URLs that certificates carry (RFC 5280, 4.2.1.13 and 4.2.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from handfast.errors import Invalid

__all__ = ["PublicUrls", "issuer_slug"]


def issuer_slug(key_id: bytes) -> str:
    """How an issuer is named in paths: its subject key identifier in hexadecimal, so that two never share a name.

    >>> issuer_slug(bytes.fromhex("00ff"))
    '00ff'
    """
    return key_id.hex()


@dataclass(frozen=True, slots=True)
class PublicUrls:
    """Made from ``public_url`` of the configuration. Plain HTTP on purpose: fetching a CRL must not need one (RFC
    5280, 8).
    """

    base: str
    ocsp: bool = True
    """Whether this CA answers OCSP requests, so that its leaves say where."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
            or not self.base.isascii()
        ):
            raise Invalid(
                f"public URL {self.base[:80]!a} is not http://HOST[:PORT][/PATH]",
                reason="INVALID_URL",
                hint="write it like http://ca.prod.example:7080",
            )

    def crl(self, key_id: bytes) -> str:
        return f"{self.base.rstrip('/')}/crl/{issuer_slug(key_id)}.crl"

    def certificate(self, key_id: bytes) -> str:
        return f"{self.base.rstrip('/')}/ca/{issuer_slug(key_id)}.cer"

    def responder(self) -> str:
        """One for all issuers: a request says whose certificate it is about. A GET adds a slash and the request."""
        return f"{self.base.rstrip('/')}/ocsp"
