"""A ledger with many revocations in it, as if a CA had made them."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert

from handfast_ca.stores.database import open_writer
from handfast_ca.stores.rows import dump_number
from handfast_ca.stores.schema import certificates
from handfast_ca.stores.sqlite import SqliteLedger

__all__ = ["fill"]


async def fill(path: Path, issuer_key_id: bytes, revoked: int, at: datetime | None = None) -> None:
    """So many certificates of one issuer, revoked now or ``at`` another time, unexpired for a day."""
    await (await SqliteLedger.open(path)).close()
    now = int((at or datetime.now(UTC)).timestamp())
    until = now + int(timedelta(days=1).total_seconds())
    rows = [
        {
            "issuer_key_id": issuer_key_id,
            "serial": dump_number(secrets.randbits(127) | 1),
            "spiffe_id": f"spiffe://demo.example/many/{number}",
            "spki_sha256": secrets.token_bytes(32),
            "request_digest": secrets.token_bytes(32),
            "dns_names": "[]",
            "not_before": now - 60,
            "not_after": until,
            "obtained_by": "operator",
            "der": b"-",
            "revoked_at": now,
            "reason": "unspecified",
        }
        for number in range(revoked)
    ]
    engine = open_writer(path)
    try:
        with engine.begin() as connection:
            if rows:
                connection.execute(insert(certificates), rows)
    finally:
        engine.dispose()
