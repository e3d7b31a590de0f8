"""The next list is made of the one before; what would lose, repeat or invent an entry is not published."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.bundle import TrustBundle
from handfast.certificates import subject_key_id
from handfast.csr import build_csr
from handfast.errors import Broken, Conflict, HandfastError
from handfast.keys import generate
from handfast.revocation import EMPTY, Reason, RevocationList
from handfast_ca.ceremony import make_issuer
from handfast_ca.crl import crl_builder
from handfast_ca.issuer import LocalIssuer, signature_over
from handfast_ca.ledger import CRL_EPOCH, CrlPlan, RevokedEntry
from handfast_ca.stores.memory import MemoryLedger
from handfast_ca.stores.sqlite import SqliteLedger
from tests.bench.revoked import fill
from tests.ca.core import DB, NOW, TRUST_DOMAIN, URLS, WEB
from tests.ca.test_authority import CEREMONY, Bench

KEY_ID = CEREMONY.issuer.key_id


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await started(made)
    yield made
    await made.authority.close()


async def started(bench: Bench) -> None:
    await bench.authority.start()
    await bench.authority.add_entry(str(WEB), by="admin", dns_names=["web.shop.svc"])
    await bench.authority.add_entry(str(DB), by="admin", lifetime=timedelta(hours=1))


async def revoked(bench: Bench, who: Any = WEB) -> int:
    """The serial of a certificate that was issued and revoked."""
    serial = (await bench.authority.sign(who, build_csr(generate()), by="admin")).record.serial
    await bench.authority.revoke_serial(serial, Reason.SUPERSEDED, by="admin")
    return serial


async def refused(bench: Bench, reason: str, kind: type[HandfastError], work: Any) -> None:
    """Refused with its reason and one audit record; the list stays, here and in the ledger; readiness says so."""
    old, kept, lines = bench.crl(), await bench.ledger.latest_crl(KEY_ID), len(bench.audit.records)
    with pytest.raises(kind) as caught:
        await work
    assert caught.value.reason == reason
    assert bench.crl() is old
    assert await bench.ledger.latest_crl(KEY_ID) == kept
    said = [line for line in bench.audit.records[lines:] if line["event"] == "crl" and line["decision"] == "refused"]
    assert [line["reason"] for line in said] == [reason]
    assert any(line.name == "publishing" and line.level == "failed" for line in bench.authority.status())


async def test_whoever_has_the_list_before_makes_the_next_one_of_it(bench: Bench) -> None:
    """H6: as every agent does, from any list of this run, octet for octet."""
    lists = [bench.crl()]
    for _ in range(4):
        await revoked(bench)
        lists.append(bench.crl())
    for known in lists[:-1]:
        steps = bench.authority.feed.history.steps(known.number, lists[-1])
        made = RevocationList.verify(known.der, CEREMONY.bundle, now=NOW).after(steps, CEREMONY.bundle, now=NOW)
        assert (made.der, made.serials) == (lists[-1].der, lists[-1].serials)
    assert len(lists[-1].serials) == 4


async def test_entries_that_expired_leave_their_places_and_the_others_stay_in_order(bench: Bench) -> None:
    """D4 (RFC 5280, 3.3)."""
    first, short, second = await revoked(bench), await revoked(bench, DB), await revoked(bench)
    bench.clock.advance(timedelta(hours=2))
    third = await revoked(bench)
    assert bench.crl().serials == {first, short, second, third}
    fourth = await revoked(bench)
    assert bench.crl().serials == {first, second, third, fourth}
    assert bench.crl().steps[-1].removed == (1,)
    assert RevocationList.verify(bench.crl().der, CEREMONY.bundle, now=bench.clock.now()) == bench.crl()


async def test_a_restarted_ca_goes_on_from_the_list_that_it_kept(bench: Bench) -> None:
    """D1: no agent is sent the whole list because of a restart."""
    serials = {await revoked(bench), await revoked(bench)}
    before = bench.crl()
    await bench.again().start()
    serials.add(await revoked(bench))
    assert bench.crl().serials == serials
    assert bench.authority.feed.history.steps(before.number, bench.crl())


async def test_a_row_that_vanished_is_noticed_by_the_next_revocation(bench: Bench) -> None:
    """D4: the numbers do not agree, so everything is compared; the revocation itself is told and durable all the same."""
    lost = await revoked(bench)
    issued = (await bench.authority.sign(WEB, build_csr(generate()), by="admin")).record.serial
    del bench.ledger._rows[KEY_ID, lost]
    await refused(
        bench, "CRL_ENTRIES_LOST", Broken, bench.authority.revoke_serial(issued, Reason.SUPERSEDED, by="admin")
    )
    assert bench.crl().serials == {lost}
    assert [news.serial for news in bench.authority.trust().announced] == [issued]
    assert (await bench.ledger.find(issued)).revoked_at is not None


async def test_a_row_that_sql_deleted_stops_the_publisher_and_the_old_list_stays(tmp_path: Path) -> None:
    """D4: with the real store, and a hand that goes round it."""
    tmp_path.chmod(0o700)
    bench = Bench()
    ledger = await SqliteLedger.open(tmp_path / "ledger.db", reserve=4096)
    bench.ledger = ledger  # type: ignore[assignment]
    bench.again()
    await started(bench)
    serials = {await revoked(bench), await revoked(bench)}
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as hand:
        hand.execute(
            "DELETE FROM certificates WHERE revoked_at IS NOT NULL AND seq = (SELECT min(seq) FROM certificates)"
        )
        hand.commit()
    await refused(bench, "CRL_ENTRIES_LOST", Broken, bench.authority.publish_crl())
    assert bench.crl().serials == serials
    await bench.again().start()
    assert bench.crl().serials == serials
    await ledger.close()


async def test_one_more_entry_on_a_long_list_is_told_in_a_few_octets(tmp_path: Path) -> None:
    """H6: and the list is the whole truth all the same, whatever is worked at beside the event loop."""
    tmp_path.chmod(0o700)
    await fill(tmp_path / "ledger.db", KEY_ID, 3_000, NOW)
    ledger = await SqliteLedger.open(tmp_path / "ledger.db", reserve=4096)
    bench = Bench()
    bench.ledger = ledger  # type: ignore[assignment]
    bench.again()
    await started(bench)
    serial, before = await revoked(bench), bench.crl()
    assert len(before.serials) == 3_001
    following = await revoked(bench)
    (step,) = bench.crl().steps
    assert len(step.outline) < 600 < len(bench.crl().der) // 100
    read = RevocationList.verify(bench.crl().der, CEREMONY.bundle, now=bench.clock.now())
    assert read.serials == bench.crl().serials == before.serials | {serial, following}
    await ledger.close()


async def test_a_row_that_is_no_longer_marked_revoked_stops_the_publisher(bench: Bench) -> None:
    """C8, D4: nothing un-revokes."""
    lost = await revoked(bench)
    row = bench.ledger._rows[KEY_ID, lost]
    row.record = replace(row.record, revoked_at=None, reason=None)
    await refused(bench, "CRL_ENTRIES_LOST", Broken, bench.authority.publish_crl())
    assert bench.crl().serials == {lost}


class _OtherSignature:
    """The real issuer with a lever: its signature over a list is not one of its own key."""

    def __init__(self) -> None:
        real = CEREMONY.issuer
        self.certificate, self.key_id, self.chain = real.certificate, real.key_id, real.chain
        self.rehearse, self.sign = real.rehearse, real.sign
        self.rehearse_crl, self.sign_crl = real.rehearse_crl, real.sign_crl
        self._other = ec.generate_private_key(ec.SECP256R1())

    async def sign_tbs(self, tbs: bytes) -> bytes:
        return signature_over(self._other, tbs)


async def test_a_list_whose_signature_does_not_verify_is_not_published(bench: Bench) -> None:
    """D5: the CA puts its own list together as an agent does before anybody gets it."""
    serial = await revoked(bench)
    bench.again(issuer=_OtherSignature())
    await bench.authority._parts.publisher.load()
    await refused(bench, "LINT", Broken, bench.authority.publish_crl())
    assert bench.crl().serials == {serial}


async def test_a_publisher_that_was_overtaken_is_stopped_by_the_ledger_and_goes_on_after_that(bench: Bench) -> None:
    """J5: two that plan the same list; the one that comes second publishes nothing, and takes the other's up."""
    serial = await revoked(bench)
    bench.ledger = overtaken = _Overtaken(bench.ledger)
    bench.again()
    await bench.authority.start()
    overtaken.by_another = True
    await refused_by_fence(bench)
    assert (await bench.authority.publish_crl()).serials == {serial}


class _Overtaken(MemoryLedger):
    """The real ledger with a lever: another process records a list between our plan and our record."""

    by_another = False

    def __init__(self, real: MemoryLedger) -> None:
        super().__init__()
        self.__dict__.update(real.__dict__)

    async def record_crl(self, plan: CrlPlan, der: bytes, next_update: Any) -> None:
        if self.by_another:
            self.by_another = False
            other = await super().plan_crl(plan.issuer_key_id, now=NOW + timedelta(seconds=1))
            builder = crl_builder(other, CEREMONY.issuing.certificate, timedelta(hours=12))
            crl = await CEREMONY.issuer.sign_crl(builder)
            await super().record_crl(other, crl.public_bytes(Encoding.DER), next_update)
        await super().record_crl(plan, der, next_update)


async def refused_by_fence(bench: Bench) -> None:
    old = bench.crl()
    with pytest.raises(Conflict) as caught:
        await bench.authority.publish_crl()
    assert caught.value.reason == "CRL_OUT_OF_TURN"
    assert bench.crl() is old


async def test_lists_of_a_new_epoch_follow_those_of_the_old_one(bench: Bench) -> None:
    """J9, D1: agents that saw the old numbers take the new ones, and never the old ones again."""
    serial, before = await revoked(bench), bench.crl()
    await bench.ledger.raise_mark(CRL_EPOCH, 7)
    await bench.again().start()
    assert bench.crl().number == (7 << 64) + 1
    assert bench.crl().serials == {serial}
    assert before.check_successor(bench.crl())
    with pytest.raises(HandfastError) as caught:
        bench.crl().check_successor(before)
    assert caught.value.reason == "CRL_ROLLBACK"
    assert "number 7:1 of" in caught.value.message


async def test_the_list_of_one_issuing_ca_never_answers_for_another() -> None:
    """J7: each issuing key has a name of its own (RFC 5280, 5), and a list counts for the key that signed it."""
    other = make_issuer(CEREMONY.root, TRUST_DOMAIN, now=NOW, urls=URLS)
    assert other.certificate.subject != CEREMONY.issuing.certificate.subject
    issuers = (CEREMONY.issuing.certificate, other.certificate)
    bundle = TrustBundle(TRUST_DOMAIN, (CEREMONY.root.certificate,), issuers, sequence=2)
    plan = CrlPlan(KEY_ID, 1, NOW, (RevokedEntry(5, NOW, Reason.SUPERSEDED),))
    signed = await CEREMONY.issuer.sign_crl(crl_builder(plan, CEREMONY.issuing.certificate, timedelta(hours=12)))
    known = EMPTY.with_list(RevocationList.verify(signed.public_bytes(Encoding.DER), bundle, now=NOW))
    assert known.revoked(KEY_ID, 5)
    assert not known.revoked(subject_key_id(other.certificate) or b"", 5)
    foreign = crl_builder(plan, other.certificate, timedelta(hours=12))
    mixed = await LocalIssuer(CEREMONY.issuing.certificate, CEREMONY.issuing.key).sign_crl(foreign)
    with pytest.raises(HandfastError) as caught:
        RevocationList.verify(mixed.public_bytes(Encoding.DER), bundle, now=NOW)
    assert caught.value.reason == "CRL_FOREIGN_ISSUER"
