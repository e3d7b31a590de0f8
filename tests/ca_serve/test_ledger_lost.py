"""The ledger cannot be written for a while, under load (threat J2). What hangs on it says so; what does not goes on.

PostgreSQL, where the database is a machine of its own that can be away, belongs to the issue that brings it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from handfast.access import in_trust_domain
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.errors import HandfastError
from handfast.keys import generate
from handfast.rpc.guard import AioGuard
from handfast.sources import StaticSource
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast.wire.v1.registry_pb2_grpc import RegistryStub
from handfast_ca.audit_check import verify_audit
from tests.ca_serve.load import Clients, Told
from tests.ca_serve.process import TRUST_DOMAIN, RunningServe
from tests.library.mesh import UNARY, aio_server, plain_aio

WAITING = 12
pytestmark = pytest.mark.timeout(120)


async def token(channel: grpc.aio.Channel, name: str) -> str:
    registry, identity = RegistryStub(channel), f"spiffe://{TRUST_DOMAIN}/{name}"
    entry = registry_pb2.Entry(spiffe_id=identity, dns_names=["localhost"])
    await registry.AddEntry(registry_pb2.AddEntryRequest(entry=entry))
    return str((await registry.CreateToken(registry_pb2.CreateTokenRequest(spiffe_id=identity))).token)


def enrolment(token: str, key: Any) -> authority_pb2.EnrolRequest:
    return authority_pb2.EnrolRequest(join_token=token, csr=build_csr(key, credential=token.encode()))


async def enrolled(clients: Clients, token: str) -> Credentials:
    """As an agent would hand it to its service."""
    key = generate()
    async with clients.channel() as channel:
        issued = await AuthorityStub(channel).Enrol(enrolment(token, key))
    return Credentials.build(
        key=key,
        chain=codec.certificates_from_wire(issued.chain),
        bundle=codec.bundle_from_wire(issued.trust.bundle),
        crls=[crl.der for crl in issued.trust.crls],
        now=datetime.now(UTC),
    )


@contextlib.asynccontextmanager
async def calls_without_end(server: Credentials, client: Credentials) -> AsyncIterator[list[str]]:
    """Two services that call each other over mutual TLS while the block runs; yields what each call came to."""
    source = StaticSource(server)
    guard = AioGuard(source, in_trust_domain(TRUST_DOMAIN))
    said: list[str] = []

    async def call(channel: grpc.aio.Channel) -> None:
        try:
            await channel.unary_unary(UNARY)(b"")
            said.append("ok")
        except grpc.aio.AioRpcError as error:
            said.append(str(error.code()))

    async def forever(channel: grpc.aio.Channel, target: str) -> None:
        while True:
            await call(channel)
            async with plain_aio(target, client) as fresh:
                await call(fresh)

    async with aio_server(source, guard) as (target, _), plain_aio(target, client) as channel:
        running = asyncio.create_task(forever(channel, target))
        try:
            yield said
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def answer(call: Any) -> HandfastError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return codec.from_rpc_error(error)
    return None


async def readiness(ca: RunningServe) -> tuple[int, dict[str, str]]:
    status, body = await asyncio.to_thread(ca.get, "/readyz")
    return status, {check["name"]: check["level"] for check in json.loads(body)["checks"]}


def refused_enrolments(ca: RunningServe) -> list[dict[str, Any]]:
    return [line for line in ca.audit if line.get("event") == "enrol" and line.get("decision") == "refused"]


async def test_while_the_ledger_is_locked_nothing_is_issued_and_everything_else_goes_on(tmp_path: Path) -> None:
    """J2: refused with a time to come back; lists, bundle and calls go on; not ready, but alive; clean afterwards."""
    with RunningServe.initialised(tmp_path / "ca") as ca:
        clients = Clients(ca, Told())
        async with clients.operator() as operator, clients.channel() as door:
            web, pay = [await enrolled(clients, await token(operator, name)) for name in ("web", "pay")]
            tokens = [await token(operator, f"late{number}") for number in range(WAITING)]
            late = [enrolment(one, generate()) for one in tokens]
            paths = [f"/crl/{key_id.hex()}.crl" for key_id in web.revocations.lists] + ["/bundle.pem"]
            before = {path: await asyncio.to_thread(ca.get, path) for path in paths}
            assert {status for status, _ in before.values()} == {200}
            watch = AuthorityStub(operator).WatchTrust(authority_pb2.WatchTrustRequest())
            first: Any = await watch.read()
            assert first.whole
            async with calls_without_end(web, pay) as said:
                with closing(sqlite3.connect(ca.directory / "state/ledger.db", isolation_level=None)) as stranger:
                    stranger.execute("BEGIN IMMEDIATE")
                    asking = [asyncio.create_task(answer(AuthorityStub(door).Enrol(one))) for one in late]
                    status, checks = await readiness(ca)
                    assert (status, checks["storage/ledger"], checks["storage/audit"]) == (503, "failed", "ok")
                    assert (await asyncio.to_thread(ca.get, "/livez"))[0] == 200
                    assert {path: await asyncio.to_thread(ca.get, path) for path in paths} == before
                    refusals = await asyncio.gather(*asking)
                    done = len(said)
                    while len(said) < done + 4:
                        await asyncio.sleep(0)
                    stranger.execute("ROLLBACK")
                status, checks = await readiness(ca)
                assert (status, checks["storage/ledger"]) == (200, "ok")
                assert [error for error in refusals if error is None or error.reason != "LEDGER_BUSY"] == []
                assert all(error is not None and (error.retry_after or 0) > 0 for error in refusals)
                assert [line["reason"] for line in refused_enrolments(ca)] == ["LEDGER_BUSY"] * WAITING
                assert (
                    await asyncio.gather(*(answer(AuthorityStub(door).Enrol(one)) for one in late)) == [None] * WAITING
                )
            assert len(said) > 10
            assert set(said) == {"ok"}
            assert not watch.done()
            watch.cancel()
            page = await RegistryStub(operator).ListCertificates(
                registry_pb2.ListCertificatesRequest(identity_glob="*/late*", page_size=500)
            )
            assert {one.status for one in page.certificates} == {"valid"}
            assert len(page.certificates) == WAITING
        assert ca.stop() == 0
    assert verify_audit(ca.directory / "state" / "audit.jsonl").intact


def test_a_damaged_ledger_is_refused_at_the_start_and_nothing_is_signed(tmp_path: Path) -> None:
    """J3: a page that was overwritten; the process ends and says what to do, and nobody listens."""
    ca = RunningServe.initialised(tmp_path / "ca")
    ledger = ca.directory / "state/ledger.db"
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole, lines = ledger.read_bytes(), ca.audit
    damaged = bytearray(whole)
    for page in range(2, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    ledger.write_bytes(damaged)
    ca.launch()
    assert ca.wait_ended() == 1
    assert "is damaged" in ca.log.read_text("utf-8")
    assert "handfast ca restore" in ca.log.read_text("utf-8")
    assert ca.audit == lines
    with pytest.raises(OSError, match="refused"):
        ca.get("/livez")
    ledger.write_bytes(whole)
    with ca:
        assert ca.get("/readyz")[0] == 200
