"""``handfast.v1.Authority``: what workloads ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from handfast.certificates import Leaf
from handfast.errors import Invalid
from handfast.rpc.caller import caller
from handfast.wire import codec
from handfast.wire.crls import known_from_wire
from handfast.wire.v1 import authority_pb2, report_pb2, trust_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityServicer
from handfast_ca.authority import Authority, Issued
from handfast_ca.enrolment import Enrolment, Renewal
from handfast_ca.service.answering import answer, peer_address
from handfast_ca.service.answers import TrustMessages, issued_message
from handfast_ca.service.blast import read_report
from handfast_ca.service.gate import Gate
from handfast_ca.service.witness import read_checkpoint, read_list

__all__ = ["AuthorityService"]

LISTS_AT_ONCE = 4
"""Offered by agents, in memory at one time."""


class AuthorityService(AuthorityServicer):
    """The guard stands before every method; the renewing identity is the one that it proved, never one in a message."""

    def __init__(self, authority: Authority, gate: Gate | None = None) -> None:
        self._authority = authority
        self._trust = TrustMessages(authority.feed.history)
        self._gate = gate or Gate(authority)
        self._one_list = asyncio.Semaphore(LISTS_AT_ONCE)

    async def Enrol(self, request: authority_pb2.EnrolRequest, context: Any) -> authority_pb2.IssuedCredentials:
        address = peer_address(context)
        return self._issued(await answer(context, self._gate.enrol(address, lambda: self._enrol(request, address))))

    async def _enrol(self, request: authority_pb2.EnrolRequest, address: str) -> Issued:
        async with self._gate.reading("enrol", source=address, peer_address=address):
            if request.WhichOneof("proof") != "join_token":
                raise Invalid("the request carries no proof", reason="NO_PROOF", hint="send a join token")
            lifetime = _lifetime(request)
        return await self._authority.enrol(
            Enrolment(
                token=request.join_token,
                csr=request.csr,
                lifetime=lifetime,
                spiffe_id=request.spiffe_id,
                peer_address=address,
            )
        )

    async def Renew(self, request: authority_pb2.RenewRequest, context: Any) -> authority_pb2.IssuedCredentials:
        address, presented = peer_address(context), caller().leaf
        work = self._gate.renew(str(presented.spiffe_id), address, lambda: self._renew(request, presented, address))
        return self._issued(await answer(context, work), request.crl_reader)

    async def _renew(self, request: authority_pb2.RenewRequest, presented: Leaf, address: str) -> Issued:
        identity = str(presented.spiffe_id)
        async with self._gate.reading("renew", source=identity, spiffe_id=identity, peer_address=address):
            known_from_wire(request.crl_reader)  # what cannot be read is refused before anything is issued
            lifetime = _lifetime(request)
        return await self._authority.renew(
            Renewal(presented=presented, csr=request.csr, lifetime=lifetime, peer_address=address)
        )

    async def GetTrust(self, request: authority_pb2.GetTrustRequest, context: Any) -> trust_pb2.TrustUpdate:
        return await answer(context, self._ask_trust(request.crl_reader))

    async def _ask_trust(self, reader: trust_pb2.CrlReader) -> trust_pb2.TrustUpdate:
        await self._gate.ask_trust(_identity())
        return self._trust.whole(self._authority.trust(), self._authority.time.wall(), reader)

    async def WatchTrust(
        self, request: authority_pb2.WatchTrustRequest, context: Any
    ) -> AsyncIterator[trust_pb2.TrustUpdate]:
        async with AsyncExitStack() as stack:
            await answer(context, stack.enter_async_context(self._gate.watch_trust(_identity())))
            async for change in self._authority.feed.watch():
                changed_at = self._authority.feed.changed_at
                if change.whole:
                    # Nothing was awaited since the feed looked: this is the state that its changes begin at.
                    yield await answer(context, self._whole(request.crl_reader))
                else:
                    yield self._trust.change(change, self._authority.time.wall(), changes=request.crl_reader.changes)
                    # Resumed when the connection has taken the message.
                    if not change.proves:
                        self._gate.metrics.pushed(self._authority.time.monotonic() - changed_at)

    async def OfferCheckpoint(self, request: authority_pb2.Checkpoint, context: Any) -> authority_pb2.CheckpointAnswer:
        return authority_pb2.CheckpointAnswer(wanted=await answer(context, self._hear(request)))

    async def _hear(self, request: authority_pb2.Checkpoint) -> tuple[bytes, ...]:
        await self._gate.ask_trust(_identity())
        return await self._authority.witnesses.hear(caller().spiffe_id, read_checkpoint(request))

    async def OfferCrl(
        self, request: AsyncIterator[authority_pb2.CrlPart], context: Any
    ) -> authority_pb2.OfferCrlResponse:
        return authority_pb2.OfferCrlResponse(learnt=await answer(context, self._take(request)))

    async def _take(self, parts: AsyncIterator[authority_pb2.CrlPart]) -> int:
        await self._gate.ask_trust(_identity())
        async with self._one_list:
            return await self._authority.witnesses.take(caller().spiffe_id, await read_list(parts))

    async def ReportStatus(self, request: report_pb2.StatusReport, context: Any) -> report_pb2.StatusReceipt:
        await answer(context, self._gate.report(_identity(), lambda: self._report(request)))
        return report_pb2.StatusReceipt()

    def _report(self, request: report_pb2.StatusReport) -> None:
        self._authority.reports.take(read_report(_identity(), request))

    async def _whole(self, reader: trust_pb2.CrlReader) -> trust_pb2.TrustUpdate:
        return self._trust.whole(self._authority.trust(), self._authority.time.wall(), reader)

    def _issued(self, issued: Issued, reader: trust_pb2.CrlReader | None = None) -> authority_pb2.IssuedCredentials:
        return issued_message(issued, self._trust.whole(issued.trust, self._authority.time.wall(), reader))


def _identity() -> str:
    return str(caller().spiffe_id)


def _lifetime(request: authority_pb2.EnrolRequest | authority_pb2.RenewRequest) -> timedelta | None:
    return codec.duration_from_wire(request.lifetime) if request.HasField("lifetime") else None
