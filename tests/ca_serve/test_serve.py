"""`handfast ca init` and `handfast ca serve` as an operator meets them: real processes, real ports, real signals."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from handfast.certificates import load_certificates, subject_key_id
from handfast.wire.v1 import authority_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast_ca.custody.process import MOST_FILES
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


def test_a_ca_with_a_passphrase_file_is_made_and_served(tmp_path: Path) -> None:
    """E1: the key is sealed, and what unseals it stays where the operator put it."""
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    ca = RunningServe.initialised(tmp_path / "ca", "--passphrase-file", secret)
    assert (ca.directory / "operator" / "tls.crt").exists()
    assert b"argon2id" in (ca.directory / "issuer" / "issuer.key").read_bytes()
    with ca:
        assert ca.handfast("entry", "list").check()
    elsewhere = tmp_path / "elsewhere"
    secret.rename(elsewhere)
    ca.launch()
    assert ca.wait_ended() == 1
    assert "cannot be read" in ca.log.read_text("utf-8")
    ca.environment["HANDFAST_PASSPHRASE_FILE"] = str(elsewhere)
    with ca:
        assert ca.get("/livez")[0] == 200
    assert "correct horse" not in ca.log.read_text("utf-8")


def test_a_key_file_that_others_may_read_is_refused(ca: RunningServe) -> None:
    """E1: nothing starts."""
    before = ca.audit
    (ca.directory / "issuer" / "issuer.key").chmod(0o644)
    ca.launch()
    assert ca.wait_ended() == 78
    assert "chmod 600" in ca.log.read_text("utf-8")
    assert ca.audit == before


def test_a_root_key_is_refused(ca: RunningServe) -> None:
    """E4: the root is no issuing CA."""
    before = ca.audit
    text = ca.config.read_text("utf-8").replace("issuer/issuer.", "root/root.")
    ca.config.write_text(text, "utf-8")
    ca.launch()
    assert ca.wait_ended() == 78
    assert "is a root" in ca.log.read_text("utf-8")
    assert ca.audit == before


def test_what_a_killed_ca_acknowledged_is_there_when_it_starts_again(ca: RunningServe) -> None:
    """J1: entries and a token that were answered, after `kill -9`; SIGTERM then ends it with 0."""
    ca.start()
    for number in range(3):
        ca.handfast("entry", "add", f"{WEB}{number}").check()
    ca.kill()
    with ca:
        names = ca.handfast("entry", "list", "-o", "name").check().out.split()
        assert names == [f"{WEB}{number}" for number in range(3)]
        assert ca.stop() == 0


@pytest.mark.slow
def test_a_quiet_watch_survives_the_pings_of_an_agent(ca: RunningServe) -> None:
    """H2: keepalive pings, more often than an agent sends them, are no flood: the watch ends when its reader says so."""
    with ca:
        operator = ca.directory / "operator"
        tls = grpc.ssl_channel_credentials(
            *[(operator / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
        )
        options = [("grpc.keepalive_time_ms", 6000), ("grpc.keepalive_permit_without_calls", 1)]
        with grpc.secure_channel(ca.grpc.replace("127.0.0.1", "localhost"), tls, options=options) as channel:
            watch = AuthorityStub(channel).WatchTrust(authority_pb2.WatchTrustRequest(), timeout=30)
            assert next(watch).whole
            with pytest.raises(grpc.RpcError) as ended:
                next(watch)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_ca_takes_as_many_open_files_as_it_may_have(ca: RunningServe) -> None:
    """A thousand watchers are a thousand connections: a low soft limit is raised, the hard one is left alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with ca:
            granted = resource.prlimit(ca.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert granted == (min(MOST_FILES, hard), hard)


def test_lists_are_made_anew_while_nobody_asks(tmp_path: Path) -> None:
    """D3: each with the next number, though nothing was revoked, so that none ends while the CA is well."""
    ca = RunningServe.initialised(tmp_path / "ca")
    ca.configure(profile={"longest_lifetime": "1m", "crl_validity": "1m", "publish_every": "1s"})
    with ca:
        issuer = load_certificates((ca.directory / "issuer" / "issuer.crt").read_bytes())[0]
        first = number_at(ca, issuer)
        wait_until(lambda: number_at(ca, issuer) >= first + 2)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_ca_renews_its_own_certificate_while_it_serves(tmp_path: Path) -> None:
    """J10: at half of its life, here half a minute, and the door is open all the time."""
    ca = RunningServe.initialised(tmp_path / "ca")
    ca.configure(profile={"longest_lifetime": "1m", "crl_validity": "1m", "publish_every": "5s"})
    with ca:
        first = shown_serial(ca)
        wait_until(lambda: shown_serial(ca) != first)


def number_at(ca: RunningServe, issuer: x509.Certificate) -> int:
    key_id = subject_key_id(issuer)
    assert key_id is not None
    status, der = ca.get(f"/crl/{key_id.hex()}.crl")
    assert status == 200
    crl = x509.load_der_x509_crl(der)
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def shown_serial(ca: RunningServe) -> str:
    return str(ca.handfast("inspect", ca.enrol, "-o", "json").json()[1]["serial"])


def wait_until(true: Callable[[], bool]) -> None:
    """Looks again and again; a list over HTTP gives no event."""
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline, "not in 90 s"
        time.sleep(0.1)
