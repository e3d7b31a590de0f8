"""``handfast status``: how the CA is, one line for each check."""

from __future__ import annotations

from typing import Any

import click

from handfast.cli.checks import Check, Level, any_failed, as_rows, print_checks
from handfast.cli.exits import Exit
from handfast.cli.output import output_option, print_document, shown_time
from handfast.cli.session import TIMEOUT, registry

__all__ = ["fetch_status", "status"]


@click.command()
@output_option
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """Show how the CA is. Exits 1 when a check failed."""
    found = fetch_status(ctx)
    checks = checks_of(found)
    if output in ("json", "yaml"):
        print_document(document(found), output)
    elif output == "name":
        print(found.trust_domain)
    else:
        print(f"CA of trust domain {found.trust_domain}, Handfast {found.version}\n")
        print_checks(checks)
    raise SystemExit(Exit.REFUSED if any_failed(checks) else Exit.DONE)


def fetch_status(ctx: click.Context) -> Any:
    """A ``CaStatus`` message."""
    from handfast.wire.v1 import registry_pb2

    with registry(ctx) as stub:
        return stub.GetStatus(registry_pb2.GetCaStatusRequest(), timeout=TIMEOUT)


def checks_of(found: Any) -> list[Check]:
    return [Check(line.group, line.name, Level(line.level), line.detail, line.hint) for line in found.lines]


def document(found: Any) -> dict[str, Any]:
    from handfast.wire.codec import time_from_wire

    return {
        "trust_domain": found.trust_domain,
        "version": found.version,
        "entries": found.entries,
        "valid_certificates": found.valid_certificates,
        "revoked_certificates": found.revoked_certificates,
        "watchers": found.watchers,
        "issuer_not_after": shown_time(time_from_wire(found.issuer_not_after)),
        "crl_number": found.crl_number,
        "crl_next_update": shown_time(time_from_wire(found.crl_next_update)),
        "checks": as_rows(checks_of(found)),
    }
