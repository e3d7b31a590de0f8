"""A connection to the CA for one command: the operator's certificate, the CA's identity, errors in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from handfast.cli.context import Context, load
from handfast.credentials import Source

if TYPE_CHECKING:
    import grpc

    from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["TIMEOUT", "authority", "connected", "pages", "registry", "trust_update"]

TIMEOUT = timedelta(seconds=20).total_seconds()
"""Longest that one call of the command line waits, in seconds."""


@contextmanager
def registry(ctx: click.Context) -> Iterator[RegistryStub]:
    """The operators' service. Errors of the CA arrive as :class:`~handfast.errors.HandfastError`."""
    from handfast.wire.v1.registry_pb2_grpc import RegistryStub

    with _as_operator(ctx) as channel:
        yield RegistryStub(channel)


@contextmanager
def authority(ctx: click.Context) -> Iterator[AuthorityStub]:
    """The workloads' service, with the operator's certificate."""
    from handfast.wire.v1.authority_pb2_grpc import AuthorityStub

    with _as_operator(ctx) as channel:
        yield AuthorityStub(channel)


def trust_update(ctx: click.Context) -> Any:
    """The whole trust state, over mutual TLS. Returns a ``TrustUpdate`` message."""
    from handfast.wire.v1 import authority_pb2

    with authority(ctx) as stub:
        return stub.GetTrust(authority_pb2.GetTrustRequest(), timeout=TIMEOUT)


@contextmanager
def connected(source: Source, context: Context) -> Iterator[grpc.Channel]:
    """A channel to the context's CA with the credentials of ``source``; its errors arrive as ours."""
    import grpc

    from handfast.rpc.channel import channel
    from handfast.wire.codec import from_rpc_error

    with channel(source, context.authority, server=context.server) as opened:
        try:
            yield opened
        except grpc.RpcError as error:
            raise opened.failure or from_rpc_error(error) from error


def pages(call: Callable[..., Any], request: Any) -> Iterator[Any]:
    """Every page of a listing, the next one when it is wanted. ``request`` has a ``page_token``, which this changes."""
    while True:
        page = call(request, timeout=TIMEOUT)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


@contextmanager
def _as_operator(ctx: click.Context) -> Iterator[grpc.Channel]:
    from handfast.cli.operator import operator_credentials
    from handfast.clock import SystemClock
    from handfast.sources import StaticSource

    context = load(ctx.find_root().obj)
    source = StaticSource(operator_credentials(context, SystemClock().now()))
    with connected(source, context) as channel:
        yield channel
