"""The CA's machine: the real authority, guard and messages, in processes that crash and start again over one ledger."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, pem_chain
from handfast.credentials import Credentials
from handfast.errors import HandfastError
from handfast.identity import SpiffeId, TrustDomain
from handfast.revocation import FreshnessPolicy, Revocations
from handfast.rpc.judging import AuthContext, Judge
from handfast.sources.static import StaticSource
from handfast.testing import ManualClock, TestAuthority
from handfast.wire.v1 import trust_pb2
from handfast_ca.access import OPEN_METHODS, policy
from handfast_ca.audit_trail import MemoryAudit
from handfast_ca.authority import Authority
from handfast_ca.ceremony import CertificateAuthority, make_root_crl
from handfast_ca.enrolment import Enrolment, Renewal
from handfast_ca.issuer import LocalIssuer
from handfast_ca.profile import Profile
from handfast_ca.registration import Entry
from handfast_ca.serve import renew_own, reserved_credentials
from handfast_ca.service.answers import TrustMessages, issued_message
from tests.sim.disk import LedgerDisk, Slow
from tests.sim.faults import Faults
from tests.sim.loop import Process
from tests.sim.network import Pipe
from tests.sim.world import START, Chance, MachineClock, Timeline, Trouble

__all__ = ["CA_ID", "TRUST_DOMAIN", "CaMachine", "Call", "Presented"]

TRUST_DOMAIN = TrustDomain("test.example")
CA_ID = SpiffeId(TRUST_DOMAIN, "/handfast/ca")
_OPERATOR = SpiffeId(TRUST_DOMAIN, "/handfast/operator/admin")
_SERVICE = "/handfast.v1.Authority"
REFRESH_HINT = 60
"""Seconds between two polls of an agent, ten percent more or less."""


@dataclass(frozen=True, slots=True)
class Presented:
    """The client's side of a handshake: what a connection goes on showing for as long as it stands."""

    leaf: Leaf
    pem: bytes
    intermediates: bytes

    @classmethod
    def of(cls, credentials: Credentials) -> Presented:
        return cls(credentials.leaf, pem_chain(credentials.chain[:1]), pem_chain(credentials.chain[1:]))


@dataclass(frozen=True)
class Call:
    """What gRPC shows of a call to a server."""

    presented: Presented | None

    def auth_context(self) -> AuthContext:
        if self.presented is None:
            return {"ssl_tls_version": (b"TLSv1.3",)}
        return {
            "ssl_tls_version": (b"TLSv1.3",),
            "x509_pem_cert": (self.presented.pem,),
            "x509_pem_cert_chain": (self.presented.intermediates,),
        }

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


@functools.cache
def _ceremony() -> tuple[CertificateAuthority, CertificateAuthority, bytes]:
    """Once for all runs: their keys are in no line of a timeline."""
    made = TestAuthority(str(TRUST_DOMAIN), clock=ManualClock(START))  # P-256 throughout, which verifies fast
    root = CertificateAuthority(made.root, made.root_key)
    crl = make_root_crl(root, now=START, next_update=START + timedelta(days=120))
    return root, CertificateAuthority(made.issuer, made.issuer_key), crl.public_bytes(Encoding.DER)


class CaMachine:
    """``authority`` is the present process's; a crash leaves the ledger and the audit trail."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, chance: Chance, timeline: Timeline, profile: Profile, faults: Faults
    ) -> None:
        self.clock = MachineClock(loop)
        self.most_ahead = 0.0
        self.disk = LedgerDisk(lies=faults.disk_lies)
        self.audit = MemoryAudit(self.clock)
        self.profile = profile
        self.trouble = Trouble()
        self.trouble.begin()
        self.process = Process("ca")
        self.process.kill()
        self.numbered: Callable[[int], None] = lambda _number: None
        self.authority: Authority
        self.source: StaticSource
        self._judge: Judge
        self._messages: TrustMessages
        self._faults = faults
        self._timeline = timeline
        self._draws = chance.of("ca")
        self._serials = chance.of("serials")
        self._disk_draws = chance.of("ca-disk")

    # --- coming and going -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when it serves."""
        self.process = Process("ca")
        await self.process.spawn(self._start())
        self.trouble.end()
        self._timeline.add("ca", f"serves, CRL {self.crl_number}")

    def crash(self) -> None:
        self.trouble.begin()
        self._timeline.add("ca", "crashes")
        self.process.kill()
        self.disk.after_a_crash()

    def step_clock(self, offset: float) -> None:
        """Somebody sets the machine's clock. More than a minute back, and it signs nothing until that is put right."""
        self.clock.set(offset)
        self.most_ahead = max(self.most_ahead, offset)
        self._timeline.add("ca", f"the clock is set: {offset:+.1f} s")

    @property
    def serving(self) -> bool:
        return self.process.alive and not self.trouble.active

    @property
    def crl_number(self) -> int:
        known = self.authority.feed.state.crls.get(self.authority.issuer.key_id)
        return known.number if known else 0

    async def _start(self) -> None:
        root, issuing, root_crl = _ceremony()
        self.authority = Authority(
            trust_domain=TRUST_DOMAIN,
            issuer=LocalIssuer(issuing.certificate, issuing.key),
            bundle=TrustBundle(TRUST_DOMAIN, (root.certificate,), (issuing.certificate,), 1, REFRESH_HINT),
            ledger=Slow(self.disk.ledger, self._disk_draws),
            audit=Slow(self.audit, self._disk_draws),
            clock=self.clock,
            profile=self.profile,
            reserved={CA_ID: Entry(CA_ID, version=0)},
            root_crls=(root_crl,),
            random_bytes=self._serials.randbytes,
        )
        await self.authority.start()
        self._messages = TrustMessages(self.authority.feed.history)
        self.source = StaticSource(await reserved_credentials(self.authority, CA_ID))
        self._judge = Judge(
            self.source,
            policy(TRUST_DOMAIN, [_OPERATOR]),
            clock=self.clock,
            freshness=FreshnessPolicy(self.profile.crl_validity / 4),
            open_methods=OPEN_METHODS,
            observer=None,
        )
        self.process.spawn(self._follow_trust())
        self.process.spawn(self._every(self.profile.publish_every, self.authority.publish_crl))
        self.process.spawn(self._every(self.profile.longest, self._forget))
        self.process.spawn(self._every(self.profile.longest / 20, self._renew_own))
        self.process.spawn(self._every(timedelta(seconds=20), self._sync))

    async def _every(self, period: timedelta, job: Callable[[], Awaitable[object]]) -> None:
        """A job that fails is made again at its next time, as the CA's scheduler does."""
        while True:
            await asyncio.sleep(period.total_seconds())
            try:
                await job()
            except HandfastError as error:
                self._timeline.add("ca", f"a job fails: {error.reason}")

    async def _sync(self) -> None:
        self.disk.sync()

    async def _renew_own(self) -> None:
        await renew_own(self.authority, self.source)

    async def _forget(self) -> None:
        await self.authority.forget_expired(keep=self.profile.longest)

    async def _follow_trust(self) -> None:
        """As ``handfast_ca.serve``: the CA's own guard knows every revocation when every agent does."""
        async for _change in self.authority.feed.watch():
            self.numbered(self.crl_number)
            state, present = self.authority.trust(), self.source.current()
            revocations = Revocations(MappingProxyType(dict(state.crls)))
            revocations = revocations.announce((news.issuer_key_id, news.serial) for news in state.announced)
            self.source.publish(replace(present, bundle=state.bundle, revocations=revocations))

    # --- what it serves, behind its guard ---------------------------------------------------------------------------

    async def enrol(self, token: str, csr: bytes, spiffe_id: str) -> bytes:
        self._judge.admit(Call(None), f"{_SERVICE}/Enrol")
        return self._issued(await self.authority.enrol(Enrolment(token, csr, spiffe_id=spiffe_id)))

    async def renew(self, presented: Presented, csr: bytes, reader: trust_pb2.CrlReader) -> bytes:
        caller = self._judge.admit(Call(presented), f"{_SERVICE}/Renew")
        assert caller is not None
        return self._issued(await self.authority.renew(Renewal(caller.leaf, csr)), reader)

    def _issued(self, issued: Any, reader: trust_pb2.CrlReader | None = None) -> bytes:
        trust = self._messages.whole(issued.trust, self.clock.now(), reader)
        return issued_message(issued, trust).SerializeToString()

    async def get_trust(self, presented: Presented, reader: trust_pb2.CrlReader | None) -> bytes:
        self._judge.admit(Call(presented), f"{_SERVICE}/GetTrust")
        return self._messages.whole(self.authority.trust(), self.clock.now(), reader).SerializeToString()

    async def watch_trust(self, presented: Presented, reader: trust_pb2.CrlReader, pipe: Pipe) -> None:
        """The guard ends the stream of a caller that is no longer good: before it has the news of that, or after."""
        method = f"{_SERVICE}/WatchTrust"
        self._judge.admit(Call(presented), method)
        ending = Process.current().spawn(self._end_when_bad(presented, method, pipe))  # type: ignore[union-attr]
        try:
            async for change in self.authority.feed.watch():
                if not change.whole and self._draws.random() < self._faults.feed_forgets:
                    self._timeline.add("ca", f"FAULT: the feed forgets revision {change.revision}")
                    continue
                if change.whole:
                    message = self._messages.whole(self.authority.trust(), self.clock.now(), reader)
                else:
                    message = self._messages.change(change, self.clock.now(), changes=reader.changes)
                await pipe.send(message.SerializeToString())
        finally:
            ending.cancel()

    async def _end_when_bad(self, presented: Presented, method: str, pipe: Pipe) -> None:
        stirred = asyncio.Event()
        unsubscribe = self.source.subscribe(lambda _news: stirred.set())
        try:
            while True:
                bad = self._judge.still_good(presented.leaf, presented.intermediates, method)
                if bad is not None:
                    await asyncio.sleep(0.01 * (self._draws.random() - 0.5))
                    pipe.close(bad)
                    return
                stirred.clear()
                left = presented.leaf.expires_at - self.clock.now().timestamp() + 0.001
                try:
                    async with asyncio.timeout(max(left, 0.001)):
                        await stirred.wait()
                except TimeoutError:
                    continue
        finally:
            unsubscribe()
