"""Sets of ports as users write them."""

from __future__ import annotations

import pytest

from coder_agent.base.port_set import ALL_PORTS, NO_PORTS, PortSet


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("all", [1, 80, 65_535], [0, 65_536]),
        ("none", [], [1, 80, 65_535]),
        ("80", [80], [79, 81]),
        (" 80 , 8000-8999 ", [80, 8000, 8999], [81, 7999, 9000]),
    ],
    ids=["all", "none", "one", "list"],
)
def test_what_is_in_a_set(text: str, inside: list[int], outside: list[int]) -> None:
    ports = PortSet.parse(text)
    assert all(port in ports for port in inside)
    assert not any(port in ports for port in outside)
    assert PortSet.parse(str(ports)) == ports


@pytest.mark.parametrize("text", ["", "0", "65536", "x", "80-", "-80", "9-8", "80,,81", "８０", "9" * 5000])
def test_what_is_none_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|range"):
        PortSet.parse(text)


def test_the_two_words() -> None:
    assert (str(ALL_PORTS), str(NO_PORTS)) == ("all", "none")
