"""Credentials from the agent beside us: one whole snapshot at every change, over its Unix socket. Of revocation lists only what
changed is sent; each is put together and verified here, on a thread of its own, and calls see the swap of one reference."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc

from handfast.access import AccessPolicy
from handfast.clock import Clock, SystemClock
from handfast.credentials import Credentials, Subscriber
from handfast.errors import HandfastError, Unavailable
from handfast.revocation import EMPTY, Revocations
from handfast.sources.static import StaticSource
from handfast.wire.codec import snapshot_from_wire
from handfast.wire.reports import service_report
from handfast.wire.v1.workload_pb2 import CredentialsSnapshot, WatchCredentialsRequest
from handfast.wire.v1.workload_pb2_grpc import WorkloadStub

__all__ = ["SocketSource"]

_log = logging.getLogger(__name__)
_HEADER = (("workload.spiffe.io", "true"),)
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # a list of a hundred thousand has five (threat H6)
)
_REPORT_SECONDS = 5.0
_SETTLE = 0.1
"""Seconds until it is reported what is enforced: calls are judged by it already, and nobody who is to be told of it waits for that."""
_PAUSE = 0.05
"""Seconds between the end of a stream and the next: the agent was restarted."""


class SocketSource:
    """Follows ``handfast.v1.Workload`` of an agent.

    The first snapshot is awaited for ``wait`` seconds; then ``Unavailable`` (``NO_AGENT`` when nobody answers,
    ``NO_CREDENTIALS`` when the agent has none yet) is raised. Later an agent that is away changes nothing: the last snapshot
    stays until it expires, and revocations only move forward. A snapshot that the agent withdraws is withdrawn here.
    """

    def __init__(self, path: Path | str, *, wait: float = 30.0, clock: Clock | None = None) -> None:
        self._path = Path(path)
        self._clock = clock or SystemClock()
        self._holder = StaticSource()
        self._lists = EMPTY
        self._octets: tuple[object, ...] = ()
        self._answered = threading.Event()
        self._arrived = threading.Event()
        self._closed = threading.Event()
        self._instance = secrets.token_hex(8)
        self._policies: list[AccessPolicy] = []
        self._to_report = threading.Event()
        self._reporting: grpc.Future[Any] | None = None
        self._channel = grpc.insecure_channel(f"unix:{self._path.absolute()}", _OPTIONS)
        self._stub = WorkloadStub(self._channel)
        self._thread = threading.Thread(target=self._follow, name="handfast-socket", daemon=True)
        self._thread.start()
        self._reporter = threading.Thread(target=self._keep_reporting, name="handfast-reports", daemon=True)
        self._reporter.start()
        if not self._arrived.wait(wait):
            self.close()
            raise self._absent(wait)

    def current(self) -> Credentials:
        return self._holder.current()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._holder.subscribe(subscriber)

    def report_policy(self, policy: AccessPolicy) -> None:
        """Lets operators see it (``handfast blast-radius``), and with every snapshot which lists are enforced here."""
        self._policies.append(policy)
        self._to_report.set()

    def _keep_reporting(self) -> None:
        while self._to_report.wait() and not self._closed.wait(_SETTLE):
            self._to_report.clear()
            self._report()

    def _report(self) -> None:
        """Without waiting for an answer: an agent that does not know this call, or is away, costs nothing."""
        present = self._holder.peek()
        if present is None or self._closed.is_set():
            return
        report = service_report(self._instance, tuple(self._policies), present.revocations)
        with contextlib.suppress(ValueError):  # we closed the channel
            # Kept, since grpc cancels a call that nobody holds any more.
            self._reporting = self._stub.Report.future(report, metadata=_HEADER, timeout=_REPORT_SECONDS)

    def close(self) -> None:
        self._closed.set()
        self._to_report.set()
        self._channel.close()
        self._thread.join(timeout=5)
        self._reporter.join(timeout=5)
        self._holder.close()

    def _absent(self, waited: float) -> Unavailable:
        if self._answered.is_set():
            return Unavailable(
                f"the agent at {self._path} has no credentials after {waited:g} s",
                reason="NO_CREDENTIALS",
                hint="`handfast agent status` shows what it waits for",
            )
        return Unavailable(
            f"no agent answers at {self._path} after {waited:g} s",
            reason="NO_AGENT",
            hint="is `handfast agent run` running, and is `socket` in its configuration this path?",
        )

    def _follow(self) -> None:
        while not self._closed.is_set():
            self._lists = EMPTY
            with contextlib.suppress(grpc.RpcError, ValueError):  # it went away; or we closed the channel
                asked = WatchCredentialsRequest(crl_changes=True)
                stream = self._stub.WatchCredentials(asked, metadata=_HEADER, wait_for_ready=True)
                for message in stream:
                    if not self._take(message):
                        stream.cancel()  # the next one begins with everything
                        break
            self._closed.wait(_PAUSE)

    def _take(self, message: CredentialsSnapshot) -> bool:
        """False when it tells of a change that leads nowhere from what this stream said before."""
        self._answered.set()
        present = self._holder.peek()
        before = self._lists if self._lists.lists or present is None else present.revocations
        octets = (message.private_key, tuple(message.chain), message.bundle.SerializeToString(deterministic=True))
        same = present if octets == self._octets else None
        try:
            fresh = snapshot_from_wire(message, now=self._clock.now(), before=before, same=same)
        except HandfastError as error:
            _log.error("the new credentials of the agent are not used: %s", error.message)
            return error.reason != "CRL_CHANGE_UNUSABLE"
        self._lists = EMPTY if fresh is None else fresh.revocations
        self._octets = octets
        if fresh is not None and present is not None:
            fresh = replace(fresh, revocations=_forward(fresh.revocations, present.revocations))
        if fresh is not None or present is not None:
            self._holder.publish(fresh)
        if fresh is not None:
            self._arrived.set()
            self._to_report.set()
        return True


def _forward(fresh: Revocations, known: Revocations) -> Revocations:
    """``fresh``, with what ``known`` knows better: an agent that was set back cannot take a revocation back."""
    lists = dict(fresh.lists)
    for older in known.lists.values():
        given = lists.get(older.issuer_key_id)
        if given is None or given.number < older.number:
            lists[older.issuer_key_id] = older
    return Revocations(MappingProxyType(lists), fresh.announced).announce(known.announced)
