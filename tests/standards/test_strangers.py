"""What other people's verifiers say of a new CA's chain, leaf and CRLs: OpenSSL, GnuTLS and pkilint."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.certificates import pem_chain
from handfast.clock import SystemClock
from handfast.csr import build_csr
from handfast.keys import generate
from handfast.ocsp import build_request
from handfast.revocation import Reason
from handfast_ca.audit import MemoryAudit
from handfast_ca.authority import Authority
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import TRUST_DOMAIN, URLS, WEB, Ceremony

ALLOWED = {
    # RFC 5280, 4.2.1.2 recommends SHA-1 of the key; RFC 7093, 2 allows the first 160 bits of SHA-256, which we use.
    "pkix.subject_key_identifier_method_1_identified",
    "pkix.subject_key_identifier_rfc7093_method_1_identified",
    # pkilint asks a library that knows nine URI schemes, http and ftp among them; X509-SVID, 2 demands spiffe.
    "pkix.invalid_uri_syntax",
}


@pytest.fixture
async def files(tmp_path: Path) -> Path:
    """What a new CA makes: root.pem, issuer.pem, leaf.pem, a revoked leaf, the two CRLs."""
    ceremony = Ceremony(datetime.now(UTC))
    authority = Authority(
        trust_domain=TRUST_DOMAIN,
        issuer=ceremony.issuer,
        bundle=ceremony.bundle,
        ledger=MemoryLedger(),
        audit=MemoryAudit(SystemClock()),
        clock=SystemClock(),
        urls=URLS,
        root_crls=(ceremony.root_crl.public_bytes(Encoding.DER),),
    )
    await authority.start()
    await authority.add_entry(str(WEB), by="admin", dns_names=["web.shop.svc"], ip_addresses=["10.0.0.7"])
    empty = authority.trust().crls[ceremony.issuer.key_id]
    leaf = await authority.sign(WEB, build_csr(generate()), by="admin", lifetime=timedelta(hours=1))
    revoked = await authority.sign(WEB, build_csr(generate()), by="admin", lifetime=timedelta(hours=1))
    await authority.revoke_serial(revoked.record.serial, Reason.KEY_COMPROMISE, by="admin")
    crl = authority.trust().crls[ceremony.issuer.key_id]
    await authority.responder.signers.renew_if_due()
    signer = authority.responder.signers.present(datetime.now(UTC))
    assert signer is not None
    asked = {"good": leaf.record.serial, "revoked": revoked.record.serial, "unknown": 77}
    for name, serial in asked.items():
        for nonce in (b"", b"n" * 32):
            request = build_request(serial, ceremony.issuing.certificate, nonce=nonce)
            answer = await authority.responder.answer(request)
            (tmp_path / f"ocsp-{name}{'-nonce' if nonce else ''}.der").write_bytes(answer.der)
    contents = {
        "signer.pem": pem_chain([signer.certificate]),
        "root.pem": pem_chain([ceremony.root.certificate]),
        "issuer.pem": pem_chain([ceremony.issuing.certificate]),
        "leaf.pem": pem_chain(leaf.chain[:1]),
        "revoked.pem": pem_chain(revoked.chain[:1]),
        "crl.pem": crl.pem(),
        "empty-crl.pem": empty.pem(),
        "root-crl.pem": ceremony.root_crl.public_bytes(Encoding.PEM),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "crls.pem").write_bytes(contents["crl.pem"] + contents["root-crl.pem"])
    (tmp_path / "chain.pem").write_bytes(contents["leaf.pem"] + contents["issuer.pem"] + contents["root.pem"])
    return tmp_path


def _run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def _openssl(directory: Path, leaf: str) -> subprocess.CompletedProcess[str]:
    trust = ["-CAfile", "root.pem", "-untrusted", "issuer.pem", "-CRLfile", "crls.pem"]
    checks = ["-x509_strict", "-crl_check_all", "-purpose", "sslclient"]
    return _run(directory, "openssl", "verify", *checks, *trust, leaf)


def test_openssl_takes_the_chain_strictly_and_with_every_crl(files: Path) -> None:
    run = _openssl(files, "leaf.pem")
    assert (run.returncode, run.stdout) == (0, "leaf.pem: OK\n"), run.stderr


def test_openssl_refuses_the_revoked_leaf(files: Path) -> None:
    run = _openssl(files, "revoked.pem")
    assert run.returncode != 0
    assert "certificate revoked" in run.stderr + run.stdout


def test_gnutls_takes_the_chain_with_every_crl(files: Path) -> None:
    trust = ["--load-ca-certificate", "root.pem", "--load-crl", "crls.pem"]
    run = _run(files, "certtool", "--verify", "--infile", "chain.pem", *trust)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Verified. The certificate is trusted." in run.stdout


@pytest.mark.parametrize("name", ["root.pem", "issuer.pem", "leaf.pem", "signer.pem"])
def test_pkilint_finds_nothing_in_a_certificate_that_has_no_reason(files: Path, name: str) -> None:
    assert _findings(files, "lint_pkix_cert", "lint", name) <= ALLOWED


@pytest.mark.parametrize("name", ["crl.pem", "empty-crl.pem", "root-crl.pem"])
def test_pkilint_finds_nothing_in_a_list_that_has_no_reason(files: Path, name: str) -> None:
    assert _findings(files, "lint_crl", "lint", "-t", "CRL", "-p", "PKIX", name) <= ALLOWED


@pytest.mark.parametrize("name", ["good", "good-nonce", "revoked", "unknown-nonce"])
def test_pkilint_finds_nothing_in_an_ocsp_answer(files: Path, name: str) -> None:
    assert _findings(files, "lint_ocsp_response", "lint", f"ocsp-{name}.der") <= ALLOWED


def _findings(directory: Path, tool: str, *arguments: str) -> set[str]:
    run = _run(directory, str(Path(sys.executable).with_name(tool)), *arguments, "-s", "NOTICE", "-f", "CSV")
    rows = [line.split(",") for line in run.stdout.splitlines()[1:]]
    assert not run.stderr.strip(), run.stderr
    return {row[3] for row in rows if len(row) > 3}


def test_a_list_without_entries_has_none_instead_of_an_empty_one(files: Path) -> None:
    """RFC 5280, 5.1.2.6."""
    crl = x509.load_pem_x509_crl((files / "empty-crl.pem").read_bytes())
    assert len(crl) == 0
    assert crl.next_update_utc is not None
    # After nextUpdate the next element of TBSCertList is [0], the extensions.
    stamp = crl.next_update_utc.strftime("%y%m%d%H%M%SZ").encode()
    tbs = crl.tbs_certlist_bytes
    assert tbs[tbs.index(stamp) + len(stamp)] == 0xA0
