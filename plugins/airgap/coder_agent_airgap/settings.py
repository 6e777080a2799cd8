"""What an operator says about the air gap: ``[plugins.airgap]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .entries import Entry


class AirgapSettings(BaseModel):
    """Whether there is an air gap, and what is inside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(
        default=False,
        description="send nothing, and look up no name, outside the allow-list",
        json_schema_extra={"env": "CODER_AIRGAP"},
    )
    allow: tuple[str, ...] = Field(
        default=(),
        description="what is inside beside the coder server: names, *.names, addresses, networks; each may have :port",
        json_schema_extra={"env": "CODER_AIRGAP_ALLOW"},
    )
    private: bool = Field(
        default=True,
        description="private, link-local and loopback addresses are inside",
        json_schema_extra={"env": "CODER_AIRGAP_PRIVATE"},
    )
    access_url: str = Field(
        default="",
        description="URL of the coder server, where nothing else tells it",
        json_schema_extra={"env": "CODER_ACCESS_URL"},
    )

    @field_validator("allow")
    @classmethod
    def _readable(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            Entry.parse(entry)
        return entries

    def entries(self) -> tuple[Entry, ...]:
        """The allow-list, read."""
        return tuple(Entry.parse(entry) for entry in self.allow)
