"""The two marks of the plugin system. `hookimpl` is what a plugin puts on its functions; `hookspec` is ours."""

from __future__ import annotations

import pluggy

PROJECT = "coder_agent"
"""pluggy's project name and, on purpose, the entry-point group too: one name to remember."""

PREFIX = "coder_"
"""Every hook's name starts with this, so that a plugin module may hold anything else beside its hooks."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
