"""What the guard costs a call, and whether revocations make it cost more.

One real mTLS call brings a real context into a handler; there the same behaviour runs in a loop, bare and guarded by turns,
and the thread's CPU time is compared. Networks and serialisation are so left out of both.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from handfast.access import allow
from handfast.rpc.guard import Guard, GuardObserver
from handfast.rpc.server import server_credentials
from handfast.testing import TestAuthority
from handfast_ca.metrics import RpcMetrics

from .report import report

METHOD = "/bench.Guard/Measure"
CALLS, ROUNDS = 10_000, 7
UNIT = "µs CPU a call"
GOAL_MICROSECONDS = 6.0


def behaviour(request: bytes, context: Any) -> bytes:
    return request


def reading_only(request: bytes, context: Any) -> bytes:
    context.auth_context()
    return request


def main() -> None:
    rows: list[dict[str, Any]] = []
    for revoked in (0, 1_000, 100_000):
        bare, reading, guarded = measure(revoked)
        if not rows:
            rows.append(
                {"what": "grpc's auth_context() alone", "value": reading - bare, "unit": UNIT, "baseline": bare}
            )
        cost = guarded - bare
        first = rows[1]["value"] if len(rows) > 1 else cost
        rows.append(
            {
                "what": f"guard, {revoked:,} revocations",
                "value": cost,
                "unit": UNIT,
                "baseline": bare,
                "ratio": cost / first,
                "goal": f"under {GOAL_MICROSECONDS} µs, flat",
                "met": cost < GOAL_MICROSECONDS,
            }
        )
    bare, _, guarded = measure(0, RpcMetrics(CollectorRegistry()))
    plain = rows[1]["value"]
    rows.append(
        {
            "what": "guard, 0 revocations, counted in Prometheus metrics",
            "value": guarded - bare,
            "unit": UNIT,
            "baseline": bare,
            "ratio": (guarded - bare) / plain,
        }
    )
    report("guard (ratio: against no revocations)", rows)


def measure(revoked: int, observer: GuardObserver | None = None) -> tuple[float, float, float]:
    """Microseconds of CPU for the bare behaviour, for one that only asks grpc who calls, and for the guarded one."""
    authority = TestAuthority()
    source, client = authority.source("/server"), authority.issue("/client")
    authority.revoke_all(secrets.randbits(127) | 1 for _ in range(revoked))
    guard = Guard(source, allow("spiffe://test.example/client", methods=["/bench.Guard/*"]), observer=observer)
    guarded = wrapped(guard)
    results: list[tuple[float, float, float]] = []

    def measuring(request: bytes, context: Any) -> bytes:
        subjects = (behaviour, reading_only, guarded)
        results.extend(tuple(loop(one, context) for one in subjects) for _ in range(ROUNDS))  # type: ignore[misc]
        return request

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(measuring)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Guard", {"Measure": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
    server.start()
    credentials = grpc.ssl_channel_credentials(client.bundle.roots_pem, client.key_pem, client.chain_pem)
    try:
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            channel.unary_unary(METHOD)(b"x", timeout=300)
    finally:
        server.stop(None).wait()
        guard.close()
    bare, reading, judged = zip(*results, strict=True)
    return statistics.median(bare), statistics.median(reading), statistics.median(judged)


def wrapped(guard: Guard) -> Callable[[bytes, Any], bytes]:
    class Details:
        method = METHOD
        invocation_metadata = ()

    handler = guard.intercept_service(lambda _: grpc.unary_unary_rpc_method_handler(behaviour), Details())
    return handler.unary_unary  # type: ignore[no-any-return]


def loop(call: Callable[[bytes, Any], bytes], context: Any) -> float:
    began = time.thread_time()
    for _ in range(CALLS):
        call(b"x", context)
    return (time.thread_time() - began) / CALLS * 1e6


if __name__ == "__main__":
    main()
