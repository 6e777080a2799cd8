"""Which sections of the health report were dismissed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from .schema import DeploymentValue

NAME = "health_dismissed"


async def dismissed(session: AsyncSession) -> list[str]:
    """Their names, as the settings have them."""
    row = await session.get(DeploymentValue, NAME)
    return [] if row is None else [str(name) for name in json.loads(row.value)]


async def dismiss(session: AsyncSession, sections: Sequence[str]) -> None:
    """These and no others."""
    row = await session.get(DeploymentValue, NAME)
    value = json.dumps(list(sections))
    if row is None:
        session.add(DeploymentValue(name=NAME, value=value))
    else:
        row.value = value
