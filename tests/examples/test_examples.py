"""Every example runs with the command that its README gives, and prints what its README shows."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from examples.shop import orders
from examples.shop.__main__ import hand_over, running
from examples.shop.v1.shop_pb2 import PlaceRequest, TrackRequest
from examples.shop.v1.shop_pb2_grpc import OrdersStub
from handfast.rpc.channel import channel
from handfast.testing import TestAuthority
from handfast.wire.codec import from_rpc_error

ROOT = Path(__file__).resolve().parents[2]
SHOWN = re.compile(r"```console\n\$ \.venv/bin/python -m (\S+)\n(.*?)```", re.DOTALL)
EXAMPLES = dict(SHOWN.findall((ROOT / "examples" / "README.md").read_text("utf-8")))
TEAPOT = PlaceRequest(item="teapot", cents=1999)
pytestmark = pytest.mark.timeout(90)


def matches(shown: str, printed: str) -> bool:
    """Whether this was printed; an ellipsis stands for anything within a line."""
    return re.fullmatch("[^\n]+".join(re.escape(part) for part in shown.split("…")), printed) is not None


@pytest.mark.parametrize("module", EXAMPLES)
def test_an_example_ends_well_and_prints_what_its_readme_shows(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", module], cwd=ROOT, capture_output=True, text=True, timeout=80
    )
    assert ended.returncode == 0, ended.stderr
    assert matches(EXAMPLES[module], ended.stdout), ended.stdout
    assert "Traceback" not in ended.stderr


def test_the_readme_shows_every_example_that_starts_with_one_command() -> None:
    files = {file.stem for file in (ROOT / "examples").glob("*.py")} - {"__init__"}
    packages = {file.parent.name for file in (ROOT / "examples").glob("*/__main__.py")}
    assert set(EXAMPLES) == {f"examples.{name}" for name in files | packages}


def test_services_follow_the_agents_files_and_an_order_is_not_charged_by_a_revoked_payments(tmp_path: Path) -> None:
    """C6: the services as processes, and a client of sync gRPC."""
    authority = TestAuthority("shop.example")
    held = authority.issue("/payments")
    hand_over(held, tmp_path / "payments")
    hand_over(authority.issue("/orders"), tmp_path / "orders")
    with (
        running("payments", tmp_path / "payments") as payments_at,
        running("orders", tmp_path / "orders", "--payments", payments_at) as orders_at,
        channel(authority.source("/web"), orders_at, server=orders.IDENTITY) as from_web,
        channel(authority.source("/stranger"), orders_at, server=orders.IDENTITY) as from_stranger,
    ):
        assert OrdersStub(from_web).Place(TEAPOT).state == "paid"
        with pytest.raises(grpc.RpcError) as refused:
            OrdersStub(from_stranger).Place(TEAPOT)
        assert from_rpc_error(refused.value).reason == "NOT_ALLOWED"
        with pytest.raises(grpc.RpcError) as unknown:
            next(OrdersStub(from_web).Track(TrackRequest(id="nothing")))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

        authority.revoke(held)
        hand_over(authority.issue("/orders"), tmp_path / "orders")  # payments has not heard of it, orders has
        not_charged = first_failure(lambda: OrdersStub(from_web).Place(TEAPOT))
        assert not_charged.code() is grpc.StatusCode.UNAVAILABLE
        assert "the order was not charged" in not_charged.details()


def first_failure(call: Callable[[], object]) -> Any:
    """Calls until it fails: the services look at their files five times a second."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            call()
        except grpc.RpcError as error:
            return error
    raise AssertionError("every call was served")
