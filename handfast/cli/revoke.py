"""``handfast revoke``: returns when the revocation is durable and the CRL that proves it is signed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from handfast.certificates import format_serial, parse_serial
from handfast.cli.confirmation import CONFIRMED, confirmations, wait_confirmed
from handfast.cli.crl import shown_number
from handfast.cli.exits import Exit
from handfast.cli.mass_revocation import DONE, parse_time, revoked, survey
from handfast.cli.output import Column, emit_one, note, output_option, shown_time
from handfast.cli.session import TIMEOUT, registry
from handfast.cli.suggestion import suggesting
from handfast.lifetime import parse_duration
from handfast.revocation import Reason

if TYPE_CHECKING:
    from handfast.wire.v1 import registry_pb2
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
@click.option("--wait", is_flag=True, help="Return when every agent and service that reports enforces it.")
@click.option("--timeout", default="30s", show_default=True, help="With --wait: exit 1 when some have not by then.")
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
    wait: bool,
    timeout: str,
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
    longest = parse_duration(timeout)
    if target is not None:
        if dry_run:
            raise click.UsageError("--dry-run goes with a filter")
        with suggesting(ctx, target), registry(ctx) as stub:
            row, columns, name = _revoke_one(stub, target, chosen), COLUMNS, "target"
            left = _waited(stub, row, longest) if wait and row["crl_number"] else False
        _tell(row, [*columns, *(CONFIRMED if "unconfirmed" in row else [])], output, name=name)
        ctx.exit(Exit.REFUSED if left else Exit.DONE)
    request = registry_pb2.RevokeManyRequest(
        identity_glob=identity, issuer=issuer, public_key_sha256=key, reason=chosen
    )
    if issued_between is not None:
        _set_span(request, *issued_between)
    with registry(ctx) as stub:
        if dry_run:
            survey(stub, request, output)
        else:
            row = revoked(stub, request, yes=yes)
            left = _waited(stub, row, longest) if wait and row["crl_number"] else False
            emit_one(row, [*DONE, *(CONFIRMED if "unconfirmed" in row else [])], output, name="certificates")
            _tell_quarantine(row)
            ctx.exit(Exit.REFUSED if left else Exit.DONE)


def _set_span(request: registry_pb2.RevokeManyRequest, begin: str, end: str) -> None:
    from handfast.wire.codec import time_to_wire

    request.issued_from.CopyFrom(time_to_wire(parse_time(begin)))
    request.issued_until.CopyFrom(time_to_wire(parse_time(end)))


def _waited(stub: RegistryStub, row: dict[str, Any], longest: timedelta) -> bool:
    """Adds who confirmed to the row. True when somebody has not."""
    seen = wait_confirmed(stub, str(row["crl_number"]), longest)
    row |= confirmations(seen)
    return bool(seen.unconfirmed_total)


def _tell_quarantine(row: dict[str, Any]) -> None:
    if not row["crl_number"]:
        note("the CA is in quarantine: everybody is told, and the list that proves it is signed when that is over")


def _tell(row: dict[str, Any], columns: list[Column], output: str, *, name: str) -> None:
    emit_one(row, columns, output, name=name)
    _tell_quarantine(row)
    if row["already_revoked"]:
        note("it was revoked before: the first time and reason stay")


def _revoke_one(stub: RegistryStub, target: str, reason: str) -> dict[str, Any]:
    from handfast.wire.codec import time_from_wire
    from handfast.wire.v1 import registry_pb2

    request = registry_pb2.RevokeRequest(reason=reason)
    if target.startswith("spiffe:"):
        request.spiffe_id = target
    else:
        request.serial = format_serial(parse_serial(target))
    done = stub.Revoke(request, timeout=TIMEOUT)
    told = _first_reason(stub, done.serials[0]) if done.already_revoked and done.serials else reason
    return {
        "target": target,
        "serials": list(done.serials),
        "revoked_at": shown_time(time_from_wire(done.revoked_at)),
        "reason": told,
        "crl_number": done.crl_number,
        "watchers": done.watchers,
        "already_revoked": done.already_revoked,
    }


def _first_reason(stub: RegistryStub, serial: str) -> str:
    """The one that stays when a revocation is repeated."""
    from handfast.wire.v1 import registry_pb2

    found = stub.GetCertificate(registry_pb2.GetCertificateRequest(serial=serial), timeout=TIMEOUT)
    return str(found.revocation_reason)
