"""OCSP: answers that are kept against a static file from the same server, and answers that are signed against the signature.

The first half asks a real ``handfast ca serve`` over one connection that stays open, by turns for the issuer's
certificate (a file of about that size, held in memory, too), for an answer without a nonce, and for one with a nonce, which
is signed each time: what a signature adds to all that HTTP costs. The second half is CPU time in
this process: the whole responder, from a DER request with a nonce to the DER answer, against P-256 over the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from handfast.certificates import load_certificates, subject_key_id
from handfast.ocsp import NONCE_OCTETS, build_request
from handfast_ca.ocsp.encoding import GOOD
from handfast_ca.ocsp.question import read_question
from handfast_ca.ocsp.signer import Signer
from handfast_ca.urls import issuer_slug
from tests.ca.core import NOW
from tests.ca.ocsp_bench import CEREMONY, ISSUER, MINUTE, OcspBench
from tests.ca_serve.process import RunningServe

from .report import report

WEB = "spiffe://test.example/web"
ROUNDS = 15
REQUESTS = 400
SIGNATURES = 1000


def main() -> None:
    report("OCSP answers that are kept (baseline: a static file from the same server)", served())
    report("OCSP answers that are signed, CPU (baseline: the bare signature)", signed())


def served() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, RunningServe.initialised(Path(folder) / "ca") as ca:
        ca.handfast("entry", "add", WEB).check()
        ca.handfast("cert", "issue", WEB, "--out", ca.directory / "web").check()
        issuer = load_certificates((ca.directory / "issuer" / "issuer.crt").read_bytes())[0]
        leaf = load_certificates((ca.directory / "web" / "tls.crt").read_bytes())[0]
        der = build_request(leaf.serial_number, issuer)
        slug = issuer_slug(subject_key_id(issuer) or b"")
        asks: dict[str, tuple[str, str, bytes | None]] = {
            "file": ("GET", f"/ca/{slug}.cer", None),
            "get": ("GET", f"/ocsp/{base64.b64encode(der).decode()}", None),
            "post": ("POST", "/ocsp", der),
            "signed": ("POST", "/ocsp", build_request(leaf.serial_number, issuer, nonce=b"n" * NONCE_OCTETS)),
        }
        rates: dict[str, list[float]] = {name: [] for name in asks}
        costs: dict[str, list[float]] = {name: [] for name in asks}
        sizes = dict.fromkeys(asks, 0)
        for _ in range(ROUNDS):
            for name, (method, path, body) in asks.items():
                rate, cost, sizes[name] = load(ca, method, path, body)
                rates[name].append(rate)
                costs[name].append(cost)
    rows: list[dict[str, Any]] = []
    base_rate, base_cost = (statistics.median(found["file"]) for found in (rates, costs))
    for name, words in (("get", "GET"), ("post", "POST"), ("signed", "POST with a nonce, signed for it")):
        rate, cost = statistics.median(rates[name]), statistics.median(costs[name])
        # Round by round, since other work comes and goes.
        ratio = statistics.median(one / file for one, file in zip(rates[name], rates["file"], strict=True))
        size = f"{words}, {sizes[name]} bytes (file: {sizes['file']})"
        row: dict[str, Any] = {"what": size, "value": rate, "unit": "1/s", "baseline": base_rate, "ratio": ratio}
        if name != "signed":
            row |= {"goal": "at least 0.5", "met": ratio >= 0.5}
        rows.append(row)
        rows.append({"what": f"{words}, server CPU", "value": cost * 1e6, "unit": "us", "baseline": base_cost * 1e6,
                     "ratio": cost / base_cost})  # fmt: skip
    return rows


def load(ca: RunningServe, method: str, path: str, body: bytes | None) -> tuple[float, float, int]:
    """Requests a second, CPU seconds of the server a request, and the size of what it sends."""
    server = psutil.Process(ca.pid)
    connection = http.client.HTTPConnection(ca.http, timeout=10)
    headers = {"Content-Type": "application/ocsp-request"} if body else {}

    def ask() -> int:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        assert answer.status == 200
        return len(answer.read())

    try:
        for _ in range(REQUESTS // 10):
            ask()
        began, before = time.perf_counter(), cpu(server)
        for _ in range(REQUESTS - 1):
            ask()
        size = ask()
        return REQUESTS / (time.perf_counter() - began), (cpu(server) - before) / REQUESTS, size
    finally:
        connection.close()


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def signed() -> list[dict[str, Any]]:
    """By turns, and the median of the rounds."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = Signer(CEREMONY.issuing.certificate, CEREMONY.issuing.key)
    request = build_request(1 << 127, ISSUER, nonce=b"n" * 32)
    ready = read_question(request)
    tbs = ocsp.load_der_ocsp_response(signer.sign(ready, GOOD, NOW, NOW + 10 * MINUTE)).tbs_response_bytes
    algorithm = ec.ECDSA(hashes.SHA256())
    bench, serial = asyncio.run(prepared())
    asked = build_request(serial, ISSUER, nonce=b"n" * 32)
    work: dict[str, Callable[[], None]] = {
        "bare": repeat(lambda: key.sign(tbs, algorithm)),
        "made": repeat(lambda: signer.sign(read_question(request), GOOD, NOW, NOW + 10 * MINUTE)),
        "whole": lambda: asyncio.run(answers(bench, asked)),
        "classes": repeat(by_classes(ready)),
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, doing in work.items():
            began = time.process_time()
            doing()
            taken[name].append((time.process_time() - began) / SIGNATURES * 1e6)
    cost = {name: statistics.median(found) for name, found in taken.items()}
    rows = []
    for name, what in (
        ("made", "request read, answer encoded and signed"),
        ("whole", "the whole responder, status known"),
        ("classes", "the same by the library's OCSP classes"),
    ):
        row: dict[str, Any] = {"what": what, "value": cost[name], "unit": "us", "baseline": cost["bare"]}
        row["ratio"] = cost[name] / cost["bare"]
        if name != "classes":
            row |= {"goal": "at most 1.5", "met": row["ratio"] <= 1.5}
        rows.append(row)
    return rows


def repeat(once: Callable[[], object]) -> Callable[[], None]:
    def many() -> None:
        for _ in range(SIGNATURES):
            once()

    return many


async def prepared() -> tuple[OcspBench, int]:
    """A responder that knows the status of the serial already."""
    bench = await OcspBench().start()
    serial = (await bench.issue()).record.serial
    await bench.ask(serial)
    return bench, serial


async def answers(bench: OcspBench, asked: bytes) -> None:
    for _ in range(SIGNATURES):
        await bench.responder.answer(asked)


def by_classes(question: Any) -> Callable[[], bytes]:
    """What the same answer costs when ``cryptography.x509.ocsp`` reads and writes it."""
    der = build_request(question.cert.serial, ISSUER, nonce=b"n" * 32)
    begins, ends = NOW.replace(tzinfo=None), (NOW + 10 * MINUTE).replace(tzinfo=None)
    base = ocsp.OCSPResponseBuilder(None, (ISSUER, ocsp.OCSPResponderEncoding.HASH), [ISSUER])

    def once() -> bytes:
        asked = ocsp.load_der_ocsp_request(der)
        nonce = asked.extensions.get_extension_for_class(x509.OCSPNonce).value
        made = base.add_response_by_hash(
            asked.issuer_name_hash,
            asked.issuer_key_hash,
            asked.serial_number,
            asked.hash_algorithm,
            ocsp.OCSPCertStatus.GOOD,
            begins,
            ends,
            None,
            None,
        ).add_extension(nonce, critical=False)
        return made.sign(CEREMONY.issuing.key, hashes.SHA256()).public_bytes(Encoding.DER)

    return once


if __name__ == "__main__":
    main()
