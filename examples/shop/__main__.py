"""The whole shop in one command: both services as processes, a web shop, an accountant, and a certificate that is revoked.

Credentials come from an authority in memory, as the files that an agent writes; in earnest an agent writes them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

import handfast
from examples.shop import orders, payments
from examples.shop.v1.shop_pb2 import ChargeRequest, Order, PlaceRequest, RefundRequest, TrackRequest
from examples.shop.v1.shop_pb2_grpc import OrdersStub, PaymentsStub
from handfast.sources import StaticSource
from handfast.testing import TestAuthority
from handfast_agent.storage import Directory

if TYPE_CHECKING:
    from examples.shop.v1.shop_pb2_grpc import OrdersAsyncStub


def hand_over(credentials: handfast.Credentials, folder: Path) -> None:
    """Writes a generation of files, as the agent does."""
    directory = Directory(folder)
    directory.prepare()
    public = {
        "tls.crt": credentials.chain_pem,
        "ca.crt": credentials.bundle.roots_pem,
        "crl.pem": credentials.revocations.pem,
    }
    directory.write(credentials.generation, {"tls.key": credentials.key_pem}, public)


@contextmanager
def running(service: str, folder: Path, *arguments: str) -> Iterator[str]:
    """A service as a process of its own, with the credentials in ``folder``: its address. Ended by its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"examples.shop.{service}", *arguments],
        env={**os.environ, "HANDFAST_CREDENTIALS_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if not said:
            raise SystemExit(f"{service} ended with {process.wait()}")
        print(said)
        yield f"localhost:{said.rpartition(' ')[2]}"
    finally:
        process.terminate()
        process.communicate()


async def refusal(call: Awaitable[object]) -> str:
    """Why a call is refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return handfast.from_rpc_error(error).reason
    raise SystemExit("a call was served that must be refused")


async def a_day(authority: TestAuthority, orders_at: str, payments_at: str) -> None:
    web, accountant = authority.source("/web"), authority.source("/accountant")
    async with (
        handfast.aio_channel(web, orders_at, server=orders.IDENTITY) as to_orders,
        handfast.aio_channel(web, payments_at, server=payments.IDENTITY) as to_payments,
        handfast.aio_channel(accountant, payments_at, server=payments.IDENTITY) as from_accountant,
    ):
        shop = OrdersStub(to_orders)
        order = await buy(shop)
        print("web may not charge:", await refusal(PaymentsStub(to_payments).Charge(ChargeRequest(cents=1))))
        books = PaymentsStub(from_accountant)
        refunded = await books.Refund(RefundRequest(receipt_id=order.receipt_id))
        print(f"accountant refunded {refunded.cents} cents, charged by {refunded.charged_by}")
        print("accountant may not charge:", await refusal(books.Charge(ChargeRequest(cents=1))))


async def buy(shop: OrdersAsyncStub) -> Order:
    order = await shop.Place(PlaceRequest(item="teapot", cents=1999))
    print(f"web placed an order for a {order.item}: {order.state}")
    states = [seen.state async for seen in shop.Track(TrackRequest(id=order.id))]
    print(f"web followed it until it was {states[-1]}")

    async def wishes() -> AsyncIterator[PlaceRequest]:
        for item in ("cup", "saucer", "spoon"):
            yield PlaceRequest(item=item, cents=499)

    paid = [one.item async for one in shop.PlaceMany(wishes())]
    print(f"web placed {len(paid)} orders over one stream: {', '.join(paid)}")
    return order


async def theft(authority: TestAuthority, stolen: handfast.Credentials, files: Path, payments_at: str) -> None:
    """The key of orders is stolen, and its certificate revoked. The thief does not care; payments does."""
    async with handfast.aio_channel(StaticSource(stolen), payments_at, server=payments.IDENTITY) as channel:
        stub = PaymentsStub(channel)
        stream = stub.ChargeMany()
        await stream.write(ChargeRequest(cents=1))
        await stream.read()
        print("a thief with the key of orders charges, over a stream")
        authority.revoke(stolen)
        hand_over(authority.issue("/payments"), files)
        print("the certificate is revoked; his stream ends:", await refusal(stream.read()))
        print("his next call:", await refusal(stub.Charge(ChargeRequest(cents=1))))


def main() -> None:
    authority = TestAuthority("shop.example")
    held = {name: authority.issue(f"/{name}") for name in ("orders", "payments")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, credentials in held.items():
            hand_over(credentials, folder / name)
        payments_at = stack.enter_context(running("payments", folder / "payments"))
        orders_at = stack.enter_context(running("orders", folder / "orders", "--payments", payments_at))
        asyncio.run(a_day(authority, orders_at, payments_at))
        asyncio.run(theft(authority, held["orders"], folder / "payments", payments_at))


if __name__ == "__main__":
    main()
