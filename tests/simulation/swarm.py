"""What one seed switches on: the size of the cluster, its timings and limits, and its own subset of the faults.

Swarm testing (Groce et al., ISSTA 2012): runs that leave out some faults reach states that runs with all never do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

from durable_raft.raft.types import DEFAULT_PRIORITY

MS: Final = 1_000
"""Microseconds; the virtual time is counted in them."""

_FIRST: Final[dict[str, float]] = {
    "crash": 3.0,
    "crash_at_point": 4.0,
    "power_cut": 0.6,
    "pause": 2.0,
    "starved": 1.5,
    "partition": 3.0,
    "isolate_leader": 2.0,
    "one_way": 3.0,
    "slow_link": 1.5,
    "slow_disk": 2.0,
    "hung_disk": 1.0,
    "disk_error": 1.5,
    "full_disk": 0.7,
    "no_room": 0.7,
    "clock_jump": 1.5,
    "wall_wrong": 1.5,
    "time_reset": 0.6,
    "bit_rot": 0.6,
    "payload_rot": 1.0,
    "lost_write": 0.4,
    "misdirected_write": 0.3,
    "state_lost": 0.5,
    "disk_wiped": 1.2,
    "old_copy": 1.2,
    "volume_back": 1.2,
    "false_frame": 2.0,
}
_LATER: Final[dict[str, float]] = {
    "tail_rot": 2.0,
    "moved": 0.8,
}
"""Drawn by themselves: a seed that has none of them is played as it was before they were there."""

FAULTS: Final = _FIRST | _LATER
"""Faults that strike at moments of their own, and how often relative to each other."""

LINK_FAULTS: Final = ("loss", "duplicate", "reorder")
"""Faults that strike single messages."""


CHURN_SHARE: Final = 0.3
"""Share of the seeds in which members come and go."""

PRIORITIES_SHARE: Final = 0.2
"""Share of the seeds in which nodes have election priorities."""

UPGRADES_SHARE: Final = 0.15
"""Share of the seeds in which nodes run several programs."""

DRAWN_FROM: Final = 1_000_000
"""Seeds below it stay what they were before nodes ran several programs."""

COMMITS: Final = ("lmdb", "journal")
"""What can make writes durable (``--log-commit``)."""


@dataclass(frozen=True, slots=True)
class Swarm:
    """The choices of one seed. Times in virtual microseconds unless the name says otherwise."""

    seed: int
    nodes: int
    heartbeat_ms: int
    election_min_ms: int
    election_max_ms: int
    bound_ms: int
    """What election timeouts may grow to."""
    is_patience_random: bool
    """Whether nodes wait, while there are faults, for as long as chance says: no rule of safety may depend on it."""
    append_bytes_max: int
    append_inflight_max: int
    append_inflight_bytes_max: int
    cache_bytes_max: int
    batch_bytes_max: int
    hold_ms: int
    link_delay: tuple[int, int]
    disk_delay: tuple[int, int]
    loop_lag: int
    """A turn of the loop may run this much after the event that asked for it: several events meet one turn."""
    slice_steps: int
    """Steps that a slice of the machine's work has; few: the loop turns in the middle of entries."""
    large_bytes: int
    """Payload bytes above which an entry that is on the disk only is read on a worker."""
    loss: float
    duplicate: float
    reorder: float
    clock_drift: float
    """Largest deviation of a node's clock rate from 1."""
    most_clocks_err: bool
    """Whether more than a minority of the nodes' times of day may be wrong at a time."""
    fault_interval: int
    """Mean time between two faults; 0: none."""
    faults: tuple[str, ...]
    clients: int
    pipeline_max: int
    think: int
    """Mean pause of a client between two pipelines."""
    client_timeout: int
    wander: float
    """Chance that a client sends its next pipeline to any node, on a connection it may have had for long."""
    reads: float
    """Share of reads among the commands."""
    commits: tuple[str, ...]
    """What makes writes durable (``--log-commit``); each life of a node draws one of them."""
    checkpoints: dict[str, Any]
    """Settings of ``NodeConfig``: when checkpoints are due, and how much of the log stays."""
    queue_bytes_max: int
    """Memory of commands that are not answered, before more are refused."""
    keys: int
    groups: int
    """Number of groups of keys over which one command may go."""
    group_keys: int
    """Keys in each group."""
    group_share: float
    """Share of the commands that go to groups."""
    duration: int
    """How long faults strike."""
    bulk_delay: int = 0
    """How much longer an AppendEntries with entries travels for each byte of payload; what does not stand on its
    entries passes it. 0: entries travel as all else does."""
    faults_weights: tuple[float, ...] = field(default=())
    priorities: tuple[int, ...] = ()
    """Election priorities, which the nodes have in turn; none: all have the default one."""
    churn_interval: int = 0
    """Mean time between two requests of one operator who changes the members; 0: nobody does."""
    upgrade_interval: int = 0
    """Mean time between two deeds of one operator who installs other programs; 0: all run this one (upgrades.py)."""

    @property
    def is_group_all(self) -> bool:
        """Whether one group of keys is the whole store."""
        return self.group_share == 1.0

    def priority_of(self, name: str) -> int:
        """Return the election priority of the node ``name``, whose number is the end of its name."""
        return self.priorities[int(name[1:]) % len(self.priorities)] if self.priorities else DEFAULT_PRIORITY


def draw_swarm(seed: int, rng: random.Random) -> Swarm:
    """Draw the choices of ``seed``."""
    heartbeat = rng.choice((20, 50, 50, 100, 250))
    election_min = heartbeat * rng.choice((2, 3, 3, 5))
    patience = random.Random(f"{seed} patience")
    is_small = rng.random() < 0.6
    faults = tuple(name for name in _FIRST if rng.random() < 0.45)
    later = random.Random(f"later faults of {seed}")
    faults += tuple(name for name in _LATER if later.random() < 0.25)
    groups, group_share = rng.choice(((0, 0.0), (1, 0.2), (2, 0.3), (1, 1.0)))
    return Swarm(
        seed=seed,
        nodes=rng.choice((1, 3, 3, 3, 3, 5, 5)),
        heartbeat_ms=heartbeat,
        election_min_ms=election_min,
        election_max_ms=election_min * 2,
        bound_ms=election_min * 2 * patience.choice((1, 2, 7, 7)),
        is_patience_random=patience.random() < 0.1,
        append_bytes_max=rng.choice((60, 200)) if is_small else 1 << 20,
        append_inflight_max=rng.choice((1, 2, 4)) if is_small else 64,
        append_inflight_bytes_max=rng.choice((100, 400)) if is_small else 16 << 20,
        cache_bytes_max=rng.choice((0, 100, 1000)) if is_small else 32 << 20,
        batch_bytes_max=rng.choice((1, 100)) if rng.random() < 0.4 else 1 << 20,
        hold_ms=rng.choice((200, 2000)),
        link_delay=rng.choice(((50, 300), (200, 3_000), (1_000, heartbeat * MS // 2))),
        disk_delay=rng.choice(((20, 100), (500, 8_000), (2_000, heartbeat * MS))),
        loop_lag=rng.choice((0, 0, 0, 500, 5_000)),
        loss=rng.choice((0.002, 0.02, 0.1)) if rng.random() < 0.5 else 0.0,
        duplicate=rng.choice((0.005, 0.05)) if rng.random() < 0.5 else 0.0,
        reorder=rng.choice((0.01, 0.1)) if rng.random() < 0.5 else 0.0,
        clock_drift=rng.choice((0.0, 0.001, 0.05)),
        most_clocks_err=rng.random() < 0.25,
        fault_interval=election_min * MS * rng.choice((2, 5, 15)) if faults else 0,
        faults=faults,
        clients=rng.choice((1, 3, 6)),
        pipeline_max=rng.choice((1, 1, 4)),
        think=heartbeat * MS * rng.choice((1, 2, 4)),
        client_timeout=election_min * MS * rng.choice((1, 3, 20)),
        wander=rng.choice((0.0, 0.1, 0.5)),
        reads=rng.choice((0.2, 0.35, 0.7)),
        keys=rng.choice((1, 3, 6)),
        groups=groups,
        group_keys=rng.choice((2, 3, 4)),
        group_share=group_share,
        duration=election_min * MS * rng.choice((60, 120)),
        faults_weights=tuple(FAULTS[name] for name in faults),
        commits=random.Random(f"{seed} commit").choice((("lmdb",), ("journal",), ("journal",), COMMITS)),
        checkpoints=_draw_checkpoints(rng),
        # Drawn last: the seeds of tests stay what they were in all else.
        bulk_delay=rng.choice((0, 0, heartbeat * 5, heartbeat * 30)),
        slice_steps=rng.choice((1, 2, 3, 10_000)),
        queue_bytes_max=rng.choice((600, 3_000, 256 << 20, 256 << 20)),
        large_bytes=rng.choice((0, 60, 1 << 20)),
        churn_interval=draw_churn(seed, election_min),
        priorities=draw_priorities(seed),
        upgrade_interval=draw_upgrades(seed, election_min),
    )


def draw_churn(seed: int, election_min_ms: int) -> int:
    """Draw how often members are changed: in most seeds never.

    Of all streams this is one in which the seeds that tests play draw nothing: they stay what they were.
    """
    rng = random.Random(f"members 137 of {seed}")
    return election_min_ms * MS * rng.choice((1, 2, 4)) if rng.random() < CHURN_SHARE else 0


def draw_priorities(seed: int) -> tuple[int, ...]:
    """Draw whom an operator would have lead: in most seeds nobody. The stream is chosen as ``draw_churn``'s is."""
    rng = random.Random(f"priorities 173 of {seed}")
    if rng.random() >= PRIORITIES_SHARE:
        return ()
    return tuple(rng.choice((0, 1, 1, 2, 5)) for _ in range(rng.choice((2, 3, 5))))


def draw_upgrades(seed: int, election_min_ms: int) -> int:
    """Draw how often programs are changed: in most seeds never, and never in small ones, which tests play."""
    rng = random.Random(f"programs of {seed}")
    is_drawn = seed >= DRAWN_FROM and rng.random() < UPGRADES_SHARE
    return election_min_ms * MS * rng.choice((2, 4, 8)) if is_drawn else 0


def _draw_checkpoints(rng: random.Random) -> dict[str, Any]:
    """Draw when checkpoints are due and how much of the log stays: mostly so little that followers need snapshots."""
    if rng.random() < 0.2:
        return {}
    return {
        "checkpoint_changes": rng.choice((1, 3, 20, 60)),
        "checkpoint_pages": rng.choice((1, 10, 1000)),
        "checkpoint_entries": rng.choice((1, 7, 40)),
        "checkpoint_interval_ms": rng.choice((100, 5_000)),
        "overlay_bytes_max": rng.choice((1, 2_000, 1 << 20)),
        "log_tail_bytes": rng.choice((1, 200, 1 << 20)),
        "log_tail_entries": rng.choice((1, 10, 100)),
    }
