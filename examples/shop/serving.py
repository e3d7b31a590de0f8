"""What both services of the shop do at their start and end; nothing of it is Handfast's."""

from __future__ import annotations

import argparse
import asyncio
import signal

import grpc.aio

__all__ = ["GRACE", "arguments", "serve"]

GRACE = 2.0
"""Seconds that calls have to end when the service is told to."""


async def serve(name: str, server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials) -> None:
    """Serves until SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    port = server.add_secure_port(listen, credentials)
    await server.start()
    print(f"{name} serves on port {port}", flush=True)
    await told.wait()
    await server.stop(GRACE)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--listen", default="localhost:0", metavar="HOST:PORT", help="port 0 takes a free one")
    return parser
