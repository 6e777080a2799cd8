"""numpy: optional, and imported when the first bulk data comes. It costs 40 ms and 12 MB, which an idle agent saves."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@cache
def has_numpy() -> bool:
    """Is the extra `coder-agent[fast]` installed? Imports nothing."""
    return find_spec("numpy") is not None


@cache
def load_numpy() -> Any:
    """The module. Raises ImportError without the extra."""
    return import_module("numpy")
