"""Sockets that systemd opened for us: ``LISTEN_FDS`` of them from descriptor 3 on, if ``LISTEN_PID`` is ours.

``FileDescriptorName=`` of a unit says what a socket is for: ``https`` or ``metrics``; everything else is plain HTTP.
Source: systemd, sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from coder_agent.errors import ConfigError

from .listening import Kind, Listener

FIRST_DESCRIPTOR = 3
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited_listeners(environ: MutableMapping[str, str]) -> list[Listener]:
    """The sockets, none if they are not for us. The variables are removed: our children shall not take them for theirs.

    Raises ConfigError for what is no listening stream socket.
    """
    count, pid, names = (environ.pop(name, "") for name in _VARIABLES)
    if not count.isdigit() or not pid.isdigit() or int(pid) != os.getpid():
        return []
    labels = names.split(":")
    return [_listener(number, labels[number] if number < len(labels) else "") for number in range(int(count))]


def _listener(number: int, label: str) -> Listener:
    descriptor = FIRST_DESCRIPTOR + number
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise ConfigError(f"the socket {number + 1} of LISTEN_FDS cannot be used: {exc.strerror}") from exc
    if found.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"the socket {number + 1} of LISTEN_FDS does not listen", hint="use ListenStream= in its unit"
        )
    found.setblocking(False)
    kind: Kind = "https" if label == "https" else "metrics" if label == "metrics" else "http"
    return Listener(found, kind)
