"""Mutual TLS for anything that takes an ``ssl.SSLContext``: uvicorn, aiohttp, httpx, asyncio, http.server."""

from handfast.tls.context import JudgedContext, client_context, server_context

__all__ = ["JudgedContext", "client_context", "server_context"]
