"""``handfast.v1.Authority``: what workloads ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from handfast.errors import Invalid
from handfast.rpc.caller import caller
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, trust_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityServicer
from handfast_ca.authority import Authority, Issued
from handfast_ca.enrolment import Enrolment, Renewal
from handfast_ca.service.answering import answer, peer_address
from handfast_ca.service.answers import TrustMessages, issued_message

__all__ = ["OPEN_METHODS", "AuthorityService"]

OPEN_METHODS = frozenset({"/handfast.v1.Authority/Enrol"})
"""All that a caller without a certificate may call."""


class AuthorityService(AuthorityServicer):
    """The guard stands before every method; the renewing identity is the one that it proved, never one in a message."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._trust = TrustMessages()

    async def Enrol(self, request: authority_pb2.EnrolRequest, context: Any) -> authority_pb2.IssuedCredentials:
        return await answer(context, self._enrol(request, peer_address(context)))

    async def _enrol(self, request: authority_pb2.EnrolRequest, address: str) -> authority_pb2.IssuedCredentials:
        if request.WhichOneof("proof") != "join_token":
            raise Invalid("the request carries no proof", reason="NO_PROOF", hint="send a join token")
        issued = await self._authority.enrol(
            Enrolment(
                token=request.join_token,
                csr=request.csr,
                lifetime=_lifetime(request),
                spiffe_id=request.spiffe_id,
                peer_address=address,
            )
        )
        return self._issued(issued)

    async def Renew(self, request: authority_pb2.RenewRequest, context: Any) -> authority_pb2.IssuedCredentials:
        return await answer(context, self._renew(request, peer_address(context)))

    async def _renew(self, request: authority_pb2.RenewRequest, address: str) -> authority_pb2.IssuedCredentials:
        presented = caller().leaf
        issued = await self._authority.renew(
            Renewal(presented=presented, csr=request.csr, lifetime=_lifetime(request), peer_address=address)
        )
        return self._issued(issued)

    async def GetTrust(self, request: authority_pb2.GetTrustRequest, context: Any) -> trust_pb2.TrustUpdate:
        return self._trust.whole(self._authority.trust(), self._authority.time.wall())

    async def WatchTrust(
        self, request: authority_pb2.WatchTrustRequest, context: Any
    ) -> AsyncIterator[trust_pb2.TrustUpdate]:
        async for change in self._authority.feed.watch():
            yield self._trust.change(change, self._authority.time.wall())

    def _issued(self, issued: Issued) -> authority_pb2.IssuedCredentials:
        return issued_message(issued, self._trust.whole(issued.trust, self._authority.time.wall()))


def _lifetime(request: authority_pb2.EnrolRequest | authority_pb2.RenewRequest) -> timedelta | None:
    return codec.duration_from_wire(request.lifetime) if request.HasField("lifetime") else None
