"""What the CA answered is held against what was asked for, and every difference is told."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from handfast.certificates import Usage
from handfast.credentials import Credentials
from handfast.errors import Broken
from handfast.identity import SpiffeId
from handfast.keys import generate
from handfast.testing import TestAuthority
from handfast_agent.acceptance import Wanted, checked
from handfast_agent.trust import News, Trust

AUTHORITY = TestAuthority()
NOW = datetime.now(UTC)
WEB = SpiffeId.parse("spiffe://test.example/web")


def trust() -> Trust:
    lists = tuple(known.der for known in AUTHORITY.revocations.lists.values())
    known, alarms = Trust().accept(News(AUTHORITY.bundle, lists), NOW)
    assert alarms == ()
    return known


def refused(wanted: Wanted, given: Credentials, known: Trust) -> Broken:
    with pytest.raises(Broken) as caught:
        checked(wanted, given.key, given.chain, known, NOW)
    assert caught.value.reason == "ANSWER_MISMATCH"
    return caught.value


def test_what_was_asked_for_is_taken_and_more_names_are_no_harm() -> None:
    given = AUTHORITY.issue("/web", dns_names=["web.test", "more.test"], ip_addresses=[ip_address("10.0.0.7")])
    wanted = Wanted(WEB, ("web.test",), (ip_address("10.0.0.7"),))
    assert checked(wanted, given.key, given.chain, trust(), NOW).leaf == given.leaf


def test_every_difference_is_told_at_once() -> None:
    """A3 at the agent: another's certificate is not used, whoever signed it."""
    given = AUTHORITY.issue("/thief", dns_names=["thief.test"], ip_addresses=[], usages=[Usage.CLIENT])
    error = refused(Wanted(WEB, ("web.test", "web.svc"), (ip_address("10.0.0.7"),)), given, trust())
    assert [violation.field for violation in error.violations] == [
        "spiffe_id",
        "dns_names",
        "dns_names",
        "ip_addresses",
        "usages",
    ]


def test_another_s_key_a_stranger_s_path_and_no_bundle_are_refused() -> None:
    """B8: an answer is believed for its proof alone."""
    given, other = AUTHORITY.issue("/web"), TestAuthority().issue("/web")
    refused(Wanted(WEB), Credentials(given.leaf, given.chain, generate(), given.bundle, given.revocations, 1), trust())
    refused(Wanted(WEB), other, trust())
    assert "without a trust bundle" in refused(Wanted(WEB), given, Trust()).message
