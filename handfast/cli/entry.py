"""``handfast entry``: who may become whom."""

from __future__ import annotations

from typing import Any

import click

from handfast.cli.duration import DURATION
from handfast.cli.output import Column, emit, emit_one, note, output_option, shown_time
from handfast.cli.session import TIMEOUT, pages, registry
from handfast.cli.suggestion import suggesting
from handfast.lifetime import format_duration

__all__ = ["entry"]

LIST = [
    Column("SPIFFE ID", "spiffe_id"),
    Column("DNS names", "dns_names"),
    Column("addresses", "ip_addresses"),
    Column("usages", "usages"),
    Column("lifetime", "lifetime"),
    Column("proofs", "proofs"),
]
DETAIL = [
    *LIST,
    Column("selectors", "selectors"),
    Column("RSA keys", lambda row: "allowed" if row["allow_rsa"] else "refused"),
    Column("created", "created_at"),
    Column("created by", "created_by"),
    Column("version", "version"),
    Column("comment", "comment"),
]
_NONE = "no entries; `handfast entry add` makes one"


@click.group()
def entry() -> None:
    """Registration entries: an identity, and what its certificates may carry."""


@entry.command("add")
@click.argument("spiffe_id")
@click.option("--dns", "dns_names", multiple=True, help="A DNS name its certificates may carry. Repeatable.")
@click.option("--ip", "ip_addresses", multiple=True, help="An IP address its certificates may carry. Repeatable.")
@click.option(
    "--usage",
    default="client,server",
    show_default=True,
    help="client, server, or both with a comma; an agent needs client.",
)
@click.option("--ttl", type=DURATION, help="Longest lifetime of a certificate, like 15m or 24h. [default: the CA's]")
@click.option(
    "--proof",
    "proofs",
    multiple=True,
    help="How it may prove itself: join-token, operator. [default: both; operator without client]",
)
@click.option("--selector", default="", help="For proofs that know selectors: k8s:ns=shop,k8s:sa=web.")
@click.option("--allow-rsa", is_flag=True, help="Also take RSA keys of 2048 bits and more.")
@click.option("--comment", default="", help="For the people who read this later.")
@output_option
@click.pass_context
def add(ctx: click.Context, /, spiffe_id: str, output: str, **fields: Any) -> None:
    """Register SPIFFE_ID.

    \b
    handfast entry add spiffe://prod.example/web --dns web.shop.svc --ttl 24h
    """
    from handfast.wire.codec import duration_to_wire
    from handfast.wire.v1 import registry_pb2

    wanted = registry_pb2.Entry(
        spiffe_id=spiffe_id,
        dns_names=fields["dns_names"],
        ip_addresses=fields["ip_addresses"],
        usages=_words(fields["usage"]),
        lifetime=None if fields["ttl"] is None else duration_to_wire(fields["ttl"]),
        proofs=fields["proofs"],
        selectors=_words(fields["selector"]),
        allow_rsa=fields["allow_rsa"],
        comment=fields["comment"],
    )
    _warn_about_punycode(fields["dns_names"])
    with registry(ctx) as stub:
        added = stub.AddEntry(registry_pb2.AddEntryRequest(entry=wanted), timeout=TIMEOUT)
    emit_one(row(added), DETAIL, output, name="spiffe_id")
    if output == "table":
        by_agent = "join-token" in added.proofs
        note(f"next: handfast {f'token create {spiffe_id}' if by_agent else f'cert issue {spiffe_id} --out DIRECTORY'}")


@entry.command("list")
@click.option(
    "--identity", default="", metavar="GLOB", help="Only identities that match, like 'spiffe://prod.example/shop/*'."
)
@output_option
@click.pass_context
def list_(ctx: click.Context, identity: str, output: str) -> None:
    """List entries."""
    from handfast.wire.v1 import registry_pb2

    request = registry_pb2.ListEntriesRequest(identity_glob=identity, page_size=500)
    with registry(ctx) as stub:
        rows = [row(found) for page in pages(stub.ListEntries, request) for found in page.entries]
    emit(rows, LIST, output, name="spiffe_id", empty=f"no entry matches {identity!r}" if identity else _NONE)


@entry.command("show")
@click.argument("spiffe_id")
@output_option
@click.pass_context
def show(ctx: click.Context, spiffe_id: str, output: str) -> None:
    """Show the entry of SPIFFE_ID."""
    from handfast.wire.v1 import registry_pb2

    with suggesting(ctx, spiffe_id), registry(ctx) as stub:
        found = stub.GetEntry(registry_pb2.GetEntryRequest(spiffe_id=spiffe_id), timeout=TIMEOUT)
    emit_one(row(found), DETAIL, output, name="spiffe_id")


@entry.command("remove")
@click.argument("spiffe_id")
@click.pass_context
def remove(ctx: click.Context, spiffe_id: str) -> None:
    """Remove the entry of SPIFFE_ID: no new certificates, no renewals. Present certificates live on until they expire."""
    from handfast.wire.v1 import registry_pb2

    with suggesting(ctx, spiffe_id), registry(ctx) as stub:
        stub.RemoveEntry(registry_pb2.RemoveEntryRequest(spiffe_id=spiffe_id), timeout=TIMEOUT)
    note(f"removed; its certificates stay valid until they expire: `handfast revoke {spiffe_id}` ends them now")


def row(message: Any) -> dict[str, Any]:
    """An entry as the ``json`` output shows it."""
    return {
        "spiffe_id": message.spiffe_id,
        "dns_names": list(message.dns_names),
        "ip_addresses": list(message.ip_addresses),
        "usages": sorted(message.usages),
        "lifetime": format_duration(message.lifetime.ToTimedelta()),
        "proofs": sorted(message.proofs),
        "selectors": list(message.selectors),
        "allow_rsa": message.allow_rsa,
        "comment": message.comment,
        "created_at": shown_time(_moment(message.created_at)) if message.HasField("created_at") else None,
        "created_by": message.created_by,
        "version": message.version,
    }


def _moment(timestamp: Any) -> Any:
    from handfast.wire.codec import time_from_wire

    return time_from_wire(timestamp)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _warn_about_punycode(names: tuple[str, ...]) -> None:
    """Shows what an A-label looks like to a person, since look-alikes hide there (threat A9)."""
    for name in names:
        if "xn--" not in name:
            continue
        try:
            readable = name.encode("ascii").decode("idna")
        except UnicodeError:
            readable = "(not readable)"
        scripts = {_script(letter) for letter in readable if letter.isalpha()}
        mixed = f", mixing {' and '.join(sorted(scripts))}" if len(scripts) > 1 else ""
        note(f"warning: {name} reads as {readable}{mixed}")


def _script(letter: str) -> str:
    import unicodedata

    return unicodedata.name(letter, "UNKNOWN").split()[0].title()
