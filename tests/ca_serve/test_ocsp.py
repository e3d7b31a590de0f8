"""OCSP as strangers ask for it: OpenSSL's and GnuTLS's clients, and HTTP by hand, against a CA that runs."""

from __future__ import annotations

import base64
import http.client
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from prometheus_client.parser import text_string_to_metric_families

from handfast.certificates import load_certificates
from handfast.ocsp import OcspAnswer, build_request, ocsp_url
from handfast_ca.ocsp.question import MAX_REQUEST_BYTES
from tests.ca_serve.process import RunningServe

pytestmark = pytest.mark.timeout(90)
WEB = "spiffe://test.example/web"
ASKED = {"Content-Type": "application/ocsp-request"}


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with RunningServe.initialised(tmp_path_factory.mktemp("ocsp") / "ca") as running:
        running.handfast("entry", "add", WEB).check()
        yield running


@pytest.fixture(scope="module")
def issuer(ca: RunningServe) -> x509.Certificate:
    return load_certificates((ca.directory / "issuer" / "issuer.crt").read_bytes())[0]


@pytest.fixture(scope="module")
def leaf(ca: RunningServe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that stays good."""
    return issue(ca, tmp_path_factory.mktemp("leaf"))


@pytest.fixture
def doomed(ca: RunningServe, tmp_path: Path) -> Path:
    """A certificate of the test's own."""
    return issue(ca, tmp_path)


def issue(ca: RunningServe, folder: Path) -> Path:
    ca.handfast("cert", "issue", WEB, "--out", folder / "web").check()
    return folder / "web" / "tls.crt"


def serial_of(leaf: Path) -> int:
    return load_certificates(leaf.read_bytes())[0].serial_number


def ask(
    ca: RunningServe, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(ca.http, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def post(ca: RunningServe, der: bytes) -> bytes:
    answer, body = ask(ca, "POST", "/ocsp", der, ASKED)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/ocsp-response"
    assert answer.headers["Cache-Control"] == "no-store"
    return body


def path_of(der: bytes) -> str:
    return f"/ocsp/{base64.b64encode(der).decode()}"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, check=False)


def openssl(ca: RunningServe, leaf: Path, *options: object, digest: str = "-sha1") -> subprocess.CompletedProcess[str]:
    """Asks, and verifies the answer up to the root: the issuing CA is among what may stand between."""
    issuer = ca.directory / "issuer" / "issuer.crt"
    trust = ("-CAfile", ca.directory / "root" / "root.crt", "-verify_other", issuer)
    about = (digest, "-issuer", issuer, "-cert", leaf)
    return run("openssl", "ocsp", *about, "-url", f"http://{ca.http}/ocsp", *trust, *options)


def gnutls(ca: RunningServe, leaf: Path, *options: object) -> subprocess.CompletedProcess[str]:
    issuer = ca.directory / "issuer" / "issuer.crt"
    about = ("--load-cert", leaf, "--load-issuer", issuer, "--load-trust", issuer)
    return run("ocsptool", f"--ask=http://{ca.http}/ocsp", *about, *options)


@pytest.mark.parametrize("digest", ["-sha1", "-sha256", "-sha512"])
@pytest.mark.parametrize("options", [(), ("-no_nonce",)])
def test_openssl_takes_the_answer_and_its_delegated_signer(
    ca: RunningServe, leaf: Path, options: tuple[str, ...], digest: str
) -> None:
    asked = openssl(ca, leaf, *options, digest=digest)
    assert asked.returncode == 0, asked.stderr
    assert "Response verify OK" in asked.stderr
    assert f"{leaf}: good" in asked.stdout
    assert "nonce" not in asked.stderr.lower()


@pytest.mark.parametrize("options", [("--nonce",), ("--no-nonce",)])
def test_gnutls_takes_the_answer(ca: RunningServe, leaf: Path, options: tuple[str, ...]) -> None:
    asked = gnutls(ca, leaf, *options)
    assert "Verifying OCSP Response: Success." in asked.stdout + asked.stderr
    assert "Certificate Status: good" in asked.stdout


def test_openssl_and_gnutls_hear_of_a_revocation_at_once(ca: RunningServe, doomed: Path) -> None:
    """The command has returned: the next answer says revoked, whoever got a good one before, with a nonce or without."""
    for options in ((), ("-no_nonce",)):
        assert f"{doomed}: good" in openssl(ca, doomed, *options).stdout
    ca.handfast("revoke", f"{serial_of(doomed):x}", "--reason", "key-compromise").check()
    for options in ((), ("-no_nonce",)):
        said = openssl(ca, doomed, *options).stdout
        assert f"{doomed}: revoked" in said
        assert "Reason: keyCompromise" in said
    assert "Certificate Status: revoked" in gnutls(ca, doomed, "--no-nonce").stdout


def test_openssl_is_told_that_a_serial_is_unknown(ca: RunningServe) -> None:
    """D9: a random serial, signed and verified, and never good."""
    issuer = ca.directory / "issuer" / "issuer.crt"
    trust = ("-CAfile", ca.directory / "root" / "root.crt", "-verify_other", issuer)
    alone = run(
        "openssl", "ocsp", "-issuer", issuer, "-serial", "0x1234567890abcdef", "-url", f"http://{ca.http}/ocsp", *trust
    )
    assert "Response verify OK" in alone.stderr
    assert "unknown" in alone.stdout


def test_several_certificates_in_one_request_are_refused_clearly(ca: RunningServe, leaf: Path) -> None:
    """RFC 5019, 2.1.1: one; OpenSSL's words for the error."""
    asked = openssl(ca, leaf, "-serial", "0x1234")
    assert "Responder Error: malformedrequest (1)" in asked.stdout


def test_of_another_ca_it_says_unauthorized(ca: RunningServe) -> None:
    root = ca.directory / "root" / "root.crt"
    asked = run("openssl", "ocsp", "-issuer", root, "-serial", "0x1234", "-url", f"http://{ca.http}/ocsp", "-noverify")
    assert "Responder Error: unauthorized (6)" in asked.stdout


def test_a_leaf_says_where_to_ask(ca: RunningServe, leaf: Path) -> None:
    """The URL in the certificate is the one that answers, for a client that knows nothing else."""
    certificate = load_certificates(leaf.read_bytes())[0]
    assert ocsp_url(certificate) == f"http://{ca.http}/ocsp"
    said = run("openssl", "x509", "-in", leaf, "-noout", "-ocsp_uri")
    assert said.stdout.strip() == f"http://{ca.http}/ocsp"


def test_a_get_with_two_slashes_in_its_base64_is_answered(
    ca: RunningServe, issuer: x509.Certificate, leaf: Path
) -> None:
    """D8: as it is, percent-encoded, and after a URL that ends in a slash."""
    serial, nonce = serial_of(leaf), b"\xff" * 32
    der = build_request(serial, issuer, nonce=nonce)
    path = path_of(der)
    assert "//" in path.removeprefix("/ocsp/")
    encoded = "/ocsp/" + quote(path.removeprefix("/ocsp/"), safe="")
    for asked in (path, encoded, path.replace("/ocsp/", "/ocsp//", 1)):
        answer, body = ask(ca, "GET", asked)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/ocsp-response")
        assert answer.headers["Cache-Control"] == "no-store"
        now = datetime.now(UTC)
        OcspAnswer.verify(body, serial=serial, issuer=issuer, now=now, nonce=nonce).require_good()


def test_a_get_without_a_nonce_may_be_stored_as_rfc_5019_says(
    ca: RunningServe, issuer: x509.Certificate, doomed: Path
) -> None:
    """RFC 5019, 6.2: and "good" for a minute only, since no cache hears of a revocation."""
    path = path_of(build_request(serial_of(doomed), issuer))
    answer, body = ask(ca, "GET", path)
    read = OcspAnswer.verify(body, serial=serial_of(doomed), issuer=issuer, now=datetime.now(UTC))
    assert parsedate_to_datetime(answer.headers["Last-Modified"]) == read.this_update
    assert parsedate_to_datetime(answer.headers["Expires"]) == read.until
    assert re.fullmatch(r"max-age=60, public, no-transform, must-revalidate", answer.headers["Cache-Control"])
    again, nothing = ask(ca, "GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, nothing) == (304, b"")
    head, nothing = ask(ca, "HEAD", path)
    assert (head.status, nothing, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])
    ca.handfast("revoke", f"{serial_of(doomed):x}").check()
    revoked, body = ask(ca, "GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert revoked.status == 200
    assert ocsp.load_der_ocsp_response(body).certificate_status is ocsp.OCSPCertStatus.REVOKED
    age = re.match(r"max-age=(\d+),", revoked.headers["Cache-Control"])
    assert age is not None
    assert 500 < int(age.group(1)) <= 600


def test_what_nobody_should_remember_is_not_stored(ca: RunningServe, issuer: x509.Certificate) -> None:
    """D9: an unknown serial may be issued in the next moment, and errors are nobody's truth."""
    for path in (path_of(build_request(77, issuer)), "/ocsp/%21%21", "/ocsp/", "/ocsp/AAAA"):
        answer, body = ask(ca, "GET", path)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store"), path
        assert ocsp.load_der_ocsp_response(body)


@pytest.mark.parametrize("octets", [0, 129, 4096])
def test_a_nonce_that_is_too_short_or_too_long_is_malformed(
    ca: RunningServe, issuer: x509.Certificate, leaf: Path, octets: int
) -> None:
    """D8: RFC 9654, 2.1, by POST and by GET."""
    extension = x509.OCSPNonce(b"n" * octets)
    certificate = load_certificates(leaf.read_bytes())[0]
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())
    der = builder.add_extension(extension, critical=False).build().public_bytes(Encoding.DER)
    malformed = ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    assert ocsp.load_der_ocsp_response(post(ca, der)).response_status is malformed
    _, body = ask(ca, "GET", path_of(der))
    assert ocsp.load_der_ocsp_response(body).response_status is malformed


def test_what_is_no_ocsp_request_at_all_is_refused_by_http(ca: RunningServe, issuer: x509.Certificate) -> None:
    """H3: the type, the size, the method; nothing is read further than it must be."""
    der = build_request(77, issuer)
    cases = [
        ("POST", "/ocsp", der, {"Content-Type": "application/json"}, 415),
        ("POST", "/ocsp", der, {}, 415),
        ("POST", "/ocsp", b"\x30" * (MAX_REQUEST_BYTES + 1), ASKED, 413),
        ("GET", "/ocsp", None, {}, 405),
        ("POST", path_of(der), der, ASKED, 405),
        ("PUT", "/ocsp", der, ASKED, 405),
    ]
    for method, path, body, headers, status in cases:
        answer, said = ask(ca, method, path, body, headers)
        assert (method, path[:8], answer.status) == (method, path[:8], status)
        assert said.startswith(b'{"error"')
    garbage = ocsp.load_der_ocsp_response(post(ca, b"\x30" * MAX_REQUEST_BYTES))
    assert garbage.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_a_posted_request_may_not_dawdle(ca: RunningServe) -> None:
    """H1: the head is there, the body never ends."""
    connection = http.client.HTTPConnection(ca.http, timeout=20)
    try:
        connection.putrequest("POST", "/ocsp")
        connection.putheader("Content-Type", "application/ocsp-request")
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        connection.send(b"\x30")
        answer = connection.getresponse()
        assert answer.status == 408
    finally:
        connection.close()


def test_it_is_counted_and_the_signer_s_end_is_told(ca: RunningServe, issuer: x509.Certificate, doomed: Path) -> None:
    """Metrics: how each request ended, what was signed before, and until when anything is signed."""

    def values() -> dict[tuple[str, ...], float]:
        text = ca.get("/metrics")[1].decode()
        return {
            (one.name, *sorted(one.labels.values())): one.value
            for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            for one in family.samples
            if "ocsp" in one.name
        }

    before = values()
    for _ in range(3):
        post(ca, build_request(serial_of(doomed), issuer))
    post(ca, b"garbage")
    after = values()

    def more(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    counted = "handfast_ca_ocsp_answers_total"
    assert (more(counted, "good", "no"), more(counted, "good", "yes")) == (1, 2)
    assert more(counted, "malformed", "no") == 1
    end = after["handfast_ca_ocsp_signer_expiry_timestamp_seconds",]
    assert 23 * 3600 < end - datetime.now(UTC).timestamp() <= 24 * 3600
    assert after["handfast_ca_ocsp_known",] >= 1


def test_the_status_says_until_when_answers_are_signed(ca: RunningServe) -> None:
    status = ca.handfast("status").check().out
    assert "answers are signed until" in status


def test_switched_off_there_is_no_responder_and_no_leaf_names_one(tmp_path: Path) -> None:
    """`ocsp: off`: neither a signer's certificate nor an address; the path says so."""
    ca = RunningServe.initialised(tmp_path / "ca")
    with ca.config.open("a", encoding="utf-8") as file:
        file.write("ocsp: off\n")
    ca.handfast("ca", "check-config", ca.config).check()
    with ca:
        ca.handfast("entry", "add", WEB).check()
        ca.handfast("cert", "issue", WEB, "--out", tmp_path / "web").check()
        assert ocsp_url(load_certificates((tmp_path / "web" / "tls.crt").read_bytes())[0]) is None
        for method, path in (("POST", "/ocsp"), ("GET", "/ocsp/MAMKAQE=")):
            answer, body = ask(ca, method, path, b"" if method == "POST" else None, ASKED)
            assert (answer.status, body) == (404, b'{"error":"ocsp is switched off here"}')
        identities = {row["identity"] for row in ca.handfast("cert", "list", "-o", "json").json()}
        assert "spiffe://test.example/handfast/ocsp" not in identities
        assert "ocsp" not in ca.handfast("status").out


def test_a_switch_that_is_neither_on_nor_off_is_told(tmp_path: Path) -> None:
    ca = RunningServe.initialised(tmp_path / "ca")
    ca.configure(ocsp="maybe")
    checked = ca.handfast("ca", "check-config", ca.config)
    assert checked.code != 0
    assert "ocsp" in checked.err
    assert "'maybe', neither on nor off" in checked.err
