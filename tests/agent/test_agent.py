"""The agent against a real peer over real TLS: what it does when all is well, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from handfast.bundle import TrustBundle
from handfast.certificates import fingerprint, load_certificates, parse_fingerprint
from handfast.credentials import Credentials
from handfast.errors import Exhausted, Refused, Unauthenticated
from handfast.identity import SpiffeId
from handfast.keys import load_private_key, matches
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.v1 import workload_pb2
from handfast.wire.v1.workload_pb2_grpc import WorkloadStub
from handfast_agent.acceptance import Answer, Wanted
from handfast_agent.config import CaAddress, Config, TrustPin
from handfast_agent.delivery import serve_socket
from handfast_agent.lifecycle import State
from handfast_agent.serve import Agent
from handfast_agent.trust import News
from handfast_agent.tunnel import Peer, tunnel
from handfast_agent.upstream import read_news
from handfast_agent.watch import poll_once, watch_forever
from tests.peers.authority import TOKEN, PeerAuthority, running
from tests.peers.direct import DirectUpstream


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def peer(clock: ManualClock) -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority(clock=clock))) as up:
        yield up


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    def make(peer: PeerAuthority, pin: TrustPin | None = None) -> Config:
        token = tmp_path / "token"
        if not token.exists():
            token.write_text(TOKEN + "\n")
        return Config(
            ca=CaAddress(
                f"127.0.0.1:{peer.mtls_port}", f"127.0.0.1:{peer.enrol_port}", f"http://127.0.0.1:{peer.http_port}"
            ),
            trust_domain=peer.authority.trust_domain,
            pin=pin or TrustPin(parse_fingerprint(fingerprint(peer.authority.root))),
            wanted=Wanted(SpiffeId.parse(f"spiffe://{peer.authority.trust_domain}/web"), ("web.test",)),
            directory=tmp_path / "out",
            state=tmp_path / "state",
            token_file=token,
        )

    return make


@pytest.fixture
async def agent(peer: PeerAuthority, configure: Any, clock: ManualClock) -> Agent:
    made = Agent(configure(peer), clock)
    await made.driver.start()
    return made


async def eventually(true: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def written_pair(config: Config) -> bool:
    key = load_private_key((config.directory / "tls.key").read_bytes())
    return matches(key, load_certificates((config.directory / "tls.crt").read_bytes())[0].public_key())


async def test_it_enrols_writes_the_files_and_is_ready(agent: Agent) -> None:
    await agent.driver.tick()
    assert agent.driver.record.last_failure == ""
    assert agent.look().ready
    assert written_pair(agent.config)
    names = {"tls.crt", "tls.key", "credentials.pem", "ca.crt", "crl.pem"}
    assert names <= {path.name for path in agent.config.directory.iterdir()}


async def test_it_renews_at_its_moment_with_another_key(agent: Agent, peer: PeerAuthority, clock: ManualClock) -> None:
    await agent.driver.tick()
    assert agent.driver.plan.renew_at is not None
    clock.advance(agent.driver.plan.renew_at - clock.now() - timedelta(seconds=1))
    await agent.driver.tick()
    assert peer.renewals == []
    clock.advance(timedelta(seconds=2))
    await agent.driver.tick()
    assert len(peer.renewals) == 1
    assert len(set(peer.keys)) == 2
    assert written_pair(agent.config)


async def test_it_renews_inside_the_window_that_the_ca_suggested(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    peer.window = (clock.now() + timedelta(minutes=5), clock.now() + timedelta(minutes=6))
    await agent.driver.tick()
    assert agent.driver.plan.renew_at is not None
    assert peer.window[0] <= agent.driver.plan.renew_at <= peer.window[1]


async def test_a_wrong_pin_refuses_and_sends_no_token(peer: PeerAuthority, configure: Any, clock: ManualClock) -> None:
    """B8."""
    agent = Agent(configure(peer, TrustPin(b"\0" * 32)), clock)
    await agent.driver.start()
    await agent.driver.tick()
    assert agent.driver.record.last_reason == "PIN_MISMATCH"
    assert peer.enrolments == []
    assert agent.look().state is State.UNENROLLED


@contextlib.asynccontextmanager
async def impostor(
    presented: Credentials, tmp_path: Path, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[tuple[str, bytearray, list[str]]]:
    """A TLS server that holds the keys of what it presents, so it reads in clear whatever a client says to it."""
    heard, connections = bytearray(), list[str]()
    file = tmp_path / "impostor.pem"
    file.write_bytes(presented.key_pem + presented.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.maximum_version = newest
    context.set_alpn_protocols(["h2"])

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append("open")
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                heard.extend(data)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard, connections


@pytest.mark.parametrize(("foreign", "reason"), [(True, "UNTRUSTED"), (False, "WRONG_IDENTITY")])
async def test_an_impostor_of_the_ca_hears_not_one_byte(
    peer: PeerAuthority, configure: Any, clock: ManualClock, tmp_path: Path, foreign: bool, reason: str
) -> None:
    """B8: of another mesh, or a workload of this one, whose handshake succeeds and who could read everything."""
    authority = TestAuthority(clock=clock) if foreign else peer.authority
    presented = authority.issue("/handfast/ca" if foreign else "/thief")
    config = configure(peer)
    async with impostor(presented, tmp_path) as (address, heard, connections):
        agent = Agent(replace(config, ca=replace(config.ca, enrol=address)), clock)
        await agent.driver.start()
        await agent.driver.tick()
        if not foreign:
            await eventually(lambda: bool(connections))
    assert agent.driver.record.last_reason == reason
    assert bytes(heard) == b""
    assert not (config.directory / "tls.key").exists()


async def test_a_ca_past_its_own_expiry_hears_not_one_byte(
    peer: PeerAuthority, configure: Any, clock: ManualClock, tmp_path: Path
) -> None:
    """B8: by the agent's clock, which TLS does not ask."""
    presented = peer.authority.issue("/handfast/ca", lifetime=timedelta(minutes=5))
    config = configure(peer)
    async with impostor(presented, tmp_path) as (address, heard, _):
        agent = Agent(replace(config, ca=replace(config.ca, enrol=address)), clock)
        await agent.driver.start()
        clock.advance(timedelta(minutes=10))
        await agent.driver.tick()
    assert agent.driver.record.last_reason == "EXPIRED"
    assert bytes(heard) == b""


async def test_a_ca_of_tls_1_2_hears_not_one_byte(
    peer: PeerAuthority, configure: Any, clock: ManualClock, tmp_path: Path
) -> None:
    """C7: not even with the right certificate."""
    config = configure(peer)
    presented = peer.authority.issue("/handfast/ca")
    async with impostor(presented, tmp_path, ssl.TLSVersion.TLSv1_2) as (address, heard, connections):
        agent = Agent(replace(config, ca=replace(config.ca, enrol=address)), clock)
        await agent.driver.start()
        await asyncio.wait({asyncio.create_task(agent.driver.tick())}, timeout=2)
    assert (bytes(heard), connections) == (b"", [])


async def test_an_agent_without_a_root_dials_nobody(clock: ManualClock) -> None:
    """B8, D12: an empty bundle verifies no CA."""
    nobody = Peer("127.0.0.1:1", SpiffeId.parse("spiffe://test.example/handfast/ca"), ())
    with pytest.raises(Unauthenticated) as refused:
        async with tunnel(nobody, clock):
            pass
    assert refused.value.reason == "UNTRUSTED"


async def test_a_ca_whose_certificate_is_revoked_hears_nothing_and_takes_none_of_ours_away(
    agent: Agent, peer: PeerAuthority
) -> None:
    """C6, B8: it is the CA's certificate that is revoked, not the agent's."""
    await agent.driver.tick()
    before = agent.source.current().leaf
    peer.authority.revoke(peer.source.current())
    await agent.driver.hear(read_news(peer.trust()))
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert peer.renewals == []
    assert agent.driver.record.last_reason == "CA_REVOKED"
    assert agent.look().state is State.SERVING
    assert agent.source.current().leaf == before


async def test_a_revocation_that_came_during_a_renewal_wins(agent: Agent, peer: PeerAuthority) -> None:
    """C4: the answer that comes after it is dropped."""
    await agent.driver.tick()
    present = agent.driver.present
    assert present is not None
    own = (present.leaf.issuer_key_id, present.leaf.serial)

    class Interrupted(DirectUpstream):
        async def renew(self, present: Credentials, csr: bytes) -> Answer:
            await agent.driver.hear(News(announced=(own,)))
            return await super().renew(present, csr)

    agent.driver._upstream = Interrupted(peer)
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert agent.look().state is State.REVOKED
    assert agent.source.peek() is None


async def test_the_impostor_of_these_tests_would_have_heard_the_token(
    peer: PeerAuthority, configure: Any, clock: ManualClock, tmp_path: Path
) -> None:
    """B8, the control: with the CA's own identity the same server hears the request, so silence means something."""
    config = configure(peer)
    async with impostor(peer.authority.issue("/handfast/ca"), tmp_path) as (address, heard, _):
        agent = Agent(replace(config, ca=replace(config.ca, enrol=address)), clock)
        await agent.driver.start()
        attempt = asyncio.create_task(agent.driver.tick())
        try:
            await eventually(lambda: len(heard) > 0)
        finally:
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)


@pytest.mark.parametrize(
    ("lever", "reason"),
    [("garbage", "ANSWER_MALFORMED"), ("wrong_key", "ANSWER_MISMATCH"), ("wrong_identity", "ANSWER_MISMATCH")],
)
async def test_a_broken_answer_is_neither_written_nor_served(
    agent: Agent, peer: PeerAuthority, lever: str, reason: str
) -> None:
    setattr(peer, lever, True)
    await agent.driver.tick()
    assert agent.driver.record.last_reason == reason
    assert agent.source.peek() is None
    assert not (agent.config.directory / "tls.key").exists()


async def test_a_lost_answer_costs_no_token(agent: Agent, peer: PeerAuthority, clock: ManualClock) -> None:
    """A13: the same request again gives the same certificate."""
    peer.lose_answers = 1
    await agent.driver.tick()
    assert agent.look().state is State.UNENROLLED
    clock.advance(timedelta(seconds=5))
    await agent.driver.tick()
    assert agent.look().state is State.SERVING
    assert len(peer.keys) == 1


async def test_a_spent_token_is_sent_once_and_a_new_one_in_the_file_is_tried(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """B1, B2."""
    identity = peer.tokens.pop(TOKEN)
    for _ in range(5):
        await agent.driver.tick()
        clock.advance(timedelta(minutes=2))
    assert peer.enrolments == [TOKEN]
    assert agent.config.token_file is not None
    fresh = "hft_" + "B" * 43
    peer.tokens[fresh] = identity
    agent.config.token_file.write_text(fresh)
    await agent.driver.tick()
    assert agent.look().state is State.SERVING


async def test_retry_after_is_honoured(agent: Agent, peer: PeerAuthority, clock: ManualClock) -> None:
    peer.refusal = Exhausted("too many requests", retry_after=60)
    await agent.driver.tick()
    peer.refusal = None
    peer.tokens[TOKEN] = str(agent.config.wanted.spiffe_id)
    clock.advance(timedelta(seconds=59))
    await agent.driver.tick()
    assert len(peer.enrolments) == 1
    clock.advance(timedelta(seconds=2))
    await agent.driver.tick()
    assert agent.look().state is State.SERVING


async def test_with_the_ca_down_it_serves_to_the_last_second_and_then_withdraws(
    configure: Any, clock: ManualClock
) -> None:
    """2.2: restart with the CA down serves from disk too."""
    async with running(PeerAuthority(TestAuthority(clock=clock))) as peer:
        config = configure(peer)
        first = Agent(config, clock)
        await first.driver.start()
        await first.driver.tick()
    agent = Agent(config, clock)
    await agent.driver.start()
    assert agent.source.peek() is not None
    validity = agent.driver.plan.validity
    assert validity is not None
    clock.advance(validity.not_after - clock.now())
    await agent.driver.tick()
    assert agent.look().ready
    assert agent.look().outage_budget_seconds == 0
    clock.advance(timedelta(seconds=1))
    await agent.driver.tick()
    assert agent.source.peek() is None
    assert not agent.look().ready
    assert not (config.directory / "tls.key").exists()
    assert (config.directory / "ca.crt").exists()


async def test_the_moment_of_renewal_is_drawn_once_and_survives_a_restart(agent: Agent, clock: ManualClock) -> None:
    await agent.driver.tick()
    again = Agent(agent.config, clock)
    await again.driver.start()
    assert again.driver.plan.renew_at == agent.driver.plan.renew_at
    assert again.driver.generation > agent.driver.generation


async def test_a_clock_a_year_ahead_withdraws_and_set_right_restores(agent: Agent, clock: ManualClock) -> None:
    """J8."""
    await agent.driver.tick()
    clock.step(timedelta(days=365))
    await agent.driver.tick()
    assert agent.look().state is State.EXPIRED
    assert agent.source.peek() is None
    clock.step(-timedelta(days=365))
    await agent.driver.tick()
    assert agent.look().ready
    assert written_pair(agent.config)


async def test_an_older_crl_is_refused_and_alarmed_after_a_restart_too(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """D1."""
    old = peer.authority.crl
    clock.advance(timedelta(seconds=20))
    peer.authority.revoke(12345)
    await agent.driver.tick()
    peer.old_list = old
    again = Agent(agent.config, clock)
    await again.driver.start()
    for one in (agent, again):
        before = one.driver.trust.revocations
        await poll_once(one.driver, one.upstream, one.source)
        assert one.driver.trust.revocations == before
        assert one.driver.record.alarms == {"CRL_ROLLBACK": 1}


async def test_who_demands_a_renewal_does_not_wait_for_the_pause_that_a_failure_drew(
    agent: Agent, peer: PeerAuthority
) -> None:
    """J6: after an outage, SIGUSR1 renews at once; without it the pause is kept."""
    await agent.driver.tick()
    peer.refusal = Exhausted("busy", retry_after=600.0)
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert len(peer.renewals) == 1
    peer.refusal = None
    assert await agent.driver.tick() > 0
    assert len(peer.renewals) == 1
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert len(peer.renewals) == 2
    assert agent.driver.plan.failures == 0


@pytest.mark.parametrize("lies", [False, True], ids=["late", "older than what was known when it was asked"])
async def test_an_answer_that_a_push_overtook_is_no_alarm_and_brings_nothing_back(
    agent: Agent, peer: PeerAuthority, lies: bool
) -> None:
    """D1, D11: the CA said what was true when it was asked; what it may not do is to say less than it had said before."""
    authority, driver = peer.authority, agent.driver
    older = authority.crl
    await driver.tick()
    authority.revoke(4711)
    await driver.hear(read_news(peer.trust()))
    peer.old_list = older if lies else None
    peer.slow_answer = asyncio.Event()
    poll = asyncio.create_task(poll_once(driver, agent.upstream, agent.source))
    asked = asyncio.create_task(peer.answering.wait())
    await asyncio.wait({asked, poll}, return_when=asyncio.FIRST_COMPLETED)
    assert asked.done(), driver.record
    peer.old_list = None
    authority.revoke(4712)
    authority.set_roots((authority.root,), (authority.issuer,))
    await driver.hear(read_news(peer.trust()))
    newest = driver.trust
    peer.slow_answer.set()
    await poll
    assert driver.trust == newest
    assert driver.trust.revoked(authority.issue().leaf.issuer_key_id, 4712)
    assert driver.record.alarms == ({"CRL_ROLLBACK": 1} if lies else {})


async def test_an_older_bundle_is_refused_and_alarmed(agent: Agent, peer: PeerAuthority) -> None:
    """D11."""
    authority = peer.authority
    old = authority.bundle
    authority.set_roots((authority.root,), (authority.issuer,))
    await agent.driver.tick()
    peer.bundle = TrustBundle(old.trust_domain, old.roots, old.issuers, old.sequence)
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert agent.driver.trust.bundle is not None
    assert agent.driver.trust.bundle.sequence == authority.bundle.sequence
    assert agent.driver.record.alarms == {"BUNDLE_ROLLBACK": 1}


async def test_an_empty_bundle_withdraws_all_trust(agent: Agent, peer: PeerAuthority) -> None:
    """D12."""
    await agent.driver.tick()
    peer.bundle = TrustBundle(peer.authority.trust_domain, (), (), 99)
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert agent.look().state is State.UNTRUSTING
    assert agent.source.peek() is None
    assert not agent.look().ready
    assert (agent.config.directory / "ca.crt").read_bytes() == b""


async def test_a_clock_that_is_put_right_brings_no_trust_back_that_was_withdrawn(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """D12, J8."""
    await agent.driver.tick()
    peer.bundle = TrustBundle(peer.authority.trust_domain, (), (), 99)
    await poll_once(agent.driver, agent.upstream, agent.source)
    clock.step(timedelta(days=1))
    await agent.driver.tick()
    assert agent.look().state is State.EXPIRED
    clock.step(-timedelta(days=1))
    await agent.driver.tick()
    assert agent.look().state is State.UNTRUSTING
    assert agent.source.peek() is None


async def test_under_a_clock_that_is_ahead_by_most_of_a_lifetime_it_renews_with_a_pause(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """J8: each certificate is due when it arrives, and the CA is not asked without end."""
    clock.step(timedelta(minutes=45))
    peer.authority.clock = ManualClock(clock.now() - timedelta(minutes=45))
    await agent.driver.tick()
    assert agent.look().ready
    for _ in range(20):
        await agent.driver.tick()
    assert peer.renewals == []
    assert agent.driver.record.alarms["CLOCK_AHEAD"] == 1
    clock.advance(timedelta(minutes=4))
    await agent.driver.tick()
    assert len(peer.renewals) == 1


async def test_its_own_revocation_withdraws_and_stops_renewing(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """C1."""
    await agent.driver.tick()
    assert agent.driver.present is not None
    peer.authority.revoke(agent.driver.present)
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert agent.look().state is State.REVOKED
    assert not agent.look().ready
    assert not (agent.config.directory / "tls.key").exists()
    clock.advance(timedelta(minutes=40))
    await agent.driver.tick()
    assert peer.renewals == []


async def test_a_revocation_is_pushed_and_one_missed_on_a_lost_stream_comes_with_the_next(
    agent: Agent, peer: PeerAuthority
) -> None:
    await agent.driver.tick()
    assert agent.driver.present is not None
    issuer = agent.driver.present.leaf.issuer_key_id
    watching = asyncio.create_task(watch_forever(agent.driver, agent.upstream, agent.source, lambda: 0.01))
    try:
        await eventually(lambda: peer.watchers == 1)
        peer.announced = ((issuer, 4711),)
        peer.push()
        await eventually(lambda: agent.source.current().revocations.revoked(issuer, 4711))
        peer.announced = ((issuer, 4712),)
        peer.hang_up()
        await eventually(lambda: agent.source.current().revocations.revoked(issuer, 4712))
        assert peer.streams_opened == 2
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_files_that_cannot_be_written_hold_up_no_snapshot_and_make_not_ready(
    agent: Agent, peer: PeerAuthority
) -> None:
    await agent.driver.tick()
    agent.config.directory.chmod(0o777)
    peer.announced = ((agent.driver.present.leaf.issuer_key_id, 4711),)  # type: ignore[union-attr]
    await poll_once(agent.driver, agent.upstream, agent.source)
    assert agent.source.current().revocations.revoked(*peer.announced[0])
    assert not agent.look().ready
    agent.config.directory.chmod(0o755)
    await agent.driver.tick()
    assert agent.look().ready


async def test_the_socket_gives_snapshots_only_to_callers_with_the_header(agent: Agent, tmp_path: Path) -> None:
    """E9."""
    await agent.driver.tick()
    path = tmp_path / "run" / "agent.sock"
    async with (
        serve_socket(path, agent.source, lambda: agent.driver.generation, agent.look),
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        stub = WorkloadStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetStatus(workload_pb2.GetStatusRequest())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        header = (("workload.spiffe.io", "true"),)
        status = await stub.GetStatus(workload_pb2.GetStatusRequest(), metadata=header)
        assert status.ready
        assert status.outage_budget_seconds > 3000
        stream = stub.WatchCredentials(workload_pb2.WatchCredentialsRequest(), metadata=header)
        snapshots = aiter(stream)
        assert len((await anext(snapshots)).chain) == 2
        agent.source.publish(None)
        assert not (await anext(snapshots)).private_key
        stream.cancel()


async def test_a_socket_directory_that_others_can_enter_is_refused(agent: Agent, tmp_path: Path) -> None:
    """E8."""
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    with pytest.raises(Refused) as refused:
        async with serve_socket(wide / "s", agent.source, lambda: 0, agent.look):
            raise AssertionError("served")
    assert refused.value.reason == "UNSAFE_DIRECTORY"


async def test_it_renews_at_once_when_it_is_told_to(agent: Agent, peer: PeerAuthority) -> None:
    """SIGUSR1; before there is a certificate it only looks, and enrols."""
    agent.driver.demand_renewal()
    await agent.driver.tick()
    first = agent.source.current()
    agent.driver.demand_renewal()
    await agent.driver.tick()
    second = agent.source.current()
    assert second.leaf.serial != first.leaf.serial
    assert second.leaf.spiffe_id == first.leaf.spiffe_id


async def test_a_start_after_the_end_serves_nothing_and_says_so(
    agent: Agent, peer: PeerAuthority, configure: Any, clock: ManualClock
) -> None:
    """C2, J8: what lies on the disk expired while the agent was away; its token was spent."""
    await agent.driver.tick()
    await agent.driver.stop()
    clock.advance(timedelta(hours=2))
    again = Agent(configure(peer), clock)
    await again.driver.start()
    await again.driver.tick()
    assert again.driver.plan.state is State.EXPIRED
    assert again.source.peek() is None
    assert not again.look().ready
    assert len(peer.enrolments) == 1
    assert peer.renewals == []


async def test_a_renewal_that_the_ca_refuses_as_revoked_withdraws_at_once(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """C1: no list said so yet; the refusal is proof enough, and no second renewal is tried."""
    await agent.driver.tick()
    present = agent.driver.present
    assert present is not None
    peer.authority.revoke(present)
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert agent.driver.plan.state is State.REVOKED
    assert agent.source.peek() is None
    await agent.driver.tick()
    assert len(peer.renewals) == 1


async def test_an_answer_with_an_old_list_is_taken_and_the_list_is_not(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """D1: alarmed; the certificate beside it is good."""
    peer.old_list = None
    old = peer.authority.crl
    peer.authority.refresh_list()
    await agent.driver.tick()
    newest = dict(agent.driver.trust.revocations.lists)
    peer.old_list = old
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert len(peer.renewals) == 1
    assert agent.driver.record.alarms == {"CRL_ROLLBACK": 1}
    assert dict(agent.driver.trust.revocations.lists) == newest
    assert agent.look().ready


async def test_an_answer_with_a_certificate_that_is_revoked_already_is_not_used(
    agent: Agent, peer: PeerAuthority, clock: ManualClock
) -> None:
    """C4: the announcement came with it; the certificate before stays."""
    await agent.driver.tick()
    before = agent.driver.present
    assert before is not None
    peer.announce_answer = True
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert agent.driver.present is not None
    assert agent.driver.present.leaf == before.leaf
    assert agent.driver.record.last_reason == "ANSWER_MISMATCH"


async def test_a_ca_whose_certificate_is_revoked_is_not_spoken_to_and_costs_the_agent_nothing(
    agent: Agent, peer: PeerAuthority
) -> None:
    """Threats B8, C1: REVOKED is what the CA says of the agent; what the agent sees of the CA is another thing."""
    await agent.driver.tick()
    peer.authority.revoke(peer.source.current())
    await agent.poll()
    agent.driver.demand_renewal()
    await agent.driver.tick()
    assert agent.driver.record.last_reason == "CA_REVOKED"
    assert agent.driver.plan.state is State.SERVING
    assert agent.source.peek() is not None
