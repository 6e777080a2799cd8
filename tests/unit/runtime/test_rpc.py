"""dRPC over yamux over an in-memory byte stream pair: both ends are ours, timing is the event loop's alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.streams.stapled import StapledObjectStream
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from coder_agent.errors import CoderAgentError, CoordinationError, Forbidden, TransportBroken, TransportClosed
from coder_agent.protocols.yamux.frames import FrameType, encode_header
from coder_agent.rpc import Handlers, RpcConnection, RpcError, RpcStream, YamuxSettings, streaming, unary

pytestmark = pytest.mark.anyio

Pipe = StapledObjectStream[bytes]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pipe_pair(buffer: float = 0) -> tuple[Pipe, Pipe]:
    a_send, b_receive = anyio.create_memory_object_stream[bytes](buffer)
    b_send, a_receive = anyio.create_memory_object_stream[bytes](buffer)
    return StapledObjectStream(a_send, a_receive), StapledObjectStream(b_send, b_receive)


@asynccontextmanager
async def connected(handlers: Handlers, settings: YamuxSettings | None = None) -> AsyncIterator[RpcConnection]:
    ours, theirs = pipe_pair()
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            async with RpcConnection(theirs, client=False, settings=settings) as server:
                await server.serve(handlers)

        tasks.start_soon(serve)
        async with RpcConnection(ours, client=True, settings=settings) as client:
            yield client


async def echo(request: StringValue) -> StringValue:
    return StringValue(value=f"{request.value}!")


async def test_a_unary_call_is_answered() -> None:
    async with connected({"/t.T/Echo": unary(StringValue, echo)}) as client:
        answer = await client.unary("/t.T/Echo", StringValue(value="hi"), StringValue, timeout=30)
    assert answer.value == "hi!"


async def test_many_calls_run_side_by_side() -> None:
    gate = anyio.Event()
    waiting = 0

    async def meet(request: StringValue) -> StringValue:
        nonlocal waiting
        waiting += 1
        if waiting == 50:
            gate.set()
        await gate.wait()
        return request

    answers: set[str] = set()
    async with connected({"/t.T/Meet": unary(StringValue, meet)}) as client:

        async def call(i: int) -> None:
            answers.add((await client.unary("/t.T/Meet", StringValue(value=str(i)), StringValue)).value)

        async with anyio.create_task_group() as tasks:
            for i in range(50):
                tasks.start_soon(call, i)
    assert answers == {str(i) for i in range(50)}


async def test_an_unknown_rpc_is_code_12() -> None:
    async with connected({}) as client:
        with pytest.raises(RpcError, match="unknown rpc") as caught:
            await client.unary("/t.T/New", StringValue(), StringValue, timeout=30)
    assert caught.value.is_unimplemented


async def test_errors_of_handlers_are_told_without_their_insides(caplog: pytest.LogCaptureFixture) -> None:
    async def forbidden(_: StringValue) -> StringValue:
        raise Forbidden("not you")

    async def with_code(_: StringValue) -> StringValue:
        raise RpcError("teapot", 418)

    async def bug(_: StringValue) -> StringValue:
        raise KeyError("secret")

    handlers = {
        "/t/F": unary(StringValue, forbidden),
        "/t/C": unary(StringValue, with_code),
        "/t/B": unary(StringValue, bug),
    }
    found = []
    async with connected(handlers) as client:
        for rpc in handlers:
            with pytest.raises(RpcError) as caught:
                await client.unary(rpc, StringValue(), StringValue, timeout=30)
            found.append((caught.value.message, caught.value.code))
    assert found == [("not you", 0), ("teapot", 418), ("internal error", 0)]
    assert "secret" in caplog.text


async def test_a_stream_carries_messages_both_ways_until_both_are_done() -> None:
    async def chat(stream: RpcStream[StringValue]) -> None:
        async for message in stream:
            await stream.send(StringValue(value=message.value.upper()))
        await stream.send(StringValue(value="BYE"))

    async with (
        connected({"/t/Chat": streaming(StringValue, chat)}) as client,
        client.stream("/t/Chat", StringValue) as stream,
    ):
        for word in ("a", "b"):
            await stream.send(StringValue(value=word))
            assert (await stream.receive()).value == word.upper()
        await stream.close_send()
        assert [m.value async for m in stream] == ["BYE"]


async def test_a_message_larger_than_the_window_arrives_whole() -> None:
    async def same(request: BytesValue) -> BytesValue:
        return request

    data = bytes(range(256)) * 12_000  # 3 MB against a window of 256 KiB
    async with connected({"/t/Same": unary(BytesValue, same)}) as client:
        answer = await client.unary("/t/Same", BytesValue(value=data), BytesValue, timeout=60)
    assert answer.value == data


async def test_leaving_a_stream_stops_its_handler() -> None:
    stopped = anyio.Event()

    async def forever(stream: RpcStream[StringValue]) -> None:
        try:
            await stream.send(await stream.receive())
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with connected({"/t/Forever": streaming(StringValue, forever)}) as client:
        async with client.stream("/t/Forever", StringValue) as stream:
            await stream.send(StringValue(value="x"))
            await stream.receive()
        with anyio.fail_after(30):
            await stopped.wait()


async def test_what_was_sent_before_leaving_is_still_heard() -> None:
    heard: list[str] = []
    over = anyio.Event()

    async def listen(stream: RpcStream[StringValue]) -> None:
        async for message in stream:
            heard.append(message.value)
        over.set()

    async with connected({"/t/Listen": streaming(StringValue, listen)}) as client:
        async with client.stream("/t/Listen", StringValue) as stream:
            for i in range(10):
                await stream.send(StringValue(value=str(i)))
        with anyio.fail_after(30):
            await over.wait()
    assert heard == [str(i) for i in range(10)]


async def test_a_slow_reader_holds_the_sender_back() -> None:
    sent = 0
    chunk = BytesValue(value=bytes(64 * 1024))

    async def flood(stream: RpcStream[BytesValue]) -> None:
        nonlocal sent
        await stream.receive()
        while True:
            await stream.send(chunk)
            sent += 1

    async with (
        connected({"/t/Flood": streaming(BytesValue, flood)}) as client,
        client.stream("/t/Flood", BytesValue) as stream,
    ):
        await stream.send(BytesValue())
        with anyio.fail_after(30):
            while sent < 2:
                await anyio.lowlevel.checkpoint()
            settled = -1
            while settled != sent:
                settled = sent
                for _ in range(200):
                    await anyio.lowlevel.checkpoint()
        # One message is being read (its bytes do not count), the window holds four, the write buffer four.
        assert sent <= 12
        for _ in range(20):
            assert len((await stream.receive()).value) == 64 * 1024


async def test_messages_of_several_tasks_do_not_mix() -> None:
    received: list[bytes] = []

    async def collect(stream: RpcStream[BytesValue]) -> None:
        async for message in stream:
            received.append(message.value)
        await stream.send(BytesValue(value=b"done"))

    sent = [bytes([i]) * 200_000 for i in range(8)]
    async with (
        connected({"/t/Collect": streaming(BytesValue, collect)}) as client,
        client.stream("/t/Collect", BytesValue) as stream,
    ):
        async with anyio.create_task_group() as tasks:
            for data in sent:
                tasks.start_soon(stream.send, BytesValue(value=data))
        await stream.close_send()
        assert (await stream.receive()).value == b"done"
    assert received == sent


async def test_a_message_given_up_in_the_middle_resets_its_call_and_no_other() -> None:
    ended: list[bool] = []
    over = anyio.Event()

    async def stuck(stream: RpcStream[BytesValue]) -> None:
        await stream.receive()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)
            over.set()

    handlers = {"/t/Stuck": streaming(BytesValue, stuck), "/t.T/Echo": unary(StringValue, echo)}
    async with connected(handlers) as client:
        async with client.stream("/t/Stuck", BytesValue) as stream:
            await stream.send(BytesValue())
            for _ in range(3):  # nobody reads: the window fills up in the midst of a message
                with anyio.move_on_after(0.02):
                    await stream.send(BytesValue(value=bytes(200_000)))
        with anyio.fail_after(30):
            await over.wait()
        assert (await client.unary("/t.T/Echo", StringValue(value="on"), StringValue, timeout=30)).value == "on!"
    assert ended == [True]


async def test_calls_fail_at_once_when_the_connection_breaks() -> None:
    ours, theirs = pipe_pair(100)
    async with RpcConnection(ours, client=True) as client:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(TransportBroken, match="closed the connection"):
                    await client.unary("/t/Any", StringValue(), StringValue)

            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            await theirs.aclose()
        assert client.closed
        assert isinstance(await client.wait_closed(), TransportBroken)
        with pytest.raises(TransportBroken):
            await client.unary("/t/Any", StringValue(), StringValue)


async def test_closing_ends_calls_and_lets_errors_of_the_block_through() -> None:
    ours, theirs = pipe_pair(100)
    with pytest.raises(LookupError, match="mine"):
        async with RpcConnection(ours, client=True) as client:
            raise LookupError("mine")
    assert isinstance(await client.wait_closed(), TransportClosed)
    await theirs.aclose()


async def test_an_answer_that_does_not_come_is_an_error_of_ours() -> None:
    async def never(_: StringValue) -> StringValue:
        await anyio.sleep_forever()
        raise AssertionError

    async with connected({"/t/Never": unary(StringValue, never)}) as client:
        with pytest.raises(CoordinationError, match=r"/t/Never: no answer within 0\.01 s"):
            await client.unary("/t/Never", StringValue(), StringValue, timeout=0.01)


async def test_a_silent_peer_is_given_up() -> None:
    ours, theirs = pipe_pair(100)
    async with RpcConnection(
        ours, client=True, settings=YamuxSettings(ping_interval=0.01, ping_timeout=0.01)
    ) as client:
        with anyio.fail_after(30):
            reason = await client.wait_closed()
    assert "no sign of life" in reason.message
    await theirs.aclose()


async def test_keepalive_reports_life() -> None:
    ours, theirs = pipe_pair()
    alive = anyio.Event()

    async with (
        RpcConnection(
            theirs, client=False, settings=YamuxSettings(ping_interval=0.01), on_alive=lambda rtt: alive.set()
        ),
        RpcConnection(ours, client=True),
    ):
        with anyio.fail_after(30):
            await alive.wait()


async def test_a_peer_that_breaks_the_rules_is_told_and_left() -> None:
    ours, theirs = pipe_pair(100)
    async with RpcConnection(ours, client=False) as server:
        await theirs.send(b"\x07" * 12)
        with anyio.fail_after(30):
            reason = await server.wait_closed()
        assert "version" in reason.message
    assert await theirs.receive() == encode_header(FrameType.GO_AWAY, 0, 0, 1)
    await theirs.aclose()


async def test_junk_inside_a_call_ends_that_call_only() -> None:
    ours, theirs = pipe_pair(100)
    async with RpcConnection(theirs, client=False) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, {"/t.T/Echo": unary(StringValue, echo)})
        await ours.send(encode_header(FrameType.DATA, 1, 1, 4) + b"\xff\xff\xff\xff")
        await anyio.wait_all_tasks_blocked()
        await ours.send(encode_header(FrameType.PING, 1, 0, 7))
        received = b""
        with anyio.fail_after(30):
            while encode_header(FrameType.PING, 2, 0, 7) not in received:
                received += await ours.receive()
        assert not server.closed
        await ours.aclose()


async def test_handlers_set_late_answer_early_calls() -> None:
    ours, theirs = pipe_pair()
    answers: list[str] = []
    async with (
        RpcConnection(theirs, client=False) as server,
        RpcConnection(ours, client=True) as client,
        anyio.create_task_group() as tasks,
    ):

        async def call() -> None:
            answers.append((await client.unary("/t.T/Echo", StringValue(value="early"), StringValue)).value)
            tasks.cancel_scope.cancel()

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(server.serve, {"/t.T/Echo": unary(StringValue, echo)})
    assert answers == ["early!"]


def test_rpc_errors_are_ours() -> None:
    assert issubclass(RpcError, CoderAgentError)
