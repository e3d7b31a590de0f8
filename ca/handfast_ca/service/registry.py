"""``handfast.v1.Registry``: what operators ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from typing import Any

from google.protobuf.message import Message

from handfast.certificates import format_serial, parse_serial
from handfast.errors import Invalid
from handfast.identity import SpiffeId
from handfast.revocation import Reason
from handfast.rpc.caller import caller
from handfast.wire import codec
from handfast.wire.v1 import authority_pb2, registry_pb2
from handfast.wire.v1.registry_pb2_grpc import RegistryServicer
from handfast_ca.authority import Authority, Issued
from handfast_ca.ledger import CertificateFilter
from handfast_ca.mass_revoker import Survey
from handfast_ca.metrics import CaMetrics, Obtained
from handfast_ca.service.answering import answer
from handfast_ca.service.answers import TrustMessages, certificate_message, entry_message, issued_message
from handfast_ca.service.blast import blast_radius
from handfast_ca.service.incidents import progress_messages, read_filter, reissue_message, survey_message

__all__ = ["MAX_PAGE", "RegistryService"]

MAX_PAGE = 500
_DEFAULT_PAGE = 100


class RegistryService(RegistryServicer):
    """The guard has proved that the caller is an operator; the caller's identity is what the audit log names."""

    def __init__(self, authority: Authority, metrics: CaMetrics | None = None) -> None:
        self._authority = authority
        self._trust = TrustMessages(authority.feed.history)
        self._metrics = metrics or CaMetrics()

    async def AddEntry(self, request: registry_pb2.AddEntryRequest, context: Any) -> registry_pb2.Entry:
        return await answer(context, self._add_entry(request.entry))

    async def _add_entry(self, wanted: registry_pb2.Entry) -> registry_pb2.Entry:
        async with self._reading("entry-add"):
            lifetime = _optional(wanted, "lifetime", codec.duration_from_wire)
        added = await self._authority.add_entry(
            wanted.spiffe_id,
            by=self._trusted_operator(),
            dns_names=wanted.dns_names,
            ip_addresses=wanted.ip_addresses,
            usages=wanted.usages,
            lifetime=lifetime,
            proofs=wanted.proofs,
            selectors=wanted.selectors,
            allow_rsa=wanted.allow_rsa,
            comment=wanted.comment,
        )
        return entry_message(added)

    async def ListEntries(
        self, request: registry_pb2.ListEntriesRequest, context: Any
    ) -> registry_pb2.ListEntriesResponse:
        page = await answer(
            context,
            self._authority.list_entries(
                request.identity_glob, limit=_page_size(request.page_size), token=request.page_token
            ),
        )
        return registry_pb2.ListEntriesResponse(
            entries=[entry_message(entry) for entry in page.items], next_page_token=page.next_token
        )

    async def GetEntry(self, request: registry_pb2.GetEntryRequest, context: Any) -> registry_pb2.Entry:
        return entry_message(await answer(context, _for_identity(request.spiffe_id, self._authority.get_entry)))

    async def RemoveEntry(
        self, request: registry_pb2.RemoveEntryRequest, context: Any
    ) -> registry_pb2.RemoveEntryResponse:
        await answer(context, self._remove_entry(request))
        return registry_pb2.RemoveEntryResponse()

    async def _remove_entry(self, request: registry_pb2.RemoveEntryRequest) -> None:
        async with self._reading("entry-remove"):
            identity = SpiffeId.parse(request.spiffe_id)
        await self._authority.remove_entry(identity, by=_operator())

    async def CreateToken(
        self, request: registry_pb2.CreateTokenRequest, context: Any
    ) -> registry_pb2.CreateTokenResponse:
        return await answer(context, self._create_token(request))

    async def _create_token(self, request: registry_pb2.CreateTokenRequest) -> registry_pb2.CreateTokenResponse:
        async with self._reading("token-create"):
            identity = SpiffeId.parse(request.spiffe_id)
            lifetime = _optional(request, "lifetime", codec.duration_from_wire)
        made = await self._authority.create_token(
            identity, by=self._trusted_operator(), lifetime=lifetime, allowed_cidr=request.allowed_cidr
        )
        return registry_pb2.CreateTokenResponse(
            token=made.token.text, expires_at=codec.time_to_wire(made.expires_at), spiffe_id=str(made.spiffe_id)
        )

    async def Sign(self, request: registry_pb2.SignRequest, context: Any) -> authority_pb2.IssuedCredentials:
        issued = await answer(context, self._metrics.issuing(Obtained.SIGNED, self._sign(request)))
        return issued_message(issued, self._trust.whole(issued.trust, self._authority.time.wall()))

    async def _sign(self, request: registry_pb2.SignRequest) -> Issued:
        async with self._reading("sign"):
            identity = SpiffeId.parse(request.spiffe_id)
            lifetime = _optional(request, "lifetime", codec.duration_from_wire)
        return await self._authority.sign(identity, request.csr, by=_operator(), lifetime=lifetime)

    async def ListCertificates(
        self, request: registry_pb2.ListCertificatesRequest, context: Any
    ) -> registry_pb2.ListCertificatesResponse:
        return await answer(context, self._list_certificates(request))

    async def _list_certificates(
        self, request: registry_pb2.ListCertificatesRequest
    ) -> registry_pb2.ListCertificatesResponse:
        now = self._authority.time.wall()
        within = _optional(request, "expiring_within", codec.duration_from_wire)
        wanted = CertificateFilter(
            identity_glob=request.identity_glob,
            status=request.status,
            expiring_before=None if within is None else now + within,
            now=now,
        )
        page = await self._authority.list_certificates(
            wanted, limit=_page_size(request.page_size), token=request.page_token
        )
        bundle = self._authority.trust().bundle
        return registry_pb2.ListCertificatesResponse(
            certificates=[certificate_message(record, now, bundle, whole=False) for record in page.items],
            next_page_token=page.next_token,
        )

    async def GetCertificate(
        self, request: registry_pb2.GetCertificateRequest, context: Any
    ) -> registry_pb2.Certificate:
        return await answer(context, self._get_certificate(request.serial))

    async def _get_certificate(self, serial: str) -> registry_pb2.Certificate:
        record = await self._authority.certificate(parse_serial(serial))
        return certificate_message(record, self._authority.time.wall(), self._authority.trust().bundle, whole=True)

    async def Revoke(self, request: registry_pb2.RevokeRequest, context: Any) -> registry_pb2.RevokeResponse:
        return await answer(context, self._revoke(request))

    async def _revoke(self, request: registry_pb2.RevokeRequest) -> registry_pb2.RevokeResponse:
        by, whole = _operator(), request.WhichOneof("target") == "spiffe_id"
        async with self._reading("revoke"):
            reason = _reason(request.reason)
            target = SpiffeId.parse(request.spiffe_id) if whole else parse_serial(request.serial)
        if isinstance(target, SpiffeId):
            done = await self._authority.revoke_identity(target, reason, by=by)
        else:
            done = await self._authority.revoke_serial(target, reason, by=by)
        if not done.repeated:
            self._metrics.revoked(len(done.serials))
        return registry_pb2.RevokeResponse(
            serials=[format_serial(serial) for serial in done.serials],
            revoked_at=codec.time_to_wire(done.revoked_at),
            crl_number=str(done.crl_number or ""),
            already_revoked=done.repeated,
            watchers=done.watchers,
        )

    async def Release(self, request: registry_pb2.ReleaseRequest, context: Any) -> registry_pb2.ReleaseResponse:
        return await answer(context, self._release(request))

    async def _release(self, request: registry_pb2.ReleaseRequest) -> registry_pb2.ReleaseResponse:
        authority = self._authority
        await authority.witnesses.release(by=self._trusted_operator(), accept_loss=request.accept_loss)
        crl = authority.trust().crls.get(authority.issuer.key_id)
        return registry_pb2.ReleaseResponse(
            answered=authority.witnesses.answered,
            expected=authority.witnesses.expected,
            learnt=authority.quarantine.learnt,
            crl_number="" if crl is None else str(crl.number),
        )

    def _trusted_operator(self) -> str:
        """For what gives power. Raises ``Forbidden`` (``OPERATOR_BEFORE_RESTORE``) in quarantine."""
        self._authority.quarantine.check_operator(caller().leaf)
        return _operator()

    @asynccontextmanager
    async def _reading(self, event: str) -> AsyncIterator[None]:
        """A request that cannot be read is refused here, and written down here: the core never saw it."""
        try:
            yield
        except Invalid as error:
            await self._authority.refuse(event, error, by=_operator())
            raise

    async def SurveyRevocation(
        self, request: registry_pb2.RevokeManyRequest, context: Any
    ) -> registry_pb2.RevocationSurvey:
        return survey_message(await answer(context, self._survey(request)))

    async def _survey(self, request: registry_pb2.RevokeManyRequest) -> Survey:
        return await self._authority.survey_revocation(await read_filter(request, self._authority))

    async def RevokeMany(
        self, request: registry_pb2.RevokeManyRequest, context: Any
    ) -> AsyncIterator[registry_pb2.RevokeManyProgress]:
        wanted = await answer(context, read_filter(request, self._authority))
        reason = await answer(context, _told(request.reason))
        progress = self._authority.revoke_many(wanted, reason, by=_operator())
        counted = 0
        async with aclosing(progress_messages(context, progress)) as messages:
            async for message in messages:
                self._metrics.revoked(message.certificates - counted)
                counted = message.certificates
                yield message

    async def BeginReissue(self, request: registry_pb2.BeginReissueRequest, context: Any) -> registry_pb2.ReissueReport:
        return await answer(context, self._begin_reissue(request))

    async def _begin_reissue(self, request: registry_pb2.BeginReissueRequest) -> registry_pb2.ReissueReport:
        window = codec.duration_from_wire(request.window)
        return reissue_message(await self._authority.begin_reissue(window, by=_operator()))

    async def GetReissue(self, request: registry_pb2.GetReissueRequest, context: Any) -> registry_pb2.ReissueReport:
        return reissue_message(await answer(context, self._authority.reissue_timeline()))

    async def GetBlastRadius(self, request: registry_pb2.BlastRadiusRequest, context: Any) -> registry_pb2.BlastRadius:
        return await answer(context, blast_radius(self._authority, request))

    async def ListAudit(self, request: registry_pb2.ListAuditRequest, context: Any) -> registry_pb2.ListAuditResponse:
        page = await answer(
            context,
            self._authority.read_audit(
                newest_first=request.newest_first, limit=_page_size(request.page_size), token=request.page_token
            ),
        )
        return registry_pb2.ListAuditResponse(records=page.items, next_page_token=page.next_token)

    async def GetStatus(self, request: registry_pb2.GetCaStatusRequest, context: Any) -> registry_pb2.CaStatus:
        return await answer(context, self._status())

    async def _status(self) -> registry_pb2.CaStatus:
        authority = self._authority
        counts = await authority.counts()
        crl = authority.trust().crls.get(authority.issuer.key_id)
        return registry_pb2.CaStatus(
            trust_domain=str(authority.trust_domain),
            version=version("handfast-ca"),
            lines=[
                registry_pb2.StatusLine(
                    group=line.group, name=line.name, level=line.level.value, detail=line.detail, hint=line.hint
                )
                for line in authority.status()
            ],
            entries=counts["entries"],
            valid_certificates=counts["valid"],
            revoked_certificates=counts["revoked"],
            watchers=authority.feed.watchers,
            issuer_not_after=codec.time_to_wire(authority.issuer.certificate.not_valid_after_utc),
            crl_number="" if crl is None else str(crl.number),
            crl_next_update=None if crl is None else codec.time_to_wire(crl.next_update),
        )


def _operator() -> str:
    return str(caller().spiffe_id)


async def _for_identity(text: str, act: Callable[[SpiffeId], Awaitable[Any]]) -> Any:
    """Parses inside of what is awaited, so that a wrong ID leaves as every other error does."""
    return await act(SpiffeId.parse(text))


def _optional(message: Message, field: str, read: Callable[[Any], Any]) -> Any:
    return read(getattr(message, field)) if message.HasField(field) else None


def _page_size(wanted: int) -> int:
    """0 means the default; nobody gets more than 500 at once (threat H7)."""
    return min(wanted or _DEFAULT_PAGE, MAX_PAGE)


async def _told(text: str) -> Reason:
    """As :func:`_reason`, inside of what is awaited."""
    return _reason(text)


def _reason(text: str) -> Reason:
    try:
        return Reason(text or Reason.UNSPECIFIED)
    except ValueError:
        raise Invalid(
            f"reason {text[:40]!a} is not one of {', '.join(Reason)}",
            reason="INVALID_REASON",
            hint="certificateHold does not exist here: nothing is un-revoked",
        ) from None
