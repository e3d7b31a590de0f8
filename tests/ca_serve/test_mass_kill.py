"""`kill -9` in the middle of a mass revocation: no half batch, nothing lost that was told, and the same words finish it (C5, J1, J9)."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.certificates import parse_serial
from handfast.csr import build_csr
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.revocation import RevocationList
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from handfast_ca.audit_check import verify_audit
from handfast_ca.config import load
from handfast_ca.mass_revoker import BATCH, IDENTITIES
from handfast_ca.serve import open_authority
from handfast_ca.stores.rows import load_number
from tests.ca_serve.load import LOCAL_ONLY
from tests.ca_serve.process import PROGRAM, RunningServe

GLOB = "spiffe://test.example/job/*"
JOBS = [SpiffeId.parse(f"spiffe://test.example/job/{number:03}") for number in range(4 * IDENTITIES)]
EACH = 3
ALL = EACH * len(JOBS)
pytestmark = pytest.mark.timeout(300)


async def populate(config: Path) -> None:
    """So many certificates, over the authority itself: what is killed later is the process that serves them."""
    async with open_authority(load(config), None) as authority:

        async def add(identity: SpiffeId) -> None:
            await authority.add_entry(str(identity), by="test")
            for _ in range(EACH):
                await authority.sign(identity, build_csr(generate()), by="test")

        await asyncio.gather(*map(add, JOBS))


@dataclass(frozen=True)
class Found:
    """The state directory of a CA that is dead."""

    revoked: dict[str, list[bool]]
    serials: set[int]
    lines: list[dict[str, Any]]

    @property
    def in_trail(self) -> set[int]:
        return {parse_serial(text) for line in self.revocations for text in line["serials"]}

    @property
    def revocations(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "revoke" and line["decision"] == "granted"]

    @property
    def finished(self) -> bool:
        """Nothing but the end of the last run follows its beginning."""
        marks = [line["event"] for line in self.lines if line["event"].startswith("mass-revocation")]
        return not marks or marks[-1] == "mass-revocation-done"


@dataclass
class Event:
    """One CA, and one mass revocation that takes it several lives."""

    ca: RunningServe
    request: registry_pb2.RevokeManyRequest
    words: list[str]
    whole_identities: bool
    told: int = 0
    crl_number: int = 0
    runs: list[int] = field(default_factory=list)

    def channel(self) -> grpc.Channel:
        files = [self.ca.directory / "operator" / name for name in ("tls.key", "tls.crt")]
        roots = (self.ca.directory / "root" / "root.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots, *(file.read_bytes() for file in files))
        return grpc.secure_channel(self.ca.grpc.replace("127.0.0.1", "localhost"), credentials, options=LOCAL_ONLY)

    def kill_after(self, batches: int, delay: float) -> None:
        """Says it, and kills the CA a moment after so many batches were told."""
        done = 0
        with self.channel() as channel:
            try:
                for number, one in enumerate(RegistryStub(channel).RevokeMany(self.request, timeout=120)):
                    done = one.certificates
                    if number == batches:
                        threading.Timer(delay, self.ca.kill).start()
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        self.ca.wait_ended()
        self.told += done

    def kill_a_command_after(self, lines: int) -> None:
        """As an operator sees it: the command says how far it came, and ends with 3."""
        trail = self.ca.directory / "state" / "audit.jsonl"
        before = trail.read_bytes().count(b'"event":"revoke"')
        environment = {**os.environ, "HANDFAST_CONTEXT": str(self.ca.context)}
        with subprocess.Popen(
            [*PROGRAM, *self.words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as command:
            deadline = time.monotonic() + 120
            while trail.read_bytes().count(b'"event":"revoke"') < before + lines and command.poll() is None:
                assert time.monotonic() < deadline, trail.read_text()[-2000:]
                time.sleep(0.001)
            self.ca.kill()
            out, err = command.communicate(timeout=120)
        if command.returncode != 0:
            assert command.returncode == 3, err
            assert out == ""
            assert "say it again, and the rest is revoked" in err
            self.told += int(err.split("revoked ", 1)[1].split()[0])
        else:  # it had ended before anybody saw that it began
            self.told += json.loads(out)["certificates"]

    def found(self) -> Found:
        """Reads a copy, so that the next process has to recover by itself."""
        copy = self.ca.directory.parent / "found"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.ca.directory / "state", copy)
        with closing(sqlite3.connect(copy / "ledger.db")) as ledger:
            rows = ledger.execute("SELECT spiffe_id, serial, revoked_at FROM certificates ORDER BY seq").fetchall()
        revoked: defaultdict[str, list[bool]] = defaultdict(list)
        for name, _, at in rows:
            if "/job/" in name:
                revoked[name].append(at is not None)
        serials = {load_number(serial) for _, serial, at in rows if at is not None}
        whole = (copy / "audit.jsonl").read_bytes().split(b"\n")[:-1]
        return Found(dict(revoked), serials, [line for line in map(json.loads, whole) if "decision" in line])

    def check_the_dead(self) -> Found:
        report = verify_audit(self.ca.directory / "state" / "audit.jsonl")
        assert report.intact, report.problems
        found = self.found()
        assert self.told <= len(found.serials), "less is revoked than somebody was told"
        assert found.in_trail <= found.serials
        if self.whole_identities:
            assert all(len(set(each)) == 1 for each in found.revoked.values()), "half an identity"
            assert sum(each[0] for each in found.revoked.values()) % IDENTITIES == 0, "half a batch"
        else:
            assert len(found.serials) % BATCH == 0 or len(found.serials) == ALL, "half a batch"
        return found

    def check_the_risen(self, dead: Found) -> None:
        """All that the ledger had revoked is told to everybody, stands in the trail, and the rest is reported."""
        self.told = len(dead.serials)
        with self.channel() as channel:
            update = AuthorityStub(channel).GetTrust(authority_pb2.GetTrustRequest(), timeout=60)
        bundle = codec.bundle_from_wire(update.bundle)
        lists = [RevocationList.verify(crl.der, bundle, now=datetime.now(UTC)) for crl in update.crls]
        newest = max(lists, key=lambda one: one.number)
        assert newest.serials == dead.serials
        assert newest.number > self.crl_number
        self.crl_number = newest.number
        assert self.found().in_trail == dead.serials
        written = [text for line in self.found().revocations for text in line["serials"]]
        assert len(written) == len(set(written)), "written twice"
        line = self.status_line()
        assert (line is None) == dead.finished, line
        if line is not None:
            done, total = (int(text) for text in line["detail"].split(": ")[1].split(" revoked")[0].split(" of "))
            assert line["level"] == "warning"
            assert (done, total) == (len(dead.serials) - sum(self.runs), ALL - sum(self.runs))
        self.runs.append(len(dead.serials) - sum(self.runs))

    def status_line(self) -> dict[str, Any] | None:
        checks = self.ca.handfast("status", "-o", "json").json()["checks"]
        return next((one for one in checks if (one["group"], one["name"]) == ("revocation", "mass")), None)

    def finish(self) -> None:
        """The same words again, and once more: the rest goes, then nothing, and nobody has to be told anything."""
        before = len(self.found().serials)
        done = self.ca.handfast(*self.words).json()
        assert (done["certificates"], done["already_revoked"]) == (ALL - before, before)
        again = self.ca.handfast(*self.words).json()
        assert (again["certificates"], again["already_revoked"]) == (0, ALL)
        assert self.status_line() is None
        assert int(again["crl_number"]) >= int(done["crl_number"]) > self.crl_number
        assert len(self.found().in_trail) == ALL


def begun(directory: Path, *, whole_identities: bool) -> Event:
    ca = RunningServe.initialised(directory / "ca")
    asyncio.run(populate(ca.config))
    if whole_identities:
        request = registry_pb2.RevokeManyRequest(identity_glob=GLOB, reason="ca-compromise")
        words = ["revoke", "--identity", GLOB, "--reason", "ca-compromise", "--yes", "-o", "json"]
        return Event(ca, request, words, whole_identities=True)
    # Narrowed by a time, single certificates are meant and not whole identities.
    early, late = "2020-01-01T00:00:00Z", "2120-01-01T00:00:00Z"
    request = registry_pb2.RevokeManyRequest(identity_glob=GLOB, reason="ca-compromise")
    request.issued_from.FromJsonString(early)
    request.issued_until.FromJsonString(late)
    words = [
        "revoke",
        "--identity",
        GLOB,
        "--issued-between",
        early,
        late,
        "--reason",
        "ca-compromise",
        "--yes",
        "-o",
        "json",
    ]
    return Event(ca, request, words, whole_identities=False)


def lives(directory: Path, seed: int, kills: int) -> None:
    """``kills`` of them over the wire, and one under the command line; then it is finished."""
    chance = random.Random(seed)
    event = begun(directory, whole_identities=seed % 2 == 0)
    with event.ca:
        for _ in range(kills):
            event.kill_after(chance.randint(0, 1), chance.random() * 0.05)
            dead = event.check_the_dead()
            event.ca.start()
            event.check_the_risen(dead)
        event.kill_a_command_after(chance.randint(1, 3))
        dead = event.check_the_dead()
        event.ca.start()
        event.check_the_risen(dead)
        print(f"seed {seed}: revoked before each death {event.runs} of {ALL}")
        event.finish()
        assert event.ca.stop() == 0


@pytest.mark.parametrize("seed", range(2))
def test_a_mass_revocation_that_is_killed_leaves_no_half_batch_and_is_finished_when_it_is_said_again(
    tmp_path: Path, seed: int
) -> None:
    """C5, J1, J9: whole identities and single certificates; each with one kill over the wire and one under the command."""
    lives(tmp_path, seed, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 14))
def test_a_mass_revocation_that_is_killed_often_leaves_no_half_batch(tmp_path: Path, seed: int) -> None:
    """C5, J1, J9: the same, with three kills over the wire and one under the command, twelve times."""
    lives(tmp_path, seed, kills=3)
