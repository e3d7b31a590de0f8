"""``handfast ca backup`` and ``handfast ca restore``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from handfast.cli.crl import shown_number
from handfast.cli.output import Column, emit_one, note, output_option, shown_time

if TYPE_CHECKING:
    from handfast_ca.backup import BackedUp
    from handfast_ca.restore import Restored

__all__ = ["backup", "restore"]

_BACKUP = [
    Column("file", "file"),
    Column("trust domain", "trust_domain"),
    Column("root", "root"),
    Column("made", "made_at"),
    Column("entries", "entries"),
    Column("certificates", "certificates"),
    Column("revoked", "revoked"),
    Column("CRL number", lambda row: shown_number(row["crl_number"])),
    Column("audit records", "audit_records"),
    Column("private keys", "private_keys"),
    Column("members", "members"),
]
_RESTORE = [
    Column("CA", "config"),
    Column("backup of", "made_at"),
    Column("entries", "entries"),
    Column("certificates", "certificates"),
    Column("revoked", "revoked"),
    Column("kept from the ledger", "revocations_from_ledger"),
    Column("kept from the audit log", "revocations_from_audit"),
    Column("CRL number", lambda row: shown_number(row["crl_number"])),
    Column("written", "written"),
    Column("left as it was", "left"),
    Column("old ledger", "replaced"),
]


def _config_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path("handfast.yaml"),
        help=f"{text} [default: handfast.yaml here]",
    )


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_config_option("The CA's configuration.")
@click.option("--with-keys", is_flag=True, help="Also the issuing key, as the sealed file that it is.")
@click.option("--unsealed-keys", is_flag=True, help="With --with-keys: also a key that has no passphrase.")
@output_option
def backup(file: Path, config_file: Path, with_keys: bool, unsealed_keys: bool, output: str) -> None:
    """Write a backup of the CA to FILE, a new file of mode 0600, while the CA serves.

    In it are the configuration, the ledger as of one moment, the audit log, and the public certificates. No private
    key, unless asked for; the root's never. Run it on the CA's machine, as the CA's user.
    """
    from handfast.clock import SystemClock
    from handfast_ca.backup import Keys, back_up
    from handfast_ca.config import load

    if unsealed_keys and not with_keys:
        raise click.UsageError("--unsealed-keys goes together with --with-keys")
    keys = Keys.UNSEALED if unsealed_keys else Keys.SEALED if with_keys else Keys.NONE
    made = back_up(config_file, load(config_file), file, keys=keys, now=SystemClock().now())
    emit_one(_backup_row(file, made), _BACKUP, output, name="file")
    for line in _about(made):
        note(line)


def _backup_row(file: Path, made: BackedUp) -> dict[str, Any]:
    return {
        "file": str(file),
        "trust_domain": str(made.manifest.trust_domain),
        "root": made.manifest.root,
        "made_at": shown_time(made.manifest.made_at),
        **made.counts,
        "crl_number": str(made.counts["crl_number"]),
        "audit_records": made.audit.lines if made.audit else 0,
        "audit_hash": made.audit.position.hash if made.audit else None,
        "private_keys": made.keys.value,
        "members": sorted(made.manifest.sha256),
        "bytes": made.size,
    }


def _about(made: BackedUp) -> Iterator[str]:
    if made.audit is not None and not made.audit.intact:
        problem = made.audit.problems[0]
        yield f"warning: the audit log is in it as it is, and not intact: {problem.detail}"
    if made.keys.value == "none":
        yield "no private key is in it: keep the issuing key's file, or make a backup --with-keys, to serve from it"
    elif made.keys.value == "sealed":
        yield "the issuing key is in it, sealed: keep its passphrase somewhere else"
    else:
        yield "warning: the issuing key is in it and NOT sealed: whoever reads this file is the CA"


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_config_option("The CA's configuration; when it is missing, the CA is made there from the backup.")
@click.option("--merge", is_flag=True, help="Replace the ledger that is there, and keep its revocations.")
@output_option
def restore(file: Path, config_file: Path, merge: bool, output: str) -> None:
    """Restore the CA from the backup FILE, while it is stopped. No revocation that this machine knows is lost.

    Over a ledger that is there it needs --merge: certificates, revocations, CRL numbers and blocked keys of both are kept,
    entries are the backup's, join tokens are gone. What an audit log beside it knows as revoked is revoked. Files that
    are there already stay.

    Where no ledger was, the CA starts in quarantine: it signs nothing until the agents showed it the revocation lists that
    they hold, from which it takes back every revocation that it lost.
    """
    from handfast.clock import SystemClock
    from handfast_ca.restore import restore as run

    done = run(file, config_file, merge=merge, clock=SystemClock())
    emit_one(_restore_row(config_file, done), _RESTORE, output, name="config")
    for line in _next(config_file, done):
        note(line)


def _restore_row(config_file: Path, done: Restored) -> dict[str, Any]:
    return {
        "config": str(config_file),
        "trust_domain": str(done.manifest.trust_domain),
        "made_at": shown_time(done.manifest.made_at),
        **done.counts,
        "crl_number": str(done.counts["crl_number"]),
        "revocations_from_ledger": done.carried.revocations if done.carried else 0,
        "certificates_from_ledger": done.carried.certificates if done.carried else 0,
        "revocations_from_audit": done.recorded,
        "written": [str(path) for path in done.placed],
        "left": [str(path) for path in done.kept],
        "replaced": str(done.replaced) if done.replaced else None,
    }


def _next(config_file: Path, done: Restored) -> Iterator[str]:
    """What an operator has to know, and to do."""
    from datetime import timedelta

    from handfast.clock import SystemClock

    if done.carried is None:
        yield (
            f"quarantine: what was issued or revoked after {shown_time(done.manifest.made_at)} is unknown here, unless the "
            "audit log named it; the CA signs nothing until its agents told it (`handfast status`)"
        )
    else:
        yield from _entries("removed since the backup, and back", done.carried.returned)
        yield from _entries("made since the backup, and gone", done.carried.gone)
    if not done.config.issuer_key.exists():
        yield f"next: put the issuing key at {done.config.issuer_key}, mode 0600"
    if not (config_file.parent / "operator" / "tls.crt").exists():
        yield f"next: handfast ca operator --config {config_file}"
    late = SystemClock().now() - done.manifest.made_at > timedelta(hours=24)
    accept = " --accept-clock" if late and done.carried is None else ""
    yield f"next: handfast ca serve --config {config_file}{accept}"


def _entries(what: str, identities: tuple[str, ...]) -> Iterator[str]:
    if identities:
        more = f" and {len(identities) - 5} more" if len(identities) > 5 else ""
        yield f"warning: {what}: {', '.join(identities[:5])}{more}"
