"""Steps 3 and 4 of the issuance cycle: from a request and its entry to everything that a leaf will say. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from handfast.csr import binding, parse_csr
from handfast_ca.admission import admit, key_policy
from handfast_ca.enrolment import Application, request_digest
from handfast_ca.issuer import Issuer
from handfast_ca.ledger import Intention
from handfast_ca.profile import Profile
from handfast_ca.registration import Entry
from handfast_ca.template import LeafPlan, new_serial

__all__ = ["Planned", "Planner"]


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What a leaf will say, and what the ledger is to record of it before (step 5)."""

    leaf: LeafPlan
    intention: Intention


class Planner:
    """Plans leaves of one issuing CA."""

    def __init__(self, issuer: Issuer, profile: Profile, random_bytes: Callable[[int], bytes]) -> None:
        self._key_id = issuer.key_id
        self._not_after = issuer.certificate.not_valid_after_utc
        self._profile = profile
        self._random_bytes = random_bytes

    def plan(self, application: Application, entry: Entry, now: datetime) -> Planned:
        """Raises ``Invalid`` or ``Refused`` with every reason."""
        # 3. The CSR proves possession of the key; from it we take only the public key.
        request = parse_csr(application.csr, keys=key_policy(entry), allow_pem=application.credential is None)
        # 4. Admission decides; the profile gives the validity from now.
        admitted = admit(
            request,
            entry,
            self._profile,
            binding=None if application.credential is None else binding(application.credential),
            lifetime=application.lifetime,
            proof=application.proof,
        )
        validity = self._profile.validity(admitted.lifetime, now=now, issuer_not_after=self._not_after)
        leaf = LeafPlan(new_serial(self._random_bytes), validity, admitted)
        return Planned(leaf, self._intention(application, leaf, entry, now))

    def _intention(self, application: Application, plan: LeafPlan, entry: Entry, now: datetime) -> Intention:
        return Intention(
            serial=plan.serial,
            issuer_key_id=self._key_id,
            spiffe_id=plan.admitted.spiffe_id,
            spki_sha256=plan.admitted.spki_sha256,
            request_digest=self._digest(application),
            dns_names=plan.admitted.dns_names,
            not_before=plan.validity.not_before,
            not_after=plan.validity.not_after,
            obtained_by=application.obtained_by,
            entry_version=entry.version,
            now=now,
            token_digest=application.token_digest,
            peer_address=application.peer_address,
            presented=application.presented,
        )

    def _digest(self, application: Application) -> bytes:
        """Names the request. Without a proof there is nothing to name it by, and each one is new."""
        credential = self._random_bytes(32) if application.credential is None else application.credential
        return request_digest(credential, application.csr)
