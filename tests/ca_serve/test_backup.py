"""`handfast ca backup` beside a CA that serves, is loaded, or was killed; and a CA that serves what was restored."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from handfast.certificates import format_serial
from handfast.cli.context import load
from handfast.cli.session import connected
from handfast.csr import build_csr
from handfast.keys import generate
from handfast.sources import DirectorySource
from handfast.wire.v1 import registry_pb2
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from handfast_ca.audit import verify_audit
from tests.ca.untar import untar
from tests.ca_serve.process import PROGRAM, RunningServe, handfast

WEB = "spiffe://test.example/web"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def ca(tmp_path: Path) -> RunningServe:
    return RunningServe.initialised(tmp_path / "ca")


class Load:
    """Certificates that were asked for and answered, one after the other in each of two threads."""

    def __init__(self, ca: RunningServe) -> None:
        self.answered: list[str] = []
        self.failures: list[BaseException] = []
        self._ca = ca
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def _ask(self) -> None:
        context = load(str(self._ca.context))
        try:
            with closing(DirectorySource(context.credentials)) as source, connected(source, context) as channel:
                stub = RegistryStub(channel)
                while not self._ended.is_set():
                    issued = stub.Sign(registry_pb2.SignRequest(spiffe_id=WEB, csr=build_csr(generate())), timeout=20)
                    self.answered.append(format_serial(x509.load_der_x509_certificate(issued.chain[0]).serial_number))
        except BaseException as error:
            self.failures.append(error)
            raise

    def wait_for(self, count: int) -> None:
        """Until so many more were answered."""
        enough, deadline = len(self.answered) + count, time.monotonic() + 60
        while len(self.answered) < enough:
            assert time.monotonic() < deadline, f"{len(self.answered)} of {enough} answers"
            assert not self.failures, self.failures
            time.sleep(0.005)

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(60)


def serials(tar: Path, into: Path) -> set[str]:
    """Those of completed certificates in the ledger of a backup, whose audit trail is verified on the way."""
    untar(tar, into)
    report = verify_audit(into / "audit.jsonl")
    assert report.intact, report.problems
    assert not report.unfinished
    with closing(sqlite3.connect(into / "ledger.db")) as ledger:
        rows = ledger.execute("SELECT serial FROM certificates WHERE der IS NOT NULL").fetchall()
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (mark,) = ledger.execute("SELECT coalesce(max(value), 0) FROM marks WHERE name = 'audit'").fetchone()
    assert report.position.seq >= mark
    return {format_serial(int.from_bytes(row[0], "big")) for row in rows}


def test_a_backup_of_a_loaded_ca_has_all_that_was_answered_before_it_and_serves_again(
    ca: RunningServe, tmp_path: Path
) -> None:
    """J1, J9: three backups under load; the last one, restored, is a CA that lists, revokes and, once released, issues."""
    load, before = Load(ca), set[str]()
    with ca:
        ca.handfast("entry", "add", WEB, "--ttl", "1h").check()
        with load.running():
            for number in range(3):
                load.wait_for(20)
                before = set(load.answered)
                ca.handfast("ca", "backup", tmp_path / f"{number}.tar", "--config", ca.config).check()
                assert before - serials(tmp_path / f"{number}.tar", tmp_path / f"untarred{number}") == set()
            load.wait_for(20)
        assert load.failures == []
        ca.handfast("revoke", load.answered[0]).check()
        assert ca.stop() == 0
    restored = RunningServe(tmp_path / "restored", ca.grpc, ca.enrol, ca.http)
    done = handfast("ca", "restore", tmp_path / "2.tar", "--config", restored.config).check()
    assert "next: put the issuing key at" in done.err
    shutil.copy2(ca.directory / "issuer" / "issuer.key", restored.directory / "issuer" / "issuer.key")
    handfast("ca", "operator", "--config", restored.config).check()
    with restored:
        listed = restored.handfast("cert", "list", "--identity", WEB, "-o", "name").check().out.split()
        assert set(listed) >= before
        assert restored.handfast("revoke", load.answered[0], "-o", "json").json()["already_revoked"] is False
        assert restored.handfast("cert", "issue", WEB, "--out", tmp_path / "web").code == 3
        restored.handfast("ca", "release", "--accept-loss").check()
        restored.handfast("cert", "issue", WEB, "--out", tmp_path / "web").check()
        assert restored.audit[-1]["decision"] == "granted"


def test_a_restore_beside_what_is_there_keeps_what_was_revoked_since(ca: RunningServe, tmp_path: Path) -> None:
    """J9: as the operator sees it, and as the list that the CA then publishes says it."""
    with ca:
        ca.handfast("entry", "add", WEB).check()
        ca.handfast("ca", "backup", tmp_path / "one.tar", "--config", ca.config).check()
        ca.handfast("cert", "issue", WEB, "--out", tmp_path / "web").check()
        serial = ca.handfast("revoke", WEB, "-o", "json").json()["serials"][0]
        busy = ca.handfast("ca", "restore", tmp_path / "one.tar", "--config", ca.config, "--merge")
        assert busy.code == 1
        assert "in use by another CA process" in busy.err
        ca.stop()
        assert ca.handfast("ca", "restore", tmp_path / "one.tar", "--config", ca.config).code == 1
        done = ca.handfast("ca", "restore", tmp_path / "one.tar", "--config", ca.config, "--merge", "-o", "json")
        assert done.json()["revocations_from_ledger"] == 1
        assert [line["event"] for line in ca.audit][-1] == "restore"
        ca.start()
        assert ca.handfast("cert", "show", serial, "-o", "json").json()["status"] == "revoked"
        listed = ca.handfast("crl", "show", "-o", "json").json()
        assert [one["revoked"] for one in listed if "issuing" in one["issuer"]] == [1]


def test_a_killed_ca_is_backed_up_with_all_that_it_answered(ca: RunningServe, tmp_path: Path) -> None:
    """J1: what lies in SQLite's write-ahead log belongs to the ledger."""
    load = Load(ca)
    with ca:
        ca.handfast("entry", "add", WEB).check()
        with load.running():
            load.wait_for(20)
        ca.kill()
        handfast("ca", "backup", tmp_path / "one.tar", "--config", ca.config).check()
        assert set(load.answered) - serials(tmp_path / "one.tar", tmp_path / "untarred") == set()


def test_a_backup_that_is_killed_leaves_no_half_of_one_and_the_ca_untouched(ca: RunningServe, tmp_path: Path) -> None:
    """J1: under its name there is nothing, an empty file, or the whole."""
    with ca:
        ca.handfast("entry", "add", WEB).check()
        for number in range(6):
            target = tmp_path / f"{number}.tar"
            words = [*PROGRAM, "ca", "backup", str(target), "--config", str(ca.config)]
            with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while number and not target.exists() and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(0.01 * number)  # another moment each time
                process.kill()
            if target.exists() and target.stat().st_size:
                serials(target, tmp_path / f"untarred{number}")
        assert ca.handfast("entry", "list", "-o", "name").check().out.split() == [WEB]
        ca.handfast("ca", "backup", tmp_path / "last.tar", "--config", ca.config).check()
        assert ca.stop() == 0


def test_nothing_of_a_backup_is_for_others_whatever_the_umask(ca: RunningServe, tmp_path: Path) -> None:
    """E1, E3."""
    with ca:
        assert ca.stop() == 0
    before = os.umask(0)
    try:
        handfast("ca", "backup", tmp_path / "one.tar", "--config", ca.config).check()
        handfast("ca", "restore", tmp_path / "one.tar", "--config", tmp_path / "new" / "handfast.yaml").check()
    finally:
        os.umask(before)
    assert (tmp_path / "one.tar").stat().st_mode & 0o777 == 0o600
    written = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in written} == {0}
    assert {path.parent.stat().st_mode & 0o022 for path in written if path.parent.name == "state"} == {0}


def test_in_json_it_is_one_document(ca: RunningServe, tmp_path: Path) -> None:
    with ca:
        assert ca.stop() == 0
    made = handfast("ca", "backup", tmp_path / "one.tar", "--config", ca.config, "-o", "json").check()
    read = json.loads(made.out)
    assert (read["private_keys"], read["entries"], read["file"]) == ("none", 0, str(tmp_path / "one.tar"))
