"""Which public keys get a certificate, one vector for each class of weakness (threat A10), and keys as files."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from handfast.errors import HandfastError, Invalid
from handfast.keys import (
    DEFAULT_LEAF_KEYS,
    LEAF_KEYS_WITH_RSA,
    KeyAlgorithm,
    algorithm_of,
    dump_private_key_der,
    dump_private_key_pem,
    generate,
    key_identifier,
    load_private_key,
    matches,
)
from tests.vocabulary import weak_keys

GOOD_RSA = rsa.generate_private_key(65537, 2048)
GOOD_MODULUS = GOOD_RSA.public_key().public_numbers().n


def reasons(key: object) -> list[str]:
    return [violation.reason for violation in LEAF_KEYS_WITH_RSA.violations(key)]


def told(key: object) -> str:
    return "; ".join(violation.description for violation in LEAF_KEYS_WITH_RSA.violations(key))


@pytest.mark.parametrize("algorithm", [one for one in KeyAlgorithm if one is not KeyAlgorithm.RSA4096])
def test_a_key_that_we_make_is_one_that_we_take(algorithm: KeyAlgorithm) -> None:
    key = generate(algorithm)
    assert algorithm_of(key.public_key()) is algorithm
    assert LEAF_KEYS_WITH_RSA.violations(key.public_key()) == ()
    assert matches(load_private_key(dump_private_key_pem(key)), key.public_key())
    assert matches(load_private_key(dump_private_key_der(key)), key.public_key())


@pytest.mark.parametrize("bits", [1024, 1536])
def test_rsa_below_2048_bits_is_weak(bits: int) -> None:
    """A10."""
    assert reasons(rsa.generate_private_key(65537, bits).public_key()) == ["WEAK_KEY"]


@pytest.mark.parametrize("bits", [2047, 2049, 2056, 4097, 8192, 16384])
def test_rsa_of_an_unusual_size_is_not_taken(bits: int) -> None:
    """A10, H5: and no arithmetic is done on what is longer than 4,096 bits, however weak it is."""
    modulus = weak_keys.next_prime(3 << 30) ** (bits // 31 + 1) if bits > 4096 else (3 << (bits - 2)) + 1
    modulus >>= max(modulus.bit_length() - bits, 0)
    found = LEAF_KEYS_WITH_RSA.violations(weak_keys.public(modulus | 1))
    assert found[0].reason == ("WEAK_KEY" if bits < 2048 else "UNSUPPORTED_KEY")
    assert str(bits) in found[0].description
    if bits > 4096:
        assert len(found) == 1


@pytest.mark.parametrize("exponent", [3, 17, 65539, (1 << 2000) + 1])
def test_another_exponent_than_65537_is_weak(exponent: int) -> None:
    """A10."""
    key = weak_keys.public(GOOD_MODULUS, exponent)
    assert reasons(key) == ["WEAK_KEY"]
    assert "exponent" in told(key)


@pytest.mark.parametrize("factor", [3, 7, 743, 751])
def test_a_modulus_with_a_factor_below_752_is_weak(factor: int) -> None:
    """A10: BR 6.1.6."""
    assert "factor below 752" in told(weak_keys.with_factor(factor))


def test_a_modulus_whose_smallest_factor_is_757_is_not_found_by_division() -> None:
    """A10: the bound, from the other side."""
    assert "factor below" not in told(weak_keys.with_factor(757))


@pytest.mark.parametrize("bits", [4, 500, 515])
def test_primes_that_are_too_close_are_found_within_a_hundred_rounds(bits: int) -> None:
    """A10: BR 6.1.1.3; the library calls such a key valid."""
    assert reasons(weak_keys.apart(bits)) == ["WEAK_KEY"]
    assert "100 Fermat rounds" in told(weak_keys.apart(bits))


def test_primes_that_a_hundred_rounds_do_not_find_pass() -> None:
    """A10: the bound, from the other side."""
    assert reasons(weak_keys.apart(540)) == []


def test_the_fingerprint_of_roca_is_recognised() -> None:
    """A10: CVE-2017-15361."""
    assert reasons(weak_keys.roca()) == ["WEAK_KEY"]
    assert "CVE-2017-15361" in told(weak_keys.roca())


def test_every_reason_against_a_key_is_told_at_once() -> None:
    """A10."""
    key = weak_keys.public(3 * 5 * ((3 << 1000) + 1) | 1, 3)
    assert set(reasons(key)) == {"WEAK_KEY"}
    assert len(reasons(key)) >= 2


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP224R1()).public_key(),
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ec.generate_private_key(ec.BrainpoolP256R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        mldsa.MLDSA65PrivateKey.generate().public_key(),
        dsa.generate_private_key(2048).public_key(),
        None,
    ],
    ids=lambda key: getattr(getattr(key, "curve", None), "name", type(key).__name__),
)
def test_a_key_of_another_kind_is_not_for_a_leaf(key: object) -> None:
    """A10: weak curves, and those with which the handshake of gRPC fails."""
    assert reasons(key) == ["UNSUPPORTED_KEY"]
    assert algorithm_of(key) is None


def test_rsa_is_refused_by_the_default_for_that_alone() -> None:
    """A10: the text does not say that TLS would fail."""
    (found,) = DEFAULT_LEAF_KEYS.violations(GOOD_RSA.public_key())
    assert found.reason == "UNSUPPORTED_KEY"
    assert "TLS" not in found.description
    (curve,) = DEFAULT_LEAF_KEYS.violations(ec.generate_private_key(ec.SECP521R1()).public_key())
    assert "TLS in gRPC fails" in curve.description


def test_a_key_identifier_is_made_for_what_may_sign_and_nothing_else() -> None:
    """RFC 7093, 2: twenty octets; DSA has no place here."""
    for key in (GOOD_RSA, ed25519.Ed25519PrivateKey.generate(), mldsa.MLDSA65PrivateKey.generate()):
        assert len(key_identifier(key.public_key())) == 20
    with pytest.raises(Invalid) as caught:
        key_identifier(dsa.generate_private_key(2048).public_key())
    assert caught.value.reason == "UNSUPPORTED_KEY"


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", "KEY_MALFORMED", "cannot be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "KEY_MALFORMED", "cannot be read"),
        (GOOD_RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")), "KEY_MALFORMED", "is encrypted"),
        (dump_private_key_pem(ed25519.Ed25519PrivateKey.generate()), "UNSUPPORTED_KEY", "Ed25519"),
        (dump_private_key_der(ec.generate_private_key(ec.SECP521R1())), "UNSUPPORTED_KEY", "secp521r1"),
    ],
    ids=["nothing", "rubbish", "encrypted", "Ed25519", "P-521"],
)  # fmt: skip
def test_a_key_file_that_cannot_serve_says_why(data: bytes, reason: str, says: str) -> None:
    """E2: and repeats nothing of what stands in it."""
    with pytest.raises(Invalid) as caught:
        load_private_key(data)
    assert caught.value.reason == reason
    assert says in caught.value.message


KEY_FILE = dump_private_key_pem(generate())
KEY_DER = dump_private_key_der(generate())


@given(st.data())
def test_a_damaged_key_file_is_a_key_or_our_error(data: st.DataObject) -> None:
    """A20, E2: no octet of it shows in the error."""
    source = data.draw(st.sampled_from([KEY_FILE, KEY_DER]))
    damaged = bytearray(source)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    a_key_or_our_error(bytes(damaged))


def a_key_or_our_error(data: bytes) -> None:
    try:
        load_private_key(data)
    except HandfastError as error:
        assert error.__cause__ is None
        assert KEY_FILE.splitlines()[1].decode() not in error.message
