"""How long things live: parsed once, then a pure function of ``now``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from handfast.errors import Invalid, Refused, ViolationsCollector
from handfast.lifetime import RENEWAL_FRACTION, RENEWAL_JITTER, Validity, format_duration
from handfast.revocation import REFRESHES
from handfast_ca.registration import MINIMUM_LIFETIME

__all__ = ["DEFAULT_PROFILE", "LONGEST_BACKDATE", "ONE_SECOND", "Profile"]

LONGEST_BACKDATE = timedelta(minutes=5)
ONE_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Profile:
    """Bounds for leaves and CRLs of one issuing CA. What cannot hold is refused when it is made.

    ``longest`` bounds every leaf, whatever its entry says. ``backdate`` hides clock skew between hosts; a leaf whose
    life is shorter than ten times of it is backdated by a tenth of its life, so that half of it is still ahead when
    it arrives.

    A mesh has two fuses that burn when the CA is away: certificates that are not renewed, and revocation lists that are not. A
    leaf was renewed at the latest ``1 - f - j`` of its life before its end (f, j: :data:`RENEWAL_FRACTION`,
    :data:`RENEWAL_JITTER`). A list that lives shorter than that takes the mesh down before its certificates do; one that lives
    longer than a leaf says nothing that the leaf's expiry does not. A new list is made at least four times in its life, so that
    some may be missed.
    """

    longest: timedelta = timedelta(hours=24)
    backdate: timedelta = timedelta(seconds=30)
    crl_validity: timedelta = timedelta(hours=12)
    publish_every: timedelta = timedelta(hours=1)

    @classmethod
    def for_lifetime(cls, longest: timedelta) -> Profile:
        """What fits leaves of at most ``longest``: lists live half as long, a minute at least, and are made anew every hour, or
        oftener.
        """
        lives = max(longest / 2, MINIMUM_LIFETIME)
        return cls(longest=longest, crl_validity=lives, publish_every=min(timedelta(hours=1), lives / REFRESHES))

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
        self._check_fuses(found)
        found.raise_if_any("the profile is not valid", kind=Invalid)

    def _check_fuses(self, found: ViolationsCollector) -> None:
        """Says how it was reckoned, so that nobody needs to guess which of the numbers to change."""
        share = 1 - RENEWAL_FRACTION - RENEWAL_JITTER
        least, validity, longest = self.longest * share, *map(format_duration, (self.crl_validity, self.longest))
        if self.crl_validity < least:
            found.add(
                "crl_validity",
                "CRL_FUSE",
                f"CRL validity {validity} is below {format_duration(least)} = (1 - {RENEWAL_FRACTION} - {RENEWAL_JITTER}) * "
                f"{longest}, the longest lifetime: without the CA lists would end before the certificates do",
            )
        if self.crl_validity > self.longest:
            found.add(
                "crl_validity",
                "CRL_FUSE",
                f"CRL validity {validity} exceeds the longest lifetime {longest}: an old list would outlive every certificate",
            )
        if not timedelta() < self.publish_every <= self.crl_validity / REFRESHES:
            found.add(
                "publish_every",
                "CRL_INTERVAL",
                f"a CRL every {format_duration(self.publish_every)} is not one every "
                f"{format_duration(self.crl_validity / REFRESHES)} = {validity} / {REFRESHES}, or oftener",
            )

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


DEFAULT_PROFILE = Profile()
