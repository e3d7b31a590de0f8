"""The CA from here: does it prove itself, does it let us in, is HTTP the same CA, and do our clocks agree?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from handfast.cli.checks import Check, Level, failed
from handfast.cli.context import Context
from handfast.cli.session import TIMEOUT, connected
from handfast.cli.trust import fetch_list, http_get
from handfast.clock import SystemClock
from handfast.credentials import Credentials
from handfast.errors import HandfastError
from handfast.revocation import format_crl_number
from handfast.sources import StaticSource
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast.wire.v1.registry_pb2_grpc import RegistryStub

__all__ = ["check_authority"]

GROUP = "CA"
SKEW_NOTICE, SKEW_LIMIT = timedelta(seconds=5), timedelta(seconds=30)
"""Certificates and lists are backdated by 30 s: a clock that is further behind refuses what was just made."""


def check_authority(context: Context, credentials: Credentials) -> Iterator[Check]:
    try:
        trust, status, skew = _ask(context, credentials)
    except HandfastError as error:
        yield failed(GROUP, "gRPC", error, f"is `authority` in the context right: {context.authority}?")
    else:
        yield Check(GROUP, "gRPC", Level.OK, f"{context.server} proved itself at {context.authority} over TLS 1.3")
        yield _check_clock(skew)
        yield _check_state(status)
        yield _check_same_list(context, credentials, trust)
    yield _check_http(context)


def _ask(context: Context, credentials: Credentials) -> tuple[Any, Any, timedelta]:
    """Trust state, status, and by how much the CA's clock is ahead of ours."""
    clock = SystemClock()
    with connected(StaticSource(credentials), context) as channel:
        status = RegistryStub(channel).GetStatus(registry_pb2.GetCaStatusRequest(), timeout=TIMEOUT)
        before = clock.now()
        trust = AuthorityStub(channel).GetTrust(authority_pb2.GetTrustRequest(), timeout=TIMEOUT)
        after = clock.now()
    return trust, status, codec.time_from_wire(trust.sent_at) - _middle(before, after)


def _middle(before: datetime, after: datetime) -> datetime:
    return before + (after - before) / 2


def _check_clock(skew: timedelta) -> Check:
    seconds = skew.total_seconds()
    detail = f"the CA's is {abs(seconds):.1f} s {'ahead' if seconds >= 0 else 'behind'}"
    if abs(skew) > SKEW_LIMIT:
        return Check(GROUP, "clock", Level.FAILED, detail, "set the clocks of both machines, and keep them by NTP")
    level = Level.WARNING if abs(skew) > SKEW_NOTICE else Level.OK
    return Check(GROUP, "clock", level, detail if level is not Level.OK else "agrees with ours", "keep clocks by NTP")


def _check_state(status: Any) -> Check:
    bad = [f"{line.group} {line.name}: {line.detail}" for line in status.lines if line.level == Level.FAILED]
    if bad:
        return Check(GROUP, "state", Level.FAILED, "; ".join(bad), "`handfast status` shows all of it")
    watchers = "1 watcher" if status.watchers == 1 else f"{status.watchers} watchers"
    return Check(GROUP, "state", Level.OK, f"Handfast {status.version}, {watchers}")


def _check_same_list(context: Context, credentials: Credentials, trust: Any) -> Check:
    """The list of our own issuer over HTTP and over gRPC; HTTP may be newer by what happened in between."""
    key_id = credentials.leaf.issuer_key_id
    sent = next((crl.der for crl in trust.crls if crl.issuer_key_id == key_id), None)
    try:
        served = fetch_list(context, credentials, issuer_key_id=key_id)
    except HandfastError as error:
        return failed(GROUP, "CRL over HTTP", error, "can this machine reach the CA's HTTP port?")
    if sent is None:
        return Check(GROUP, "CRL over HTTP", Level.FAILED, "gRPC has no list of our issuer", "`handfast crl show`")
    same = "the same as over gRPC" if served.der == sent else "not the one that gRPC sent"
    level = Level.OK if served.der == sent else Level.WARNING
    return Check(
        GROUP,
        "CRL over HTTP",
        level,
        f"number {format_crl_number(served.number)}, {same}",
        "is a proxy keeping an old one?",
    )


def _check_http(context: Context) -> Check:
    try:
        code, body = http_get(context, "/readyz")
    except HandfastError as error:
        return failed(GROUP, "HTTP", error, "is `http` in the context right?")
    if code == 200:
        return Check(GROUP, "HTTP", Level.OK, f"{context.http} is ready")
    return Check(
        GROUP, "HTTP", Level.FAILED, f"{context.http}/readyz answers {code}: {_reasons(body)}", "`handfast status`"
    )


def _reasons(body: bytes) -> str:
    try:
        checks = json.loads(body)["checks"]
        return "; ".join(f"{one['name']}: {one['detail']}" for one in checks if one["level"] == Level.FAILED)
    except (ValueError, KeyError, TypeError):
        return "it is no Handfast CA"
