"""What a TLS server presents, looked at without trusting it."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from cryptography import x509

from handfast.cli.reading import certificate_item
from handfast.errors import Invalid, Unavailable

__all__ = ["look_at"]

TIMEOUT = 10.0


def look_at(host: str, port: int) -> list[dict[str, Any]]:
    """The connection, then each certificate that the server sent, leaf first.

    A server that demands a client certificate shows its own all the same, since in TLS 1.3 it presents before it asks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # looking is the purpose; nothing is sent over this connection
    context.set_alpn_protocols(["h2", "http/1.1"])
    server_name = None if _is_address(host) else host
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as connection,
        ):
            return [_connection_item(host, port, connection), *map(certificate_item, _presented(connection))]
    except ssl.SSLError as error:
        raise Invalid(
            f"{host}:{port} does not speak TLS as we do: {error.reason or error}",
            reason="NO_TLS",
            hint="is it a port that speaks TLS?",
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{host}:{port} cannot be reached: {error.strerror or error}", hint="is it running there?"
        ) from error


def _connection_item(host: str, port: int, connection: ssl.SSLSocket) -> dict[str, Any]:
    cipher = connection.cipher()
    return {
        "name": f"{host}:{port}",
        "kind": "TLS server",
        "address": f"{host}:{port}",
        "protocol": connection.version(),
        "cipher": cipher[0] if cipher else None,
        "alpn": connection.selected_alpn_protocol(),
    }


def _presented(connection: ssl.SSLSocket) -> list[x509.Certificate]:
    """The chain as sent. ``get_unverified_chain`` is public from Python 3.13 on; before it is on the inner object."""
    inner: Any = getattr(connection, "_sslobj", None)
    if hasattr(connection, "get_unverified_chain"):
        ders = [bytes(der) for der in connection.get_unverified_chain()]
    elif hasattr(inner, "get_unverified_chain"):
        return [
            x509.load_pem_x509_certificate(one.public_bytes().encode("ascii")) for one in inner.get_unverified_chain()
        ]
    else:
        ders = [connection.getpeercert(binary_form=True) or b""]
    return [x509.load_der_x509_certificate(der) for der in ders if der]


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
