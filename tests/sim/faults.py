"""Deliberate faults, one at a time: what shows that the simulation would find a real one."""

from __future__ import annotations

from dataclasses import dataclass

from handfast.errors import HandfastError
from handfast.rpc.caller import Caller
from handfast.rpc.judging import CallContext, Judge

__all__ = ["FAULTS", "CachingJudge", "Faults"]


@dataclass(frozen=True, slots=True)
class Faults:
    """Levers of the constructors of this package. All are off by default."""

    feed_forgets: float = 0.0
    """Share of the changes that a watcher is never told."""
    agents_poll: bool = True
    judge: type[Judge] = Judge
    disk_lies: bool = False
    """The CA's disk loses, in a crash, up to the last 20 seconds."""
    streams_are_watched: bool = True
    agents_dawdle: float = 1.0
    """An agent comes back after so many times as long as its driver said."""
    marks_are_kept: bool = True
    """Whether an agent finds what it remembered, and its files, when it starts again."""


class CachingJudge(Judge):
    """Does not look again at a caller that it let in before."""

    def admit(self, context: CallContext, method: str) -> Caller | None:
        seen: dict[bytes, Caller] = self.__dict__.setdefault("seen", {})
        pem = context.auth_context()["x509_pem_cert"][0]
        if pem not in seen:
            caller = super().admit(context, method)
            assert caller is not None
            seen[pem] = caller
        return seen[pem]

    def still_good(self, *_stream: object) -> HandfastError | None:
        return None


FAULTS = {
    "feed-forgets": Faults(feed_forgets=0.5),
    "agents-never-poll": Faults(agents_poll=False),
    "judge-caches": Faults(judge=CachingJudge),
    "disk-lies": Faults(disk_lies=True),
    "streams-unwatched": Faults(streams_are_watched=False),
    "agents-dawdle": Faults(agents_dawdle=12.0),
    "marks-lost": Faults(marks_are_kept=False),
}
"""By the name that ``python -m tests.sim --fault`` takes."""
