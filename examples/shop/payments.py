"""The shop's payment service: only orders may charge, only an accountant may refund.

Start it with ``python -m examples.shop.payments --listen HOST:PORT``; its credentials come from the agent beside it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

import handfast
from examples.shop.serving import arguments, serve
from examples.shop.v1.shop_pb2 import ChargeRequest, Receipt, RefundRequest
from examples.shop.v1.shop_pb2_grpc import PaymentsServicer, add_PaymentsServicer_to_server

__all__ = ["IDENTITY", "POLICY", "Payments", "payments_server"]

IDENTITY = "spiffe://shop.example/payments"
POLICY = handfast.any_of(
    handfast.allow(
        "spiffe://shop.example/orders",
        methods=["/shop.v1.Payments/Charge", "/shop.v1.Payments/ChargeMany"],
    ),
    handfast.allow("spiffe://shop.example/accountant", methods=["/shop.v1.Payments/Refund"]),
)


class Payments(PaymentsServicer):
    """Keeps its receipts in memory. Who charged is what the handshake proved, not what a request says."""

    def __init__(self) -> None:
        self._receipts: dict[str, Receipt] = {}

    async def Charge(self, request: ChargeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Receipt:
        receipt = Receipt(id=secrets.token_hex(8), charged_by=str(handfast.caller()), cents=request.cents)
        self._receipts[receipt.id] = receipt
        return receipt

    async def ChargeMany(
        self, request_iterator: AsyncIterator[ChargeRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Receipt]:
        async for request in request_iterator:
            yield await self.Charge(request, context)

    async def Refund(self, request: RefundRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Receipt:
        receipt = self._receipts.pop(request.receipt_id, None)
        if receipt is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no receipt {request.receipt_id!r} to refund")
        return receipt


def payments_server(source: handfast.Source) -> grpc.aio.Server:
    """Every call is judged: certificate, revocation, then policy."""
    server = grpc.aio.server(interceptors=[handfast.AioGuard(source, POLICY)])
    add_PaymentsServicer_to_server(Payments(), server)
    return server


async def main(listen: str) -> None:
    source = handfast.connect()
    await serve("payments", payments_server(source), listen, handfast.server_credentials(source))


if __name__ == "__main__":
    asyncio.run(main(arguments(__doc__).parse_args().listen))
