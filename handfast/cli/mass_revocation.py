"""What `handfast revoke` does with a filter instead of a name: look, ask, revoke, tell."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from handfast.cli.crl import shown_number
from handfast.cli.output import Column, Row, emit_one, note
from handfast.cli.progress import bar
from handfast.cli.session import TIMEOUT
from handfast.errors import Invalid, Refused

if TYPE_CHECKING:
    from handfast.wire.v1 import registry_pb2
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["DONE", "check_can_confirm", "parse_time", "print_revoked", "revoke_many", "revoked", "survey"]

HANDFUL = 5
"""More than so many need a word of their own."""
LONGEST = timedelta(hours=1).total_seconds()
"""Seconds for all batches together. What is cut off is finished when it is said again."""
FOUND = [
    Column("would revoke", "certificates"),
    Column("identities", "identities"),
    Column("by issuer", lambda row: [f"{key}: {count}" for key, count in row["by_issuer"].items()]),
    Column("names", "sample_identities"),
    Column("first serials", "sample_serials"),
    Column("revoked before", "already_revoked"),
    Column("spared", "spared"),
]
DONE = [
    Column("revoked", "certificates"),
    Column("identities", "identities"),
    Column("first serials", "first_serials"),
    Column("reason", "reason"),
    Column("revoked before", "already_revoked"),
    Column("key", lambda row: {True: "blocked", False: "was blocked before"}.get(row["key_blocked"])),
    Column("CRL number", lambda row: shown_number(row.get("crl_number") or "")),
    Column("told watchers", "watchers"),
]


def parse_time(text: str) -> datetime:
    """RFC 3339 with its offset. Raises ``Invalid`` (``INVALID_TIME``).

    >>> parse_time("2026-11-25T08:00:00+01:00")
    datetime.datetime(2026, 11, 25, 7, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        moment: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Invalid(
            f"{text!a} is no time of RFC 3339", reason="INVALID_TIME", hint="in UTC it reads 2026-11-25T07:00:00Z"
        )
    return moment.astimezone(UTC)


def survey(stub: RegistryStub, request: registry_pb2.RevokeManyRequest, output: str) -> None:
    """``--dry-run``: prints what would be revoked."""
    found = stub.SurveyRevocation(request, timeout=TIMEOUT)
    row = {
        "dry_run": True,
        "certificates": found.certificates,
        "identities": found.identities,
        "by_issuer": dict(sorted(found.by_issuer.items())),
        "sample_identities": list(found.sample_identities),
        "sample_serials": list(found.sample_serials),
        "already_revoked": found.already_revoked,
        "spared": list(found.spared),
    }
    emit_one(row, FOUND, output, name="certificates")


def revoke_many(stub: RegistryStub, request: registry_pb2.RevokeManyRequest, *, yes: bool, output: str) -> None:
    """Asks when it is more than a handful, revokes with a bar on a terminal, and prints what was revoked."""
    emit_one(revoked(stub, request, yes=yes), DONE, output, name="certificates")


def print_revoked(row: Row) -> None:
    emit_one(row, DONE, "table", name="certificates")


def revoked(stub: RegistryStub, request: registry_pb2.RevokeManyRequest, *, yes: bool) -> dict[str, Any]:
    """Returns when all of it is durable and on a signed list."""
    if not yes:
        found = stub.SurveyRevocation(request, timeout=TIMEOUT)
        _confirm(found.certificates, found.identities)
    last: Any = None
    try:
        with bar("revoking") as advance:
            for last in stub.RevokeMany(request, timeout=LONGEST):
                advance(last.certificates, last.total)
    except BaseException:
        if last is not None:
            note(f"revoked {last.certificates} of {last.total} until then: say it again, and the rest is revoked")
        raise
    return {
        "certificates": last.certificates,
        "identities": last.identities,
        "first_serials": list(last.first_serials),
        "reason": request.reason,
        "already_revoked": last.already_revoked,
        "key_blocked": last.key_blocked if request.public_key_sha256 else None,
        "crl_number": last.crl_number,
        "watchers": last.watchers,
    }


def check_can_confirm(yes: bool) -> None:
    """For what asks only after it has done something. Raises ``Refused`` (``NOT_CONFIRMED``)."""
    if not yes and not sys.stdin.isatty():
        raise Refused(
            "nobody is here to confirm what would be revoked", reason="NOT_CONFIRMED", hint="`--yes` confirms"
        )


def _confirm(certificates: int, identities: int) -> None:
    what = f"{certificates} certificate{_s(certificates)} of {identities} identit{'y' if identities == 1 else 'ies'}"
    if max(certificates, identities) <= HANDFUL:
        return
    if not sys.stdin.isatty():
        raise Refused(
            f"{what} would be revoked, more than {HANDFUL} only when that is confirmed",
            reason="NOT_CONFIRMED",
            hint="`--dry-run` shows them, `--yes` confirms",
        )
    typed = click.prompt(f"{what} will be revoked for ever. Type {certificates} to go on", err=True, default="")
    if typed.strip() != str(certificates):
        raise Refused("not confirmed: nothing was revoked", reason="NOT_CONFIRMED")


def _s(count: int) -> str:
    return "" if count == 1 else "s"
