"""The CA of the agent's tests without a network between: the same answers, read by the same code."""

from __future__ import annotations

from collections.abc import AsyncIterator

from handfast.credentials import Credentials
from handfast.errors import Unavailable
from handfast.identity import SpiffeId
from handfast.wire.v1 import report_pb2
from handfast_agent.acceptance import Answer
from handfast_agent.trust import News, Trust
from handfast_agent.upstream import read_answer, read_news
from tests.peers.authority import PeerAuthority


class DirectUpstream:
    """``Upstream`` over a peer in this process. ``up`` is the lever: False, and nobody answers."""

    def __init__(self, peer: PeerAuthority) -> None:
        self.peer = peer
        self.up = True

    async def enrol(self, token: str, csr: bytes, spiffe_id: SpiffeId, trust: Trust) -> Answer:
        self._reach()
        return read_answer(self.peer.enrol(token, csr))

    async def renew(self, present: Credentials, csr: bytes) -> Answer:
        self._reach()
        return read_answer(self.peer.renew(present.leaf, csr))

    async def get_trust(self, present: Credentials, trust: Trust, *, whole: bool = False) -> News:
        self._reach()
        return read_news(self.peer.trust())

    async def watch_trust(self, present: Credentials, trust: Trust) -> AsyncIterator[News]:
        self._reach()
        yield read_news(self.peer.trust())

    async def report(self, report: report_pb2.StatusReport) -> None:
        self._reach()
        self.peer.reports.append(report)

    def _reach(self) -> None:
        if not self.up:
            raise Unavailable("the CA is away")
