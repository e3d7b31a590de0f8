"""``handfast ca``: makes, checks, runs, backs up and restores a CA."""

from __future__ import annotations

from pathlib import Path

import click

from handfast.cli.group import Group
from handfast_ca.cli.backup import backup, restore
from handfast_ca.cli.init import init
from handfast_ca.cli.operator import operator, passphrase_of
from handfast_ca.cli.release import release

__all__ = ["ca"]


@click.group(cls=Group)
def ca() -> None:
    """The certificate authority."""


for _command in (init, operator, backup, restore, release):
    ca.add_command(_command)


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

    from handfast_ca.cli.ports import check_ports
    from handfast_ca.config import load
    from handfast_ca.serve import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    config = load(file)
    check_ports(config)
    asyncio.run(serve(config, passphrase_of(config), accept_clock=accept_clock))
