"""`handfast verify` says why a chain is not good, in words, and exits 1."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from handfast.certificates import Usage, pem_chain
from handfast.cli.main import main
from handfast.keys import PrivateKey, generate, key_identifier
from handfast.ocsp import issuer_hashes
from handfast.testing import ManualClock, TestAuthority
from tests.ca_serve.process import handfast


class Files:
    """What an operator has in hand: a chain, a bundle, revocation lists."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def verify(self, chain: bytes, bundle: bytes, lists: bytes | None, *options: str) -> tuple[int, str]:
        words = ["verify", self.write("tls.crt", chain), "--bundle", self.write("ca.crt", bundle), *options]
        if lists is not None:
            words += ["--crl", self.write("crl.pem", lists)]
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        return int(left.value.code or 0), self._capsys.readouterr().out


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


def test_a_good_chain_is_good(files: Files, authority: TestAuthority) -> None:
    web = authority.issue("/web", dns_names=["web"])
    options = ("--identity", "spiffe://test.example/web", "--dns", "web")
    code, out = files.verify(web.chain_pem, authority.bundle.roots_pem, authority.revocations.pem, *options)
    assert code == 0
    assert "×" not in out
    assert "‼" not in out


def test_without_lists_it_says_that_revocation_was_not_checked(files: Files, authority: TestAuthority) -> None:
    code, out = files.verify(authority.issue().chain_pem, authority.bundle.roots_pem, None)
    assert code == 0
    assert "‼ revocation: not checked" in out


def test_an_expired_certificate_is_called_expired(files: Files) -> None:
    authority = TestAuthority(clock=ManualClock(datetime.now(UTC) - timedelta(hours=3)))
    code, out = files.verify(authority.issue().chain_pem, authority.bundle.roots_pem, authority.revocations.pem)
    assert code == 1
    assert "× path: the certificate of spiffe://test.example/workload" in out
    assert "expired at" in out


def test_an_unknown_issuer_is_named(files: Files, authority: TestAuthority) -> None:
    other = TestAuthority("other.example")
    code, out = files.verify(authority.issue().chain_pem, other.bundle.roots_pem, None)
    assert code == 1
    assert "nobody given is the issuer" in out


def test_an_issuer_of_the_same_name_with_another_key_is_told_apart(files: Files, authority: TestAuthority) -> None:
    """A1: a name proves nothing."""
    key = generate()
    forged = ca_certificate(key, "forged", signer=authority.root, signing_key=generate())
    chain = pem_chain([leaf_of(key, forged, "test.example"), forged])
    code, out = files.verify(chain, authority.bundle.roots_pem, None)
    assert code == 1
    assert "another key" in out


def test_a_bundle_without_a_root_is_no_bundle(files: Files, authority: TestAuthority) -> None:
    code, out = files.verify(authority.issue().chain_pem, pem_chain([authority.issuer]), None)
    assert code == 1
    assert "no self-signed certificate in the bundle" in out


def test_a_revoked_certificate_is_called_revoked(files: Files, authority: TestAuthority) -> None:
    web = authority.issue()
    authority.revoke(web)
    code, out = files.verify(web.chain_pem, authority.bundle.roots_pem, authority.revocations.pem)
    assert code == 1
    assert f"× revocation: serial {web.leaf.serial_text} is revoked" in out


def test_a_missing_list_and_an_ended_list_are_different(files: Files) -> None:
    """D2: no list, or one that has ended, never counts as good."""
    clock = ManualClock(datetime.now(UTC) - timedelta(hours=3))
    authority = TestAuthority(clock=clock, list_validity=timedelta(hours=1))
    web, roots = authority.issue(lifetime=timedelta(hours=20)), authority.bundle.roots_pem
    root_list = authority.revocations.lists[key_identifier(authority.root_key.public_key())].pem()
    code, out = files.verify(web.chain_pem, roots, root_list)
    assert code == 1
    assert "no list of its issuer" in out
    code, out = files.verify(web.chain_pem, roots, authority.revocations.pem)
    assert code == 1
    assert "says nothing about now" in out


def test_a_server_certificate_is_no_client_certificate(files: Files, authority: TestAuthority) -> None:
    web = authority.issue(usages=[Usage.SERVER])
    code, out = files.verify(web.chain_pem, authority.bundle.roots_pem, None, "--usage", "client")
    assert code == 1
    assert "not for use as a TLS client" in out


def test_another_identity_or_name_than_the_one_wanted_is_refused(files: Files, authority: TestAuthority) -> None:
    options = ("--identity", "spiffe://test.example/pay", "--dns", "pay")
    code, out = files.verify(authority.issue("/web").chain_pem, authority.bundle.roots_pem, None, *options)
    assert code == 1
    assert "spiffe://test.example/web is not spiffe://test.example/pay" in out
    assert "pay is not among its names" in out


def test_a_ca_below_one_that_allows_none_is_refused_for_its_path_length(files: Files, authority: TestAuthority) -> None:
    """A5."""
    key = generate()
    below = ca_certificate(key, "below", signer=authority.issuer, signing_key=authority.issuer_key)
    chain = pem_chain([leaf_of(key, below, "test.example"), below, authority.issuer])
    code, out = files.verify(chain, authority.bundle.roots_pem, None)
    assert code == 1
    assert "(path length)" in out


def test_an_identity_outside_of_the_cas_constraints_is_refused_for_them(files: Files, authority: TestAuthority) -> None:
    key = generate()
    elsewhere = ca_certificate(key, "e", signer=authority.root, signing_key=authority.root_key, only="other.example")
    chain = pem_chain([leaf_of(key, elsewhere, "test.example"), elsewhere])
    code, out = files.verify(chain, authority.bundle.roots_pem, None)
    assert code == 1
    assert "(name constraints)" in out


def test_a_ca_certificate_is_no_workload(files: Files, authority: TestAuthority) -> None:
    code, out = files.verify(pem_chain([authority.root]), authority.bundle.roots_pem, None)
    assert code == 1
    assert "a signing certificate never authenticates a workload" in out


def ca_certificate(
    key: PrivateKey, name: str, *, signer: x509.Certificate, signing_key: PrivateKey, only: str = ""
) -> x509.Certificate:
    builder = _builder(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), signer)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    if only:
        permitted = [x509.UniformResourceIdentifier(only)]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    return builder.sign(signing_key, hashes.SHA256())


def leaf_of(ca_key: PrivateKey, ca: x509.Certificate, trust_domain: str) -> x509.Certificate:
    uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/web")
    builder = _builder(generate(), x509.Name([]), ca)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    return builder.sign(ca_key, hashes.SHA256())


def _builder(key: PrivateKey, subject: x509.Name, signer: x509.Certificate) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    signer_key_id = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=30))
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(key.public_key())), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer_key_id), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def ocsp_answer(authority: TestAuthority, serial: int, status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD) -> bytes:
    """Of the issuing CA itself, by the library's own writer."""
    now = datetime.now(UTC).replace(microsecond=0)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
        *issuer_hashes(authority.issuer, hashes.SHA256()),
        serial,
        hashes.SHA256(),
        status,
        now,
        now + timedelta(minutes=10),
        now if revoked else None,
        x509.ReasonFlags.superseded if revoked else None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, authority.issuer)
    return builder.sign(authority.issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_an_ocsp_answer_stands_in_for_a_list(files: Files, authority: TestAuthority) -> None:
    web = authority.issue("/web")
    answer = files.write("ocsp.der", ocsp_answer(authority, web.leaf.serial))
    code, out = files.verify(web.chain_pem, authority.bundle.roots_pem, None, "--ocsp", str(answer))
    assert code == 0
    assert "OCSP: good as of" in out
    assert "not checked" not in out


@pytest.mark.parametrize("kind", ["revoked", "another", "garbage"])
def test_an_ocsp_answer_that_is_not_good_is_told_beside_the_lists(
    files: Files, authority: TestAuthority, kind: str
) -> None:
    web = authority.issue("/web")
    answers = {
        "revoked": ocsp_answer(authority, web.leaf.serial, ocsp.OCSPCertStatus.REVOKED),
        "another": ocsp_answer(authority, web.leaf.serial + 1),
        "garbage": b"garbage",
    }
    answer = files.write("ocsp.der", answers[kind])
    lists = authority.revocations.pem
    code, out = files.verify(web.chain_pem, authority.bundle.roots_pem, lists, "--ocsp", str(answer))
    words = {"revoked": "is revoked since", "another": "is about serial", "garbage": "cannot be read"}
    assert code == 1
    assert "× OCSP: " in out
    assert words[kind] in out
    assert "√ revocation" in out


def test_without_its_issuer_an_answer_cannot_be_judged(files: Files, authority: TestAuthority) -> None:
    web = authority.issue("/web")
    answer = files.write("ocsp.der", ocsp_answer(authority, web.leaf.serial))
    alone = pem_chain([web.leaf.certificate])
    code, out = files.verify(alone, authority.bundle.roots_pem, None, "--ocsp", str(answer))
    assert code == 1
    assert "its issuing CA is in neither file" in out


def test_inspect_shows_an_ocsp_answer(
    files: Files, authority: TestAuthority, capsys: pytest.CaptureFixture[str]
) -> None:
    """Revoked ones with time and reason, and an error as what it is."""
    revoked = ocsp_answer(authority, 0xABCD, ocsp.OCSPCertStatus.REVOKED)
    later = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    shown = []
    for name, der in (("a.der", revoked), ("b.der", later.public_bytes(Encoding.DER))):
        with pytest.raises(SystemExit):
            main(["inspect", str(files.write(name, der)), "-o", "json"])
        shown += json.loads(capsys.readouterr().out)
    assert shown[0]["kind"] == shown[1]["kind"] == "OCSP answer"
    assert (shown[0]["serial"], shown[0]["status"], shown[0]["reason"]) == ("abcd", "revoked", "superseded")
    assert shown[0]["signed_by"] == authority.issuer.subject.rfc4514_string()
    assert (shown[1]["response"], "status" in shown[1]) == ("try_later", False)


def test_inspect_shows_what_a_ca_is_limited_to(
    files: Files, authority: TestAuthority, capsys: pytest.CaptureFixture[str]
) -> None:
    key = generate()
    ca = ca_certificate(key, "below", signer=authority.root, signing_key=authority.root_key, only="test.example")
    leaf = leaf_of(key, ca, "test.example")
    with pytest.raises(SystemExit):
        main(["inspect", str(files.write("chain.pem", pem_chain([leaf, ca, authority.issuer]))), "-o", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert "path_length" not in shown[0]
    assert [(one["path_length"], one["confined_to"]) for one in shown[1:]] == [(None, ["test.example"]), (0, [])]


def test_standard_input_is_called_so() -> None:
    for words in (["inspect", "-"], ["verify", "-", "--bundle", "roots.pem"]):
        done = handfast(*words, given="nothing of the kind")
        assert (done.code, "standard input" in done.err) == (1, True), done.err
