"""``handfast audit``: what the CA decided, and whether its record was tampered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import click

from handfast.cli.checks import Check, Level, any_failed, print_checks
from handfast.cli.crl import shown_number
from handfast.cli.exits import Exit
from handfast.cli.output import Column, Row, emit, output_option, print_document
from handfast.cli.session import pages, registry
from handfast.errors import NotFound

__all__ = ["audit"]

_PAGE = 500


def _subject(row: Row) -> object:
    """Whom or what the decision was about."""
    if "crl_number" in row:
        entries = row.get("entries", 0)
        return f"CRL {shown_number(row['crl_number'])}, {entries} {'entry' if entries == 1 else 'entries'}"
    if row.get("count") is not None and "serials" in row:
        return f"{row['count']} certificates: {row.get('detail', '')}"
    return row.get("spiffe_id") or row.get("serial") or row.get("serials") or row.get("detail")


COLUMNS = [
    Column("no", "seq"),
    Column("time", lambda row: f"{row['time'][:19]}Z"),
    Column("event", "event"),
    Column("decision", "decision"),
    Column("about", _subject),
    Column("reason", "reason"),
    Column("by", lambda row: row.get("by") or row.get("peer_address")),
]


@click.group()
def audit() -> None:
    """The audit log: one line for every decision, chained by hashes."""


@audit.command("list")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="At most this many, the newest.",
)
@click.option(
    "--identity", metavar="GLOB", help="Only about identities that match, like 'spiffe://prod.example/shop/*'."
)
@click.option("--decision", type=click.Choice(["granted", "refused"]), help="Only these.")
@output_option
@click.pass_context
def list_(ctx: click.Context, limit: int, identity: str | None, decision: str | None, output: str) -> None:
    """List the newest decisions, oldest of them first."""
    wanted = (
        record
        for record in _newest_first(ctx)
        if (decision is None or record.get("decision") == decision)
        and (identity is None or fnmatchcase(str(record.get("spiffe_id", "")), identity))
    )
    records = list(islice(wanted, limit))[::-1]
    emit(records, COLUMNS, output, name="seq", empty="no record matches" if identity or decision else "no records")


def _newest_first(ctx: click.Context) -> Iterator[dict[str, Any]]:
    from handfast.wire.v1 import registry_pb2

    with registry(ctx) as stub:
        request = registry_pb2.ListAuditRequest(newest_first=True, page_size=_PAGE)
        for page in pages(stub.ListAudit, request):
            yield from map(json.loads, page.records)


@audit.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--at-least",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="As many records were there once: an older report says it.",
)
@output_option
def verify(file: Path, at_least: int, output: str) -> None:
    """Check the chain of an audit log, on the CA's machine or over a copy.

    Finds a line that was changed, removed, moved, or cut off at the end. The end is remembered by the head file beside
    it, by the ledger beside it, and by --at-least. Exits 1 on any of them.
    """
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("handfast_ca") is None:
        raise NotFound("`audit verify` comes with the distribution handfast-ca", hint="pip install handfast-ca")
    ledger = file.with_name("ledger.db")
    if ledger.exists():
        at_least = max(at_least, import_module("handfast_ca.stores.snapshot").audit_mark(ledger))
    report = import_module("handfast_ca.audit").verify_audit(file, at_least=at_least)
    checks = list(_checks(file, report))
    if output == "table":
        print_checks(checks)
    elif output == "name":
        print(report.position.hash)
    else:
        print_document(_document(report), output)
    raise SystemExit(Exit.REFUSED if any_failed(checks) else Exit.DONE)


def _checks(file: Path, report: Any) -> Iterator[Check]:
    group = f"audit log {file}"
    for problem in report.problems:
        yield Check(group, problem.reason, Level.FAILED, problem.detail, _HINTS[problem.reason])
    if report.intact:
        yield Check(group, "chain", Level.OK, f"{report.lines} records, up to hash {report.position.hash[:16]}…")
    if report.unfinished:
        yield Check(group, "last line", Level.WARNING, "unfinished", "is the CA writing it now? then verify again")


_TAMPERED = "compare with the copy that your log collector keeps: somebody wrote to this file"
_HINTS = {
    "CHANGED": _TAMPERED,
    "REMOVED": _TAMPERED,
    "MOVED": _TAMPERED,
    "CUT_OFF": _TAMPERED,
    "HEAD_MISSING": "copy the .head file together with the log: without it, lines cut off at the end are not noticed",
}


def _document(report: Any) -> dict[str, Any]:
    return {
        "intact": report.intact,
        "records": report.lines,
        "head": {"seq": report.position.seq, "hash": report.position.hash},
        "unfinished": report.unfinished,
        "problems": [{"line": p.line, "reason": p.reason, "detail": p.detail} for p in report.problems],
    }
