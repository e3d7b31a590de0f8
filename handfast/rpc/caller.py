"""Who calls: the identity that our own handshake proved, for the handler that serves the call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from handfast.certificates import Leaf
from handfast.errors import Unauthenticated
from handfast.identity import SpiffeId

__all__ = ["Caller", "caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The peer of one call, as the guard let it pass.

    >>> from handfast.testing import TestAuthority
    >>> web = Caller(TestAuthority("prod.example").issue("/web").leaf)
    >>> str(web), web.spiffe_id.path
    ('spiffe://prod.example/web', '/web')
    """

    leaf: Leaf

    @property
    def spiffe_id(self) -> SpiffeId:
        return self.leaf.spiffe_id

    def __str__(self) -> str:
        return str(self.leaf.spiffe_id)


present: ContextVar[Caller] = ContextVar("handfast.caller")


def caller() -> Caller:
    """The caller of the call that this code serves.

    Works in sync and aio handlers, unary and streaming, and in tasks and coroutines that they start; not in threads that
    they start (copy the context: ``contextvars.copy_context().run``). Raises ``Unauthenticated`` (``NO_CALLER``)
    outside of a guarded call, and in methods that are open to callers without a certificate.

    >>> def place(request, context):  # a handler of a server with the guard among its interceptors
    ...     return f"ordered by {caller()}".encode()
    >>> place(b"teapot", None)  # and nobody calls here
    Traceback (most recent call last):
    handfast.errors.Unauthenticated: there is no proven caller here
    """
    try:
        return present.get()
    except LookupError:
        raise Unauthenticated(
            "there is no proven caller here",
            reason="NO_CALLER",
            hint="is the guard among the server's interceptors, and is this code part of serving a call?",
        ) from None
