"""User, key and organization documents."""

from __future__ import annotations

from ..store.schema import ApiKey, Organization, User
from . import Document, moment


def user_document(user: User) -> Document:
    """A user as the API shows it; the password's hash stays inside."""
    return {
        "id": str(user.id),
        "username": user.username,
        "name": user.name,
        "email": user.email,
        "avatar_url": "",
        "created_at": moment(user.created_at),
        "updated_at": moment(user.updated_at),
        "last_seen_at": moment(user.last_seen_at),
        "status": user.status,
        "login_type": "password",
        "theme_preference": "",
        "organization_ids": [str(user.organization_id)],
        "roles": [{"name": "owner", "display_name": "Owner"}] if user.is_owner else [],
    }


def api_key_document(key: ApiKey) -> Document:
    """A key's public half."""
    return {
        "id": key.id,
        "user_id": str(key.user_id),
        "last_used": moment(key.last_used),
        "expires_at": moment(key.expires_at),
        "created_at": moment(key.created_at),
        "updated_at": moment(key.updated_at),
        "login_type": key.login_type,
        "scope": key.scope,
        "lifetime_seconds": key.lifetime_seconds,
        "token_name": key.token_name,
    }


def organization_document(organization: Organization) -> Document:
    """An organization."""
    return {
        "id": str(organization.id),
        "name": organization.name,
        "display_name": organization.display_name,
        "description": "",
        "icon": "",
        "created_at": moment(organization.created_at),
        "updated_at": moment(organization.updated_at),
        "is_default": organization.is_default,
    }
