"""What programs ask before they try: may I, and how long may a token live?"""

from __future__ import annotations

from typing import Any

import pytest
from coder_agent_server.routes.keys import MAX_TOKEN_LIFETIME
from coder_agent_server.testing import Api, Server, another_user

pytestmark = pytest.mark.anyio


async def may(api: Api, kind: str, action: str, **of: str) -> Any:
    checks = {"it": {"object": {"resource_type": kind, **of}, "action": action}}
    reply = await api.post("/api/v2/authcheck", json={"checks": checks})
    assert reply.status_code == 200, reply.text
    return reply.json()["it"]


async def test_an_owner_may_everything(alice: Api) -> None:
    assert await may(alice, "deployment_config", "read") is True
    assert await may(alice, "workspace", "delete", owner_id="somebody") is True


async def test_a_member_may_what_is_theirs(server: Server, alice: Api) -> None:
    async with another_user(alice, server.url, "bob") as bob:
        me = (await bob.get("/api/v2/users/me")).json()["id"]
        assert await may(bob, "deployment_config", "read") is False
        assert await may(bob, "workspace", "create", owner_id="me") is True
        assert await may(bob, "workspace", "create", owner_id=me) is True
        assert await may(bob, "workspace", "read") is False
        assert await may(bob, "template", "read") is True
        hers = (await alice.post("/api/v2/users/me/workspaces", json={"name": "hers"})).json()["id"]
        assert await may(bob, "workspace", "read", resource_id=hers) is False
        assert await may(alice, "workspace", "read", resource_id=hers) is True
        assert await may(bob, "user", "read", resource_id=me) is True
        assert await may(bob, "user", "read", resource_id=hers) is False


async def test_a_key_that_only_reads_may_only_read(server: Server, alice: Api) -> None:
    made = await alice.post("/api/v2/users/me/keys/tokens", json={"scope": "workspace:read"})
    async with Api(server.url, token=made.json()["key"]) as reader:
        assert await may(reader, "workspace", "read") is True
        assert await may(reader, "workspace", "delete") is False


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        pytest.param({"it": {"action": "read"}}, "resource_type", id="no-type"),
        pytest.param({"it": {"object": {"resource_type": "workspace", "resource_id": "x"}}}, "uuid", id="no-uuid"),
        pytest.param(
            {"it": {"object": {"resource_type": "licence", "resource_id": "0" * 32}}}, "does not support", id="by-id"
        ),
        pytest.param(
            {str(n): {"object": {"resource_type": "workspace", "resource_id": "0" * 32}} for n in range(11)},
            "At most 10",
            id="too-many",
        ),
    ],
)
async def test_what_cannot_be_answered_is_refused(alice: Api, checks: dict[str, object], says: str) -> None:
    reply = await alice.post("/api/v2/authcheck", json={"checks": checks})
    assert reply.status_code == 400
    assert says in reply.json()["message"]


async def test_who_is_not_signed_in_may_not_ask(server: Server) -> None:
    async with Api(server.url) as nobody:
        assert (await nobody.post("/api/v2/authcheck", json={"checks": {}})).status_code == 401


async def test_how_long_a_token_may_live(alice: Api) -> None:
    reply = await alice.get("/api/v2/users/me/keys/tokens/tokenconfig")
    assert reply.json() == {"max_token_lifetime": int(MAX_TOKEN_LIFETIME.total_seconds()) * 10**9}


async def test_a_token_without_a_scope_may_everything(alice: Api) -> None:
    made = await alice.post("/api/v2/users/me/keys/tokens", json={"lifetime": 0, "scope": "", "token_name": "stock"})
    assert made.status_code == 201
    assert (await alice.get("/api/v2/users/me/keys/tokens/stock")).json()["scope"] == "all"
