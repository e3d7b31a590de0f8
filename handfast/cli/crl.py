"""``handfast crl``: the CA's revocation lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from handfast.cli.output import Column, emit, note, output_option, shown_time
from handfast.cli.session import trust_update
from handfast.errors import NotFound

__all__ = ["crl", "decimal_number", "shown_number"]

COLUMNS = [
    Column("issuer", "issuer"),
    Column("number", lambda row: shown_number(row["number"])),
    Column("this update", "this_update"),
    Column("next update", "next_update"),
    Column("revoked", "revoked"),
]


@click.group()
def crl() -> None:
    """Revocation lists: one for each issuing CA, signed, with rising numbers."""


@crl.command("show")
@output_option
@click.pass_context
def show(ctx: click.Context, output: str) -> None:
    """Show the present lists."""
    from cryptography import x509

    lists = [x509.load_der_x509_crl(sent.der) for sent in trust_update(ctx).crls]
    emit([row(one) for one in lists], COLUMNS, output, name="issuer", empty="the CA has published no list yet")


@crl.command("download")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--der", is_flag=True, help="DER instead of PEM; only where there is one list.")
@click.option("--issuer", default="", metavar="NAME", help="Only the list whose issuer has this text in its name.")
@click.pass_context
def download(ctx: click.Context, file: Path | None, der: bool, issuer: str) -> None:
    """Write the lists to FILE, or to stdout."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from handfast.cli.files import write_result

    lists = [x509.load_der_x509_crl(sent.der) for sent in trust_update(ctx).crls]
    lists = [one for one in lists if issuer.lower() in one.issuer.rfc4514_string().lower()]
    if issuer and not lists:
        raise NotFound(
            f"there is no list of an issuer {issuer!r}", reason="NO_LIST", hint="`handfast crl show` lists them"
        )
    if der and len(lists) != 1:
        raise click.UsageError(f"--der holds one list, and there are {len(lists)}: choose with --issuer")
    encoding = Encoding.DER if der else Encoding.PEM
    write_result(file, b"".join(one.public_bytes(encoding) for one in lists))
    if file:
        note(f"{len(lists)} list{'s' * (len(lists) != 1)} written to {file}")


def shown_number(decimal: str | None) -> str:
    """For people; programs get the decimal number, which may be larger than 64 bits."""
    from handfast.revocation import format_crl_number

    return format_crl_number(int(decimal)) if decimal else ""


def decimal_number(shown: str) -> str:
    """The other way round: of what people read, and of a decimal number as it is.

    >>> decimal_number("1795572000:17") == str((1795572000 << 64) + 17), decimal_number("17")
    (True, '17')
    """
    epoch, colon, sequence = shown.partition(":")
    if colon and epoch.isdecimal() and sequence.isdecimal() and int(sequence) < 1 << 64:
        return str((int(epoch) << 64) + int(sequence))
    return shown


def row(one: Any) -> dict[str, Any]:
    """A CRL as the ``json`` output shows it."""
    from cryptography import x509

    try:
        number = str(one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
    except x509.ExtensionNotFound:
        number = ""
    return {
        "issuer": one.issuer.rfc4514_string(),
        "number": number,
        "this_update": shown_time(one.last_update_utc),
        "next_update": shown_time(one.next_update_utc),
        "revoked": len(one),
    }
