"""Bursts for local programs are handed over in slices, whole and in order."""

from __future__ import annotations

import anyio
import pytest

from coder_agent.runtime import pacing
from coder_agent.runtime.pacing import Pacer

pytestmark = pytest.mark.anyio


async def test_a_burst_comes_in_slices_and_in_order() -> None:
    got: list[bytes] = []
    pacer = Pacer(lambda data: got.append(bytes(data)))
    sent = [b"%d" % n + bytes(1200) for n in range(200)]
    assert all(pacer.put(memoryview(data)) for data in sent)
    assert 0 < len(got) < 93  # what fits a buffer that nobody enlarged
    with anyio.fail_after(30):
        while len(got) < len(sent):
            await anyio.lowlevel.checkpoint()
    assert got == sent


async def test_what_waits_is_bounded_and_a_closed_one_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "QUEUED", 100_000)
    got: list[int] = []
    pacer = Pacer(lambda data: got.append(len(data)))
    taken = sum(pacer.put(memoryview(bytes(60_000))) for _ in range(20))
    assert taken + pacer.dropped == 20
    assert pacer.dropped > 10
    pacer.close()
    before = len(got)
    await anyio.sleep(0.01)
    assert len(got) == before
