"""README.md: what it says about the commands is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import click
import pytest

from benchmarks import tables
from durable_raft.cli.main import main
from tests import readme

PLACEHOLDER: Final = re.compile(r"[A-Z_]{2,}|…|\.\.\.|<.*>|\[.*")
"""Words in the README that stand for a value; a call with one of them is checked up to there."""


def programs() -> dict[str, click.Group]:
    """Return the command groups that the README may call."""
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
    blocks = readme.quick_start()
    assert len(blocks) == 2
    assert "durable-raft demo" in blocks[0]
    assert "pytest" in blocks[1]
    assert all("pip install" in block for block in blocks)


def test_every_command_is_mentioned() -> None:
    """A command that the README does not know is not there for anybody."""
    text = readme.text()
    for program, group in programs().items():
        for name in group.list_commands(click.Context(group)):
            assert f"{program} {name}" in text, f"{program} {name} is not in README.md"


def test_every_call_in_the_readme_is_understood() -> None:
    """Commands, options and values in every call that the README shows are what the programs take."""
    calls = [(program, call) for program in programs() for call in readme.invocations(program, readme.text())]
    assert calls
    wrong = [(call, said) for program, call in calls if (said := complaint_about(programs()[program], call))]
    assert wrong == []


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
    assert readme.invocations("durable-raft", markdown) == calls


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
