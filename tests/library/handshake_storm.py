"""A process of its own, since what is tested here ends it: handshakes from many threads while the server's source changes.

Prints how many calls were answered.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from handfast.access import in_trust_domain
from handfast.rpc.guard import Guard
from handfast.testing import TestAuthority
from tests.library.mesh import UNARY, client_credentials, sync_server

CALLERS = 12
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def main(calls: int) -> None:
    authority = TestAuthority()
    source, over = authority.source("/server"), threading.Event()
    credentials = client_credentials(authority.issue("/web"))

    def change() -> None:
        while not over.wait(0.02):
            authority.rotate(source)
            authority.refresh_list()

    def call(_number: int) -> bytes:
        with grpc.secure_channel(target, credentials, options=OWN_CONNECTION) as channel:
            return bytes(channel.unary_unary(UNARY)(b"x", timeout=60))

    guard = Guard(source, in_trust_domain(authority.trust_domain))
    with sync_server(source, guard) as (target, _), ThreadPoolExecutor(CALLERS) as callers:
        changing = threading.Thread(target=change)
        changing.start()
        try:
            answered = sum(answer.endswith(b"x") for answer in callers.map(call, range(calls)))
        finally:
            over.set()
            changing.join()
    print(answered)


if __name__ == "__main__":
    main(int(sys.argv[1]))
