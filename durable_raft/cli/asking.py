"""The options of every command that asks a node as a client does: where it is, and how TLS is spoken with it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable

import click

from durable_raft.cli.resp_client import use_tls
from durable_raft.errors import ConfigError
from durable_raft.server.settings.sources import ENVIRONMENT_PREFIX
from durable_raft.server.settings.tls import OFF, TlsSettings

Command = Callable[..., None]

_PREFIX = f"{ENVIRONMENT_PREFIX}CLIENT_"
"""Settings of a node begin with less, so that a node's environment says nothing to a command."""


def asks_a_node(text: str) -> Callable[[Command], Command]:
    """Return what gives a command the option ``--at``, with ``text`` as its help, and those of TLS."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def asking(*args: object, tls: bool, cacert: str, cert: str, key: str, **options: object) -> None:
            use_tls(client_context(cacert, cert, key) if tls or cacert or cert or key else None)
            function(*args, **options)

        command: Command = asking
        for option in (
            _file("--key", "Its private key, without a passphrase"),
            _file("--cert", "This client's certificate in PEM"),
            _file("--cacert", "The CA that signs the nodes' certificates, in PEM; else those that the system trusts"),
            click.option("--tls", is_flag=True, envvar=f"{_PREFIX}TLS", help="Speak TLS; so do the next three"),
            click.option("--at", required=True, metavar="HOST:PORT", help=text),
        ):
            command = option(command)
        return command

    return decorate


def _file(flag: str, text: str) -> Callable[[Command], Command]:
    name = flag.removeprefix("--")
    return click.option(flag, name, default="", metavar="FILE", envvar=_PREFIX + name.upper(), help=text)


def client_context(cacert: str, cert: str, key: str) -> ssl.SSLContext:
    """Return what a client connects with; an empty path stands for none.

    Raises:
        ConfigError: a file is missing, or cannot be used.
    """
    if bool(cert) != bool(key):
        raise ConfigError(f"cert={cert or 'none'}, key={key or 'none'}: expected both, or neither")
    try:
        context = ssl.create_default_context(cafile=cacert or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cacert={cacert}: expected certificates in PEM, got {error}") from error
    if cert:
        try:
            context.load_cert_chain(cert, key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cert={cert}, key={key}: expected a certificate and its key, got {error}") from error
    return context


def context_of(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return what a node asks another one with, as a client; None where it speaks no TLS.

    Raises:
        ConfigError: as ``client_context``.
    """
    if settings.tls_clients == OFF:
        return None
    return client_context(settings.tls_ca_cert_file, settings.tls_cert_file, settings.tls_key_file)
