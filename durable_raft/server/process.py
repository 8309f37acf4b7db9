"""The process: opens the directory, runs the loop until a signal or a fatal error, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durable_raft import __version__
from durable_raft.checksum import implementation
from durable_raft.errors import (
    ConfigError,
    CorruptRecord,
    DirectoryLost,
    DirectoryRefused,
    NodeRemoved,
    StoragePoisoned,
)
from durable_raft.raft.types import LEADER, NodeId
from durable_raft.server.accepting import Acceptor
from durable_raft.server.clients import Clients, Outbox
from durable_raft.server.clock import Clock, clock_from_environment
from durable_raft.server.cluster_secret import ClusterSecrets
from durable_raft.server.crash_points import CrashPoints
from durable_raft.server.dispatch_facts import DispatchCounters
from durable_raft.server.exit_codes import ExitCode, exit_code_of
from durable_raft.server.flight_recorder import FlightRecorder
from durable_raft.server.logs import event
from durable_raft.server.node import Node
from durable_raft.server.platform import SystemPlatform
from durable_raft.server.report import Reporter
from durable_raft.server.settings.config import NodeConfig
from durable_raft.server.settings.tls import OFF
from durable_raft.server.start.opening import open_node, watch_signals
from durable_raft.server.start.recovery import NodeData, set_state_aside
from durable_raft.server.watchdog import Watchdog, watched
from durable_raft.storage.wounds import WoundedState

if TYPE_CHECKING:
    from durable_raft.server.tls import TlsKeeper

_logger = logging.getLogger(__name__)

_OUT_OF_SYSTEM_RESOURCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accepting a connection: that client is turned away, the node goes on."""

_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
"""Errors that say that the directory is not one to be used; any other is the disk's."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread that computes keeps the interpreter from one that waits for it. The log writer and the worker let
go of it in every call to LMDB, and would wait Python's usual 5 ms for a busy event loop each time they come back."""

HANDOVER_S: Final = 5.0
"""How long a leader that stops asks others to lead, however long their election timeouts are."""
FAREWELL_S: Final = 1.0
"""How long it sends its clients to the next leader, if they keep coming."""
QUIET_S: Final = 0.1
"""Nobody comes any more when nobody came for so long."""

DRAIN_S = 2.0
"""How long a clean stop waits for the fate of what was proposed."""


GC_THRESHOLDS: Final = (50_000, 20, 1_000)
"""Python's own are (700, 10, 10): a busy node would look through all its objects many times a second, and hold its loop
for it, though next to none of them is ever part of a cycle."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
HEAP_BYTES: Final = {_M_MMAP_THRESHOLD: 4 << 20, _M_TRIM_THRESHOLD: 64 << 20}
"""From which size on glibc takes memory from the kernel for one object alone, and how much free memory it keeps. By
default it gives every large buffer back at once and has the kernel clear new pages for the next: with values of 1 MB
300 page faults a write on each node. A buffer that grows beyond the first is copied once and moved by the kernel from
then on: at 32 MiB that copy held the loop for 20 ms."""

HEAP_PARTS: Final = {_M_MMAP_THRESHOLD: 1024, _M_TRIM_THRESHOLD: 64}
"""Each is at most one part in so many of ``memory_max``: what is kept there, and the holes between what grows, are
counted nowhere."""

FILES_BESIDE_CLIENTS: Final = 256
"""Open files that are no client's: environments, links, tools that look."""

LIVES_MAX: Final = 5
"""How often a process opens its directory, the first time included, because a running node found damage in it."""


def run(config: NodeConfig, environment: Mapping[str, str] = os.environ) -> int:
    """Run a node until SIGTERM or SIGINT (returns 0), or until it must stop for good (returns why, as an exit code).

    A node that reads damage which cannot be healed in place ends, and its directory is opened again: that finds all of
    it, mends what can be mended, and sets aside what cannot (opening.py). Clients see a connection that closes.

    Raises:
        ConfigError: the configuration does not fit the directory, an address cannot be listened on, or the file of the
            cluster secret cannot be used.
        StorageError: the directory is refused or damaged.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory(config.memory_max)
    _allow_connections(config.clients_max)
    tls = _tls_of(config)
    crash_points, clock = CrashPoints.from_environment(environment), clock_from_environment(environment)
    secret_file = None if config.cluster_secret_file is None else Path(config.cluster_secret_file)
    cluster_secrets = ClusterSecrets(secret_file, is_optional=config.cluster_secret_optional)
    for life in range(1, LIVES_MAX + 1):
        ending, is_alone = _live(config, crash_points, clock, cluster_secrets, tls)
        if not isinstance(ending, CorruptRecord) or life == LIVES_MAX or is_alone:
            return ExitCode.OK if ending is None else exit_code_of(ending)
        event(_logger, logging.ERROR, "reopening", attempt=life, reason=ending)
        if isinstance(ending, WoundedState):
            set_state_aside(config.directory, str(ending))
    raise AssertionError("unreachable")


def _tls_of(config: NodeConfig) -> TlsKeeper | None:
    """Return what keeps the certificates of a node that speaks TLS with clients; None where it does not.

    Raises:
        ConfigError: they cannot be used.
    """
    if config.tls_clients == OFF:
        return None
    # What looks into certificates takes 9 MB, which a node without TLS does not need.
    from durable_raft.server.tls import TlsKeeper

    return TlsKeeper(config)


def keep_freed_memory(memory_max: int = 0) -> None:
    """Have the C library keep buffers that are freed for those that come next, where it is one that can be told.

    All threads share one heap: Python's lock lets them take turns anyway, and what one thread has freed, another can
    use. A heap for each would also take 128 MiB of address space, which ``ulimit -v`` counts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        for parameter, size in HEAP_BYTES.items():
            mallopt(parameter, min(size, memory_max // HEAP_PARTS[parameter]) if memory_max else size)


def _allow_connections(clients_max: int) -> None:
    """Raise the limit of open files as far as that many clients need it and the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients_max + FILES_BESIDE_CLIENTS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        event(_logger, logging.WARNING, "few_files", allowed=allowed, wanted=wanted, reason="see ulimit -n")


def _live(
    config: NodeConfig,
    crash_points: CrashPoints,
    clock: Clock,
    cluster_secrets: ClusterSecrets,
    tls: TlsKeeper | None,
) -> tuple[BaseException | None, bool]:
    """Run one life of the node; return what ended it, None for a signal, and whether it was the only voter."""
    with _named(config.directory):
        watch_signals(config.directory)
        data = open_node(config)
        watch_signals(config.directory)
    process: _Process | None = None
    try:
        process = _Process(config, data, crash_points, clock, cluster_secrets, tls)
        watchdog = Watchdog()
        with asyncio.Runner(loop_factory=lambda: _new_loop(watchdog)) as runner:
            return runner.run(process.main(watchdog)), process.is_alone
    finally:
        if process is None or process.is_store_free:
            data.log_store.close()


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


def _keep_collector_away() -> None:
    """Have the garbage collector look at what is there now never again, and at the rest seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _new_loop(watchdog: Watchdog) -> asyncio.AbstractEventLoop:
    try:
        from uvloop import Loop
    except ImportError:
        return watched(asyncio.SelectorEventLoop)(watchdog)
    return watched(Loop)(watchdog)


class _Process:
    """One run of the loop."""

    def __init__(
        self,
        config: NodeConfig,
        data: NodeData,
        crash_points: CrashPoints,
        clock: Clock,
        cluster_secrets: ClusterSecrets,
        tls: TlsKeeper | None,
    ) -> None:
        self._config = config
        self._cluster_secrets = cluster_secrets
        self._tls = tls
        self._clock = clock
        self._data = data
        self._crash_points = crash_points
        self._ended: asyncio.Event = asyncio.Event()
        self.is_store_free = True
        """Whether no thread uses the store any more."""
        self.is_alone = False
        """Whether this node is the only voter: then nobody can give back what is damaged."""
        self._fatal: BaseException | None = None
        self._fail: Callable[[BaseException], None] = self._note_fatal
        self._clients: Clients | None = None
        self._acceptor: Acceptor | None = None
        """What clients meet first, where TLS is spoken with them."""

    async def main(self, watchdog: Watchdog) -> BaseException | None:
        """Start everything, wait for the end, stop everything; return what ended it, None for a signal."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._note_exception)
        seed, clock = secrets.randbits(64), self._clock
        recorder = FlightRecorder(self._config.directory, clock)
        recorder.note("started", node=self._config.node_id, pid=os.getpid(), last=self._data.stored.last.index)
        platform = SystemPlatform(loop, clock, seed, self._crash_points, recorder, self._cluster_secrets)
        outbox = Outbox()
        node = Node(self._config, self._data, platform, outbox.flush, self._note_fatal)
        self._fail = node.fail
        notices = tuple if self._tls is None else self._tls.alarms
        reporter = Reporter(self._config, self._data.log_store, node, watchdog, notices)
        self._clients = clients = Clients(self._config, node.dispatcher, reporter.status, node, outbox, node.memory)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        try:
            await self._listen(node, clients)
            _keep_collector_away()
            watchdog.begin()
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
            await self._stop(node, clients)
        finally:
            self._stop_accepting()
            clients.abort()
            self.is_alone = node.raft.configuration.is_alone(self._config.node_id)
            self.is_store_free = node.stop()
            cause = node.last_failure
            if self._fatal is not None and cause is not None and cause is not self._fatal:
                # LMDB lets nobody read after a failed write, and a reader may be the first to say so.
                event(_logger, logging.CRITICAL, "log_writer_failed", error=f"{type(cause).__name__}: {cause}")
            recorder.note("stopped", reason=str(self._fatal or node.last_failure or "signal"))
            recorder.close()
        return self._fatal or node.last_failure

    async def _listen(self, node: Node, clients: Clients) -> None:
        try:
            await node.start()
            if self._tls is not None:
                self._tls.start()
                self._acceptor = Acceptor(clients, self._tls, asyncio.get_running_loop())
            await clients.start(self._config.client_host, self._config.client_port, self._acceptor)
        except OSError as error:
            raise ConfigError(f"cannot listen: {error}") from error

    def _stop_accepting(self) -> None:
        if self._tls is not None:
            self._tls.stop()
        if self._acceptor is not None:
            self._acceptor.stop()

    async def _hand_over(self, node: Node) -> None:
        """Let another node lead before this one leaves: clients lose no election timeout by it.

        Who is asked may be stopping, too, or stuck. After an election timeout another is asked.
        """
        asked: set[NodeId] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER_S):
                while self._fatal is None and (target := node.hand_over(asked)) is not None:
                    asked.add(target)
                    while node.raft.is_transferring and self._fatal is None:
                        await asyncio.sleep(0.001)

    async def _stop(self, node: Node, clients: Clients) -> None:
        led = node.raft.role is LEADER
        await self._hand_over(node)
        clients.stop_listening()
        if self._fatal is not None:
            _end_clients(clients, self._fatal)
            event(_logger, logging.CRITICAL, "stopping", error=f"{type(self._fatal).__name__}: {self._fatal}")
            if not isinstance(self._fatal, (DirectoryLost, NodeRemoved)):
                _logger.critical("fatal error", exc_info=self._fatal)
            if isinstance(self._fatal, NodeRemoved):
                await self._wait_gone(clients)
            return
        event(_logger, logging.INFO, "stopping", reason="signal")
        led_in = node.raft.current_term
        if led and node.raft.role is not LEADER:
            await _see_off(node.dispatcher.counters, lambda: self._fatal is not None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not node.dispatcher.is_idle() and self._fatal is None:
                    await asyncio.sleep(0.005)
        if node.raft.current_term != led_in:
            # Another that stops as well may have made this node lead meanwhile.
            await self._hand_over(node)
        clients.close()
        node.remember()
        await self._wait_gone(clients)

    async def _wait_gone(self, clients: Clients) -> None:
        """Wait until what was answered is sent, for a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while clients.connections:
                    await asyncio.sleep(0.005)

    def _note_fatal(self, error: BaseException) -> None:
        self._fatal = self._fatal or error
        self._ended.set()
        if self._clients is not None:
            self._clients.stop_listening()
            _end_clients(self._clients, error)

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Treat an exception that no caller took as what it is: a bug, after which no state can be trusted."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _OUT_OF_SYSTEM_RESOURCE:
            event(_logger, logging.WARNING, "out_of_system_resource", error=error)
        elif isinstance(error, BaseException):
            self._fail(error)
        else:
            loop.default_exception_handler(context)


async def _see_off(counters: DispatchCounters, is_over: Callable[[], bool]) -> None:
    """Let those who ask a leader of before be sent to the next, until nobody comes any more.

    A command that meets the end of its connection has a fate that its client does not know.
    """
    came = -1
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            while came != counters.elsewhere and not is_over():
                came = counters.elsewhere
                await asyncio.sleep(QUIET_S)


def _end_clients(clients: Clients, error: BaseException) -> None:
    """Say nothing more to anybody, unless nothing is wrong here: a node that was removed has answered what it could."""
    if isinstance(error, NodeRemoved):
        clients.close()
    else:
        clients.abort()
