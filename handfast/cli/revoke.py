"""``handfast revoke``: returns when the revocation is durable and the CRL that proves it is signed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from handfast.certificates import format_serial, parse_serial
from handfast.cli.mass_revocation import parse_time, revoke_many, survey
from handfast.cli.output import Column, emit_one, note, output_option, shown_time
from handfast.cli.session import TIMEOUT, registry
from handfast.cli.suggestion import suggesting
from handfast.revocation import Reason

if TYPE_CHECKING:
    from handfast.wire.v1 import registry_pb2
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["revoke"]

COLUMNS = [
    Column("serials", "serials"),
    Column("revoked", "revoked_at"),
    Column("reason", "reason"),
    Column("CRL number", "crl_number"),
    Column("told watchers", "watchers"),
]


@click.command()
@click.argument("target", metavar="[SERIAL|SPIFFE_ID]", required=False)
@click.option("--identity", metavar="GLOB", default="", help="All identities that match, like 'spiffe://td/shop/*'.")
@click.option("--issuer", default="", help="All that an issuing CA signed: its key ID, or its name.")
@click.option(
    "--issued-between",
    nargs=2,
    metavar="FROM TO",
    help="All that was issued in this time (RFC 3339), and what was renewed from it since.",
)
@click.option("--key", metavar="SHA256", default="", help="All with this public key, which is blocked for everybody.")
@click.option("--dry-run", is_flag=True, help="Only show what would be revoked.")
@click.option("--yes", is_flag=True, help="Do not ask, however many it are.")
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in Reason]),
    help="key-compromise also blocks the public keys for every identity. [default: unspecified;"
    " with --key, key-compromise]",
)
@output_option
@click.pass_context
def revoke(
    ctx: click.Context,
    target: str | None,
    identity: str,
    issuer: str,
    issued_between: tuple[str, str] | None,
    key: str,
    dry_run: bool,
    yes: bool,
    reason: str | None,
    output: str,
) -> None:
    """Revoke one certificate, everything that an identity holds, or all that a filter finds.

    With a SPIFFE ID or --identity alone it also stops every renewal, and the join tokens that wait. Filters narrow each
    other. More than five need --yes, or a number typed at a terminal; names below /handfast/ are spared, one by one they
    can be revoked. There is no way back: a revoked identity needs a new join token. Saying it twice is no error, and
    finishes what was cut off.
    """
    from handfast.wire.v1 import registry_pb2

    filters = bool(identity or issuer or issued_between or key)
    if filters == bool(target):
        raise click.UsageError("name either one SERIAL or SPIFFE_ID, or a filter, and not both")
    chosen = reason or (Reason.KEY_COMPROMISE if key else Reason.UNSPECIFIED).value
    if target is not None:
        if dry_run:
            raise click.UsageError("--dry-run goes with a filter")
        _revoke_one(ctx, target, chosen, output)
        return
    request = registry_pb2.RevokeManyRequest(
        identity_glob=identity, issuer=issuer, public_key_sha256=key, reason=chosen
    )
    if issued_between is not None:
        _set_span(request, *issued_between)
    with registry(ctx) as stub:
        if dry_run:
            survey(stub, request, output)
        else:
            revoke_many(stub, request, yes=yes, output=output)


def _set_span(request: registry_pb2.RevokeManyRequest, begin: str, end: str) -> None:
    from handfast.wire.codec import time_to_wire

    request.issued_from.CopyFrom(time_to_wire(parse_time(begin)))
    request.issued_until.CopyFrom(time_to_wire(parse_time(end)))


def _revoke_one(ctx: click.Context, target: str, reason: str, output: str) -> None:
    from handfast.wire.codec import time_from_wire
    from handfast.wire.v1 import registry_pb2

    request = registry_pb2.RevokeRequest(reason=reason)
    if target.startswith("spiffe:"):
        request.spiffe_id = target
    else:
        request.serial = format_serial(parse_serial(target))
    with suggesting(ctx, target), registry(ctx) as stub:
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
