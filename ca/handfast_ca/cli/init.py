"""``handfast ca init``: a new CA in a directory, and its first operator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast.cli.output import note, output_option, print_document, shown_time

if TYPE_CHECKING:
    from handfast_ca.setup import Initialised

__all__ = ["init"]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--trust-domain", required=True, help="The name of the mesh, like prod.example.")
@click.option(
    "--passphrase-file", type=click.Path(dir_okay=False, path_type=Path), help="Seals both keys with its first line."
)
@click.option("--no-passphrase", is_flag=True, help="Leave the keys to be protected by their file mode alone.")
@click.option(
    "--issuer-key",
    type=click.Choice(["p256", "p384"]),
    default="p256",
    show_default=True,
    help="The issuing CA's key. The root's is P-384.",
)
@click.option("--grpc", default="127.0.0.1:7443", show_default=True, metavar="HOST:PORT", help="Where mTLS is served.")
@click.option(
    "--enrol", default="127.0.0.1:7444", show_default=True, metavar="HOST:PORT", help="Where workloads enrol."
)
@click.option(
    "--http", default="127.0.0.1:7080", show_default=True, metavar="HOST:PORT", help="Where public facts are served."
)
@click.option("--public-url", default="", help="What certificates say about where CRLs are. [default: http://HTTP]")
@click.option("--server-name", "names", multiple=True, default=("localhost",), help="DNS name of the CA. Repeatable.")
@click.option(
    "--write-context/--no-write-context",
    default=None,
    help="Also make it the operator's context that every command finds by itself; asked for at a terminal.",
)
@output_option
def init(
    directory: Path,
    trust_domain: str,
    passphrase_file: Path | None,
    no_passphrase: bool,
    write_context: bool | None,
    output: str,
    **wishes: object,
) -> None:
    """Make a root, an issuing CA and DIRECTORY/handfast.yaml, and print the root's fingerprint.

    The first operator's certificate and context come into DIRECTORY/operator. Refuses a directory that has a CA, or
    anything else, in it.
    """
    from handfast.clock import SystemClock
    from handfast.identity import TrustDomain, parse_dns_name
    from handfast_ca.cli.operator import issue_operator
    from handfast_ca.setup import Wishes, check_free, initialise

    names = tuple(parse_dns_name(str(name)) for name in wishes.pop("names", ()))  # type: ignore[attr-defined]
    wanted = Wishes(
        TrustDomain(trust_domain),
        server_names=names,
        passphrase_file=passphrase_file,
        **{key: str(value) for key, value in wishes.items()},
    )
    check_free(directory)
    place = _context_place(wanted.trust_domain.name, write_context)
    passphrase = _passphrase(passphrase_file, no_passphrase)
    made = initialise(directory, wanted, passphrase=passphrase, now=SystemClock().now())
    context = issue_operator(made.config, directory / "operator", passphrase)
    if place is not None:
        _keep_context(context, place)
    _print(made, trust_domain, place or context, output)
    note(f"CA of {trust_domain} in {directory}; its issuing CA ends {shown_time(made.issuer_not_after)}")
    note(f"keep {directory}/root/root.key somewhere else: only the next ceremony needs it")
    if place is None:
        note(f"next: export HANDFAST_CONTEXT={context.absolute()}")


def _passphrase(file: Path | None, none: bool) -> bytes | None:
    from handfast_ca.custody.passphrase import read_passphrase

    if file is not None and none:
        raise click.UsageError("--no-passphrase and --passphrase-file exclude each other")
    if file is not None:
        return read_passphrase(file)
    if none:
        return None
    if not sys.stdin.isatty():
        raise click.UsageError(
            "there is no terminal to ask for a passphrase at: give --passphrase-file, or --no-passphrase on purpose"
        )
    typed: str = click.prompt("Passphrase for the keys", hide_input=True, confirmation_prompt=True, err=True)
    return typed.encode("utf-8")


def _context_place(trust_domain: str, wanted: bool | None) -> Path | None:
    """Where to write it, or None. Decided before anything is made, and another CA's context is not written over
    without a word.
    """
    from handfast.cli.context import default_path
    from handfast.errors import Conflict

    place = default_path()
    if wanted and place.exists():
        raise Conflict(
            f"there is an operator's context {place} already",
            reason="CONTEXT_EXISTS",
            hint="move it away, or leave --write-context out and set HANDFAST_CONTEXT",
        )
    if wanted is None and sys.stdin.isatty():
        if place.exists():
            question = f"There is an operator's context {place} already. Replace it by that of {trust_domain}?"
            return place if click.confirm(question, default=False, err=True) else None
        question = f"Write the operator's context to {place}, where every command finds it?"
        return place if click.confirm(question, default=True, err=True) else None
    return place if wanted else None


def _keep_context(context: Path, place: Path) -> None:
    from dataclasses import replace

    from handfast.cli.context import load, render
    from handfast.cli.files import write_file

    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    moved = replace(load(str(context)), credentials=context.parent.resolve())
    write_file(place, render(moved).encode("utf-8"), mode=0o644)
    note(f"operator's context written to {place}")


def _print(made: Initialised, trust_domain: str, context: Path, output: str) -> None:
    if output in ("json", "yaml"):
        document = {
            "directory": str(made.directory),
            "config": str(made.config),
            "trust_domain": trust_domain,
            "root_fingerprint": made.root_fingerprint,
            "issuer_not_after": shown_time(made.issuer_not_after),
            "context": str(context),
        }
        print_document(document, output)
    else:
        print(made.root_fingerprint)
