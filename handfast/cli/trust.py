"""What a CA tells everybody over plain HTTP. Nothing is believed for coming from there: a list carries its signature."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from handfast.cli.context import Context
from handfast.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from handfast.credentials import Credentials
    from handfast.revocation import RevocationList

__all__ = ["fetch_list", "http_get", "public_file"]

MAX_BYTES = 64 * 1024 * 1024
HTTP_SECONDS = 5.0


def http_get(context: Context, path: str) -> tuple[int, bytes]:
    """Status and body. Raises ``Unavailable`` when nobody answers, ``Invalid`` when the context names no HTTP address."""
    if not context.http:
        raise Invalid("the context names no HTTP address", reason="NO_HTTP", hint="add `http: http://HOST:7080` to it")
    url = context.http.rstrip("/") + path
    try:
        with urllib.request.urlopen(url, timeout=HTTP_SECONDS) as response:  # noqa: S310  the operator's context names it
            return response.status, _bounded(response, url)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _bounded(error, url)
    except OSError as error:
        cause = getattr(error, "reason", error)
        why = getattr(cause, "strerror", None) or cause
        raise Unavailable(f"{url} cannot be reached: {why}", hint="is the CA running? `handfast ca serve`") from error


def public_file(context: Context, path: str) -> bytes:
    """One public file. Raises ``NotFound`` when the CA has none of this name."""
    status, body = http_get(context, path)
    if status != 200:
        raise NotFound(f"{context.http.rstrip('/')}{path} answers {status}", hint="is `http` in the context the CA's?")
    return body


def fetch_list(context: Context, credentials: Credentials, *, issuer_key_id: bytes) -> RevocationList:
    """The issuer's present list over HTTP. It is signed: the credentials' own bundle says whether it is genuine."""
    from handfast.clock import SystemClock
    from handfast.revocation import RevocationList, split_pem

    (der,) = split_pem(public_file(context, f"/crl/{issuer_key_id.hex()}.pem"))[:1] or (b"",)
    return RevocationList.verify(der, credentials.bundle, now=SystemClock().now())


def _bounded(response: Any, url: str) -> bytes:
    body: bytes = response.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise Invalid(f"{url} answers more than {MAX_BYTES} bytes", reason="TOO_LARGE")
    return body
