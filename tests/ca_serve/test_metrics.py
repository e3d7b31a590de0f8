"""/metrics and /bundle of a CA that runs, read by the parsers that read them everywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from cryptography import x509
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.ca_serve.process import RunningServe

WEB = "spiffe://test.example/web"
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with RunningServe.initialised(tmp_path_factory.mktemp("metrics") / "ca") as running:
        yield running


def samples(ca: RunningServe) -> dict[str, float]:
    """Each sample as ``name{label=value}``."""
    status, body = ca.get("/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(body.decode()):  # type: ignore[no-untyped-call]
        for one in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def test_what_happened_is_counted_and_nobody_is_named(ca: RunningServe) -> None:
    """All that the contract names: issued, renewed, refused, revoked, seconds, CRL, issuer, watchers, judgements."""
    before = samples(ca)
    ca.handfast("entry", "add", WEB).check()
    ca.handfast("cert", "issue", WEB, "--out", ca.directory / "web").check()
    ca.handfast(
        "cert", "renew", "--cert", ca.directory / "web" / "tls.crt", "--key", ca.directory / "web" / "tls.key"
    ).check()
    assert ca.handfast("cert", "issue", "spiffe://test.example/nobody", "--out", ca.directory / "no").code == 1
    ca.handfast("revoke", WEB).check()
    after = samples(ca)
    assert after["handfast_ca_issued_total{by=signed}"] == 1
    assert after["handfast_ca_renewed_total"] == before["handfast_ca_renewed_total"] + 1
    assert after["handfast_ca_refused_total{reason=NO_ENTRY}"] == 1
    assert after["handfast_ca_revoked_total"] == 2
    assert after["handfast_ca_issuance_seconds_count"] == 2
    assert after["handfast_ca_crl_number"] > before["handfast_ca_crl_number"]
    assert after["handfast_ca_crl_entries"] == 2
    assert 0 <= after["handfast_ca_crl_age_seconds"] < 3600
    assert after["handfast_ca_issuer_expiry_timestamp_seconds"] == before["handfast_ca_issuer_expiry_timestamp_seconds"]
    assert after["handfast_ca_watchers"] == 1
    assert after["handfast_ca_check{check=issuer/expiry}"] == 0
    assert after["handfast_rpc_judged_total{reason=OK,verdict=allowed}"] >= 5
    assert after["handfast_rpc_judge_seconds_count"] >= 5
    assert after["process_resident_memory_bytes"] > 0
    assert "spiffe:" not in ca.get("/metrics")[1].decode()


def test_the_bundle_as_spiffe_json_is_that_of_the_pem_file_and_of_the_command(ca: RunningServe) -> None:
    """SPIFFE Trust Domain and Bundle, 4: plain HTTP and mutual TLS tell the same roots."""
    status, body = ca.get("/bundle")
    assert status == 200
    root = x509.load_pem_x509_certificate((ca.directory / "root" / "root.crt").read_bytes())
    (key,) = json.loads(body)["keys"]
    assert x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0])) == root
    assert (key["use"], key["kty"], key["crv"]) == ("x509-svid", "EC", "P-384")
    assert ca.handfast("bundle", "download", "--spiffe").check().out.encode() == body
    assert ca.handfast("bundle", "download", "--spiffe", "--with-issuers").code == 2
