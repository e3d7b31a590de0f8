"""Tells the CA what this agent and the services beside it enforce: after every change, and every few minutes.

For operators who look how far a revocation has come. A report that does not arrive costs nothing but their view.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

from handfast.errors import HandfastError, Invalid
from handfast.sources.static import StaticSource
from handfast.wire.reports import MAX_REPORT_BYTES, MAX_SERVICES, check_service_report, lists_to_wire
from handfast.wire.v1 import report_pb2
from handfast_agent.driver import Driver
from handfast_agent.upstream import Upstream

__all__ = ["Reporting"]

_log = logging.getLogger(__name__)
AGAIN = 300.0
"""Seconds after which a report is repeated: the CA forgets after three times as long."""
UNCONNECTED, REFUSED = 1.0, 60.0
"""Seconds after which one is said again that could not be sent, or was not taken."""
SERVICE_LIFETIME = 7200.0
"""Seconds. A service reports with every snapshot, and a list is published every hour."""
SETTLE = 0.2
"""Seconds that are waited for what follows a change: the services' confirmations, the list after the announcement. Up
to twice of it, so that agents do not all speak at once."""


class Reporting:
    """Used from one event loop."""

    def __init__(
        self,
        driver: Driver,
        upstream: Upstream,
        source: StaticSource,
        draw: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._driver = driver
        self._upstream = upstream
        self._source = source
        self._draw = draw
        self._monotonic = monotonic
        self._instance = secrets.token_hex(8)
        self._services: dict[str, tuple[float, report_pb2.ServiceReport]] = {}
        self._changed = asyncio.Event()

    def take(self, report: report_pb2.ServiceReport) -> None:
        """From a service, in place of its last one. Raises ``Invalid`` (``INVALID_REPORT``)."""
        check_service_report(report)
        self._sweep()
        self._services.pop(report.instance, None)
        if len(self._services) >= MAX_SERVICES:
            raise Invalid(f"{MAX_SERVICES} services report to this agent already", reason="INVALID_REPORT")
        self._services[report.instance] = (self._monotonic(), report)
        self._changed.set()

    def _sweep(self) -> None:
        until = self._monotonic() - SERVICE_LIFETIME
        self._services = {name: kept for name, kept in self._services.items() if kept[0] > until}

    def report(self) -> report_pb2.StatusReport:
        """Everything, or as many services as there is room for."""
        self._sweep()
        lists = lists_to_wire(self._driver.trust.revocations)
        made = report_pb2.StatusReport(instance=self._instance, lists=lists)
        for _, service in self._services.values():
            if made.ByteSize() + service.ByteSize() + 16 <= MAX_REPORT_BYTES:
                made.services.append(service)
        return made

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()

        def changed(_present: object) -> None:
            loop.call_soon_threadsafe(self._changed.set)

        unsubscribe = self._source.subscribe(changed)
        try:
            while True:
                longest = await self._tell()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), longest)
        finally:
            unsubscribe()

    async def _tell(self) -> float:
        """Returns the seconds until it is said again, if nothing changes."""
        await asyncio.sleep(SETTLE * (1 + self._draw()))
        self._changed.clear()
        try:
            await self._upstream.report(self.report())
        except HandfastError as error:
            _log.debug("not reported: %s (%s)", error.message, error.reason)
            return UNCONNECTED if error.reason == "NOT_CONNECTED" else REFUSED
        return AGAIN
