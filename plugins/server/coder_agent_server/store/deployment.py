"""Facts about this deployment that are made on the first start and never change."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from .schema import DeploymentValue, Organization

RESUME_KEY_BYTES = 64
"""HS512 wants a key as long as its hash; so has the original product."""


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """Who we are. `resume_key` signs resume tokens, so that clients keep their peer ids over a restart."""

    id: UUID
    organization_id: UUID
    resume_key: bytes

    def __repr__(self) -> str:
        return f"DeploymentFacts(id={self.id})"


async def open_deployment(session: AsyncSession, now: datetime) -> DeploymentFacts:
    """Read the facts, making those that are missing."""
    organization_id = UUID(await _once(session, "organization_id", str(uuid4())))
    if await session.get(Organization, organization_id) is None:
        session.add(
            Organization(
                id=organization_id,
                name="default",
                display_name="Default",
                is_default=True,
                created_at=now,
                updated_at=now,
            )
        )
    return DeploymentFacts(
        id=UUID(await _once(session, "deployment_id", str(uuid4()))),
        organization_id=organization_id,
        resume_key=bytes.fromhex(await _once(session, "resume_key", secrets.token_hex(RESUME_KEY_BYTES))),
    )


async def _once(session: AsyncSession, name: str, value: str) -> str:
    row = await session.get(DeploymentValue, name)
    if row is None:
        row = DeploymentValue(name=name, value=value)
        session.add(row)
        await session.flush()
    return row.value
