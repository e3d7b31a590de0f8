"""``handfast ca``: makes a CA and checks its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast_ca.cli.backup import backup, restore

if TYPE_CHECKING:
    from handfast.credentials import Credentials
    from handfast_ca.config import Config

__all__ = ["ca"]


@click.group()
def ca() -> None:
    """The certificate authority."""


ca.add_command(backup)
ca.add_command(restore)


@ca.command("init")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--trust-domain", required=True, help="The name of the mesh, like prod.example.")
@click.option(
    "--passphrase-file", type=click.Path(dir_okay=False, path_type=Path), help="Seals both keys with its first line."
)
@click.option("--no-passphrase", is_flag=True, help="Leave the keys to be protected by their file mode alone.")
@click.option("--grpc", default="127.0.0.1:7443", show_default=True, metavar="HOST:PORT", help="Where mTLS is served.")
@click.option(
    "--enrol", default="127.0.0.1:7444", show_default=True, metavar="HOST:PORT", help="Where workloads enrol."
)
@click.option(
    "--http", default="127.0.0.1:7080", show_default=True, metavar="HOST:PORT", help="Where public facts are served."
)
@click.option("--public-url", default="", help="What certificates say about where CRLs are. [default: http://HTTP]")
@click.option("--server-name", "names", multiple=True, default=("localhost",), help="DNS name of the CA. Repeatable.")
def init(
    directory: Path, trust_domain: str, passphrase_file: Path | None, no_passphrase: bool, **wishes: object
) -> None:
    """Make a root, an issuing CA and DIRECTORY/handfast.yaml. Refuses a directory that is not empty."""
    from handfast.cli.output import note, shown_time
    from handfast.clock import SystemClock
    from handfast.identity import TrustDomain, parse_dns_name
    from handfast_ca.setup import Wishes, initialise

    names = tuple(parse_dns_name(str(name)) for name in wishes.pop("names", ()))  # type: ignore[attr-defined]
    wanted = Wishes(
        TrustDomain(trust_domain),
        server_names=names,
        passphrase_file=passphrase_file,
        **{key: str(value) for key, value in wishes.items()},
    )
    passphrase = _passphrase(passphrase_file, no_passphrase)
    made = initialise(directory, wanted, passphrase=passphrase, now=SystemClock().now())
    _issue_operator(made.config, directory / "operator", passphrase)
    print(made.root_fingerprint)
    note(f"CA of {trust_domain} in {directory}; its issuing CA ends {shown_time(made.issuer_not_after)}")
    note(f"keep {directory}/root/root.key somewhere else: only the next ceremony needs it")


def _passphrase(file: Path | None, none: bool) -> bytes | None:
    from handfast_ca.custody.passphrase import read_passphrase

    if (file is not None) == none:
        if none:
            raise click.UsageError("--no-passphrase and --passphrase-file exclude each other")
        typed: str = click.prompt("Passphrase for the keys", hide_input=True, confirmation_prompt=True, err=True)
        return typed.encode("utf-8")
    return None if file is None else read_passphrase(file)


@ca.command("check-config")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check_config(file: Path) -> None:
    """Report every mistake in FILE at once, without starting anything."""
    from handfast.cli.output import note
    from handfast_ca.config import load

    config = load(file)
    note(
        f"{file} is valid: CA of {config.trust_domain}, gRPC {config.grpc}, enrolment {config.enrol}, HTTP {config.http}"
    )


@ca.command("serve")
@click.option("--config", "file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="handfast.yaml")
@click.option("--accept-clock", is_flag=True, help="The clock is right although it jumped: sign again.")
def serve_(file: Path, accept_clock: bool) -> None:
    """Run the CA until SIGTERM; ready when /readyz answers 200.

    The passphrase of a sealed key comes from the file that HANDFAST_PASSPHRASE_FILE names, the systemd credential
    handfast-passphrase, issuer.passphrase_file, or the terminal, in this order.
    """
    import asyncio
    import logging

    from handfast_ca.config import load
    from handfast_ca.serve import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    config = load(file)
    asyncio.run(serve(config, _passphrase_of(config), accept_clock=accept_clock))


@ca.command("operator")
@click.option("--config", "file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="handfast.yaml")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="[default: operator/ beside the configuration]"
)
def operator(file: Path, out: Path | None) -> None:
    """Issue new credentials for the first operator, on the CA's machine while the CA is stopped."""
    from handfast_ca.config import load

    _issue_operator(file, out or file.parent / "operator", _passphrase_of(load(file)))


def _passphrase_of(config: Config) -> bytes | None:
    """For a CA that exists. Asks only at a terminal, and only when nothing else tells."""
    import os
    import sys

    from handfast_ca.custody.file import is_sealed
    from handfast_ca.custody.passphrase import find_passphrase

    found = find_passphrase(config.passphrase_file, os.environ)
    if found is None and is_sealed(config.issuer_key) and sys.stdin.isatty():
        typed: str = click.prompt("Passphrase of the issuing key", hide_input=True, err=True)
        return typed.encode("utf-8")
    return found


def _issue_operator(config_file: Path, out: Path, passphrase: bytes | None) -> None:
    import asyncio

    from handfast.cli.context import Context, render
    from handfast.cli.files import write_file
    from handfast.cli.output import note, shown_time
    from handfast_ca.config import load
    from handfast_ca.serve import ca_identity, open_authority, reserved_credentials

    config = load(config_file)

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
