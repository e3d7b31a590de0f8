"""How the lists of late came out of one another, so that who holds one of them can be told of the newest in a few steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from handfast.crl_change import ListStep
from handfast.revocation import RevocationList

__all__ = ["StepHistory"]

MOST_STEPS = 64
"""Who is further behind gets the whole list, as does who would get half as much in steps."""


class StepHistory:
    """One unbroken run of steps for each issuer, which ends at the newest list. Not safe to use from several threads."""

    def __init__(self) -> None:
        self._runs: dict[bytes, deque[ListStep]] = {}
        self._newest: dict[bytes, int] = {}

    def note(self, newest: RevocationList) -> None:
        """A list that was read whole, or that began elsewhere, begins a new run. Noting one twice is noting it once."""
        key_id = newest.issuer_key_id
        reached = self._newest.get(key_id)
        if reached == newest.number:
            return
        self._newest[key_id] = newest.number
        if not newest.steps or newest.steps[0].base_number != reached:
            self._runs[key_id] = deque(maxlen=MOST_STEPS)
        run = self._runs[key_id]
        run.extend(newest.steps)
        while run and _size(run) > _worth(newest):
            run.popleft()

    def steps(self, base_number: int, newest: RevocationList) -> tuple[ListStep, ...]:
        """From the list with ``base_number`` to ``newest``. Empty when they are not known: then the whole list is cheaper."""
        if self._newest.get(newest.issuer_key_id) != newest.number:
            return ()
        run = tuple(self._runs[newest.issuer_key_id])
        return next((run[at:] for at, step in enumerate(run) if step.base_number == base_number), ())


def _size(steps: Iterable[ListStep]) -> int:
    return sum(len(step.outline) + 4 * len(step.removed) for step in steps)


def _worth(newest: RevocationList) -> int:
    """Octets of steps that still cost less than the list; for a short list that does not count."""
    return len(newest.der) // 2 + 16 * 1024
