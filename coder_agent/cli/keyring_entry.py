"""The session token in the operating system's keyring: Keychain, Credential Manager, Secret Service, KWallet.

By the package `keyring`, which is optional (``pip install 'coder-agent[keyring]'``) and imported only when somebody has
asked for it. One entry per configuration directory: service `SERVICE`, account = the directory's path, secret = the
bare token. The service is called as in stock Coder, which keeps an entry of another shape under another account name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError

SERVICE = "coder-v2-credentials"
PATIENCE = 60.0
"""Seconds for the keyring to answer; it may be asking the user to unlock it."""
FILE_INSTEAD = "keep the session in a file: `coder login --no-use-keyring`"


class NoKeyring(Exception):
    """There is none to be used here; the text says why."""


def store(directory: Path, token: str) -> None:
    """Keep `token`. Raises NoKeyring if there is no keyring or it refuses."""
    try:
        library = _library()
        _in_time(lambda: library.set_password(SERVICE, str(directory.absolute()), token))
    except ConfigError as error:
        raise NoKeyring(error.message) from error


def load(directory: Path) -> str:
    """The token; empty = there is none. Raises ConfigError if the keyring cannot be read."""
    try:
        library = _library()
    except NoKeyring as error:
        raise ConfigError(f"cannot read the session from the keyring: {error}", hint=FILE_INSTEAD) from error
    found = _in_time(lambda: library.get_password(SERVICE, str(directory.absolute())))
    return found if isinstance(found, str) else ""


def remove(directory: Path) -> None:
    """Forget the token, if there is one. Raises NoKeyring or ConfigError if the keyring cannot be asked."""
    library = _library()

    def delete() -> None:
        if library.get_password(SERVICE, str(directory.absolute())) is not None:
            library.delete_password(SERVICE, str(directory.absolute()))

    _in_time(delete)


def _library() -> ModuleType:
    """`keyring`, with a backend behind it."""
    try:
        import keyring
        from keyring.backends import chainer, fail, null
    except ImportError:
        raise NoKeyring("the package is missing (pip install 'coder-agent[keyring]')") from None
    backend = _in_time(keyring.get_keyring)
    empty = isinstance(backend, chainer.ChainerBackend) and not backend.backends
    if empty or isinstance(backend, (fail.Keyring, null.Keyring)):
        raise NoKeyring("this system offers none to this session")
    return keyring


def _in_time(ask: Callable[[], object]) -> object:
    """What `ask` returns. A keyring whose window nobody answers must not hang the program for ever, nor at its exit."""
    result: list[object] = []
    failure: list[Exception] = []

    def work() -> None:
        try:
            result.append(ask())
        except Exception as error:  # backends raise what their D-Bus or system library raises
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True, name="keyring")
    thread.start()
    thread.join(PATIENCE)
    if failure:
        reason = str(failure[0]).partition("\n")[0] or type(failure[0]).__name__
        raise ConfigError(f"the keyring cannot be used: {reason}", hint=FILE_INSTEAD) from failure[0]
    if not result:
        raise ConfigError(f"the keyring did not answer within {PATIENCE:g} s", hint=FILE_INSTEAD)
    return result[0]
