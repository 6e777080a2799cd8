"""Little data: acknowledgements that ride on answers, and packets of many connections that leave together."""

from __future__ import annotations

from ipaddress import IPv6Address

from coder_agent.protocols.netstack import StackConfig
from coder_agent.testing.stack_link import StackLink
from coder_agent.testing.tcp_script import TcpScript

PATIENT = StackConfig(keepalive_idle=0, ack_delay=0.005)


def test_an_answer_in_time_carries_the_acknowledgement() -> None:
    script = TcpScript(PATIENT)
    connection = script.dialled()
    script.say("P.", ack=1, data=b"question")
    assert script.sent() == []
    connection.read()
    connection.write(b"answer")
    assert script.sent() == ["P. 1:7 ack 9 win 2048"]
    script.say(".", seq=9, ack=7)
    assert script.wait(0.1) == [], "it was acknowledged once"


def test_without_an_answer_the_acknowledgement_goes_alone() -> None:
    script = TcpScript(PATIENT)
    script.dialled()
    script.say("P.", ack=1, data=b"question")
    [line] = script.wait(0.1)
    when, _, rest = line.partition(" ")
    assert rest == ". 1 ack 9 win 2048"
    assert float(when) <= 0.02
    script.say("P.", seq=9, ack=1, data=b"one")
    assert script.sent() == []
    script.say("P.", seq=12, ack=1, data=b"two")
    assert script.sent() == [". 1 ack 15 win 2048"], "two wait for nothing"
    assert script.wait(0.1) == []


def test_what_is_not_little_or_not_in_order_is_acknowledged_at_once() -> None:
    script = TcpScript(PATIENT)
    script.dialled()

    def heard(flags: str, seq: int, size: int) -> list[str]:
        script.say(flags, seq=seq, ack=1, data=bytes(size))
        return [line.split(" win")[0] for line in script.sent()]

    assert heard(".", 1, 1220) == [". 1 ack 1221"]
    assert heard("P.", 1221, 700) == []
    assert heard("P.", 1921, 700) == [". 1 ack 2621"]
    assert heard("P.", 2721, 10) == [". 1 ack 2621"], "something is missing"
    assert heard("P.", 2621, 100) == [". 1 ack 2731"]
    assert heard("PF.", 2731, 3) == [". 1 ack 2735"]


def test_small_requests_of_many_connections_leave_as_one_burst() -> None:
    link = StackLink()
    pairs = [link.connect() for _ in range(40)]
    link.pause(1.0)
    for number, (near, _) in enumerate(pairs):
        near.write(b"request %3d" % number)
    bursts = [burst.copy() for _, burst in link.left.transmit(link.now)]
    assert [burst.count for burst in bursts] == [40]
    link.right.receive("left", bursts[0], link.now)
    assert [b"".join(far.read()) for _, far in pairs] == [b"request %3d" % number for number in range(40)]


def test_a_burst_has_a_limit_and_order_is_kept() -> None:
    link = StackLink()
    pairs = [link.connect() for _ in range(100)]
    link.pause(1.0)
    for near, _ in pairs:
        near.write(b"small")
    pairs[0][0].write(bytes(5000))  # one of them has much to say
    bursts = [burst.copy() for _, burst in link.left.transmit(link.now)]
    assert max(burst.count for burst in bursts) <= 65
    for burst in bursts:
        link.right.receive("left", burst, link.now)
    assert b"".join(pairs[0][1].read()) == b"small" + bytes(5000)
    assert all(b"".join(far.read()) == b"small" for _, far in pairs[1:])


def test_bulk_is_as_fast_with_delayed_acknowledgements() -> None:
    seconds = []
    for config in (StackConfig(), StackConfig(ack_delay=0.025)):
        link = StackLink(seed=7, config=config)
        began = link.now
        transfer = link.transfer(3_000_000)
        link.run(transfer.finished)
        assert transfer.intact
        seconds.append(link.now - began)
    assert seconds[1] <= seconds[0] + 0.05


def test_the_other_end_may_be_gone_while_an_acknowledgement_waits() -> None:
    script = TcpScript(PATIENT)
    connection = script.dialled()
    script.say("P.", ack=1, data=b"question")
    script.stack.remove_peer(connection.peer, "left")
    assert connection.error == "left"
    assert script.wait(0.1) == []
    assert isinstance(connection.remote[0], IPv6Address)
