"""From the configuration to the policy, and what `coder airgap check` says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from coder_agent_airgap import plugin
from coder_agent_airgap.command import check, parse_target
from coder_agent_airgap.policy import AirgapPolicy
from typer.testing import CliRunner

from coder_agent.base.egress import Purpose
from coder_agent.cli.context import Cli
from coder_agent.errors import ConfigError, EgressRefused
from coder_agent.hooks import Event, OutsideRefused, Settings, hookimpl
from coder_agent.hooks.manager import build_plugin_manager
from coder_agent.hooks.settings import load_settings
from coder_agent.hooks.sources import ConfigFile


def loaded(environ: Mapping[str, str] | None = None, table: Mapping[str, object] | None = None) -> Settings:
    host = build_plugin_manager(discover=False, extra=[("airgap", plugin)])
    assert host.broken == []
    file = ConfigFile(Path("config.toml"), "", {"plugins": {"airgap": table}}) if table is not None else None
    return load_settings(host, file=file, environ=environ or {})


def test_it_is_off_by_default() -> None:
    assert loaded().egress.policy is None
    assert loaded({"CODER_AIRGAP_ALLOW": "a.example"}).egress.policy is None
    assert loaded().network.dial_options().egress.allows("example.com", 443, Purpose.CONNECT)


def test_environment_and_file_mean_the_same() -> None:
    environ = {"CODER_AIRGAP": "true", "CODER_AIRGAP_ALLOW": "a.example, 203.0.113.0/24", "CODER_AIRGAP_PRIVATE": "no"}
    table = {"enabled": True, "allow": ["a.example", "203.0.113.0/24"], "private": False}
    for settings in (loaded(environ), loaded(table=table)):
        policy = settings.egress.policy
        assert isinstance(policy, AirgapPolicy)
        assert policy.rules() == ["a.example is on the allow-list", "203.0.113.0/24 is on the allow-list"]
        assert settings.network.dial_options().egress.policy is policy


@pytest.mark.parametrize("variable", ["CODER_URL", "CODER_AGENT_URL", "CODER_ACCESS_URL"])
@pytest.mark.parametrize("url", ["https://coder.example:8443/x", "coder.example"])
def test_the_coder_server_is_inside(variable: str, url: str) -> None:
    egress = loaded({"CODER_AIRGAP": "1", variable: url}).egress
    assert egress.allows("coder.example", 3478, Purpose.LOOKUP)
    assert not egress.allows("other.example", 443, Purpose.LOOKUP)


def test_a_wrong_entry_stops_the_program_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.airgap\.allow: .* is 10\.0\.0\.0/8 meant\?"):
        loaded(table={"enabled": True, "allow": ["10.0.0.1/8"]})


def test_a_copy_with_flags_keeps_the_policy() -> None:
    settings = loaded({"CODER_AIRGAP": "1"}).with_flags("network", {"listen_port": 7})
    with pytest.raises(EgressRefused):
        settings.network.dial_options().egress.require("example.com", 443, Purpose.CONNECT)


def test_observers_hear_of_a_refusal() -> None:
    heard: list[Event] = []

    class Observer:
        @hookimpl
        def coder_event(self, event: Event) -> None:
            heard.append(event)

    host = build_plugin_manager(discover=False, extra=[("airgap", plugin), ("observer", Observer())])
    egress = load_settings(host, environ={"CODER_AIRGAP": "1"}).egress
    assert not egress.allows("derp1.tailscale.com", 443, Purpose.RELAY, who="relay map, region 1")
    rule = "the name is not on the allow-list and is not looked up"
    assert heard == [OutsideRefused("relay", "derp1.tailscale.com:443", "relay map, region 1", rule)]


# ---------------------------------------------------------------- coder airgap check


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example/x", ("a.example", 443)),
        ("http://a.example", ("a.example", 80)),
        ("wss://a.example:8443", ("a.example", 8443)),
        ("stun:a.example", None),
        ("a.example", ("a.example", 0)),
        ("a.example:3478", ("a.example", 3478)),
        ("10.0.0.1", ("10.0.0.1", 0)),
        ("::1", ("::1", 0)),
        ("fe80::1%eth0", ("fe80::1%eth0", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("https://[2001:db8::1]", ("2001:db8::1", 443)),
        ("", None),
        ("https://", None),
        ("a.example:99999", None),
        ("https://[broken", None),
    ],
)
def test_targets(text: str, expected: tuple[str, int] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError):
            parse_target(text)
    else:
        assert parse_target(text) == expected


def run(tmp_path: Path, *arguments: str, **environ: str) -> tuple[int, str, str]:
    cli = Cli("coder", {"global_config": str(tmp_path), "only_plugin": ["airgap"]}, environ)
    app = typer.Typer()
    app.command()(check)
    result = CliRunner().invoke(app, list(arguments), obj=cli)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_names_the_rule(tmp_path: Path) -> None:
    environ = {"CODER_AIRGAP": "1", "CODER_AIRGAP_ALLOW": "*.corp.example", "CODER_URL": "https://coder.example"}
    code, out, _ = run(tmp_path, "https://coder.example", "x.corp.example:22", "10.0.0.1", **environ)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["VERDICT", "allowed", "allowed", "allowed"]
    code, out, _ = run(tmp_path, "-o", "json", "10.0.0.1", "https://example.com", **environ)
    assert code == 1
    document = json.loads(out)
    assert document["enabled"] is True
    assert document["answers"] == [
        {"target": "10.0.0.1", "host": "10.0.0.1", "port": 0, "allowed": True, "rule": "private (RFC 1918)"},
        {
            "target": "https://example.com",
            "host": "example.com",
            "port": 443,
            "allowed": False,
            "rule": "the name is not on the allow-list and is not looked up",
        },
    ]


def test_without_targets_the_rules_are_shown(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path, CODER_AIRGAP="1", CODER_AIRGAP_ALLOW="a.example:443")
    assert code == 0
    assert out.splitlines()[1:] == ["a.example:443 is on the allow-list", "private, link-local and loopback addresses"]


def test_the_server_of_a_login_is_inside(tmp_path: Path) -> None:
    Cli("coder", {"global_config": str(tmp_path)}, {}).session.save("https://login.example", "token")
    code, out, _ = run(tmp_path, "login.example", CODER_AIRGAP="1")
    assert code == 0, out


def test_without_an_air_gap_it_says_so(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "example.com")
    assert code == 0
    assert "The air gap is off" in err
    assert "allowed  there is no policy" in out
