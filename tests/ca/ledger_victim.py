"""A process that lives to be killed: issues, revokes and plans CRLs, and says on stdout what was reported durable."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from datetime import timedelta

from handfast.revocation import Reason
from handfast_ca.registration import Entry
from handfast_ca.stores.sqlite import SqliteLedger
from tests.ca.ledger_contract import ISSUER, NOW, SECOND, WEB, der, digest, intention, token


def say(what: str, number: int) -> None:
    """One write of one line: a kill leaves all of it or nothing."""
    os.write(sys.stdout.fileno(), f"{what} {number}\n".encode())


async def issue_forever(ledger: SqliteLedger, serials: itertools.count[int], version: int) -> None:
    for serial in serials:
        name = f"token {serial}"
        await ledger.add_token(token(name))
        await ledger.intend(intention(serial, token_digest=digest(name), entry_version=version))
        await ledger.complete(serial, ISSUER, der(serial))
        say("issued", serial)
        if serial % 7 == 0:
            await ledger.revoke_serial(serial, Reason.UNSPECIFIED, now=NOW)
            say("revoked", serial)


async def plan_forever(ledger: SqliteLedger) -> None:
    for step in itertools.count():
        say("crl", (await ledger.plan_crl(ISSUER, now=NOW + timedelta(days=1) + step * SECOND)).number)


async def main(path: str, first: int) -> None:
    ledger = await SqliteLedger.open(path, reserve=65536)
    version = (await ledger.add_entry(Entry(WEB))).version
    serials = itertools.count(first)
    say("ready", 0)
    await asyncio.gather(plan_forever(ledger), *(issue_forever(ledger, serials, version) for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
