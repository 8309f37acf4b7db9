"""``durable-raft certs``: a small CA and certificates, to try TLS with or to test with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from durable_raft.addresses import parse_address, parse_name, refuse
from durable_raft.cli.certificates import Authority, make_directory
from durable_raft.errors import ConfigError

LOCAL_HOSTS: Final = ("127.0.0.1", "::1", "localhost")
DAYS_MAX: Final = 3650
COMMON_NAME_LENGTH_MAX: Final = 64
"""Of a certificate's subject (RFC 5280, ub-common-name)."""


def _parse_node(text: str) -> tuple[str, tuple[str, ...]]:
    """Return (id, hosts) of ``ID[=HOST,...]``."""
    node_id, equals, hosts = text.partition("=")
    parse_name("node", node_id)
    names = tuple(host.strip() for host in hosts.split(",")) if equals else LOCAL_HOSTS
    return node_id, tuple(_parse_host(name) for name in names)


def _parse_host(name: str) -> str:
    """Return a host as it stands in a certificate: of an IPv6 address without brackets."""
    bracketed = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return parse_address("node", f"{bracketed}:1").host


def _parse_client(text: str) -> str:
    if not text.isprintable() or not 0 < len(text) <= COMMON_NAME_LENGTH_MAX or "/" in text or text in (".", ".."):
        refuse("client", repr(text), f"a name of 1 to {COMMON_NAME_LENGTH_MAX} printable characters without /")
    return text


@click.command(short_help="Make a CA and certificates for a test cluster.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--node", "nodes", multiple=True, metavar="ID[=HOST,...]", help="A node, and how it is reached")
@click.option("--client", "clients", multiple=True, metavar="NAME", help="A client")
@click.option("--cluster-name", default="default", show_default=True, metavar="NAME", help="As for serve")
@click.option(
    "--days", default=365, show_default=True, type=click.IntRange(1, DAYS_MAX), help="How long certificates are valid"
)
def certs(directory: Path, nodes: Sequence[str], clients: Sequence[str], cluster_name: str, days: int) -> None:
    """Make a CA in DIR, and sign certificates for nodes and clients with it.

    \b
    DIR/ca.crt, ca.key              made when there is no CA in DIR; used again when there is
    DIR/node-ID.crt, .key           for tls_cert_file and tls_key_file of a node
    DIR/client-NAME.crt, .key       for a client

    It is for trying out and for tests. The CA's key is in DIR without a passphrase, and nothing is ever revoked:
    whoever reads DIR can be any node and any client. Where that matters, use the CA that your organisation has.

    \b
    durable-raft certs tls --node n1=10.0.0.1,db1.example.org --node n2=10.0.0.2 --client app

    Nothing is overwritten. HOSTs are 127.0.0.1, ::1 and localhost when none are named.
    """
    parse_name("cluster_name", cluster_name)
    wanted = dict(map(_parse_node, nodes))
    names = list(dict.fromkeys(map(_parse_client, clients)))
    if len(wanted) != len(nodes):
        refuse("node", ",".join(nodes), "each id once")
    make_directory(directory)
    stems = [directory / f"node-{node_id}" for node_id in wanted] + [directory / f"client-{name}" for name in names]
    for path in (stem.with_name(stem.name + end) for stem in stems for end in (".crt", ".key")):
        if path.exists():
            raise ConfigError(f"{path}: expected no file; nothing is overwritten")
    written: list[Path] = []
    if (directory / "ca.crt").exists() or (directory / "ca.key").exists():
        authority = Authority.load(directory / "ca", days)
    else:
        authority = Authority.make(cluster_name, days)
        written += authority.signed.write(directory / "ca")
    for node_id, hosts in wanted.items():
        written += authority.sign_node(cluster_name, node_id, hosts).write(directory / f"node-{node_id}")
    for name in names:
        written += authority.sign_client(name).write(directory / f"client-{name}")
    for path in written:
        click.echo(path)
    if wanted:
        stem = directory / f"node-{next(iter(wanted))}"
        click.echo(
            "a node uses them with: durable-raft serve ... --tls-clients required"
            f" --tls-cert-file {stem}.crt --tls-key-file {stem}.key --tls-ca-cert-file {directory / 'ca.crt'}",
            err=True,
        )
    click.echo(f"for tests only: {directory / 'ca.key'} has no passphrase", err=True)
