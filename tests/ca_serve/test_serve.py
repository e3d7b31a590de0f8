"""`handfast ca init` and `handfast ca serve` as an operator meets them: real processes, real ports, real signals."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests.ca_serve.process import RunningServe

WEB = "spiffe://test.example/web"
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def ca(tmp_path: Path) -> RunningServe:
    return RunningServe.initialised(tmp_path / "ca")


def test_an_operator_makes_an_entry_a_token_and_a_certificate_and_revokes_it(ca: RunningServe, tmp_path: Path) -> None:
    """The main job over the command line (C6): a revocation that returned is in the CRL that anybody can fetch."""
    with ca:
        ca.handfast("entry", "add", WEB, "--dns", "web", "--ttl", "1h").check()
        token = ca.handfast("token", "create", WEB).check().out.strip()
        assert token.startswith("hft_")
        ca.handfast("cert", "issue", WEB, "--out", tmp_path / "web").check()
        leaf = x509.load_pem_x509_certificate((tmp_path / "web" / "tls.crt").read_bytes())
        points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        location = points[0].full_name[0].value  # type: ignore[index]
        path = location.removeprefix(f"http://{ca.http}")
        before = x509.load_der_x509_crl(ca.get(path)[1])
        assert before.get_revoked_certificate_by_serial_number(leaf.serial_number) is None
        ca.handfast("revoke", WEB, "--reason", "key-compromise").check()
        after = x509.load_der_x509_crl(ca.get(path)[1])
        assert after.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None
        assert ca.stop() == 0
    written = ca.log.read_bytes() + (ca.directory / "state" / "audit.jsonl").read_bytes()
    assert token.encode() not in written
