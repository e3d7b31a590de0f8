"""``handfast inspect``: reads anything X.509 without a CA: certificates, keys, CSRs, CRLs, OCSP answers, or what a server presents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from handfast.cli.output import Column, emit_one, output_option

__all__ = ["inspect"]

_HEADINGS = {
    "alpn": "ALPN",
    "dns_names": "DNS names",
    "ip_addresses": "IP addresses",
    "key_sha256": "key SHA-256",
    "crl_urls": "CRL URLs",
    "ocsp_url": "OCSP URL",
    "issuer_key_id": "issuer key ID",
    "subject_key_id": "subject key ID",
}


@click.command()
@click.argument("target", metavar="FILE|HOST:PORT")
@output_option
def inspect(target: str, output: str) -> None:
    """Show what is in FILE (PEM or DER, - for stdin), or what the TLS server at HOST:PORT presents.

    A server is not verified, only looked at: `handfast verify` says whether to trust it. Private keys are named, never
    shown.
    """
    from handfast.cli.output import print_document
    from handfast.cli.reading import read_items
    from handfast.cli.server_look import look_at

    file = Path(target)
    host, _, port = target.rpartition(":")
    if target != "-" and not file.exists() and host and port.isdigit():
        items = look_at(host.strip("[]"), int(port))
    else:
        from handfast.cli.files import read_file, shown_path

        items = read_items(read_file(file), shown_path(target))
    if output in ("json", "yaml"):
        print_document(items, output)
        return
    for index, item in enumerate(items):
        if index and output == "table":
            print()
        emit_one(item, _columns(item), output, name="name")


def _columns(item: dict[str, Any]) -> list[Column]:
    return [Column(_HEADINGS.get(key, key.replace("_", " ")), key) for key in item if key != "name"]
