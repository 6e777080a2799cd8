"""Arguments that many commands take, plugins' commands too: one name, one help, one completion."""

from __future__ import annotations

from typing import Annotated

import typer

from .completion import complete_workspace

WorkspaceArgument = Annotated[
    str, typer.Argument(metavar="[OWNER/]WORKSPACE[.AGENT]", autocompletion=complete_workspace)
]
"""The workspace to reach, and which of its agents."""
RegisteredArgument = Annotated[str, typer.Argument(metavar="[OWNER/]WORKSPACE", autocompletion=complete_workspace)]
"""A workspace as the server has it."""
