"""The use case: asks :mod:`plan` what to do, does it through ports, and publishes one snapshot.

Rules that hold here:

- Only what :func:`acceptance.checked` let pass is published or written.
- A snapshot is published before it is written: a revocation must not wait for a disk, nor for a hook. What could not be written
  is written again at each look, and the agent is not ready until it is.
- The same request is repeated, byte for byte, until the CA has answered it, so that a lost answer costs no token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from handfast.certificates import Leaf
from handfast.clock import Clock
from handfast.credentials import Credentials
from handfast.csr import build_csr
from handfast.errors import Broken, HandfastError, Unavailable
from handfast.keys import PrivateKey, generate
from handfast.ocsp import OcspAnswer
from handfast.sources.static import StaticSource
from handfast_agent.acceptance import Answer, Wanted, checked
from handfast_agent.lifecycle import Event, State
from handfast_agent.memory import Memory, Outputs, Remembered
from handfast_agent.order import Order
from handfast_agent.plan import Enrol, Expire, Plan, Renew, Restore, Wait, hurried, moment_to_renew, next_step
from handfast_agent.proofs.join_token import JoinToken, token_digest
from handfast_agent.trust import Marks, News, Trust
from handfast_agent.upstream import Upstream

__all__ = ["Driver", "Record"]

_log = logging.getLogger(__name__)
GENERATIONS_SKIPPED_AT_START = 1000
"""More than were ever published without being remembered, so that generations rise across a crash."""


@dataclass(slots=True)
class Record:
    """What happened, for status and metrics."""

    last_success: datetime | None = None
    last_failure: str = ""
    last_reason: str = ""
    connected: bool = False
    unwritten: str = ""
    alarms: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        self.alarms[reason] = self.alarms.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that may have reached the CA: repeated as it is until there is an answer."""

    credential: bytes = field(repr=False)  # a join token is one
    key: PrivateKey
    csr: bytes


class Driver:
    """One workload's agent without its sockets, timers and files."""

    def __init__(
        self,
        wanted: Wanted,
        *,
        upstream: Upstream,
        outputs: Outputs,
        memory: Memory,
        proof: JoinToken,
        source: StaticSource,
        clock: Clock,
        draw: Callable[[], float],
        on_files: Callable[[], Awaitable[object]],
    ) -> None:
        self.wanted = wanted
        self.plan = Plan()
        self.trust = Trust()
        self.record = Record()
        self.generation = 0
        self.last_error: HandfastError | None = None
        self.present: Credentials | None = None
        self.stapled: OcspAnswer | None = None
        self.on_hurry: Callable[[], None] = lambda: None
        self._upstream = upstream
        self._outputs = outputs
        self._memory = memory
        self._proof = proof
        self._source = source
        self._clock = clock
        self._draw = draw
        self._on_files = on_files
        self._remembered = Remembered()
        self._request: _Request | None = None
        self._told: Credentials | None = None
        self._to_write = False
        self._ticking = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._hearing = asyncio.Lock()
        # One thread reads lists, and not whichever is idle: each that did would keep the memory that a list takes to read.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lists")

    async def start(self) -> None:
        """Reads what a former run left, and serves it when it is still good; the CA need not be there."""
        self._outputs.prepare()
        self._remembered = self._memory.load()
        now = self._clock.now()
        found = self._outputs.read(now, self._remembered.marks)
        self.trust = found.trust
        self.generation = max(found.generation, self._remembered.generation) + GENERATIONS_SKIPPED_AT_START
        if found.credentials is None or found.credentials.spiffe_id != self.wanted.spiffe_id:
            if found.generation:
                await self._on_files()  # the former run may have ended before a hook told of what it withdrew
            return
        validity = found.credentials.leaf.validity
        renew_at = found.renew_at or moment_to_renew(validity, None, self._draw())
        self.plan = self.plan.certified(Event.RESTORED, validity, renew_at)
        self.present = found.credentials
        _log.info("restored %s from disk, valid until %s", found.credentials.leaf, validity.not_after.isoformat())
        if now > validity.not_after:
            self.plan = self.plan.moved(Event.EXPIRED)
        if self.trust.revoked(found.credentials.leaf.issuer_key_id, found.credentials.leaf.serial):
            self.plan = self.plan.moved(Event.REVOKED)
        await self._publish()

    async def tick(self) -> float:
        """Does all that is due, and returns how many seconds there is nothing to do."""
        async with self._ticking:
            if self.record.unwritten:
                await self._publish()
            while True:
                token = self._token()
                step = next_step(self.plan, self._clock.now(), self._clock.monotonic(), has_proof=token is not None)
                match step:
                    case Wait(seconds):
                        return seconds
                    case Expire():
                        _log.error("the certificate expired at %s: withdrawn", self._not_after())
                        await self._move(Event.EXPIRED)
                    case Restore():
                        await self._restore()
                    case Enrol():
                        assert token is not None
                        await self._enrol(token)
                    case Renew():
                        await self._renew()

    async def _restore(self) -> None:
        """The certificate is valid again; trust that was withdrawn meanwhile stays withdrawn (threat D12)."""
        _log.warning("the clock says that the certificate is valid again: restored")
        self.plan = self.plan.moved(Event.RESTORED)
        if self.trust.distrusts_everything():
            self.plan = self.plan.moved(Event.TRUST_WITHDRAWN)
        await self._publish()

    def demand_renewal(self) -> None:
        """Makes the present certificate due for the next tick, whatever its age, and whatever pause a failure had drawn: somebody
        who says so knows that the CA is back. Nothing else than SERVING renews.
        """
        if self.plan.state is State.SERVING:
            self.plan = replace(self.plan, renew_at=self._clock.now(), retry_at=None)

    async def hear(self, news: News, asked: Marks | None = None) -> bool:
        """As :meth:`take`, and returns when it is written, too."""
        usable = await self.take(news, asked)
        await self.write()
        return usable

    async def take(self, news: News, asked: Marks | None = None) -> bool:
        """Takes what is newer; refuses and alarms what is older or broken (threats D1, D11). It is published when this returns,
        and written by the next :meth:`write`.

        ``asked``: the marks of the moment when the question was asked, as :meth:`Trust.accept` has it. False when a revocation
        list must be had whole, since its change could not be used.
        """
        async with self._hearing:
            before = self.trust
            self.trust, alarms = await self._accept(news, asked)
        hurried = self._obey(news.order)
        if self.trust != before:
            await self._judge_self()
        elif hurried:
            self._tell()
        return not any(alarm.reason == "CRL_CHANGE_UNUSABLE" for alarm in alarms)

    async def _accept(self, news: News, asked: Marks | None) -> tuple[Trust, tuple[HandfastError, ...]]:
        """Inside :attr:`_hearing`, so that nothing that came meanwhile is lost. Long lists are read beside the event loop."""
        now = self._clock.now()
        if self.trust.is_long(news):
            loop = asyncio.get_running_loop()
            trust, alarms = await loop.run_in_executor(self._reader, self.trust.accept, news, now, asked)
        else:
            trust, alarms = self.trust.accept(news, now, asked)
        for alarm in alarms:
            self.alarm(alarm)
        return trust, alarms

    def _obey(self, order: Order | None) -> bool:
        """An order to renew moves our moment forward, once. True when it did."""
        planned = self.plan if order is None else hurried(self.plan, order, self._clock.now(), self._draw())
        if planned == self.plan:
            return False
        assert planned.renew_at is not None
        _log.warning("the CA wants every certificate renewed: ours at %s", planned.renew_at.isoformat())
        self.plan = planned
        self.on_hurry()
        return True

    async def staple(self, answer: OcspAnswer | None) -> None:
        """A good answer about the present certificate stands beside it from now on; None: the one that stood there ended."""
        before = self._staple()
        self.stapled = answer
        if self._staple() != before:
            await self._publish(to_files_only=True)

    async def heed(self, refusal: HandfastError, presented: Leaf) -> None:
        """The CA lets ``presented`` in no more. Once that is revoked no trust comes this way any more, not even the news of
        that, so the refusal is the news (threat C1).
        """
        present = self.present
        is_ours = present is not None and present.leaf == presented
        if refusal.reason == "REVOKED" and is_ours and self.plan.state is State.SERVING:
            await self._revoked()

    async def stop(self) -> None:
        """Ends serving; the files stay for the next start, with all that was taken."""
        await self.write()
        if self.plan.state is not State.STOPPED:
            self.plan = self.plan.moved(Event.STOPPED)
            self._source.publish(None)

    async def _enrol(self, token: str) -> None:
        request, asked = self._asking(token.encode()), self.trust.marks
        try:
            answer = await self._upstream.enrol(token, request.csr, self.wanted.spiffe_id, self.trust)
            await self._take(Event.ENROLLED, request.key, answer, asked, used_token=token_digest(token))
        except HandfastError as error:
            if _is_final(error):
                _log.error("the CA refuses the join token for good: %s", error.message)
                await self._forget_token(token)
            self._fail(error)

    async def _forget_token(self, token: str) -> None:
        """Never sends it again. What a full disk does not take is written when the files are."""
        async with self._writing:
            self._remembered = replace(self._remembered, used_token=token_digest(token))
            try:
                await _to_its_end(asyncio.to_thread(self._memory.save, self._remembered))
            except HandfastError as error:
                self.record.unwritten = error.message
                self.alarm(error)

    async def _renew(self) -> None:
        assert self.present is not None
        request, asked = self._asking(self.present.leaf.der), self.trust.marks
        try:
            answer = await self._upstream.renew(self.present, request.csr)
            await self._take(Event.RENEWED, request.key, answer, asked)
        except HandfastError as error:
            self._fail(error)
            if error.reason == "REVOKED" and self.plan.state is State.SERVING:
                await self._revoked()

    def _asking(self, credential: bytes) -> _Request:
        if self._request is None or self._request.credential != credential:
            key = generate()
            names = self.wanted
            csr = build_csr(
                key,
                credential=credential,
                spiffe_id=names.spiffe_id,
                dns_names=names.dns_names,
                ip_addresses=names.ip_addresses,
            )
            self._request = _Request(credential, key, csr)
        return self._request

    async def _take(self, event: Event, key: PrivateKey, answer: Answer, asked: Marks, used_token: str = "") -> None:
        async with self._hearing:
            trust, _ = await self._accept(answer.news, asked)
            taken = self._certify(event, key, answer, trust)
        if not taken:
            return
        if used_token:
            self._remembered = replace(self._remembered, used_token=used_token)
        await self._publish()

    def _certify(self, event: Event, key: PrivateKey, answer: Answer, trust: Trust) -> bool:
        """False when the state changed while the answer was on its way."""
        now = self._clock.now()
        if event is Event.RENEWED and self.plan.state is not State.SERVING:
            _log.warning("an answer came when the agent was %s: dropped", self.plan.state)
            return False
        self._request = None
        credentials = checked(self.wanted, key, answer.chain, trust, now)
        if trust.revoked(credentials.leaf.issuer_key_id, credentials.leaf.serial):
            raise Broken(f"the CA answered with a revoked certificate: {credentials.leaf}", reason="ANSWER_MISMATCH")
        validity = credentials.leaf.validity
        renew_at = moment_to_renew(validity, answer.suggested, self._draw())
        self.plan = self.plan.certified(event, validity, renew_at)
        if renew_at <= now:
            self.plan = self.plan.due_on_arrival(self._clock.monotonic())
            self.count("CLOCK_AHEAD")
            _log.warning("the new certificate is due already: is the clock ahead of the CA's?")
        self._obey(answer.news.order)
        self.trust, self.present = trust, credentials
        self.record.last_success, self.record.last_failure, self.record.last_reason = now, "", ""
        _log.info("%s: %s, valid until %s", event, credentials.leaf, validity.not_after.isoformat())
        return True

    def _fail(self, error: HandfastError) -> None:
        self.last_error = error
        self.record.last_failure, self.record.last_reason = error.message, error.reason
        self.plan = self.plan.failed(self._clock.monotonic(), self._draw(), error.retry_after)
        if error.reason in ("ANSWER_MISMATCH", "PIN_MISMATCH"):
            self._request = None
        self.count(error.reason)
        _log.warning("attempt %d failed: %s (%s)", self.plan.failures, error.message, error.reason)

    async def _judge_self(self) -> None:
        """After news: is our own certificate revoked, is anything trusted at all?"""
        leaf = self.present.leaf if self.present else None
        if leaf is not None and self.trust.revoked(leaf.issuer_key_id, leaf.serial):
            if self.plan.state in (State.SERVING, State.EXPIRED, State.UNTRUSTING):
                await self._revoked()
                return
        elif self.trust.distrusts_everything() and self.plan.state is State.SERVING:
            _log.error("the CA withdrew all trust: the bundle is empty")
            self.plan = self.plan.moved(Event.TRUST_WITHDRAWN)
        elif not self.trust.distrusts_everything() and self.plan.state is State.UNTRUSTING:
            self.plan = self.plan.moved(Event.RESTORED)
        self._tell()

    async def _revoked(self) -> None:
        _log.error("our own certificate was revoked: withdrawn, and not renewed; a new join token is needed")
        self.count("REVOKED")
        await self._move(Event.REVOKED)

    async def _move(self, event: Event) -> None:
        self.plan = self.plan.moved(event)
        await self._publish()

    async def _publish(self, *, to_files_only: bool = False) -> None:
        """To the socket, then to the disk, then the hooks. The answer that is stapled is in no snapshot, and no reason to send
        all lists again.
        """
        self._tell(to_files_only=to_files_only)
        await self.write()

    def _tell(self, *, to_files_only: bool = False) -> None:
        """One snapshot to the socket, before anything is waited for."""
        self.generation += 1
        self._told = self._served()
        self._to_write = True
        if not to_files_only:
            self._source.publish(self._told)

    async def write(self) -> None:
        """What was published last to the disk, as one generation, then the hooks; nothing when it is there already."""
        async with self._writing:
            if not self._to_write:
                return
            self._to_write = False
            self._remembered = replace(self._remembered, marks=self.trust.marks, generation=self.generation)
            content = (self._told, self.trust, self.plan.renew_at, self.generation, self._staple())
            try:
                await _to_its_end(asyncio.to_thread(self._write, content, self._remembered))
                self.record.unwritten = ""
            except HandfastError as error:
                self.record.unwritten = error.message
                self.alarm(error)
                return
        await self._on_files()

    def _write(self, content: tuple[Credentials | None, Trust, datetime | None, int, bytes], marks: Remembered) -> None:
        self._outputs.write(*content)
        self._memory.save(marks)

    def _served(self) -> Credentials | None:
        if self.plan.state is not State.SERVING or self.present is None or self.trust.bundle is None:
            return None
        self.present = replace(
            self.present, bundle=self.trust.bundle, revocations=self.trust.revocations, generation=self.generation
        )
        return self.present

    def _staple(self) -> bytes:
        """What is written now: an answer about another certificate than the one beside it would be worse than none."""
        present, answer = self.present, self.stapled
        if self.plan.state is not State.SERVING or present is None or answer is None:
            return b""
        return answer.der if answer.serial == present.leaf.serial else b""

    def _token(self) -> str | None:
        if self.plan.state not in (State.UNENROLLED, State.EXPIRED, State.REVOKED):
            return None
        try:
            token = self._proof.read()
        except HandfastError as error:
            self.record.last_failure, self.record.last_reason = error.message, error.reason
            return None
        return None if token is None or token_digest(token) == self._remembered.used_token else token

    def alarm(self, error: HandfastError) -> None:
        self.count(error.reason)
        _log.error("refused: %s (%s)", error.message, error.reason)

    def count(self, reason: str) -> None:
        self.record.count(reason)

    def _not_after(self) -> str:
        return self.plan.validity.not_after.isoformat() if self.plan.validity else "no time"


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also when whoever waits is cancelled: a thread cannot be, and a second writer must not begin beside it."""
    working = asyncio.create_task(work)
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise


def _is_final(error: HandfastError) -> bool:
    """True when the CA itself said no to this token, and waiting does not help."""
    ours = error.reason in ("ANSWER_MISMATCH", "PIN_MISMATCH", "UNTRUSTED", "WRONG_IDENTITY")
    return not ours and not isinstance(error, Broken | Unavailable) and error.reason.startswith("TOKEN_")
