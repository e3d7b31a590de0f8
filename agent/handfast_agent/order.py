"""An order of the CA to renew: whom it concerns, and how much time it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.lifetime import Validity

__all__ = ["Order"]

ONE_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Order:
    """The CA wants every certificate renewed that it issued at ``tainted_at`` or before, on its clock.

    ``left`` is how much of ``window`` there was when it was sent; negative when it was over. ``backdate`` is how long
    before its moment of issue a certificate begins, at most a tenth of its life.
    """

    tainted_at: datetime
    window: timedelta
    left: timedelta
    backdate: timedelta

    def concerns(self, validity: Validity) -> bool:
        issued_at = validity.not_before + min(self.backdate, validity.duration / 10)
        return issued_at < self.tainted_at + ONE_SECOND
