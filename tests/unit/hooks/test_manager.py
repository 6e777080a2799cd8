"""Finding, guarding and asking plugins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import PathKind
from coder_agent.errors import ConfigError, PluginContractError, PluginLoadError
from coder_agent.hooks import CommandSpec, PathChanged, Settings, SettingsSpec, hookimpl
from coder_agent.hooks import manager as manager_module
from coder_agent.hooks.manager import build_plugin_manager

EVENT = PathChanged(NodePublic(bytes(range(32))), PathKind.DIRECT, "192.0.2.1:7", "derp:999", "pong")


@dataclass
class Named:
    name: str


class Offers:
    """Offers transports of these names."""

    def __init__(self, *names: str) -> None:
        self.transports = [Named(name) for name in names]

    @hookimpl
    def coder_transports(self) -> object:
        return self.transports


class Raises:
    @hookimpl
    def coder_transports(self) -> object:
        raise RuntimeError("no luck\nat all")


class Refuses:
    @hookimpl
    def coder_transports(self) -> object:
        raise ConfigError("port is taken")


class Answers:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def coder_transports(self) -> object:
        return self.answer


class Policy:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def coder_path_policy(self) -> object:
        return self.answer


@pytest.fixture
def path_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(found: list[object]) -> list[str]:
    return [item.name for item in found if isinstance(item, Named)]


def test_answers_are_sorted_by_name_whatever_the_plugins_are_called() -> None:
    host = build_plugin_manager(discover=False, extra=[("z", Offers("a", "d")), ("y", Offers("c", "b"))])
    assert names(host.collect("coder_transports", settings=Settings())) == ["a", "b", "c", "d"]


def test_a_plugin_that_raises_in_a_hook_is_recorded_and_the_others_answer() -> None:
    host = build_plugin_manager(discover=False, extra=[("bad", Raises()), ("good", Offers("udp"))])
    assert names(host.collect("coder_transports", settings=Settings())) == ["udp"]
    bad = host.record("bad")
    assert bad is not None
    assert bad.status == "broken"
    assert str(bad.error) == "plugin 'bad' failed in coder_transports: RuntimeError: no luck"


def test_a_configuration_error_raised_by_a_plugin_reaches_the_user() -> None:
    host = build_plugin_manager(discover=False, extra=[("udp", Refuses())])
    with pytest.raises(ConfigError, match="port is taken"):
        host.collect("coder_transports", settings=Settings())


@pytest.mark.parametrize("answer", ["udp", Named("udp"), iter([Named("udp")]), [object()]])
def test_an_answer_of_the_wrong_shape_breaks_only_its_plugin(answer: object) -> None:
    host = build_plugin_manager(discover=False, extra=[("odd", Answers(answer)), ("good", Offers("udp"))])
    assert names(host.collect("coder_transports", settings=Settings())) == ["udp"]
    assert [record.name for record in host.broken] == ["odd"]


def test_no_answer_is_no_fault() -> None:
    host = build_plugin_manager(discover=False, extra=[("quiet", Answers(None))])
    assert host.collect("coder_transports", settings=Settings()) == []
    assert host.broken == []


def test_two_plugins_with_the_same_offer_clash_by_name() -> None:
    host = build_plugin_manager(discover=False, extra=[("b", Offers("udp")), ("a", Offers("udp"))])
    assert len(host.collect("coder_transports", settings=Settings())) == 1
    (broken,) = host.broken
    assert broken.name == "b"
    assert "'udp'" in str(broken.error)
    assert "'a'" in str(broken.error)


def test_the_first_answer_wins_in_the_order_of_names() -> None:
    policies = [("c", Policy("c")), ("a", Policy(None)), ("b", Policy("b"))]
    host = build_plugin_manager(discover=False, extra=policies)
    assert host.first("coder_path_policy", settings=Settings()) == "b"


def test_the_core_offers_before_others_but_is_asked_last_where_one_wins() -> None:
    class Default:
        @hookimpl(trylast=True)
        def coder_path_policy(self) -> object:
            return "default"

    host = build_plugin_manager(discover=False, builtin=[("core", Default())], extra=[("mine", Policy("mine"))])
    assert host.first("coder_path_policy", settings=Settings()) == "mine"
    host = build_plugin_manager(discover=False, builtin=[("core", Default())])
    assert host.first("coder_path_policy", settings=Settings()) == "default"


def test_an_observer_that_raises_is_told_no_more_and_the_others_are() -> None:
    heard: list[object] = []
    calls: list[int] = []

    class Bad:
        @hookimpl
        def coder_event(self, event: object) -> None:
            calls.append(1)
            raise ValueError("oops")

    class Good:
        @hookimpl
        def coder_event(self, event: object) -> None:
            heard.append(event)

    class Deaf:
        @hookimpl
        def coder_event(self) -> None:
            heard.append("something")

    host = build_plugin_manager(discover=False, extra=[("bad", Bad()), ("good", Good()), ("deaf", Deaf())])
    host.emit(EVENT)
    host.emit(EVENT)
    assert heard == ["something", EVENT, "something", EVENT]
    assert calls == [1]
    assert [record.name for record in host.broken] == ["bad"]


def test_disabled_plugins_are_listed_but_not_imported() -> None:
    host = build_plugin_manager(discover=False, disable=["No-Such"], extra=[("no_such", "no_such_module_at_all")])
    assert [(record.name, record.status) for record in host.records] == [("no_such", "disabled")]


def test_only_keeps_the_core_and_the_chosen() -> None:
    host = build_plugin_manager(
        discover=False, only=["a"], builtin=[("core", Offers())], extra=[("a", Offers()), ("b", Offers())]
    )
    assert {record.name: record.status for record in host.records} == {"core": "ok", "a": "ok", "b": "disabled"}


def test_disable_wins_over_only() -> None:
    host = build_plugin_manager(discover=False, only=["a"], disable=["a"], extra=[("a", Offers())])
    assert host.records[0].status == "disabled"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import there_is_no_such_module", "ModuleNotFoundError"),
        ("1/0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_reported_and_the_others_work(
    path_with: Path, body: str, words: str
) -> None:
    (path_with / "plugin_under_test.py").write_text(body, "utf-8")
    host = build_plugin_manager(discover=False, extra=[("bad", "plugin_under_test"), ("good", Offers("udp"))])
    (broken,) = host.broken
    assert isinstance(broken.error, PluginLoadError)
    assert words in broken.error.message
    assert "'bad'" in broken.error.message
    assert names(host.collect("coder_transports", settings=Settings())) == ["udp"]


def entry_point(name: str, value: str, distribution: str) -> EntryPoint:
    made = EntryPoint(name, value, "coder_agent")
    vars(made)["dist"] = SimpleNamespace(name=distribution, version="1.2")
    return made


def test_two_distributions_with_one_plugin_name_are_told_apart(
    path_with: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first_of_two", "second_of_two"):
        (path_with / f"{name}.py").write_text("", "utf-8")
    found = [entry_point("udp", "second_of_two", "zz-udp"), entry_point("udp", "first_of_two", "aa-udp")]
    monkeypatch.setattr(manager_module, "entry_points", lambda group: found)
    host = build_plugin_manager()
    assert [(r.distribution, r.status) for r in host.records] == [("aa-udp", "ok"), ("zz-udp", "broken")]
    error = host.records[1].error
    assert isinstance(error, PluginContractError)
    assert "aa-udp 1.2" in error.message
    assert "zz-udp 1.2" in error.message


def test_plugins_are_found_beside_the_backport_of_the_standard_library(
    path_with: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported by anybody, importlib_metadata answers with objects of its own, to pluggy's comparisons too."""
    (path_with / "found_by_the_backport.py").write_text("", "utf-8")
    backport = pytest.importorskip("importlib_metadata")  # needed by keyring before Python 3.12 only
    found = backport.EntryPoint("udp", "found_by_the_backport", "coder_agent")
    vars(found)["dist"] = SimpleNamespace(name="udp", version="1.2")
    monkeypatch.setattr(manager_module, "entry_points", lambda group: [found])
    (record,) = build_plugin_manager(builtin=[("core", Offers())]).records[1:]
    assert (record.name, record.status) == ("udp", "ok"), record.error


def test_one_module_under_two_names_is_refused(path_with: Path) -> None:
    (path_with / "a_twin.py").write_text("", "utf-8")
    host = build_plugin_manager(discover=False, extra=[("one", "a_twin"), ("two", "a_twin")])
    assert [record.name for record in host.broken] == ["two"]
    assert "'one'" in str(host.broken[0].error)


def test_a_required_plugin_that_is_missing_stops_the_program() -> None:
    with pytest.raises(PluginLoadError, match=r"'nat'.*not installed"):
        build_plugin_manager(discover=False, require=["nat"])


def test_a_required_plugin_that_is_disabled_stops_the_program() -> None:
    with pytest.raises(PluginLoadError, match="disabled"):
        build_plugin_manager(discover=False, require=["a"], disable=["a"], extra=[("a", Offers())])


def test_a_required_plugin_that_is_broken_stops_the_program_with_its_own_error() -> None:
    with pytest.raises(PluginLoadError, match="there_is_none"):
        build_plugin_manager(discover=False, require=["a"], extra=[("a", "there_is_none")])


def test_a_required_plugin_that_fails_in_a_hook_stops_the_program() -> None:
    host = build_plugin_manager(discover=False, require=["bad"], extra=[("bad", Raises())])
    with pytest.raises(PluginContractError, match="no luck"):
        host.collect("coder_transports", settings=Settings())


@pytest.mark.parametrize(("hook", "answer"), [("coder_commands", Named("x")), ("coder_settings", Named("x"))])
def test_descriptions_must_be_of_their_type(hook: str, answer: object) -> None:
    def implement(self: object) -> object:
        return [answer, CommandSpec("ok", "", "m:f"), SettingsSpec("ok", "m:M")]

    implement.__name__ = hook
    plugin = type("Plugin", (), {hook: hookimpl(implement)})()
    host = build_plugin_manager(discover=False, extra=[("odd", plugin)])
    assert len(host.collect(hook)) == 1
    assert "Named" in str(host.broken[0].error)
