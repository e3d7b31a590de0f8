"""A hundred thousand revocations: one list, one swap, one message (threat H6). How long it takes is the benchmarks' matter."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.revocation import EMPTY, Freshness, Reason, RevocationList
from handfast.testing import ManualClock
from handfast_ca.audit_trail import MemoryAudit
from handfast_ca.authority import Authority
from handfast_ca.stores.rows import dump_number, epoch
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.core import NOW, TRUST_DOMAIN, WEB, Ceremony

MANY = 100_000
FIRST = 1 << 126
CEREMONY = Ceremony()
pytestmark = pytest.mark.timeout(180)


def fill(path: Path) -> None:
    """Rows as a year of revoking leaves them; the store's own way, one by one, is not what this test is about."""
    row = (CEREMONY.issuer.key_id, str(WEB), b"k" * 32, b"r" * 32, "[]", epoch(NOW), epoch(NOW + timedelta(hours=24)))
    rows = ((dump_number(FIRST + number), *row, epoch(NOW), Reason.KEY_COMPROMISE.value) for number in range(MANY))
    with closing(sqlite3.connect(path)) as ledger, ledger:
        ledger.executemany(
            "INSERT INTO certificates (serial, issuer_key_id, spiffe_id, spki_sha256, request_digest, dns_names,"
            " not_before, not_after, obtained_by, der, revoked_at, reason) VALUES (?,?,?,?,?,?,?,?,'operator',x'30',?,?)",
            rows,
        )


async def test_a_hundred_thousand_revocations_are_one_list_that_everybody_can_hold(tmp_path: Path) -> None:
    """H6: planned, signed, linted, kept and published; the next list carries them all too, and one more."""
    clock = ManualClock(NOW)
    await (await SqliteLedger.open(tmp_path / "ledger.db", reserve=65536)).close()
    fill(tmp_path / "ledger.db")
    ledger = await SqliteLedger.open(tmp_path / "ledger.db", reserve=65536)
    try:
        authority = Authority(
            trust_domain=TRUST_DOMAIN,
            issuer=CEREMONY.issuer,
            bundle=CEREMONY.bundle,
            ledger=ledger,
            audit=MemoryAudit(clock),
            clock=clock,
            root_crls=(CEREMONY.root_crl.public_bytes(Encoding.DER),),
        )
        await authority.start()
        first = authority.trust().crls[CEREMONY.issuer.key_id]
        assert first.serials == frozenset(range(FIRST, FIRST + MANY))
        assert await ledger.latest_crl(CEREMONY.issuer.key_id) == first.der
        clock.advance(timedelta(seconds=5))
        second = await authority.publish_crl()
        assert (second.number, second.serials) == (first.number + 1, first.serials)
        assert second.this_update > first.this_update
        await authority.close()
    finally:
        await ledger.close()
    read = RevocationList.verify(second.der, CEREMONY.bundle, now=clock.now())
    known = EMPTY.with_list(first).announce([(CEREMONY.issuer.key_id, FIRST + 7), (CEREMONY.issuer.key_id, 7)])
    swapped = known.with_list(read)
    assert isinstance(read.serials, frozenset)
    assert all(swapped.revoked(CEREMONY.issuer.key_id, FIRST + number) for number in range(MANY))
    assert not swapped.revoked(CEREMONY.issuer.key_id, FIRST + MANY)
    assert swapped.announced == {(CEREMONY.issuer.key_id, 7)}
    assert swapped.freshness(CEREMONY.issuer.key_id, clock.now()) is Freshness.FRESH
