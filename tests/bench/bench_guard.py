"""What the guard costs a call, and whether revocations make it cost more.

One real mTLS call brings a real context into a handler; there the same behaviour runs in a loop, bare and guarded by turns,
and the thread's CPU time is compared. Networks and serialisation are so left out of both. What other work does to a shared
core only ever adds to CPU time, so the least disturbed of the rounds is what is shown. grpc's own ``auth_context()``, which the
guard cannot do without, is the baseline.
"""

from __future__ import annotations

import secrets
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
CALLS, ROUNDS = 10_000, 15
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
        cost, least = guarded - bare, reading - bare
        rows.append(
            {
                "what": f"guard, {revoked:,} revocations",
                "value": cost,
                "unit": UNIT,
                "baseline": least,
                "ratio": cost / least,
                "goal": f"under {GOAL_MICROSECONDS:g} µs",
                "met": cost < GOAL_MICROSECONDS,
            }
        )
    many, none = rows[-1]["value"], rows[0]["value"]
    rows.append(
        {
            "what": "100,000 revocations against none",
            "value": many,
            "unit": UNIT,
            "baseline": none,
            "ratio": many / none,
        }
    )
    bare, _, guarded = measure(0, RpcMetrics(CollectorRegistry()))
    rows.append(
        {
            "what": "guard, 0 revocations, counted in Prometheus metrics",
            "value": guarded - bare,
            "unit": UNIT,
            "baseline": none,
            "ratio": (guarded - bare) / none,
        }
    )
    report(f"guard, best of {ROUNDS} rounds (baseline: grpc's auth_context() alone)", rows)


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
    return min(bare), min(reading), min(judged)


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
