"""``handfast agent run|once|status``. Imports what a command needs when it is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.cli.exits import Exit, explain, leave_on_error
from handfast.cli.output import output_option
from handfast.errors import Invalid

if TYPE_CHECKING:
    from handfast_agent.config import Config

__all__ = ["agent"]

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The agent's configuration, YAML.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def agent() -> None:
    """Run the sidecar that keeps a workload's credentials."""


@agent.command()
@config_option
def run(config_file: Path) -> None:
    """Enrol, rotate and keep revocations fresh until SIGTERM. Logs JSON lines to stderr."""
    import asyncio

    config = _load(config_file)
    from handfast_agent.log import log_to_stderr
    from handfast_agent.serve import run as run_agent

    log_to_stderr()
    with leave_on_error():
        asyncio.run(run_agent(config))


@agent.command()
@config_option
def once(config_file: Path) -> None:
    """Enrol or renew, write the files, exit: for init containers and jobs."""
    import asyncio

    config = _load(config_file)
    from handfast_agent.log import log_to_stderr
    from handfast_agent.serve import once as run_once

    log_to_stderr()
    with leave_on_error():
        done = asyncio.run(run_once(config))
        click.echo(f"{done.spiffe_id} valid until {done.not_after:%Y-%m-%dT%H:%M:%SZ}")


@agent.command()
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="HANDFAST_AGENT_SOCKET",
    required=True,
    metavar="PATH",
    show_envvar=True,
    help="The agent's Unix socket, `socket` in its configuration.",
)
@output_option
def status(socket: Path, output: str) -> None:
    """Show expiry, next renewal, generation, CRL age, and how long it would survive if the CA died now.

    Exits 1 when the agent is not ready, and says why.
    """
    from handfast_agent.cli.status import show

    with leave_on_error():
        ready = show(socket, output)
    sys.exit(Exit.DONE if ready else Exit.REFUSED)


def _load(file: Path) -> Config:
    """A configuration that cannot be used, a missing pin among them, is wrong usage: exit 2 (contract)."""
    from handfast_agent.config import load

    try:
        return load(file)
    except Invalid as error:
        click.echo(explain(error), err=True)
        raise SystemExit(Exit.USAGE) from error
