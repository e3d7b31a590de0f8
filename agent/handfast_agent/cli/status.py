"""What ``handfast agent status`` prints, asked over the socket."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from handfast.cli.agent_socket import ask_agent
from handfast.cli.output import Column, emit_one, shown_time
from handfast.lifetime import format_duration
from handfast.wire import codec
from handfast.wire.v1 import workload_pb2

__all__ = ["row", "show"]

_TIMES = ("not_before", "not_after", "next_renewal", "last_success", "crl_next_update")
_COLUMNS = (
    Column("identity", "spiffe_id"),
    Column("state", "state"),
    Column("ready", lambda row: "yes" if row["ready"] else "no"),
    Column("expires", "not_after"),
    Column("next renewal", "next_renewal"),
    Column("generation", "generation"),
    Column("CRL age", lambda row: format_duration(timedelta(seconds=row["crl_age_seconds"]))),
    Column("CRL", "freshness"),
    Column("survives a dead CA for", lambda row: format_duration(timedelta(seconds=row["outage_budget_seconds"]))),
    Column("connected", lambda row: "yes" if row["connected"] else "no"),
    Column("last failure", "last_failure"),
    Column("not ready because", lambda row: [f"{c['name']}: {c['detail']}" for c in row["checks"] if not c["ok"]]),
)


def show(socket: Path, output: str) -> bool:
    """Prints, and says whether the agent is ready. Raises ``Unavailable`` when nobody answers."""
    answer = ask_agent(socket)
    emit_one(row(answer), _COLUMNS, output, name="spiffe_id")
    return bool(answer.ready)


def row(answer: workload_pb2.AgentStatus) -> dict[str, Any]:
    """The message as plain values, each field under its own name."""
    values: dict[str, Any] = {
        field.name: getattr(answer, field.name)
        for field in answer.DESCRIPTOR.fields
        if field.name not in (*_TIMES, "checks")
    }
    present = {field.name for field, _ in answer.ListFields()}
    for name in _TIMES:
        values[name] = shown_time(codec.time_from_wire(getattr(answer, name))) if name in present else None
    values["checks"] = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in answer.checks]
    return values
