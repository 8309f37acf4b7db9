"""The documents: what they say about commands, events, settings and figures is true."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from benchmarks import tables
from docs import make
from durable_raft.cli.main import main
from durable_raft.server.exit_codes import ExitCode
from durable_raft.server.logs import CORE_EVENT_LEVELS
from tests import documents

PLACEHOLDER: Final = re.compile(r"[A-Z_]{2,}|…|\.\.\.|<.*>|\[.*")
"""Words that stand for a value; of a call with one of them only the names are checked."""


def programs() -> dict[str, click.Group]:
    """Return the command groups that a document may call."""
    raftlog = pytest.importorskip("raftlog.main", reason="the tools are not importable here").main
    assert isinstance(raftlog, click.Group)
    return {"durable-raft": main, "raftlog": raftlog}


def complaint_about(group: click.Group, arguments: list[str]) -> str | None:
    """Return what is wrong with a call, or None: every command and option must exist and take the values given."""
    known = [word for word in arguments if not PLACEHOLDER.fullmatch(word)]
    if known != arguments:
        # With a value left out only the names can be checked.
        return _unknown_names(group, known)
    command: click.Command = group
    context = click.Context(group, info_name="program")
    try:
        while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
            name, found, arguments = command.resolve_command(context, arguments)
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        command.make_context("program", list(arguments))
    except click.exceptions.Exit:
        return None  # --help or --version
    except click.ClickException as error:
        return error.format_message()
    return None


def _unknown_names(group: click.Group, words: list[str]) -> str | None:
    command: click.Command = group
    for word in words:
        if word.startswith("-"):
            # ``backup --at`` is ``backup take --at``.
            command = getattr(command, "commands", {}).get("take", command)
            options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            if word.partition("=")[0] not in options | {"--help", "-h"}:
                return f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"{command.name} has no command {word}"
            command = found
    return None


def test_quick_start_has_the_two_commands() -> None:
    """Under "Quick start" the first block runs the demo and the second the tests, each set up from nothing."""
    blocks = documents.quick_start()
    assert len(blocks) == 2
    assert "durable-raft demo" in blocks[0]
    assert "pytest" in blocks[1]
    assert all("pip install" in block for block in blocks)


def test_every_command_is_mentioned() -> None:
    """A command that no document for users knows is not there for anybody."""
    text = "".join(documents.text(path) for path in documents.documents() if path.parent.name != "tests")
    for program, group in programs().items():
        for name in group.list_commands(click.Context(group)):
            assert f"{program} {name}" in text, f"{program} {name} is in no document"


@pytest.mark.parametrize("path", documents.documents(), ids=documents.name_of)
def test_every_call_is_understood(path: Path) -> None:
    """Commands, options and values in every call that a document shows are what the programs take."""
    text = documents.text(path)
    blocks, inline = documents.shell_blocks(text), documents.inline_code(text)
    calls = [(program, call) for program in programs() for call in documents.invocations(program, blocks)]
    # In a sentence a command is named without what it needs: only its words are checked.
    mentions = [(program, call) for program in programs() for call in documents.invocations(program, inline)]
    calls += [(program, [*call, "ANYTHING"]) for program, call in mentions]
    wrong = [(call, said) for program, call in calls if (said := complaint_about(programs()[program], call))]
    assert wrong == []


def test_calls_are_there_to_be_checked() -> None:
    """The pages for newcomers, operators and those who look into logs show calls."""
    for name in ("README.md", "docs/operating.md", "docs/log-tools.md"):
        text = documents.text(documents.ROOT / name)
        assert any(documents.invocations(program, documents.shell_blocks(text)) for program in programs()), name


@pytest.mark.parametrize(
    ("markdown", "calls"),
    [
        ("```sh\ndurable-raft demo\n```", [["demo"]]),
        (
            "```sh\na && .venv/bin/durable-raft serve --id n1 \\\n  --dir d & # x\n```",
            [["serve", "--id", "n1", "--dir", "d"]],
        ),
        ("say `durable-raft status --at a:1`.", [["status", "--at", "a:1"]]),
        ("```toml\ndurable-raft demo\n```\n", []),
        ("the durable-raft package, `durable-raft-x y`, `my-durable-raft z`", []),
        ("```sh\nsh -c 'durable-raft demo'\n```", [["demo"]]),
    ],
)
def test_calls_are_found(markdown: str, calls: list[list[str]]) -> None:
    """Calls are found in shell blocks and inline code, over continued lines, and nowhere else."""
    code = documents.shell_blocks(markdown) + documents.inline_code(markdown)
    assert documents.invocations("durable-raft", code) == calls


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("serve --dir d --id n1", None),
        ("serve --id n1 --dir DIR --listen HOST:PORT", None),
        ("status --at HOST:PORT --json", None),
        ("dev --nodes 3", None),
        ("--version", None),
        ("serve --help", None),
        ("frobnicate", "No such command 'frobnicate'."),
        ("serve --dri d", "No such option '--dri'. Did you mean '--dir'?"),
        ("serve --dri DIR", "serve has no option --dri"),
        ("dev --nodes x", "Invalid value for '--nodes': 'x' is not a valid integer range."),
        ("status", "Missing option '--at'."),
    ],
)
def test_wrong_calls_are_complained_about(call: str, said: str | None) -> None:
    """A call with a command, option or value that does not exist is found; a right one is not."""
    complaint = complaint_about(main, call.split())
    assert (complaint is None) == (said is None), complaint
    if said is not None:
        assert complaint is not None
        assert complaint.split(".")[0].split("'")[0] == said.split(".")[0].split("'")[0]


@pytest.mark.parametrize("path", tables.DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_committed_run(path: Path) -> None:
    """``python -m benchmarks.tables`` would change nothing."""
    text = path.read_text()
    assert tables.filled(text, json.loads(tables.RESULTS.read_text())) == text


def test_every_table_is_shown() -> None:
    """What is made from the figures stands in one of the documents, once."""
    named = [name for path in tables.DOCUMENTS for name in re.findall(r"<!-- table: (\w+) -->", path.read_text())]
    assert sorted(named) == sorted(tables.TABLES)


# -- docs/ ------------------------------------------------------------------------------------------------------------


def test_settings_and_picture_are_made() -> None:
    """``python -m docs.make`` would change nothing: every setting is in the table, with its default."""
    page = documents.text(make.SETTINGS_PAGE)
    assert make.with_settings(page) == page
    assert "| `heartbeat_ms` | MS | 50 |" in page
    assert make.picture() == documents.text(make.PICTURE)


def logged_events() -> dict[str, set[str]]:
    """Return the events that the code can log, with their levels, found by reading the calls."""
    found: dict[str, set[str]] = {
        "message": {"any"},
        "log_records_dropped": {"WARNING"},
        "log_reopened": {"INFO"},
    }
    for path in (documents.ROOT / "durable_raft").rglob("*.py"):
        for name, level in _events(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(name, set()).add(level)
    return found


def _events(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="event"), args=[_, ast.Attribute(attr=level), name, *_]):
                yield from ((each, level) for each in _texts(name))
            case ast.Call(func=ast.Attribute(attr="observe"), args=[ast.Constant(value=str(name)), *_]):
                yield name, logging.getLevelName(CORE_EVENT_LEVELS.get(name, logging.INFO))


def _texts(node: ast.expr) -> list[str]:
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def test_every_event_is_explained() -> None:
    """The operator's page has every event that the code can log, with its level, and no other."""
    rows = documents.section(documents.text(documents.ROOT / "docs" / "operating.md"), "Log events").splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row.startswith("| `")]
    explained = {name.strip("`"): set(levels.split(", ")) for name, levels, _, _ in cells}
    assert len(explained) == len(cells)
    assert all(meaning and advice for _, _, meaning, advice in cells)
    assert explained == logged_events()


def test_events_are_found_in_the_code() -> None:
    """Events of every kind are found: of the process, of the core, and one of two."""
    found = logged_events()
    assert found["became_leader"] == {"INFO"}
    assert found["entry_lost"] == {"ERROR"}
    assert found["stopping"] == {"INFO", "CRITICAL"}
    assert {"snapshot_begun", "snapshot_resumed"} <= set(found)


def test_exit_codes_are_explained() -> None:
    """Every exit code of a node is in the operator's table or in the sentence below it."""
    page = documents.section(documents.text(documents.ROOT / "docs" / "operating.md"), "Stop")
    for code in ExitCode:
        if code is not ExitCode.INTERRUPTED:
            assert re.search(rf"^(\| )?{int(code)} ", page, re.MULTILINE), code
