"""What goes over the wire, in DER by the library's ASN.1 declarations (RFC 6960, 4.1.1 and 4.2.1).

Not by its OCSP classes: those hide the extensions of a single request, so that a critical one could not be refused, take
the time of ``producedAt`` from the machine, and cost three times what the signature does. See docs/adr/0015.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.asn1 import TLV, Explicit, Implicit, Variant, decode_der, encode_der
from cryptography.x509.oid import OCSPExtensionOID

from handfast.revocation import Reason

__all__ = [
    "GOOD",
    "NONCE",
    "UNKNOWN",
    "CertId",
    "CertStatus",
    "Extension",
    "Request",
    "ResponseData",
    "SignatureAlgorithm",
    "SingleResponse",
    "dump",
    "raw",
    "revoked",
    "signed_answer",
    "time",
]

NONCE = OCSPExtensionOID.NONCE
_BASIC = x509.ObjectIdentifier("1.3.6.1.5.5.7.48.1.1")


@asn1.sequence
class Algorithm:
    """AlgorithmIdentifier of a hash: parameters are NULL, or absent (RFC 5754, 2)."""

    oid: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class CertId:
    algorithm: Algorithm
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int


@asn1.sequence
class Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


# What may be asked.


@asn1.sequence
class SingleRequest:
    cert: CertId
    extensions: Annotated[list[Extension] | None, Explicit(0)]


_Requestor = (
    Annotated[Variant[asn1.IA5String, Literal["email"]], Implicit(1)]
    | Annotated[Variant[asn1.IA5String, Literal["dns"]], Implicit(2)]
    | Annotated[Variant[TLV, Literal["directory"]], Explicit(4)]
    | Annotated[Variant[asn1.IA5String, Literal["uri"]], Implicit(6)]
)
"""GeneralName without the kinds that no client sends here."""


@asn1.sequence
class TbsRequest:
    version: Annotated[int, Explicit(0), asn1.Default(0)]
    requestor: Annotated[_Requestor | None, Explicit(1)]
    requests: list[SingleRequest]
    extensions: Annotated[list[Extension] | None, Explicit(2)]


@asn1.sequence
class Signature:
    algorithm: TLV
    signature: asn1.BitString
    certificates: Annotated[list[TLV] | None, Explicit(0)]


@asn1.sequence
class Request:
    """OCSPRequest. A signature on it is not looked at: everybody may ask."""

    tbs: TbsRequest
    signature: Annotated[Signature | None, Explicit(0)]


# What is answered.


@asn1.sequence
class _RevokedFor:
    at: asn1.GeneralizedTime
    reason: Annotated[TLV, Explicit(0)]


@asn1.sequence
class _Revoked:
    at: asn1.GeneralizedTime


CertStatus = (
    Annotated[Variant[asn1.Null, Literal["good"]], Implicit(0)]
    | Annotated[Variant[_Revoked, Literal["revoked"]], Implicit(1)]
    | Annotated[Variant[_RevokedFor, Literal["revoked for"]], Implicit(1)]
    | Annotated[Variant[asn1.Null, Literal["unknown"]], Implicit(2)]
)
GOOD: CertStatus = Variant(asn1.Null(), "good")
UNKNOWN: CertStatus = Variant(asn1.Null(), "unknown")


@asn1.sequence
class SingleResponse:
    cert: CertId
    status: CertStatus
    this_update: TLV
    next_update: Annotated[TLV, Explicit(0)]


@asn1.sequence
class ResponseData:
    responder: Annotated[TLV, Explicit(2)]
    produced_at: TLV
    responses: list[SingleResponse]
    extensions: Annotated[list[Extension] | None, Explicit(1)]


@asn1.sequence
class SignatureAlgorithm:
    """AlgorithmIdentifier of ECDSA: no parameters (RFC 5758, 3.2)."""

    oid: x509.ObjectIdentifier


@asn1.sequence
class _Basic:
    tbs: TLV
    algorithm: TLV
    signature: asn1.BitString
    certificates: Annotated[list[TLV], Explicit(0)]


@asn1.sequence
class _Body:
    kind: x509.ObjectIdentifier
    response: bytes


@asn1.sequence
class _Response:
    status: TLV
    body: Annotated[_Body, Explicit(0)]


def dump(value: object) -> bytes:
    return encode_der(value)


def raw(der: bytes) -> TLV:
    """One element as it is."""
    return decode_der(TLV, der)


@lru_cache(16)
def time(moment: datetime) -> TLV:
    """GeneralizedTime, whole seconds (RFC 6960, 4.2.2.1). Answers of one second share it."""
    return raw(encode_der(asn1.GeneralizedTime(moment.replace(microsecond=0))))


def revoked(at: datetime, reason: Reason) -> CertStatus:
    """No reason for "unspecified", as in a CRL (RFC 5280, 5.3.1)."""
    moment = asn1.GeneralizedTime(at.replace(microsecond=0))
    if reason is Reason.UNSPECIFIED:
        return Variant(_Revoked(at=moment), "revoked")
    return Variant(_RevokedFor(at=moment, reason=raw(x509.CRLReason(reason.flag).public_bytes())), "revoked for")


_SUCCESSFUL = raw(b"\x0a\x01\x00")
"""OCSPResponseStatus is ENUMERATED, which the declarations do not know."""


def signed_answer(tbs: bytes, algorithm: TLV, signature: bytes, certificates: list[TLV]) -> bytes:
    """OCSPResponse around what was signed."""
    basic = _Basic(tbs=raw(tbs), algorithm=algorithm, signature=asn1.BitString(signature, 0), certificates=certificates)
    return encode_der(_Response(status=_SUCCESSFUL, body=_Body(kind=_BASIC, response=encode_der(basic))))
