"""The SPIFFE bundle document, read back by a JOSE library as a stranger would."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import KeySet

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, Usage, verify_leaf
from handfast.errors import Invalid, Refused
from handfast.identity import TrustDomain
from handfast.keys import generate
from handfast.spiffe_bundle import read_bundle_map, read_spiffe_bundle, spiffe_bundle
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


# --- read --------------------------------------------------------------------------------------------------------------

HERE, THERE = TrustDomain("test.example"), TrustDomain("other.example")


def malformed(read: Callable[[], object]) -> str:
    with pytest.raises(Invalid) as caught:
        read()
    assert caught.value.reason == "BUNDLE_MALFORMED"
    return caught.value.message


def test_what_is_written_is_read_back() -> None:
    """SPIFFE Trust Domain and Bundle, 4: with keys for another use beside it, which are passed over."""
    written = replace(BUNDLE, roots=tuple(root for root in ROOTS[:1]), issuers=(), sequence=7)
    document = json.loads(spiffe_bundle(written))
    document["keys"].append({"use": "jwt-svid", "kty": "EC", "kid": "somebody's"})
    assert read_spiffe_bundle(json.dumps(document).encode(), HERE) == written
    assert read_spiffe_bundle(b'{"keys": []}', HERE).roots == ()
    many = json.dumps({"trust_domains": {str(HERE): document, str(THERE): {"keys": []}}}).encode()
    assert read_bundle_map(many) == {HERE: written, THERE: TrustBundle(THERE, ())}


@pytest.mark.parametrize(
    "text",
    [
        '{"trust_domains": {"test.example": BUNDLE, "test.example": OTHER}}',
        '{"trust_domains": {"test.example": BUNDLE}, "trust_domains": {"test.example": OTHER}}',
        '{"trust_domains": {"test.example": {"keys": [], "keys": []}}}',
        '{"trust_domains": {"test.example": {"keys": [{"use": "jwt-svid", "use": "x509-svid"}]}}}',
        '{"trust_domains": {"test.example": BUNDLE, "test\\u002eexample": OTHER}}',
    ],
    ids=["a domain", "the map", "the keys", "a use", "a domain, escaped once"],
)
def test_a_name_that_stands_twice_is_refused_whichever_would_win(text: str) -> None:
    """D14: one parser takes the first, another the last (RFC 8259, 4)."""
    other = spiffe_bundle(TestAuthority("test.example").bundle).decode()
    document = text.replace("BUNDLE", spiffe_bundle(BUNDLE).decode()).replace("OTHER", other)
    assert "stands twice" in malformed(lambda: read_bundle_map(document.encode()))


OTHER_KEY = json.loads(spiffe_bundle(replace(BUNDLE, roots=(TestAuthority().root,))))["keys"][0]


def spoilt(**changes: Any) -> bytes:
    document = json.loads(spiffe_bundle(BUNDLE))
    document["keys"][0] |= changes
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [7]}',
        b'{"keys": [], "spiffe_sequence": -1}',
        b'{"keys": [], "spiffe_sequence": true}',
        b'{"keys": [], "spiffe_sequence": NaN}',
        b'{"keys": ' + b"[" * 100_000,
        b'{"keys": []}' + b" " * (1 << 20),
        b'{"keys": [], "x": "\xff"}',
        spoilt(x5c=[]),
        spoilt(x5c=["rubbish"]),
        spoilt(x5c=json.loads(spiffe_bundle(BUNDLE))["keys"][0]["x5c"] * 2),
        spoilt(x=OTHER_KEY["x"]),
        spoilt(x=OTHER_KEY["x"], y=OTHER_KEY["y"]),
        spoilt(kty="oct"),
        spiffe_bundle(replace(BUNDLE, roots=(AUTHORITY.issue().leaf.certificate,))),
    ],
)
def test_a_document_that_is_not_exactly_a_bundle_is_refused(document: bytes) -> None:
    """D14, A20: our error, and no other."""
    malformed(lambda: read_spiffe_bundle(document, HERE))


@pytest.mark.parametrize("name", ["", "Test.Example", "a/b", "spiffe://a", "a" * 300])
def test_a_bundle_of_no_trust_domain_is_refused(name: str) -> None:
    """D13: the name is what a bundle is kept by."""
    malformed(lambda: read_bundle_map(json.dumps({"trust_domains": {name: {"keys": []}}}).encode()))


def test_a_domain_s_roots_vouch_for_nobody_of_another() -> None:
    """D13: the CA of one domain signs an identity of the other; the other's own bundle decides (Federation, 4.2)."""
    here, there = TestAuthority(str(HERE)), TestAuthority(str(THERE))
    document = {
        "trust_domains": {str(one.trust_domain): json.loads(spiffe_bundle(one.bundle)) for one in (here, there)}
    }
    bundles = read_bundle_map(json.dumps(document).encode())

    def judged(signer: TestAuthority, identity: str) -> str:
        key = generate()
        leaf = Leaf.of(signer.sign_leaf(key.public_key(), [x509.UniformResourceIdentifier(identity)]))
        bundle = bundles[leaf.spiffe_id.trust_domain]
        try:
            now = signer.clock.now()
            verify_leaf(leaf, [signer.issuer], bundle.roots, usage=Usage.CLIENT, now=now)
        except Refused as refused:
            return refused.reason
        return "good"

    assert judged(here, f"spiffe://{HERE}/web") == "good"
    assert judged(there, f"spiffe://{THERE}/web") == "good"
    assert judged(there, f"spiffe://{HERE}/web") == "UNTRUSTED"
    assert judged(here, f"spiffe://{THERE}/web") == "UNTRUSTED"
