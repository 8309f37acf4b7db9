"""The file of the cluster secret: what must be true of it, and that it is read again when it changes.

It holds one secret a line, at most two; empty lines and those that begin with # say nothing. The first is the one that
this node proves, each is accepted. So a secret is changed while all nodes run: the new one is added as the second on
each, is put first on each, and the old one is taken out.
"""

from __future__ import annotations

import base64
import logging
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from durable_raft.errors import ConfigError
from durable_raft.server.logs import event
from durable_raft.wire.proof import Stance, prepare

SECRET_BYTES: Final = 32
"""Random bytes of a secret that ``new_secret`` makes."""
SECRET_CHARACTERS_MIN: Final = 32
SECRETS_MAX: Final = 2
FILE_BYTES_MAX: Final = 16 << 10
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_logger = logging.getLogger(__name__)


def new_secret(random_bytes: bytes) -> str:
    """Return a secret as a line of a file, made from ``SECRET_BYTES`` random bytes."""
    return base64.b64encode(random_bytes).decode()


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """Return the secrets in the file at ``path``, the one that is proven first.

    Raises:
        ConfigError: it cannot be read, others than its owner may read it, or it holds what is no secret.
    """
    try:
        mode, data = _read(path)
    except OSError as error:
        raise _refusal(path, "a file that this node can read", str(error)) from error
    if not stat.S_ISREG(mode):
        raise _refusal(path, "a file", "something else")
    if mode & OTHERS:
        found = f"{stat.S_IMODE(mode):#06o}: others than its owner may use it; run 'chmod 600 {path}'"
        raise _refusal(path, "mode 0600", found)
    if len(data) > FILE_BYTES_MAX:
        raise _refusal(path, f"at most {FILE_BYTES_MAX} bytes", "more")
    return _secrets_in(path, data)


def _read(path: Path) -> tuple[int, bytes]:
    """Return what is at ``path``, as the system says, and if it is a file its first bytes."""
    # A pipe in its place must not hold the node.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        return mode, os.read(descriptor, FILE_BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    finally:
        os.close(descriptor)


def _secrets_in(path: Path, data: bytes) -> tuple[bytes, ...]:
    """Return the secrets in ``data``; no message says what the lines hold."""
    secrets = []
    for number, line in enumerate(data.splitlines(), 1):
        secret = line.strip()
        if not secret or secret.startswith(b"#"):
            continue
        if len(secret) < SECRET_CHARACTERS_MIN:
            expected = f"a secret of at least {SECRET_CHARACTERS_MIN} characters in line {number}"
            raise _refusal(path, expected, f"{len(secret)}; 'durable-raft secret FILE' makes one")
        secrets.append(secret)
    if not 1 <= len(secrets) <= SECRETS_MAX:
        hint = "" if secrets else "; 'durable-raft secret FILE' makes one"
        raise _refusal(path, f"one secret, or {SECRETS_MAX} while it is being changed", f"{len(secrets)}{hint}")
    return tuple(secrets)


def _refusal(path: Path, expected: str, found: str) -> ConfigError:
    return ConfigError(f"cluster_secret_file={path}: expected {expected}, got {found}")


class SecretState(NamedTuple):
    """What an operator is told of the secrets of a node."""

    accepted: int = 0
    """How many are accepted at present."""
    problem: str = ""
    """Why the file says nothing at present; then what it said before counts. Empty: nothing is wrong with it."""


class ClusterSecrets:
    """The secrets of one node at present."""

    def __init__(self, path: Path | None = None, *, is_optional: bool = False) -> None:
        """Read the file at ``path``; None: the node has no secret.

        Args:
            path: of the file.
            is_optional: whether peers are heard that prove nothing.

        Raises:
            ConfigError: as ``read_secrets``.
        """
        self._path = path
        self._seen = self._look()
        self.accepted: tuple[bytes, ...] = () if path is None else read_secrets(path)
        self.stance = Stance.NONE if path is None else Stance.MAY if is_optional else Stance.MUST
        """What this node does about proofs."""
        self._problem = ""
        if path is not None:
            prepare()

    @property
    def state(self) -> SecretState:
        """What an operator is told of them."""
        return SecretState(len(self.accepted), self._problem)

    @property
    def proven(self) -> bytes:
        """The secret that this node proves; there is one unless its stance is NONE."""
        return self.accepted[0]

    def accepts(self, secret: bytes | None) -> bool:
        """Return whether a link may go on whose ends have proven ``secret``; None: they have proven none."""
        return secret is None or secret in self.accepted

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether the secrets are others now.

        A file that cannot be used changes nothing but ``state``, and the log is told.
        """
        if self._path is None or ((seen := self._look()) == self._seen and not self._problem):
            return False
        self._seen, before = seen, self.accepted
        try:
            self.accepted = read_secrets(self._path)
        except ConfigError as error:
            if str(error) != self._problem:
                event(_logger, logging.ERROR, "cluster_secret_unread", reason=error)
            self._problem = str(error)
            return False
        self._problem = ""
        event(_logger, logging.INFO, "cluster_secret_read", secrets=len(self.accepted))
        return self.accepted != before

    def _look(self) -> tuple[int, ...]:
        """Return what tells one state of the file from another, without reading it."""
        if self._path is None:
            return ()
        try:
            found = self._path.stat()
        except OSError as error:
            return (error.errno or 0,)
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
