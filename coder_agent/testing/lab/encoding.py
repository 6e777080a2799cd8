"""Topologies as JSON, for reports that are replayed elsewhere. Every field is written; unknown ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from math import isfinite
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ...base.addresses import AddrPort
from .checking import check
from .topology import Topology

MAX_ITEMS = 256
"""Hosts, routers, links…: a report from a stranger must not make us build more of anything."""


def to_document(topology: Topology) -> dict[str, Any]:
    """Plain dictionaries, lists, numbers and strings, for `json.dumps`. Endpoints are text, ``1.2.3.4:5``."""
    document = _plain(topology)
    assert isinstance(document, dict)
    return document


def from_document(document: object) -> Topology:
    """The reverse. What is left out has its default. Raises ValueError, saying where."""
    found = _read(Topology, document, "topology")
    assert isinstance(found, Topology)
    check(found)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, AddrPort):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` wants it."""
    if get_origin(kind) is UnionType:
        if value is None and NoneType in get_args(kind):
            return None
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is tuple:
        return _read_tuple(kind, value, where)
    if kind is AddrPort or (isinstance(kind, type) and issubclass(kind, Enum)):
        return _read_word(kind, value, where)
    if is_dataclass(kind):
        return _read_object(kind, value, where)
    numeric = kind is float and type(value) is int
    if type(value) is not kind and not numeric:
        raise ValueError(f"{where}: expected {kind.__name__}, not {value!r:.40}")
    if kind is float and not (isfinite(value) and value >= 0):
        raise ValueError(f"{where}: {value!r:.40} is no amount")
    return float(value) if numeric else value


def _read_tuple(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
        raise ValueError(f"{where}: expected a list of at most {MAX_ITEMS} items")
    kinds = get_args(kind)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where}: expected {len(kinds)} items, not {len(value)}")
    return tuple(_read(one, item, f"{where}[{at}]") for at, (one, item) in enumerate(zip(kinds, value, strict=True)))


def _read_word(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected text, not {value!r:.40}")
    try:
        return AddrPort.parse(value) if kind is AddrPort else kind(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, not {value!r:.40}")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r:.40}")
    read = {name: _read(hints[name], value[name], f"{where}.{name}") for name in hints if name in value}
    missing = [field.name for field in fields(kind) if field.name not in read and not _has_default(field)]
    if missing:
        raise ValueError(f"{where}: {missing[0]} is missing")
    return kind(**read)


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING
