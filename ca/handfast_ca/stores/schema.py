"""Tables of the SQL ledger. Times are epoch seconds.

Serials and CRL numbers are big-endian, 20 octets (RFC 5280, 4.1.2.2 and 5.2.3).
What is wider than 64 bits is stored as octets of equal length, so that order by octets is order by number.
``der IS NULL`` means intended. ``listed_by`` is the number of the first recorded CRL that named the serial, ``carried_by`` that of
the one past its notAfter, which is the last.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text

__all__ = ["SCHEMA_VERSION", "blocked", "certificates", "entries", "issuers", "marks", "metadata", "tokens", "versions"]

SCHEMA_VERSION = 2

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("spiffe_id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

versions = Table(
    "versions", metadata, Column("spiffe_id", Text, primary_key=True), Column("version", Integer, nullable=False)
)
"""Outlives the entry: an identity's version never comes back."""

tokens = Table(
    "tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("prefix", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False, index=True),
    Column("expires_at", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("allowed_cidr", Text, nullable=False),
)

certificates = Table(
    "certificates",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("issuer_key_id", LargeBinary, nullable=False),
    Column("serial", LargeBinary, nullable=False),
    Column("spiffe_id", Text, nullable=False, index=True),
    Column("spki_sha256", LargeBinary, nullable=False, index=True),
    Column("request_digest", LargeBinary, nullable=False, index=True),
    Column("dns_names", Text, nullable=False),
    Column("not_before", Integer, nullable=False),
    Column("not_after", Integer, nullable=False, index=True),
    Column("obtained_by", Text, nullable=False),
    Column("parent_serial", LargeBinary),
    Column("der", LargeBinary),
    Column("revoked_at", Integer),
    Column("reason", Text),
    Column("carried_by", LargeBinary),
    Column("listed_by", LargeBinary),
    sqlite_autoincrement=True,
)
_columns = certificates.c
_uncarried = _columns.revoked_at.is_not(None) & _columns.carried_by.is_(None)
_unlisted = _uncarried & _columns.listed_by.is_(None)
_carried = _columns.carried_by.is_not(None)
_dangling = _columns.der.is_(None) & _columns.revoked_at.is_(None)
_renewed = _columns.parent_serial.is_not(None)
# Naming another database here loads its dialect at every start.
Index("certificates_by_serial", _columns.serial, _columns.issuer_key_id, unique=True)
Index("certificates_by_parent", _columns.parent_serial, sqlite_where=_renewed)
Index("certificates_on_crl", _columns.issuer_key_id, _columns.seq, sqlite_where=_uncarried)
Index("certificates_ending", _columns.issuer_key_id, _columns.not_after, sqlite_where=_uncarried)
Index("certificates_unlisted", _columns.issuer_key_id, _columns.listed_by, sqlite_where=_unlisted)
Index("certificates_carried", _columns.issuer_key_id, _columns.carried_by, sqlite_where=_carried)
Index("certificates_dangling", _columns.seq, sqlite_where=_dangling)

blocked = Table("blocked_keys", metadata, Column("spki_sha256", LargeBinary, primary_key=True))

issuers = Table(
    "issuers",
    metadata,
    Column("issuer_key_id", LargeBinary, primary_key=True),
    Column("number", LargeBinary, nullable=False),
    Column("this_update", Integer, nullable=False),
    Column("crl_number", LargeBinary),
    Column("crl", LargeBinary),
    Column("next_update", Integer),
)

marks = Table(
    "marks",
    metadata,
    Column("name", Text, nullable=False),
    Column("value", Integer, nullable=False),
    PrimaryKeyConstraint("name"),
)
