"""What a connection has said about itself, and what it has asked for beyond commands: protocol, name, silence, end.

Written by server/commands/connection.py, read by the connection. Names and flags are Redis's (CLIENT, HELLO, READONLY).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

RESP2 = 2
RESP3 = 3


class ClientCertificate(NamedTuple):
    """Who a client is by the certificate that it has shown, which a CA of the node's has signed."""

    common_name: str
    """Of its subject; empty: it has none."""
    uris: tuple[str, ...]
    """Of its alternative names."""


@dataclass(slots=True, eq=False)
class Session:
    """One client connection's state."""

    id: int
    """Counted up from 1 by the node; never reused while it runs."""
    address: str = ""
    """HOST:PORT of the client."""
    local_address: str = ""
    """HOST:PORT that the client connected to."""
    created_us: int | None = None
    """Wall clock at the connection's start, microseconds since the Unix epoch; None: not noted."""
    protocol: int = RESP2
    name: bytes = b""
    """CLIENT SETNAME; empty: none."""
    library_name: bytes = b""
    library_version: bytes = b""
    last_command: bytes = b""
    """Name of the newest connection-level command, for CLIENT LIST."""
    readonly: bool = False
    """READONLY was given: reads may be answered from this replica's own, possibly stale, state."""
    no_evict: bool = False
    no_touch: bool = False
    tls: str = ""
    """The version of TLS that it speaks; empty: none. Set once, before the first command, as the next one is."""
    certificate: ClientCertificate | None = None
    """What it has shown of itself; None: nothing."""
    closing: bool = False
    """The connection ends once what it is owed has been sent; set by QUIT and by a connection that kills itself."""
    is_silent: bool = False
    """CLIENT REPLY OFF: no reply is sent until CLIENT REPLY ON."""
    silent_commands: int = 0
    """CLIENT REPLY SKIP: this many commands get no reply, the running one included."""

    def begin_command(self) -> None:
        """Note that the next command begins; called once before each one is executed."""
        if self.silent_commands:
            self.silent_commands -= 1

    @property
    def drops_reply(self) -> bool:
        """Whether the running command's reply is not sent; asked after a connection command, before any other."""
        return self.is_silent or self.silent_commands > 0

    def reset(self) -> None:
        """Return to what a new connection is, except for id, addresses, TLS and the library's name (Redis RESET)."""
        self.protocol = RESP2
        self.name = b""
        self.readonly = self.no_evict = self.no_touch = self.is_silent = False
        self.silent_commands = 0
