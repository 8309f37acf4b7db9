"""What one node runs with: every setting once, its default, its unit, and the checks of one against another.

The table of settings is made from the fields of ``NodeConfig``; flags, environment and file are derived from it
(sources.py), so that a setting cannot exist in one of them only. A ``NodeConfig`` that exists has passed every
check, wherever it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from durable_raft.addresses import (
    Address,
    check_membership,
    parse_address,
    parse_cluster,
    parse_name,
    peer_address_of,
    refuse,
)
from durable_raft.errors import ConfigError
from durable_raft.raft.types import DEFAULT_PRIORITY, Index, Member, Membership, NodeId
from durable_raft.server.settings.memory import memory_of_system
from durable_raft.server.settings.memory_plan import FITS, check_fits, plan_memory, setting_max
from durable_raft.server.settings.sources import (
    Setting,
    choice,
    parse_bytes,
    parse_bytes_or_none,
    parse_count,
    parse_list,
    parse_path,
    parse_priority,
    parse_switch,
    parse_text,
    read_settings,
    tunable,
)
from durable_raft.server.settings.tls import OFF, TlsSettings, check_tls

CLUSTER_ID_BYTES: Final = 16
DEFAULT_LISTEN: Final = "127.0.0.1:6379"
"""Where a cluster of one listens when nothing is said: where every Redis client looks first."""
DEFAULT_NODE_ID: Final = "n1"

PAYLOAD_BYTES_CEILING: Final = 960 << 20
"""No request may be larger: its log entry must fit into one peer frame (1 GiB), with the encoding around it."""

BATCH_BYTES_CEILING: Final = 32 << 20
"""No batch may be closed later: the largest request may come on top of it."""


class Seeds(NamedTuple):
    """The members of a cluster at one moment, for a node that is to join it."""

    configuration_index: Index
    """Of the newest configuration that whoever was asked had."""
    members: tuple[Member, ...]
    cluster_id: bytes
    """16 bytes: which cluster it is. Whoever answers may be of another one than the directory."""


NO_SEEDS: Final = Seeds(Index(0), (), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig(TlsSettings):
    """Everything one node process is told at its start.

    Raises:
        ConfigError: values that cannot work, alone or together (see ``_check``).
    """

    node_id: NodeId
    directory: Path
    """Where this node's data are; made on the first start."""
    client_host: str
    client_port: int
    """Listen address for clients; the host may be a wildcard."""
    peer_host: str
    peer_port: int
    """Listen address for other nodes; the host may be a wildcard."""
    membership: Membership
    """All voters, this node included, with the addresses that others use for them. Used on the first start; later the
    directory knows its membership and this is compared with it."""
    cluster_id: bytes | None = None
    """16 bytes given by the operator instead of the derived id; None: see cluster_id.py."""
    join: str | None = None
    """HOST:PORT of a node of the cluster that this node is to join; then ``membership`` is this node alone, and is only
    where others reach it."""
    seeds: Seeds = NO_SEEDS
    """What the cluster said when it was asked; nothing when it could not be asked."""

    cluster_name: str = tunable(
        "default", parse_text, "NAME", "Name of the cluster; part of the cluster id, so that two clusters never mix"
    )
    election_timeout_min_ms: int = tunable(
        150, parse_count, "MS", "Shortest election timeout; at least twice the heartbeat interval"
    )
    election_timeout_max_ms: int = tunable(300, parse_count, "MS", "Longest election timeout; above the shortest")
    election_timeout_bound_ms: int = tunable(
        2000,
        parse_count,
        "MS",
        "How long an election timeout may become where messages or flushes are late; "
        "up to election_timeout_max_ms: it stays as configured",
    )
    heartbeat_ms: int = tunable(50, parse_count, "MS", "How often an idle leader says that it is there")
    election_priority: int = tunable(
        DEFAULT_PRIORITY,
        parse_priority,
        "N",
        "Who is to lead when several can: the node with the highest, from 0 to 1000; 0: only as the last resort",
    )
    clock_bound_ms: int = tunable(
        1000,
        parse_count,
        "MS",
        "Wall clocks that lie within this of each other agree; a node whose clock is further off says so and lets "
        "others lead",
    )
    client_hold_ms: int = tunable(
        2000,
        parse_count,
        "MS",
        "How long a command is held while there is no leader, before it is refused; "
        "keep it under the socket timeout of your clients (5 s in redis-py and node-redis)",
    )
    memory_max: int = tunable(
        0,
        parse_bytes_or_none,
        "BYTES",
        "Memory that the node keeps within; larger defaults of other settings are cut down to fit. "
        "0: half of what the machine, its control group or ulimit -v allows",
    )
    value_bytes_max: int = tunable(
        512 << 20, parse_bytes, "BYTES", "Longest value, however it came about (APPEND); Redis's own limit"
    )
    request_bytes_max: int = tunable(
        64 << 20,
        parse_bytes,
        "BYTES",
        "Longest request, all arguments together; a longer one is refused before memory is spent",
    )
    request_timeout_ms: int = tunable(
        30_000,
        parse_count,
        "MS",
        "How long a request that has begun may bring less than 16 KiB and not its end, before its connection is closed",
    )
    clients_max: int = tunable(10_000, parse_count, "N", "Connections from clients at one time")
    pending_bytes_max: int = tunable(
        256 << 20,
        parse_bytes,
        "BYTES",
        "Memory of commands that were taken in and are not answered; more are refused (OVERLOADED)",
    )
    output_bytes_max: int = tunable(
        64 << 20, parse_bytes, "BYTES", "Replies that may wait for one connection whose client does not read them"
    )
    reply_bytes_max: int = tunable(
        64 << 20,
        parse_bytes,
        "BYTES",
        "Longest reply of several values or keys (MGET, KEYS); the command is refused before it copies anything. "
        "A single value may be longer",
    )
    append_bytes_max: int = tunable(
        1 << 20, parse_bytes, "BYTES", "Entries in one AppendEntries; a single larger entry travels alone"
    )
    append_inflight_max: int = tunable(64, parse_count, "N", "Unanswered AppendEntries per follower")
    append_inflight_bytes_max: int = tunable(
        16 << 20, parse_bytes, "BYTES", "Entries in unanswered AppendEntries per follower"
    )
    batch_bytes_max: int = tunable(
        1 << 20, parse_bytes, "BYTES", "Commands in one log entry; a single larger command travels alone"
    )
    log_cache_bytes_max: int = tunable(
        32 << 20, parse_bytes_or_none, "BYTES", "Applied entries kept in memory for followers that are slightly behind"
    )
    checkpoint_changes: int = tunable(131_072, parse_count, "N", "Changed keys after which a checkpoint is written")
    checkpoint_pages: int = tunable(
        16_384,
        parse_count,
        "N",
        "Pages of the state after whose change it is written, about; each takes 4 KiB of memory",
    )
    checkpoint_bytes: int = tunable(
        48 << 20, parse_bytes, "BYTES", "Memory of changes after which a checkpoint is written"
    )
    checkpoint_log_bytes: int = tunable(
        32 << 20, parse_bytes, "BYTES", "Applied log after which a checkpoint is written: what a restart replays"
    )
    checkpoint_entries: int = tunable(20_000, parse_count, "N", "The same in entries")
    checkpoint_interval_ms: int = tunable(
        30_000, parse_count, "MS", "Time after which a checkpoint is written, if anything was applied"
    )
    overlay_bytes_max: int = tunable(
        144 << 20, parse_bytes, "BYTES", "Memory of changes that no checkpoint holds yet; beyond it, applying waits"
    )
    log_tail_bytes: int = tunable(
        32 << 20, parse_bytes, "BYTES", "Log kept behind a checkpoint, for followers that were away for a moment"
    )
    log_tail_entries: int = tunable(20_000, parse_count, "N", "The same in entries: every start verifies them")
    scrub_bytes_per_second: int = tunable(
        1 << 20,
        parse_bytes_or_none,
        "BYTES",
        "How much of the stored data is read and verified again each second; 0: nothing",
    )
    map_bytes: int = tunable(
        64 << 30, parse_bytes, "BYTES", "Largest size of each LMDB environment; address space, not disk, until used"
    )
    disk_reserve_bytes: int = tunable(
        64 << 20, parse_bytes, "BYTES", "Room kept free: with less than this, writes are refused while votes still work"
    )
    log_commit: str = tunable(
        "journal",
        choice("journal", "lmdb"),
        "journal|lmdb",
        "What makes a write durable: the journal beside LMDB (one flush), which is moved into LMDB within a second, "
        "or a transaction of LMDB (two flushes)",
    )
    log_format: str = tunable("text", choice("text", "json"), "text|json", "Form of the log lines on stderr")
    log_level: str = tunable(
        "info", choice("debug", "info", "warning", "error"), "LEVEL", "Least level logged: debug, info, warning, error"
    )
    allow_network_fs: bool = tunable(
        False,
        parse_switch,
        "",
        "Use a directory on a network file system, where locks and fsync may lie",
    )
    accept_new_addresses: bool = tunable(
        False,
        parse_switch,
        "",
        "Let the addresses in --cluster replace those the directory knows; the ids stay",
    )
    cluster_secret_file: str | None = tunable(
        None,
        parse_path,
        "FILE",
        "File of the secret that nodes prove to each other ('durable-raft secret FILE' makes one): one a line, at most "
        "two, the first is proven and each accepted; mode 0600. It is read again when it changes",
    )
    cluster_secret_optional: bool = tunable(
        False,
        parse_switch,
        "",
        "Hear peers that have no cluster secret as well: only while the secret is being turned on or off",
    )
    accept_old_copy: bool = tunable(
        False,
        parse_switch,
        "",
        "Let a directory vote that is an old copy: what it has forgotten may be lost, though it was acknowledged",
    )

    def __post_init__(self) -> None:
        _check(self)

    @property
    def self_member(self) -> Member:
        """This node's own entry in the membership: the addresses by which others reach it."""
        return next(member for member in self.membership.voters if member.node_id == self.node_id)

    @property
    def first_members(self) -> Membership:
        """The voters of the first start; nobody, where a node waits to be added."""
        return self.membership if self.join is None else Membership(())

    @property
    def client_address(self) -> str:
        """HOST:PORT that clients are told to use for this node (never a wildcard)."""
        return self.self_member.client_address


def _tunables() -> tuple[Setting, ...]:
    return tuple(
        Setting(each.name, each.metadata["parse"], each.metadata["help"], each.metadata["metavar"], each.default)
        for each in sorted(fields(NodeConfig), key=lambda each: each.name.startswith("tls_"))
        if each.metadata
    )


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("id", parse_text, f"This node's id in --cluster; without --cluster: {DEFAULT_NODE_ID}", "ID"),
    Setting("dir", parse_text, "Data directory; made on the first start. There is no default", "DIR"),
    Setting(
        "listen",
        parse_text,
        f"Where clients connect. Default: this node's address in --cluster, else {DEFAULT_LISTEN}",
        "HOST:PORT",
    ),
    Setting(
        "peer_listen",
        parse_text,
        "Where other nodes connect. Default: the host of --listen with this node's peer port",
        "HOST:PORT",
    ),
    Setting(
        "advertise",
        parse_text,
        "What clients are told to connect to, when --listen is a wildcard and there is no --cluster",
        "HOST:PORT",
    ),
    Setting(
        "cluster",
        parse_list,
        "All nodes, this one included: ID=HOST:PORT[@PEER_PORT],... The peer port is the client port + 10000 unless "
        "given. Without it the node is a cluster of one",
        "LIST",
    ),
    Setting(
        "cluster_id",
        parse_text,
        "32 hex digits instead of the id derived from --cluster-name and --cluster; needed when nodes are given "
        "different addresses for each other",
        "HEX",
    ),
    Setting(
        "join",
        parse_text,
        "Client address of any node of a running cluster that this node is to join, in place of --cluster; it is added "
        "there with 'durable-raft member add'",
        "HOST:PORT",
    ),
    *_tunables(),
)
"""Every setting of a node, in the order in which ``--help`` shows them."""


# -- from settings to a configuration ---------------------------------------------------------------------------------


def load_config(flags: Mapping[str, object], environment: Mapping[str, str]) -> NodeConfig:
    """Make the configuration from flags, environment, file and defaults (in this order of strength).

    Args:
        flags: raw values by setting name, None where not given; ``config`` is the path of the TOML file.
        environment: usually ``os.environ``.

    Raises:
        ConfigError: a setting is missing, malformed, unknown, or at odds with another.
    """
    given = read_settings(SETTINGS, flags, environment)
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    if "dir" not in texts:
        raise ConfigError("dir is not set: expected --dir DIR, a line dir = '...' or DURABLE_RAFT_DIR")
    membership, listen, peer_listen = _places(texts)
    tunables = _planned({setting.name: given.get(setting.name) for setting in _tunables()})
    return NodeConfig(
        node_id=_node_id(texts),
        directory=Path(texts["dir"]),
        client_host=listen.host,
        client_port=listen.port,
        peer_host=peer_listen.host,
        peer_port=peer_listen.port,
        membership=membership,
        cluster_id=_parse_cluster_id(texts["cluster_id"]) if "cluster_id" in texts else None,
        join=str(parse_address("join", texts["join"])) if "join" in texts else None,
        **cast("dict[str, Any]", tunables),
    )


def _planned(given: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that are given, and those whose defaults the node's memory does not have room for."""
    defaults = {setting.name: setting.default for setting in _tunables()}
    chosen = {name: value for name, value in given.items() if value is not None}
    map_bytes = cast("int", chosen.get("map_bytes", defaults["map_bytes"]))
    memory_max = plan_memory(cast("int", chosen.get("memory_max", 0)), memory_of_system(map_bytes))
    is_tls = chosen.get("tls_clients", OFF) != OFF
    fitting = {name: min(cast("int", defaults[name]), setting_max(name, memory_max, is_tls=is_tls)) for name in FITS}
    return fitting | chosen | {"memory_max": memory_max}


def _node_id(texts: Mapping[str, str]) -> NodeId:
    if "id" not in texts and "cluster" in texts:
        raise ConfigError("id is not set: expected --id with one of the ids in --cluster")
    if "id" not in texts and "join" in texts:
        raise ConfigError("id is not set: expected --id with an id that no node of the cluster ever had")
    return NodeId(parse_name("id", texts.get("id", DEFAULT_NODE_ID)))


def _places(texts: Mapping[str, str]) -> tuple[Membership, Address, Address]:
    """Return the membership and the listen addresses for clients and for peers."""
    if "cluster" in texts and "join" in texts:
        refuse("join", texts["join"], "no --cluster beside it: the cluster says who its members are")
    if "cluster" in texts:
        return _places_in_cluster(texts, parse_cluster(texts["cluster"]))
    listen = parse_address("listen", texts.get("listen", DEFAULT_LISTEN))
    advertised = parse_address("advertise", texts["advertise"]) if "advertise" in texts else listen
    if advertised.is_wildcard():
        setting = "advertise" if "advertise" in texts else "listen"
        refuse(setting, advertised, "an address that clients can be sent to: give --advertise HOST:PORT or --cluster")
    peer_listen = _peer_listen(texts) or peer_address_of("listen", listen)
    peer = Address(advertised.host, peer_listen.port)
    return Membership((Member(_node_id(texts), str(advertised), str(peer)),)), listen, peer_listen


def _places_in_cluster(texts: Mapping[str, str], membership: Membership) -> tuple[Membership, Address, Address]:
    node_id = _node_id(texts)
    own = next((member for member in membership.voters if member.node_id == node_id), None)
    if own is None:
        refuse("id", node_id, f"one of the ids in --cluster: {', '.join(membership.ids())}")
    if "advertise" in texts and str(parse_address("advertise", texts["advertise"])) != own.client_address:
        # Other nodes send clients to the address in their own --cluster; a second opinion would only confuse.
        refuse("advertise", texts["advertise"], f"this node's address in --cluster, {own.client_address}")
    listen = parse_address("listen", texts.get("listen", own.client_address))
    peer_port = parse_address("cluster", own.peer_address).port
    return membership, listen, _peer_listen(texts) or Address(listen.host, peer_port)


def _peer_listen(texts: Mapping[str, str]) -> Address | None:
    return parse_address("peer_listen", texts["peer_listen"]) if "peer_listen" in texts else None


def _parse_cluster_id(text: str) -> bytes:
    try:
        cluster_id = bytes.fromhex(text)
    except ValueError:
        cluster_id = b""
    if len(cluster_id) != CLUSTER_ID_BYTES:
        refuse("cluster_id", text, f"{2 * CLUSTER_ID_BYTES} hex digits")
    return cluster_id


# -- checks -----------------------------------------------------------------------------------------------------------


def _check(config: NodeConfig) -> None:
    """Check every value and every pair of values that depend on each other."""
    parse_name("id", config.node_id)
    parse_name("cluster_name", config.cluster_name)
    check_membership(config.membership)
    if config.node_id not in config.membership.ids():
        refuse("id", config.node_id, f"one of the ids in --cluster: {', '.join(config.membership.ids())}")
    if (config.client_host, config.client_port) == (config.peer_host, config.peer_port):
        refuse("peer_listen", f"{config.peer_host}:{config.peer_port}", "another address than --listen")
    if config.cluster_id is not None and len(config.cluster_id) != CLUSTER_ID_BYTES:
        refuse("cluster_id", config.cluster_id.hex(), f"{2 * CLUSTER_ID_BYTES} hex digits")
    for setting in _tunables():
        setting.parse(setting.name, getattr(config, setting.name))
    if config.cluster_secret_optional and config.cluster_secret_file is None:
        refuse("cluster_secret_optional", "true", "cluster_secret_file beside it: without it there is nothing to prove")
    _check_timeouts(config)
    _check_limits(config)
    check_tls(config)


def _check_timeouts(config: NodeConfig) -> None:
    if config.election_timeout_max_ms <= config.election_timeout_min_ms:
        # Raft §9.3: without a spread the nodes stand for election at the same moment, again and again.
        refuse(
            "election_timeout_max_ms",
            config.election_timeout_max_ms,
            f"more than election_timeout_min_ms={config.election_timeout_min_ms}, or elections are drawn forever",
        )
    if config.election_timeout_min_ms < 2 * config.heartbeat_ms:
        # Two intervals, so that one lost or late heartbeat alone never deposes a leader that is well (Raft §5.6).
        refuse(
            "heartbeat_ms",
            config.heartbeat_ms,
            f"at most half of election_timeout_min_ms={config.election_timeout_min_ms}, "
            "or one late heartbeat deposes a leader that is well",
        )


def _check_limits(config: NodeConfig) -> None:
    if config.batch_bytes_max > BATCH_BYTES_CEILING:
        refuse("batch_bytes_max", config.batch_bytes_max, f"at most {BATCH_BYTES_CEILING}: one peer frame")
    if config.request_bytes_max > PAYLOAD_BYTES_CEILING:
        refuse("request_bytes_max", config.request_bytes_max, f"at most {PAYLOAD_BYTES_CEILING}: one peer frame")
    if config.pending_bytes_max < config.request_bytes_max:
        refuse(
            "pending_bytes_max",
            config.pending_bytes_max,
            f"at least request_bytes_max={config.request_bytes_max}, or the largest request could never be taken in",
        )
    if config.map_bytes <= config.disk_reserve_bytes:
        refuse(
            "map_bytes",
            config.map_bytes,
            f"more than disk_reserve_bytes={config.disk_reserve_bytes}, or nothing could ever be written",
        )
    if config.memory_max:
        sizes = {name: getattr(config, name) for name in FITS}
        check_fits(config.memory_max, sizes, is_tls=config.tls_clients != OFF)
