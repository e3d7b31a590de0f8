"""What is asked, read strictly. Everything that comes here was written by a stranger."""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.asn1 import TLV, decode_der

from handfast.errors import Invalid
from handfast_ca.ocsp.encoding import NONCE, CertId, Extension, Request

__all__ = ["LONGEST_NONCE", "MAX_REQUEST_BYTES", "Question", "read_question"]

MAX_REQUEST_BYTES = 8 * 1024
"""A question with the longest nonce has some 250 bytes; one that somebody signed, with a chain, a few thousand."""

LONGEST_NONCE = 128
"""Octets (RFC 9654, 2.1). A server must take 16 to 32; we take every length that the syntax allows."""


class Question(NamedTuple):
    """About one certificate; its serial may be any number, also one that no CA would give.

    ``cert_der`` is the CertID as it came, and ``nonce`` the extension's value as it came, or empty.
    """

    cert: CertId
    cert_der: TLV
    nonce: bytes


def read_question(der: bytes) -> Question:
    """Raises ``Invalid``, which is the error malformedRequest (RFC 6960, 2.3): ``OCSP_MALFORMED``, ``OCSP_SEVERAL``,
    ``OCSP_NONCE``, ``OCSP_UNKNOWN_CRITICAL``.
    """
    if len(der) > MAX_REQUEST_BYTES:
        raise Invalid(f"an OCSP request of {len(der)} bytes exceeds {MAX_REQUEST_BYTES}", reason="OCSP_MALFORMED")
    try:
        request = decode_der(Request, der).tbs
        asked = request.requests
        cert = asked[0].cert.parse(CertId) if len(asked) == 1 else None
    except (ValueError, TypeError, OverflowError) as error:
        raise Invalid(f"the OCSP request cannot be read: {type(error).__name__}", reason="OCSP_MALFORMED") from error
    if request.version != 0:
        raise Invalid(f"version {request.version} of OCSP requests is not known", reason="OCSP_MALFORMED")
    if cert is None:
        # RFC 5019, 2.1.1: one. A client that asks about several can ask several times.
        raise Invalid(f"the OCSP request is about {len(asked)} certificates, not 1", reason="OCSP_SEVERAL")
    for extension in asked[0].extensions or ():
        _pass_over(extension)
    return Question(cert, asked[0].cert, _nonce(request.extensions) if request.extensions else b"")


def _nonce(extensions: list[Extension]) -> bytes:
    """The DER of Nonce ::= OCTET STRING (SIZE (1..128)) (RFC 9654, 2.1; threat D8)."""
    found = b""
    for extension in extensions:
        if extension.oid != NONCE:
            _pass_over(extension)
        elif found:
            raise Invalid("the OCSP request has more than one nonce", reason="OCSP_NONCE")
        else:
            found = extension.value
            if not 1 <= _octets(found) <= LONGEST_NONCE:
                raise Invalid(
                    f"a nonce of {_octets(found)} octets is not one of 1 to {LONGEST_NONCE}", reason="OCSP_NONCE"
                )
    return found


def _pass_over(extension: Extension) -> None:
    """RFC 5280, 4.2: what is critical and unknown must not be passed over."""
    if extension.critical:
        raise Invalid(
            f"the OCSP request has an unknown critical extension {extension.oid.dotted_string}",
            reason="OCSP_UNKNOWN_CRITICAL",
        )


def _octets(der: bytes) -> int:
    try:
        return len(decode_der(bytes, der))
    except ValueError as error:
        raise Invalid("the nonce is no OCTET STRING", reason="OCSP_NONCE") from error
