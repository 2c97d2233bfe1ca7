"""Every command is documented, the reference is up to date, and what the pages tell people to type exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import click
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


def place(name: str) -> str:
    """File and line of a command: of the function that is called, or of the group's module."""
    callback = COMMANDS[name].callback
    if callback is None:
        return f"deepen {name.removeprefix('deepen').strip()}".strip()
    code = inspect.unwrap(callback).__code__
    return f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_firstlineno}: {name}"


def line_of(page: Path, words: str) -> str:
    """File and line where a page says something."""
    text = page.read_text(encoding="utf-8")
    return f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, max(text.find(words), 0)) + 1}"


def test_every_command_has_help_with_an_example() -> None:
    found = []
    for name, command in COMMANDS.items():
        if not command.help:
            found.append(f"{place(name)}: no help")
            continue
        if "\b\nExample" not in re.sub(r"\n\s+", "\n", command.help) or not typed_lines(command.help):
            found.append(f"{place(name)}: its help has no example of what to type")
        result = CliRunner().invoke(cli, [*name.split()[1:], "-h"])
        if result.exit_code != 0 or "Example" not in result.stdout:
            found.append(f"{place(name)}: -h exits with {result.exit_code} or shows no example")
    assert not found, "\n" + "\n".join(found)


def test_every_option_has_help() -> None:
    found = [
        f"{place(name)}: {'/'.join(option.opts)} has no help"
        for name, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_command_speaks_json() -> None:
    found = [
        f"{place(name)}: no --json"
        for name, command in COMMANDS.items()
        if not isinstance(command, click.Group) and not any("--json" in p.opts for p in command.params)
    ]
    assert not found, "\n" + "\n".join(found)


def test_examples_in_help_name_what_exists() -> None:
    found = [
        f"{place(name)}: no {wrong}"
        for name, command in COMMANDS.items()
        for line in typed_lines(command.help or "")
        for wrong in wrong_words(line)
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_command_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    found = [f"{place(n)}: not in docs/cli.md" for n in COMMANDS if not re.search(rf"^#+ {re.escape(n)}$", text, re.M)]
    assert not found, "\n" + "\n".join(found)


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == gendocs.render(), "run tools/gendocs"


def test_pages_tell_people_to_type_what_exists() -> None:
    found = [
        f"{line_of(page, line.split('  ')[0])}: no {wrong}"
        for page in PAGES
        for block in code_blocks(page.read_text(encoding="utf-8"), "", "console", "sh", "bash")
        for line in typed_lines(block)
        for wrong in wrong_words(line)
    ]
    assert not found, "\n" + "\n".join(found)


def test_python_on_pages_parses_and_imports_what_exists() -> None:
    found = []
    for page in PAGES:
        for block in code_blocks(page.read_text(encoding="utf-8"), "python"):
            try:
                nodes = list(ast.walk(ast.parse(block)))
            except SyntaxError as error:
                found.append(f"{line_of(page, block)}: {error}")
                continue
            for node in nodes:
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepen"):
                    module = importlib.import_module(str(node.module))
                    absent = [a.name for a in node.names if not hasattr(module, a.name)]
                    found += [f"{line_of(page, block)}: {node.module} has no {name}" for name in absent]
    assert not found, "\n" + "\n".join(found)


def test_links_between_pages_lead_somewhere() -> None:
    found = [
        f"{line_of(page, f']({target}')}: no {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not found, "\n" + "\n".join(found)


def test_the_first_commands_of_the_readme_are_the_two_tools() -> None:
    block = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "console")[0]
    words = [line.split("#")[0].strip() for line in block.splitlines()]
    assert words == ["tools/quickstart", "tools/test"]


def test_the_check_of_typed_lines_notices_what_does_not_exist() -> None:
    assert wrong_words("deepen quickstart --minutes-of-fame 3")
    assert wrong_words("deepen quickfinish")
    assert wrong_words("deepen predict model.onnx")
    assert not wrong_words("deepen -v -h")


def names_of(path: Path) -> set[str]:
    """Everything a module defines at its top level, or its package offers."""
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path).read_text(encoding="utf-8"))
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return defined | {alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}


def missing_modules(text: str) -> list[str]:
    """Backticked ``package/module`` and ``package/module.name`` of a text that deepen/ does not have."""
    found = []
    for token in re.findall(r"`([a-z_]+(?:/[a-z0-9_]+)+(?:\.\w+)*)`", text):
        if (ROOT / token).exists():
            continue
        module, _, name = token.partition(".")
        places = [p for p in (ROOT / "deepen" / module, ROOT / "deepen" / f"{module}.py") if p.exists()]
        if not places or (name and name.split(".")[0] not in names_of(places[-1])):
            found.append(token)
    return found


def test_the_walks_through_the_code_name_what_exists_in_at_most_ten_steps() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert missing_modules(text) == []
    walks = re.split(r"^### One ", text, flags=re.M)[1:]
    steps = [re.findall(r"^(\d+)\. \*\*", re.split(r"^## ", walk, flags=re.M)[0], re.M) for walk in walks]
    assert [len(s) for s in steps] == [int(s[-1]) for s in steps]
    assert len(steps) == 4
    assert all(5 <= len(s) <= 10 for s in steps)


def test_the_check_of_modules_notices_what_does_not_exist() -> None:
    assert missing_modules("`graph/load.load_graph` and `measure/blocks`") == []
    assert missing_modules("`graph/loader` and `graph/load.infer_everything`") == [
        "graph/loader",
        "graph/load.infer_everything",
    ]
