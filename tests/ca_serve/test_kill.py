"""`kill -9` of a CA that serves many: what anybody was told holds in its next life (threats B1, C5, J1)."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from handfast.certificates import load_certificates, subject_key_id
from handfast.errors import HandfastError
from handfast.keys import spki_sha256
from handfast.revocation import RevocationList, Revocations
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from handfast_ca.audit_check import verify_audit
from handfast_ca.enrolment import JoinToken, request_digest
from handfast_ca.stores.rows import load_number
from tests.ca_serve.load import Clients, Told
from tests.ca_serve.process import RunningServe

KILLS = 5


class Life:
    """One CA over several lives, and what is asserted after each death."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.ca = RunningServe.initialised(directory / "ca")
        self.scratch = directory / "found dead"
        self.chance = random.Random(seed)
        self.told = Told()
        self.clients = Clients(self.ca, self.told)
        self.issuer_key_id = subject_key_id(
            load_certificates((self.ca.directory / "issuer/issuer.crt").read_bytes())[0]
        )
        self.lines = 0
        self.last: RevocationList | None = None

    async def die_and_rise(self) -> None:
        await self.clients.kill_under_load(self.chance)
        dangling = self.check_what_the_dead_left()
        self.ca.start()
        async with self.clients.operator() as channel:
            known = await self.check_the_lists(channel)
            assert self.told.revoked | dangling <= known
            await self.check_certificates(channel)
            await self.ask_again()

    def check_what_the_dead_left(self) -> set[int]:
        """Looks at a copy, so that the next process has to recover by itself. Returns the dangling intentions."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.ca.directory / "state", self.scratch)
        report = verify_audit(self.scratch / "audit.jsonl", at_least=self.lines)
        assert report.intact, report.problems
        self.lines = report.lines
        written = {line.get("serial") for line in self.ca_lines() if line["decision"] == "granted"}
        assert {f"{serial:x}" for serial in self.told.handed_out} <= written
        with closing(sqlite3.connect(self.scratch / "ledger.db")) as ledger:
            self.check_tokens(ledger)
            rows = ledger.execute("SELECT serial, der, revoked_at FROM certificates").fetchall()
        kept = {load_number(serial): der for serial, der, _ in rows}
        assert self.told.handed_out.items() <= kept.items()
        assert self.told.revoked <= {load_number(serial) for serial, _, revoked_at in rows if revoked_at is not None}
        return {serial for serial, der in kept.items() if der is None}

    def ca_lines(self) -> list[dict[str, object]]:
        whole = (self.scratch / "audit.jsonl").read_bytes().split(b"\n")[:-1]
        return [line for line in map(json.loads, whole) if "decision" in line]

    def check_tokens(self, ledger: sqlite3.Connection) -> None:
        """B1: spent exactly when the intention of its request stands; revoked with its identity otherwise."""
        unspent = {digest for (digest,) in ledger.execute("SELECT digest FROM tokens")}
        intended = {digest for (digest,) in ledger.execute("SELECT request_digest FROM certificates")}
        for text, request in self.told.enrolments.items():
            is_spent = JoinToken.parse(text).digest not in unspent
            assert is_spent == (request_digest(text.encode(), request.csr) in intended)

    async def check_the_lists(self, channel: grpc.aio.Channel) -> set[int]:
        """Numbers and times rise from life to life. Returns all serials that everybody is told are revoked."""
        update = await AuthorityStub(channel).GetTrust(authority_pb2.GetTrustRequest())
        bundle = codec.bundle_from_wire(update.bundle)
        known = Revocations()
        for crl in update.crls:
            known = known.with_list(RevocationList.verify(crl.der, bundle, now=datetime.now(UTC)))
        assert self.issuer_key_id is not None
        present = known.lists[self.issuer_key_id]
        assert present.number > self.told.crl_number
        if self.last is not None:
            assert (present.number, present.this_update) > (self.last.number, self.last.this_update)
            assert present.this_update > self.last.this_update
        self.last = present
        return set(present.serials) | {serial for _, serial in codec.announced_from_wire(update.announced)}

    async def check_certificates(self, channel: grpc.aio.Channel) -> None:
        """Every one that a client holds is known, byte for byte, and none that nobody holds is valid unseen."""
        registry = RegistryStub(channel)
        for serial, der in self.told.handed_out.items():
            shown = await registry.GetCertificate(registry_pb2.GetCertificateRequest(serial=f"{serial:x}"))
            assert shown.der == der
            assert (shown.status == "revoked") or serial not in self.told.revoked
        page = await registry.ListCertificates(registry_pb2.ListCertificatesRequest(status="intended", page_size=500))
        assert not page.certificates

    async def ask_again(self) -> None:
        """Whose answer was lost gets it now, or hears that its token is spent because its certificate is revoked."""
        answered = {key_of(x509.load_der_x509_certificate(der)) for der in self.told.handed_out.values()}
        enrolments = self.told.enrolments.values()
        lost = [request for request in enrolments if key_of(x509.load_der_x509_csr(request.csr)) not in answered]
        async with self.clients.channel() as channel:
            for request in lost:
                try:
                    self.told.keep(await AuthorityStub(channel).Enrol(request))
                except grpc.aio.AioRpcError as refusal:
                    error: HandfastError = codec.from_rpc_error(refusal)
                    assert error.reason == "TOKEN_SPENT", error
        for request in lost:
            del self.told.enrolments[request.join_token]


def key_of(holder: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return spki_sha256(holder.public_key())


async def run(directory: Path, seed: int) -> None:
    life = Life(directory, seed)
    with life.ca:
        for _ in range(KILLS):
            await life.die_and_rise()
        assert life.ca.stop() == 0
    report = verify_audit(life.ca.directory / "state" / "audit.jsonl", at_least=life.lines)
    assert report.intact
    assert not report.unfinished
    assert life.told.handed_out
    assert life.told.revoked


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(4))
async def test_a_ca_that_is_killed_under_load_keeps_what_it_told(tmp_path: Path, seed: int) -> None:
    """J1, B1, C5: four times five kills; certificates, revocations, tokens, CRL numbers and the audit trail."""
    await run(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(4, 40))
async def test_a_ca_that_is_killed_two_hundred_times_under_load_keeps_what_it_told(tmp_path: Path, seed: int) -> None:
    """J1, B1, C5: the same, more often: with the twenty above it makes two hundred."""
    await run(tmp_path, seed)
