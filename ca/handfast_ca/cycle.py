"""The nine steps of ``docs/issuance-cycle.md``, taken for a group of requests at a time.

Whoever asks while others are served waits for the next group (:mod:`handfast_ca.grouping`). Each step is taken for the whole
group before the next one begins: many share one transaction of intentions, one sync of the audit trail and one transaction
of completions, and what was just run is run again while it is warm. Nobody is ahead of the group, so the order of the
steps holds for each certificate::

    put ─▶ 1 prove ─▶ 3 read, 4 admit ─▶ 2+5 redeem, intend ─▶ 6 build, lint ─▶ 7 record, sign ─▶ 8 complete ─▶ answer
     ▲        │             │                    │                   │                │                │
     └─again──│─────────────┴────────────────────┤                   │                │                │
              └────────▶ refused, with a line of its own in the audit trail ◀─────────┴────────────────┘

Whom a step refuses leaves the group there; the neighbours go on. Steps 3 and 4 are :mod:`handfast_ca.planning`'s, 6 and 7
:mod:`handfast_ca.minting`'s. Here is their order.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from cryptography import x509

from handfast.certificates import format_serial
from handfast.errors import Conflict, HandfastError, Refused
from handfast.lifetime import RenewalWindow, Validity, renewal_window
from handfast_ca.audit_trail import AuditLog, AuditValue, write_refusal
from handfast_ca.enrolment import Application
from handfast_ca.entries import Entries
from handfast_ca.feed import Feed, TrustState
from handfast_ca.grouping import Groups
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import CertificateBook, CertificateRecord, Completion
from handfast_ca.minting import Mint, Rehearsed, Signed
from handfast_ca.planning import Planned, Planner
from handfast_ca.quarantine import Quarantine
from handfast_ca.template import LeafPlan
from handfast_ca.timekeeper import Timekeeper

__all__ = ["Cycle", "Facts", "Issued", "Prove"]

Facts = dict[str, AuditValue]
Prove = Callable[[], Application]
"""Step 1: whose request it is, and what proves that; or the refusal."""
A = TypeVar("A")
T = TypeVar("T")

ATTEMPTS = 4
"""An entry that changed under our hands, or a serial that exists already, costs another round: at most so many."""


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer: what the agent needs, and what the ledger keeps. ``repeated``: this request was answered before."""

    chain: tuple[x509.Certificate, ...]
    record: CertificateRecord
    trust: TrustState
    renewal: RenewalWindow
    repeated: bool


@dataclass(slots=True, eq=False)
class _Case:
    """One request on its way. ``facts`` is what its line in the audit trail will say."""

    prove: Prove
    facts: Facts
    answer: asyncio.Future[Issued]
    attempt: int = 1
    application: Application | None = None
    from_cache: bool = False


_Going = list[tuple[_Case, T]]
"""Those who are still in the group, each with what the last step made of it."""


class Cycle:
    """Used from one event loop. What was begun is finished, whether or not somebody still waits for the answer."""

    def __init__(
        self,
        *,
        issuer: Issuer,
        planner: Planner,
        mint: Mint,
        entries: Entries,
        ledger: CertificateBook,
        audit: AuditLog,
        feed: Feed,
        time: Timekeeper,
        quarantine: Quarantine,
    ) -> None:
        self._issuer = issuer
        self._planner = planner
        self._mint = mint
        self._entries = entries
        self._ledger = ledger
        self._audit = audit
        self._feed = feed
        self._time = time
        self._quarantine = quarantine
        self._groups = Groups(self._take)
        self._leaving: set[asyncio.Task[None]] = set()

    def decide(self, prove: Prove, facts: Facts) -> asyncio.Future[Issued]:
        """The answer to come, or the refusal, whose line is durable by then. Cancelling it stops nothing."""
        answer: asyncio.Future[Issued] = asyncio.get_running_loop().create_future()
        self._groups.put(_Case(prove, facts, answer))
        return answer

    async def answer_again(self, record: CertificateRecord, facts: Facts) -> Issued:
        """The first answer was lost. The same one again, and nothing new."""
        assert record.der is not None
        line = facts | {"decision": "granted", "repeated": True, "serial": format_serial(record.serial)}
        await self._audit.append(line | {"spiffe_id": str(record.spiffe_id)})
        certificate = x509.load_der_x509_certificate(record.der)
        issuer = self._feed.state.bundle.issuer(record.issuer_key_id)
        above = self._issuer.chain if issuer is None or issuer == self._issuer.certificate else (issuer,)
        validity = Validity(record.not_before, record.not_after)
        return Issued((certificate, *above), record, self._feed.state, renewal_window(validity), repeated=True)

    async def close(self) -> None:
        """Waits for the decisions that are being made."""
        while self._groups.busy or self._leaving:
            await self._groups.idle()
            await asyncio.gather(*self._leaving)

    # --- the steps, each for the whole group ------------------------------------------------------------------------

    async def _take(self, cases: Sequence[_Case]) -> None:
        """Steps catch what can go wrong in them; what goes wrong between them is a bug, and nobody waits for ever for it."""
        stopped = await _caught(self._steps(cases))
        if isinstance(stopped, Exception):
            for case in cases:
                _tell(case, stopped)

    async def _steps(self, cases: Sequence[_Case]) -> None:
        now = await _caught(self._now())
        if isinstance(now, Exception):
            self._sift(cases, [now] * len(cases))
            return
        planned = self._sift(cases, [await _caught(self._plan(case, now)) for case in cases], again=True)
        intended = await self._intend(planned)
        rehearsed = self._sift(_cases(intended), [self._rehearse(one) for _, one in intended])
        await self._complete(await self._sign(rehearsed))

    async def _now(self) -> datetime:
        """The time for all of them. Nothing is begun while the trail can't be written or the clock can't be right."""
        await self._audit.check()
        return await self._time.now()

    async def _plan(self, case: _Case, now: datetime) -> Planned:
        # 1. The caller proves who it is.
        application = case.application = case.prove()
        case.facts |= _asked(application)
        if application.obtained_by != "internal":
            self._quarantine.check()
        entry, case.from_cache = await self._entries.get(application.spiffe_id)
        # 3. The CSR proves possession of the key. 4. Admission decides.
        return self._planner.plan(application, entry, now)

    async def _intend(self, planned: _Going[Planned]) -> _Going[Planned]:
        """2 and 5. The ledger redeems the proofs and records the intentions, in one transaction."""
        answers = await _each(self._ledger.intend_all, [one.intention for _, one in planned])
        outcomes: list[Planned | CertificateRecord | Exception] = [
            one if answer is None else answer for (_, one), answer in zip(planned, answers, strict=True)
        ]
        going: _Going[Planned | CertificateRecord] = self._sift(_cases(planned), outcomes, again=True)
        accepted: _Going[Planned] = []
        for case, outcome in going:
            if isinstance(outcome, Planned):
                accepted.append((case, outcome))
            else:
                self._in_background(self._repeat(case, outcome))
        return accepted

    def _rehearse(self, planned: Planned) -> Rehearsed | Exception:
        """6. The template builds, a throw-away key signs, the lint reads."""
        try:
            return self._mint.rehearse(planned.leaf)
        except Exception as error:  # noqa: BLE001 - a fault in one is not its neighbours'
            return error

    async def _sign(self, rehearsed: _Going[Rehearsed]) -> _Going[Signed]:
        """7. The audit records are durable; the issuing key signs; what it signed is what was linted."""
        written = await _each(self._audit.append_all, [case.facts | _granted(one.plan) for case, one in rehearsed])
        outcomes = [
            answer if isinstance(answer, Exception) else one
            for (_, one), answer in zip(rehearsed, written, strict=True)
        ]
        going = self._sift(_cases(rehearsed), outcomes)
        signing = [_caught(self._mint.sign(one)) for _, one in going]
        return self._sift(_cases(going), await asyncio.gather(*signing))

    async def _complete(self, signed: _Going[Signed]) -> None:
        """8. The ledger completes the records. Only now do the answers leave."""
        key_id = self._issuer.key_id
        done = [Completion(one.plan.serial, key_id, one.der) for _, one in signed]
        answers = await _each(self._ledger.complete_all, done)
        outcomes = [
            answer if isinstance(answer, Exception) else self._issued(one, answer)
            for (_, one), answer in zip(signed, answers, strict=True)
        ]
        for case, issued in self._sift(_cases(signed), outcomes):
            _tell(case, issued)

    def _issued(self, signed: Signed, record: CertificateRecord) -> Issued:
        # 9. The agent checks what it got against what it asked for.
        chain = (signed.certificate, *self._issuer.chain)
        return Issued(chain, record, self._feed.state, renewal_window(signed.plan.validity), repeated=False)

    # --- those who leave the group ----------------------------------------------------------------------------------

    def _sift(self, cases: Iterable[_Case], outcomes: Iterable[T | Exception], *, again: bool = False) -> _Going[T]:
        """Those who go on. ``again``: nothing was recorded yet, so that a refused request may go round once more."""
        going: _Going[T] = []
        for case, outcome in zip(cases, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                going.append((case, outcome))
            elif not (again and self._goes_round(case, outcome)):
                self._in_background(self._refuse(case, outcome))
        return going

    def _goes_round(self, case: _Case, refusal: Exception) -> bool:
        """2. The entry may have changed since it was read, or the serial may exist: policy is judged again."""
        if not isinstance(refusal, Refused | Conflict) or case.application is None or case.attempt == ATTEMPTS:
            return False
        if not (case.from_cache or refusal.reason in ("ENTRY_CHANGED", "SERIAL_EXISTS")):
            return False
        self._entries.forget(case.application.spiffe_id)
        case.attempt += 1
        self._groups.put(case)
        return True

    async def _refuse(self, case: _Case, error: Exception) -> None:
        """Its line is durable before the caller hears of it. A bug has none: nothing was decided."""
        if isinstance(error, HandfastError):
            failed = await _caught(write_refusal(self._audit, case.facts, error))
            error = failed if isinstance(failed, Exception) else error
        _tell(case, error)

    async def _repeat(self, case: _Case, record: CertificateRecord) -> None:
        outcome = await _caught(self.answer_again(record, case.facts))
        if isinstance(outcome, Exception):
            await self._refuse(case, outcome)
        else:
            _tell(case, outcome)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _asked(application: Application) -> Facts:
    return {
        "spiffe_id": str(application.spiffe_id),
        "obtained_by": application.obtained_by,
        "csr_sha256": hashlib.sha256(application.csr).hexdigest(),
    }


def _granted(plan: LeafPlan) -> Facts:
    return {
        "decision": "granted",
        "serial": format_serial(plan.serial),
        "dns_names": plan.admitted.dns_names,
        "not_before": plan.validity.not_before.isoformat(),
        "not_after": plan.validity.not_after.isoformat(),
        "public_key_sha256": plan.admitted.spki_sha256.hex(),
    }


def _cases(going: _Going[T]) -> list[_Case]:
    return [case for case, _ in going]


def _tell(case: _Case, outcome: Issued | Exception) -> None:
    """Who went away hears nothing; asking again finds the answer."""
    if case.answer.done():
        return
    if isinstance(outcome, Exception):
        case.answer.set_exception(outcome)
    else:
        case.answer.set_result(outcome)


async def _caught(work: Awaitable[T]) -> T | Exception:
    """What it raises is an outcome like any other: a fault in one request is not its neighbours'."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - told to whoever asked, and to nobody else
        return error


async def _each(
    ask: Callable[[Sequence[A]], Awaitable[Sequence[T | HandfastError]]], asked: Sequence[A]
) -> Sequence[T | Exception]:
    """The answer to each; what stops all of them is the answer to each. Nobody is asked for nothing."""
    if not asked:
        return ()
    answers = await _caught(ask(asked))
    return [answers] * len(asked) if isinstance(answers, Exception) else answers
