"""The root command: lazy loading, global flags, errors in one line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import typer

from coder_agent.cli import app, context
from coder_agent.cli.context import Cli, Program
from coder_agent.errors import CoderAgentError, ConfigError, PeerUnreachable
from coder_agent.hooks import CommandSpec, hookimpl
from coder_agent.hooks.manager import build_plugin_manager

Run = Callable[..., tuple[int, str, str]]


class Commands:
    """A plugin with these commands, all in the module `commands_under_test`."""

    def __init__(self, *specs: CommandSpec) -> None:
        self.specs = specs

    @hookimpl
    def coder_commands(self) -> Sequence[CommandSpec]:
        return self.specs


def spec(name: str, program: Program = "coder", group: str = "", hidden: bool = False) -> CommandSpec:
    target = f"commands_under_test:{name.replace('-', '_')}"
    return CommandSpec(name, f"Help of {name}.", target, program=program, group=group, hidden=hidden)


seen: list[object] = []


def show(ctx: typer.Context, count: int = 1) -> None:
    """The long help of show."""
    cli: Cli = ctx.obj
    seen.append((count, cli.settings.client.url, cli.verbose, cli.settings.client.disable_direct_connections))


async def later(ctx: typer.Context) -> int:
    import anyio

    await anyio.lowlevel.checkpoint()
    seen.append(ctx.obj.program)
    return 4


def own_url(url: str = "mine") -> None:
    seen.append(url)


def refuse() -> None:
    raise PeerUnreachable("no way to dev:\n  it is asleep", hint="start it")


def bug() -> None:
    raise ZeroDivisionError("a bug")


def stop() -> None:
    raise KeyboardInterrupt


def group_of(*errors: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise BaseExceptionGroup("tasks", errors)

    return fail


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    seen.clear()
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger("coder_agent").setLevel(logging.NOTSET)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    module = ModuleType("commands_under_test")
    module.__dict__.update(
        show=show,
        later=later,
        own_url=own_url,
        refuse=refuse,
        bug=bug,
        stop=stop,
        inside=group_of(BaseExceptionGroup("inner", [ConfigError("wrong key")])),
        mixed=group_of(ConfigError("wrong key"), ZeroDivisionError()),
        gone=group_of(BaseExceptionGroup("inner", [BrokenPipeError()])),
        gone_and_mixed=group_of(BrokenPipeError(), ZeroDivisionError()),
    )
    monkeypatch.setitem(sys.modules, "commands_under_test", module)
    names = [
        "show",
        "later",
        "own-url",
        "refuse",
        "bug",
        "stop",
        "inside",
        "mixed",
        "gone",
        "gone-and-mixed",
        "missing",
    ]
    extra = [
        ("test", Commands(*map(spec, names), spec("show", group="things"), spec("secret-one", hidden=True))),
        ("agent", Commands(spec("show", program="coder-agent"))),
        ("broken", "there_is_no_such_module"),
    ]

    def build(discover: bool = True, **selection: object) -> object:
        return build_plugin_manager(discover=False, extra=extra if discover else [], **selection)  # type: ignore[arg-type]

    monkeypatch.setattr(context, "build_plugin_manager", build)

    def run_it(*arguments: str, program: Program = "coder") -> tuple[int, str, str]:
        code = app.run_program(program, arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run_it


def test_help_lists_commands_without_importing_them(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "Help of show." in out
    assert "Help of missing." in out
    assert "secret-one" not in out
    assert "things" in out


def test_without_arguments_there_is_help_and_no_complaint(run: Run) -> None:
    assert run()[:2] == run("--help")[:2]
    code, out, err = run("--disable-plugin", "broken", "things")
    assert (code, err) == (0, "")
    assert "Help of show." in out


def test_a_command_runs_with_its_options_and_the_context(run: Run) -> None:
    code, out, err = run("--url", "https://one", "show", "--count", "3")
    assert (code, out) == (0, "")
    assert seen == [(3, "https://one", False, False)]
    assert "plugin 'broken'" in err


def test_global_flags_may_stand_behind_the_command(run: Run) -> None:
    run("--url", "https://one", "show", "--url", "https://two", "-v", "--disable-direct-connections")
    assert seen == [(1, "https://two", True, True)]


def test_a_command_may_have_an_option_of_a_global_name(run: Run) -> None:
    run("own-url", "--url", "yours")
    assert seen == ["yours"]


def test_help_of_a_command_shows_its_own_options_only(run: Run) -> None:
    _, out, _ = run("show", "--help")
    assert "The long help of show." in out
    assert "--count" in out
    assert "--token" not in out


def test_a_command_in_a_group(run: Run) -> None:
    run("things", "show", "--count", "2")
    assert seen == [(2, "", False, False)]


def test_an_async_command_runs_and_may_return_its_exit_code(run: Run) -> None:
    assert run("later")[0] == 4
    assert seen == ["coder"]


def test_each_program_has_its_own_commands(run: Run) -> None:
    assert run("show", program="coder-agent")[0] == 0
    assert run("later", program="coder-agent")[0] == 2


def test_an_unknown_command_is_one_line_with_the_nearest(run: Run) -> None:
    code, out, err = run("shwo")
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == "error: No such command 'shwo'. Did you mean 'show'?"


def test_an_unknown_option_is_one_line(run: Run) -> None:
    code, _, err = run("show", "--frob")
    assert code == 2
    assert "error: No such option: --frob" in err
    assert "hint: see `coder show --help`" in err


def test_an_error_is_one_line_with_a_hint(run: Run) -> None:
    code, out, err = run("--disable-plugin", "broken", "refuse")
    assert (code, out) == (1, "")
    assert err == "error: no way to dev: it is asleep\nhint: start it\n"


def test_a_bug_keeps_its_traceback(run: Run) -> None:
    with pytest.raises(ZeroDivisionError):
        run("bug")


def test_an_interrupt_is_quiet(run: Run) -> None:
    code, out, err = run("--disable-plugin", "broken", "stop")
    assert (code, out, err) == (130, "", "")


def test_an_error_inside_task_groups_is_found(run: Run) -> None:
    code, _, err = run("inside")
    assert code == 1
    assert "error: wrong key" in err


def test_a_bug_beside_an_error_is_not_hidden(run: Run) -> None:
    with pytest.raises(BaseExceptionGroup):
        run("mixed")


def test_a_command_that_cannot_be_imported_says_so(run: Run) -> None:
    code, _, err = run("missing")
    assert code == 1
    assert "error: the command 'missing' cannot be loaded from commands_under_test:missing: AttributeError" in err


def test_no_plugins_leaves_the_core(run: Run) -> None:
    code, out, _ = run("--no-plugins", "--help")
    assert code == 0
    assert "plugins" in out
    assert "Help of show." not in out


def test_an_unknown_plugin_in_a_flag_is_an_error(run: Run) -> None:
    code, out, err = run("--disable-plugin", "tset", "config", "show")
    assert (code, out) == (1, "")
    assert err.splitlines() == ["error: no plugin is called 'tset'", "hint: `coder plugins list` shows them"]


def test_a_broken_configuration_stops_commands_but_not_help(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[[[", "utf-8")
    code, out, err = run("--config", str(path), "--help")
    assert code == 0
    assert "login" in out
    assert "warning: " in err
    code, out, err = run("--config", str(path), "plugins", "list")
    assert (code, out) == (1, "")
    assert "not valid TOML" in err


def test_the_version(run: Run) -> None:
    assert run("--version")[:2] == (0, "coder-agent 0.1.0\n")


def test_plugins_list_tells_what_is_wrong(run: Run) -> None:
    code, out, err = run("plugins", "list", "--output", "json")
    assert (code, err) == (0, "")
    plugins = {plugin["name"]: plugin for plugin in json.loads(out)}
    assert plugins["test"]["status"] == "ok"
    assert plugins["test"]["hooks"] == ["coder_commands"]
    assert plugins["broken"]["status"] == "broken"
    assert "there_is_no_such_module" in plugins["broken"]["error"]
    _, out, _ = run("--disable-plugin", "test", "plugins", "list")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "disabled" in lines["test"]
    assert "cannot be imported" in lines["broken:"]


def test_plugins_info(run: Run) -> None:
    code, out, _ = run("plugins", "info", "test", "-o", "json")
    assert code == 0
    assert json.loads(out)["target"] == "Commands"
    code, _, err = run("plugins", "info", "tset")
    assert code == 1
    assert "no plugin is called 'tset'" in err


def test_plugins_hooks_lists_signatures_and_users(run: Run) -> None:
    _, out, _ = run("plugins", "hooks", "-o", "json")
    hooks = {hook["name"]: hook for hook in json.loads(out)}
    assert hooks["coder_commands"]["plugins"] == ["core", "test", "agent"]
    assert hooks["coder_transports"]["signature"].startswith("coder_transports(settings: Settings)")
    assert "coder_event" in run("plugins", "hooks")[1]


def test_config_show_tells_sources_and_hides_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_SESSION_TOKEN", "hunter2hunter2")
    code, out, _ = run("--url", "https://one", "config", "show", "-o", "json")
    assert code == 0
    client = json.loads(out)["settings"]["client"]
    assert client["url"] == {"value": "https://one", "source": "flag --url"}
    assert client["token"] == {"value": "**********", "source": "environment CODER_SESSION_TOKEN"}
    assert "hunter2" not in out + run("config", "show")[1]


def test_a_reader_that_leaves_is_not_an_error(tmp_path: Path) -> None:
    """`coder … | head -0`: a real process, for the fault comes when the interpreter flushes."""
    program = partial(subprocess.run, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True)
    code = "import sys; from coder_agent.cli.app import main; sys.exit(main(['plugins', 'hooks', '-o', 'json']))"
    done = program(["bash", "-c", f'"{sys.executable}" -c "{code}" | head -c 1; exit ${{PIPESTATUS[0]}}'])
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_a_reader_that_leaves_while_tasks_print_is_not_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`coder ping dev | head -1`: the fault comes out of a task group; one among others hides nothing."""
    monkeypatch.setattr(app, "_stdout_is_lost", lambda: 77)  # points stdout elsewhere, which is pytest's here
    assert run("gone")[0] == 77
    with pytest.raises(BaseExceptionGroup):
        run("gone-and-mixed")


def test_help_needs_neither_pydantic_nor_keys_nor_tasks() -> None:
    """What is not imported cannot cost start-up time."""
    code = (
        "import sys; from coder_agent.cli.app import main; main(['--help']); "
        "print(sorted({'pydantic', 'anyio', 'nacl', 'cryptography', 'numpy', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_errors_carry_no_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = CoderAgentError("sent Coder-Session-Token: abcdefghij-0123456789012345678901 to the wrong place")
    assert app.report(error) == 1
    err = capsys.readouterr().err
    assert "0123456789012345678901" not in err
    assert "to the wrong place" in err


@pytest.mark.parametrize("program", ["coder", "coder_agent"])
def test_ctrl_c_during_the_imports_is_quiet(program: str) -> None:
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"from coder_agent.cli import start; sys.exit(start.{program}())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
