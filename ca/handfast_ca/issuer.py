"""The one who signs. It decides nothing: what it is given was decided, built and linted before."""

from __future__ import annotations

import hashlib
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from handfast.certificates import subject_key_id
from handfast.errors import Invalid
from handfast.keys import CaPrivateKey, spki_der

__all__ = ["Issuer", "LocalIssuer", "signature_hash"]


class Issuer(Protocol):
    """An issuing CA: its certificate, and a key that signs with it.

    ``chain`` is what a leaf travels with: the issuing CA, then what stands above it, without the root. ``rehearse``
    signs with a throw-away key of the same algorithm, so that the bytes to be signed are the same as those of
    ``sign`` and nothing of worth is spent; the real key is not touched. Both raise ``Unavailable``
    (``KEY_UNAVAILABLE``) when the key can't be reached.
    """

    @property
    def certificate(self) -> x509.Certificate: ...

    @property
    def key_id(self) -> bytes: ...

    @property
    def chain(self) -> tuple[x509.Certificate, ...]: ...

    def rehearse(self, builder: x509.CertificateBuilder) -> x509.Certificate: ...

    async def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate: ...

    def rehearse_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList: ...

    async def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList: ...

    async def sign_tbs(self, tbs: bytes) -> bytes: ...


class LocalIssuer:
    """Signs in this process with a key object: one from a file, or any class that the library takes for a private key.

    The throw-away key is made once for each issuer: it protects nothing, since what it signs is thrown away at once,
    and a new one for every certificate would cost as much as the signature.
    """

    def __init__(
        self, certificate: x509.Certificate, key: CaPrivateKey, above: tuple[x509.Certificate, ...] = ()
    ) -> None:
        key_id = subject_key_id(certificate)
        if key_id is None:
            raise Invalid("the issuing CA's certificate has no subject key identifier", reason="ISSUER_MALFORMED")
        if spki_der(key.public_key()) != spki_der(certificate.public_key()):
            raise Invalid(
                f"the key is not the key of {certificate.subject.rfc4514_string()!r}",
                reason="KEY_MISMATCH",
                hint="the issuer's key and certificate files belong together",
            )
        self._certificate = certificate
        self._key_id = key_id
        self._key = key
        self._hash = signature_hash(key)
        self._chain = (certificate, *above)
        self._throw_away = _like(key)

    @property
    def certificate(self) -> x509.Certificate:
        return self._certificate

    @property
    def key_id(self) -> bytes:
        return self._key_id

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return self._chain

    def rehearse(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self._throw_away, self._hash)

    async def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        # On this thread: 20 µs for P-256, less than handing it to another one costs.
        return builder.sign(self._key, self._hash)

    def rehearse_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        return builder.sign(self._throw_away, self._hash)

    async def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        return builder.sign(self._key, self._hash)

    async def sign_tbs(self, tbs: bytes) -> bytes:
        return signature_over(self._key, tbs)

    def __repr__(self) -> str:
        return f"LocalIssuer({self._certificate.subject.rfc4514_string()!r})"


def signature_hash(key: CaPrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """SHA-384 for P-384 and above, SHA-256 for the rest of the curves and RSA, none for EdDSA and ML-DSA."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return hashes.SHA384() if key.curve.key_size > 256 else hashes.SHA256()
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None


def signature_over(key: CaPrivateKey, octets: bytes) -> bytes:
    """By the algorithm that certificates and lists of this key carry. A list of megabytes is hashed beforehand, while other
    threads run."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(octets)
    kind = signature_hash(key)
    if kind is not None:
        digest, hashed = hashlib.new(kind.name, octets).digest(), Prehashed(kind)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(digest, ec.ECDSA(hashed))
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(digest, padding.PKCS1v15(), hashed)
    raise Invalid(f"a CA key of type {type(key).__name__} is not supported", reason="UNSUPPORTED_KEY")


def _like(key: CaPrivateKey) -> CaPrivateKey:
    """A key of the same algorithm, hence with the same signature algorithm in the certificate."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ec.generate_private_key(key.curve)
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, 2048)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return ed25519.Ed25519PrivateKey.generate()
    raise Invalid(f"a CA key of type {type(key).__name__} is not supported", reason="UNSUPPORTED_KEY")
