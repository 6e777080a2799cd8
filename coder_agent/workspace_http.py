"""HTTP clients whose requests go to a port of a workspace: `Workspace.http` and its blocking twin.

    async with workspace.http(8080) as client:
        answer = await client.get("/api/status")

The clients are httpx2's own (extra ``coder-agent[http]``) with everything that they can: streaming both ways,
time-outs, cookies, keep-alive. Only where connections come from is ours: streams of the tunnel.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import httpcore2
import httpx2
from anyio.streams.tls import TLSAttribute, TLSStream

from .errors import CoderAgentError
from .protocols.netstack.states import State
from .runtime.streams import TunnelStream

if TYPE_CHECKING:
    from .blocking_streams import Loop

Dial = Callable[[int, float], Awaitable[anyio.abc.ByteStream]]
"""Port and time-out in seconds to a stream. Raises CoderAgentError."""
HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""What a workspace calls itself. A URL of another host, a redirect say, is refused: it would reach a wrong program."""
CONNECT_TIMEOUT = 10.0
"""Seconds for a connection when the client sets none."""
MAX_CONNECTIONS = 100
"""At once to one workspace; more requests wait."""
KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept for the next request."""

_EXCEPTIONS: tuple[tuple[type[Exception], type[httpx2.TransportError]], ...] = (
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx2.ReadTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.ReadError, httpx2.ReadError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
    (httpcore2.LocalProtocolError, httpx2.LocalProtocolError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
)


@contextmanager
def _as_httpx() -> Iterator[None]:
    """What users of httpx2 catch, in place of what the layer below it raises."""
    try:
        yield
    except Exception as error:
        for below, above in _EXCEPTIONS:
            if isinstance(error, below):
                raise above(str(error)) from error
        raise


class _Stream(httpcore2.AsyncNetworkStream):
    """A byte stream of the tunnel, or TLS inside one."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            with anyio.fail_after(timeout):
                return await self._stream.receive(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout("the workspace's program does not answer") from error
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpcore2.ReadError(_reason(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            with anyio.fail_after(timeout):
                await self._stream.send(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout("the workspace's program takes nothing more") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpcore2.WriteError(_reason(error)) from error

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                wrapped = await TLSStream.wrap(
                    self._stream, hostname=server_hostname, ssl_context=ssl_context, standard_compatible=False
                )
        except TimeoutError as error:
            await self.aclose()
            raise httpcore2.ConnectTimeout("the workspace's program does not finish the TLS handshake") from error
        except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError) as error:
            await self.aclose()
            raise httpcore2.ConnectError(f"no TLS there: {_reason(error)}") from error
        return _Stream(wrapped)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._stream, TLSStream):
            return self._stream.extra(TLSAttribute.ssl_object)
        if info == "is_readable":  # asked of idle connections: one that the program has closed is not used again
            return self._has_ended()
        return None

    def _has_ended(self) -> bool:
        inner = self._stream.transport_stream if isinstance(self._stream, TLSStream) else self._stream
        return isinstance(inner, TunnelStream) and inner.connection.state is not State.ESTABLISHED


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error) or "the connection broke"


class _Backend(httpcore2.AsyncNetworkBackend):
    """Dials ports of one workspace."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if host not in HOSTS:
            raise httpcore2.UnsupportedProtocol(f"{host} is not the workspace: only {', '.join(sorted(HOSTS))} are")
        limit = CONNECT_TIMEOUT if timeout is None else timeout
        try:
            with anyio.fail_after(limit):
                return _Stream(await self._dial(port, limit))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"port {port} of the workspace: no answer within {limit:g} s") from error
        except CoderAgentError as error:
            raise httpcore2.ConnectError(error.message) from error

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class TunnelTransport(httpx2.AsyncBaseTransport):
    """httpx2's seam for how requests travel: here, over streams that `dial(port, timeout)` opens."""

    def __init__(self, dial: Dial, verify: ssl.SSLContext | bool = False) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=_context(verify),
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=_Backend(dial),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request. Raises httpx2.TransportError and its kinds."""
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        inner = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = await self._pool.handle_async_request(inner)
        return httpx2.Response(
            status_code=answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _context(verify: ssl.SSLContext | bool) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def base_url(port: int, tls: bool) -> str:
    """How the workspace itself calls a program at `port`."""
    return f"{'https' if tls else 'http'}://localhost:{port}"


def client(
    dial: Dial, port: int, *, tls: bool, verify: ssl.SSLContext | bool, options: Mapping[str, Any]
) -> httpx2.AsyncClient:
    """What `Workspace.http` returns."""
    return httpx2.AsyncClient(transport=TunnelTransport(dial, verify), **{"base_url": base_url(port, tls), **options})


def blocking_client(
    loop: Loop,
    dial: Dial,
    port: int,
    *,
    tls: bool,
    verify: ssl.SSLContext | bool,
    options: Mapping[str, Any],
) -> httpx2.Client:
    """What `BlockingWorkspace.http` returns."""
    transport = BlockingTransport(loop, TunnelTransport(dial, verify))
    return httpx2.Client(transport=transport, **{"base_url": base_url(port, tls), **options})


# ---------------------------------------------------------------- for blocking code


class BlockingTransport(httpx2.BaseTransport):
    """The same for `httpx2.Client`: each step is done on `loop`."""

    def __init__(self, loop: Loop, inner: TunnelTransport) -> None:
        self._loop, self._inner = loop, inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request. Raises httpx2.TransportError and its kinds."""
        assert isinstance(request.stream, httpx2.SyncByteStream)
        shadow = httpx2.Request(
            request.method, request.url, headers=request.headers, stream=_Upload(request.stream),
            extensions=request.extensions,
        )  # fmt: skip
        answer = self._loop.call(self._inner.handle_async_request, shadow)
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            status_code=answer.status_code,
            headers=answer.headers,
            stream=_Download(self._loop, answer.stream),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close all connections."""
        if not self._loop.closed:
            self._loop.call(self._inner.aclose)


class _Upload(httpx2.AsyncByteStream):
    """A blocking body, read in a thread so that a slow one does not stop the tunnel."""

    def __init__(self, parts: httpx2.SyncByteStream) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = iter(self._parts)
        while (part := await anyio.to_thread.run_sync(next, parts, None)) is not None:
            yield part


class _Download(httpx2.SyncByteStream):
    def __init__(self, loop: Loop, body: httpx2.AsyncByteStream) -> None:
        self._loop, self._body = loop, body

    def __iter__(self) -> Iterator[bytes]:
        parts = aiter(self._body)
        while (part := self._loop.call(_next, parts)) is not None:
            yield part

    def close(self) -> None:
        if not self._loop.closed:
            self._loop.call(self._body.aclose)


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    return await anext(parts, None)
