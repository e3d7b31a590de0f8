"""The trust state as the command line shows it: fetched over HTTP from the context's CA (public facts)."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import click

from handfast.cli.context import load
from handfast.errors import Invalid, NotFound, Unavailable

__all__ = ["fetch_public", "trust_update"]

MAX_BYTES = 64 * 1024 * 1024


def trust_update(ctx: click.Context) -> Any:
    """The whole trust state, over mutual TLS. Returns a ``TrustUpdate`` message."""
    from handfast.cli.session import TIMEOUT, authority
    from handfast.wire.v1 import authority_pb2

    with authority(ctx) as stub:
        return stub.GetTrust(authority_pb2.GetTrustRequest(), timeout=TIMEOUT)


def fetch_public(ctx: click.Context, path: str) -> bytes:
    """One public file of the CA's HTTP port."""
    context = load(ctx.find_root().obj)
    if not context.http:
        raise Invalid("the context names no HTTP address", reason="NO_HTTP", hint="add `http: http://HOST:7080` to it")
    url = context.http.rstrip("/") + path
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  the operator's own context names the URL
            body: bytes = response.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise NotFound(f"{url} answers {error.code} {error.reason}", reason="NOT_FOUND") from error
    except OSError as error:
        raise Unavailable(f"{url} cannot be reached: {error}", hint="is the CA running? `handfast ca serve`") from error
    if len(body) > MAX_BYTES:
        raise Invalid(f"{url} answers more than {MAX_BYTES} bytes", reason="TOO_LARGE")
    return body
