"""What a plugin may not do, and that the refusal names the plugin, the hook and the argument."""

from __future__ import annotations

from types import ModuleType

import pytest

from coder_agent.errors import PluginContractError
from coder_agent.hooks import API_VERSION, hookimpl
from coder_agent.hooks.contract import HOOKS, check_contract


def module(**members: object) -> ModuleType:
    made = ModuleType("some_plugin")
    for name, member in members.items():
        if callable(member) and not isinstance(member, type):
            member.__module__ = "some_plugin"
        setattr(made, name, member)
    return made


def refusal(plugin: object) -> PluginContractError:
    with pytest.raises(PluginContractError) as caught:
        check_contract("mine", plugin)
    assert caught.value.plugin == "mine"
    assert "'mine'" in caught.value.message
    return caught.value


def test_a_good_plugin_passes_with_its_hooks_named() -> None:
    @hookimpl
    def coder_transports(settings: object) -> list[object]:
        return []

    @hookimpl
    def coder_commands() -> list[object]:
        return []

    made = module(
        coder_transports=coder_transports, coder_commands=coder_commands, anything_else=print, __coder_api__=1
    )
    assert check_contract("mine", made) == ("coder_commands", "coder_transports")


def test_a_hook_may_take_fewer_arguments_and_defaults_of_its_own() -> None:
    @hookimpl
    def coder_transports(mine: int = 3) -> list[object]:
        return []

    assert check_contract("mine", module(coder_transports=coder_transports)) == ("coder_transports",)


def test_a_misspelt_hook_is_refused_with_the_nearest_one() -> None:
    @hookimpl
    def coder_transprots(settings: object) -> list[object]:
        return []

    error = refusal(module(coder_transprots=coder_transprots))
    assert "coder_transprots" in error.message
    assert error.hint == "did you mean coder_transports?"


def test_a_hook_without_the_prefix_is_refused() -> None:
    @hookimpl
    def zzz() -> list[object]:
        return []

    assert "coder_" in (refusal(module(zzz=zzz)).hint or "")


def test_a_wrong_argument_is_refused_by_name() -> None:
    @hookimpl
    def coder_transports(settings: object, sink: object) -> list[object]:
        return []

    error = refusal(module(coder_transports=coder_transports))
    assert "coder_transports" in error.message
    assert "'sink'" in error.message
    assert error.hint == "it offers: settings"


def test_an_async_hook_is_refused() -> None:
    @hookimpl
    async def coder_commands() -> list[object]:
        return []

    assert "async" in refusal(module(coder_commands=coder_commands)).message


def test_a_wrapper_is_refused() -> None:
    @hookimpl(wrapper=True)
    def coder_commands() -> object:
        return (yield)

    assert "wrapper" in refusal(module(coder_commands=coder_commands)).message


def test_a_forgotten_mark_is_refused() -> None:
    def coder_commands() -> list[object]:
        return []

    error = refusal(module(coder_commands=coder_commands))
    assert "coder_commands is not marked" in error.message
    assert "@hookimpl" in (error.hint or "")


def test_another_api_version_is_refused() -> None:
    error = refusal(module(__coder_api__=API_VERSION + 1))
    assert str(API_VERSION + 1) in error.message


def test_an_object_may_be_a_plugin_even_if_one_of_its_properties_raises() -> None:
    class Plugin:
        @property
        def broken(self) -> object:
            raise RuntimeError

        @hookimpl
        def coder_commands(self) -> list[object]:
            return []

    assert check_contract("mine", Plugin()) == ("coder_commands",)


def test_every_hook_has_the_prefix_a_summary_and_a_signature() -> None:
    assert len(HOOKS) >= 10
    for name, hook in HOOKS.items():
        assert name.startswith("coder_")
        assert hook.summary.endswith(".")
        assert hook.signature.startswith(f"{name}(")
