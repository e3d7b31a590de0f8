"""Entries as issuing reads them: most renewals ask for one that was read before."""

from __future__ import annotations

from collections.abc import Mapping

from handfast.errors import NotFound, Refused
from handfast.identity import SpiffeId
from handfast_ca.ledger import Registrations
from handfast_ca.registration import Entry

__all__ = ["Entries"]

MAX_CACHED_ENTRIES = 10_000


class Entries:
    """Those of the ledger, and the ``reserved`` ones that the configuration gives. Used from one event loop."""

    def __init__(self, registrations: Registrations, reserved: Mapping[SpiffeId, Entry]) -> None:
        self._registrations = registrations
        self._reserved = dict(reserved)
        self._cached: dict[SpiffeId, Entry] = {}

    def is_reserved(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self._reserved

    async def get(self, spiffe_id: SpiffeId) -> tuple[Entry, bool]:
        """The entry, and whether it comes from memory. An old one does no harm: the ledger compares its version when it
        records the intention.

        Raises ``Refused`` (``NO_ENTRY``) when there is none.
        """
        known = self._reserved.get(spiffe_id) or self._cached.get(spiffe_id)
        if known is not None:
            return known, spiffe_id in self._cached
        try:
            entry = await self._registrations.get_entry(spiffe_id)
        except NotFound as error:
            raise Refused(error.message, reason=error.reason, hint=error.hint) from error
        if len(self._cached) >= MAX_CACHED_ENTRIES:
            self._cached.clear()
        self._cached[spiffe_id] = entry
        return entry, False

    def forget(self, spiffe_id: SpiffeId) -> None:
        """The next one who asks gets it as the ledger has it."""
        self._cached.pop(spiffe_id, None)
