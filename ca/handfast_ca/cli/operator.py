"""``handfast ca operator``: credentials and context of the first operator, made on the CA's own machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.errors import Invalid

if TYPE_CHECKING:
    from handfast.credentials import Credentials
    from handfast_ca.config import Config

__all__ = ["issue_operator", "operator", "passphrase_of"]


@click.command()
@click.option("--config", "file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="handfast.yaml")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="[default: operator/ beside the configuration]"
)
def operator(file: Path, out: Path | None) -> None:
    """Issue new credentials for the first operator, on the CA's machine while the CA is stopped."""
    from handfast_ca.config import load

    issue_operator(file, out or file.parent / "operator", passphrase_of(load(file)))


def passphrase_of(config: Config) -> bytes | None:
    """For a CA that exists. Asks only at a terminal, and only when nothing else tells."""
    from handfast_ca.custody.file import is_sealed
    from handfast_ca.custody.passphrase import find_passphrase

    found = find_passphrase(config.passphrase_file, os.environ)
    if found is None and is_sealed(config.issuer_key) and sys.stdin.isatty():
        typed: str = click.prompt("Passphrase of the issuing key", hide_input=True, err=True)
        return typed.encode("utf-8")
    return found


def issue_operator(config_file: Path, out: Path, passphrase: bytes | None) -> Path:
    """Writes credentials and a context into ``out``; returns the context's file."""
    import asyncio

    from handfast.cli.context import Context, render
    from handfast.cli.files import write_file
    from handfast.cli.output import note, shown_time
    from handfast_ca.config import load
    from handfast_ca.serve import ca_identity, open_authority, reserved_credentials

    config = load(config_file)
    if not config.operators:
        raise Invalid(
            f"{config_file} names no operator",
            reason="NO_OPERATOR",
            hint=f"add `operators: [spiffe://{config.trust_domain}/handfast/operator/admin]` to it",
        )

    async def issue() -> Credentials:
        async with open_authority(config, passphrase) as authority:
            return await reserved_credentials(authority, config.operators[0])

    made = asyncio.run(issue())
    out.mkdir(mode=0o700, exist_ok=True)
    write_file(out / "tls.key", made.key_pem, mode=0o600)
    write_file(out / "tls.crt", made.chain_pem, mode=0o644)
    write_file(out / "ca.crt", made.bundle.roots_pem, mode=0o644)
    write_file(out / "crl.pem", made.revocations.pem, mode=0o644)
    context = Context(str(config.grpc), f"http://{config.http}", config.trust_domain, ca_identity(config), Path())
    write_file(out / "context.yaml", render(context).encode("utf-8"), mode=0o644)
    note(f"operator {made.spiffe_id} until {shown_time(made.leaf.validity.not_after)}; context: {out}/context.yaml")
    return out / "context.yaml"
