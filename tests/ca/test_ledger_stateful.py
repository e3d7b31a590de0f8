"""SQLite does whatever the memory ledger does, step by step (Hypothesis)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from handfast.errors import HandfastError
from handfast.revocation import Reason
from handfast_ca.ledger import CertificateFilter, CrlPlan, Ledger
from handfast_ca.registration import Entry
from handfast_ca.stores.memory import MemoryLedger
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import HOUR, ISSUER, NOW, PAY, WEB, der, digest, intention, presented, token

identities = st.sampled_from([WEB, PAY])
serials = st.integers(1, 6)
reasons = st.sampled_from([Reason.UNSPECIFIED, Reason.KEY_COMPROMISE])
Ask = Callable[[Ledger], Coroutine[Any, Any, Any]]


class Ledgers(RuleBasedStateMachine):
    """Both get the same questions, and must give the same answer or the same reason."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.now = NOW
        self.model: Ledger = MemoryLedger()
        path = Path(self.directory.name) / "ledger.db"
        self.ledger: Ledger = self.loop.run_until_complete(SqliteLedger.open(path, reserve=4096))
        self.plans: list[CrlPlan] = []

    def teardown(self) -> None:
        self.loop.run_until_complete(self.ledger.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.directory.cleanup()

    def both(self, ask: Ask) -> Any:
        answers = [self.loop.run_until_complete(_answer(ask, ledger)) for ledger in (self.model, self.ledger)]
        assert answers[0] == answers[1]
        return answers[0]

    @rule(hours=st.integers(0, 3))
    def wait(self, hours: int) -> None:
        self.now += hours * HOUR + timedelta(seconds=1)

    @rule(who=identities)
    def add_entry(self, who: Any) -> None:
        self.both(lambda ledger: ledger.add_entry(Entry(who)))

    @rule(who=identities)
    def remove_entry(self, who: Any) -> None:
        self.both(lambda ledger: ledger.remove_entry(who))

    @rule(who=identities, name=serials)
    def add_token(self, who: Any, name: int) -> None:
        self.both(lambda ledger: ledger.add_token(token(str(name), who, expires_at=self.now + HOUR)))

    @rule(who=identities, serial=serials, key=serials, proof=serials, kind=st.sampled_from(["token", "leaf", ""]),
          version=st.integers(0, 2), hours=st.integers(1, 4))  # fmt: skip
    def intend(self, who: Any, serial: int, key: int, proof: int, kind: str, version: int, hours: int) -> None:
        asked = intention(
            serial,
            who,
            now=self.now,
            entry_version=version,
            not_after=self.now + hours * HOUR,
            spki_sha256=digest(f"key {key}"),
            request_digest=digest(f"request {key} {proof} {kind}"),
            token_digest=digest(str(proof)) if kind == "token" else None,
            presented=presented(proof, who) if kind == "leaf" else None,
        )
        self.both(lambda ledger: ledger.intend(asked))

    @rule(serial=serials)
    def complete(self, serial: int) -> None:
        self.both(lambda ledger: ledger.complete(serial, ISSUER, der(serial)))

    @rule(serial=serials, reason=reasons)
    def revoke_serial(self, serial: int, reason: Reason) -> None:
        self.both(lambda ledger: ledger.revoke_serial(serial, reason, now=self.now))

    @rule(who=identities, reason=reasons)
    def revoke_identity(self, who: Any, reason: Reason) -> None:
        self.both(lambda ledger: ledger.revoke_identity(who, reason, now=self.now))

    @rule(back=st.integers(0, 3))
    def plan(self, back: int) -> None:
        base = self.plans[-back].number if 0 < back <= len(self.plans) else 0
        made = self.both(lambda ledger: ledger.plan_crl(ISSUER, now=self.now, base=base))
        if isinstance(made, CrlPlan):
            self.plans.append(made)

    @rule(which=st.integers(0, 3))
    def record(self, which: int) -> None:
        if self.plans:
            plan = self.plans[-1 - which % len(self.plans)]
            self.both(lambda ledger: ledger.record_crl(plan, str(plan.number).encode(), self.now + HOUR))

    @rule()
    def forget(self) -> None:
        self.both(lambda ledger: ledger.forget_expired(now=self.now, keep=HOUR))

    @invariant()
    def they_hold_the_same(self) -> None:
        self.both(lambda ledger: ledger.counts(now=self.now))
        self.both(lambda ledger: ledger.list_certificates(CertificateFilter()))
        self.both(lambda ledger: ledger.list_entries())
        self.both(lambda ledger: ledger.latest_crl(ISSUER))


async def _answer(ask: Ask, ledger: Ledger) -> Any:
    try:
        answer = await ask(ledger)
    except HandfastError as error:
        return type(error), error.reason
    return answer


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
