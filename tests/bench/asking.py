"""A client process of the issuing benchmark: sends requests that were made before, so many at once, and says how it went.

It reads one job as a line of JSON on stdin, opens its connections, prints a line, and waits for another line: so all
clients begin together. At the end it prints the seconds of each answer, of all of them together, and of its own CPU: what it
costs is missing on the same cores. An answer that is no certificate ends it.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from handfast.certificates import Leaf
from handfast.wire.v1 import authority_pb2

Result = tuple[list[float], float, float]
"""The seconds of each answer, of all of them together, and of this process's CPU meanwhile."""
RENEW = "/handfast.v1.Authority/Renew"


def main() -> None:
    job = json.loads(sys.stdin.readline())
    taken, elapsed, cpu = renew_all(job) if job["kind"] == "handfast" else sign_all(job)
    print(json.dumps({"taken": taken, "elapsed": elapsed, "cpu": cpu}), flush=True)


def ready_and_told() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def renew_all(job: dict[str, Any]) -> Result:
    """Over one mTLS connection with many calls in flight."""
    requests = [
        authority_pb2.RenewRequest(csr=base64.b64decode(csr)).SerializeToString(deterministic=True)
        for csr in job["csrs"]
    ]
    return asyncio.run(_renew_all(job, requests))


async def _renew_all(job: dict[str, Any], requests: list[bytes]) -> Result:
    credentials = grpc.ssl_channel_credentials(*(job[name].encode() for name in ("root", "key", "chain")))
    async with grpc.aio.secure_channel(job["target"], credentials) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        renew = channel.unary_unary(RENEW)
        waiting, taken, answers = iter(requests), [], []

        async def one_in_flight() -> None:
            for request in waiting:
                began = time.perf_counter()
                answers.append(await renew(request, timeout=60))
                taken.append(time.perf_counter() - began)

        ready_and_told()
        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one_in_flight() for _ in range(job["in_flight"])))
        elapsed, used = time.perf_counter() - begin, time.process_time() - cpu
    for answer in answers:
        _check_answer(answer)
    return taken, elapsed, used


def _check_answer(answer: bytes) -> None:
    issued = authority_pb2.IssuedCredentials.FromString(answer)
    Leaf.parse(issued.chain[0])
    assert not issued.repeated_answer


def sign_all(job: dict[str, Any]) -> Result:
    """Over so many HTTPS connections that are kept open, a thread each: HTTP/1.1 has one call in flight on each."""
    bodies = [json.dumps({"csr": csr, "uri_sans": job["uri"]}).encode() for csr in job["csrs"]]
    waiting = iter(bodies)
    context = ssl.create_default_context(cafile=job["root"])
    connections = [
        http.client.HTTPSConnection("localhost", job["port"], context=context, timeout=60)
        for _ in range(job["in_flight"])
    ]
    for connection in connections:
        connection.connect()
    ready_and_told()
    begin, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(len(connections)) as threads:
        parts = threads.map(lambda connection: _sign(connection, job["token"], waiting), connections)
        taken = [seconds for part in parts for seconds in part]
    return taken, time.perf_counter() - begin, time.process_time() - cpu


def _sign(connection: http.client.HTTPSConnection, token: str, bodies: Iterator[bytes]) -> list[float]:
    taken = []
    for body in bodies:
        began = time.perf_counter()
        connection.request("POST", "/v1/pki/sign/workload", body, {"X-Vault-Token": token})
        answer = connection.getresponse()
        text = answer.read()
        taken.append(time.perf_counter() - began)
        assert b"BEGIN CERTIFICATE" in text, text[:300]
    connection.close()
    return taken


if __name__ == "__main__":
    main()
