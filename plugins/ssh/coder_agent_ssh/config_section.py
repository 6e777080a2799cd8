"""The section of an ssh_config that is ours. Pure: bytes in, bytes out; not a byte outside the section changes.

Source: coder cli/configssh.go: marker lines, remembered options, the options of each host.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coder_agent.errors import ConfigError

START = b"# ------------START-CODER-----------"
END = b"# ------------END-CODER------------"
REMEMBERED = "# Last config-ssh options:"
NOTE = (
    "# Written by `coder config-ssh`, which replaces everything up to the line END-CODER:",
    "# put changes of your own outside.",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; remembered in the section."""

    wait: str = ""
    ssh_host_prefix: str = ""
    hostname_suffix: str = ""
    ssh_options: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """As they are remembered."""
        named = [
            ("wait", self.wait),
            ("ssh-host-prefix", self.ssh_host_prefix),
            ("hostname-suffix", self.hostname_suffix),
        ]
        named += [("ssh-option", option) for option in self.ssh_options]
        return [f"# :{name}={value}" for name, value in named if value]


@dataclass(frozen=True, slots=True)
class Program:
    """The command that ssh starts: `words` up to ``ssh``."""

    words: tuple[str, ...]

    def proxy_command(self, *flags: str) -> str:
        """For a ProxyCommand, which a shell reads after ssh has replaced its %-tokens."""
        quoted = " ".join(shlex.quote(word).replace("%", "%%") for word in (*self.words, "ssh", "--stdio", *flags))
        return f"{quoted} %h"


@dataclass(frozen=True, slots=True)
class Section:
    """What goes between the markers."""

    program: Program
    options: Options
    prefix: str
    suffix: str
    server_options: tuple[tuple[str, str], ...] = field(default=())

    def render(self, newline: bytes = b"\n") -> bytes:
        """The whole section, markers included, ended by a newline. Raises ConfigError for an option that is none."""
        lines = [START.decode(), *NOTE, "#", REMEMBERED, *self.options.lines(), "#"]
        if self.prefix:
            flags = ["--ssh-host-prefix", self.prefix]
            lines += self._host(f"{self.prefix}*", flags)
        if self.suffix:
            lines += self._host(f"*.{self.suffix}", ["--hostname-suffix", self.suffix])
        lines.append(END.decode())
        return b"".join(line.encode() + newline for line in lines)

    def _host(self, pattern: str, flags: list[str]) -> list[str]:
        """Options that come first win in ssh_config(5), so the user's are before ours."""
        defaults = [
            ("ConnectTimeout", "0"),
            ("StrictHostKeyChecking", "no"),
            ("UserKnownHostsFile", "/dev/null"),
            ("LogLevel", "ERROR"),
        ]
        body, seen = [], set()
        for name, value in [*map(parse_option, self.options.ssh_options), *self.server_options, *defaults]:
            if name.lower() not in seen or name.lower() in REPEATABLE:
                seen.add(name.lower())
                body.append(f"\t{name} {value}")
        if self.options.wait:
            flags = [*flags, "--wait", self.options.wait]
        command = self.program.proxy_command(*flags)
        return [f"Host {pattern}", *body, f"\tProxyCommand {command}", ""]


REPEATABLE = ("sendenv", "setenv", "localforward", "remoteforward", "dynamicforward", "identityfile", "certificatefile")
_OPTION = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(\S.*)\Z")


def parse_option(text: str) -> tuple[str, str]:
    """``Name=value`` or ``Name value``. Raises ConfigError."""
    found = _OPTION.match(text.strip())
    if found is None or any(character in text for character in "\r\n\0"):
        raise ConfigError(f"{text!r} is no option of ssh", hint="write it as in ssh_config: ForwardAgent=yes")
    return found[1], found[2]


@dataclass(frozen=True, slots=True)
class Split:
    """A file: what is before our section, the section ("" = none) and what is after."""

    before: bytes
    section: bytes
    after: bytes

    @classmethod
    def of(cls, content: bytes, name: str) -> Split:
        """Raises ConfigError, with line numbers, if the markers do not make exactly one section or none."""
        lines = content.splitlines(keepends=True) if b"\r" not in content else re.findall(rb"[^\n]*\n|[^\n]+", content)
        starts = [number for number, line in enumerate(lines) if line.strip() == START]
        ends = [number for number, line in enumerate(lines) if line.strip() == END]
        if not starts and not ends:
            return cls(content, b"", b"")
        if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
            where = ", ".join(str(number + 1) for number in sorted([*starts, *ends]))
            raise ConfigError(
                f"{name} has markers of coder's section that do not belong together, in lines {where}",
                hint="remove all but one section, from its START-CODER to its END-CODER line, and try again",
            )
        first, last = starts[0], ends[0] + 1
        return cls(b"".join(lines[:first]), b"".join(lines[first:last]), b"".join(lines[last:]))

    def remembered(self) -> Options | None:
        """The options that an earlier run left in the section; None if there was none."""
        if not self.section:
            return None
        options, ssh_options = Options(), []
        for line in self.section.decode("utf-8", "replace").splitlines():
            if not line.startswith("# :"):
                continue
            name, _, value = line[3:].strip().partition("=")
            if name == "ssh-option":
                ssh_options.append(value)
            elif name in ("wait", "ssh-host-prefix", "hostname-suffix"):
                options = replace(options, **{name.replace("-", "_"): value})  # type: ignore[arg-type]
        return replace(options, ssh_options=tuple(ssh_options))

    def with_section(self, section: Section) -> bytes:
        """The file with `section` in place of the old one, or at its end."""
        newline = b"\r\n" if b"\r\n" in self.before + self.after else b"\n"
        text = section.render(newline)
        if self.section:
            if not self.section.endswith(b"\n") and not self.after:
                text = text.rstrip(b"\r\n")
            return self.before + text + self.after
        gap = b"" if not self.before else newline if self.before.endswith(b"\n") else newline * 2
        return self.before + gap + text


def describe(options: Sequence[str]) -> str:
    """Remembered options in one line, for a question."""
    return ", ".join(line.removeprefix("# :") for line in options) or "none"
