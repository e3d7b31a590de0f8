"""Running streams: who calls on each, and ending those whose caller is no longer good.

One thread watches all streams of a guard. It wakes when the source publishes, when the next certificate expires, and once a
second besides, so that a clock that was set or a machine that slept does not keep a stream alive.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from handfast.certificates import Leaf
from handfast.errors import HandfastError
from handfast.rpc.judging import Judge

__all__ = ["RunningStream", "StreamWatch"]

_log = logging.getLogger(__name__)
LONGEST_SLEEP = 1.0


@dataclass(eq=False, slots=True)
class RunningStream:
    """One stream. ``end`` is called once, on the watch's thread, after ``ended_by`` was set."""

    leaf: Leaf
    intermediates: bytes
    method: str
    end: Callable[[], None]
    ended_by: HandfastError | None = field(default=None)


class StreamWatch:
    """Judges running streams again when there is news."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._streams: set[RunningStream] = set()
        self._wake = threading.Condition()
        self._news = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def add(self, stream: RunningStream) -> None:
        with self._wake:
            self._streams.add(stream)
            if self._thread is None and not self._closed:
                self._unsubscribe = self._judge.source.subscribe(self._on_news)
                self._thread = threading.Thread(target=self._run, name="handfast-streams", daemon=True)
                self._thread.start()
            # Judged between the call's admission and this registration is nobody: look once more.
            self._news = True
            self._wake.notify()

    def remove(self, stream: RunningStream) -> None:
        with self._wake:
            self._streams.discard(stream)

    def sweep(self) -> None:
        """Judges every stream now, and ends those that must end."""
        with self._wake:
            streams = tuple(self._streams)
        for stream in streams:
            reason = self._judge.still_good(stream.leaf, stream.intermediates, stream.method)
            if reason is not None:
                self._end(stream, reason)

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread, unsubscribe = self._thread, self._unsubscribe
        if unsubscribe is not None:
            unsubscribe()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def _on_news(self, _credentials: object) -> None:
        with self._wake:
            self._news = True
            self._wake.notify()

    def _end(self, stream: RunningStream, reason: HandfastError) -> None:
        with self._wake:
            if stream not in self._streams:
                return
            self._streams.discard(stream)
        stream.ended_by = reason
        _log.info("stream %s of %s ends: %s", stream.method, stream.leaf, reason.reason)
        if self._judge.observer is not None:
            self._judge.observer.stream_ended(stream.method, reason.reason)
        stream.end()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._news and not self._closed:
                    self._wake.wait(self._until_next())
                if self._closed:
                    return
                self._news = False
            self.sweep()

    def _until_next(self) -> float | None:
        if not self._streams:
            return None
        soonest = min(stream.leaf.expires_at for stream in self._streams)
        return min(max(soonest - self._judge.now(), 0.0) + 0.001, LONGEST_SLEEP)
