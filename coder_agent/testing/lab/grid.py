"""The NAT matrix on paper: a triangle to look at, and a line for each cell."""

from __future__ import annotations

from collections.abc import Sequence

from .matrix import Cell
from .means import Means
from .places import PLACES, Pair

LETTERS: dict[Means, str] = {
    Means.INTERFACE: "I",
    Means.IPV6: "6",
    Means.HAIRPIN: "H",
    Means.PORT_MAPPING: "M",
    Means.CONFIGURED: "C",
    Means.BIRTHDAY: "B",
    Means.PREDICTION: "P",
    Means.PING: "L",
    Means.STUN: "S",
}
"""The grid shows one letter per cell: the most particular of its means, in this order."""
RELAYED = "-"
CELL_COLUMNS = ("a", "b", "result", "seconds", "by what, or why not")


def grid_columns(cells: Sequence[Cell]) -> list[str]:
    """The heading: a number for each place, which its row bears too."""
    return ["place", *(str(_number(place)) for place in _places(cells))]


def grid_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """The lower triangle. What was not run is empty."""
    places = _places(cells)
    by_places: dict[frozenset[str], list[Cell]] = {}
    for cell in cells:
        by_places.setdefault(frozenset((cell.pair.a, cell.pair.b)), []).append(cell)
    rows = []
    for index, place in enumerate(places):
        found = [by_places.get(frozenset((place, other)), []) for other in places[: index + 1]]
        empty = [""] * (len(places) - index - 1)
        rows.append([f"{_number(place)} {place}", *(" | ".join(map(_brief, some)) for some in found), *empty])
    return rows


def cell_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """Each cell in words."""
    rows = []
    for cell in cells:
        seconds = "" if cell.seconds is None else f"{cell.seconds:.3f}"
        words = " / ".join(cell.means) if cell.is_direct else cell.why
        second = cell.pair.name.partition("–")[2]
        rows.append([cell.pair.a, second, "direct" if cell.is_direct else "relayed", seconds, words])
    return rows


def legend() -> str:
    """What the letters of the grid mean."""
    letters = ", ".join(f"{letter} {means}" for means, letter in LETTERS.items())
    return f"{letters}; {RELAYED} relayed. Seconds from first contact. Two results: with hairpin | without."


def pairs_among(names: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    """The cells of one place with all, or of several with each other; no name = all. Raises ValueError."""
    unknown = [name for name in names if name not in PLACES]
    if unknown:
        raise ValueError(f"there is no place {unknown[0]!r}; there are: {', '.join(PLACES)}")
    if not names:
        return list(pairs)
    if len(names) == 1:
        return [pair for pair in pairs if names[0] in (pair.a, pair.b)]
    return [pair for pair in pairs if pair.a in names and pair.b in names]


def _brief(cell: Cell) -> str:
    if cell.seconds is None:
        return RELAYED
    letter = next(letter for means, letter in LETTERS.items() if means in cell.means)
    return f"{letter} {cell.seconds:.2f}"


def _places(cells: Sequence[Cell]) -> list[str]:
    present = {place for cell in cells for place in (cell.pair.a, cell.pair.b)}
    return [place for place in PLACES if place in present]


def _number(place: str) -> int:
    return list(PLACES).index(place) + 1
