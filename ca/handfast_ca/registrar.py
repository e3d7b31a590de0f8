"""Entries and join tokens, each change with its line in the audit trail.

What gives power (an entry, a token) is written down before it is stored; what takes power away is done first, and then
written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypedDict, Unpack

from handfast.errors import Conflict, NotFound, Refused
from handfast.identity import SpiffeId, TrustDomain
from handfast_ca.audit_trail import AuditLog, AuditValue, written_refusals
from handfast_ca.enrolment import CreatedToken, JoinToken, parse_cidr, token_lifetime
from handfast_ca.ledger import Ledger, Page
from handfast_ca.profile import Profile
from handfast_ca.registration import WHY_CLIENT, Entry, Proof, kept_by_agents, register
from handfast_ca.timekeeper import Timekeeper

__all__ = ["EntryFields", "Registrar"]


class EntryFields(TypedDict, total=False):
    """What a person may say about an entry besides its SPIFFE ID: see :func:`handfast_ca.registration.register`."""

    dns_names: Iterable[str]
    ip_addresses: Iterable[str]
    usages: Iterable[str]
    lifetime: timedelta | None
    proofs: Iterable[str]
    selectors: Iterable[str]
    allow_rsa: bool
    comment: str


class Registrar:
    """Who may become whom."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        profile: Profile,
        ledger: Ledger,
        audit: AuditLog,
        time: Timekeeper,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._trust_domain = trust_domain
        self._profile = profile
        self._ledger = ledger
        self._audit = audit
        self._time = time
        self._random_bytes = random_bytes

    async def add_entry(self, spiffe_id: str, *, by: str, **fields: Unpack[EntryFields]) -> Entry:
        """Raises ``Invalid`` with every mistake, or ``Conflict`` (``ENTRY_EXISTS``)."""
        facts: dict[str, AuditValue] = {"event": "entry-add", "spiffe_id": spiffe_id, "by": by}
        async with written_refusals(self._audit, facts):
            entry = register(spiffe_id, trust_domain=self._trust_domain, longest=self._profile.longest, **fields)
            await self._refuse_second(entry.spiffe_id)
            await self._audit.append({**facts, "decision": "granted", "dns_names": entry.dns_names})
            return await self._ledger.add_entry(entry.stamped(now=self._time.wall(), by=by, version=entry.version))

    async def _refuse_second(self, spiffe_id: SpiffeId) -> None:
        try:
            await self._ledger.get_entry(spiffe_id)
        except NotFound:
            return
        raise Conflict(
            f"{spiffe_id} has an entry already",
            reason="ENTRY_EXISTS",
            hint=f"`handfast entry remove {spiffe_id}` first, if it should change",
        )

    async def get_entry(self, spiffe_id: SpiffeId) -> Entry:
        return await self._ledger.get_entry(spiffe_id)

    async def list_entries(self, identity_glob: str = "", *, limit: int = 100, token: str = "") -> Page[Entry]:
        return await self._ledger.list_entries(identity_glob, limit=limit, token=token)

    async def remove_entry(self, spiffe_id: SpiffeId, *, by: str) -> None:
        """Its tokens go with it and nothing is renewed any more; what is out lives on until it expires."""
        facts: dict[str, AuditValue] = {"event": "entry-remove", "spiffe_id": str(spiffe_id), "by": by}
        async with written_refusals(self._audit, facts):
            await self._ledger.remove_entry(spiffe_id)
            await self._audit.append({**facts, "decision": "granted"}, essential=True)

    async def create_token(
        self, spiffe_id: SpiffeId, *, by: str, lifetime: timedelta | None = None, allowed_cidr: str = ""
    ) -> CreatedToken:
        """A join token for an identity whose entry takes one. Its text is in the answer and nowhere else."""
        facts: dict[str, AuditValue] = {"event": "token-create", "spiffe_id": str(spiffe_id), "by": by}
        async with written_refusals(self._audit, facts):
            life, cidr = token_lifetime(lifetime), parse_cidr(allowed_cidr)
            await self._takes_tokens(spiffe_id)
            token = JoinToken.make(self._random_bytes)
            record = token.record(spiffe_id, expires_at=await self._time.now() + life, created_by=by, allowed_cidr=cidr)
            facts["token_prefix"] = token.prefix
            await self._audit.append({**facts, "decision": "granted", "expires_at": record.expires_at.isoformat()})
            await self._ledger.add_token(record)
            return CreatedToken(token, spiffe_id, record.expires_at)

    async def _takes_tokens(self, spiffe_id: SpiffeId) -> None:
        entry = await self._ledger.get_entry(spiffe_id)
        if Proof.JOIN_TOKEN not in entry.proofs:
            raise Refused(f"the entry of {spiffe_id} does not take join tokens", reason="PROOF_NOT_ALLOWED")
        if not kept_by_agents(entry.usages):  # of an entry from before this was asked for
            raise Refused(
                f"the entry of {spiffe_id} is for servers alone, and {WHY_CLIENT}", reason="CLIENT_USAGE_NEEDED"
            )
