"""The SPIFFE bundle document, read back by a JOSE library as a stranger would."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import KeySet

from handfast.errors import Invalid
from handfast.spiffe_bundle import spiffe_bundle
from handfast.testing import TestAuthority

AUTHORITY = TestAuthority()
BUNDLE = AUTHORITY.bundle


def root(key: Any, algorithm: hashes.HashAlgorithm | None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a root")])
    begin = BUNDLE.roots[0].not_valid_before_utc
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, algorithm)
    )


def spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


ROOTS = [
    BUNDLE.roots[0],
    root(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    root(rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    root(ed25519.Ed25519PrivateKey.generate(), None),
]


def test_each_root_is_a_key_whose_parameters_and_certificate_agree() -> None:
    """SPIFFE Trust Domain and Bundle, 4; X.509-SVID, 6.2."""
    document = json.loads(spiffe_bundle(replace(BUNDLE, roots=tuple(ROOTS), sequence=7, refresh_hint_seconds=600)))
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (7, 600)
    assert [key["use"] for key in document["keys"]] == ["x509-svid"] * len(ROOTS)
    assert [key["kty"] for key in document["keys"]] == ["EC", "EC", "RSA", "OKP"]
    plain = [{name: value for name, value in key.items() if name != "use"} for key in document["keys"]]
    read = KeySet.import_key_set({"keys": plain}).keys
    for key, said, certificate in zip(read, document["keys"], ROOTS, strict=True):
        assert spki(key.public_key) == spki(certificate.public_key())
        assert [base64.b64decode(one, validate=True) for one in said["x5c"]] == [certificate.public_bytes(Encoding.DER)]
        assert not {"d", "p", "q"} & said.keys()


def test_issuing_cas_are_no_trust_anchors() -> None:
    document = json.loads(spiffe_bundle(BUNDLE))
    assert BUNDLE.issuers
    assert len(document["keys"]) == len(BUNDLE.roots)


def test_an_empty_bundle_says_that_nothing_is_trusted() -> None:
    """SPIFFE Trust Domain and Bundle, 4.1.3."""
    assert json.loads(spiffe_bundle(replace(BUNDLE, roots=())))["keys"] == []


def test_a_root_that_no_jwk_can_carry_is_an_error_and_not_left_out() -> None:
    odd = root(dsa.generate_private_key(2048), hashes.SHA256())
    with pytest.raises(Invalid) as caught:
        spiffe_bundle(replace(BUNDLE, roots=(odd,)))
    assert caught.value.reason == "UNSUPPORTED_KEY"
