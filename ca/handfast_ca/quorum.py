"""When a restored CA has heard enough: a pure rule, made from the configuration once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.identity import SpiffeId

__all__ = ["EVERYBODY", "Quorum"]


@dataclass(frozen=True, slots=True)
class Quorum:
    """``identities``: so many must have answered; None: every one that is expected, and one at least.

    ``wait``: after so long it is enough whoever answered; None: never. What only the silent ones knew is lost then.
    """

    identities: int | None = None
    wait: timedelta | None = None

    def is_met(self, answered: Collection[SpiffeId], missing: Collection[SpiffeId]) -> bool:
        """By answers alone. Nobody at all is never enough: a ledger whose certificates all expired proves nothing."""
        if self.identities is not None:
            return len(answered) >= self.identities
        return bool(answered) and not missing

    def is_over(self, since: datetime, now: datetime) -> bool:
        return self.wait is not None and now - since >= self.wait


EVERYBODY = Quorum()
