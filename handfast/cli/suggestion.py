"""Did you mean: an identity that the CA does not know, and one that it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import click

from handfast.errors import HandfastError

__all__ = ["suggesting"]

_UNKNOWN = frozenset({"NO_ENTRY", "NO_CERTIFICATE"})
MAX_LOOKED_AT = 500
"""Entries that are compared: the first page. In a larger mesh a suggestion may be missing, the error never is."""


@contextmanager
def suggesting(ctx: click.Context, identity: str) -> Iterator[None]:
    """An error that says that ``identity`` is unknown gets a hint that names the entry nearest to it."""
    try:
        yield
    except HandfastError as error:
        near = _nearest(ctx, identity) if error.reason in _UNKNOWN and identity.startswith("spiffe:") else ""
        if near:
            error.hint = f"did you mean {near}?"
        raise


def _nearest(ctx: click.Context, identity: str) -> str:
    """Empty when there is none, or when nobody can be asked: the first error is the one to tell."""
    from handfast.cli.session import TIMEOUT, registry
    from handfast.wire.v1 import registry_pb2

    try:
        with registry(ctx) as stub:
            page = stub.ListEntries(registry_pb2.ListEntriesRequest(page_size=MAX_LOOKED_AT), timeout=TIMEOUT)
    except HandfastError:
        return ""
    known = [entry.spiffe_id for entry in page.entries if entry.spiffe_id != identity]
    return next(iter(get_close_matches(identity, known, n=1, cutoff=0.8)), "")
