"""The guard: an interceptor that judges every call, and ends streams whose caller is no longer good.

An interceptor sees no peer, so the guard wraps each handler and judges inside, where the connection's authentication context is.
Nothing is ever read from metadata (threat B9). Refusals are ``UNAUTHENTICATED`` or ``PERMISSION_DENIED`` with a machine reason
(:mod:`handfast.wire.codec`).

Streams end with their reason. In sync gRPC a handler that is blocked cannot be interrupted; there the reason is delivered when
the handler next touches the stream, and a stream that does not do so within a tenth of a second is cancelled without it.
Unary calls that were let in are not interrupted.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from handfast.access import AccessPolicy
from handfast.clock import Clock, SystemClock
from handfast.credentials import PolicyReporter, Source
from handfast.errors import HandfastError, Unavailable
from handfast.revocation import FreshnessPolicy
from handfast.rpc import caller as calling
from handfast.rpc.caller import Caller
from handfast.rpc.judging import GuardObserver, Judge, OnRefusal
from handfast.rpc.streams import RunningStream, StreamWatch
from handfast.wire import codec

__all__ = ["AioGuard", "Guard", "GuardObserver"]

CANCEL_AFTER = 0.1
"""Seconds that a blocked sync stream is given to notice its end before it is cancelled without the reason."""
_MOST_METHODS = 4096

Handler = Any  # grpc.RpcMethodHandler: a named tuple without types of its own
Behaviour = Callable[[Any, Any], Any]


class _Guarding:
    """What both guards are made of."""

    def __init__(
        self,
        source: Source,
        policy: AccessPolicy,
        *,
        clock: Clock | None = None,
        freshness: FreshnessPolicy | None = None,
        open_methods: frozenset[str] = frozenset(),
        observer: GuardObserver | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self._judge = Judge(
            source,
            policy,
            clock=clock or SystemClock(),
            freshness=freshness or FreshnessPolicy(),
            open_methods=open_methods,
            observer=observer,
            on_refusal=on_refusal,
        )
        self._watch = StreamWatch(self._judge)
        if isinstance(source, PolicyReporter):
            source.report_policy(policy)
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    def sweep(self) -> None:
        """Judges running streams now; happens by itself at every change and every expiry."""
        self._watch.sweep()

    def close(self) -> None:
        """Stops watching streams. Calls are still judged."""
        self._watch.close()

    def _wrapped(self, handler: Handler, method: str, wrap: Callable[[Handler, str], Handler]) -> Handler:
        known = self._guarded.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        guarded = wrap(handler, method)
        if len(self._guarded) < _MOST_METHODS:
            self._guarded[method] = (handler, guarded)
        return guarded


class Guard(_Guarding, grpc.ServerInterceptor):
    """For ``grpc.server(interceptors=[Guard(source, policy)])``.

    >>> import handfast
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from handfast.testing import TestAuthority
    >>> orders = TestAuthority("prod.example").source("/orders")
    >>> guard = handfast.Guard(orders, handfast.allow("spiffe://prod.example/web"))
    >>> server = grpc.server(ThreadPoolExecutor(8), interceptors=[guard])
    >>> port = server.add_secure_port("127.0.0.1:0", handfast.server_credentials(orders))
    >>> guard.close()
    """

    def intercept_service(self, continuation: Callable[[Any], Handler], handler_call_details: Any) -> Handler:
        handler = continuation(handler_call_details)
        return None if handler is None else self._wrapped(handler, handler_call_details.method, self._guard)

    def _guard(self, handler: Handler, method: str) -> Handler:
        return _guard_sync(self._judge, self._watch, handler, method)


class AioGuard(_Guarding, grpc.aio.ServerInterceptor):
    """For ``grpc.aio.server(interceptors=[AioGuard(source, policy)])``.

    >>> import asyncio, handfast
    >>> from handfast.testing import TestAuthority
    >>> orders = TestAuthority("prod.example").source("/orders")
    >>> async def main():
    ...     guard = handfast.AioGuard(orders, handfast.in_trust_domain("prod.example"))
    ...     server = grpc.aio.server(interceptors=[guard])
    ...     server.add_secure_port("127.0.0.1:0", handfast.server_credentials(orders))
    ...     guard.close()
    >>> asyncio.run(main())
    """

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrapped(handler, handler_call_details.method, self._guard)

    def _guard(self, handler: Handler, method: str) -> Handler:
        behaviour = _behaviour(handler)
        if not (inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)):
            return _guard_sync(self._judge, self._watch, handler, method)
        if handler.request_streaming or handler.response_streaming:
            return _rebuild(handler, self._aio_stream(behaviour, method, handler.response_streaming))
        return _rebuild(handler, self._aio_unary(behaviour, method))

    def _aio_unary(self, behaviour: Behaviour, method: str) -> Behaviour:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                admitted = self._judge.admit(context, method)
            except HandfastError as error:
                return await codec.abort(context, error)
            if admitted is not None:
                calling.present.set(admitted)  # the call has a task of its own, and so its own context
            return await behaviour(request, context)

        return guarded

    def _aio_stream(self, behaviour: Behaviour, method: str, responses: bool) -> Behaviour:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                admitted = self._judge.admit(context, method)
            except HandfastError as error:
                return await codec.abort(context, error)
            if admitted is None:
                return await _serve(behaviour, request, context)
            calling.present.set(admitted)
            return await self._watched(behaviour, method, admitted, request, context)

        guarded.response_streaming = responses  # type: ignore[attr-defined]
        return guarded

    async def _watched(self, behaviour: Behaviour, method: str, admitted: Caller, request: Any, context: Any) -> Any:
        loop = asyncio.get_running_loop()
        serving = loop.create_task(_serve(behaviour, request, context))
        stream = RunningStream(
            admitted.leaf,
            _intermediates(context),
            method,
            end=lambda: _ignore_closed(loop, lambda: loop.call_soon_threadsafe(serving.cancel)),
        )
        self._watch.add(stream)
        try:
            return await serving
        except asyncio.CancelledError:
            if stream.ended_by is None:
                raise
            return await codec.abort(context, stream.ended_by)
        finally:
            self._watch.remove(stream)


async def _serve(behaviour: Behaviour, request: Any, context: Any) -> Any:
    """Runs an aio handler of either style to its end."""
    if not inspect.isasyncgenfunction(behaviour):
        return await behaviour(request, context)
    responses: AsyncIterator[Any] = behaviour(request, context)
    try:
        async for response in responses:
            await context.write(response)
    finally:
        await responses.aclose()  # type: ignore[attr-defined]
    return None


def _ignore_closed(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """A loop that closed meanwhile has no stream left to end."""
    if not loop.is_closed():
        act()


def _guard_sync(judge: Judge, watch: StreamWatch, handler: Handler, method: str) -> Handler:
    behaviour = _behaviour(handler)
    if handler.response_streaming:
        return _rebuild(handler, _sync_responses(judge, watch, behaviour, method, handler.request_streaming))
    if handler.request_streaming:
        return _rebuild(handler, _sync_requests(judge, watch, behaviour, method))
    return _rebuild(handler, _sync_unary(judge, behaviour, method))


def _sync_unary(judge: Judge, behaviour: Behaviour, method: str) -> Behaviour:
    def guarded(request: Any, context: Any) -> Any:
        try:
            admitted = judge.admit(context, method)
        except HandfastError as error:
            return codec.abort_sync(context, error)
        if admitted is None:
            return behaviour(request, context)
        token = calling.present.set(admitted)
        try:
            return behaviour(request, context)
        finally:
            calling.present.reset(token)

    return guarded


def _sync_requests(judge: Judge, watch: StreamWatch, behaviour: Behaviour, method: str) -> Behaviour:
    def guarded(requests: Iterator[Any], context: Any) -> Any:
        try:
            admitted = judge.admit(context, method)
        except HandfastError as error:
            return codec.abort_sync(context, error)
        if admitted is None:
            return behaviour(requests, context)
        stream = _sync_stream(admitted, method, context)
        watch.add(stream)
        token = calling.present.set(admitted)
        try:
            return behaviour(_checked(requests, stream, context), context)
        finally:
            calling.present.reset(token)
            watch.remove(stream)

    return guarded


def _sync_responses(
    judge: Judge, watch: StreamWatch, behaviour: Behaviour, method: str, request_streaming: bool
) -> Behaviour:
    def guarded(request: Any, context: Any) -> Iterator[Any]:
        try:
            admitted = judge.admit(context, method)
        except HandfastError as error:
            codec.abort_sync(context, error)
            return
        if admitted is None:
            yield from behaviour(request, context)
            return
        stream = _sync_stream(admitted, method, context)
        watch.add(stream)
        # A generator's steps may run under any context: each is run under the call's own.
        own = contextvars.copy_context()
        own.run(calling.present.set, admitted)
        try:
            incoming = _checked(request, stream, context) if request_streaming else request
            responses = iter(own.run(behaviour, incoming, context))
            yield from _checked(_under(own, responses), stream, context)
        finally:
            watch.remove(stream)

    return guarded


def _under(own: contextvars.Context, responses: Iterator[Any]) -> Iterator[Any]:
    done = object()
    try:
        while (response := own.run(next, responses, done)) is not done:
            yield response
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            own.run(close)


def _checked(items: Iterator[Any], stream: RunningStream, context: Any) -> Iterator[Any]:
    """Passes items on until the stream was ended; then ends the call with the reason."""
    try:
        for item in items:
            if stream.ended_by is not None:
                break
            yield item
    except grpc.RpcError:
        # The request stream broke: because we ended it, or because the caller went away.
        if stream.ended_by is None:
            raise
    if stream.ended_by is not None:
        codec.abort_sync(context, stream.ended_by)


def _sync_stream(admitted: Caller, method: str, context: Any) -> RunningStream:
    def end() -> None:
        timer = threading.Timer(CANCEL_AFTER, context.cancel)
        timer.daemon = True
        timer.start()
        context.add_callback(timer.cancel)

    return RunningStream(admitted.leaf, _intermediates(context), method, end)


def _intermediates(context: Any) -> bytes:
    chain = context.auth_context().get("x509_pem_cert_chain") or (b"",)
    return bytes(chain[0])


def _behaviour(handler: Handler) -> Behaviour:
    behaviour: Behaviour | None = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if behaviour is None:
        raise Unavailable("a handler without behaviour was registered", reason="NO_HANDLER")
    return behaviour


def _rebuild(handler: Handler, behaviour: Behaviour) -> Handler:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[(handler.request_streaming, handler.response_streaming)]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)
