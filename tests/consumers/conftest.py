"""A CA for the consumers' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from handfast.sources import StaticSource
from handfast.testing import TestAuthority
from tests.consumers.members import TRUST_DOMAIN
from tests.consumers.upstream import Upstream, upstream
from tests.peers.authority import PeerAuthority, running


@pytest.fixture
async def peer() -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority(TRUST_DOMAIN))) as up:
        yield up


@pytest.fixture
def service(peer: PeerAuthority) -> Iterator[Upstream]:
    """What a proxy serves. It hears neither of its own revocation nor of anybody's."""
    with upstream(StaticSource(peer.authority.issue("/orders"))) as behind:
        yield behind
