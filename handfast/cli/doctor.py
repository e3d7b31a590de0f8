"""``handfast doctor``: everything that an operator would look at one by one, with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from handfast.cli.checks import Check, any_failed, as_rows, failed, print_checks
from handfast.cli.exits import Exit
from handfast.cli.output import output_option, print_document

__all__ = ["doctor"]


@click.command()
@output_option
@click.pass_context
def doctor(ctx: click.Context, output: str) -> None:
    """Find what is wrong, and say what to do about it.

    Looks at this machine, the context, the operator's credentials and the CA, and at the agent that HANDFAST_AGENT_SOCKET
    or HANDFAST_CREDENTIALS_DIR names. Changes nothing. Exits 1 when a check failed.
    """
    checks = list(_examine(ctx.find_root().obj))
    if output == "table":
        print_checks(checks)
    elif output == "name":
        for check in checks:
            print(f"{check.group}/{check.name}")
    else:
        print_document(as_rows(checks), output)
    raise SystemExit(Exit.REFUSED if any_failed(checks) else Exit.DONE)


def _examine(context_file: str | None) -> Iterator[Check]:
    from handfast.cli.examination.agent import check_agent
    from handfast.cli.examination.machine import check_versions
    from handfast.clock import SystemClock

    yield from check_versions()
    yield from _examine_operator(context_file)
    yield from check_agent(os.environ, SystemClock().now())


def _examine_operator(context_file: str | None) -> Iterator[Check]:
    """Each step needs the one before: without a context there are no credentials, without these nobody to ask."""
    from handfast.cli.context import default_path, load
    from handfast.cli.examination.authority import check_authority
    from handfast.cli.examination.holdings import check_bundle, check_certificate, check_directory, check_lists
    from handfast.cli.examination.machine import check_context
    from handfast.cli.operator import with_fresh_lists
    from handfast.clock import SystemClock
    from handfast.errors import HandfastError

    try:
        context = load(context_file)
    except HandfastError as error:
        yield failed("context", "file", error, "mend it; `handfast ca operator` writes a new one")
        return
    yield from check_context(context, Path(context_file) if context_file else default_path())
    new_ones = "on the CA's machine, `handfast ca operator` issues new ones"
    checks, found = check_directory("operator", context.credentials, new_ones)
    yield from checks
    if found is None:
        return
    now = SystemClock().now()
    found = with_fresh_lists(context, found, now)
    yield check_certificate("operator", found, now, f"`handfast cert renew` while it is valid; {new_ones}")
    yield check_bundle("operator", found.bundle, now)
    yield check_lists("operator", found, now)
    yield from check_authority(context, found)
