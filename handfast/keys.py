"""Keys: making, reading, naming, and refusing those that are weak.

Private keys never appear in an error, a repr or a log. What a leaf key may be follows from what TLS stacks take: grpcio
fails the handshake with Ed25519, P-521 and ML-DSA leaves although it loads them (threat A10).
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
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
SMALL_FACTORS_BELOW = 752
"""CA/B Forum BR 6.1.6 (NIST SP 800-89, 5.3.3): the modulus has no factors smaller than 752."""


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
    """20 bytes for subjectKeyIdentifier (RFC 5280, 4.2.1.2), by method 1 of RFC 7093, 2.

    The leftmost 160 bits of SHA-256 of the subjectPublicKey BIT STRING, without tag, length and unused bits. Not
    promised: that other CAs name the same key so; many still use SHA-1. Raises ``Invalid`` (``UNSUPPORTED_KEY``) for
    DSA and DH.
    """
    return hashlib.sha256(_key_bits(public_key)).digest()[:20]


def _key_bits(public_key: PublicKeyTypes) -> bytes:
    """The contents of subjectPublicKey: RFC 5480, 2.2 for EC; RFC 8017, A.1.1 for RSA; RFC 8410, 4 and RFC 9881, 4."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    if isinstance(public_key, rsa.RSAPublicKey):
        return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    try:
        return public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid(f"a key of {_name(public_key)} has no key identifier here", reason="UNSUPPORTED_KEY") from None


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
    """Reads an unencrypted key of a workload, PEM or DER.

    Raises ``Invalid``: ``KEY_MALFORMED``, or ``UNSUPPORTED_KEY`` when no leaf may have a key of this kind. Not
    checked: that RSA is strong; :class:`KeyPolicy` does that with the public half.
    """
    pem = data.lstrip().startswith(b"-----BEGIN")
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        # The library's text may quote what it read: it is dropped on purpose, cause and all.
        raise _unreadable(error) from None
    if isinstance(key, rsa.RSAPrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _BY_CURVE
    ):
        return key
    raise Invalid(
        f"a key of {_name(key)} cannot serve TLS in gRPC",
        reason="UNSUPPORTED_KEY",
        hint="make a new key on P-256: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`",
    )


def _unreadable(error: Exception) -> Invalid:
    if isinstance(error, TypeError):  # how the library says that it was given no password
        return Invalid(
            "the private key is encrypted",
            reason="KEY_MALFORMED",
            hint="`openssl pkey -in FILE` decrypts it; protect the file by its mode",
        )
    return Invalid(
        "the private key cannot be read: it is not an unencrypted PKCS#8, SEC 1 or PKCS#1 key", reason="KEY_MALFORMED"
    )


def matches(private_key: PrivateKey, public_key: object) -> bool:
    """Whether both are halves of one pair."""
    return private_key.public_key() == public_key


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Which public keys get a certificate.

    Not promised: that a key was never published elsewhere, or shares no prime with another. Keys of the Debian
    generator of 2008 (CVE-2008-0166) are not recognised, since only a list tells them from good ones; block a key
    that you know of with ``revoke --reason key-compromise``. That a point lies on its curve was checked by the
    library when it read the key.
    """

    algorithms: frozenset[KeyAlgorithm]

    def violations(self, public_key: object) -> tuple[Violation, ...]:
        """Every reason (``WEAK_KEY``, ``UNSUPPORTED_KEY``) against this key; empty when it is good.

        Under a microsecond for EC, up to a millisecond for RSA.
        """
        algorithm = algorithm_of(public_key)
        if algorithm in _CURVES and algorithm in self.algorithms:
            return ()
        found = ViolationsCollector()
        sizes = sorted(bits for allowed, bits in _RSA_BITS.items() if allowed in self.algorithms)
        if isinstance(public_key, rsa.RSAPublicKey) and sizes:
            _check_rsa(public_key, sizes, found)
        else:
            allowed = ", ".join(sorted(self.algorithms))
            # RSA, P-256 and P-384 work, and are refused by this policy alone.
            why = "" if isinstance(public_key, rsa.RSAPublicKey) or algorithm else ": TLS in gRPC fails with it"
            found.add("public_key", "UNSUPPORTED_KEY", f"a key of {_name(public_key)} is not one of {allowed}{why}")
        return found.violations


DEFAULT_LEAF_KEYS = KeyPolicy(frozenset({KeyAlgorithm.P256, KeyAlgorithm.P384}))
LEAF_KEYS_WITH_RSA = KeyPolicy(frozenset(KeyAlgorithm))


def _name(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return f"curve {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA with {key.key_size} bits"
    return f"type {type(key).__name__.strip('_').removesuffix('PublicKey').removesuffix('PrivateKey')}"


def _check_rsa(key: rsa.RSAPublicKey, sizes: list[int], found: ViolationsCollector) -> None:
    """CA/B Forum BR 6.1.1.3 and 6.1.6; RFC 8017 leaves all of it open."""
    numbers = key.public_numbers()
    if key.key_size not in sizes:
        reason = "WEAK_KEY" if key.key_size < min(_BY_BITS) else "UNSUPPORTED_KEY"
        found.add("public_key", reason, f"RSA of {key.key_size} bits is not one of {', '.join(map(str, sizes))}")
    if numbers.e != RSA_EXPONENT:
        shown = str(numbers.e) if numbers.e < 2**64 else f"of {numbers.e.bit_length()} bits"
        found.add("public_key", "WEAK_KEY", f"RSA exponent {shown} is not {RSA_EXPONENT}")
    if key.key_size > max(_BY_BITS):
        return  # refused already, and arithmetic on it is what a stranger would like us to do (threat H5)
    if math.gcd(numbers.n, _small_primes_product()) != 1:
        found.add("public_key", "WEAK_KEY", f"the RSA modulus has a prime factor below {SMALL_FACTORS_BELOW}")
    if _fermat_round(numbers.n) is not None:
        found.add("public_key", "WEAK_KEY", f"the primes of the RSA modulus are found in {FERMAT_ROUNDS} Fermat rounds")
    if _roca(numbers.n):
        found.add("public_key", "WEAK_KEY", "the RSA modulus has the ROCA fingerprint (CVE-2017-15361)")


@functools.cache
def _small_primes() -> tuple[int, ...]:
    return tuple(n for n in range(2, SMALL_FACTORS_BELOW) if all(n % d for d in range(2, math.isqrt(n) + 1)))


@functools.cache
def _small_primes_product() -> int:
    return math.prod(_small_primes())


def _fermat_round(n: int) -> int | None:
    """The round, from 0, in which Fermat's method finds n = a² - b² with a at or above the root of n."""
    a = math.isqrt(n - 1) + 1
    for round_ in range(FERMAT_ROUNDS):
        rest = a * a - n
        if math.isqrt(rest) ** 2 == rest:
            return round_
        a += 1
    return None


@functools.cache
def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    """For each small prime, the residues that powers of 65537 reach.

    ROCA primes are k·M + (65537^a mod M), so their product is a power of 65537 modulo each prime factor of M (Nemec,
    Sys, Svenda, Klinec, Matyas: The Return of Coppersmith's Attack, ACM CCS 2017). M is the product of at least the
    first 39 primes. A prime of which 65537 reaches every residue tells nothing and is left out.
    """
    marks = []
    for prime in _small_primes()[1:39]:
        powers = frozenset(pow(RSA_EXPONENT, exponent, prime) for exponent in range(prime))
        if len(powers) < prime - 1:
            marks.append((prime, powers))
    return tuple(marks)


def _roca(n: int) -> bool:
    """Wrong for a random modulus with a chance of about 2^-28."""
    return all(n % prime in powers for prime, powers in _roca_residues())
