"""Our dRPC over yamux against the Go libraries that stock programs use, in both directions, over loopback TCP."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from coder_agent.rpc import RpcConnection, RpcError, RpcStream, streaming, unary

pytestmark = [pytest.mark.anyio, pytest.mark.foreign]

SOURCE = Path(__file__).parent / "drpc_judge"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The foreign program, built."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs the Go compiler")
    program = tmp_path_factory.mktemp("judge") / "drpc_judge"
    built = subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=SOURCE,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert built.returncode == 0, built.stderr
    return program


async def test_a_stock_client_calls_our_server(judge: Path) -> None:
    stopped = anyio.Event()

    async def echo(request: BytesValue) -> BytesValue:
        return request

    async def fail(_: StringValue) -> StringValue:
        raise RpcError("teapot", 418)

    async def chat(stream: RpcStream[StringValue]) -> None:
        async for message in stream:
            await stream.send(StringValue(value=message.value.upper()))
        await stream.send(StringValue(value="bye"))

    async def forever(stream: RpcStream[StringValue]) -> None:
        await stream.receive()
        await stream.send(StringValue(value="started"))
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async def was_stopped(_: StringValue) -> StringValue:
        with anyio.fail_after(30):
            await stopped.wait()
        return StringValue(value="yes")

    handlers = {
        "/judge/Echo": unary(BytesValue, echo),
        "/judge/Fail": unary(StringValue, fail),
        "/judge/Chat": streaming(StringValue, chat),
        "/judge/Forever": streaming(StringValue, forever),
        "/judge/Stopped": unary(StringValue, was_stopped),
    }

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with RpcConnection(stream, client=False) as connection:
            await connection.serve(handlers)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        with anyio.fail_after(60):
            done = await anyio.run_process([str(judge), "call", f"127.0.0.1:{port}"], check=False)
        tasks.cancel_scope.cancel()
    assert (done.returncode, done.stdout) == (0, b"ok\n"), done.stderr.decode()


@asynccontextmanager
async def stock_server(judge: Path) -> AsyncIterator[RpcConnection]:
    async with await anyio.open_process([str(judge), "serve"]) as process:
        assert process.stdout is not None
        address = (await process.stdout.receive()).decode().strip()
        host, _, port = address.rpartition(":")
        stream = await anyio.connect_tcp(host, int(port))
        async with RpcConnection(stream, client=True) as connection:
            yield connection
        process.terminate()


async def test_our_client_calls_a_stock_server(judge: Path) -> None:
    big = bytes(range(256)) * (12 * 1024)
    async with stock_server(judge) as connection:
        for i in range(200):
            answer = await connection.unary("/judge/Echo", BytesValue(value=bytes([i])), BytesValue, timeout=60)
            assert answer.value == bytes([i])
        answer = await connection.unary("/judge/Echo", BytesValue(value=big), BytesValue, timeout=60)
        assert answer.value == big
        with pytest.raises(RpcError, match="teapot") as failed:
            await connection.unary("/judge/Fail", StringValue(), StringValue, timeout=60)
        assert failed.value.code == 418
        with pytest.raises(RpcError) as unknown:
            await connection.unary("/judge/NoSuch", StringValue(), StringValue, timeout=60)
        assert unknown.value.is_unimplemented


async def test_our_client_streams_with_a_stock_server(judge: Path) -> None:
    async with stock_server(judge) as connection:
        async with connection.stream("/judge/Chat", StringValue) as chat:
            for word in ("a", "b"):
                await chat.send(StringValue(value=word))
                assert (await chat.receive()).value == word.upper()
            await chat.close_send()
            assert [message.value async for message in chat] == ["bye"]
        async with connection.stream("/judge/Forever", StringValue) as forever:
            await forever.send(StringValue(value="go"))
            assert (await forever.receive()).value == "started"
        stopped = await connection.unary("/judge/Stopped", StringValue(), StringValue, timeout=60)
        assert stopped.value == "yes"
