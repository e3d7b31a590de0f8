"""How long things live: parsed once, then a pure function of ``now``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.errors import Invalid, Refused, ViolationsCollector
from handfast.lifetime import Validity, format_duration
from handfast_ca.registration import MINIMUM_LIFETIME

__all__ = ["LONGEST_BACKDATE", "ONE_SECOND", "Profile"]

LONGEST_BACKDATE = timedelta(minutes=5)
ONE_SECOND = timedelta(seconds=1)
OUTAGE_SHARE = 0.45
"""Of a leaf's life: what the unluckiest agent has left when it renews, at half life and 5 % later. A CRL that ends before
takes the mesh down while every certificate in it is still good.
"""


@dataclass(frozen=True, slots=True)
class Profile:
    """Bounds for leaves and CRLs of one issuing CA. What cannot hold is refused when it is made.

    ``longest`` bounds every leaf, whatever its entry says. ``backdate`` hides clock skew between hosts; a leaf whose
    life is shorter than ten times of it is backdated by a tenth of its life, so that half of it is still ahead when
    it arrives.
    """

    longest: timedelta = timedelta(hours=24)
    backdate: timedelta = timedelta(seconds=30)
    crl_validity: timedelta = timedelta(hours=12)

    def __post_init__(self) -> None:
        found = ViolationsCollector()
        if self.longest < MINIMUM_LIFETIME:
            found.add(
                "longest",
                "LIFETIME",
                f"longest lifetime {format_duration(self.longest)} is below {format_duration(MINIMUM_LIFETIME)}",
            )
        if not timedelta() <= self.backdate <= LONGEST_BACKDATE:
            found.add(
                "backdate",
                "BACKDATE",
                f"backdate {format_duration(self.backdate)} is not 0s to {format_duration(LONGEST_BACKDATE)}",
            )
        if self.crl_validity < MINIMUM_LIFETIME:
            found.add(
                "crl_validity",
                "CRL_VALIDITY",
                f"CRL validity {format_duration(self.crl_validity)} is below {format_duration(MINIMUM_LIFETIME)}",
            )
        elif not self.longest * OUTAGE_SHARE <= self.crl_validity <= self.longest:
            found.add(
                "crl_validity",
                "CRL_VALIDITY",
                f"CRL validity {format_duration(self.crl_validity)} is not between {format_duration(self.longest * OUTAGE_SHARE)}, "
                f"what a leaf of {format_duration(self.longest)} has left when it is renewed, and that life itself",
            )
        found.raise_if_any("the profile is not valid", kind=Invalid)

    def validity(self, lifetime: timedelta, *, now: datetime, issuer_not_after: datetime) -> Validity:
        """Both ends of a leaf, picked by the CA alone (threat A16): ``lifetime`` counts the last second (RFC 5280,
        4.1.2.5).

        Ends at least one second before the issuer does. Raises ``Refused`` (``ISSUER_EXPIRING``) when less than a
        minute would be left: a truncated certificate that nobody can renew in time is worse than a clear refusal
        (threat J10).
        """
        moment = now.replace(microsecond=0)
        not_before = (moment - min(self.backdate, lifetime / 10)).replace(microsecond=0)
        wanted, latest = not_before + lifetime - ONE_SECOND, issuer_not_after - ONE_SECOND
        if wanted > latest and latest - moment < MINIMUM_LIFETIME:
            raise Refused(
                f"the issuing CA expires at {issuer_not_after:%Y-%m-%dT%H:%M:%SZ}, which leaves less than "
                f"{format_duration(MINIMUM_LIFETIME)} for a certificate",
                reason="ISSUER_EXPIRING",
                hint="`handfast ca rotate prepare` makes the next issuing CA",
            )
        return Validity(not_before, min(wanted, latest))
