"""Which workspace an SSH host name means. Pure.

    dev, dev.main, alice/dev, alice--dev, alice--dev--main       as an argument
    coder.dev, coder.dev.main, coder.alice--dev--main            with the prefix ``coder.``
    dev.coder, main.dev.alice.coder                              with the suffix ``coder``

Source: coder cli/ssh.go (normalizeWorkspaceInput, findWorkspaceAndAgentByHostname), tailnet/controllers.go (names).
"""

from __future__ import annotations

from coder_agent.errors import ConfigError
from coder_agent.workspace_name import WorkspaceName

HINT = "names look like coder.dev, coder.alice--dev--main, dev.coder or main.dev.alice.coder"


def workspace_of(host: str, prefix: str = "", suffix: str = "") -> WorkspaceName:
    """Raises ConfigError for what is no workspace's name."""
    if prefix and host.startswith(prefix):
        return _argument(host.removeprefix(prefix))
    if suffix and host.lower().endswith("." + suffix.strip(".").lower()):
        labels = host[: -len(suffix.strip(".")) - 1].split(".")
        if len(labels) == 3:
            agent, workspace, owner = labels
            return WorkspaceName.parse(f"{owner}/{workspace}.{agent}")
        if len(labels) == 1:
            return _argument(labels[0])
        raise ConfigError(f"{host!r} names no workspace", hint=HINT)
    return _argument(host)


def _argument(text: str) -> WorkspaceName:
    parts = text.split("--")
    if "/" in text or len(parts) == 1:
        return WorkspaceName.parse(text)
    if len(parts) == 2:
        return WorkspaceName.parse("/".join(parts))
    if len(parts) == 3:
        return WorkspaceName.parse(f"{parts[0]}/{parts[1]}.{parts[2]}")
    raise ConfigError(f"{text!r} names no workspace", hint=HINT)
