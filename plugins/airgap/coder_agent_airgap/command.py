"""`coder airgap check`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated
from urllib.parse import urlsplit

import typer

from coder_agent.base.egress import Purpose
from coder_agent.cli.context import Cli
from coder_agent.cli.output import Output, OutputOption, note, print_json, print_table
from coder_agent.errors import ConfigError

from .policy import AirgapPolicy

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "stun": 3478, "socks5": 1080}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the air gap says to one target."""

    target: str
    host: str
    port: int
    allowed: bool
    rule: str


def check(
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL|HOST[:PORT]]...", help="what to ask about; none = the rules"),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what the air gap allows, and by which rule. Nothing is sent and no name looked up.

    Exit code 1 if any of the targets is refused.
    """
    cli: Cli = ctx.obj
    egress = cli.settings.egress
    if cli.session.url:
        egress.trust(cli.session.url)
    policy = egress.policy if isinstance(egress.policy, AirgapPolicy) else None
    answers = []
    for target in targets or ():
        host, port = parse_target(target)
        allowed, rule = egress.judge(host, port, Purpose.CONNECT)
        answers.append(Answer(target, host, port, allowed, rule))
    if output is Output.JSON:
        rules = policy.rules() if policy is not None else []
        print_json({"enabled": policy is not None, "rules": rules, "answers": [asdict(answer) for answer in answers]})
    else:
        _print(policy, answers)
    if not all(answer.allowed for answer in answers):
        raise typer.Exit(1)


def parse_target(text: str) -> tuple[str, int]:
    """Host and port (0 = none given) of a URL, ``host``, ``host:port``, or an IPv6 address. Raises ConfigError."""
    text = text.strip()
    if text.count(":") > 1 and "://" not in text and not text.startswith("["):
        return text, 0
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigError(f"{text!r} cannot be read: {exc}", hint="write a URL, HOST or HOST:PORT") from exc
    if not host:
        raise ConfigError(f"{text!r} names no host", hint="write a URL, HOST or HOST:PORT")
    return host, port or _PORTS.get(parts.scheme, 0)


def _print(policy: AirgapPolicy | None, answers: list[Answer]) -> None:
    if policy is None:
        note("The air gap is off: [plugins.airgap] enabled = true, or CODER_AIRGAP=true, turns it on.")
    elif not answers:
        print_table(["inside"], [[rule] for rule in policy.rules()])
    if answers:
        rows = [[one.target, "allowed" if one.allowed else "refused", one.rule] for one in answers]
        print_table(["target", "verdict", "rule"], rows)
