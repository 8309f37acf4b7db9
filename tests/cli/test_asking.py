"""How the commands are told to speak TLS: options, environment, and what is wrong with either."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from durable_raft.cli import resp_client
from durable_raft.cli.asking import asks_a_node, client_context, context_of
from durable_raft.cli.main import main
from durable_raft.errors import ConfigError
from durable_raft.server.settings.config import load_config
from tests.support.certificates import Certificates, crt, key


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Certificates]:
    """Certificates; nobody speaks TLS in this process afterwards."""
    yield Certificates(tmp_path / "tls")
    resp_client.use_tls(None)


@click.command()
@asks_a_node("Where")
def probe(at: str) -> None:
    """Tell what would be spoken."""
    context = resp_client._Spoken.tls
    click.echo(f"{at} {'plain' if context is None else len(context.get_ca_certs())}")


def test_options_and_environment_say_the_same(made: Certificates) -> None:
    """Any of the files means TLS; without any of it the next command speaks none again."""
    app, runner = made.client(), CliRunner()
    files = {"cacert": str(made.ca), "cert": str(crt(app)), "key": str(key(app))}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert runner.invoke(probe, ["--at", "a:1", *options]).output == "a:1 1\n"
    assert runner.invoke(probe, ["--at", "a:1"]).output == "a:1 plain\n"
    environment = {f"DURABLE_RAFT_CLIENT_{name.upper()}": path for name, path in files.items()}
    assert runner.invoke(probe, ["--at", "a:1"], env=environment).output == "a:1 1\n"
    assert "plain" not in runner.invoke(probe, ["--at", "a:1"], env={"DURABLE_RAFT_CLIENT_TLS": "1"}).output


@pytest.mark.parametrize(
    ("command"),
    [["status"], ["transfer"], ["member", "list"], ["member", "add"], ["backup", "take"], ["raise-version"]],
)
def test_every_command_that_asks_a_node_can_do_so_with_tls(command: list[str]) -> None:
    """All of them have ``--at``, and what has that has the rest."""
    output = CliRunner().invoke(main, [*command, "--help"]).output
    assert all(f"  {option} " in output for option in ("--at", "--tls", "--cacert", "--cert", "--key"))


def test_files_that_cannot_be_used_are_named(made: Certificates) -> None:
    """Before anybody is asked."""
    app = made.client()
    with pytest.raises(ConfigError, match="key=none: expected both, or neither"):
        client_context("", str(crt(app)), "")
    with pytest.raises(ConfigError, match="cacert=nowhere: expected certificates in PEM"):
        client_context("nowhere", "", "")
    key(app).write_text("no key")
    with pytest.raises(ConfigError, match="expected a certificate and its key"):
        client_context(str(made.ca), str(crt(app)), str(key(app)))


def test_a_node_that_joins_asks_with_its_own_certificate(made: Certificates) -> None:
    """It checks whom it asks, host name included; one without TLS asks without."""
    config = load_config({"dir": "unused", **made.settings(made.node())}, {})
    context = context_of(config)
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context_of(load_config({"dir": "unused"}, {})) is None
