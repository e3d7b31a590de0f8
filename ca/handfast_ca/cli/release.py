"""``handfast ca release``: ends the quarantine of a restored CA, through the CA or on its own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from handfast.cli.crl import shown_number
from handfast.cli.output import Column, emit_one, note, output_option
from handfast.cli.session import TIMEOUT, registry

__all__ = ["release"]

_COLUMNS = [
    Column("answered", "answered"),
    Column("expected", "expected"),
    Column("learnt", "learnt"),
    Column("CRL number", lambda row: shown_number(row["crl_number"])),
]


@click.command()
@click.option("--accept-loss", is_flag=True, help="Although some have not answered: shown in `status` for ever.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="On the CA's machine while it is stopped, without an operator's certificate.",
)
@output_option
@click.pass_context
def release(ctx: click.Context, accept_loss: bool, config_file: Path | None, output: str) -> None:
    """End the quarantine of a restored CA, so that it signs again.

    Without --accept-loss only when everybody that is expected has answered. Revocations that only the silent ones know
    of are lost then: what was revoked after the backup may be accepted again until it expires.

    Needs credentials that were made since the restore: `handfast ca operator` makes them.
    """
    done = _through(ctx, accept_loss) if config_file is None else _here(config_file, accept_loss)
    emit_one(done, _COLUMNS, output, name="crl_number")
    note("the CA signs again")


def _through(ctx: click.Context, accept_loss: bool) -> dict[str, Any]:
    from handfast.wire.v1 import registry_pb2

    with registry(ctx) as stub:
        done = stub.Release(registry_pb2.ReleaseRequest(accept_loss=accept_loss), timeout=TIMEOUT)
    return {
        "answered": done.answered,
        "expected": done.expected,
        "learnt": done.learnt,
        "crl_number": done.crl_number,
    }


def _here(config_file: Path, accept_loss: bool) -> dict[str, Any]:
    import asyncio

    from handfast_ca.cli.operator import passphrase_of
    from handfast_ca.config import load
    from handfast_ca.serve import open_authority

    config = load(config_file)
    passphrase = passphrase_of(config)

    async def end() -> dict[str, Any]:
        async with open_authority(config, passphrase) as authority:
            await authority.witnesses.release(by="ca release", accept_loss=accept_loss)
            crl = authority.trust().crls[authority.issuer.key_id]
            return {
                "answered": authority.witnesses.answered,
                "expected": authority.witnesses.expected,
                "learnt": authority.quarantine.learnt,
                "crl_number": str(crl.number),
            }

    return asyncio.run(end())
