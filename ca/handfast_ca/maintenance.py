"""What recurs while a CA serves: a table of jobs, each one call into the core, and APScheduler, which calls them.

A job that is late runs once, and never beside itself. One that fails is logged and runs again in its turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from handfast_ca.alarm import ExpiryAlarm
from handfast_ca.authority import Authority

__all__ = ["Recurring", "kept_up", "recurring"]

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ATTEMPTS = 20
"""In the life of the CA's own certificate, half of which fall after it is due: nobody speaks to a CA that expired."""
Job = Callable[[], Awaitable[object] | object]


@dataclass(frozen=True, slots=True)
class Recurring:
    """One call, and how often. ``at_start``: also as soon as the CA serves."""

    name: str
    call: Job
    every: timedelta
    at_start: bool = False


def recurring(
    authority: Authority, *, renew_own: Job, own_life: timedelta, tell_refusals: Job, ocsp: bool
) -> tuple[Recurring, ...]:
    """All of it. The list is made anew four times in its life at least, so that some may be missed (:class:`Profile`)."""
    return (
        Recurring("publish the list", authority.publish_crl, authority.profile.publish_every),
        Recurring("renew our certificate", renew_own, own_life / ATTEMPTS),
        *([Recurring("renew the OCSP signer", authority.responder.signers.renew_if_due, MINUTE)] if ocsp else []),
        Recurring("look for witnesses", authority.witnesses.look_again, MINUTE),
        Recurring("remember the end of the audit log", authority.checkpoint_audit, MINUTE),
        Recurring("write down refusals", tell_refusals, MINUTE),
        Recurring("forget what expired", authority.forget_expired, HOUR),
        Recurring("look at our end", ExpiryAlarm(authority.issuer, authority.time).look, HOUR, at_start=True),
    )


@contextmanager
def kept_up(jobs: Iterable[Recurring], *, now: datetime) -> Iterator[None]:
    """Until the block ends, on the running loop."""
    scheduler = AsyncIOScheduler(
        timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
    )
    for job in jobs:
        first = {"next_run_time": now} if job.at_start else {}
        scheduler.add_job(job.call, "interval", name=job.name, seconds=job.every.total_seconds(), **first)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)
