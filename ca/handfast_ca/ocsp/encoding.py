"""What goes over the wire, in DER by the library's ASN.1 declarations (RFC 6960, 4.1.1 and 4.2.1).

Not by its OCSP classes: those hide the extensions of a single request, so that a critical one could not be refused, take
the time of ``producedAt`` from the machine, and cost three times what the signature does. See docs/adr/0015.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
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
    "Extension",
    "Request",
    "Writer",
    "raw",
    "revoked",
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
    cert: TLV  # a CertId, kept as it came: the answer repeats it
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


_CertStatus = (
    Annotated[Variant[asn1.Null, Literal["good"]], Implicit(0)]
    | Annotated[Variant[_Revoked, Literal["revoked"]], Implicit(1)]
    | Annotated[Variant[_RevokedFor, Literal["revoked for"]], Implicit(1)]
    | Annotated[Variant[asn1.Null, Literal["unknown"]], Implicit(2)]
)


@asn1.sequence
class _Wrapped:
    status: _CertStatus


@asn1.sequence
class _Unwrapped:
    status: TLV


@asn1.sequence
class SingleResponse:
    cert: TLV
    status: TLV
    this_update: TLV
    next_update: Annotated[TLV, Explicit(0)]


@asn1.sequence
class ResponseData:
    responder: Annotated[TLV, Explicit(2)]
    produced_at: TLV
    responses: list[SingleResponse]
    extensions: Annotated[list[Extension] | None, Explicit(1)]


@asn1.sequence
class _SignatureAlgorithm:
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


def raw(der: bytes) -> TLV:
    """One element as it is."""
    return decode_der(TLV, der)


@lru_cache(16)
def time(moment: datetime) -> TLV:
    """GeneralizedTime, whole seconds (RFC 6960, 4.2.2.1). Answers of one second share it."""
    return raw(encode_der(asn1.GeneralizedTime(moment.replace(microsecond=0))))


def _status(status: _CertStatus) -> TLV:
    """Encoded once, for all answers that say it."""
    return decode_der(_Unwrapped, encode_der(_Wrapped(status=status))).status


GOOD = _status(Variant(asn1.Null(), "good"))
UNKNOWN = _status(Variant(asn1.Null(), "unknown"))


def revoked(at: datetime, reason: Reason) -> TLV:
    """No reason for "unspecified", as in a CRL (RFC 5280, 5.3.1)."""
    moment = asn1.GeneralizedTime(at.replace(microsecond=0))
    if reason is Reason.UNSPECIFIED:
        return _status(Variant(_Revoked(at=moment), "revoked"))
    why = raw(x509.CRLReason(reason.flag).public_bytes())
    return _status(Variant(_RevokedFor(at=moment, reason=why), "revoked for"))


_SUCCESSFUL = raw(b"\x0a\x01\x00")
"""OCSPResponseStatus is ENUMERATED, which the declarations do not know."""


class Writer:
    """Answers of one signer. Its structures are made once and filled for each answer, since making them anew would cost a
    third of the signature: not for two threads.

    ``key_hash`` is the responder's name: SHA-1 of its key (RFC 6960, 4.2.1). ``sign`` is ECDSA over SHA-256.
    """

    def __init__(self, key_hash: bytes, certificate: bytes, sign: Callable[[bytes], bytes]) -> None:
        self._sign = sign
        epoch = time(datetime.fromtimestamp(0, UTC))
        self._nonce = Extension(oid=NONCE, critical=False, value=b"")
        self._single = SingleResponse(cert=epoch, status=GOOD, this_update=epoch, next_update=epoch)
        self._data = ResponseData(
            responder=raw(encode_der(key_hash)), produced_at=epoch, responses=[self._single], extensions=None
        )
        self._basic = _Basic(
            tbs=epoch,
            algorithm=raw(encode_der(_SignatureAlgorithm(oid=x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256))),
            signature=asn1.BitString(b"", 0),
            certificates=[raw(certificate)],
        )
        self._body = _Body(kind=_BASIC, response=b"")
        self._response = _Response(status=_SUCCESSFUL, body=self._body)

    def write(self, cert: TLV, status: TLV, nonce: bytes, this_update: datetime, next_update: datetime) -> bytes:
        """OCSPResponse in DER. ``producedAt`` is ``thisUpdate``: it is signed when it is found out. ``nonce`` is the
        value of its extension, or empty.
        """
        single, data, basic = self._single, self._data, self._basic
        single.cert, single.status = cert, status
        single.this_update = data.produced_at = time(this_update)
        single.next_update = time(next_update)
        self._nonce.value = nonce
        data.extensions = [self._nonce] if nonce else None
        tbs = encode_der(data)
        basic.tbs = raw(tbs)
        basic.signature = asn1.BitString(self._sign(tbs), 0)
        self._body.response = encode_der(basic)
        return encode_der(self._response)
