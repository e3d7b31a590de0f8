"""Identities for services: credentials that rotate, mutual TLS for gRPC, a revocation that bites within a second.

Five lines in a service::

    source = handfast.connect()
    guard = handfast.AioGuard(source, handfast.allow("spiffe://prod.example/web"))
    server = grpc.aio.server(interceptors=[guard])
    server.add_secure_port("0.0.0.0:8443", handfast.server_credentials(source))
    channel = handfast.aio_channel(source, "payments:8443", server="spiffe://prod.example/payments")

What is named here is imported when it is first used: a program pays for nothing else.

>>> import handfast
>>> handfast.SpiffeId.parse("spiffe://prod.example/web").path
'/web'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handfast.access import AccessPolicy, all_of, allow, any_of, in_trust_domain
    from handfast.certificates import Leaf
    from handfast.connecting import connect, from_directory, from_socket
    from handfast.credentials import Credentials, Source
    from handfast.errors import HandfastError
    from handfast.identity import SpiffeId, TrustDomain
    from handfast.revocation import FreshnessPolicy
    from handfast.rpc.aio_channel import AioChannel, aio_channel, aio_plain_channel
    from handfast.rpc.caller import Caller, caller
    from handfast.rpc.channel import Channel, channel, plain_channel
    from handfast.rpc.guard import AioGuard, Guard, GuardObserver
    from handfast.rpc.server import server_credentials
    from handfast.tls import client_context, server_context
    from handfast.wire.codec import from_rpc_error

_WHERE = {
    "handfast.access": ("AccessPolicy", "all_of", "allow", "any_of", "in_trust_domain"),
    "handfast.certificates": ("Leaf",),
    "handfast.connecting": ("connect", "from_directory", "from_socket"),
    "handfast.credentials": ("Credentials", "Source"),
    "handfast.errors": ("HandfastError",),
    "handfast.identity": ("SpiffeId", "TrustDomain"),
    "handfast.revocation": ("FreshnessPolicy",),
    "handfast.rpc.aio_channel": ("AioChannel", "aio_channel", "aio_plain_channel"),
    "handfast.rpc.caller": ("Caller", "caller"),
    "handfast.rpc.channel": ("Channel", "channel", "plain_channel"),
    "handfast.rpc.guard": ("AioGuard", "Guard", "GuardObserver"),
    "handfast.rpc.server": ("server_credentials",),
    "handfast.tls": ("client_context", "server_context"),
    "handfast.wire.codec": ("from_rpc_error",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "AccessPolicy",
    "AioChannel",
    "AioGuard",
    "Caller",
    "Channel",
    "Credentials",
    "FreshnessPolicy",
    "Guard",
    "GuardObserver",
    "HandfastError",
    "Leaf",
    "Source",
    "SpiffeId",
    "TrustDomain",
    "aio_channel",
    "aio_plain_channel",
    "all_of",
    "allow",
    "any_of",
    "caller",
    "channel",
    "client_context",
    "connect",
    "from_directory",
    "from_rpc_error",
    "from_socket",
    "in_trust_domain",
    "plain_channel",
    "server_context",
    "server_credentials",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'handfast' has no attribute {name!r}")
    found: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
