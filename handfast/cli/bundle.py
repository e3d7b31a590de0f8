"""``handfast bundle``: the roots that a trust domain's members trust."""

from __future__ import annotations

from pathlib import Path

import click

from handfast.cli.group import Group
from handfast.cli.output import Column, emit, note, output_option
from handfast.cli.session import trust_update

__all__ = ["bundle"]

COLUMNS = [
    Column("role", "role"),
    Column("subject", "subject"),
    Column("not after", "not_after"),
    Column("fingerprint", "fingerprint"),
]


@click.group(cls=Group)
def bundle() -> None:
    """The trust bundle: roots, and the issuing CAs below them."""


@bundle.command("show")
@output_option
@click.pass_context
def show(ctx: click.Context, output: str) -> None:
    """Show roots and issuing CAs."""
    from cryptography import x509

    from handfast.certificates import fingerprint
    from handfast.cli.output import shown_time

    sent = trust_update(ctx).bundle
    rows = [
        {
            "role": role,
            "subject": certificate.subject.rfc4514_string(),
            "not_after": shown_time(certificate.not_valid_after_utc),
            "fingerprint": fingerprint(certificate),
        }
        for role, ders in (("root", sent.roots), ("issuer", sent.issuers))
        for certificate in map(x509.load_der_x509_certificate, ders)
    ]
    emit(rows, COLUMNS, output, name="fingerprint", empty="the bundle is empty: nothing is trusted")
    if output == "table":
        note(f"trust domain {sent.trust_domain}, sequence {sent.sequence}")


@bundle.command("download")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--with-issuers", is_flag=True, help="Also the issuing CAs, for verifiers that need them to check CRLs.")
@click.option("--spiffe", is_flag=True, help="As a SPIFFE bundle (JSON), for other trust domains.")
@click.pass_context
def download(ctx: click.Context, file: Path | None, with_issuers: bool, spiffe: bool) -> None:
    """Write the roots as PEM to FILE, or to stdout."""
    from handfast.cli.files import write_result
    from handfast.wire.codec import bundle_from_wire

    if spiffe and with_issuers:
        raise click.UsageError("--spiffe and --with-issuers exclude each other: a SPIFFE bundle holds roots only")
    trusted = bundle_from_wire(trust_update(ctx).bundle)
    if spiffe:
        from handfast.spiffe_bundle import spiffe_bundle

        write_result(file, spiffe_bundle(trusted))
    else:
        write_result(file, trusted.pem if with_issuers else trusted.roots_pem)
    if file:
        issuers = f" and {len(trusted.issuers)} issuing CA{'s' * (len(trusted.issuers) != 1)}" if with_issuers else ""
        note(f"{len(trusted.roots)} root{'s' * (len(trusted.roots) != 1)}{issuers} written to {file}")
