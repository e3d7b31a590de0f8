"""The plain HTTP port's limits: on a request's head, on the time it may take, and on connections (threats H1, H2)."""

from __future__ import annotations

import asyncio
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from handfast_ca.config import Address

__all__ = ["HEAD_SECONDS", "MAX_CONNECTIONS", "MAX_HEAD_BYTES", "web_server"]

MAX_HEAD_BYTES = 16 * 1024
"""Of a request's line and headers together. More is 400."""

MAX_CONNECTIONS = 512
"""At one time; who comes beyond it is answered 503."""

HEAD_SECONDS = 5.0
"""Within which a request's head must be there, from the connection or from its first byte on."""


def web_server(application: ASGIApp, address: Address) -> uvicorn.Server:
    """Serves until its ``should_exit`` is set."""
    return uvicorn.Server(
        uvicorn.Config(
            application,
            address.host,
            address.port,
            http=_PromptProtocol,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
        )
    )


class _PromptProtocol(H11Protocol):
    """uvicorn limits the time between requests, not that before the first nor that for a head; this limits both."""

    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._calm()

    def _await_head(self) -> None:
        if not self._between_requests:
            self._calm()
        elif self._hurry is None:
            self._hurry = self.loop.call_later(HEAD_SECONDS, self._give_up)

    @property
    def _between_requests(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first, whatever uvicorn declares
        return cycle is None or cycle.response_complete

    def _calm(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _give_up(self) -> None:
        self._hurry = None
        if self._between_requests and not self.transport.is_closing():
            self.transport.close()
