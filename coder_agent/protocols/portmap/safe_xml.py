"""Reading XML that a stranger on the local network wrote: small trees without document types, hence without entities.

The standard library's expat with every door closed: a DOCTYPE (entity bombs, external entities) ends the parse where it
stands, and size, depth and number of elements are bounded. A tree builder would keep namespaces and attributes that
nobody here asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import RemoteProtocolError

if TYPE_CHECKING:
    from xml.parsers.expat import XMLParserType

MAX_SIZE = 65_536
"""Bytes. Descriptions of routers have 3 to 20 kB."""
MAX_DEPTH = 32
MAX_ELEMENTS = 2_000


@dataclass(slots=True)
class Element:
    """A node of the tree. `name` is without its namespace, `text` is what stands directly in it, stripped."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, name: str) -> Element | None:
        """The first child of that name."""
        return next((child for child in self.children if child.name == name), None)

    def text_of(self, name: str) -> str:
        """The text of the first child of that name; "" if there is none."""
        child = self.child(name)
        return "" if child is None else child.text

    def walk(self) -> Iterator[Element]:
        """This element and all below it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()


def parse(data: bytes) -> Element:
    """Read a document. Raises RemoteProtocolError, whatever is wrong with it."""
    if len(data) > MAX_SIZE:
        raise RemoteProtocolError(f"XML of more than {MAX_SIZE} bytes")
    from xml.parsers import expat  # for the few who have such a router

    builder = _Builder(expat.ParserCreate(namespace_separator=" "))
    try:
        builder.parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as exc:  # the latter two: an encoding that nobody knows
        raise RemoteProtocolError(f"bad XML: {exc}") from exc
    if builder.root is None:
        raise RemoteProtocolError("bad XML: no element")
    return builder.root


class _Builder:
    """Handlers of one parse."""

    def __init__(self, parser: XMLParserType) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0
        self.parser = parser
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _doctype(self, name: str, system: str | None, public: str | None, has_subset: bool) -> None:
        raise RemoteProtocolError("XML with a document type is not read")

    def _start(self, name: str, attributes: object) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise RemoteProtocolError("XML with too many elements")
        element = Element(name.rpartition(" ")[2])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, name: str) -> None:
        element = self._open.pop()
        element.text = element.text.strip()

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].text += text
