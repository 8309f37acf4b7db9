"""The process: opens the directory, runs the loop until a signal or a fatal error, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from durable_raft import __version__
from durable_raft.checksum import implementation
from durable_raft.errors import ConfigError, DirectoryRefused, StoragePoisoned
from durable_raft.raft.types import Identity, Membership
from durable_raft.server.clients import Clients
from durable_raft.server.config import NodeConfig, derive_cluster_id
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.exit_codes import ExitCode, exit_code_of
from durable_raft.server.logs import event
from durable_raft.server.node import Node
from durable_raft.server.recovery import NodeData, open_state
from durable_raft.server.report import Reporter
from durable_raft.storage.lmdb_store import LmdbLogStore

_logger = logging.getLogger(__name__)

_OUT_OF_SYSTEM_RESOURCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accepting a connection: that client is turned away, the node goes on."""

_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
"""Errors that say that the directory is not one to be used; any other is the disk's."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread that computes keeps the interpreter from one that waits for it. The log writer and the worker let
go of it in every call to LMDB, and would wait Python's usual 5 ms for a busy event loop each time they come back."""

DRAIN_S = 2.0
"""How long a clean stop waits for the fate of what was proposed."""


def run(config: NodeConfig, environment: Mapping[str, str] = os.environ) -> int:
    """Run a node until SIGTERM or SIGINT (returns 0), or until it must stop for good (returns why, as an exit code).

    Raises:
        ConfigError: the configuration does not fit the directory, or an address cannot be listened on.
        StorageError: the directory is refused or damaged.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    crash_points = CrashPoints.from_environment(environment)
    with _named(config.directory):
        store = open_store(config)
    process: _Process | None = None
    try:
        with _named(config.directory):
            data = open_state(config.directory, store, map_bytes=config.map_bytes)
        process = _Process(config, data, crash_points)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(process.main())
    finally:
        if process is None or process.is_store_free:
            store.close()


@contextlib.contextmanager
def _named(directory: Path) -> Iterator[None]:
    """Say which directory it is that the system gives an error for.

    Raises:
        DirectoryRefused: this user may not use it so.
        StoragePoisoned: the disk failed.
    """
    try:
        yield
    except OSError as error:
        kind = DirectoryRefused if error.errno in _NOT_ALLOWED else StoragePoisoned
        raise kind(f"{directory} cannot be opened: {error}") from error


def open_store(config: NodeConfig) -> LmdbLogStore:
    """Open the node's directory, creating it at the first start, and check whose it is.

    Raises:
        DirectoryRefused: it belongs to another cluster or node, or is in use.
        StorageError: it is damaged or of a newer format.
    """
    directory = config.directory
    if not LmdbLogStore.exists(directory):
        cluster_id = derive_cluster_id(config, secrets.token_bytes)
        identity = Identity(cluster_id, config.node_id, secrets.token_bytes(16))
        LmdbLogStore.create(directory, identity, config.membership, map_bytes=config.map_bytes)
        event(_logger, logging.INFO, "directory_created", directory=directory, cluster=cluster_id.hex())
    store = LmdbLogStore.open(directory, map_bytes=config.map_bytes, allow_network_file_system=config.allow_network_fs)
    try:
        store.expect(config.cluster_id, config.node_id)
        _expect_membership(config, store.membership)
    except BaseException:
        store.close()
        raise
    return store


def _expect_membership(config: NodeConfig, stored: Membership) -> None:
    """Check the configured nodes against those the directory was made for (PySyncObj #133: never let them differ)."""
    configured = config.membership
    if configured.ids() != stored.ids():
        raise DirectoryRefused(
            f"{config.directory} belongs to a cluster of {', '.join(stored.ids())}, "
            f"but --cluster names {', '.join(configured.ids())}"
        )
    if configured != stored and not config.accept_new_addresses:
        moved = [f"{old.node_id} {old.client_address}@{old.peer_address}" for old in stored.voters]
        raise DirectoryRefused(
            f"{config.directory} belongs to a cluster at {', '.join(moved)}, but --cluster names other addresses:"
            " another cluster's directory? If the nodes have moved, say so with --accept-new-addresses"
        )


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class _Process:
    """One run of the loop."""

    def __init__(self, config: NodeConfig, data: NodeData, crash_points: CrashPoints) -> None:
        self._config = config
        self._data = data
        self._crash_points = crash_points
        self._ended: asyncio.Event = asyncio.Event()
        self.is_store_free = True
        """Whether no thread uses the store any more."""
        self._fatal: BaseException | None = None
        self._fail: Callable[[BaseException], None] = self._note_fatal
        self._clients: Clients | None = None

    async def main(self) -> int:
        """Start everything, wait for the end, stop everything; return the exit code."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._note_exception)
        seed = secrets.randbits(64)
        node = Node(self._config, self._data, seed, self._crash_points, self._note_fatal)
        self._fail = node.fail
        reporter = Reporter(self._config, self._data.log_store, node)
        clients = Clients(self._config, node.dispatcher, reporter.status)
        reporter.clients = self._clients = clients
        node.reply = clients.flush
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        try:
            await self._listen(node, clients)
            event(
                _logger,
                logging.INFO,
                "started",
                version=__version__,
                pid=os.getpid(),
                checksum=implementation(),
                seed=seed,
                last_log_index=node.raft.log.last.index,
            )
            if implementation() == "crcmod-pure":
                event(_logger, logging.WARNING, "slow_checksum", reason="crcmod runs without its C extension, 10 MB/s")
            await self._ended.wait()
            return await self._stop(node, clients)
        finally:
            clients.abort()
            self.is_store_free = node.stop()

    async def _listen(self, node: Node, clients: Clients) -> None:
        try:
            await node.start()
            await clients.start(self._config.client_host, self._config.client_port)
        except OSError as error:
            raise ConfigError(f"cannot listen: {error}") from error

    async def _stop(self, node: Node, clients: Clients) -> int:
        clients.stop_listening()
        if self._fatal is not None:
            clients.abort()
            event(_logger, logging.CRITICAL, "stopping", error=f"{type(self._fatal).__name__}: {self._fatal}")
            _logger.critical("fatal error", exc_info=self._fatal)
            return exit_code_of(self._fatal)
        event(_logger, logging.INFO, "stopping", reason="signal")
        await node.drain(DRAIN_S)
        clients.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while clients.connections:
                    await asyncio.sleep(0.005)
        return ExitCode.OK if self._fatal is None else exit_code_of(self._fatal)

    def _note_fatal(self, error: BaseException) -> None:
        self._fatal = self._fatal or error
        self._ended.set()
        if self._clients is not None:
            self._clients.stop_listening()
            self._clients.abort()

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Treat an exception that no caller took as what it is: a bug, after which no state can be trusted."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _OUT_OF_SYSTEM_RESOURCE:
            event(_logger, logging.WARNING, "out_of_system_resource", error=error)
        elif isinstance(error, BaseException):
            self._fail(error)
        else:
            loop.default_exception_handler(context)
