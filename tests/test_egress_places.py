"""Every place that could talk to the outside is known, and says why it asks the egress policy, or need not.

A new call of one of these names fails here until somebody has thought about it: send it through
`coder_agent.runtime.dial.open_socket` (plugins: `coder_agent.http`), or ask `settings.egress`, then add the place.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTWARD = {
    "connect",
    "connect_ex",
    "connect_tcp",
    "connect_udp",
    "connect_unix",
    "create_connected_udp_socket",
    "create_connection",
    "create_datagram_endpoint",
    "create_udp_socket",
    "getaddrinfo",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "getnameinfo",
    "open_connection",
    "sendmsg",
    "sendto",
    "sock_connect",
    "sock_sendto",
    "urlopen",
}
"""Calls that connect, send datagrams or look up names, by the last part of their name."""
FOREIGN = {
    "aiohttp", "asyncssh", "dns", "ftplib", "http.client", "httpcore", "httpcore2", "httpx", "httpx2", "miniupnpc",
    "paramiko", "poplib", "requests", "smtplib", "socketserver", "telnetlib", "urllib3", "urllib.request",
    "websockets.asyncio", "websockets.sync", "xmlrpc", "zeroconf", "python_socks",
}  # fmt: skip
"""Modules that do it for whoever imports them."""

NOT_A_SOCKET = "not a socket: {}"
REVIEWED = {
    # the one door, and what is behind it
    ("coder_agent/runtime/sockets.py", "getaddrinfo"): "asks before and after",
    ("coder_agent/runtime/sockets.py", "connect"): "its own function, on what `resolve` or `open_socket` let pass",
    ("coder_agent/runtime/sockets.py", "connect_ex"): "the same",
    ("coder_agent/runtime/proxies.py", "connect"): "called by `open_socket` only, which asks about proxy and target",
    ("coder_agent/runtime/proxies.py", "python_socks"): "the same",
    ("coder_agent/runtime/proxies.py", "urllib.request"): "only the environment's proxies: reads variables",
    ("plugins/transport_derp/coder_agent_transport_derp/region.py", "connect"): "dial.connect, by `open_socket`",
    ("plugins/transport_derp/coder_agent_transport_derp/region.py", "create_connection"): "on a socket of the door's",
    # datagrams
    ("plugins/transport_udp/coder_agent_transport_udp/sender.py", "sendmsg"): "paths of magicsock, which asks (reach)",
    (
        "plugins/transport_udp/coder_agent_transport_udp/sender.py",
        "sendto",
    ): "the same; of sources: the hub asks",
    ("plugins/transport_udp/coder_agent_transport_udp/sockets.py", "sendto"): "the same",
    ("plugins/nat_traversal/coder_agent_nat_traversal/lan_socket.py", "sendto"): "the gateway that find_gateway allows",
    ("plugins/nat_traversal/coder_agent_nat_traversal/lan_http.py", "connect_tcp"): "the same",
    ("plugins/nat_traversal/coder_agent_nat_traversal/netcheck/stun_probe.py", "sendto"): "StunProber._ask asks",
    ("plugins/nat_traversal/coder_agent_nat_traversal/netcheck/icmp.py", "sendto"): "_Check._ping asks",
    ("plugins/nat_traversal/coder_agent_nat_traversal/layers.py", "sendto"): "NatLayers.run asks",
    ("plugins/nat_traversal/coder_agent_nat_traversal/resolver.py", "getaddrinfo"): "Resolver.resolve asks",
    ("plugins/discovery_mdns/coder_agent_discovery_mdns/responder.py", "zeroconf"): "multicast on the link",
    ("plugins/apps_webproxy/coder_agent_apps_webproxy/exchange.py", "connect"): "Apps.connect: into a workspace",
    ("plugins/apps_webproxy/coder_agent_apps_webproxy/upstream.py", "connect"): "an app proxy's, by the tailnet's dial",
    # sends nothing
    ("coder_agent/runtime/link_watch.py", "connect"): "UDP, to learn the way out; sends nothing",
    (
        "plugins/nat_traversal/coder_agent_nat_traversal/gateway.py",
        "connect",
    ): "UDP, for our address; sends nothing",
    ("plugins/nat_traversal/coder_agent_nat_traversal/netcheck/links.py", "connect"): "the same, addresses of nobody",
    # SSH: inside the tunnel
    ("plugins/ssh/coder_agent_ssh/joining.py", "sendmsg"): "a UNIX socket of this process and its child",
    ("plugins/ssh/coder_agent_ssh/hostkey.py", "asyncssh"): "makes a key; sends nothing",
    (
        "plugins/ssh/coder_agent_ssh/server.py",
        "asyncssh",
    ): "on a socket of the tunnel; forwards go where a user of the workspace asks, as from a shell there",
    ("plugins/ssh/coder_agent_ssh/session.py", "asyncssh"): "the same; a channel of it",
    ("plugins/ssh/coder_agent_ssh/session_client.py", "asyncssh"): "on a socket of the tunnel",
    ("plugins/ssh/coder_agent_ssh/connecting.py", "asyncssh"): "on a socket of the tunnel",
    ("plugins/ssh/coder_agent_ssh/connecting.py", "connect"): "the same",
    ("plugins/ssh/coder_agent_ssh/running.py", "asyncssh"): "on a connection of connecting.py",
    # HTTP: inside the tunnel
    ("coder_agent/client.py", "httpx2"): "annotations",
    ("coder_agent/blocking.py", "httpx2"): "annotations",
    (
        "coder_agent/workspace_http.py",
        "httpx2",
    ): "its transport is ours: connections come from Workspace.dial_port only",
    ("coder_agent/workspace_http.py", "httpcore2"): "the same, one layer down: the network backend is ours",
    ("plugins/ssh/coder_agent_ssh/ssh_command.py", "asyncssh"): "only imported there",
    ("plugins/ssh/coder_agent_ssh/worker.py", "asyncssh"): "only its errors",
    # answers only
    ("coder_agent/stun_responder.py", "sendto"): "answers who asks",
    ("coder_agent/stun_responder.py", "sendmsg"): "the same",
    ("coder_agent/stun_responder.py", "create_datagram_endpoint"): "a socket that listens",
    ("coder_agent/stun_responder.py", "getaddrinfo"): "where we listen: the operator's own address",
    ("plugins/server/coder_agent_server/listening.py", "getaddrinfo"): "the same",
    ("plugins/server/coder_agent_server/options.py", "getaddrinfo"): "the access URL, which is always inside",
    # this machine
    ("coder_agent/runtime/loopback_tcp.py", "connect_ex"): "loopback: the programs of the workspace",
    ("coder_agent/runtime/loopback_udp.py", "connect"): "the same",
    ("coder_agent/mounting.py", "connect"): "a Unix socket in our own folder: is its program alive?",
    ("coder_agent/runtime/app_health.py", "connect_unix"): "a Unix socket of a program in the workspace",
    ("coder_agent/runtime/splice.py", "sendmsg"): "on a socket that others connected",
    ("coder_agent/runtime/splice.py", "connect"): NOT_A_SOCKET.format("a connection inside the tunnel"),
    ("plugins/port_forward/coder_agent_port_forward/reverse.py", "sock_connect"): "loopback: the user's own port",
    ("plugins/port_forward/coder_agent_port_forward/udp.py", "sendto"): "answers who asks",
    ("coder_agent/forwarding_udp.py", "sendto"): "the same",
    ("plugins/server/coder_agent_server/listening.py", "connect"): "a Unix socket of its own: is it in use?",
    # other things of that name
    (
        "plugins/server/coder_agent_server/tailnet/membership.py",
        "connect",
    ): NOT_A_SOCKET.format("a coordinator's session"),
    ("coder_agent/blocking.py", "connect"): NOT_A_SOCKET.format("api.connect"),
    ("coder_agent/node.py", "connect"): NOT_A_SOCKET.format("a connection inside the tunnel"),
    ("coder_agent/runtime/coordinate_service.py", "connect"): NOT_A_SOCKET.format("a coordinator's session"),
    ("coder_agent/runtime/websocket.py", "connect"): NOT_A_SOCKET.format("an opening handshake"),
    ("plugins/server/coder_agent_server/store/migrate.py", "connect"): NOT_A_SOCKET.format("SQLite"),
    ("plugins/transport_derp/coder_agent_transport_derp/carrier.py", "connect"): NOT_A_SOCKET.format("a handshake"),
    ("plugins/transport_derp/coder_agent_transport_derp/relay.py", "connect"): NOT_A_SOCKET.format("a relay's session"),
}
"""(file, name) → why it is no way round the policy."""


def sources() -> list[Path]:
    """Everything that users run; not the test benches."""
    found = [*ROOT.glob("coder_agent/**/*.py"), *ROOT.glob("plugins/*/coder_agent_*/**/*.py")]
    return sorted(path for path in found if "testing" not in path.parts and path.name != "testing.py")


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def outward(tree: ast.AST) -> set[str]:
    """Names in a module that talk to the outside, or could."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in OUTWARD:
                found.add(name)
        elif isinstance(node, ast.Import):
            found |= {foreign for alias in node.names for foreign in _foreign(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {foreign for name in names for foreign in _foreign(name)}
            found |= {alias.name for alias in node.names if alias.name in OUTWARD}
    return found


def _foreign(module: str) -> set[str]:
    return {foreign for foreign in FOREIGN if module == foreign or module.startswith(f"{foreign}.")}


def test_every_way_out_is_reviewed() -> None:
    found = {(place(path), name) for path in sources() for name in outward(ast.parse(path.read_text("utf-8")))}
    assert sorted(found - set(REVIEWED)) == [], __doc__
    assert sorted(set(REVIEWED) - found) == [], "these are gone: take them out of the list"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import socket\nsocket.create_connection(('a', 1))", {"create_connection"}),
        ("from socket import getaddrinfo as look\nlook('a')", {"getaddrinfo"}),
        ("from urllib.request import urlopen", {"urllib.request", "urlopen"}),
        ("import urllib.request as u", {"urllib.request"}),
        ("import httpx2", {"httpx2"}),
        ("send = sock.sendto", {"sendto"}),
        ("from websockets.asyncio.client import connect", {"websockets.asyncio", "connect"}),
        ("sock.recv(1)", set()),
    ],
)
def test_the_search_finds_ways_out(code: str, expected: set[str]) -> None:
    assert outward(ast.parse(code)) == expected


def test_whoever_makes_a_request_says_with_which_options() -> None:
    """Without them there would be no policy either."""
    bare = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                keywords = {keyword.arg for keyword in node.keywords}
                if node.func.id in ("request", "open_websocket") and not keywords & {"options", None}:
                    bare.append(f"{place(path)}:{node.lineno}")
                if node.func.id == "ApiClient" and len(node.args) + len(node.keywords) < 3:
                    bare.append(f"{place(path)}:{node.lineno}")
    assert bare == []


def test_options_without_a_policy_are_made_in_few_places() -> None:
    """`DialOptions()` asks nobody: it is a default for tests and for programs that have no settings."""
    made: Counter[str] = Counter()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id == "DialOptions" and all(keyword.arg != "egress" for keyword in node.keywords):
                made[place(path)] += 1
    assert dict(made) == {
        "coder_agent/runtime/http.py": 2,  # request and ApiClient; the test above sees to callers
        "coder_agent/runtime/websocket.py": 1,
        "plugins/nat_traversal/coder_agent_nat_traversal/sources.py": 1,  # the plugin passes its own
    }
