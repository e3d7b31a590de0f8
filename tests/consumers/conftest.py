"""A CA for the consumers' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from handfast.testing import TestAuthority
from tests.consumers.members import TRUST_DOMAIN
from tests.peers.authority import PeerAuthority, running


@pytest.fixture
async def peer() -> AsyncIterator[PeerAuthority]:
    async with running(PeerAuthority(TestAuthority(TRUST_DOMAIN))) as up:
        yield up
