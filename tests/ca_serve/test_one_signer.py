"""One ledger has one signer, and one name has one key (threats J5, J7).

Today's CA is one process, and the lock on its ledger is the lease: the kernel gives it back when the process is gone, and not a moment
before, so that a process that was stopped for an hour and goes on finds nobody in its place. A lease that passes to another machine
while the old holder still lives, and the epoch that fences the old one, come with PostgreSQL and several replicas; what they
will stand on, a ledger that takes no list out of turn, is in ``tests/ca/test_publishing.py``.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.certificates import load_certificates, subject_key_id
from handfast.keys import generate, key_identifier
from handfast_ca.custody.file import load_key, store_key
from tests.ca_serve.process import RunningServe, free_ports

pytestmark = pytest.mark.timeout(180)
WEB = "spiffe://test.example/web"


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[RunningServe]:
    with RunningServe.initialised(tmp_path / "ca") as up:
        yield up


class Second(RunningServe):
    """Another process for the same CA: same files, other ports, other log."""

    @property
    def config(self) -> Path:
        return self.directory / "second.yaml"

    @property
    def log(self) -> Path:
        return self.directory / "second.log"


def beside(ca: RunningServe) -> Second:
    grpc, enrol, http = (f"127.0.0.1:{port}" for port in free_ports(3))
    told = yaml.safe_load(ca.config.read_text())
    told["listen"] = {"grpc": grpc, "enrol": enrol, "http": http}
    made = Second(ca.directory, grpc, enrol, http)
    made.config.write_text(yaml.safe_dump(told))
    return made


def refused(second: Second, *words: str, code: int = 1) -> None:
    """It ends, says why, and has written nothing anywhere."""
    trail = (second.directory / "state" / "audit.jsonl").read_bytes()
    second.launch()
    ended = second.wait_ended()
    said = second.log.read_text("utf-8")
    assert ended == code, said
    assert all(word in said for word in words), said
    assert (second.directory / "state" / "audit.jsonl").read_bytes() == trail
    second.log.unlink()


def test_a_second_process_on_one_ledger_does_not_start_and_the_first_goes_on(ca: RunningServe) -> None:
    """J5: while the first runs, while it is stopped, and when somebody tidied its lock file away."""
    ca.handfast("entry", "add", WEB).check()
    second = beside(ca)
    refused(second, "is in use by another CA process", "end the other one first")
    os.kill(ca.pid, signal.SIGSTOP)
    refused(second, "is in use by another CA process")
    os.kill(ca.pid, signal.SIGCONT)
    (ca.directory / "state" / "ledger.db.lock").unlink()
    refused(second, "another process writes the audit trail", code=3)
    before = ca.handfast("revoke", WEB, "-o", "json").json()
    after = ca.handfast("revoke", WEB, "-o", "json").json()
    assert int(after["crl_number"]) >= int(before["crl_number"])


def test_a_process_that_takes_over_goes_on_where_the_dead_one_was(ca: RunningServe, tmp_path: Path) -> None:
    """J5, D1: killed while it was stopped; the next one has every revocation, and numbers and times that follow."""
    ca.handfast("entry", "add", WEB).check()
    ca.handfast("cert", "issue", WEB, "--out", tmp_path / "web").check()
    revoked = ca.handfast("revoke", WEB, "-o", "json").json()
    os.kill(ca.pid, signal.SIGSTOP)
    second = beside(ca)
    refused(second, "is in use by another CA process")
    ca.kill()
    with second:
        seen = second.get("/crl/" + _issuer_file(second))
        crl = x509.load_der_x509_crl(seen[1])
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        assert number > int(revoked["crl_number"])
        assert {f"{one.serial_number:x}" for one in crl} >= set(revoked["serials"])


def _issuer_file(ca: RunningServe) -> str:
    """From the certificate itself: where its revocation list is."""
    leaf = load_certificates((ca.directory / "operator" / "tls.crt").read_bytes())[0]
    points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    full = points[0].full_name
    assert full is not None
    return str(full[0].value).rsplit("/", 1)[1]


def test_another_key_under_the_name_of_the_issuing_ca_does_not_sign(ca: RunningServe) -> None:
    """J7: a list is in force for a name (RFC 5280, 5). Refused before anything is signed; the old key signs on."""
    assert ca.stop() == 0
    trail = (ca.directory / "state" / "audit.jsonl").read_bytes()
    folder = ca.directory / "issuer"
    shutil.copytree(folder, ca.directory / "kept")
    key = generate()
    (folder / "issuer.key").unlink()
    store_key(folder / "issuer.key", key, None)
    root = load_certificates((ca.directory / "root" / "root.crt").read_bytes())[0]
    old = load_certificates((folder / "issuer.crt").read_bytes())[0]
    builder = (
        x509.CertificateBuilder(root.subject, old.subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc - timedelta(days=1))
    )
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier(key_identifier(key.public_key()))
        builder = builder.add_extension(value, extension.critical)
    forged = builder.sign(load_key(ca.directory / "root" / "root.key", None), hashes.SHA384())  # type: ignore[arg-type]
    assert subject_key_id(forged) != subject_key_id(old)
    (folder / "issuer.crt").write_bytes(forged.public_bytes(Encoding.PEM))

    ca.launch()
    assert ca.wait_ended() != 0
    said = ca.log.read_text("utf-8")
    assert "belongs to another key" in said, said
    assert (ca.directory / "state" / "audit.jsonl").read_bytes() == trail

    shutil.rmtree(folder)
    shutil.move(ca.directory / "kept", folder)
    ca.start()
    ca.handfast("entry", "add", WEB).check()
