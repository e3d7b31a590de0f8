"""``handfast revoke``: returns when the revocation is durable and the CRL that proves it is signed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from handfast.certificates import format_serial, parse_serial
from handfast.cli.crl import shown_number
from handfast.cli.output import Column, emit_one, note, output_option, shown_time
from handfast.cli.session import TIMEOUT, registry
from handfast.revocation import Reason

if TYPE_CHECKING:
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["revoke"]

COLUMNS = [
    Column("serials", "serials"),
    Column("revoked", "revoked_at"),
    Column("reason", "reason"),
    Column("CRL number", lambda row: shown_number(row["crl_number"])),
    Column("told watchers", "watchers"),
]


@click.command()
@click.argument("target", metavar="SERIAL|SPIFFE_ID")
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in Reason]),
    default=Reason.UNSPECIFIED.value,
    show_default=True,
    help="key-compromise also blocks the public key for every identity.",
)
@output_option
@click.pass_context
def revoke(ctx: click.Context, target: str, reason: str, output: str) -> None:
    """Revoke one certificate, or everything that an identity holds.

    With a SPIFFE ID it also stops every renewal, and the join tokens that wait. There is no way back: a revoked
    identity needs a new join token. Saying it twice is no error.
    """
    from handfast.wire.codec import time_from_wire
    from handfast.wire.v1 import registry_pb2

    request = registry_pb2.RevokeRequest(reason=reason)
    if target.startswith("spiffe:"):
        request.spiffe_id = target
    else:
        request.serial = format_serial(parse_serial(target))
    with registry(ctx) as stub:
        done = stub.Revoke(request, timeout=TIMEOUT)
        told = _first_reason(stub, done.serials[0]) if done.already_revoked and done.serials else reason
    result = {
        "target": target,
        "serials": list(done.serials),
        "revoked_at": shown_time(time_from_wire(done.revoked_at)),
        "reason": told,
        "crl_number": done.crl_number,
        "watchers": done.watchers,
        "already_revoked": done.already_revoked,
    }
    emit_one(result, COLUMNS, output, name="target")
    if done.already_revoked:
        note("it was revoked before: the first time and reason stay")


def _first_reason(stub: RegistryStub, serial: str) -> str:
    """The one that stays when a revocation is repeated."""
    from handfast.wire.v1 import registry_pb2

    found = stub.GetCertificate(registry_pb2.GetCertificateRequest(serial=serial), timeout=TIMEOUT)
    return str(found.revocation_reason)
