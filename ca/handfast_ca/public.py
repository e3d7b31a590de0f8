"""The plain HTTP port: public facts only. Revocation lists, CA certificates, the bundle, and how the CA is."""

from __future__ import annotations

from email.utils import format_datetime
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handfast.certificates import subject_key_id
from handfast.spiffe_bundle import spiffe_bundle
from handfast_ca.access import POSTED, ROUTES
from handfast_ca.authority import Authority
from handfast_ca.metrics import CONTENT_TYPE, CaMetrics
from handfast_ca.public_ocsp import PublicOcsp
from handfast_ca.status import Level
from handfast_ca.urls import issuer_slug

__all__ = ["application"]

_CRL, _CERTIFICATE, _PEM = "application/pkix-crl", "application/pkix-cert", "application/x-pem-file"


def application(authority: Authority, metrics: CaMetrics) -> Starlette:
    """Serves the present state of the authority; nothing here changes anything. Only what ``ROUTES`` declares is there."""
    public = _Public(authority, metrics)
    ocsp = PublicOcsp(authority, metrics)
    serving = {
        "/crl/{issuer}.crl": public.crl,
        "/crl/{issuer}.pem": public.crl_pem,
        "/ca/{issuer}.cer": public.certificate,
        "/bundle": public.spiffe_bundle,
        "/bundle.pem": public.bundle,
        "/ocsp": ocsp.post,
        "/ocsp/{request:path}": ocsp.get,
        "/livez": public.live,
        "/readyz": public.ready,
        "/metrics": public.metrics,
    }
    return Starlette(
        routes=[Route(path, serving[path], methods=["POST"] if path in POSTED else ["GET"]) for path in ROUTES],
        exception_handlers={HTTPException: _no_such_thing},
    )


class _Public:
    def __init__(self, authority: Authority, metrics: CaMetrics) -> None:
        self._authority = authority
        self._metrics = metrics

    async def crl(self, request: Request) -> Response:
        return self._list(request, pem=False)

    async def crl_pem(self, request: Request) -> Response:
        return self._list(request, pem=True)

    def _list(self, request: Request, *, pem: bool) -> Response:
        for key_id, known in self._authority.trust().crls.items():
            if issuer_slug(key_id) == request.path_params["issuer"]:
                left = int((known.next_update - self._authority.time.wall()).total_seconds())
                headers = {
                    "Last-Modified": format_datetime(known.this_update, usegmt=True),
                    "Cache-Control": f"max-age={max(left, 0)}",
                }
                return _file(request, known.pem() if pem else known.der, _PEM if pem else _CRL, headers)
        return _missing()

    async def certificate(self, request: Request) -> Response:
        bundle = self._authority.trust().bundle
        for certificate in (*bundle.roots, *bundle.issuers):
            if issuer_slug(subject_key_id(certificate) or b"") == request.path_params["issuer"]:
                return _file(request, certificate.public_bytes(Encoding.DER), _CERTIFICATE, {})
        return _missing()

    async def bundle(self, request: Request) -> Response:
        return _file(request, self._authority.trust().bundle.pem, _PEM, {"Cache-Control": "no-cache"})

    async def spiffe_bundle(self, request: Request) -> Response:
        """Federation endpoints serve this over HTTPS (SPIFFE Federation, 5); here it is for whoever trusts the path."""
        body = spiffe_bundle(self._authority.trust().bundle)
        return _file(request, body, "application/json", {"Cache-Control": "no-cache"})

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    async def live(self, _request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _request: Request) -> Response:
        """200 when every check is well or only a warning, 503 otherwise; a reason for each."""
        lines = await self._authority.look()
        good = all(line.level is not Level.FAILED for line in lines)
        checks = [{"name": f"{line.group}/{line.name}", "level": line.level, "detail": line.detail} for line in lines]
        return JSONResponse({"ready": good, "checks": checks}, status_code=200 if good else 503)


def _file(request: Request, body: bytes, kind: str, headers: dict[str, str]) -> Response:
    """With an entity tag, so that who has it already gets 304 (RFC 9110, 13)."""
    tag = f'"{sha256(body).hexdigest()[:32]}"'
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={**headers, "ETag": tag})
    return Response(body, media_type=kind, headers={**headers, "ETag": tag})


async def _no_such_thing(_request: Request, error: Exception) -> Response:
    """Unknown paths and methods, answered as everything else is: in JSON."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail.lower()}, status_code=error.status_code, headers=error.headers)


def _missing() -> Response:
    return JSONResponse({"error": "there is no such issuer here"}, status_code=404)
