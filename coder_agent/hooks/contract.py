"""Does a plugin keep the contract? Checked when it is registered, never at the first call.

pluggy checks some of this too, but it stops at the first problem, after half a registration, and cannot say which hook
was probably meant. Every message here names the plugin, the hook and, where there is one, the argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import PluginContractError
from . import hookspecs
from .interfaces import API_VERSION
from .markers import PREFIX, PROJECT

_IMPL_MARK = f"{PROJECT}_impl"  # where pluggy's markers leave their options on a function
_SPEC_MARK = f"{PROJECT}_spec"


@dataclass(frozen=True, slots=True)
class HookSpec:
    """One hook as hookspecs.py states it. `summary` is the first line of its docstring."""

    name: str
    arguments: tuple[str, ...]
    firstresult: bool
    signature: str
    summary: str


def _read_specs() -> dict[str, HookSpec]:
    specs = {}
    for name, function in vars(hookspecs).items():
        options = getattr(function, _SPEC_MARK, None)
        if options is not None:
            signature = inspect.signature(function)
            specs[name] = HookSpec(
                name=name,
                arguments=tuple(signature.parameters),
                firstresult=bool(options["firstresult"]),
                signature=f"{name}{signature}".replace("'", ""),
                summary=(function.__doc__ or "").strip().partition("\n")[0],
            )
    return specs


HOOKS: Mapping[str, HookSpec] = _read_specs()
"""Every hook by name, in the order of hookspecs.py."""


def check_contract(plugin: str, module: object) -> tuple[str, ...]:
    """The hooks that `module` implements, sorted. Raises PluginContractError for the first rule that it breaks."""
    version = getattr(module, "__coder_api__", API_VERSION)
    if version != API_VERSION:
        raise PluginContractError(
            plugin,
            f"plugin {plugin!r} was written for plugin API {version!r}; this is API {API_VERSION}",
            hint="install a release of the plugin that fits, or disable it",
        )
    found = []
    for name, member in _members(module):
        if hasattr(member, _IMPL_MARK):
            _check_implementation(plugin, name, member)
            found.append(name)
        elif _looks_like_hook(module, name, member):
            raise PluginContractError(
                plugin, f"plugin {plugin!r}: {name} is not marked", hint=f"put @hookimpl above def {name}"
            )
    return tuple(sorted(found))


def _members(module: object) -> list[tuple[str, object]]:
    """Public attributes; one that raises when it is read (a property of an object plugin) is nobody's hook."""
    members = []
    for name in dir(module):
        if not name.startswith("_"):
            try:
                members.append((name, getattr(module, name)))
            except Exception:
                continue
    return members


def _looks_like_hook(module: object, name: str, member: object) -> bool:
    """An undecorated function that carries a hook's very name and is defined here is a forgotten @hookimpl."""
    own = getattr(member, "__module__", None) == getattr(module, "__name__", type(module).__module__)
    return own and name in HOOKS and inspect.isroutine(member)


def _check_implementation(plugin: str, name: str, function: object) -> None:
    options = getattr(function, _IMPL_MARK)
    hook = options.get("specname") or name
    spec = HOOKS.get(hook)
    if spec is None:
        raise PluginContractError(plugin, f"plugin {plugin!r}: there is no hook {hook!r}", hint=_nearest(hook))
    if options.get("wrapper") or options.get("hookwrapper"):
        raise PluginContractError(
            plugin,
            f"plugin {plugin!r}: {hook} is a wrapper; hooks here have no order, so nothing can be wrapped",
            hint="return objects from the hook instead",
        )
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginContractError(
            plugin,
            f"plugin {plugin!r}: {hook} must be an ordinary function, not async",
            hint="return an object whose methods are async",
        )
    _check_arguments(plugin, spec, function)


def _check_arguments(plugin: str, spec: HookSpec, function: object) -> None:
    assert callable(function)
    for argument in inspect.signature(function).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if argument.name not in spec.arguments and argument.default is argument.empty:
            raise PluginContractError(
                plugin,
                f"plugin {plugin!r}: {spec.name} takes an argument {argument.name!r} that the hook does not offer",
                hint=f"it offers: {', '.join(spec.arguments)}" if spec.arguments else "it offers no arguments",
            )


def _nearest(hook: str) -> str:
    near = get_close_matches(hook, HOOKS, n=1)
    if near:
        return f"did you mean {near[0]}?"
    if not hook.startswith(PREFIX):
        return f"hooks start with {PREFIX!r}; `coder plugins hooks` lists them"
    return "`coder plugins hooks` lists them"
