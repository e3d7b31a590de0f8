"""Steps of entries and join tokens on one transaction. Each looks first and writes last."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from sqlalchemy import bindparam, delete, insert, select, update

from handfast.errors import Conflict
from handfast.identity import SpiffeId
from handfast_ca.ledger import Page, TokenRecord
from handfast_ca.registration import Entry
from handfast_ca.stores import verdicts
from handfast_ca.stores.prepared import Prepared, Transaction
from handfast_ca.stores.rows import dump_entry, dump_token, load_entry, load_token
from handfast_ca.stores.schema import entries, tokens, versions

__all__ = [
    "add_entry",
    "add_token",
    "bump_entry",
    "drop_tokens",
    "find_entry",
    "find_token",
    "get_entry",
    "list_entries",
    "look_up_token",
    "redeem_token",
    "remove_entry",
]

_ENTRY = Prepared(select(entries).where(entries.c.spiffe_id == bindparam("identity")))
_ENTRIES = Prepared(select(entries).where(entries.c.spiffe_id > bindparam("after")).order_by(entries.c.spiffe_id))
_ADD_ENTRY = Prepared(insert(entries))
_REMOVE_ENTRY = Prepared(delete(entries).where(entries.c.spiffe_id == bindparam("identity")))
_RAISE_ENTRY = Prepared(
    update(entries).where(entries.c.spiffe_id == bindparam("identity")).values(version=bindparam("raised"))
)
_VERSION = Prepared(select(versions.c.version).where(versions.c.spiffe_id == bindparam("identity")))
_RAISE_VERSION = Prepared(
    update(versions).where(versions.c.spiffe_id == bindparam("identity")).values(version=bindparam("raised"))
)
_ADD_VERSION = Prepared(insert(versions))
_TOKEN = Prepared(select(tokens).where(tokens.c.digest == bindparam("hashed")))
_ADD_TOKEN = Prepared(insert(tokens))
_REDEEM = Prepared(delete(tokens).where(tokens.c.digest == bindparam("hashed")).returning(tokens.c.digest))
_DROP_TOKENS = Prepared(delete(tokens).where(tokens.c.spiffe_id == bindparam("identity")))


def find_entry(transaction: Transaction, spiffe_id: SpiffeId) -> Entry | None:
    row = _ENTRY(transaction, identity=str(spiffe_id)).first()
    return load_entry(row.spiffe_id, row.version, row.body) if row is not None else None


def get_entry(transaction: Transaction, spiffe_id: SpiffeId) -> Entry:
    entry = find_entry(transaction, spiffe_id)
    if entry is None:
        raise verdicts.no_entry(spiffe_id)
    return entry


def add_entry(transaction: Transaction, entry: Entry) -> Entry:
    if find_entry(transaction, entry.spiffe_id) is not None:
        raise Conflict(f"{entry.spiffe_id} has an entry already", reason="ENTRY_EXISTS")
    stored = replace(entry, version=_raise_version(transaction, entry.spiffe_id))
    _ADD_ENTRY(transaction, spiffe_id=str(stored.spiffe_id), version=stored.version, body=dump_entry(stored))
    return stored


def _raise_version(transaction: Transaction, spiffe_id: SpiffeId) -> int:
    identity = str(spiffe_id)
    last = _VERSION(transaction, identity=identity).scalar()
    if last is None:
        _ADD_VERSION(transaction, spiffe_id=identity, version=1)
        return 1
    _RAISE_VERSION(transaction, identity=identity, raised=last + 1)
    return int(last) + 1


def bump_entry(transaction: Transaction, spiffe_id: SpiffeId) -> None:
    """Nothing that was admitted under the version before can still be intended."""
    _RAISE_ENTRY(transaction, identity=str(spiffe_id), raised=_raise_version(transaction, spiffe_id))


def list_entries(transaction: Transaction, identity_glob: str, limit: int, token: str) -> Page[Entry]:
    size = verdicts.page_size(limit)
    found: list[Entry] = []
    for row in _ENTRIES(transaction, after=token):
        if not identity_glob or fnmatchcase(row.spiffe_id, identity_glob):
            found.append(load_entry(row.spiffe_id, row.version, row.body))
        if len(found) > size:
            return Page(tuple(found[:size]), str(found[size - 1].spiffe_id))
    return Page(tuple(found))


def remove_entry(transaction: Transaction, spiffe_id: SpiffeId) -> None:
    get_entry(transaction, spiffe_id)
    _REMOVE_ENTRY(transaction, identity=str(spiffe_id))
    drop_tokens(transaction, spiffe_id)


def drop_tokens(transaction: Transaction, spiffe_id: SpiffeId) -> None:
    _DROP_TOKENS(transaction, identity=str(spiffe_id))


def add_token(transaction: Transaction, token: TokenRecord) -> None:
    get_entry(transaction, token.spiffe_id)
    if look_up_token(transaction, token.digest) is not None:
        raise Conflict(f"join token {token.prefix} exists already", reason="TOKEN_EXISTS")
    _ADD_TOKEN(transaction, **dump_token(token))


def look_up_token(transaction: Transaction, digest: bytes) -> TokenRecord | None:
    row = _TOKEN(transaction, hashed=digest).first()
    return load_token(row) if row is not None else None


def find_token(transaction: Transaction, digest: bytes) -> TokenRecord:
    token = look_up_token(transaction, digest)
    if token is None:
        raise verdicts.token_spent()
    return token


def redeem_token(transaction: Transaction, digest: bytes) -> None:
    """One statement: of two that redeem the same token, one finds nothing (threat B1)."""
    if _REDEEM(transaction, hashed=digest).first() is None:
        raise verdicts.token_spent()
