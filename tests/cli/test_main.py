"""cli/main.py: commands are found, errors become one line and an exit code, and no more is imported than is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner

from durable_raft import __version__
from durable_raft.cli.main import main
from durable_raft.errors import (
    ConfigError,
    CorruptRecord,
    DirectoryRefused,
    DurableRaftError,
    InvariantViolation,
    NodeUnreachable,
    StoragePoisoned,
    UnknownFormatVersion,
)
from tests.support.waiting import WAIT_S

ROOT: Final = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m durable_raft`` from the checkout."""
    command = [sys.executable, "-m", "durable_raft", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_version_is_printed_at_once() -> None:
    """``--version`` says which version, and loads nothing for it but click and the commands' names."""
    done = run("--version")
    assert done.stdout == f"durable-raft, version {__version__}\n"
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from durable_raft.cli.main import main\n"
        "main(['--version'], standalone_mode=False)\n"
        "names = {name for name in set(sys.modules) - before}\n"
        "print(*sorted(n for n in names if n.partition('.')[0] not in sys.stdlib_module_names), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    loaded = done.stderr.split()
    assert [name for name in loaded if name.partition(".")[0] not in ("click", "durable_raft")] == []
    ours = {name for name in loaded if name.startswith("durable_raft")}
    assert ours == {"durable_raft", "durable_raft.cli", "durable_raft.cli.main", "durable_raft.errors"}


@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--help"]])
def test_no_server_is_imported_for_a_word(arguments: list[str]) -> None:
    """Neither the version nor the help of a command loads the event loop, LMDB or the parsers."""
    script = (
        "import sys\n"
        "from durable_raft.cli.main import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "heavy = ['asyncio', 'lmdb', 'uvloop', 'hiredis', 'msgpack', 'durable_raft.server.process']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    assert done.stderr.strip() == "[]"


def test_help_lists_every_command_and_the_exit_codes() -> None:
    """``--help`` shows serve, dev, demo and status, each with what it does, and what exit codes mean."""
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in ("serve", "dev", "demo", "status"):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.short_help
        assert f"  {name}" in result.output
        assert command.short_help in result.output
    for code in ("  0 ", "  1 ", "  2 ", "  3 ", "  4 ", "  5 ", "  6 ", "  70 ", "  130 "):
        assert code in result.output


def test_unknown_command_is_a_usage_error() -> None:
    """A command nobody knows ends with exit code 2."""
    result = CliRunner().invoke(main, ["frobnicate"])
    assert result.exit_code == 2
    assert "No such command 'frobnicate'" in result.output


def test_commands_of_other_packages_are_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that an installed package offers under durable_raft.commands is listed and runs like our own."""
    (tmp_path / "plug_in_for_test.py").write_text(
        "import click\n\n@click.group()\ndef group():\n    'Says hello.'\n\n"
        "@group.command()\ndef hello():\n    click.echo('hello from the plug-in')\n"
    )
    metadata = tmp_path / "plug_in_for_test-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in-for-test\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[durable_raft.commands]\ngreeter = plug_in_for_test:group\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert re.search(r"greeter +Says hello\.", CliRunner().invoke(main, ["--help"]).output)
    assert CliRunner().invoke(main, ["greeter", "hello"]).output == "hello from the plug-in\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x=1: expected 2"), 2),
        (CorruptRecord("index 5"), 3),
        (NodeUnreachable("a:1"), 4),
        (DirectoryRefused("in use"), 5),
        (UnknownFormatVersion("format 9"), 5),
        (StoragePoisoned("EIO"), 6),
        (InvariantViolation("two leaders"), 70),
        (DurableRaftError("other"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error raised on purpose is told in one line on stderr, without a traceback, and each kind has its code."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr("durable_raft.cli.status.status", failing)
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("durable-raft: ")
    assert str(error) in result.stderr


def test_our_own_bugs_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody raised on purpose keeps its traceback."""

    @click.command()
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("durable_raft.cli.status.status", failing)
    assert isinstance(CliRunner().invoke(main, ["status"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "dir is not set"),
        (["serve", "--dir", "d", "--id", "n4", "--cluster", "n1=a:1,n2=b:1"], "id=n4: expected one of"),
        (["serve", "--dir", "d", "--heartbeat-ms", "200"], "heartbeat_ms=200: expected at most half"),
        (["serve", "--dir", "d", "--heartbeat-ms", "x"], "(from flag --heartbeat-ms)"),
        (["serve", "--dir", "d", "--cluster", "n1=a:1,n2=a:1"], "cluster=a:1: expected every address once"),
        (["serve", "--config", "/nowhere.toml"], "config=/nowhere.toml"),
        (["serve", "--no-such-flag"], "No such option"),
        (["dev", "--port", "60000"], "port=60000"),
        (["status", "--at", "nonsense"], "at=nonsense: expected HOST:PORT"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(arguments: list[str], said: str) -> None:
    """A configuration that cannot work is refused by the real program with exit code 2 and the reason."""
    done = run(*arguments)
    assert done.returncode == 2, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
