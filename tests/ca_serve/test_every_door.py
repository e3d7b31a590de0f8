"""Every gRPC method and every HTTP route of a CA that runs, as its own reflection and its own table tell them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from starlette.routing import Route

from handfast.wire.codec import from_rpc_error
from handfast_ca.access import METHODS, POSTED, ROUTES, Audience
from handfast_ca.metrics import CaMetrics
from handfast_ca.public import application
from tests.ca_edges.running import running_ca
from tests.ca_serve.process import RunningServe

WEB = "spiffe://test.example/web"
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with RunningServe.initialised(tmp_path_factory.mktemp("doors") / "ca") as running:
        running.handfast("entry", "add", WEB).check()
        running.handfast("cert", "issue", WEB, "--out", running.directory / "web").check()
        yield running


@contextmanager
def channel(ca: RunningServe, files: str = "", *, enrol: bool = False) -> Iterator[grpc.Channel]:
    """With the certificate in ``files``, or without one."""
    roots = (ca.directory / "root" / "root.crt").read_bytes()
    folder = ca.directory / files
    pair = [(folder / name).read_bytes() for name in ("tls.key", "tls.crt")] if files else [None, None]
    target = (ca.enrol if enrol else ca.grpc).replace("127.0.0.1", "localhost")
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(roots, *pair)) as opened:
        yield opened


def methods(opened: grpc.Channel) -> dict[str, bool]:
    """All that the server says it has, and whether each takes a stream."""
    database = ProtoReflectionDescriptorDatabase(opened)
    pool = DescriptorPool(database)
    services = [pool.FindServiceByName(name) for name in database.get_services()]
    return {
        f"/{service.full_name}/{method.name}": method.client_streaming or method.server_streaming
        for service in services
        for method in service.methods
    }


def reason(opened: grpc.Channel, method: str, streams: bool) -> str:
    """Why a call with an empty message is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        if streams:
            list(opened.stream_stream(method)(iter([b""]), timeout=20))
        else:
            opened.unary_unary(method)(b"", timeout=20)
    return from_rpc_error(caught.value).reason


def test_every_method_is_declared_and_nothing_is_declared_that_is_not_there(ca: RunningServe) -> None:
    """A19: a method that is added without an entry in the table fails here."""
    with channel(ca, "operator") as opened:
        assert set(methods(opened)) == set(METHODS)


def test_every_method_that_is_not_open_wants_a_certificate(ca: RunningServe) -> None:
    """A19: over the enrolment port, reflection and health among them."""
    with channel(ca, "operator") as operator, channel(ca, enrol=True) as nobody:
        for method, streams in methods(operator).items():
            if METHODS[method] is not Audience.ANYBODY:
                assert (method, reason(nobody, method, streams)) == (method, "NO_CERTIFICATE")


def test_a_workload_is_let_into_nothing_that_is_an_operator_s(ca: RunningServe) -> None:
    """A19: for each method as the server tells it."""
    with channel(ca, "operator") as operator, channel(ca, "web") as web:
        for method, streams in methods(operator).items():
            if METHODS[method] is Audience.OPERATORS:
                assert (method, reason(web, method, streams)) == (method, "NOT_ALLOWED")


async def test_every_route_is_declared(tmp_path: Path) -> None:
    """A19: nothing is served over HTTP that the table does not name, and it only gives."""
    async with running_ca(tmp_path) as running:
        routes = application(running.authority, CaMetrics()).routes
        for route in routes:
            assert isinstance(route, Route)
            assert route.methods == ({"POST"} if route.path in POSTED else {"GET", "HEAD"})
        assert {"/ocsp"} == POSTED
        assert {getattr(route, "path", None) for route in routes} == set(ROUTES)
        assert set(ROUTES.values()) == {Audience.ANYBODY}


def test_an_operator_s_tool_finds_its_way_by_reflection(ca: RunningServe) -> None:
    """The services are listed, and the file of one describes it."""
    with channel(ca, "operator") as opened:
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="handfast.v1.Registry"),
        ]
        listed, described = ServerReflectionStub(opened).ServerReflectionInfo(iter(asked), timeout=20)
    names = {service.name for service in listed.list_services_response.service}
    assert {"handfast.v1.Authority", "handfast.v1.Registry", "grpc.health.v1.Health"} <= names
    assert b"RevokeRequest" in b"".join(described.file_descriptor_response.file_descriptor_proto)


def test_a_workload_may_ask_whether_the_ca_is_well(ca: RunningServe) -> None:
    with channel(ca, "web") as opened:
        answer = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
