"""What a person at a terminal is asked and shown when many certificates go, and what a script is."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from handfast.wire.v1 import registry_pb2
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from tests.ca_serve.process import PROGRAM, RunningServe

NAMES = [f"spiffe://test.example/job/{letter}" for letter in "abcdef"]
WORDS = ["revoke", "--identity", "spiffe://test.example/job/*", "-o", "json"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with RunningServe.initialised(tmp_path_factory.mktemp("mass") / "ca") as running:
        files = [running.directory / "operator" / name for name in ("tls.key", "tls.crt")]
        roots = (running.directory / "root" / "root.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots, *(file.read_bytes() for file in files))
        with grpc.secure_channel(running.grpc.replace("127.0.0.1", "localhost"), credentials) as channel:
            for name in NAMES:
                entry = registry_pb2.Entry(spiffe_id=name)
                RegistryStub(channel).AddEntry(registry_pb2.AddEntryRequest(entry=entry), timeout=20)
        yield running


def at_a_terminal(ca: RunningServe, typed: str) -> tuple[int, str, str]:
    """Exit code, stdout (a pipe), and what the terminal showed."""
    person, terminal = pty.openpty()
    surroundings = {**os.environ, "HANDFAST_CONTEXT": str(ca.context), "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [*PROGRAM, *WORDS], stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, env=surroundings
    ) as process:
        os.close(terminal)
        shown = _read(person, until=b"to go on")
        os.write(person, f"{typed}\n".encode())
        shown += _read(person)
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(person)
    return process.returncode, out, shown.decode("utf-8", "replace")


def _read(person: int, until: bytes = b"") -> bytes:
    """To a text, or to the end of whoever is at the other side."""
    shown, deadline = b"", time.monotonic() + 60
    while not until or until not in shown:
        assert time.monotonic() < deadline, shown
        if not select.select([person], [], [], 0.1)[0]:
            continue
        try:
            some = os.read(person, 65536)
        except OSError:  # EIO: the other side closed the terminal
            return shown
        if not some:
            return shown
        shown += some
    return shown


def granted(ca: RunningServe) -> int:
    return sum(line["event"] == "revoke" and line["decision"] == "granted" for line in ca.audit)


def test_a_person_types_the_number_before_anything_goes(ca: RunningServe) -> None:
    """C9: another number, and nothing is revoked; the right one, and a bar is shown while it is done."""
    before = granted(ca)
    code, out, shown = at_a_terminal(ca, "6")
    assert (code, out) == (1, "")
    assert "0 certificates of 6 identities" in shown
    assert "not confirmed: nothing was revoked" in shown
    assert granted(ca) == before
    code, out, shown = at_a_terminal(ca, "0")
    assert code == 0, shown
    assert json.loads(out)["identities"] == 6
    assert "revoking" in shown
    assert granted(ca) == before + 1


def test_a_script_says_yes_and_sees_no_bar(ca: RunningServe) -> None:
    """On a pipe nothing is written but the result."""
    before = granted(ca)
    refused = ca.handfast(*WORDS)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.splitlines()[1] == "hint: `--dry-run` shows them, `--yes` confirms"
    assert granted(ca) == before
    done = ca.handfast(*WORDS, "--yes").check()
    assert done.err == ""
    assert json.loads(done.out)["identities"] == 6


def test_a_drill_waits_for_nobody_when_nobody_holds_a_certificate(ca: RunningServe) -> None:
    """The whole of it, and only one document."""
    done = ca.handfast("drill", "mass-reissue", "--window", "10s", "--revoke-old", "--yes", "-o", "json").check()
    report = json.loads(done.out)
    assert (report["total"], report["ended"], report["missing"]) == (0, True, [])
    assert report["revoked"]["certificates"] == 0
    assert done.err == ""


@pytest.mark.slow
def test_who_has_no_agent_is_missing_and_the_drill_says_so_with_its_exit_code(ca: RunningServe, tmp_path: Path) -> None:
    """Nothing is revoked then."""
    ca.handfast("entry", "add", "spiffe://test.example/db").check()
    ca.handfast("cert", "issue", "spiffe://test.example/db", "--out", tmp_path / "db").check()
    words = ("drill", "mass-reissue", "--window", "10s", "--revoke-old", "--yes", "-o", "json", "--grace", "1s")
    done = ca.handfast(*words)
    assert done.code == 1, done.err
    report = json.loads(done.out)
    assert [one["identity"] for one in report["missing"]] == ["spiffe://test.example/db"]
    assert "revoked" not in report
