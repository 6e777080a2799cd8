"""The workspace document. A workspace is registered here, not built: what clients ask about its build is constant."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid5

from ..store.schema import User, Workspace
from . import Document, moment
from .agents import AgentView, agent_document, agent_health, agent_status

TEMPLATE_NAME = "static"
VERSION_NAME = "v1"


@dataclass(frozen=True, slots=True)
class TemplateIds:
    """Ids of the one template that stands for "registered, not provisioned"; derived, so that they never change."""

    template: UUID
    version: UUID
    file: UUID

    @classmethod
    def of(cls, deployment_id: UUID) -> TemplateIds:
        """The ids of a deployment."""
        return cls(*(uuid5(deployment_id, part) for part in ("template", "template version", "file")))


def workspace_document(workspace: Workspace, ids: TemplateIds, view: AgentView) -> Document:
    """The whole workspace with build, resource and agents."""
    failing = [str(agent.id) for agent in workspace.agents if agent_health(agent, agent_status(agent, view))]
    return {
        "id": str(workspace.id),
        "created_at": moment(workspace.created_at),
        "updated_at": moment(workspace.updated_at),
        "owner_id": str(workspace.owner_id),
        "owner_name": workspace.owner.username,
        "owner_avatar_url": "",
        "organization_id": str(workspace.organization_id),
        "organization_name": workspace.organization.name,
        "template_id": str(ids.template),
        "template_name": TEMPLATE_NAME,
        "template_display_name": "",
        "template_icon": "",
        "template_allow_user_cancel_workspace_jobs": False,
        "template_active_version_id": str(ids.version),
        "template_require_active_version": False,
        "template_use_classic_parameter_flow": False,
        "latest_build": build_document(workspace, ids, view),
        "latest_app_status": None,
        "outdated": False,
        "name": workspace.name,
        "autostart_schedule": None,
        "ttl_ms": None,
        "last_used_at": moment(workspace.last_used_at),
        "deleting_at": None,
        "dormant_at": None,
        "health": {"healthy": not failing, "failing_agents": failing},
        "automatic_updates": "never",
        "allow_renames": False,
        "favorite": False,
        "next_start_at": None,
        "is_prebuild": False,
    }


def build_document(workspace: Workspace, ids: TemplateIds, view: AgentView) -> Document:
    """The latest (and only) build: started, succeeded, long ago. Clients then go straight to the agents."""
    created = moment(workspace.created_at)
    return {
        "id": str(workspace.build_id),
        "created_at": created,
        "updated_at": moment(workspace.updated_at),
        "workspace_id": str(workspace.id),
        "workspace_name": workspace.name,
        "workspace_owner_id": str(workspace.owner_id),
        "workspace_owner_name": workspace.owner.username,
        "workspace_owner_avatar_url": "",
        "template_version_id": str(ids.version),
        "template_version_name": VERSION_NAME,
        "build_number": 1,
        "transition": "start",
        "initiator_id": str(workspace.owner_id),
        "initiator_name": workspace.owner.username,
        "reason": "initiator",
        "status": "running",
        "daily_cost": 0,
        "deadline": None,
        "max_deadline": None,
        "matched_provisioners": None,
        "job": _build_job(workspace, ids, created),
        "resources": [_resource_document(workspace, view, created)],
    }


def template_version_document(ids: TemplateIds, organization_id: UUID, creator: User) -> Document:
    """What `coder ssh` insists on before it connects; it reads the warnings."""
    created = moment(creator.created_at)
    return {
        "id": str(ids.version),
        "template_id": str(ids.template),
        "organization_id": str(organization_id),
        "created_at": created,
        "updated_at": created,
        "name": VERSION_NAME,
        "message": "",
        "readme": "",
        "archived": False,
        "warnings": [],
        "matched_provisioners": None,
        "has_external_agent": False,
        "created_by": {"id": str(creator.id), "username": creator.username, "avatar_url": ""},
        "job": {
            "id": str(uuid5(ids.version, "job")),
            "created_at": created,
            "completed_at": created,
            "status": "succeeded",
            "file_id": str(ids.file),
            "tags": {},
            "queue_position": 0,
            "queue_size": 0,
        },
    }


def _build_job(workspace: Workspace, ids: TemplateIds, created: str) -> Document:
    return {
        "id": str(workspace.job_id),
        "created_at": created,
        "started_at": created,
        "completed_at": created,
        "status": "succeeded",
        "file_id": str(ids.file),
        "tags": {},
        "queue_position": 0,
        "queue_size": 0,
        "organization_id": str(workspace.organization_id),
        "input": {},
        "type": "workspace_build",
        "metadata": {
            "template_version_name": VERSION_NAME,
            "template_id": str(ids.template),
            "template_name": TEMPLATE_NAME,
            "template_display_name": "",
            "template_icon": "",
        },
    }


def _resource_document(workspace: Workspace, view: AgentView, created: str) -> Document:
    return {
        "id": str(workspace.resource_id),
        "created_at": created,
        "job_id": str(workspace.job_id),
        "workspace_transition": "start",
        "type": TEMPLATE_NAME,
        "name": "host",
        "hide": False,
        "icon": "",
        "metadata": [],
        "daily_cost": 0,
        "agents": [agent_document(agent, workspace.resource_id, view) for agent in workspace.agents],
    }
