"""A ledger of many certificates, made fast: through the ledger's own schema, by SQLite itself.

Each row is what a CA leaves behind that has renewed for months: identities with chains of renewals, unexpired and
expired by halves, one in a thousand revoked. The certificate is octets of the size of a real one, which nobody parses here.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

__all__ = ["fill"]

DER_OCTETS = 700
IDENTITIES = 2_000
REVOKED_EVERY = 1_000
DAY = 86_400

INSERT = f"""
INSERT INTO certificates (issuer_key_id, serial, spiffe_id, spki_sha256, request_digest, dns_names, not_before, not_after,
                          obtained_by, der, revoked_at, reason)
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)
SELECT :issuer, CAST(X'00000000' || randomblob(16) AS BLOB), 'spiffe://test.example/service/' || (n % {IDENTITIES}), randomblob(32),
       randomblob(32), '["service.test.example"]', :now - {DAY} * (n % 2) - 3600, :now + {DAY} - {DAY} * (n % 2) * 2,
       'renewal', randomblob({DER_OCTETS}), iif(n % {REVOKED_EVERY}, NULL, :now),
       iif(n % {REVOKED_EVERY}, NULL, 'unspecified')
FROM numbers
"""


def fill(path: Path, rows: int) -> None:
    """Adds ``rows`` certificates of a present issuer to a ledger that no process holds. Indexes are made once, at the end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=OFF").close()
        connection.execute("PRAGMA synchronous=OFF").close()
        (issuer,) = connection.execute("SELECT issuer_key_id FROM issuers").fetchone()
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'certificates' AND sql IS NOT NULL"
        ).fetchall()
        connection.execute("BEGIN")
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        connection.execute(INSERT, {"rows": rows, "issuer": issuer, "now": int(time.time())})
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL").close()
