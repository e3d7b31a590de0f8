"""``handfast audit``: what the CA decided, and whether its record was tampered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from handfast.cli.output import Column, emit, note, output_option
from handfast.cli.session import TIMEOUT, registry
from handfast.errors import NotFound

__all__ = ["audit"]

COLUMNS = [
    Column("no", "seq"),
    Column("time", "time"),
    Column("event", "event"),
    Column("outcome", "outcome"),
    Column("identity", "identity"),
    Column("reason", "reason"),
    Column("by", "by"),
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
@output_option
@click.pass_context
def list_(ctx: click.Context, limit: int, output: str) -> None:
    """List the newest decisions, oldest of them first."""
    from handfast.wire.v1 import registry_pb2

    records: list[dict[str, Any]] = []
    token = ""
    with registry(ctx) as stub:
        while len(records) < limit:
            request = registry_pb2.ListAuditRequest(
                newest_first=True, page_size=min(500, limit - len(records)), page_token=token
            )
            page = stub.ListAudit(request, timeout=TIMEOUT)
            records += [json.loads(line) for line in page.records]
            token = page.next_page_token
            if not token:
                break
    emit(records[::-1], COLUMNS, output, name="seq", empty="no records")


@audit.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def verify(file: Path) -> None:
    """Check the chain of an audit log, on the CA's machine or over a copy.

    Finds a line that was changed, removed, moved, or cut off at the end (when the head file lies beside it).
    """
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("handfast_ca") is None:
        raise NotFound("`audit verify` comes with the distribution handfast-ca", hint="pip install handfast-ca")
    report = import_module("handfast_ca.audit").verify_audit(file)
    note(f"{report.records} records, unbroken, up to {report.head[:16]}…")
