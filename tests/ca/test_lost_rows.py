"""Somebody deletes revoked rows behind the CA's back, in the file itself (threat D4)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from handfast.csr import build_csr
from handfast.errors import Broken
from handfast.keys import generate
from handfast.revocation import Reason
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.core import WEB
from tests.ca.test_authority import Bench


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM certificates WHERE revoked_at IS NOT NULL",
        "UPDATE certificates SET revoked_at = NULL, reason = NULL",
    ],
    ids=["row deleted", "revocation taken back"],
)
async def test_a_revocation_that_left_the_file_stops_the_next_list_and_the_old_one_stays(
    tmp_path: Path, statement: str
) -> None:
    """D4, C8: refused, alarmed, not signed; also by the next process."""
    bench = Bench()
    bench.ledger = await SqliteLedger.open(tmp_path / "ledger.db", reserve=65536)  # type: ignore[assignment]
    try:
        await bench.again().start()
        await bench.authority.add_entry(str(WEB), by="admin")
        issued = await bench.authority.sign(WEB, build_csr(generate()), by="admin")
        await bench.authority.revoke_serial(issued.record.serial, Reason.KEY_COMPROMISE, by="admin")
        old = bench.crl()
        assert old.serials == {issued.record.serial}
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as stranger, stranger:
            stranger.execute(statement)
        for _ in range(2):
            lines = len(bench.audit.raw)
            with pytest.raises(Broken) as caught:
                await bench.authority.publish_crl()
            assert caught.value.reason == "CRL_ENTRIES_LOST"
            assert bench.crl().der == old.der
            assert [line["reason"] for line in bench.audit.records[lines:]] == ["CRL_ENTRIES_LOST"]
            assert any(line.name == "publishing" and line.level == "failed" for line in bench.authority.status())
            await bench.authority.close()
            await bench.again().start()
    finally:
        await bench.authority.close()
        await bench.ledger.close()
