"""The operator's own credentials: read from where the context says, and with revocation lists that are worth something.

No agent stands beside an operator, so each command looks after what an agent would: when the list in the directory is
stale, the CA's present one is fetched over HTTP and kept. It is signed, and only moves forward. The certificate itself is
renewed when the operator says so: ``handfast cert renew``.
"""

from __future__ import annotations

import stat
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from handfast.cli.context import Context
from handfast.cli.files import write_file
from handfast.cli.output import note, shown_time
from handfast.cli.trust import fetch_list
from handfast.credentials import Credentials
from handfast.errors import HandfastError, Invalid, NotFound, Unauthenticated
from handfast.revocation import Freshness, Revocations
from handfast.sources import DirectorySource

__all__ = ["operator_credentials", "read_credentials", "warn_of_expiry", "with_fresh_lists"]

WARN_BELOW = 0.25
"""Share of its life from which on every command says that the certificate ends soon."""


def operator_credentials(context: Context, now: datetime) -> Credentials:
    """Ready to be used. Raises ``Unauthenticated`` with the reason when they cannot be."""
    try:
        found = read_credentials(context.credentials)
    except Invalid:
        raise
    except HandfastError as error:
        raise Unauthenticated(
            f"the operator's credentials in {context.credentials} cannot be used: {error.message}",
            reason=error.reason,
            hint="on the CA's machine, `handfast ca operator` issues new ones",
        ) from error
    warn_of_expiry(found, now)
    _warn_of_a_wide_key(context.credentials / "tls.key")
    ready = with_fresh_lists(context, found, now)
    if ready is not found:
        _keep(context.credentials, ready.revocations)
    return ready


def read_credentials(directory: Path) -> Credentials:
    """One look at a directory in the layout that the agent writes."""
    with closing(DirectorySource(directory)) as source:
        return source.current()


def warn_of_expiry(credentials: Credentials, now: datetime) -> None:
    validity = credentials.leaf.validity
    if (validity.not_after - now) / validity.duration < WARN_BELOW:
        note(f"warning: your certificate ends {shown_time(validity.not_after)}; `handfast cert renew` renews it")


def _warn_of_a_wide_key(key: Path) -> None:
    """A warning and no refusal: a pod's mounted secret may be as wide as that (threat E1)."""
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        note(f"warning: {key} has mode {mode:04o}, and others may read it: chmod 600")


def with_fresh_lists(context: Context, credentials: Credentials, now: datetime) -> Credentials:
    """With the CA's present list where the own one is stale. What cannot be had stays as it is: whoever judges the CA's
    certificate then says that the list is too old, or goes on while it is only stale."""
    key_id = credentials.leaf.issuer_key_id
    if credentials.revocations.freshness(key_id, now) is Freshness.FRESH:
        return credentials
    try:
        known = credentials.revocations.with_list(fetch_list(context, credentials, issuer_key_id=key_id))
    except HandfastError as error:
        note(f"warning: no fresh revocation list: {error.message}")
        return credentials
    return replace(credentials, revocations=known)


def _keep(directory: Path, revocations: Revocations) -> None:
    """For the next command. An agent's directory is the agent's, and one that cannot be written to costs one request
    for each command, no more."""
    if not (directory / "..data").exists():
        with suppress(NotFound):
            write_file(directory / "crl.pem", revocations.pem, mode=0o644)
