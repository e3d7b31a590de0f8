"""What outlives the process beside the workload's files: high-water marks, the last generation, the used token."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handfast.bundle import TrustBundle
from handfast.certificates import Leaf, load_certificates, pem_chain
from handfast.credentials import Credentials
from handfast.errors import Broken, HandfastError
from handfast.identity import TrustDomain
from handfast.keys import load_private_key
from handfast.revocation import RevocationList, Revocations, split_pem
from handfast_agent.storage import Directory, Ownership
from handfast_agent.trust import BundleMark, ListMark, Marks, Trust

__all__ = ["Memory", "Outputs", "Remembered", "Restored"]

META = ".handfast.json"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Remembered:
    """``used_token``: digest of the join token that was used or refused."""

    marks: Marks = field(default_factory=Marks)
    generation: int = 0
    used_token: str = ""


class Memory:
    """The state directory, mode 0700. Written by the same atomic rename as the workload's files."""

    def __init__(self, path: Path) -> None:
        self._directory = Directory(path, Ownership(public_mode=0o600))
        self._writes = 0

    def load(self) -> Remembered:
        """Raises ``Broken`` (``STATE_DAMAGED``): unreadable marks must not silently become none (threat D1)."""
        self._directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.prepare()
        text = self._directory.read().get(STATE)
        if text is None:
            return Remembered()
        try:
            value = json.loads(text)
            self._writes = int(value["writes"])
            return _remembered(value)
        except (ValueError, KeyError, TypeError) as error:
            raise Broken(
                f"the agent's state in {self._directory.path} cannot be read: {type(error).__name__}",
                reason="STATE_DAMAGED",
                hint="remove it only if you accept that older revocation lists may be taken once",
            ) from error

    def save(self, remembered: Remembered) -> None:
        self._writes += 1
        marks = remembered.marks
        value = {
            "writes": self._writes,
            "generation": remembered.generation,
            "used_token": remembered.used_token,
            "bundle": {"sequence": marks.bundle.sequence, "digest": marks.bundle.digest},
            "lists": {
                key.hex(): {"number": str(m.number), "this_update": m.this_update.isoformat(), "digest": m.digest}
                for key, m in marks.lists.items()
            },
        }
        self._directory.write(self._writes, {STATE: json.dumps(value, indent=1).encode()}, {})


def _remembered(value: dict[str, Any]) -> Remembered:
    lists = {
        bytes.fromhex(key): ListMark(int(m["number"]), datetime.fromisoformat(m["this_update"]), m["digest"])
        for key, m in value["lists"].items()
    }
    bundle = BundleMark(int(value["bundle"]["sequence"]), value["bundle"]["digest"])
    return Remembered(Marks(bundle, lists), int(value["generation"]), value["used_token"])


@dataclass(frozen=True, slots=True)
class Restored:
    """What the present generation on disk holds. ``credentials`` is None when they are not there or no longer valid."""

    credentials: Credentials | None
    trust: Trust
    renew_at: datetime | None
    generation: int


class Outputs:
    """The workload's files, as the contract lays them out."""

    def __init__(self, directory: Directory, trust_domain: TrustDomain) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._crl: tuple[tuple[RevocationList, ...], bytes] = ((), b"")

    def prepare(self) -> None:
        self._directory.prepare()

    def write(
        self,
        credentials: Credentials | None,
        trust: Trust,
        renew_at: datetime | None,
        generation: int,
        staple: bytes = b"",
    ) -> None:
        """One generation. Without credentials key and certificate disappear; bundle and lists stay. ``staple`` is there
        or not: no reader may need it.
        """
        private: dict[str, bytes] = {}
        public = {"ca.crt": b"", "crl.pem": self._crl_pem(trust.revocations)}
        if trust.bundle is not None:
            public["ca.crt"] = trust.bundle.roots_pem
        if credentials is not None:
            private = {"tls.key": credentials.key_pem, "credentials.pem": credentials.key_pem + credentials.chain_pem}
            public["tls.crt"] = credentials.chain_pem
        if credentials is not None and staple:
            public["ocsp.der"] = staple
        public[META] = json.dumps(_meta(trust, renew_at, generation)).encode()
        self._directory.write(generation, private, public)

    def _crl_pem(self, revocations: Revocations) -> bytes:
        """The same object for the same lists, so that it is neither encoded nor written again."""
        lists, pem = self._crl
        now = tuple(revocations.lists.values())
        if len(lists) != len(now) or any(one is not other for one, other in zip(lists, now, strict=True)):
            pem = revocations.pem
            self._crl = (now, pem)
        return pem

    def read(self, now: datetime, marks: Marks) -> Restored:
        """Reads and checks what a former run left. What is broken or expired is as good as absent."""
        files = self._directory.read()
        if META not in files:
            return Restored(None, Trust(marks=marks), None, 0)
        meta = json.loads(files[META])
        trust = self._trust(files, meta, now, marks)
        renew_at = datetime.fromisoformat(meta["renew_at"]) if meta["renew_at"] else None
        try:
            credentials = _credentials(files, trust, meta["generation"], now)
        except HandfastError:
            credentials = None
        return Restored(credentials, trust, renew_at, meta["generation"])

    def _trust(self, files: dict[str, bytes], meta: dict[str, Any], now: datetime, marks: Marks) -> Trust:
        if meta["bundle"] is None:
            return Trust(marks=marks)
        bundle = TrustBundle(
            self._trust_domain,
            load_certificates(files["ca.crt"]) if files["ca.crt"] else (),
            load_certificates(meta["bundle"]["issuers"].encode()) if meta["bundle"]["issuers"] else (),
            meta["bundle"]["sequence"],
            meta["bundle"]["refresh"],
        )
        revocations = Revocations().announce((bytes.fromhex(key), int(serial, 16)) for key, serial in meta["announced"])
        own = dict(marks.lists)
        for der in split_pem(files["crl.pem"]):
            known = RevocationList.verify(der, bundle, now=max(now, _newest(own)))
            revocations = revocations.with_list(known)
            if known.issuer_key_id not in own or own[known.issuer_key_id].number < known.number:
                own[known.issuer_key_id] = ListMark.of(known)
        mark = max(marks.bundle, BundleMark.of(bundle), key=lambda m: m.sequence)
        return Trust(bundle, revocations, replace(marks, bundle=mark, lists=own))


def _newest(lists: dict[bytes, ListMark]) -> datetime:
    return max((mark.this_update for mark in lists.values()), default=datetime.min.replace(tzinfo=UTC))


def _meta(trust: Trust, renew_at: datetime | None, generation: int) -> dict[str, Any]:
    bundle = trust.bundle
    return {
        "generation": generation,
        "renew_at": renew_at.isoformat() if renew_at else None,
        "bundle": bundle
        and {
            "sequence": bundle.sequence,
            "issuers": pem_chain(bundle.issuers).decode(),
            "refresh": bundle.refresh_hint_seconds,
        },
        "announced": [(key.hex(), format(serial, "x")) for key, serial in sorted(trust.revocations.announced)],
    }


def _credentials(files: dict[str, bytes], trust: Trust, generation: int, now: datetime) -> Credentials | None:
    if "tls.key" not in files or trust.bundle is None:
        return None
    chain = load_certificates(files["tls.crt"])
    credentials = Credentials.build(
        key=load_private_key(files["tls.key"]),
        chain=chain,
        bundle=trust.bundle,
        announced=trust.revocations.announced,
        generation=generation,
        now=min(max(now, Leaf.of(chain[0]).validity.not_before), Leaf.of(chain[0]).validity.not_after),
    )
    return replace(credentials, revocations=trust.revocations)
