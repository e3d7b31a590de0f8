"""A source whose owner publishes: the agent's and the CA's own, and what tests use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from handfast.credentials import Credentials, Subscriber
from handfast.errors import Unavailable

__all__ = ["StaticSource"]

_log = logging.getLogger(__name__)


class StaticSource:
    """Holds one snapshot until somebody publishes another. Safe to use from any thread.

    Also the part of every other source that keeps the snapshot and tells the subscribers, in order.
    """

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._present = credentials
        self._subscribers: dict[object, Subscriber] = {}
        self._lock = threading.RLock()

    def current(self) -> Credentials:
        present = self._present
        if present is None:
            raise Unavailable(
                "there are no credentials",
                reason="NO_CREDENTIALS",
                hint="has the agent enrolled? `handfast agent status` shows what it waits for",
            )
        return present

    def peek(self) -> Credentials | None:
        """As :meth:`current`, with None where that raises."""
        return self._present

    def publish(self, credentials: Credentials | None) -> None:
        """Swaps the snapshot, then tells every subscriber. None withdraws."""
        with self._lock:
            self._present = credentials
            for subscriber in tuple(self._subscribers.values()):
                try:
                    subscriber(credentials)
                except Exception:  # noqa: BLE001 - one subscriber's fault must not keep a revocation from the others
                    _log.exception("a subscriber to credentials failed")

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        token = object()
        with self._lock:
            self._subscribers[token] = subscriber

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(token, None)

        return unsubscribe

    def close(self) -> None:
        with self._lock:
            self._subscribers.clear()
