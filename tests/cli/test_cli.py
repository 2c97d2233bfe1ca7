"""The root command: lazy, one line per error, exit codes by class, nothing on stdout when something failed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import deepen
from deepen import errors
from deepen.cli import COMMANDS, LazyGroup, cli
from deepen.cli.output import emit_result, json_option

MODULE = '''
import logging
import click
from deepen import errors
from deepen.cli.output import emit_result, json_option

@click.command()
@click.argument("what")
@json_option
def command(what, as_json):
    """Help of the sample command."""
    logging.getLogger("deepen.sample").info("asked for %s", what)
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "missing-file":
        open("/nonexistent/file")
    if what == "full":
        raise OSError(28, "No space left on device", "out.parquet")
    if hasattr(errors, what):
        raise getattr(errors, what)("it broke,\\n  in two lines")
    emit_result({"what": what, "nan": float("nan")}, as_json, lambda: what)
'''


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a small root group with one good command, ``sample``, and one whose module is absent, ``absent``."""
    (tmp_path / "sample_command.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    table = {"sample": ("sample_command", "A sample."), "absent": ("deepen.cli.absent_command", "Not there.")}
    group = LazyGroup(
        name="deepen",
        table=table,
        params=cli.params,
        callback=cli.callback,
        context_settings=cli.context_settings,
    )

    def invoke(*args: str) -> Result:
        result = CliRunner().invoke(group, args)
        sys.modules.pop("sample_command", None)
        return result

    return invoke


def program(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "deepen", *args], capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys\nfrom deepen.cli import main\nsys.argv = ['deepen', '-h']\ntry:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert summary.split()[0] in done.stdout
    loaded = set(done.stderr.split())
    assert {n for n in loaded if n.startswith("deepen.cli.")} == {"deepen.cli.output"}
    assert loaded.isdisjoint({"numpy", "onnx", "onnxruntime", "pandas", "sklearn", "lightgbm", "pyarrow"})


def test_a_missing_command_module_does_not_break_help(run) -> None:
    assert run("-h").exit_code == 0
    result = run("absent")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: 'absent' cannot be loaded: ")
    assert "deepen.cli.absent_command" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_version() -> None:
    assert program("--version").stdout.split()[-1] == deepen.__version__


def test_result_goes_to_stdout_as_text_or_as_strict_json(run) -> None:
    assert run("sample", "hello").stdout == "hello\n"
    assert json.loads(run("sample", "hello", "--json").stdout) == {"what": "hello", "nan": None}


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n[0].isupper()])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_our_errors_are_one_line_with_the_exit_code_of_their_class(run, name: str, flags: list[str]) -> None:
    result = run("sample", name, *flags)
    assert result.exit_code == getattr(errors, name).exit_code
    assert result.stderr == "error: it broke, in two lines\n"
    assert result.stdout == ""


def test_exit_codes_separate_what_is_worth_retrying() -> None:
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__ if name[0].isupper()}
    retry = {"EnvironmentFailure", "LinkError", "MeterError", "StorageError"}
    assert {n for n, code in codes.items() if code == 3} == retry
    assert {code for n, code in codes.items() if n not in retry} == {1}


def test_a_full_disk_is_worth_retrying_and_a_missing_file_is_not(run) -> None:
    full, missing = run("sample", "full"), run("sample", "missing-file")
    assert (full.exit_code, full.stderr) == (3, "error: No space left on device: out.parquet\n")
    assert (missing.exit_code, missing.stderr) == (1, "error: No such file or directory: /nonexistent/file\n")


def test_ctrl_c_is_one_line_and_130(run) -> None:
    result = run("sample", "interrupt")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "error: interrupted\n"


@pytest.mark.parametrize("args", [["sample"], ["sample", "x", "--wrong"], ["nothing"], ["--wrong"]])
def test_wrong_usage_is_2(run, args: list[str]) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


def test_an_unknown_command_names_the_nearest(run) -> None:
    assert "'sample'" in run("smaple").stderr


def test_verbose_logs_to_stderr(run) -> None:
    assert "asked for" not in run("sample", "hello").stderr
    result = run("-v", "sample", "hello")
    assert "INFO deepen.sample: asked for hello" in result.stderr
    assert result.stdout == "hello\n"


def test_a_reader_that_goes_away_is_not_an_error_message() -> None:
    code = (
        "import click\nfrom deepen.cli.output import ErrorMapper\ngroup = ErrorMapper('deepen')\n"
        "@group.command()\ndef many():\n    for _ in range(100000): click.echo('x' * 80)\n"
        "group(['many'])"
    )
    read, write = os.pipe()
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, message = writer.communicate()
    assert message == ""


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_listed_command_is_there_and_its_summary_is_a_sentence(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    summary = COMMANDS[name][1]
    assert summary[0].isupper()
    assert summary.endswith(".")


def test_every_module_of_a_command_is_listed() -> None:
    files = list(Path(deepen.__file__).parent.joinpath("cli").glob("[!_]*.py"))
    shared = {found for p in files for found in re.findall(r"^from (deepen\.cli\.\w+) import", p.read_text(), re.M)}
    commands = {module for module, _ in COMMANDS.values()}
    assert commands | shared == {f"deepen.cli.{p.stem}" for p in files}
    assert not commands & shared


def test_emit_turns_arrays_and_sets_into_lists(capsys: pytest.CaptureFixture[str]) -> None:
    class Array:
        def tolist(self) -> list[float]:
            return [1.0, float("inf")]

    emit_result({"array": Array(), "tuple": (1, 2), 3: {4}}, True, str)
    assert json.loads(capsys.readouterr().out) == {"array": [1.0, None], "tuple": [1, 2], "3": [4]}


def test_json_option_is_one_spelling() -> None:
    @click.command()
    @json_option
    def command(as_json: bool) -> None: ...

    assert [p.opts for p in command.params] == [["--json"]]
