"""What the core does when one of its parts says no at the wrong moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from handfast.clock import SystemClock, from_epoch, to_epoch
from handfast.csr import build_csr
from handfast.errors import Broken, Exhausted, Refused, Unavailable
from handfast.keys import generate
from handfast.revocation import Reason
from handfast_ca.audit_check import verify_audit
from handfast_ca.audit_trail import AuditValue, Chain, MemoryAudit
from handfast_ca.crl import check_departures
from handfast_ca.ledger import CertificateRecord, Intention
from handfast_ca.registration import Entry
from handfast_ca.stores.memory import MemoryLedger
from tests.ca.core import DB, NOW, WEB
from tests.ca.test_authority import CEREMONY, Bench, refused


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.authority.start()
    await made.authority.add_entry(str(WEB), by="admin", ip_addresses=["10.0.0.7"])
    yield made
    await made.authority.close()


class Choosy(MemoryAudit):
    """The real trail with a lever: it cannot write lines about one kind of event."""

    lost = ""

    async def append(self, event: Mapping[str, AuditValue], *, essential: bool = False) -> int:
        if event["event"] == self.lost:
            raise Unavailable("the audit trail cannot be written", reason="AUDIT_UNAVAILABLE")
        return await super().append(event, essential=essential)


async def test_a_revocation_without_its_line_is_told_to_everybody_and_to_the_operator_as_incomplete(
    bench: Bench,
) -> None:
    """J4, C5: it is on the list; the error says what is missing, and saying it again writes it."""
    bench.audit = audit = Choosy(bench.clock)
    await bench.again().start()
    issued = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    audit.lost = "revoke"
    with pytest.raises(Broken) as caught:
        await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    assert "revoked and told" in caught.value.message
    assert bench.crl().serials == {issued.record.serial}
    audit.lost = ""
    again = await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    assert again.repeated
    assert [line["event"] for line in audit.records].count("revoke") == 1


async def test_a_clock_that_stands_still_has_room_for_thirty_lists_and_then_a_clear_no() -> None:
    """D3: never one in the future, never two of one second; the last one stays."""

    async def stand(_seconds: float) -> None:
        await asyncio.sleep(0)

    bench = Bench(sleep=stand)
    await bench.authority.start()
    published = [bench.crl()]
    with pytest.raises(Exhausted) as caught:
        for _ in range(40):
            published.append(await bench.authority.publish_crl())
    assert caught.value.reason == "CRL_TOO_SOON"
    assert caught.value.retry_after
    assert len(published) == 31
    assert len({crl.this_update for crl in published}) == 31
    assert max(crl.this_update for crl in published) == NOW
    assert bench.crl() is published[-1]
    bench.clock.advance(timedelta(seconds=1))
    assert (await bench.authority.publish_crl()).number > published[-1].number


async def test_a_thousand_revocations_in_one_second_are_all_effective_on_few_lists(bench: Bench) -> None:
    """D3."""
    issued = [await bench.authority.sign(WEB, build_csr(generate()), by="admin") for _ in range(1000)]
    before = bench.crl().number
    done = await asyncio.gather(
        *(bench.authority.revoke_serial(one.record.serial, Reason.UNSPECIFIED, by="admin") for one in issued)
    )
    assert bench.crl().serials == {one.record.serial for one in issued}
    assert bench.crl().number - before <= 5
    assert {one.crl_number for one in done} <= set(range(before + 1, bench.crl().number + 1))
    assert bench.crl().this_update <= bench.clock.now()


async def test_the_list_that_is_published_already_is_no_news(bench: Bench) -> None:
    revision = bench.authority.trust().revision
    bench.authority.feed.publish(bench.crl())
    assert bench.authority.trust().revision == revision


async def test_an_older_list_is_not_published(bench: Bench) -> None:
    """D1: not even by the CA itself."""
    old = bench.crl()
    newest = await bench.authority.publish_crl()
    with pytest.raises(Refused) as caught:
        bench.authority.feed.publish(old)
    assert caught.value.reason == "CRL_ROLLBACK"
    assert bench.crl() is newest


class Restless(MemoryLedger):
    """The real ledger with a lever: the entry changes between each look and each intention."""

    async def intend(self, intention: Intention) -> CertificateRecord | None:
        await self.remove_entry(intention.spiffe_id)
        await self.add_entry(Entry(intention.spiffe_id))
        return await super().intend(intention)


async def test_an_entry_that_never_stands_still_ends_in_a_refusal_and_not_in_a_loop() -> None:
    """C4: after four looks; nothing is stored, and one line says why."""
    bench = Bench()
    bench.ledger = Restless()
    await bench.again().start()
    await bench.ledger.add_entry(Entry(WEB))
    await refused(bench, Refused, "ENTRY_CHANGED", lambda: bench.authority.sign(WEB, build_csr(generate()), by="admin"))


async def test_an_address_that_the_entry_gives_may_stand_in_a_request(bench: Bench) -> None:
    """A6: the bound, from the other side."""
    csr = build_csr(generate(), ip_addresses=[ip_address("10.0.0.7")])
    assert (await bench.authority.sign(WEB, csr, by="admin")).record.spiffe_id == WEB


async def test_a_certificate_that_lives_on_may_not_leave_the_list(bench: Bench) -> None:
    """D4: the ledger knows it, and it has not expired."""
    issued = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
    await bench.authority.revoke_serial(issued.record.serial, Reason.UNSPECIFIED, by="admin")
    with pytest.raises(Broken) as caught:
        check_departures(bench.crl(), [issued.record.serial], [issued.record])
    assert caught.value.reason == "CRL_ENTRIES_LOST"
    long_gone = replace(issued.record, not_after=bench.crl().this_update - timedelta(seconds=1))
    check_departures(bench.crl(), [issued.record.serial], [long_gone])


async def test_an_identity_without_entry_and_certificate_has_nothing_to_revoke(bench: Bench) -> None:
    await bench.authority.add_entry(str(DB), by="admin")
    done = await bench.authority.revoke_identity(DB, Reason.UNSPECIFIED, by="admin")
    assert done.serials == ()
    assert bench.crl().serials == frozenset()
    assert CEREMONY.issuer.key_id in bench.authority.trust().crls


# --- the trail, read by a stranger -------------------------------------------------------------------------------------


def trail(tmp_path: Path, lines: list[bytes], head: bytes | None) -> Path:
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b"".join(lines))
    if head is not None:
        (tmp_path / "audit.jsonl.head").write_bytes(head)
    return file


def written() -> tuple[list[bytes], str]:
    lines, position = Chain(SystemClock(), boot="boot").lines([{"event": "enrol", "decision": "granted"}] * 4)
    return lines, position.hash


def test_a_head_that_remembers_another_line_than_the_one_that_stands_there_tells(tmp_path: Path) -> None:
    """G3: the whole trail was written anew, rightly chained, and the head was forgotten."""
    lines, _ = written()
    file = trail(tmp_path, lines, b'{"seq": 3, "hash": "%s"}' % (b"0" * 64))
    (problem,) = verify_audit(file).problems
    assert (problem.line, problem.reason) == (3, "CHANGED")


@pytest.mark.parametrize("head", [None, b"", b"rubbish", b"[]", b'{"seq": "x", "hash": 1}'])
def test_a_trail_whose_head_is_gone_or_rubbish_says_so(tmp_path: Path, head: bytes | None) -> None:
    """G3."""
    lines, _ = written()
    (problem,) = verify_audit(trail(tmp_path, lines, head)).problems
    assert (problem.line, problem.reason) == (4, "HEAD_MISSING")


@pytest.mark.parametrize("stranger", [b"no line of ours\n", b"{}\n", b"\n", b'{"seq":2,"hash":"%s"}\n' % (b"0" * 64)])
def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path, stranger: bytes) -> None:
    """G3: by its number in the file, and what follows is still read."""
    lines, last = written()
    file = trail(tmp_path, [lines[0], stranger, *lines[2:]], b'{"seq": 4, "hash": "%s"}' % last.encode())
    report = verify_audit(file)
    assert [(problem.line, problem.reason) for problem in report.problems] == [(2, "CHANGED")]
    assert report.lines == 4


def test_a_line_that_stands_twice_is_named(tmp_path: Path) -> None:
    """G3."""
    lines, last = written()
    file = trail(tmp_path, [*lines[:2], lines[1], *lines[2:]], b'{"seq": 4, "hash": "%s"}' % last.encode())
    assert (verify_audit(file).problems[0].line, verify_audit(file).problems[0].reason) == (3, "MOVED")


def test_an_empty_trail_is_whole_and_one_of_which_all_was_taken_is_not(tmp_path: Path) -> None:
    """G3."""
    assert verify_audit(trail(tmp_path, [], None)).intact
    report = verify_audit(trail(tmp_path, [], b'{"seq": 4, "hash": "%s"}' % (b"0" * 64)))
    assert [problem.reason for problem in report.problems] == ["CUT_OFF"]


def test_a_time_without_a_zone_is_a_fault_of_ours_and_not_guessed() -> None:
    """G5: nothing is stored in local time."""
    with pytest.raises(ValueError, match="no time zone"):
        to_epoch(datetime(2026, 1, 1))
    assert from_epoch(to_epoch(NOW)) == NOW
