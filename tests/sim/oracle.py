"""What must hold at every moment, judged by one who sees everything.

A machine is excused while something troubles it (a network that is parted, a clock that is wrong, a CA that is down) and for
:data:`SETTLE` seconds after; whatever troubles it, no call is taken past notAfter, or when a list that was signed before the
revocation would have ended. All of the promises are in ``docs/simulation.md``, by these names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from handfast.certificates import Leaf, format_serial
from handfast.credentials import Credentials
from handfast.errors import HandfastError
from handfast.wire import codec
from handfast_agent.acceptance import Answer
from handfast_agent.lifecycle import State
from handfast_ca.ledger import CertificateRecord, Status
from tests.sim.agent import AgentMachine
from tests.sim.ca import CaMachine
from tests.sim.network import LONGEST_DELAY
from tests.sim.world import START, Timeline, clock

__all__ = ["BOUND", "POLLED", "SETTLE", "Oracle", "Violation", "done_at_once"]

T = TypeVar("T")
BOUND = 1.0 + LONGEST_DELAY
"""Seconds from an acknowledged revocation until a machine refuses, that nothing troubles: one, and the network's own."""
SETTLE = 25.0
"""Seconds after the last trouble until a machine must know all again: at most fifteen of backoff, the rest to answer."""
POLLED = 75.0
"""Instead of BOUND where a stream stands and brings nothing: a poll is due within 66 seconds."""
CLOCK_TOLERANCE = 5.0


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class _Revoked:
    issuer: bytes
    not_after: datetime
    at: float
    wall: datetime


class Oracle:
    """Told of everything as it happens. The first broken promise is kept, and ends the run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ca: CaMachine, timeline: Timeline) -> None:
        self.machines: list[AgentMachine] = []
        self.broken: asyncio.Future[None] = loop.create_future()
        self.revoked: dict[int, _Revoked] = {}
        self.accepted = 0
        self._ca = ca
        self._timeline = timeline
        self._received: dict[int, bytes] = {}
        self._redeemed: dict[str, int] = {}
        self._generations: dict[str, int] = {}
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._knows: set[tuple[str, int]] = set()

    def fail(self, promise: str, what: str) -> None:
        self._timeline.add("oracle", f"BROKEN {promise}: {what}")
        if not self.broken.done():
            self.broken.set_exception(Violation(f"{promise}: {what}"))

    # --- revocation reaches everybody -------------------------------------------------------------------------------

    def acknowledged(self, serials: tuple[int, ...], issuer: bytes) -> None:
        """``revoke`` returned. Every machine that nothing troubles is looked at when its bound is over."""
        now, wall = clock(), START + timedelta(seconds=clock() + self._ca.most_ahead)
        for serial in serials:
            if serial not in self.revoked:
                ends = done_at_once(self._ca.disk.ledger.find(serial)).not_after
                self.revoked[serial] = _Revoked(issuer, ends, now, wall)
                for seconds in (BOUND, SETTLE, POLLED):
                    asyncio.get_running_loop().call_later(seconds, self._look, serial)
        self._check_descendants()

    def _look(self, serial: int) -> None:
        revoked = self.revoked[serial]
        if self._is_over(revoked):
            return
        for machine in self.machines:
            if clock() < self._deadline(machine, revoked) - 1e-6:
                continue
            served = machine.served
            if served is not None and not served.revocations.revoked(revoked.issuer, serial):
                if served.leaf.validity.contains(machine.clock.now()):
                    self._fail_late(machine, serial, "does not know that")
            else:
                self._knows.add((machine.name, serial))

    def _deadline(self, machine: AgentMachine, revoked: _Revoked) -> float:
        quiet = max(machine.trouble.quiet_since, machine.link.trouble.quiet_since, self._ca.trouble.quiet_since)
        bound = POLLED if machine.link.stalled else BOUND
        return max(revoked.at + bound, quiet + SETTLE)

    def _fail_late(self, machine: AgentMachine, serial: int, does: str) -> None:
        since = clock() - self.revoked[serial].at
        self.fail(
            "REVOKED", f"{machine.name} {does} {format_serial(serial)} was revoked, {since:.1f} s after it was said"
        )

    def took(self, machine: AgentMachine, peer: Leaf, what: str, *, stream: bool = False) -> None:
        """``machine`` lets ``peer`` in, or goes on with it."""
        self.accepted += 1
        now = machine.clock.now()
        noticed = clock() - machine.clock.set_at > 1.1 if stream else True
        if noticed and now > peer.validity.not_after + timedelta(seconds=1.1 if stream else 0.0):
            self.fail("EXPIRED", f"{machine.name} takes {what} of {peer} after its end, {peer.validity.not_after}")
        revoked = self.revoked.get(peer.serial)
        if revoked is None:
            return
        knew = (machine.name, peer.serial) in self._knows and abs(machine.clock.offset) < CLOCK_TOLERANCE
        if knew or clock() > self._deadline(machine, revoked):
            self._fail_late(machine, peer.serial, f"takes {what} although")
        if not stream and now >= revoked.wall + self._ca.profile.crl_validity:
            self._fail_late(machine, peer.serial, f"takes {what}, on a list that ended, although")

    # --- what agents get and show -----------------------------------------------------------------------------------

    def received(self, machine: AgentMachine, answer: Answer, token: str) -> None:
        serial = answer.chain[0].serial_number
        self._received[serial] = codec.der(answer.chain[0])
        self._timeline.add(machine.name, f"receives {format_serial(serial)[:12]}")
        self._check_known(serial)
        if token and self._redeemed.setdefault(token, serial) != serial:
            self.fail("ONCE", f"one join token brought {machine.name} two certificates")

    def _check_known(self, serial: int) -> None:
        try:
            record = done_at_once(self._ca.disk.ledger.find(serial))
        except HandfastError as error:
            self.fail("KNOWN", f"{format_serial(serial)} is in somebody's hands, and not in the ledger: {error.reason}")
            return
        if record.status is not Status.ISSUED or record.der != self._received[serial]:
            self.fail("KNOWN", f"{format_serial(serial)} is {record.status} in the ledger, and in somebody's hands")

    def told(self, machine: AgentMachine, credentials: Credentials | None) -> None:
        """A machine's agent published a snapshot."""
        self._check_rising(machine)
        state = machine.driver.plan.state
        if credentials is None:
            self._timeline.add(machine.name, f"withdraws: {state}")
            if state is State.EXPIRED:
                self._check_expiry(machine)

    def _check_rising(self, machine: AgentMachine) -> None:
        generation = machine.driver.generation
        if generation <= self._generations.get(machine.name, -1):
            before = self._generations[machine.name]
            self.fail("RISING", f"{machine.name} publishes generation {generation} after {before}")
        self._generations[machine.name] = generation
        for issuer, mark in machine.driver.trust.marks.lists.items():
            self.number(machine.name, issuer, mark.number)
        for reason in ("CRL_EQUIVOCATION", "BUNDLE_EQUIVOCATION", "BUNDLE_ROLLBACK"):
            if reason in machine.driver.record.alarms:
                self.fail("RISING", f"{machine.name} is shown a {reason}")

    def number(self, observer: str, issuer: bytes, number: int) -> None:
        """An observer has a list of this number."""
        before = self._numbers.get((observer, issuer), 0)
        if number < before:
            self.fail("RISING", f"{observer} has CRL number {number} after {before}")
        self._numbers[observer, issuer] = number

    def _check_expiry(self, machine: AgentMachine) -> None:
        """It expired: was there nothing in its way?"""
        present, plan = machine.driver.present, machine.driver.plan
        if present is None or plan.renew_at is None or self._is_barred(machine, present.leaf.serial):
            return
        due = (plan.renew_at - START).total_seconds() - machine.clock.offset
        since = max(due, machine.trouble.quiet_since, machine.link.trouble.quiet_since, self._ca.trouble.quiet_since)
        bound = self._ca.profile.longest.total_seconds() / 20 + SETTLE
        if clock() - since > bound:
            self.fail("ALIVE", f"{machine.name} expired, although the CA was there for it for {clock() - since:.1f} s")

    def _is_barred(self, machine: AgentMachine, serial: int) -> bool:
        """Whether the CA would rightly refuse to renew."""
        try:
            done_at_once(self._ca.disk.ledger.get_entry(machine.spiffe_id))
            return done_at_once(self._ca.disk.ledger.find(serial)).revoked_at is not None
        except HandfastError:
            return True

    # --- the ledger -------------------------------------------------------------------------------------------------

    def records(self) -> list[CertificateRecord]:
        from handfast_ca.ledger import CertificateFilter

        found: list[CertificateRecord] = []
        token = ""
        while True:
            page = done_at_once(self._ca.disk.ledger.list_certificates(CertificateFilter(), limit=500, token=token))
            found += page.items
            token = page.next_token
            if not token:
                return found

    def _check_descendants(self) -> None:
        """No live certificate was renewed from one that is revoked (threat C4)."""
        records = {record.serial: record for record in self.records()}
        for record in records.values():
            parent = records.get(record.parent_serial or 0)
            live = record.revoked_at is None and record.not_after >= self._ca.clock.now()
            if parent is not None and parent.revoked_at is not None and live:
                self.fail("DESCENT", f"{format_serial(record.serial)} lives, and comes from a revoked certificate")

    def check_end(self) -> None:
        """After everything was set right and had time: all is well again, everywhere."""
        for serial in self._received:
            if serial in {record.serial for record in self.records()} or not self._is_old(serial):
                self._check_known(serial)
        self._check_descendants()
        self._check_tokens()
        for serial, revoked in self.revoked.items():
            for machine in self.machines:
                served = machine.served
                assert served is not None
                carried = served.revocations.revoked(revoked.issuer, serial)
                if not carried and not self._is_over(revoked):
                    self._fail_late(machine, serial, "does not know in the end that")

    def _is_old(self, serial: int) -> bool:
        """Retention forgets what expired."""
        return Leaf.parse(self._received[serial]).validity.not_after < self._ca.clock.now()

    def _is_over(self, revoked: _Revoked) -> bool:
        """It expired, and leaves the lists."""
        return revoked.not_after < self._ca.clock.now() + timedelta(seconds=-min(self._ca.clock.offset, 0.0))

    def _check_tokens(self) -> None:
        """By what the CA wrote down about itself (threat B1)."""
        granted: dict[object, int] = {}
        for line in self._ca.audit.records:
            if line["event"] == "enrol" and line.get("decision") == "granted" and not line.get("repeated"):
                granted[line["token_prefix"]] = granted.get(line["token_prefix"], 0) + 1
        for prefix, times in granted.items():
            if times > 1:
                self.fail("ONCE", f"join token {prefix} was redeemed {times} times")


def done_at_once(step: Coroutine[Any, Any, T]) -> T:
    """The result of a step of the memory ledger, which never waits."""
    try:
        step.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise RuntimeError("the step waits")
