"""Every error a user or a plugin may meet.

    CoderAgentError
    ├── ConfigError                 the configuration is wrong: says which key, where it came from, what would be right
    ├── PluginError
    │   ├── PluginLoadError         an entry point failed to import
    │   └── PluginContractError     it imported, but breaks a hook's contract
    ├── ProtocolError
    │   ├── LocalProtocolError      we misused a protocol: a bug here
    │   └── RemoteProtocolError     the peer broke the rules: its connection is closed
    ├── TransportError
    │   ├── TransportClosed         closed by us
    │   └── TransportBroken         broken by the world
    │       ├── TransportEnded      the other side's end of it was closed
    │       └── EgressRefused       the policy of this deployment forbids to talk to that address
    ├── PeerUnreachable             no path to a peer within the time allowed
    │   └── PathRefused             a rule of the server's forbids the path that was asked for
    ├── AuthError
    │   ├── Unauthenticated         who are you?
    │   └── Forbidden               not you (shown to users as "not found")
    ├── ApiError                    the server answered with an error document
    ├── CommandFailed               a command in a workspace did not end with 0
    └── CoordinationError           the control connection refused or failed

The command line turns a CoderAgentError into one line on stderr and an exit code; anything else is a bug and keeps its
traceback. Library errors (OSError, ssl.SSLError, h11, websockets …) are mapped at the boundary with `from`.
"""

from __future__ import annotations


class CoderAgentError(Exception):
    """Base of all errors that may be shown to a user as they are. `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(CoderAgentError):
    """The configuration is wrong."""


class PluginError(CoderAgentError):
    """A plugin cannot be used. `plugin` is its entry-point name."""

    def __init__(self, plugin: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.plugin = plugin


class PluginLoadError(PluginError):
    """An entry point failed to import."""


class PluginContractError(PluginError):
    """A plugin imported, but a hook, an argument or the API version does not fit."""


class ProtocolError(CoderAgentError):
    """A protocol rule was broken."""


class LocalProtocolError(ProtocolError):
    """This program misused a protocol core: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules; its connection must be closed."""


class TransportError(CoderAgentError):
    """A transport cannot carry data."""


class TransportClosed(TransportError):
    """Closed by us."""


class TransportBroken(TransportError):
    """Broken by the world."""


class TransportEnded(TransportBroken):
    """The other side's end of it was closed: its program ended, or wanted so. Unlike silence, which may pass."""


class EgressRefused(TransportBroken):
    """The deployment does not allow its programs to talk to that address (hook `coder_egress_policy`)."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or "`coder airgap check` says what is allowed; its operator changes that")


class PeerUnreachable(CoderAgentError):
    """No path to a peer within the time allowed."""


class PathRefused(PeerUnreachable):
    """What the user wishes about paths contradicts a rule of the deployment's or the workspace's, which wins."""


class AuthError(CoderAgentError):
    """Authentication or authorisation failed."""


class Unauthenticated(AuthError):
    """The credentials are missing, wrong or revoked."""


class Forbidden(AuthError):
    """The credentials are fine, but do not allow this. Users see the same answer as for an unknown object."""


class ApiError(CoderAgentError):
    """The server answered a request with an error document (codersdk/client.go)."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        detail: str = "",
        validations: tuple[tuple[str, str], ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.detail = detail
        self.validations = validations


class CoordinationError(CoderAgentError):
    """The control connection was refused or failed for good."""


class CommandFailed(CoderAgentError):
    """A command in a workspace ended with another exit code than 0, by a signal (the negative number), or said more
    than was to be kept (`returncode` None)."""

    def __init__(
        self,
        message: str,
        *,
        returncode: int | None = None,
        stdout: bytes = b"",
        stderr: bytes = b"",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
