"""The agent without its sockets, under a machine of Hypothesis: real driver, real files, real cryptography, a CA that lies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import tempfile
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handfast.bundle import TrustBundle
from handfast.identity import SpiffeId
from handfast.keys import matches
from handfast.sources.static import StaticSource
from handfast.testing import ManualClock, TestAuthority
from handfast_agent.acceptance import Wanted
from handfast_agent.condition import condition
from handfast_agent.driver import Driver
from handfast_agent.lifecycle import TABLE, State
from handfast_agent.memory import Memory, Outputs
from handfast_agent.proofs.join_token import JoinToken
from handfast_agent.storage import Directory
from handfast_agent.watch import poll_once
from tests.agent.running import pair_in
from tests.peers.authority import TOKEN, PeerAuthority
from tests.peers.direct import DirectUpstream

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://test.example/web")
HOSTILE = ("garbage", "wrong_key", "wrong_identity", "stranger", "too_long", "outlives")
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
minutes = st.integers(0, 50)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow: what a full disk is to a writer, from the same system calls."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class AgentMachine(RuleBasedStateMachine):
    """Two clocks, the CA's and the agent's, which somebody sets; a disk that fills; a CA that goes, loses and lies."""

    @initialize(draw=st.floats(0.05, 1))
    def begin(self, draw: float) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="handfast-stateful-", dir=IN_MEMORY))
        self.loop = asyncio.new_event_loop()
        self.draw = draw
        self.ca_clock, self.clock = ManualClock(START), ManualClock(START)
        self.peer = PeerAuthority(TestAuthority(clock=self.ca_clock))
        self.upstream = DirectUpstream(self.peer)
        self.disk_is_full = False
        self.old_lists = [self.peer.authority.crl]
        self.old_bundle = self.peer.authority.bundle
        self.refused: set[str] = set()
        self.lies: set[bytes] = set()
        self.generation = 0
        self.numbers: dict[bytes, int] = {}
        self.sequence = 0
        self.tokens = 0
        (self.home / "token").write_text(TOKEN)
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.home)

    def start(self) -> None:
        """A new process over the files of the one before."""
        self.source = StaticSource()
        self.driver = Driver(
            Wanted(WEB, max_lifetime=LIFE + timedelta(minutes=1)),
            upstream=self.upstream,
            outputs=Outputs(Directory(self.home / "out"), WEB.trust_domain),
            memory=Memory(self.home / "state"),
            proof=JoinToken(self.home / "token"),
            source=self.source,
            clock=self.clock,
            draw=lambda: self.draw,
            on_files=self.on_files,
        )
        self.run(self.driver.start())

    async def on_files(self) -> None:
        """No hooks here."""

    def run(self, step: Awaitable[T]) -> T:
        with full_disk() if self.disk_is_full else contextlib.nullcontext():
            return self.loop.run_until_complete(step)  # type: ignore[arg-type]

    def tick(self) -> None:
        """As APScheduler does when time went on: no step may raise, and each move is in the table."""
        before = self.driver.plan.state
        sent = len(self.peer.enrolments)
        wait = self.run(self.driver.tick())
        assert 0 < wait <= 15
        assert self.driver.plan.state in reachable(before)
        for token in self.peer.enrolments[sent:]:
            assert token not in self.refused, "a token went out again after its final refusal"
            if self.driver.record.last_reason == "TOKEN_SPENT" and not self.disk_is_full:
                self.refused.add(token)

    @rule(passed=minutes)
    def time_passes(self, passed: int) -> None:
        self.clock.advance(timedelta(minutes=passed))
        self.ca_clock.advance(timedelta(minutes=passed))
        self.tick()

    @rule(hours=st.integers(-30, 30))
    def somebody_sets_the_clock(self, hours: int) -> None:
        """Threat J8."""
        self.clock.step(timedelta(hours=hours))
        self.tick()

    @rule()
    def somebody_sets_the_clock_right(self) -> None:
        self.clock.step(self.ca_clock.now() - self.clock.now())
        self.tick()

    @rule(up=st.booleans())
    def the_ca_goes_or_comes(self, up: bool) -> None:
        self.upstream.up = up
        self.tick()

    @rule()
    def an_answer_is_lost(self) -> None:
        self.peer.lose_answers = 1
        self.driver.demand_renewal()
        self.tick()

    @rule(kind=st.sampled_from(HOSTILE))
    def the_ca_lies(self, kind: str) -> None:
        """Whatever it says, what was served before is served on, or nothing is. An answer that was lost before it lied, and is
        repeated now, is a good one.
        """
        before, earlier = self.source.peek(), self.peer.answers
        hostile(self.peer, kind)
        self.driver.demand_renewal()
        self.tick()
        after = self.source.peek()
        self.lies |= self.peer.answers - earlier
        known = {before.leaf.der} if before is not None else set()
        assert after is None or after.leaf.der in known | (earlier - self.lies)
        honest(self.peer)

    @rule()
    def the_ca_revokes_somebody_and_signs_a_list(self) -> None:
        self.old_lists.append(self.peer.authority.crl)
        self.peer.authority.revoke(4711 + len(self.old_lists))
        self.poll()

    @precondition(lambda self: self.driver.present is not None)
    @rule()
    def the_ca_revokes_this_workload(self) -> None:
        """Threat C1: known to the CA is served no longer than the news needs, which the push brings at once."""
        leaf = self.driver.present.leaf  # type: ignore[union-attr]
        self.old_lists.append(self.peer.authority.crl)
        self.peer.authority.revoke(leaf.serial)
        self.peer.announced = (*self.peer.announced, (leaf.issuer_key_id, leaf.serial))
        self.poll()
        served = self.source.peek()
        assert not self.upstream.up or served is None or served.leaf != leaf, "an unused token may bring another"

    @rule(data=st.data())
    def an_older_list_is_offered(self, data: st.DataObject) -> None:
        """Threat D1."""
        self.peer.old_list = data.draw(st.sampled_from(self.old_lists))
        self.poll()
        self.peer.old_list = None

    @rule()
    def the_bundle_is_replaced(self) -> None:
        self.peer.authority.set_roots((self.peer.authority.root,), (self.peer.authority.issuer,))
        self.poll()

    @rule(empty=st.booleans())
    def an_older_or_an_empty_bundle_is_offered(self, empty: bool) -> None:
        """Threats D11, D12."""
        if empty:
            self.peer.authority.set_roots(())
            self.poll()
            self.peer.authority.set_roots((self.peer.authority.root,), (self.peer.authority.issuer,))
        else:
            old = self.old_bundle
            self.peer.bundle = TrustBundle(old.trust_domain, old.roots, old.issuers, old.sequence)
            self.poll()
            self.peer.bundle = None

    @rule(full=st.booleans())
    def the_disk_fills_or_has_room(self, full: bool) -> None:
        self.disk_is_full = full
        self.driver.demand_renewal()
        self.tick()

    @rule()
    def it_is_killed_and_started_again(self) -> None:
        """Threat E7: nothing is kept but what lies on the disk."""
        if self.driver.record.unwritten:  # what a full disk did not take is not known to the next process
            self.numbers, self.sequence, self.generation, self.refused = {}, 0, 0, set()
        self.disk_is_full = False
        self.start()
        self.tick()

    @rule(good=st.booleans())
    def another_token_is_put_into_the_file(self, good: bool) -> None:
        """Threat B1."""
        self.tokens += 1
        token = f"hft_{self.tokens:043d}"
        if good:
            self.peer.tokens[token] = str(WEB)
        (self.home / "token").write_text(token)
        self.tick()

    @rule()
    def it_comes_back_when_all_is_well_and_there_is_a_proof(self) -> None:
        """Whatever happened: with the CA, the clock, the disk and a token in order, it serves in the end."""
        self.upstream.up, self.disk_is_full = True, False
        self.peer.authority.refresh_list()
        self.somebody_sets_the_clock_right()
        self.another_token_is_put_into_the_file(True)
        for _ in range(80):
            self.poll()
            if condition(self.driver, self.clock.now()).ready:
                break
            self.time_passes(1)
        found = condition(self.driver, self.clock.now())
        assert found.ready, (found, self.driver.last_error)

    def poll(self) -> None:
        self.run(poll_once(self.driver, self.upstream, self.source))
        self.tick()

    @invariant()
    def what_it_serves_is_good_and_is_one_snapshot(self) -> None:
        """Threats C1, E7: neither expired, nor revoked as far as it knows, and the key is the certificate's."""
        served = self.source.peek()
        if served is None:
            assert self.driver.plan.state is not State.SERVING
            return
        assert self.driver.plan.state is State.SERVING
        assert served.spiffe_id == WEB
        assert served.bundle.roots
        assert self.clock.now() <= served.leaf.validity.not_after
        assert not self.driver.trust.revoked(served.leaf.issuer_key_id, served.leaf.serial)
        assert matches(served.key, served.leaf.certificate.public_key())
        assert served.revocations == self.driver.trust.revocations

    @invariant()
    def what_lies_on_the_disk_is_a_pair_or_nothing(self) -> None:
        """Threat E7: and it is what is served, unless the disk was full, which is said."""
        on_disk = pair_in(self.home / "out")
        if not self.driver.record.unwritten and self.driver.generation:
            served = self.source.peek()
            assert on_disk == (served.leaf if served else None)
        if self.driver.record.unwritten:
            assert not condition(self.driver, self.clock.now()).ready

    @invariant()
    def nothing_goes_back(self) -> None:
        """Threats D1, D11: list numbers, the bundle's sequence and the generation, across restarts too."""
        assert self.driver.generation >= self.generation
        self.generation = self.driver.generation
        for issuer, mark in self.driver.trust.marks.lists.items():
            assert mark.number >= self.numbers.get(issuer, 0)
            known = self.driver.trust.revocations.lists.get(issuer)
            assert known is None or known.number == mark.number
            self.numbers[issuer] = mark.number
        assert self.driver.trust.marks.bundle.sequence >= self.sequence
        self.sequence = self.driver.trust.marks.bundle.sequence


def reachable(state: State) -> set[State]:
    """What the table lets become of a state in any number of moves, itself among them."""
    found = {state}
    while True:
        further = found | {after for one in found for after in TABLE[one].values()}
        if further == found:
            return found
        found = further


def hostile(peer: PeerAuthority, kind: str) -> None:
    if kind == "stranger":
        peer.stranger = TestAuthority(clock=peer.authority.clock)
    elif kind in ("too_long", "outlives"):
        peer.lifetime = timedelta(days=2 if kind == "too_long" else 900)
    else:
        setattr(peer, kind, True)


def honest(peer: PeerAuthority) -> None:
    peer.garbage = peer.wrong_key = peer.wrong_identity = False
    peer.stranger, peer.lifetime = None, LIFE


AgentMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
TestAgentUnderEverything = AgentMachine.TestCase
