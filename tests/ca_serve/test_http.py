"""The plain HTTP port of a CA that runs: what anybody may fetch, and how it answers what it does not know."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ca_serve.process import RunningServe

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    directory: Path = tmp_path_factory.mktemp("http")
    with RunningServe.initialised(directory / "ca") as running:
        yield running


def ask(ca: RunningServe, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(ca.http, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_a_head_request_has_the_headers_of_the_get_and_no_body(ca: RunningServe) -> None:
    got, body = ask(ca, "GET", "/bundle.pem")
    head, nothing = ask(ca, "HEAD", "/bundle.pem")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["ETag"] == got.headers["ETag"]
    assert int(head.headers["Content-Length"]) == len(body)


def test_who_has_the_present_one_is_told_so(ca: RunningServe) -> None:
    """RFC 9110, 13.1.2."""
    got, _ = ask(ca, "GET", "/bundle.pem")
    again, body = ask(ca, "GET", "/bundle.pem", **{"If-None-Match": got.headers["ETag"]})
    assert (again.status, body) == (304, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/crl/00ff.crl", 404), ("POST", "/bundle.pem", 405)],
)
def test_what_is_not_there_is_said_in_json_and_the_server_has_no_banner(
    ca: RunningServe, method: str, path: str, status: int
) -> None:
    answer, body = ask(ca, method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert body.startswith(b'{"error"')
    assert answer.headers["Server"] is None
