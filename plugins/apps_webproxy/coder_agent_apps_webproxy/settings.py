"""The section ``[plugins.apps_webproxy]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class WebproxySettings(BaseModel):
    """How web apps of workspaces are served. Which hosts they have is the server's ``wildcard_access_url``."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(True, description="Serve web apps and ports of workspaces.")
    answer_timeout: float = Field(
        300.0, gt=0, description="Seconds that an app may take until its answer begins; then the visitor gets a 504."
    )
    max_connections: int = Field(4096, gt=0, description="Browser connections to apps at a time.")
