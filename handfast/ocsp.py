"""OCSP answers as their readers see them: asked for with a nonce, and believed only when everything fits (RFC 6960).

An :class:`OcspAnswer` exists only when its signer, its signature, its subject and its dates were checked. Pure: who
fetches it, and from where, is somebody else's business; so is the randomness of a nonce.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.certificates import format_serial, subject_key_id
from handfast.errors import HandfastError, Invalid, Refused, Unavailable
from handfast.revocation import CLOCK_SKEW, Reason

__all__ = [
    "LONGEST_LIFE",
    "NONCE_OCTETS",
    "CertificateStatus",
    "OcspAnswer",
    "build_request",
    "issuer_hashes",
    "ocsp_url",
]

NONCE_OCTETS = 32
"""What a client sends (RFC 9654, 2.1), from a generator that nobody can predict."""

LONGEST_LIFE = timedelta(minutes=10)
"""From thisUpdate to nextUpdate. An answer without a nonce may be an old one told again, so it must not live long."""

MAX_ANSWER_BYTES = 64 * 1024
MAX_CERTIFICATES = 4

_NONCE = x509.OCSPNonce.oid
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class CertificateStatus(StrEnum):
    """What an answer says of one certificate (RFC 6960, 2.2). GOOD says "issued and not revoked", nothing of dates."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


_STATUSES = {
    ocsp.OCSPCertStatus.GOOD: CertificateStatus.GOOD,
    ocsp.OCSPCertStatus.REVOKED: CertificateStatus.REVOKED,
    ocsp.OCSPCertStatus.UNKNOWN: CertificateStatus.UNKNOWN,
}


def build_request(serial: int, issuer: x509.Certificate, *, nonce: bytes = b"") -> bytes:
    """A question about one certificate, in DER. The issuer is named by SHA-1, as those who get an answer stapled expect.

    That hash is a name and proves nothing: collisions of it only make a question that nobody can answer (RFC 5019,
    2.1.1). Without ``nonce`` the answer may be a stored one.
    """
    sha1 = hashes.SHA1()  # noqa: S303 - a name, see above
    name, key = issuer_hashes(issuer, sha1)
    extensions: list[x509.Extension[x509.ExtensionType]] = []
    if nonce:
        extensions = [x509.Extension(_NONCE, False, x509.OCSPNonce(nonce))]
    builder = ocsp.OCSPRequestBuilder(request_hash=(name, key, serial, sha1), extensions=extensions)
    return builder.build().public_bytes(serialization.Encoding.DER)


def issuer_hashes(issuer: x509.Certificate, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """issuerNameHash and issuerKeyHash: over the issuer's own subject, and over the bits of its key (RFC 6960, 4.1.1)."""
    name = hashes.Hash(algorithm)
    name.update(issuer.subject.public_bytes())
    # The library hashes the key as it should, and the name of who stands above.
    made = ocsp.OCSPRequestBuilder(request=(issuer, issuer, algorithm)).build()
    return name.finalize(), made.issuer_key_hash


def ocsp_url(certificate: x509.Certificate) -> str | None:
    """Where its CA says that answers about it are (RFC 5280, 4.2.2.1): the first such URL, or None."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return None
    names = (one.access_location for one in access if one.access_method == x509.oid.AuthorityInformationAccessOID.OCSP)
    return next((name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)), None)


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """One verified answer. Construct it with :meth:`verify`; ask it with :meth:`require_good`.

    ``until`` is the end of its use: nextUpdate, or the end of its signer's certificate when that comes first. ``der`` is
    what a TLS server staples.
    """

    issuer_key_id: bytes
    serial: int
    status: CertificateStatus
    this_update: datetime
    until: datetime
    revoked_at: datetime | None
    reason: Reason | None
    der: bytes = field(repr=False)

    @classmethod
    def verify(
        cls,
        der: bytes,
        *,
        serial: int,
        issuer: x509.Certificate,
        now: datetime,
        nonce: bytes = b"",
        longest: timedelta = LONGEST_LIFE,
    ) -> OcspAnswer:
        """Checks a DER answer about the certificate ``serial`` of ``issuer``, whatever it says.

        ``nonce`` is what was asked with: it must come back (threat D8); empty when nothing was. ``longest`` bounds its
        life. ``issuer`` must be trusted already; what is not looked at is whether *it* was revoked.

        Raises ``Invalid`` (``OCSP_MALFORMED``), ``Unavailable`` (``OCSP_NO_ANSWER``: the responder said an error, which
        nobody signs and which never means good), or ``Refused`` with ``OCSP_OTHER_CERTIFICATE``,
        ``OCSP_FOREIGN_SIGNER``, ``OCSP_BAD_SIGNATURE``, ``OCSP_UNKNOWN_CRITICAL``, ``OCSP_NONCE``, ``OCSP_FUTURE``,
        ``OCSP_EXPIRED``, ``OCSP_LIFE``.
        """
        if len(der) > MAX_ANSWER_BYTES:
            raise Invalid(
                f"an OCSP answer of {len(der)} bytes exceeds the maximum of {MAX_ANSWER_BYTES}", reason="OCSP_MALFORMED"
            )
        try:
            response = ocsp.load_der_ocsp_response(der)
            # 1. The responder answered at all.
            _check_answered(response)
            # 2. It speaks of this certificate, and of nothing else.
            _check_subject(response, serial, issuer)
            # 3. Nothing critical in it is unknown to us.
            _check_extensions(response)
            # 4. The issuer signed it, or whom the issuer itself made a signer of answers.
            signer = _signer(response, issuer, now)
            # 5. It is of now.
            until = _check_dates(response, signer, now, longest)
            # 6. It answers our question, and not an earlier one.
            _check_nonce(response, nonce)
            return _read(response, issuer, until, der)
        except HandfastError:
            raise
        except Exception as error:
            raise Invalid(f"the OCSP answer cannot be read: {type(error).__name__}", reason="OCSP_MALFORMED") from error

    def require_good(self) -> None:
        """Raises ``Refused``: ``REVOKED``, or ``OCSP_UNKNOWN`` when the CA does not know the certificate."""
        if self.status is CertificateStatus.GOOD:
            return
        if self.status is CertificateStatus.REVOKED:
            since = f" since {self.revoked_at:%Y-%m-%dT%H:%M:%SZ}" if self.revoked_at else ""
            raise Refused(f"serial {format_serial(self.serial)} is revoked{since}, its CA answers", reason="REVOKED")
        raise Refused(f"its CA does not know serial {format_serial(self.serial)}", reason="OCSP_UNKNOWN")

    @property
    def half_life(self) -> datetime:
        """When a new one should be there."""
        return self.this_update + (self.until - self.this_update) / 2


def _check_answered(response: ocsp.OCSPResponse) -> None:
    status = response.response_status
    if status is ocsp.OCSPResponseStatus.SUCCESSFUL:
        return
    said = status.name.lower().replace("_", " ")
    again = 60.0 if status is ocsp.OCSPResponseStatus.TRY_LATER else None
    raise Unavailable(f"the OCSP responder gave no answer: {said}", reason="OCSP_NO_ANSWER", retry_after=again)


def _check_subject(response: ocsp.OCSPResponse, serial: int, issuer: x509.Certificate) -> None:
    about = list(response.responses)
    if len(about) != 1:
        raise Refused(
            f"the OCSP answer is about {len(about)} certificates, where exactly 1 was asked for",
            reason="OCSP_OTHER_CERTIFICATE",
        )
    (one,) = about
    if one.serial_number != serial:
        raise Refused(
            f"the OCSP answer is about serial {one.serial_number:x}, not {serial:x}", reason="OCSP_OTHER_CERTIFICATE"
        )
    if (one.issuer_name_hash, one.issuer_key_hash) != issuer_hashes(issuer, one.hash_algorithm):
        raise Refused(
            f"the OCSP answer is about a certificate of another CA than {issuer.subject.rfc4514_string()!r}",
            reason="OCSP_OTHER_CERTIFICATE",
        )


def _check_extensions(response: ocsp.OCSPResponse) -> None:
    for extension in (*response.extensions, *response.single_extensions):
        if extension.critical and extension.oid != _NONCE:
            raise Refused(
                f"the OCSP answer has an unknown critical extension {extension.oid.dotted_string}",
                reason="OCSP_UNKNOWN_CRITICAL",
            )


def _signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> x509.Certificate:
    """Whoever signed: the issuer itself, or a certificate in the answer (RFC 6960, 4.2.2.2)."""
    signer = next((one for one in _candidates(response, issuer) if _is_named(response, one)), None)
    if signer is None:
        raise Refused("whoever signed the OCSP answer is not to be found in it", reason="OCSP_FOREIGN_SIGNER")
    if signer != issuer:
        why = _no_delegate(signer, issuer, now)
        if why:
            raise Refused(f"the signer of the OCSP answer {why}", reason="OCSP_FOREIGN_SIGNER")
    if not _signed_by(response, signer.public_key()):
        raise Refused("the signature of the OCSP answer is wrong", reason="OCSP_BAD_SIGNATURE")
    return signer


def _candidates(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> Iterator[x509.Certificate]:
    yield issuer
    yield from response.certificates[:MAX_CERTIFICATES]


def _is_named(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    """ResponderID: by name, or by SHA-1 of the key, which is a name as well (RFC 6960, 4.2.1)."""
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    key = certificate.public_key()
    return response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest


def _no_delegate(signer: x509.Certificate, issuer: x509.Certificate, now: datetime) -> str:
    """Why this is no signer whom the issuer made one; empty when it is."""
    try:
        signer.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return "was not issued by the CA of the certificate itself"
    if not signer.not_valid_before_utc - CLOCK_SKEW <= now <= signer.not_valid_after_utc:
        return f"is valid until {signer.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ} only, or not yet"
    known = {type(extension.value): extension.value for extension in signer.extensions}
    extended = known.get(x509.ExtendedKeyUsage)
    if not isinstance(extended, x509.ExtendedKeyUsage) or ExtendedKeyUsageOID.OCSP_SIGNING not in extended:
        return "may not sign OCSP answers (no id-kp-OCSPSigning)"
    if x509.OCSPNoCheck not in known:
        return "would have to be asked about itself (no id-pkix-ocsp-nocheck)"
    usage = known.get(x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.digital_signature:
        return "may not sign (no digitalSignature)"
    return ""


def _signed_by(response: ocsp.OCSPResponse, key: object) -> bool:
    """The signature over ResponseData. SHA-1 and MD5 prove nothing any more."""
    signature, data, hashed = response.signature, response.tbs_response_bytes, response.signature_hash_algorithm
    try:
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, data)
        elif not isinstance(hashed, _HASHES):
            return False
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashed))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _check_dates(response: ocsp.OCSPResponse, signer: x509.Certificate, now: datetime, longest: timedelta) -> datetime:
    """The end of its use. It never outlives whoever signed it (threat D10)."""
    this_update, next_update = response.this_update_utc, response.next_update_utc
    if next_update is None or next_update <= this_update:
        raise Invalid("the OCSP answer has no usable nextUpdate (RFC 5019, 2.2.4)", reason="OCSP_MALFORMED")
    if this_update > now + CLOCK_SKEW:
        raise Refused(
            f"the OCSP answer is of {this_update:%Y-%m-%dT%H:%M:%SZ}, which is in the future", reason="OCSP_FUTURE"
        )
    if next_update - this_update > longest:
        seconds = (next_update - this_update).total_seconds()
        raise Refused(
            f"the OCSP answer claims to hold for {seconds:.0f}s, which exceeds {longest.total_seconds():.0f}s",
            reason="OCSP_LIFE",
        )
    until = min(next_update, signer.not_valid_after_utc)
    if now >= until:
        raise Refused(f"the OCSP answer ended at {until:%Y-%m-%dT%H:%M:%SZ}", reason="OCSP_EXPIRED")
    return until


def _check_nonce(response: ocsp.OCSPResponse, nonce: bytes) -> None:
    if not nonce:
        return
    found = next((one.value for one in response.extensions if isinstance(one.value, x509.OCSPNonce)), None)
    if found is None or found.nonce != nonce:
        how = "no nonce" if found is None else "another nonce"
        raise Refused(f"the OCSP answer has {how}: it may be an old one told again", reason="OCSP_NONCE")


def _read(response: ocsp.OCSPResponse, issuer: x509.Certificate, until: datetime, der: bytes) -> OcspAnswer:
    flag = response.revocation_reason
    names = {reason.flag: reason for reason in Reason}
    return OcspAnswer(
        issuer_key_id=subject_key_id(issuer) or b"",
        serial=response.serial_number,
        status=_STATUSES[response.certificate_status],
        this_update=response.this_update_utc,
        until=until,
        revoked_at=response.revocation_time_utc,
        reason=names.get(flag) if flag is not None else None,
        der=der,
    )
