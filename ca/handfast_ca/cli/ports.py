"""Before a CA starts: can it have its ports? Said for all of them at once, by the names that they have in the file."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from handfast.errors import Unavailable, ViolationsCollector
from handfast_ca.config import Address, Config

__all__ = ["check_ports"]


def check_ports(config: Config) -> None:
    """Binds each port and lets it go. Raises ``Unavailable`` (``ADDRESS_IN_USE``).

    Somebody else may take one right afterwards: then the start fails all the same, with an uglier word.
    """
    found = ViolationsCollector()
    with ExitStack() as stack:
        for name, address in (("grpc", config.grpc), ("enrol", config.enrol), ("http", config.http)):
            try:
                stack.enter_context(_bound(address))
            except OSError as error:
                found.add(f"listen.{name}", "ADDRESS_IN_USE", f"{address} cannot be had: {error.strerror}")
        found.raise_if_any("the CA cannot listen where its configuration says", kind=Unavailable)


def _bound(address: Address) -> socket.socket:
    (family, kind, protocol, _, place), *_ = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen()  # on Linux, what only binds does not keep others away
    except OSError:
        made.close()
        raise
    return made
