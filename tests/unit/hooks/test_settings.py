"""Layers of configuration, secrets, and the errors that a misspelt key must give."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator

from coder_agent.errors import ConfigError, PluginContractError
from coder_agent.hooks import SettingsSpec, hookimpl
from coder_agent.hooks import manager as manager_module
from coder_agent.hooks.host import PluginHost
from coder_agent.hooks.manager import build_plugin_manager
from coder_agent.hooks.settings import ClientSettings, Settings, load_settings
from coder_agent.hooks.sources import ConfigFile, read_config_file, read_selection


class Nested(BaseModel):
    burst: int = 64


class ExampleSettings(BaseModel):
    port: int = 7
    offload: bool = True
    hosts: list[str] = []
    labels: dict[str, str] = {}
    password: SecretStr = SecretStr("")
    proxy: str = ""
    limits: Nested = Nested()
    access_url: str = Field("", json_schema_extra={"env": ["CODER_EXAMPLE_URL"]})

    @field_validator("port")
    @classmethod
    def _even(cls, port: int) -> int:
        if port == 13:
            raise ValueError("Thirteen brings bad luck")
        return port


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    module = ModuleType("example_settings_module")
    module.__dict__["ExampleSettings"] = ExampleSettings
    monkeypatch.setitem(__import__("sys").modules, "example_settings_module", module)

    class Plugin:
        @hookimpl
        def coder_settings(self) -> object:
            return [SettingsSpec("example", "example_settings_module:ExampleSettings")]

    monkeypatch.setattr(manager_module, "entry_points", lambda group: [])
    return build_plugin_manager(
        disable=["off"],
        extra=[("example", Plugin()), ("off", object()), ("broken", "there_is_no_such_module")],
    )


def file_of(tmp_path: Path, text: str) -> ConfigFile:
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    return read_config_file(str(path), {})


def example(settings: Settings) -> ExampleSettings:
    return settings.section("example", ExampleSettings)


def origin_of(settings: Settings, key: str, section: str = "plugins.example") -> str:
    return next(str(row.origin) for row in settings.rows() if (row.section, row.key) == (section, key))


def test_defaults_are_weaker_than_the_file_than_the_environment_than_flags(tmp_path: Path, host: PluginHost) -> None:
    file = file_of(tmp_path, "[plugins.example]\nport = 1\n")
    environ = {"CODER_PLUGIN_EXAMPLE__PORT": "2"}
    assert example(load_settings(host)).port == 7
    assert example(load_settings(host, file=file)).port == 1
    assert example(load_settings(host, file=file, environ=environ)).port == 2
    flagged = load_settings(host, file=file, environ=environ, flags={"example": {"port": 3, "offload": None}})
    assert example(flagged).port == 3
    assert example(flagged).offload is True


def test_every_value_knows_where_it_came_from(tmp_path: Path, host: PluginHost) -> None:
    file = file_of(tmp_path, "# a comment\n\n[plugins.example]\noffload = false\nport = 1\n")
    settings = load_settings(host, file=file, environ={"CODER_PLUGIN_EXAMPLE__PORT": "2"})
    settings = settings.with_flags("example", {"access_url": "http://x"})
    assert origin_of(settings, "hosts") == "default"
    assert origin_of(settings, "offload") == f"file {tmp_path}/config.toml:4"
    assert origin_of(settings, "port") == "environment CODER_PLUGIN_EXAMPLE__PORT"
    assert origin_of(settings, "access_url") == "flag --access-url"


def test_a_field_may_name_environment_variables_of_its_own(host: PluginHost) -> None:
    environ = {"CODER_EXAMPLE_URL": "http://alias"}
    assert example(load_settings(host, environ=environ)).access_url == "http://alias"
    environ["CODER_PLUGIN_EXAMPLE__ACCESS_URL"] = "http://general"
    assert example(load_settings(host, environ=environ)).access_url == "http://general"


@pytest.mark.parametrize(
    ("text", "hosts"), [("a, b", ["a", "b"]), ('["a","b"]', ["a", "b"]), ("a", ["a"])], ids=["commas", "json", "one"]
)
def test_lists_from_the_environment(host: PluginHost, text: str, hosts: list[str]) -> None:
    assert example(load_settings(host, environ={"CODER_PLUGIN_EXAMPLE__HOSTS": text})).hosts == hosts


def test_tables_from_the_environment(host: PluginHost) -> None:
    environ = {"CODER_PLUGIN_EXAMPLE__LABELS": "a=b,c=d=e", "CODER_HEADER": "X-One=1"}
    settings = load_settings(host, environ=environ)
    assert example(settings).labels == {"a": "b", "c": "d=e"}
    assert settings.network.header == {"X-One": "1"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[plugins.example]\nprot = 1", "config.toml:2: plugins.example has no key 'prot'", "did you mean 'port'?"),
        ("[plugins.exmaple]\nport = 1", "config.toml:1: [plugins.exmaple]", "did you mean 'example'?"),
        ("[cilent]\nurl = 'x'", "config.toml:1: [cilent]: 'cilent' is not a section", "did you mean 'client'?"),
        ("[client]\nulr = 'x'", "config.toml:2: client has no key 'ulr'", "did you mean 'url'?"),
        (
            "[plugins.example]\n[plugins.example.limits]\nbusrt = 1",
            "plugins.example.limits has no key 'busrt'",
            "burst",
        ),
        ("[plugins.example]\nport = 'x'", "config.toml:2: plugins.example.port: input should be a valid integer", ""),
        ("[plugins.example]\nport = 13", "plugins.example.port: thirteen brings bad luck", ""),
        ("[plugins]\nexample = 3", "config.toml:2: plugins.example must be a table", ""),
        ("client = 3", "config.toml:1: client must be a table", ""),
    ],
)
def test_mistakes_are_named_with_their_place(
    tmp_path: Path, host: PluginHost, text: str, message: str, hint: str
) -> None:
    file = file_of(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(host, file=file)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_misspelt_variable_of_a_known_plugin_is_refused(host: PluginHost) -> None:
    with pytest.raises(ConfigError, match=r"CODER_PLUGIN_EXAMPLE__PROT: plugins\.example has no key 'prot'"):
        load_settings(host, environ={"CODER_PLUGIN_EXAMPLE__PROT": "1", "CODER_PLUGIN_ELSEWHERE__X": "1"})


def test_sections_of_plugins_that_do_not_run_are_left_alone(tmp_path: Path, host: PluginHost) -> None:
    file = file_of(tmp_path, "[plugins.off]\nanything = 1\n[plugins.broken]\nx = 2\n")
    assert example(load_settings(host, file=file)).port == 7


def test_no_plugins_means_no_complaint_about_their_sections(tmp_path: Path) -> None:
    file = file_of(tmp_path, "[plugins.whatever]\nx = 1\n")
    assert load_settings(build_plugin_manager(discover=False), file=file).client.url == ""


def test_a_secret_may_stand_in_a_file_beside_the_configuration(tmp_path: Path, host: PluginHost) -> None:
    (tmp_path / "secret").write_text("hunter2hunter2\n", "utf-8")
    settings = load_settings(host, file=file_of(tmp_path, '[plugins.example]\npassword = {file = "secret"}'))
    assert example(settings).password.get_secret_value() == "hunter2hunter2"


def test_a_secret_may_stand_in_the_environment(tmp_path: Path, host: PluginHost) -> None:
    file = file_of(tmp_path, '[plugins.example]\npassword = {env = "MINE"}')
    assert example(load_settings(host, file=file, environ={"MINE": "s3"})).password.get_secret_value() == "s3"
    with pytest.raises(ConfigError, match="MINE is not set"):
        load_settings(host, file=file)


@pytest.mark.parametrize("value", ['{file = "not-there"}', "{vault = 1}", "{}", "{file = 1}"])
def test_a_secret_that_cannot_be_had_is_an_error(tmp_path: Path, host: PluginHost, value: str) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.example\.password"):
        load_settings(host, file=file_of(tmp_path, f"[plugins.example]\npassword = {value}"))


def test_secrets_are_never_shown(tmp_path: Path, host: PluginHost) -> None:
    text = """
        [plugins.example]
        password = "hunter2hunter2"
        proxy = "socks5://me:hunter2hunter2@proxy:1080"
        [network]
        header = {CF-Access-Client-Secret = "hunter2hunter2", X-Color = "blue"}
        [client]
        token = "hunter2hunter2"
    """
    file = file_of(tmp_path, text)
    settings = load_settings(host, file=file)
    shown = repr(settings.rows()) + repr(settings) + repr(file) + repr(example(settings).password)
    assert "hunter2hunter2" not in shown
    assert "blue" in shown
    assert "socks5://me:**********@proxy:1080" in shown


def test_a_wrong_secret_is_not_repeated_in_the_error(tmp_path: Path, host: PluginHost) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(host, file=file_of(tmp_path, '[plugins.example]\npassword = ["hunter2hunter2"]'))
    assert "hunter2hunter2" not in str(caught.value)


def test_a_section_nobody_declared_has_its_defaults() -> None:
    assert Settings().section("anything", ExampleSettings).port == 7


def test_a_section_belongs_to_one_model(host: PluginHost) -> None:
    with pytest.raises(PluginContractError, match="ExampleSettings"):
        load_settings(host).section("example", ClientSettings)


def test_settings_that_cannot_be_imported_name_the_plugin() -> None:
    class Plugin:
        @hookimpl
        def coder_settings(self) -> object:
            return [SettingsSpec("mine", "no_such_module:Model")]

    with pytest.raises(PluginContractError, match=r"'mine'.*no_such_module"):
        load_settings(build_plugin_manager(discover=False, extra=[("mine", Plugin())]))


# ---------------------------------------------------------------- the file


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        read_config_file(str(tmp_path / "none.toml"), {})
    assert "--config" in (caught.value.hint or "")


def test_the_environment_names_a_file_and_the_flag_wins(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[client]\nurl='a'", "utf-8")
    (tmp_path / "b.toml").write_text("[client]\nurl='b'", "utf-8")
    environ = {"CODER_CONFIG_PATH": str(tmp_path / "a.toml")}
    assert read_config_file(None, environ).data == {"client": {"url": "a"}}
    assert read_config_file(str(tmp_path / "b.toml"), environ).data == {"client": {"url": "b"}}


@pytest.mark.parametrize(("content", "words"), [(b"a = \nb", r"not valid TOML.*line 1"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_config_file(str(tmp_path / "c.toml"), {})


# ---------------------------------------------------------------- which plugins


def test_what_is_disabled_adds_up_and_the_strongest_only_counts(tmp_path: Path) -> None:
    file = file_of(tmp_path, '[plugins]\ndisable = ["a"]\nonly = ["x"]\nrequire = ["r"]')
    environ = {"CODER_PLUGINS_DISABLE": "b, c-c"}
    selection = read_selection(file, environ, disable=["d"])
    assert selection.disable == {"a", "b", "c_c", "d"}
    assert selection.only == frozenset("x")
    assert selection.require == {"r"}
    assert read_selection(file, {"CODER_PLUGINS_ONLY": "y"}).only == frozenset("y")
    assert read_selection(file, {"CODER_PLUGINS_ONLY": "y"}, only=["z"]).only == frozenset("z")


def test_nothing_said_means_all_and_an_empty_list_means_none() -> None:
    assert read_selection(ConfigFile(), {}).only is None
    assert read_selection(ConfigFile(), {"CODER_PLUGINS_ONLY": ""}).only == frozenset()


def test_no_plugins_requires_none(tmp_path: Path) -> None:
    selection = read_selection(file_of(tmp_path, '[plugins]\nrequire = ["r"]'), {}, no_plugins=True)
    assert not selection.discover
    assert selection.require == frozenset()


def test_a_list_of_plugins_must_be_a_list_of_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml:2: plugins\.disable must be a list"):
        read_selection(file_of(tmp_path, '[plugins]\ndisable = "a"'), {})
