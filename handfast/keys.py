"""Keys: making, reading, naming, and refusing those that are weak.

Private keys never appear in an error, a repr or a log. What a leaf key may be follows from what TLS stacks take: grpcio
fails the handshake with Ed25519, P-521 and ML-DSA leaves although it loads them.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PublicKeyTypes

from handfast.errors import Invalid, Violation, ViolationsCollector

__all__ = [
    "DEFAULT_LEAF_KEYS",
    "LEAF_KEYS_WITH_RSA",
    "CaPrivateKey",
    "KeyAlgorithm",
    "KeyPolicy",
    "PrivateKey",
    "PublicKey",
    "algorithm_of",
    "dump_private_key_der",
    "dump_private_key_pem",
    "generate",
    "key_identifier",
    "load_private_key",
    "matches",
    "spki_der",
    "spki_sha256",
]

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
CaPrivateKey = CertificateIssuerPrivateKeyTypes

RSA_EXPONENT = 65537
FERMAT_ROUNDS = 100
"""CA/B Forum BR 6.1.1.3: refuse keys whose primes Fermat's method finds within 100 rounds."""


class KeyAlgorithm(StrEnum):
    """Algorithms that a leaf key may have."""

    P256 = "ec-p256"
    P384 = "ec-p384"
    RSA2048 = "rsa-2048"
    RSA3072 = "rsa-3072"
    RSA4096 = "rsa-4096"


_CURVES: dict[KeyAlgorithm, ec.EllipticCurve] = {KeyAlgorithm.P256: ec.SECP256R1(), KeyAlgorithm.P384: ec.SECP384R1()}
_BY_CURVE = {curve.name: algorithm for algorithm, curve in _CURVES.items()}
_RSA_BITS = {KeyAlgorithm.RSA2048: 2048, KeyAlgorithm.RSA3072: 3072, KeyAlgorithm.RSA4096: 4096}
_BY_BITS = {bits: algorithm for algorithm, bits in _RSA_BITS.items()}


def generate(algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> PrivateKey:
    """A new private key.

    >>> algorithm_of(generate().public_key())
    <KeyAlgorithm.P256: 'ec-p256'>
    """
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(RSA_EXPONENT, _RSA_BITS[algorithm])


def algorithm_of(public_key: object) -> KeyAlgorithm | None:
    """What kind of leaf key this is, or None when a leaf must not have it."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _BY_CURVE.get(public_key.curve.name)
    if isinstance(public_key, rsa.RSAPublicKey):
        return _BY_BITS.get(public_key.key_size)
    return None


def spki_der(public_key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280, 4.1)."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(public_key: PublicKeyTypes) -> bytes:
    """32 bytes that name a public key, whatever certificate carries it."""
    return hashlib.sha256(spki_der(public_key)).digest()


def key_identifier(public_key: PublicKeyTypes) -> bytes:
    """20 bytes for subjectKeyIdentifier: the first 160 bits of SHA-256 of the key's BIT STRING (RFC 7093, 2, method 1)."""
    return hashlib.sha256(_key_bits(public_key)).digest()[:20]


def _key_bits(public_key: PublicKeyTypes) -> bytes:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    if isinstance(public_key, rsa.RSAPublicKey):
        return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def dump_private_key_pem(key: PrivateKey) -> bytes:
    """PKCS#8 PEM without encryption: for a workload's own file, never for a CA's key."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def dump_private_key_der(key: PrivateKey) -> bytes:
    """As :func:`dump_private_key_pem`, in DER."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private_key(data: bytes) -> PrivateKey:
    """Reads an unencrypted key of a workload, PEM or DER. Raises ``Invalid`` (``KEY_MALFORMED``, ``UNSUPPORTED_KEY``)."""
    load = serialization.load_pem_private_key if data.lstrip().startswith(b"-----") else serialization.load_der_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's text may quote what it read: it is dropped on purpose.
        raise Invalid(
            "the private key cannot be read: it is not an unencrypted PKCS#8, SEC 1 or PKCS#1 key", reason="KEY_MALFORMED"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Invalid(f"a key of type {type(key).__name__.strip('_')} cannot serve TLS in gRPC", reason="UNSUPPORTED_KEY")
    return key


def matches(private_key: PrivateKey, public_key: object) -> bool:
    """Whether both are halves of one pair."""
    return private_key.public_key() == public_key


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Which public keys get a certificate.

    Not promised: that a key was never published elsewhere. Keys of the 2008 Debian generator are not listed, since
    none of its sizes and exponents can be told from others without the list; block what you know by ``revoke
    --reason key-compromise``.
    """

    algorithms: frozenset[KeyAlgorithm]

    def violations(self, public_key: object) -> tuple[Violation, ...]:
        """Every reason against this key; empty when it is good. A few microseconds for EC, some milliseconds for RSA."""
        algorithm = algorithm_of(public_key)
        if algorithm in self.algorithms and algorithm in _CURVES:
            return ()
        found = ViolationsCollector()
        if isinstance(public_key, rsa.RSAPublicKey) and self.algorithms & _RSA_BITS.keys():
            _check_rsa(public_key, found)
        elif algorithm not in self.algorithms:
            allowed = ", ".join(sorted(self.algorithms))
            found.add("public_key", "UNSUPPORTED_KEY", f"a key of {_name(public_key)} is not one of {allowed}")
        return found.violations


DEFAULT_LEAF_KEYS = KeyPolicy(frozenset({KeyAlgorithm.P256, KeyAlgorithm.P384}))
LEAF_KEYS_WITH_RSA = KeyPolicy(frozenset(KeyAlgorithm))


def _name(public_key: object) -> str:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return f"curve {public_key.curve.name}"
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA with {public_key.key_size} bits"
    return f"type {type(public_key).__name__.strip('_').removesuffix('PublicKey')}"


def _check_rsa(key: rsa.RSAPublicKey, found: ViolationsCollector) -> None:
    numbers = key.public_numbers()
    if key.key_size not in _BY_BITS:
        found.add("public_key", "WEAK_KEY", f"RSA of {key.key_size} bits is not one of {sorted(_BY_BITS)}")
    if numbers.e != RSA_EXPONENT:
        found.add("public_key", "WEAK_KEY", f"RSA exponent {numbers.e} is not {RSA_EXPONENT}")
    if key.key_size > max(_BY_BITS):
        return
    if math.gcd(numbers.n, _small_primes_product()) != 1:
        found.add("public_key", "WEAK_KEY", "the RSA modulus has a prime factor below 752")
    if _fermat(numbers.n):
        found.add("public_key", "WEAK_KEY", f"the primes of the RSA modulus are so close that {FERMAT_ROUNDS} rounds find them")
    if _roca(numbers.n):
        found.add("public_key", "WEAK_KEY", "the RSA modulus has the ROCA fingerprint (CVE-2017-15361)")


@functools.cache
def _small_primes() -> tuple[int, ...]:
    return tuple(n for n in range(2, 752) if all(n % d for d in range(2, math.isqrt(n) + 1)))


@functools.cache
def _small_primes_product() -> int:
    return math.prod(_small_primes())


def _fermat(n: int) -> bool:
    """Looks for n = a² - b² with a just above the root of n."""
    a = math.isqrt(n)
    if a * a < n:
        a += 1
    for _ in range(FERMAT_ROUNDS):
        rest = a * a - n
        if math.isqrt(rest) ** 2 == rest:
            return True
        a += 1
    return False


@functools.cache
def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    """For each small prime, the residues that powers of 65537 reach.

    ROCA primes are k·M + (65537^a mod M), so modulo each prime factor of M the modulus is a power of 65537
    (Nemec et al., CCS 2017, 2.3). M holds the first 39 primes for the smallest keys; primes whose residues are all
    reached tell nothing and are left out.
    """
    marks = []
    for prime in _small_primes()[1:39]:
        powers = frozenset(pow(RSA_EXPONENT, exponent, prime) for exponent in range(prime))
        if len(powers) < prime - 1:
            marks.append((prime, powers))
    return tuple(marks)


def _roca(n: int) -> bool:
    """Wrong for a random modulus with a chance below 2^-27."""
    return all(n % prime in powers for prime, powers in _roca_residues())
