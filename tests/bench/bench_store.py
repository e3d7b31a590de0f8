"""The ledger at 64 in flight: certificates a second and CPU for each, beside raw ``sqlite3.executemany`` in the same run.

``python -m tests.bench.bench_store`` prints a table. One certificate is an intention and its completion.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast_ca.ledger import Intention
from handfast_ca.registration import Entry
from handfast_ca.stores.sqlite import SqliteLedger
from tests.bench.report import report

WEB = SpiffeId.parse("spiffe://test.example/web")
IN_FLIGHT = 64
DER = os.urandom(700)
ISSUER = os.urandom(20)


def wanted(now: datetime) -> Intention:
    return Intention(
        serial=int.from_bytes(os.urandom(15), "big"),
        issuer_key_id=ISSUER,
        spiffe_id=WEB,
        spki_sha256=os.urandom(32),
        request_digest=os.urandom(32),
        dns_names=("web.test.example",),
        not_before=now,
        not_after=now + timedelta(hours=24),
        obtained_by="operator:bench",
        entry_version=1,
        now=now,
    )


async def ledger_run(path: Path, certificates: int) -> dict[str, float]:
    ledger = await SqliteLedger.open(path)
    await ledger.add_entry(Entry(WEB))
    now = datetime.now(UTC)
    intentions = iter([wanted(now) for _ in range(certificates)])

    async def caller() -> None:
        for intention in intentions:
            await ledger.intend(intention)
            await ledger.complete(intention.serial, ISSUER, DER)

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    taken, used = time.perf_counter() - begin, time.process_time() - cpu
    await ledger.revoke_identity(WEB, Reason.UNSPECIFIED, now=now)
    await ledger.close()
    return {"per_second": certificates / taken, "cpu_us": used / certificates * 1e6}


def raw_run(path: Path, certificates: int) -> dict[str, float]:
    rows = [(os.urandom(20), os.urandom(32), os.urandom(32), DER) for _ in range(certificates)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE c (seq INTEGER PRIMARY KEY, serial BLOB UNIQUE, k BLOB, r BLOB, der BLOB)")
        begin, cpu = time.perf_counter(), time.process_time()
        for first in range(0, certificates, IN_FLIGHT):
            batch = rows[first : first + IN_FLIGHT]
            for statement, values in (
                ("INSERT INTO c (serial, k, r) VALUES (?, ?, ?)", [row[:3] for row in batch]),
                ("UPDATE c SET der = ? WHERE serial = ?", [(row[3], row[0]) for row in batch]),
            ):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statement, values)
                connection.execute("COMMIT")
        taken, used = time.perf_counter() - begin, time.process_time() - cpu
    return {"per_second": certificates / taken, "cpu_us": used / certificates * 1e6}


def main(certificates: int = 10_000) -> None:
    with TemporaryDirectory() as directory:
        ours = asyncio.run(ledger_run(Path(directory) / "ledger.db", certificates))
        raw = raw_run(Path(directory) / "raw.db", certificates)
    report(
        "store",
        [
            {
                "what": "intend + complete, 64 in flight",
                "value": ours["per_second"],
                "unit": "1/s",
                "baseline": raw["per_second"],
                "ratio": ours["per_second"] / raw["per_second"],
                "goal": "at least 3000/s",
                "met": ours["per_second"] >= 3000,
            },
            {
                "what": "CPU for one certificate",
                "value": ours["cpu_us"],
                "unit": "us",
                "baseline": raw["cpu_us"],
                "ratio": ours["cpu_us"] / raw["cpu_us"],
                "goal": "at most 80 us",
                "met": ours["cpu_us"] <= 80,
            },
        ],
    )


if __name__ == "__main__":
    main()
