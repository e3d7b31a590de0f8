"""How long a revoked client is let in by other people's programs, from the moment that the agent asks the CA.

What is counted: from that moment to the start of the last request over a new connection that was still answered. The agent, its
files and its hook lie between, and for proxies the start of processes. The baseline is uvicorn with the library over the same files. The
clients ask as fast as they can from this process, and all share the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handfast.credentials import Credentials
from handfast.sources import StaticSource
from handfast.testing import TestAuthority
from tests.consumers import test_haproxy, test_nginx, test_node, test_tls
from tests.consumers.asking import ask, context_of
from tests.consumers.members import TRUST_DOMAIN
from tests.consumers.upstream import Upstream, upstream
from tests.peers.authority import PeerAuthority, running

from .report import report

ROUNDS, IN_A_ROW = 20, 20
Serving = Callable[[Path, PeerAuthority, Upstream], contextlib.AbstractAsyncContextManager[Any]]
PROGRAMS: dict[str, Serving] = {
    "uvicorn, the library over files": lambda home, peer, _: test_tls.serving(home, peer),
    "Node, a watch on the directory": lambda home, peer, _: test_node.serving(home, peer),
    "nginx, a reload": test_nginx.serving,
    "HAProxy, a reload": test_haproxy.serving,
    "HAProxy, its runtime API": lambda home, peer, service: test_haproxy.serving(
        home, peer, service, test_haproxy.LISTS
    ),
}


async def main() -> None:
    logging.getLogger("handfast_agent").setLevel(logging.ERROR)  # the first hook finds no program yet, and says so
    rows: list[dict[str, Any]] = []
    for name, serving in PROGRAMS.items():
        lags = await measured(serving)
        rows.append({"what": name, "value": statistics.median(lags), "unit": "ms, median"})
        rows.append({"what": f"{name}, worst of {ROUNDS}", "value": max(lags), "unit": "ms"})
    for row in rows[2::2]:
        row["ratio"] = row["value"] / rows[0]["value"]
    report("a revoked client is let in by new handshakes (baseline: the library over the same files)", rows)


async def measured(serving: Serving) -> list[float]:
    home = Path(tempfile.mkdtemp(prefix="handfast-bench-"))
    try:
        async with running(PeerAuthority(TestAuthority(TRUST_DOMAIN))) as peer:
            with upstream(StaticSource(peer.authority.issue("/orders"))) as service:
                async with serving(home, peer, service) as served:
                    return [await one(served, peer) for _ in range(ROUNDS)]
    finally:
        shutil.rmtree(home)


async def one(served: Any, peer: PeerAuthority) -> float:
    """Milliseconds."""
    client = peer.authority.issue("/client")
    peer.authority.revoke(client)
    began = time.monotonic()
    asking = asyncio.create_task(asyncio.to_thread(last_answered, served.port, client))
    await served.member.listen()
    return max(await asking - began, 0.0) * 1000


def last_answered(port: int, client: Credentials) -> float:
    """When the last request began that was answered. Until then twenty in a row were not."""
    context, last, refused = context_of(client), 0.0, 0
    while refused < IN_A_ROW:
        began = time.monotonic()
        if ask(port, context).good:
            last, refused = began, 0
        else:
            refused += 1
    return last


if __name__ == "__main__":
    asyncio.run(main())
