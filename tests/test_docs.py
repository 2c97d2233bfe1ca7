"""Every command is documented, the reference is up to date, and what the pages tell people to type exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from deepen.cli import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def load_gendocs() -> ModuleType:
    loader = SourceFileLoader("gendocs", str(ROOT / "tools" / "gendocs"))
    spec = importlib.util.spec_from_loader("gendocs", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


gendocs = load_gendocs()
COMMANDS: dict[str, click.Command] = {" ".join(path): command for path, command in gendocs.walk(cli, ("deepen",))}


def typed_lines(text: str) -> list[str]:
    """Lines that start with ``deepen`` or ``$ deepen``, joined over backslashes."""
    joined = text.replace("\\\n", " ")
    return [m.group(1) for m in re.finditer(r"^\s*(?:\$ )?(deepen(?: .*)?)$", joined, re.MULTILINE)]


def code_blocks(text: str, *languages: str) -> list[str]:
    return [m.group(2) for m in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if m.group(1) in languages]


def wrong_words(line: str) -> list[str]:
    """What a typed command line names that does not exist."""
    words = shlex.split(line.split(" | ")[0].split(" > ")[0], comments=True)
    command: click.Command = cli
    options = {o for p in cli.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    for word in words[1:]:
        if word.startswith("-") and not re.fullmatch(r"-[\d.].*", word):
            if word.split("=")[0] not in options:
                return [f"{word} in: {line}"]
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return [f"{word} in: {line}"]
            command = found
            options |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    given = {word.split("=")[0] for word in words}
    required = [p for p in command.params if isinstance(p, click.Option) and p.required]
    if "-h" not in given and (missing := [p.opts for p in required if given.isdisjoint(p.opts)]):
        return [f"without {missing}: {line}"]
    return []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.help, "a command says what it does"
    assert "\b\nExample" in re.sub(r"\n\s+", "\n", command.help)
    assert typed_lines(command.help), "the example shows what to type"
    result = CliRunner().invoke(cli, [*name.split()[1:], "-h"])
    assert result.exit_code == 0
    assert "Example" in result.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_has_help(name: str) -> None:
    options = [p for p in COMMANDS[name].params if isinstance(p, click.Option)]
    assert [o.opts for o in options if not o.help] == []


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if not isinstance(c, click.Group)])
def test_every_command_speaks_json(name: str) -> None:
    assert any("--json" in p.opts for p in COMMANDS[name].params)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_examples_in_help_name_what_exists(name: str) -> None:
    assert [w for line in typed_lines(COMMANDS[name].help or "") for w in wrong_words(line)] == []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_in_the_reference(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.search(rf"^#+ {re.escape(name)}$", text, re.MULTILINE)


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == gendocs.render(), "run tools/gendocs"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_tell_people_to_type_what_exists(page: Path) -> None:
    blocks = code_blocks(page.read_text(encoding="utf-8"), "", "console", "sh", "bash")
    assert [w for block in blocks for line in typed_lines(block) for w in wrong_words(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_on_pages_parses_and_imports_what_exists(page: Path) -> None:
    for block in code_blocks(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepen"):
                module = importlib.import_module(str(node.module))
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_first_commands_of_the_readme_are_the_two_tools() -> None:
    block = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "console")[0]
    words = [line.split("#")[0].strip() for line in block.splitlines()]
    assert words == ["tools/quickstart", "tools/test"]


def test_the_check_of_typed_lines_notices_what_does_not_exist() -> None:
    assert wrong_words("deepen quickstart --minutes-of-fame 3")
    assert wrong_words("deepen quickfinish")
    assert wrong_words("deepen predict model.onnx")
    assert not wrong_words("deepen -v -h")
