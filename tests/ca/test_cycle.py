"""Many requests in one group: the nine steps hold for each of them, and none pays for its neighbour."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from cryptography import x509

from handfast.certificates import Leaf, format_serial
from handfast.csr import build_csr
from handfast.errors import Broken, HandfastError, Unavailable
from handfast.keys import generate
from handfast.testing import ManualClock
from handfast_ca.audit import MemoryAudit
from handfast_ca.audit_trail import AuditValue
from handfast_ca.authority import Issued
from handfast_ca.issuer import LocalIssuer
from handfast_ca.ledger import CertificateFilter, CertificateRecord, Completion, Intention
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import DB, NOW, WEB
from tests.ca.test_authority import CEREMONY, Bench

MANY = 20
Diary = list[tuple[str, str]]
"""What was done for which serial, in the order in which it was done."""


class ToldLedger(MemoryLedger):
    """The real ledger; writes into the diary what it did, when it is done."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self.diary = diary
        self.groups: list[int] = []
        self.away = ""

    async def intend_all(self, intentions: Sequence[Intention]) -> Sequence[CertificateRecord | HandfastError | None]:
        self._check("intend")
        outcomes = await super().intend_all(intentions)
        self.groups.append(len(intentions))
        self.diary += [("intended", format_serial(one.serial)) for one in intentions]
        return outcomes

    async def complete_all(self, completions: Sequence[Completion]) -> Sequence[CertificateRecord | HandfastError]:
        self._check("complete")
        outcomes = await super().complete_all(completions)
        self.diary += [("completed", format_serial(one.serial)) for one in completions]
        return outcomes

    def _check(self, step: str) -> None:
        if self.away == step:
            raise Unavailable("the ledger is away", reason="LEDGER_UNAVAILABLE")


class ToldAudit(MemoryAudit):
    def __init__(self, diary: Diary) -> None:
        super().__init__(ManualClock(NOW))
        self.diary = diary
        self.breaks = False

    async def append_all(self, events: Sequence[Mapping[str, AuditValue]]) -> Sequence[int]:
        self.broken = self.breaks
        numbers = await super().append_all(events)
        self.diary += [("recorded", str(event["serial"])) for event in events]
        return numbers


class ToldIssuer(LocalIssuer):
    """The real issuer, whose key is away for every third certificate when it is told so."""

    def __init__(self, diary: Diary) -> None:
        super().__init__(CEREMONY.issuing.certificate, CEREMONY.issuing.key)
        self.diary = diary
        self.signed = 0
        self.fails = False
        self.error: Exception = Unavailable("the key is away", reason="KEY_UNAVAILABLE")

    async def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        self.signed += 1
        if self.fails and self.signed % 3 == 0:
            raise self.error
        certificate = await super().sign(builder)
        self.diary.append(("signed", format_serial(certificate.serial_number)))
        return certificate


class ToldBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.diary: Diary = []
        self.ledger: ToldLedger = ToldLedger(self.diary)
        self.audit: ToldAudit = ToldAudit(self.diary)
        self.issuer = ToldIssuer(self.diary)
        self.again(issuer=self.issuer)

    async def ask(self, csrs: Sequence[bytes]) -> list[Issued | BaseException]:
        """All at once, on an operator's word."""
        asked = (self.authority.sign(WEB, csr, by="admin") for csr in csrs)
        return await asyncio.gather(*asked, return_exceptions=True)

    def lines(self, decision: str) -> list[object]:
        records = [line for line in self.audit.records if line["event"] == "sign" and line["decision"] == decision]
        return [line["serial"] if decision == "granted" else line["reason"] for line in records]


@pytest.fixture
async def bench() -> AsyncIterator[ToldBench]:
    made = ToldBench()
    await made.authority.start()
    await made.authority.add_entry(str(WEB), by="admin")
    made.diary.clear()
    yield made
    await made.authority.close()


def csrs(count: int = MANY) -> list[bytes]:
    return [build_csr(generate()) for _ in range(count)]


async def test_for_each_of_a_group_the_steps_are_taken_in_their_order(bench: ToldBench) -> None:
    """C4, G4, J1: intended before recorded, recorded before signed, completed before answered; and in few groups."""
    answers = await bench.ask(csrs())
    done = defaultdict(list)
    for step, serial in bench.diary:
        done[serial].append(step)
    assert all(isinstance(answer, Issued) for answer in answers)
    assert set(done) == {format_serial(one.record.serial) for one in answers if isinstance(one, Issued)}
    assert all(steps == ["intended", "recorded", "signed", "completed"] for steps in done.values())
    assert bench.ledger.groups[-1] > 1
    assert sorted(bench.lines("granted")) == sorted(done)  # type: ignore[type-var]


async def test_whom_a_step_refuses_costs_its_neighbours_nothing(bench: ToldBench) -> None:
    """A3, A13, G3: one record for each refusal, nothing intended for it, and everybody else has a certificate."""
    good, foreign = csrs(), [build_csr(generate(), spiffe_id=DB) for _ in range(3)]
    answers = await bench.ask([*good[:7], foreign[0], *good[7:], *foreign[1:], b"no request at all"])
    refused = [answer for answer in answers if isinstance(answer, HandfastError)]
    assert sorted(error.reason for error in refused) == ["CSR_MALFORMED", *["NOT_ENTITLED"] * 3]
    assert sorted(bench.lines("refused")) == ["CSR_MALFORMED", *["NOT_ENTITLED"] * 3]  # type: ignore[type-var]
    issued = {one.record.serial for one in answers if isinstance(one, Issued)}
    assert len(issued) == MANY
    assert await bench.serials() == issued


@pytest.mark.parametrize("step", ["intend", "complete"])
async def test_when_the_ledger_is_away_everybody_is_told_and_nothing_leaves(bench: ToldBench, step: str) -> None:
    """J4: before the intention nothing was signed; after it every serial is known, and revoked at the next start."""
    bench.ledger.away = step
    answers = await bench.ask(csrs())
    assert {answer.reason for answer in answers if isinstance(answer, HandfastError)} == {"LEDGER_UNAVAILABLE"}
    assert bench.lines("refused") == ["LEDGER_UNAVAILABLE"] * MANY
    signed = {serial for what, serial in bench.diary if what == "signed"}
    assert len(signed) == (0 if step == "intend" else MANY)
    assert {format_serial(serial) for serial in await bench.serials()} == signed
    await bench.again().start()
    assert bench.crl().serials == await bench.serials()


async def test_when_the_trail_breaks_after_the_intentions_the_key_is_not_touched(bench: ToldBench) -> None:
    """G4."""
    bench.audit.breaks = True
    answers = await bench.ask(csrs())
    assert {answer.reason for answer in answers if isinstance(answer, HandfastError)} == {"AUDIT_UNAVAILABLE"}
    assert [what for what, _ in bench.diary] == ["intended"] * MANY
    assert bench.issuer.signed == 0
    assert all(one.der is None for one in (await bench.authority.list_certificates(CertificateFilter())).items)


@pytest.mark.parametrize("error", [Unavailable("the key is away", reason="KEY_UNAVAILABLE"), RuntimeError("a bug")])
async def test_a_signature_that_fails_is_its_own_request_s_trouble(bench: ToldBench, error: Exception) -> None:
    """J1: what was intended and is not completed never counts."""
    bench.issuer.fails, bench.issuer.error = True, error
    answers = await bench.ask(csrs(9))
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    assert [type(one) for one in failed] == [type(error)] * 3
    issued = {one.record.serial for one in answers if isinstance(one, Issued)}
    completed = {one.serial for one in (await bench.authority.list_certificates(CertificateFilter())).items if one.der}
    assert issued == completed
    assert len(issued) == 6


async def test_callers_that_go_away_find_their_answers_when_they_ask_again(bench: ToldBench) -> None:
    """J1: what was begun is finished."""
    first = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    renewals = [bench.renewal(first) for _ in range(MANY)]
    leaving = [asyncio.ensure_future(bench.authority.renew(one)) for one in renewals]
    while not bench.ledger.groups[1:]:
        await asyncio.sleep(0)
    for one in leaving:
        one.cancel()
    assert all(
        isinstance(left, asyncio.CancelledError) for left in await asyncio.gather(*leaving, return_exceptions=True)
    )
    await bench.authority.close()
    again = await asyncio.gather(*(bench.authority.renew(one) for one in renewals))
    assert all(answer.repeated for answer in again)
    assert len({Leaf.of(answer.chain[0]).serial for answer in again}) == MANY


async def test_a_request_that_was_sent_twice_at_once_is_answered_twice(bench: ToldBench) -> None:
    """A13: neither was answered yet when both were judged, so both are; each serial is known."""
    first = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    renewal = bench.renewal(first)
    one, other = await asyncio.gather(bench.authority.renew(renewal), bench.authority.renew(renewal))
    assert await bench.serials() >= {one.record.serial, other.record.serial}
    assert (await bench.authority.renew(renewal)).repeated


class ForgetfulLedger(ToldLedger):
    """A ledger with a bug: it answers to one less than were asked."""

    async def intend_all(self, intentions: Sequence[Intention]) -> Sequence[CertificateRecord | HandfastError | None]:
        return (await super().intend_all(intentions))[1:]


async def test_nobody_waits_for_ever_for_what_a_bug_lost(bench: ToldBench) -> None:
    bench.ledger = ForgetfulLedger(bench.diary)
    await bench.again(issuer=bench.issuer).start()
    await bench.authority.add_entry(str(WEB), by="admin")
    answers = await asyncio.wait_for(bench.ask(csrs(5)), 60)
    assert all(isinstance(answer, ValueError) for answer in answers)
    assert bench.issuer.signed == 0
    assert Broken not in map(type, answers)
