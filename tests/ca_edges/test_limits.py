"""What one identity and one address get: at the limit, one beyond it, and what everybody else notices of that."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from handfast.credentials import Credentials
from handfast.csr import MAX_CSR_BYTES, build_csr
from handfast.errors import Exhausted, HandfastError
from handfast.keys import generate
from handfast.revocation import Reason
from handfast.wire.codec import from_rpc_error
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.authority_pb2_grpc import AuthorityStub
from handfast_ca.quotas import Quota, Quotas
from handfast_ca.serve import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from tests.ca_edges.running import OPERATOR, RunningCa, running_ca

if TYPE_CHECKING:
    from handfast.wire.v1.authority_pb2_grpc import AuthorityAsyncStub

WEB, DB = "spiffe://test.example/web", "spiffe://test.example/db"
MANY = Quota(burst=1000, per_minute=1000)
pytestmark = pytest.mark.timeout(60)


def renewal(credentials: Credentials) -> authority_pb2.RenewRequest:
    return authority_pb2.RenewRequest(csr=build_csr(generate(), credential=credentials.leaf.der))


async def ended(call: Any) -> HandfastError | None:
    """Why it was refused; None when it was not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def storm(stub: AuthorityAsyncStub, requests: list[authority_pb2.RenewRequest]) -> list[HandfastError]:
    """All at once; the refusals."""
    answers = await asyncio.gather(*(ended(stub.Renew(request)) for request in requests))
    return [answer for answer in answers if answer is not None]


async def certificates(ca: RunningCa, identity: str) -> int:
    async with ca.registry(await ca.credentials(OPERATOR)) as registry:
        listed = await registry.ListCertificates(
            registry_pb2.ListCertificatesRequest(identity_glob=identity, page_size=500)
        )
        return len(listed.certificates)


async def test_an_identity_renews_five_times_and_is_told_when_it_may_again(tmp_path: Path) -> None:
    """H4: at the limit and one beyond; what an agent is to wait travels as RetryInfo, and nothing is signed."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        async with ca.authority_stub(web) as stub:
            for _ in range(5):
                assert await ended(stub.Renew(renewal(web))) is None
            before = ca.records
            refused = await ended(stub.Renew(renewal(web)))
        assert isinstance(refused, Exhausted)
        assert refused.reason == "RATE_LIMITED"
        assert refused.retry_after is not None
        assert 0 < refused.retry_after <= 60
        assert "renewals_per_identity" in refused.hint
        written = ca.records[len(before) :]
        assert [(line["event"], line["decision"], line["reason"], line["spiffe_id"]) for line in written] == [
            ("renew", "refused", "RATE_LIMITED", WEB)
        ]
        assert await certificates(ca, WEB) == 6


async def test_a_storm_of_one_identity_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """H4, H8: it is refused in one line and a count; others renew, trust is told, and it can be revoked meanwhile."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        others = [await ca.workload(f"{DB}{number}") for number in range(8)]
        async with ca.authority_stub(web) as stub, ca.registry(await ca.credentials(OPERATOR)) as registry:
            watch = stub.WatchTrust(authority_pb2.WatchTrustRequest())
            assert (await anext(aiter(watch))).whole
            requests = [renewal(web) for _ in range(200)]
            storming = asyncio.create_task(storm(stub, requests))
            for other in others:
                async with ca.authority_stub(other) as theirs:
                    assert await ended(theirs.Renew(renewal(other))) is None
            refused = await storming
            assert Counter(error.reason for error in refused) == {"RATE_LIMITED": 195}

            assert await ended(stub.GetTrust(authority_pb2.GetTrustRequest())) is None
            assert (await registry.Revoke(registry_pb2.RevokeRequest(spiffe_id=WEB))).serials
            assert (await anext(aiter(watch))).announced
        lines = [line for line in ca.records if line.get("reason") == "RATE_LIMITED"]
        assert len(lines) == 1
        await ca.gate.refusals.flush()
        lines = [line for line in ca.records if line.get("reason") == "RATE_LIMITED"]
        assert [line.get("count") for line in lines] == [None, 194]
        assert await certificates(ca, WEB) == 6


async def test_all_behind_one_address_share_its_limit(tmp_path: Path) -> None:
    """H4."""
    quotas = Quotas(renewals_per_identity=MANY, requests_per_address=Quota(burst=3, per_minute=1))
    async with running_ca(tmp_path, quotas=quotas) as ca:
        web, db = await ca.workload(WEB), await ca.workload(DB)
        async with ca.authority_stub(web) as one, ca.authority_stub(db) as two:
            for stub, who in ((one, web), (two, db), (one, web)):
                assert await ended(stub.Renew(renewal(who))) is None
            refused = await ended(two.Renew(renewal(db)))
        assert refused is not None
        assert refused.reason == "RATE_LIMITED"
        assert "127.0.0.1" in refused.message
        assert await certificates(ca, DB) == 2


async def test_what_an_identity_has_too_many_of_is_not_taken_from_its_address(tmp_path: Path) -> None:
    """H4: a storm of one identity behind a shared address does not use that address up."""
    quotas = Quotas(
        renewals_per_identity=Quota(burst=1, per_minute=1), requests_per_address=Quota(burst=2, per_minute=1)
    )
    async with running_ca(tmp_path, quotas=quotas) as ca:
        web, db = await ca.workload(WEB), await ca.workload(DB)
        async with ca.authority_stub(web) as one, ca.authority_stub(db) as two:
            assert len(await storm(one, [renewal(web) for _ in range(20)])) == 19
            assert await ended(two.Renew(renewal(db))) is None


async def test_an_address_that_guesses_tokens_is_stopped_and_a_good_token_waits(tmp_path: Path) -> None:
    """H4: failed enrolments count; the good token is not spent by the refusal."""
    quotas = Quotas(failed_enrolments_per_address=Quota(burst=3, per_minute=1))
    async with running_ca(tmp_path, quotas=quotas) as ca:
        made = await ca.authority.create_token((await ca.workload(DB)).spiffe_id, by=str(OPERATOR))
        good = authority_pb2.EnrolRequest(
            join_token=made.token.text, csr=build_csr(generate(), credential=made.token.text.encode()), spiffe_id=DB
        )
        async with ca.anonymous() as channel:
            stub = AuthorityStub(channel)
            for _ in range(3):
                guess = authority_pb2.EnrolRequest(join_token="hft_" + "x" * 43, csr=b"x")
                refused = await ended(stub.Enrol(guess))
                assert refused is not None
                assert refused.reason == "TOKEN_SPENT"
            before = ca.records
            refused = await ended(stub.Enrol(good))
        assert refused is not None
        assert refused.reason == "RATE_LIMITED"
        assert [line["reason"] for line in ca.records[len(before) :]] == ["RATE_LIMITED"]
        assert await certificates(ca, DB) == 1
        assert (await ca.authority.counts())["tokens"] == 1


async def test_an_identity_has_so_many_watches_and_one_that_ends_makes_room(tmp_path: Path) -> None:
    """H4: at the limit and one beyond."""
    async with running_ca(tmp_path, quotas=Quotas(watchers_per_identity=2)) as ca:
        web = await ca.workload(WEB)
        async with ca.authority_stub(web) as stub:
            watches = [stub.WatchTrust(authority_pb2.WatchTrustRequest()) for _ in range(2)]
            for watch in watches:
                assert (await anext(aiter(watch))).whole
            refused = await ended(anext(aiter(stub.WatchTrust(authority_pb2.WatchTrustRequest()))))
            assert refused is not None
            assert refused.reason == "TOO_MANY_WATCHERS"
            watches[0].cancel()
            while await ended(anext(aiter(stub.WatchTrust(authority_pb2.WatchTrustRequest())))) is not None:
                await asyncio.sleep(0.01)
        lines = [line for line in ca.records if line.get("reason") == "TOO_MANY_WATCHERS"]
        assert [line["event"] for line in lines] == ["watch-trust"]


async def test_asking_for_trust_has_a_pool_of_its_own(tmp_path: Path) -> None:
    """H4: an identity that used it up still renews, and the other way round."""
    async with running_ca(tmp_path, quotas=Quotas(trust_per_identity=Quota(burst=2, per_minute=1))) as ca:
        web = await ca.workload(WEB)
        async with ca.authority_stub(web) as stub:
            asked = [await ended(stub.GetTrust(authority_pb2.GetTrustRequest())) for _ in range(3)]
            assert [error and error.reason for error in asked] == [None, None, "RATE_LIMITED"]
            assert await ended(stub.Renew(renewal(web))) is None


async def test_a_revocation_that_reached_a_watcher_is_measured(tmp_path: Path) -> None:
    """The whole state at the beginning is no push; each change is one."""
    async with running_ca(tmp_path) as ca:
        web, db = await ca.workload(WEB), await ca.workload(DB)
        told = ca.gate.metrics.registry.get_sample_value
        async with ca.authority_stub(db) as stub:
            watch = aiter(stub.WatchTrust(authority_pb2.WatchTrustRequest()))
            assert (await anext(watch)).whole
            assert told("handfast_ca_push_seconds_count") == 0
            await ca.authority.revoke_identity(web.spiffe_id, Reason.KEY_COMPROMISE, by=str(OPERATOR))
            assert (await anext(watch)).announced
            while not told("handfast_ca_push_seconds_count"):  # the server counts after it has handed over
                await asyncio.sleep(0.01)


async def test_a_csr_of_16_kib_and_a_byte_is_refused_and_nothing_is_parsed(tmp_path: Path) -> None:
    """A15: over the wire."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        async with ca.authority_stub(web) as stub:
            at = await ended(stub.Renew(authority_pb2.RenewRequest(csr=b"\x30" * MAX_CSR_BYTES)))
            beyond = await ended(stub.Renew(authority_pb2.RenewRequest(csr=b"\x30" * (MAX_CSR_BYTES + 1))))
        assert at is not None
        assert beyond is not None
        assert (at.reason, beyond.reason) == ("CSR_MALFORMED", "CSR_TOO_LARGE")
        assert [line["reason"] for line in ca.records if line["decision"] == "refused"] == [at.reason, beyond.reason]
        assert await certificates(ca, WEB) == 1


async def test_a_message_of_64_kib_and_a_byte_does_not_get_in(tmp_path: Path) -> None:
    """H3: the CSR in a message of exactly the limit is read, and is too large itself."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        around = authority_pb2.RenewRequest(csr=b"x" * MAX_MESSAGE_BYTES).ByteSize() - MAX_MESSAGE_BYTES
        async with ca.authority_stub(web) as stub:
            at, beyond = (authority_pb2.RenewRequest(csr=b"x" * (MAX_MESSAGE_BYTES - around + more)) for more in (0, 1))
            assert (at.ByteSize(), beyond.ByteSize()) == (MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1)
            before = len(ca.records)
            reasons = [
                error and error.reason for error in (await ended(stub.Renew(at)), await ended(stub.Renew(beyond)))
            ]
        assert reasons == ["CSR_TOO_LARGE", "TOO_LARGE"]
        assert len(ca.records) == before + 1


async def test_metadata_beyond_8_kib_does_not_get_in(tmp_path: Path) -> None:
    """H3: what gRPC sends by itself takes a part of the limit, so half of it is what surely gets in."""
    async with running_ca(tmp_path) as ca:
        web = await ca.workload(WEB)
        async with ca.authority_stub(web) as stub:
            for size, reason in ((MAX_METADATA_BYTES // 2, None), (MAX_METADATA_BYTES, "TOO_LARGE")):
                metadata = (("x-padding", "x" * size),)
                error = await ended(stub.GetTrust(authority_pb2.GetTrustRequest(), metadata=metadata))
                assert (error and error.reason) == reason


async def test_a_page_has_500_lines_at_most_whatever_is_asked_for(tmp_path: Path) -> None:
    """H7: 2**31, with more than that many entries to show."""
    async with running_ca(tmp_path) as ca:
        for number in range(501):
            await ca.authority.add_entry(f"{DB}/{number}", by=str(OPERATOR))
        async with ca.registry(await ca.credentials(OPERATOR)) as registry:
            page = await registry.ListEntries(registry_pb2.ListEntriesRequest(page_size=2**31))
            assert len(page.entries) == 500
            rest = await registry.ListEntries(
                registry_pb2.ListEntriesRequest(page_size=2**31, page_token=page.next_page_token)
            )
            assert (len(rest.entries), rest.next_page_token) == (1, "")
            lines = await registry.ListAudit(registry_pb2.ListAuditRequest(page_size=2**31))
            assert len(lines.records) == 500
