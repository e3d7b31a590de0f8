"""What the guard refuses, written down as every other decision is: by the hand that counts storms (threats G6, H8)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from handfast.certificates import Leaf
from handfast.errors import HandfastError
from handfast_ca.refusals import RefusalLog
from handfast_ca.service.answering import peer_address

__all__ = ["TurnedAway"]

_log = logging.getLogger(__name__)


class TurnedAway:
    """The guard's ``on_refusal``. Heard on any thread, written on the loop that made this, soon after the answer: a guard
    waits for no disk.
    """

    def __init__(self, refusals: RefusalLog) -> None:
        self._refusals = refusals
        self._loop = asyncio.get_running_loop()
        self._writing: set[asyncio.Task[None]] = set()

    def __call__(self, context: Any, method: str, error: HandfastError) -> None:
        address, identity = peer_address(context), _presented(context)
        self._loop.call_soon_threadsafe(self._begin, method, error, address, identity)

    async def written(self) -> None:
        """Returns when all that was heard is written down."""
        await asyncio.gather(*self._writing)

    def _begin(self, *heard: Any) -> None:
        task = self._loop.create_task(self._write(*heard))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, method: str, error: HandfastError, address: str, identity: str | None) -> None:
        source = identity or address
        try:
            await self._refusals.note(
                "call", error, source=source, method=method, spiffe_id=identity, peer_address=address
            )
        except HandfastError as trouble:
            _log.error("a refused call of %s is not in the audit trail: %s", source, trouble.message)


def _presented(context: Any) -> str | None:
    """The SPIFFE ID of the certificate that was shown; whether it is worth something is what the reason says."""
    shown = context.auth_context().get("x509_pem_cert")
    try:
        return str(Leaf.parse_pem(shown[0]).spiffe_id) if shown else None
    except HandfastError:
        return None
