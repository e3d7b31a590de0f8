"""The shop's order service: the web shop places orders here, and payments charges for them.

Start it with ``python -m examples.shop.orders --listen HOST:PORT --payments HOST:PORT``; its credentials come from the
agent beside it, and serve it in both its roles.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

import handfast
from examples.shop import payments
from examples.shop.serving import arguments, serve
from examples.shop.v1.shop_pb2 import ChargeRequest, Order, PlaceRequest, Receipt, TrackRequest
from examples.shop.v1.shop_pb2_grpc import OrdersServicer, PaymentsStub, add_OrdersServicer_to_server

if TYPE_CHECKING:
    from examples.shop.v1.shop_pb2_grpc import PaymentsAsyncStub

__all__ = ["IDENTITY", "POLICY", "Orders", "orders_server"]

IDENTITY = "spiffe://shop.example/orders"
POLICY = handfast.allow("spiffe://shop.example/web", methods=["/shop.v1.Orders/*"])
WAREHOUSE = ("packed", "shipped")
PACE = 0.05
"""Seconds that the warehouse takes for each step."""


class Orders(OrdersServicer):
    """Keeps its orders in memory, and lets whoever may call follow them."""

    def __init__(self, payments: PaymentsAsyncStub) -> None:
        self._payments = payments
        self._orders: dict[str, Order] = {}
        self._changed = asyncio.Condition()
        self._at_work: set[asyncio.Task[None]] = set()

    async def Place(self, request: PlaceRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Order:
        order = await self._accept(request)
        try:
            receipt = await self._payments.Charge(_charge(order, request), timeout=5)
        except grpc.aio.AioRpcError as error:
            await _not_charged(context, error)
        return await self._paid(order, receipt)

    async def PlaceMany(
        self, request_iterator: AsyncIterator[PlaceRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Order]:
        accepted: list[Order] = []

        async def charges() -> AsyncIterator[ChargeRequest]:
            async for request in request_iterator:
                accepted.append(await self._accept(request))
                yield _charge(accepted[-1], request)

        try:
            async for receipt in self._payments.ChargeMany(charges()):
                yield await self._paid(accepted.pop(0), receipt)
        except grpc.aio.AioRpcError as error:
            await _not_charged(context, error)

    async def Track(self, request: TrackRequest, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Order]:
        if request.id not in self._orders:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no order {request.id!r}")
        order = self._orders[request.id]
        yield order
        while order.state != WAREHOUSE[-1]:
            order = await self._next(order)
            yield order

    async def _accept(self, request: PlaceRequest) -> Order:
        return await self._show(Order(id=secrets.token_hex(8), item=request.item, state="placed"))

    async def _paid(self, order: Order, receipt: Receipt) -> Order:
        paid = await self._show(Order(id=order.id, item=order.item, state="paid", receipt_id=receipt.id))
        working = asyncio.create_task(self._send(paid))
        self._at_work.add(working)
        working.add_done_callback(self._at_work.discard)
        return paid

    async def _send(self, order: Order) -> None:
        for state in WAREHOUSE:
            await asyncio.sleep(PACE)
            await self._show(Order(id=order.id, item=order.item, state=state, receipt_id=order.receipt_id))

    async def _next(self, seen: Order) -> Order:
        async with self._changed:
            await self._changed.wait_for(lambda: self._orders[seen.id] != seen)
            return self._orders[seen.id]

    async def _show(self, order: Order) -> Order:
        async with self._changed:
            self._orders[order.id] = order
            self._changed.notify_all()
        return order


def _charge(order: Order, request: PlaceRequest) -> ChargeRequest:
    return ChargeRequest(order_id=order.id, cents=request.cents)


async def _not_charged(context: grpc.aio.ServicerContext[Any, Any], error: grpc.aio.AioRpcError) -> NoReturn:
    """Tells the buyer that it was us, not him, whom payments did not serve. Does not return: grpc raises."""
    why = handfast.from_rpc_error(error)
    await context.abort(grpc.StatusCode.UNAVAILABLE, f"the order was not charged: {why.message}")


def orders_server(source: handfast.Source, channel: handfast.AioChannel) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[handfast.AioGuard(source, POLICY)])
    add_OrdersServicer_to_server(Orders(PaymentsStub(channel)), server)
    return server


async def main(listen: str, payments_at: str) -> None:
    source = handfast.connect()
    async with handfast.aio_channel(source, payments_at, server=payments.IDENTITY) as channel:
        await serve("orders", orders_server(source, channel), listen, handfast.server_credentials(source))


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--payments", required=True, metavar="HOST:PORT", help="where payments serves")
    given = parser.parse_args()
    asyncio.run(main(given.listen, given.payments))
