"""What docs/agent.md promises and no other file of these tests holds: pins, answers, order of writing, hooks, status, descriptors."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import resource
import signal
import sys
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import click
import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.certificates import pem_chain
from handfast.errors import Invalid, Unavailable
from handfast.sources.static import StaticSource
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.v1 import workload_pb2
from handfast.wire.v1.workload_pb2_grpc import WorkloadStub
from handfast_agent.cli.group import agent as agent_command
from handfast_agent.cli.status import row
from handfast_agent.config import Config, HookConfig, TrustPin, parse
from handfast_agent.delivery import serve_socket
from handfast_agent.driver import Driver
from handfast_agent.health import serve_health
from handfast_agent.hooks import LONGEST
from handfast_agent.lifecycle import State
from handfast_agent.log import log_to_stderr
from handfast_agent.memory import Memory, Outputs
from handfast_agent.proofs.join_token import JoinToken
from handfast_agent.serve import Agent
from handfast_agent.storage import Directory
from handfast_agent.tunnel import Peer, tunnel
from handfast_agent.upstream import MAX_BUNDLE_BYTES, pinned_roots
from handfast_agent.watch import poll_once
from tests.agent.conftest import enrolled
from tests.agent.running import RunningAgent, configuration, pair_in
from tests.agent.test_process import fetch, handfast
from tests.peers.authority import TOKEN, PeerAuthority, running
from tests.peers.direct import DirectUpstream

HEADER = (("workload.spiffe.io", "true"),)


def test_no_option_of_the_command_takes_a_token() -> None:
    """Threat B2: from a file or from stdin, never from argv."""
    assert isinstance(agent_command, click.Group)
    options = {option for command in agent_command.commands.values() for one in command.params for option in one.opts}
    assert options == {"--config", "--socket", "--output", "-o"}


@pytest.mark.parametrize("right", [True, False])
async def test_a_root_from_a_file_is_a_pin_and_another_root_hears_no_token(
    config: Config, peer: PeerAuthority, clock: ManualClock, tmp_path: Path, right: bool
) -> None:
    """Threat B8."""
    root = peer.authority.root if right else TestAuthority(clock=clock).root
    (tmp_path / "root.crt").write_bytes(pem_chain([root]))
    agent = await enrolled(replace(config, pin=TrustPin(file=tmp_path / "root.crt")), clock)
    assert peer.enrolments == ([TOKEN] if right else [])
    assert agent.look().state is (State.SERVING if right else State.UNENROLLED)
    assert agent.driver.record.last_reason == ("" if right else "UNTRUSTED")


async def test_an_enrolment_whose_answer_lacks_the_pinned_root_is_refused(
    config: Config, peer: PeerAuthority, clock: ManualClock
) -> None:
    """Threat B8: the CA does not swap the root that it was trusted for with its first answer."""
    peer.bundle = replace(TestAuthority(clock=clock).bundle, sequence=9)
    agent = await enrolled(config, clock)
    assert agent.driver.record.last_reason == "PIN_MISMATCH"
    assert agent.source.peek() is None
    assert not (config.directory / "tls.key").exists()


async def test_no_more_of_a_bundle_is_read_than_a_bundle_has(peer: PeerAuthority) -> None:
    """Threat H3: whoever answers on the plain HTTP port cannot fill the memory."""
    root = pem_chain([peer.authority.root])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"#" * MAX_BUNDLE_BYTES + b"\n" + root)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pin = TrustPin(peer.authority.root.fingerprint(hashes.SHA256()))
    async with server:
        with pytest.raises(Invalid):
            await pinned_roots(pin, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert await pinned_roots(pin, f"http://127.0.0.1:{peer.http_port}") == (peer.authority.root,)


@pytest.mark.parametrize("kind", ["other issuer", "longer lifetime", "outlives its issuer"])
async def test_an_answer_that_is_not_what_was_asked_for_leaves_the_old_certificate_in_place(
    config: Config, peer: PeerAuthority, clock: ManualClock, kind: str
) -> None:
    wanted = replace(config.wanted, max_lifetime=timedelta(hours=2) if kind == "longer lifetime" else None)
    agent = await enrolled(replace(config, wanted=wanted), clock)
    before = agent.source.current().leaf
    if kind == "other issuer":
        peer.stranger = TestAuthority(clock=clock)
    else:
        peer.lifetime = timedelta(hours=3) if kind == "longer lifetime" else timedelta(days=400)
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert agent.driver.record.last_reason == "ANSWER_MISMATCH"
    assert agent.source.current().leaf == before
    assert pair_in(config.directory) == before
    assert agent.look().ready


def test_a_longest_lifetime_is_read_from_the_configuration() -> None:
    text = (
        "{ca: {address: a:1, enrol: a:2}, trust_domain: t.example, trust: {file: r}, identity: spiffe://t.example/w,"
        " directory: d, max_lifetime: %s}"
    )
    assert parse(text % "24h").wanted.max_lifetime == timedelta(days=1)
    with pytest.raises(Invalid) as refused:
        parse(text % "long")
    assert [(v.field, v.reason) for v in refused.value.violations] == [("max_lifetime", "INVALID_DURATION")]


def test_a_generation_is_on_the_disk_before_it_is_the_present_one(tmp_path: Path) -> None:
    """Threat E7, power loss: files and their directory are synced, then comes the swap, then the root is synced."""
    directory = Directory(tmp_path / "out")
    directory.prepare()
    calls: list[str] = []

    def note(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function in (os.fsync, os.rename):
            calls.append(function.__name__)

    old = sys.getprofile()
    sys.setprofile(note)
    try:
        directory.write(1, {"tls.key": b"k"}, {"tls.crt": b"c"})
        first = list(calls)
        calls.clear()
        directory.write(2, {"tls.key": b"k"}, {"tls.crt": b"c"})
    finally:
        sys.setprofile(old)
    assert calls == ["fsync", "fsync", "fsync", "rename", "fsync"]
    assert first == ["fsync", "fsync", "fsync", "rename", "rename", "rename", "fsync"]


async def test_hooks_run_after_every_change_of_the_files_and_not_without_one(
    config: Config, peer: PeerAuthority, clock: ManualClock, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = "import sys; open(sys.argv[1], 'a').write('x')"
    hooks = (HookConfig((sys.executable, "-c", code, str(told))),)
    agent = await enrolled(replace(config, hooks=hooks), clock)
    before = len(told.read_text())
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert len(told.read_text()) == before
    peer.authority.revoke(4711)
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert len(told.read_text()) == before + 1
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert len(told.read_text()) == before + 2


async def test_a_hook_that_fails_is_told_in_status_readiness_and_metrics_until_it_succeeds(
    config: Config, peer: PeerAuthority, clock: ManualClock, tmp_path: Path, unused_tcp_port: int
) -> None:
    """C6: whoever looks must see that a program may go on with an old list."""
    ready = tmp_path / "ready"
    told = ("/bin/sh ended with status 1 (attempt 1)",)
    agent = await enrolled(replace(config, hooks=(HookConfig(("/bin/sh", "-c", f"test -e {ready}")),)), clock)
    with serve_health("127.0.0.1", unused_tcp_port, agent.look, agent.failures):
        assert agent.look().failing_hooks == told
        ready_body = json.loads(await asyncio.to_thread(fetch, unused_tcp_port, "/readyz"))
        assert (ready_body["ready"], ready_body["failing_hooks"]) == (True, list(told))
        metrics = await asyncio.to_thread(fetch, unused_tcp_port, "/metrics")
        assert "handfast_agent_hooks_failing 1.0" in metrics
        counted = float(agent.failures()["HOOK_FAILED"])
        assert f'handfast_agent_failures_total{{reason="HOOK_FAILED"}} {counted}' in metrics
        socket = tmp_path / "run" / "agent.sock"
        async with (
            serve_socket(socket, agent.source, lambda: agent.driver.generation, agent.look),
            grpc.aio.insecure_channel(f"unix:{socket}") as channel,
        ):
            answer = await WorkloadStub(channel).GetStatus(workload_pb2.GetStatusRequest(), metadata=HEADER)
        assert row(answer)["failing_hooks"] == list(told)
        ready.touch()
        clock.advance(timedelta(seconds=LONGEST))
        await agent.hooks.repeat()
        assert agent.look().failing_hooks == ()
        assert "handfast_agent_hooks_failing 0.0" in await asyncio.to_thread(fetch, unused_tcp_port, "/metrics")


async def test_what_was_withdrawn_is_told_again_by_the_next_start(
    config: Config, peer: PeerAuthority, clock: ManualClock, tmp_path: Path
) -> None:
    """C6: the former run may have ended before the hook that stops a server had run, or while it failed."""
    told = tmp_path / "told"
    hook = HookConfig(("/bin/sh", "-c", f'ls "$HANDFAST_CREDENTIALS_DIR" > {told}'))
    agent = await enrolled(config, clock)
    assert agent.driver.present is not None
    peer.authority.revoke(agent.driver.present)
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert not told.exists()
    await Agent(replace(config, hooks=(hook,)), clock).driver.start()
    assert set(told.read_text().split()) == {"ca.crt", "crl.pem"}


async def test_ready_is_only_said_while_every_output_is_valid_and_fresh(
    config: Config, peer: PeerAuthority, clock: ManualClock, unused_tcp_port: int
) -> None:
    agent = Agent(config, clock)
    peer.authority.list_validity = timedelta(minutes=30)
    peer.authority.refresh_list()
    with serve_health("127.0.0.1", unused_tcp_port, agent.look, agent.failures):
        assert await bad_checks(unused_tcp_port) == {"certificate", "trust", "revocations"}
        await agent.driver.start()
        await agent.driver.tick()
        assert await bad_checks(unused_tcp_port) == set()
        clock.advance(timedelta(minutes=31))
        assert await bad_checks(unused_tcp_port) == {"revocations"}
        peer.authority.refresh_list()
        await poll_once(agent.driver, agent.upstream, agent.source)
        assert await bad_checks(unused_tcp_port) == set()
        config.directory.chmod(0o777)
        peer.authority.revoke(4711)
        await poll_once(agent.driver, agent.upstream, agent.source)
        assert await bad_checks(unused_tcp_port) == {"files"}
        metrics = await asyncio.to_thread(fetch, unused_tcp_port, "/metrics")
        assert 'handfast_agent_failures_total{reason="UNSAFE_DIRECTORY"} 1.0' in metrics
        config.directory.chmod(0o755)
        await agent.driver.tick()
        clock.step(timedelta(days=30))
        await agent.driver.tick()
        assert "certificate" in await bad_checks(unused_tcp_port)


async def bad_checks(port: int) -> set[str]:
    """The checks that ``/readyz`` calls bad; its status says the same."""

    def ask() -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, dict(json.loads(answer.read()))
        finally:
            connection.close()

    status, body = await asyncio.to_thread(ask)
    bad = {check["name"] for check in body["checks"] if not check["ok"]}
    assert (status == 200) == (not bad)
    return bad


@pytest.mark.parametrize("due", [False, True])
async def test_once_does_nothing_while_nothing_is_due_and_renews_when_it_is(tmp_path: Path, due: bool) -> None:
    async with running(PeerAuthority(TestAuthority())) as peer:
        past = peer.authority.clock.now() - timedelta(seconds=10)
        peer.window = (past, past) if due else None
        file = configuration(tmp_path, peer)
        for _ in range(2):
            status, _, err = await handfast("agent", "once", "--config", str(file))
            assert status == 0, err
        assert len(peer.keys) == (2 if due else 1)
        assert peer.enrolments == [TOKEN]


async def test_status_shows_all_that_an_operator_asks_for_and_a_full_disk_by_name(tmp_path: Path) -> None:
    """E2 besides: the process leaves no core file. No file of its own may grow, as on a full disk: it serves on."""
    async with running(PeerAuthority(TestAuthority())) as peer:
        with RunningAgent(configuration(tmp_path, peer)) as agent:
            await asyncio.to_thread(agent.wait_until, lambda: any("enrolled" in m for m in agent.messages))
            await asyncio.to_thread(agent.wait_until, lambda: (tmp_path / "run" / "agent.sock").exists())
            shown = await status_of(tmp_path)
            assert {
                "not_after",
                "next_renewal",
                "generation",
                "crl_age_seconds",
                "outage_budget_seconds",
            } <= shown.keys()
            assert 3000 < shown["outage_budget_seconds"] <= 3600
            assert 0 <= shown["crl_age_seconds"] < 120
            assert shown["ready"]
            assert resource.prlimit(agent.pid, resource.RLIMIT_CORE) == (0, 0)
            leaf = agent.leaf()
            # Without room it could not even connect, and would hear of nothing.
            await asyncio.to_thread(agent.wait_until, lambda: peer.watchers == 1)
            resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            peer.authority.revoke(4711)
            peer.push()
            await asyncio.to_thread(agent.wait_until, lambda: shown_not_ready(tmp_path))
            assert agent.leaf() == leaf
            resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            agent.tell(signal.SIGHUP)
            await asyncio.to_thread(agent.wait_until, lambda: not shown_not_ready(tmp_path))
            assert agent.leaf() == leaf


async def test_a_machine_without_room_for_a_connection_is_said_and_ends_nothing(clock: ManualClock) -> None:
    """J4: no file may grow, not even one in memory, as when the temporary directory is full. It is tried again later."""
    web = TestAuthority().issue("/web")
    peer = Peer("localhost:7443", web.spiffe_id, web.bundle.roots, credentials=web)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(Unavailable) as refused:
            async with tunnel(peer, clock):
                raise AssertionError("it was opened")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.reason == "NO_RESOURCES"


async def status_of(tmp_path: Path) -> dict[str, Any]:
    _, out, err = await handfast("agent", "status", "--socket", str(tmp_path / "run" / "agent.sock"), "-o", "json")
    assert out, err
    return dict(json.loads(out))


def shown_not_ready(tmp_path: Path) -> bool:
    """What `agent status` says of the files, asked on a channel of its own."""
    with grpc.insecure_channel(f"unix:{tmp_path / 'run' / 'agent.sock'}") as channel:
        answer = WorkloadStub(channel).GetStatus(workload_pb2.GetStatusRequest(), timeout=5, metadata=HEADER)
    return any(check.name == "files" and not check.ok for check in answer.checks)


async def test_a_fault_with_the_key_in_its_locals_shows_neither_key_nor_token(
    config: Config, peer: PeerAuthority, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Threat E2: a fault of ours in the middle of taking a certificate, logged with its traceback, as a crash would be."""

    async def breaks() -> None:
        raise ZeroDivisionError("ours")

    source = StaticSource()
    driver = Driver(
        config.wanted,
        upstream=DirectUpstream(peer),
        outputs=Outputs(Directory(config.directory), config.trust_domain),
        memory=Memory(config.state),
        proof=JoinToken(config.token_file),
        source=source,
        clock=clock,
        draw=lambda: 0.5,
        on_files=breaks,
    )
    await driver.start()
    with pytest.raises(ZeroDivisionError) as fault:
        await driver.tick()
    key = source.current().key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    scalar = f"{key.private_numbers().private_value:x}"
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        log_to_stderr()
        logging.getLogger("handfast_agent").error("it broke", exc_info=fault.value)
    finally:
        root.handlers[:], root.level = before
    logged = capsys.readouterr().err
    assert "ZeroDivisionError" in logged
    ours = traceback.StackSummary.extract(traceback.walk_tb(fault.tb.tb_next), capture_locals=True)
    frames = "".join(ours.format())
    assert "request = _Request" in frames
    for text, secrets in ((logged, (scalar, "PRIVATE KEY", TOKEN)), (frames, (scalar, "PRIVATE KEY"))):
        for secret in secrets:
            assert secret not in text
