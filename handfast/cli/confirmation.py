"""Who enforces a revocation, as agents and their services report it; and waiting for the last of them."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from handfast.cli.output import Column
from handfast.cli.progress import bar
from handfast.cli.session import TIMEOUT

if TYPE_CHECKING:
    from handfast.wire.v1 import registry_pb2
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["CONFIRMED", "confirmations", "unconfirmed_row", "wait_confirmed", "wait_for"]

LOOK_SECONDS = 0.25
CONFIRMED = [
    Column("confirmed", "confirmed"),
    Column("not confirmed", lambda row: [f"{one['identity']} ({one['kind']})" for one in row["unconfirmed"]]),
    Column("silent", "silent"),
]


def wait_confirmed(stub: RegistryStub, crl_number: str, longest: timedelta) -> registry_pb2.BlastRadius:
    """Until all who report hold the list of this number or a later one, or the time is over."""
    return wait_for(stub, "", crl_number, longest)


def wait_for(stub: RegistryStub, identity: str, crl_number: str, longest: timedelta) -> registry_pb2.BlastRadius:
    """As :func:`wait_confirmed`, and until the identity holds no valid certificate."""
    from handfast.wire.v1 import registry_pb2

    request = registry_pb2.BlastRadiusRequest(spiffe_id=identity, crl_number=crl_number)
    deadline = time.monotonic() + longest.total_seconds()
    with bar("confirmed") as advance:
        while True:
            seen = stub.GetBlastRadius(request, timeout=TIMEOUT)
            advance(seen.confirmed, seen.confirmed + seen.unconfirmed_total)
            if not (seen.unconfirmed_total or seen.certificates_total) or time.monotonic() > deadline:
                return seen
            time.sleep(LOOK_SECONDS)


def confirmations(seen: registry_pb2.BlastRadius) -> dict[str, Any]:
    """``silent``: identities with a live certificate of which nobody reports; they are not waited for."""
    return {
        "crl_number": seen.crl_number,
        "confirmed": seen.confirmed,
        "unconfirmed": [unconfirmed_row(one) for one in seen.unconfirmed],
        "unconfirmed_total": seen.unconfirmed_total,
        "silent": list(seen.silent),
        "silent_total": seen.silent_total,
    }


def unconfirmed_row(one: registry_pb2.Unconfirmed) -> dict[str, str | None]:
    return {"identity": one.spiffe_id, "kind": one.kind, "instance": one.instance, "holds": one.holds or None}
