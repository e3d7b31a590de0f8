"""Which part of an authority stands on which: what is given once, and every part made of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from handfast.bundle import TrustBundle
from handfast.clock import Clock
from handfast.identity import SpiffeId, TrustDomain
from handfast_ca.audit_trail import AuditLog
from handfast_ca.cycle import Cycle
from handfast_ca.entries import Entries
from handfast_ca.feed import Feed, TrustState
from handfast_ca.issuer import Issuer
from handfast_ca.issuing import Issuing
from handfast_ca.ledger import Ledger
from handfast_ca.mass_revoker import MassRevoker
from handfast_ca.minting import Mint
from handfast_ca.ocsp.responder import Responder
from handfast_ca.ocsp.signer import Signers
from handfast_ca.planning import Planner
from handfast_ca.profile import Profile
from handfast_ca.publisher import Publisher
from handfast_ca.quarantine import Quarantine
from handfast_ca.quorum import Quorum
from handfast_ca.registrar import Registrar
from handfast_ca.registration import Entry
from handfast_ca.reissuer import Reissuer
from handfast_ca.reports import Reports
from handfast_ca.revoker import Revoker
from handfast_ca.timekeeper import Timekeeper
from handfast_ca.urls import PublicUrls
from handfast_ca.witnesses import Witnesses

__all__ = ["Parts"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Each is made when it is first asked for, and is the same from then on. None touches the ledger before it is started."""

    trust_domain: TrustDomain
    issuer: Issuer
    bundle: TrustBundle
    ledger: Ledger
    audit: AuditLog
    clock: Clock
    profile: Profile
    urls: PublicUrls | None
    reserved: Mapping[SpiffeId, Entry]
    quorum: Quorum
    random_bytes: Callable[[int], bytes]
    sleep: Callable[[float], Awaitable[None]]

    # --- what the others stand on -----------------------------------------------------------------------------------

    @cached_property
    def feed(self) -> Feed:
        return Feed(TrustState(self.bundle), self.clock.monotonic)

    @cached_property
    def time(self) -> Timekeeper:
        return Timekeeper(self.clock, self.ledger)

    @cached_property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.ledger, self.audit, self.time, backdate=self.profile.backdate)

    @cached_property
    def entries(self) -> Entries:
        return Entries(self.ledger, self.reserved)

    # --- who may become whom, and certificates ----------------------------------------------------------------------

    @cached_property
    def registrar(self) -> Registrar:
        return Registrar(
            trust_domain=self.trust_domain,
            profile=self.profile,
            ledger=self.ledger,
            audit=self.audit,
            time=self.time,
            random_bytes=self.random_bytes,
        )

    @cached_property
    def issuing(self) -> Issuing:
        return Issuing(
            trust_domain=self.trust_domain,
            cycle=self.cycle,
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            time=self.time,
            quarantine=self.quarantine,
        )

    @cached_property
    def cycle(self) -> Cycle:
        return Cycle(
            issuer=self.issuer,
            planner=Planner(self.issuer, self.profile, self.random_bytes),
            mint=Mint(self.issuer, self.urls),
            entries=self.entries,
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            time=self.time,
            quarantine=self.quarantine,
        )

    # --- revocation -------------------------------------------------------------------------------------------------

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(
            issuer=self.issuer,
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            time=self.time,
            validity=self.profile.crl_validity,
            hold=self.quarantine.problem,
            sleep=self.sleep,
        )

    @cached_property
    def revoker(self) -> Revoker:
        return Revoker(ledger=self.ledger, audit=self.audit, feed=self.feed, publisher=self.publisher, time=self.time)

    @cached_property
    def responder(self) -> Responder:
        signers = Signers(
            trust_domain=self.trust_domain,
            issuer=self.issuer,
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            time=self.time,
            random_bytes=self.random_bytes,
        )
        return Responder(
            issuer=self.issuer,
            ledger=self.ledger,
            feed=self.feed,
            time=self.time,
            signers=signers,
            hold=self.quarantine.problem,
        )

    # --- bad days ---------------------------------------------------------------------------------------------------

    @cached_property
    def mass_revoker(self) -> MassRevoker:
        return MassRevoker(
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            publisher=self.publisher,
            time=self.time,
            backdate=self.profile.backdate,
            longest=self.profile.longest,
        )

    @cached_property
    def reissuer(self) -> Reissuer:
        return Reissuer(
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            time=self.time,
            profile=self.profile,
            hold=self.quarantine.problem,
        )

    @cached_property
    def witnesses(self) -> Witnesses:
        return Witnesses(
            trust_domain=self.trust_domain,
            issuer=self.issuer.certificate,
            issuer_key_id=self.issuer.key_id,
            longest=self.profile.longest,
            quarantine=self.quarantine,
            ledger=self.ledger,
            audit=self.audit,
            feed=self.feed,
            time=self.time,
            released=self._sign_again,
            quorum=self.quorum,
        )

    async def _sign_again(self) -> None:
        """The quarantine is over."""
        await self.publisher.resume()
        await self.reissuer.give_wanted()

    @cached_property
    def reports(self) -> Reports:
        return Reports(self.clock.monotonic)
