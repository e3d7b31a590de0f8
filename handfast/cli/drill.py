"""``handfast drill``: rehearses what an incident needs, on the mesh that runs."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from handfast.cli import mass_revocation
from handfast.cli.exits import Exit
from handfast.cli.group import Group
from handfast.cli.output import Column, Row, emit, emit_one, note, output_option, print_document, shown_time
from handfast.cli.progress import bar
from handfast.cli.session import TIMEOUT, registry
from handfast.cli.terminal import printable
from handfast.errors import Refused
from handfast.lifetime import format_duration, parse_duration
from handfast.revocation import Reason

if TYPE_CHECKING:
    from handfast.wire.v1 import registry_pb2
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["drill"]

LOOK_SECONDS = 1.0
MISSING = [
    Column("missing", "identity"),
    Column("state", "state"),
    Column("obtained by", "obtained_by"),
    Column("old certificate until", "old_until"),
]


@click.group(cls=Group)
def drill() -> None:
    """Rehearse an incident on the mesh that runs."""


@drill.command("mass-reissue")
@click.option("--window", default="10m", show_default=True, help="In which every agent renews; 10s to 24h.")
@click.option("--grace", default="30s", show_default=True, help="After the window, for those whose attempt failed.")
@click.option("--revoke-old", is_flag=True, help="Afterwards, when nobody is missing, revoke what is older.")
@click.option("--yes", is_flag=True, help="Do not ask before --revoke-old.")
@click.option("--no-wait", is_flag=True, help="Give the order and return; `drill show` follows it.")
@output_option
@click.pass_context
def mass_reissue(
    ctx: click.Context, window: str, grace: str, revoke_old: bool, yes: bool, no_wait: bool, output: str
) -> None:
    """Have every agent replace its certificate inside of a window, and show how long that took.

    Every certificate that is out is tainted, and every agent told to renew; each draws its moment by itself. No call
    fails: the old certificates count until --revoke-old or their end. The issuing CA stays. Exits 1 when somebody is
    missing at the end: what no agent renews is replaced by hand, with `handfast cert renew` or `cert issue`.
    """
    from google.protobuf.duration_pb2 import Duration

    from handfast.wire.v1 import registry_pb2

    if no_wait and revoke_old:
        raise click.UsageError("--revoke-old comes after the wait: leave --no-wait out")
    if revoke_old:
        mass_revocation.check_can_confirm(yes)
    span = parse_duration(window)
    wanted = registry_pb2.BeginReissueRequest(window=Duration(seconds=int(span.total_seconds())))
    with registry(ctx) as stub:
        report = stub.BeginReissue(wanted, timeout=TIMEOUT)
        if not no_wait:
            report = _follow(stub, report, span + parse_duration(grace))
        complete = not _absent(report)
        row = _row(report)
        if output == "table":
            _print(row, output)
        if revoke_old and complete:
            row |= {"revoked": mass_revocation.revoked(stub, _old(), yes=yes)}
    if output != "table":
        _print(row, output)
    elif "revoked" in row:
        print()
        mass_revocation.print_revoked(row["revoked"])
    if not (complete or no_wait):
        ctx.exit(Exit.REFUSED)


@drill.command("show")
@output_option
@click.pass_context
def show(ctx: click.Context, output: str) -> None:
    """Show how the last reissue went, or how it goes."""
    from handfast.wire.v1 import registry_pb2

    with registry(ctx) as stub:
        report = stub.GetReissue(registry_pb2.GetReissueRequest(), timeout=TIMEOUT)
    _print(_row(report), output)


@drill.command("revoke-old")
@click.option("--dry-run", is_flag=True, help="Only show what would be revoked.")
@click.option("--even-missing", is_flag=True, help="Also cut off those that have not renewed.")
@click.option("--yes", is_flag=True, help="Do not ask, however many it are.")
@output_option
@click.pass_context
def revoke_old(ctx: click.Context, dry_run: bool, even_missing: bool, yes: bool, output: str) -> None:
    """Revoke what was issued before the last reissue, and not what was renewed from it."""
    from handfast.wire.v1 import registry_pb2

    with registry(ctx) as stub:
        if dry_run:
            mass_revocation.survey(stub, _old(), output)
            return
        report = stub.GetReissue(registry_pb2.GetReissueRequest(), timeout=TIMEOUT)
        if not (report.ended or even_missing):
            left = report.total - report.renewed
            raise Refused(
                f"{left} of {report.total} identities have not renewed and would be cut off",
                reason="STILL_MISSING",
                hint="`handfast drill show` names them; --even-missing revokes all the same",
            )
        mass_revocation.revoke_many(stub, _old(), yes=yes, output=output)


def _old() -> registry_pb2.RevokeManyRequest:
    from handfast.wire.v1 import registry_pb2

    return registry_pb2.RevokeManyRequest(before_reissue=True, reason=Reason.SUPERSEDED.value)


def _follow(stub: RegistryStub, report: Any, longest: timedelta) -> Any:
    """Looks once a second until nobody is left who could still renew, or the time is over."""
    from handfast.wire.v1 import registry_pb2

    deadline = time.monotonic() + longest.total_seconds()
    with bar("renewed") as advance:
        while True:
            advance(report.renewed, report.total)
            if report.ended or time.monotonic() > deadline:
                return report
            time.sleep(LOOK_SECONDS)
            report = stub.GetReissue(registry_pb2.GetReissueRequest(), timeout=TIMEOUT)


def _absent(report: Any) -> bool:
    """Who was revoked meanwhile was meant to be absent."""
    return not report.ended or any(one.state != "revoked" for one in report.sample_missing)


def _print(row: Row, output: str) -> None:
    if output == "name":
        for one in row["missing"]:
            print(printable(one["identity"]))
    elif output != "table":
        print_document(row, output)
    else:
        emit_one(row, SHOWN, "table", name="started_at")
        if row["missing"]:
            print()
            emit(row["missing"], MISSING, "table", name="identity")
        if row["missing_count"] > len(row["missing"]):
            note(f"{row['missing_count'] - len(row['missing'])} more are missing")


def _row(report: Any) -> dict[str, Any]:
    from handfast.wire.codec import time_from_wire

    began = time_from_wire(report.tainted_at)
    row: dict[str, Any] = {
        "started_at": shown_time(began),
        "window_until": shown_time(time_from_wire(report.renew_before)),
        "total": report.total,
        "renewed": report.renewed,
        "ended": report.ended,
    }
    for key in ("half", "nine_tenths", "last"):
        moment = time_from_wire(getattr(report, f"{key}_at")) if report.HasField(f"{key}_at") else None
        row[f"{key}_at"] = shown_time(moment)
        row[f"{key}_after"] = None if moment is None else format_duration(max(moment - began, timedelta()))
    missing = [
        {
            "identity": one.spiffe_id,
            "state": one.state,
            "obtained_by": one.obtained_by,
            "old_until": shown_time(time_from_wire(one.old_until)) if one.HasField("old_until") else None,
        }
        for one in report.sample_missing
    ]
    return {**row, "missing_count": report.missing, "missing": missing}


def _after(key: str) -> Column:
    """``2026-11-25T08:00:41Z, after 41s``."""
    heading = {"half": "50 %", "nine_tenths": "90 %", "last": "last"}[key]
    return Column(heading, lambda row: row[f"{key}_at"] and f"{row[f'{key}_at']}, after {row[f'{key}_after']}")


SHOWN = [
    Column("started", "started_at"),
    _after("half"),
    _after("nine_tenths"),
    _after("last"),
    Column("window until", "window_until"),
    Column("renewed", lambda row: f"{row['renewed']} of {row['total']}"),
]
