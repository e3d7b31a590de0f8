"""``handfast token``: join tokens for new workloads."""

from __future__ import annotations

from datetime import timedelta

import click

from handfast.cli.duration import DURATION
from handfast.cli.group import Group
from handfast.cli.output import note, output_option, shown_time
from handfast.cli.session import TIMEOUT, registry
from handfast.cli.suggestion import suggesting

__all__ = ["token"]


@click.group(cls=Group)
def token() -> None:
    """Join tokens: a secret that makes one workload, once, one identity."""


@token.command("create")
@click.argument("spiffe_id")
@click.option(
    "--ttl", type=DURATION, default="10m", show_default=True, help="How long it may wait to be redeemed; at most 10m."
)
@click.option("--from", "cidr", default="", metavar="CIDR", help="Only from these addresses, like 10.1.0.0/16.")
@output_option
@click.pass_context
def create(ctx: click.Context, spiffe_id: str, ttl: timedelta, cidr: str, output: str) -> None:
    """Make a join token for SPIFFE_ID and print it, once.

    Give it to the agent through a file or its standard input, never as an argument or in the environment:

    \b
    (umask 077; handfast token create spiffe://prod.example/web > join-token)
    """
    from handfast.cli.output import print_document
    from handfast.wire.codec import duration_to_wire, time_from_wire
    from handfast.wire.v1 import registry_pb2

    with suggesting(ctx, spiffe_id), registry(ctx) as stub:
        made = stub.CreateToken(
            registry_pb2.CreateTokenRequest(spiffe_id=spiffe_id, lifetime=duration_to_wire(ttl), allowed_cidr=cidr),
            timeout=TIMEOUT,
        )
    expires = shown_time(time_from_wire(made.expires_at))
    if output in ("json", "yaml"):
        print_document({"token": made.token, "spiffe_id": made.spiffe_id, "expires_at": expires}, output)
        return
    print(made.token)
    note(f"for {made.spiffe_id}, once, until {expires}; it is not shown again")
