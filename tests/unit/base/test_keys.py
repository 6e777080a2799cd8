"""Key types: text forms, kinds that do not mix, secrets that do not show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic

PRIVATE = "905844eb8820c577c62198093657ff123a98831976946c66e22b15fcb7168f4d"
PUBLIC = "1a58a200af0a73128b72d7e8e3a8eaf626199889414fa8dd29227bc762272605"
"""The pair `derp-server` of the DERP vectors."""


def test_the_vector_pair_and_its_text_forms() -> None:
    private = NodePrivate.parse(f"privkey:{PRIVATE}")
    assert str(private.public()) == f"nodekey:{PUBLIC}"
    assert private.reveal() == f"privkey:{PRIVATE}"
    assert NodePublic.parse(f"nodekey:{PUBLIC.upper()}") == private.public()
    assert private.public().short == PUBLIC[:8]


@given(st.binary(min_size=32, max_size=32))
def test_text_forms_round_trip(raw: bytes) -> None:
    for kind in (NodePublic, DiscoPublic):
        assert kind.parse(str(kind(raw))) == kind(raw)


@given(st.binary(min_size=32, max_size=32))
def test_private_keys_are_clamped(raw: bytes) -> None:
    secret = NodePrivate(raw).secret
    assert secret[0] & 7 == 0
    assert secret[31] & 0xC0 == 0x40


@pytest.mark.parametrize(
    "text",
    ["", "nodekey:", f"nodekey:{PUBLIC[:-2]}", f"nodekey:{PUBLIC}00", f"discokey:{PUBLIC}", f"nodekey:{PUBLIC[:-2]}zz",
     f"nodekey:{PUBLIC[:-3]}  {PUBLIC[-1]}"],
)  # fmt: skip
def test_bad_text_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected nodekey: followed by 64 hex digits") as caught:
        NodePublic.parse(text)
    assert PUBLIC[:20] not in str(caught.value)


def test_a_disco_key_is_never_a_node_key() -> None:
    raw = bytes.fromhex(PUBLIC)
    keys: set[object] = {NodePublic(raw), DiscoPublic(raw), NodePrivate(raw), DiscoPrivate(raw)}
    assert len(keys) == 4


def test_private_keys_print_redacted_and_compare_by_value() -> None:
    private = NodePrivate.parse(f"privkey:{PRIVATE}")
    assert PRIVATE not in repr(private)
    assert PRIVATE not in f"{private} {private!r}"
    assert private == NodePrivate.parse(f"privkey:{PRIVATE}")
    assert private != NodePrivate(bytes(32))


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NodePublic(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        NodePrivate(b"short")


def test_the_all_zero_key_is_recognised() -> None:
    assert NodePublic(bytes(32)).is_zero
    assert not NodePublic(bytes.fromhex(PUBLIC)).is_zero
