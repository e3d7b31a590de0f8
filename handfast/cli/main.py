"""``handfast``: the group that finds its commands by name and imports only the one that is asked for."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from handfast.cli.exits import Exit, forget_stdout, leave_on_error

__all__ = ["main", "root"]

# name -> (module:attribute, what it does). The texts stand here so that `handfast --help` imports nothing.
COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("handfast.cli.audit:audit", "Read and verify the CA's audit log."),
    "blast-radius": (
        "handfast.cli.blast_radius:blast_radius",
        "What an identity can reach, and who still accepts it.",
    ),
    "bundle": ("handfast.cli.bundle:bundle", "Show or download the trust bundle."),
    "cert": ("handfast.cli.cert:cert", "Issue, sign, renew, list and show certificates."),
    "completion": ("handfast.cli.completion:completion", "Print shell completion for bash, zsh or fish."),
    "crl": ("handfast.cli.crl:crl", "Show or download revocation lists."),
    "demo": ("handfast.cli.demo:demo", "A whole mesh on this machine: enrol, call, rotate, revoke, refuse."),
    "doctor": ("handfast.cli.doctor:doctor", "Find what is wrong, and say what to do about it."),
    "drill": ("handfast.cli.drill:drill", "Rehearse the day on which every certificate must be replaced."),
    "entry": ("handfast.cli.entry:entry", "Who may become whom: add, list, show, remove."),
    "inspect": ("handfast.cli.inspection:inspect", "Read a certificate, key, CSR, CRL, or what HOST:PORT presents."),
    "revoke": (
        "handfast.cli.revoke:revoke",
        "Revoke a serial, an identity or all that fits; returns when it is durable.",
    ),
    "status": ("handfast.cli.status:status", "How the CA is: one line for each check."),
    "token": ("handfast.cli.token:token", "Make join tokens for new workloads."),
    "verify": ("handfast.cli.verify:verify", "Say whether a chain is good, and if not, why, in words."),
}

# Commands of the other distributions, which may not be there. Named here, since reading entry points of everything that is
# installed costs each start 20 ms and each agent 1.5 MB.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "agent": ("handfast_agent.cli.group:agent", "Run the sidecar that keeps a workload's credentials."),
    "ca": ("handfast_ca.cli.group:ca", "Make and run a CA."),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is named, not before."""

    def make_context(self, *words: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*words, **more)
        except BrokenPipeError:  # as below, for `handfast --help | head`
            forget_stdout()
            raise click.exceptions.Exit(Exit.DONE) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *(name for name in ELSEWHERE if _installed(name))])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS and not _installed(cmd_name):
            return None
        module, _, attribute = (COMMANDS | ELSEWHERE)[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # which Click would make a failure
            forget_stdout()
            return ctx.exit(Exit.DONE)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        texts = {name: text for name, (_, text) in (COMMANDS | ELSEWHERE).items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, texts[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name in ELSEWHERE and not _installed(name):
            ctx.fail(f"`handfast {name}` comes with the distribution handfast-{name}: pip install handfast-{name}")
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"no such command {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


def _installed(name: str) -> bool:
    """Whether the distribution of a command from elsewhere is there."""
    return name in ELSEWHERE and find_spec(ELSEWHERE[name][0].partition(".")[0]) is not None


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"handfast {version('handfast')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 unreachable, 4 not authenticated or not allowed.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.option(
    "--context",
    "context_file",
    envvar="HANDFAST_CONTEXT",
    type=click.Path(dir_okay=False),
    help="Operator's context: which CA, with which certificate. [default: ~/.config/handfast/context.yaml]",
)
@click.pass_context
def root(ctx: click.Context, context_file: str | None) -> None:
    """Identities for services: short-lived certificates, mutual TLS, and revocation that bites within a second."""
    ctx.obj = context_file


def main(arguments: list[str] | None = None) -> None:
    """The console script. Raises SystemExit with a code of the contract."""
    # What the library logs is for services; here every failure is said once, as an error.
    logging.getLogger("handfast").addHandler(logging.NullHandler())
    if sys.stdout is None:  # `handfast … >&-`
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    with leave_on_error():
        code = root.main(args=arguments, prog_name="handfast", standalone_mode=False)
        sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else Exit.DONE)
