"""``durable-raft secret``: makes the secret that the nodes of a cluster prove to each other, and the next one."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from durable_raft.cli.private import write_private
from durable_raft.errors import ConfigError
from durable_raft.server.cluster_secret import SECRET_BYTES, SECRETS_MAX, new_secret, read_secrets
from durable_raft.storage.directory import sync_path


@click.command(short_help="Make the secret that the nodes of a cluster prove to each other.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--add", is_flag=True, help="Add a second secret to a FILE that has one, to change it while nodes run")
def secret(file: Path, *, add: bool) -> None:
    """Write a new secret to FILE, with mode 0600; a FILE that is there is never overwritten.

    Give each node a copy and start it with --cluster-secret-file. To change the secret while all nodes run: --add a
    second one and copy the file to all; put the second line first and copy it to all; take the other line out and copy
    it to all. Nodes read the file again within a second or two, and say so in the log.
    """
    if add:
        add_secret(file)
        click.echo(f"{file} has a second secret, which is accepted and not proven yet: copy it to every node")
    else:
        make_secret(file)
        click.echo(f"{file} holds a new secret: copy it to every node, and start each with --cluster-secret-file")


def make_secret(file: Path) -> None:
    """Write a new secret to a new ``file``.

    Raises:
        ConfigError: there is such a file, or it cannot be written.
    """
    try:
        write_private(file, f"{new_secret(secrets.token_bytes(SECRET_BYTES))}\n".encode())
    except FileExistsError:
        raise ConfigError(f"{file} exists: expected a path where nothing is; --add adds a second secret") from None


def add_secret(file: Path) -> None:
    """Add a second secret to ``file``, which is there wholly at any moment, in one form or the other.

    Raises:
        ConfigError: it does not hold one secret, or cannot be written.
    """
    if len(read_secrets(file)) == SECRETS_MAX:
        raise ConfigError(f"{file} holds {SECRETS_MAX} secrets: expected one; take out the one that is not used")
    lines = file.read_bytes()
    lines += b"" if lines.endswith(b"\n") else b"\n"
    adding = file.with_name(f"{file.name}.adding")
    adding.unlink(missing_ok=True)
    write_private(adding, lines + f"{new_secret(secrets.token_bytes(SECRET_BYTES))}\n".encode())
    adding.replace(file)
    sync_path(file.parent)
