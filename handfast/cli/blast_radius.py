"""``handfast blast-radius``: what an identity can reach, who lets it in, and who has not heard of its revocation."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from handfast.cli.confirmation import confirmations, wait_for
from handfast.cli.crl import decimal_number, shown_number
from handfast.cli.exits import Exit
from handfast.cli.output import Column, Row, emit, emit_one, note, output_option, print_document, shown_time
from handfast.cli.session import registry
from handfast.cli.suggestion import suggesting
from handfast.lifetime import parse_duration

if TYPE_CHECKING:
    from handfast.wire.v1 import registry_pb2

__all__ = ["blast_radius"]

HEAD = [
    Column("identity", "identity"),
    Column("valid certificates", "certificates_total"),
    Column("may call", "may_call_total"),
    Column("callers", "callers_total"),
    Column("list", lambda row: f"number {shown_number(row['crl_number'])}"),
    Column("confirmed", "confirmed"),
    Column("not confirmed", "unconfirmed_total"),
    Column("silent", "silent_total"),
]
CERTIFICATES = [
    Column("valid certificate", "serial"),
    Column("until", "not_after"),
    Column("obtained by", "obtained_by"),
]
UNCONFIRMED = [
    Column("not confirmed", "identity"),
    Column("kind", "kind"),
    Column("instance", "instance"),
    Column("holds list", lambda row: shown_number(row["holds"])),
]


def _reach(heading: str) -> list[Column]:
    return [
        Column(heading, "identity"),
        Column("methods", "methods"),
        Column("certain", lambda row: "no: a policy of its own" if row["unknown"] else "yes"),
    ]


@click.command("blast-radius")
@click.argument("spiffe_id")
@click.option("--watch", is_flag=True, help="Until it holds nothing and all who report know; a bar on a terminal.")
@click.option("--timeout", default="60s", show_default=True, help="With --watch: exit 1 when that is not so by then.")
@click.option(
    "--crl-number",
    default="",
    help="Of the list that must be enforced, as `crl show` shows it. [default: the present one]",
)
@output_option
@click.pass_context
def blast_radius(ctx: click.Context, spiffe_id: str, watch: bool, timeout: str, crl_number: str, output: str) -> None:
    """Show the certificates of SPIFFE_ID that count, whom it may call and who may call it, and who does not enforce the
    present revocation list yet.

    It is put together from what agents and their services report about themselves. Who does not report is silent: what
    it lets in is not known here.
    """
    longest = parse_duration(timeout) if watch else timedelta(seconds=-1)
    with suggesting(ctx, spiffe_id), registry(ctx) as stub:
        seen = wait_for(stub, spiffe_id, decimal_number(crl_number), longest)
    row = _row(spiffe_id, seen)
    if output == "table":
        _print(row)
    elif output == "name":
        emit([{"serial": one["serial"]} for one in row["certificates"]], CERTIFICATES, "name", name="serial")
    else:
        print_document(row, output)
    if watch and (seen.certificates_total or seen.unconfirmed_total):
        ctx.exit(Exit.REFUSED)


def _row(identity: str, seen: registry_pb2.BlastRadius) -> dict[str, Any]:
    from handfast.wire.codec import time_from_wire

    return {
        "identity": identity,
        "certificates": [
            {
                "serial": one.serial,
                "not_after": shown_time(time_from_wire(one.not_after)),
                "status": one.status,
                "obtained_by": one.obtained_by,
            }
            for one in seen.certificates
        ],
        "certificates_total": seen.certificates_total,
        "may_call": [_reached(one) for one in seen.may_call],
        "may_call_total": seen.may_call_total,
        "callers": [_reached(one) for one in seen.callers],
        "callers_total": seen.callers_total,
        **confirmations(seen),
    }


def _reached(one: registry_pb2.Reach) -> dict[str, Any]:
    return {"identity": one.spiffe_id, "methods": list(one.methods), "unknown": one.unknown}


def _print(row: Row) -> None:
    emit_one(row, HEAD, "table", name="identity")
    parts = (
        ("certificates", CERTIFICATES),
        ("may_call", _reach("may call")),
        ("callers", _reach("may be called by")),
        ("unconfirmed", UNCONFIRMED),
    )
    for key, columns in parts:
        if row[key]:
            print()
            emit(row[key], columns, "table", name="identity")
    if row["silent"]:
        note(f"of {', '.join(row['silent'][:5])}{' and more' if row['silent_total'] > 5 else ''} nobody reports")
