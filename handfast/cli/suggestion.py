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
    mesh, path = _split(identity)
    paths = [known[1] for known in (_split(entry.spiffe_id) for entry in page.entries) if known[0] == mesh]
    near = get_close_matches(path, [known for known in paths if known != path], n=1)
    return f"spiffe://{mesh}/{near[0]}" if near else ""


def _split(identity: str) -> tuple[str, str]:
    """Trust domain and path: the long part that all identities share would make all of them alike."""
    mesh, _, path = identity.removeprefix("spiffe://").partition("/")
    return mesh, path
