"""One node's machine in a simulated cluster: its clocks, its disk and address, and the process when it is up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from durable_raft.errors import CorruptRecord, InvariantViolation, PeerTooOld, StoragePoisoned, UnknownFormatVersion
from durable_raft.raft.types import Identity, Member, Membership
from durable_raft.raft.versions import OURS
from durable_raft.server.settings.config import NO_SEEDS, NodeConfig
from tests.simulation.disk import Disk, Image
from tests.simulation.process import NOWHERE, Process
from tests.simulation.swarm import MS

if TYPE_CHECKING:
    from tests.simulation.world import World

EPOCH_MS: Final = 1_700_000_000_000
"""Time of day at which every run begins."""


class Clock:
    """One node's clocks: the monotonic one has a rate of its own, that of the day is right or wrong; both jump."""

    def __init__(self, world: World, rng: random.Random) -> None:
        drift = world.swarm.clock_drift
        self._world = world
        self._rate = 1.0 + rng.uniform(-drift, drift)
        self._offset_s = rng.uniform(0, 1_000_000)
        self._right_ns = EPOCH_MS * 1_000_000 + rng.randrange(-200, 200) * 1_000_000
        self._wrong_since_us = 0
        self._wrong_ns, self._wrong_rate = 0, 0.0

    def monotonic(self) -> float:
        """Return the monotonic clock in seconds."""
        return self._offset_s + self._world.now * self._rate / 1e6

    def time_of_day_ns(self) -> int:
        """Return the time of day."""
        wrong_us = (self._world.now - self._wrong_since_us) * self._wrong_rate
        return self._right_ns + self._world.now * 1000 + self._wrong_ns + int(wrong_us * 1000)

    def world_time(self, when_s: float) -> int:
        """Return the virtual time at which the monotonic clock shows ``when_s``."""
        return int((when_s - self._offset_s) * 1e6 / self._rate) + 2

    def sleep(self, seconds: float) -> None:
        """Take no time: whoever rests on a thread of its own keeps nobody waiting."""

    def jump(self, seconds: float) -> None:
        """Let the monotonic clock jump ahead, as after a suspended virtual machine."""
        self._offset_s += seconds

    @property
    def is_wrong(self) -> bool:
        """Whether the time of day is."""
        return bool(self._wrong_ns or self._wrong_rate)

    def set_wall(self, wrong_s: float, rate: float = 0.0) -> None:
        """Set the time of day wrong by so much, and by ``rate`` seconds more each second; (0, 0) sets it right."""
        self._wrong_ns, self._wrong_rate, self._wrong_since_us = int(wrong_s * 1e9), rate, self._world.now


class Site:
    """One node's machine: disk, clock and address, and the process when it is up."""

    def __init__(self, world: World, member: Member, membership: Membership, *, joins: bool = False) -> None:
        self.world = world
        self.name = member.node_id
        self.joins = joins
        """Whether it is started with --join: then ``membership`` is itself alone."""
        self.seeds = NO_SEEDS
        """What the cluster said when it was asked last."""
        self.program = OURS
        """Which versions of a cluster the installed program can."""
        self.is_new = True
        """Whether no life has begun on this disk."""
        self.is_lost = self.is_retired = False
        """Whether it cannot be started any more; whether it has ended because it was removed."""
        self.member = member
        swarm = world.swarm
        self.identity = Identity(b"simulated-group!", self.name, self.name.encode().ljust(16, b"-"))
        first = Membership(()) if joins else membership
        self.disk = Disk(self.identity, first, random.Random(world.rng_of(f"disk {self.name}")))
        self.clock = Clock(world, random.Random(world.rng_of(f"clock {self.name}")))
        self._rng = random.Random(world.rng_of(f"site {self.name}"))
        self.loop_lag = swarm.loop_lag
        self.disk_factor = 1
        self.hung_until = 0
        self.process: Process | None = None
        self.lives = 0
        self.accepts_old_copy = False
        """Whether an operator lets the next life vote though its directory is a copy; it has forgotten nothing."""
        self.config = NodeConfig(
            node_id=self.name,
            directory=NOWHERE,
            client_host="127.0.0.1",
            client_port=int(member.client_address.rpartition(":")[2]),
            peer_host="127.0.0.1",
            peer_port=int(member.peer_address.rpartition(":")[2]),
            membership=membership,
            join="any.node:7001" if joins else None,
            election_timeout_min_ms=swarm.election_min_ms,
            election_timeout_max_ms=swarm.election_max_ms,
            election_timeout_bound_ms=swarm.bound_ms,
            heartbeat_ms=swarm.heartbeat_ms,
            election_priority=swarm.priority_of(self.name),
            client_hold_ms=swarm.hold_ms,
            append_bytes_max=swarm.append_bytes_max,
            append_inflight_max=swarm.append_inflight_max,
            append_inflight_bytes_max=swarm.append_inflight_bytes_max,
            batch_bytes_max=swarm.batch_bytes_max,
            log_cache_bytes_max=swarm.cache_bytes_max,
            pending_bytes_max=swarm.queue_bytes_max,
            request_bytes_max=min(swarm.queue_bytes_max, 64 << 20),
            **swarm.checkpoints,
        )

    def draw_disk_delay(self) -> int:
        """Draw how long the next transaction takes."""
        low, high = self.world.swarm.disk_delay
        delay = (low + int(self._rng.random() * (high - low))) * self.disk_factor
        return max(delay, self.hung_until - self.world.now)

    def start(self) -> None:
        """Begin a life, unless one is under way; what cannot be believed is set aside, as opening.py does."""
        if self.process is not None or self.is_gone or not self._may_start():
            return
        self.is_new = False
        self.lives += 1
        self.disk.life = self.lives
        try:
            self.process = Process(self.world, self)
        except CorruptRecord as error:
            if self.disk.lie is None:
                raise InvariantViolation(f"Durability: {self.name} refuses its own disk: {error}") from error
            if not self._may_begin_anew(str(error)):
                return
            self.world.counts["set aside"] += 1
            self.world.say(f"{self.name} sets its directory aside ({self.disk.lie}): {error}")
            self.wipe()
            self.process = Process(self.world, self)
            self.is_new = False
        except UnknownFormatVersion as error:
            self.lacks_a_program(error)
            self.world.at(self.world.now + 1000, None, self.start)
            return
        except StoragePoisoned as error:
            # What was to be mended could not be written: the node ends, and is started again.
            self.world.say(f"{self.name} cannot start: {error}")
            self.world.at(self.world.now + 1000, None, self.start)
            return
        self.world.counts["starts"] += 1
        self.world.say(f"{self.name} starts, life {self.lives}")
        self.world.links_change(self.name, is_up=True)

    def lacks_a_program(self, error: UnknownFormatVersion) -> None:
        """Have an operator install a newer program; where all run one, none is lacking."""
        if self.world.upgrades is None:
            raise InvariantViolation(f"{self.name} cannot what the cluster has: {error}") from error
        self.world.say(f"{self.name} wants a newer program: {error}")
        self.world.upgrades.refused(self, error)

    def cannot_follow(self, error: PeerTooOld) -> None:
        """Take note that a node was sent what only a newer program can."""
        if self.world.upgrades is None:
            raise InvariantViolation(f"{self.name} cannot what the cluster has: {error}") from error
        self.world.counts["snapshots of a newer version"] += 1
        self.world.upgrades.left_behind(self)

    @property
    def is_gone(self) -> bool:
        """Whether it is not started any more."""
        return self.is_lost or self.is_retired

    def _may_start(self) -> bool:
        churn = self.world.churn
        return churn is None or churn.may_start(self)

    def _may_begin_anew(self, trouble: str) -> bool:
        """Return whether a directory that cannot be believed is set aside; where members have changed it is not."""
        churn = self.world.churn
        if churn is None or not churn.is_changed:
            return True
        churn.lose(self, trouble)
        return False

    def wipe(self) -> None:
        """Put an empty disk in the place of this node's."""
        self.is_new = True
        self.disk.replace(self.identity, self.config.first_members)
        self.world.rules.disk_replaced(self.name)

    def went_back(self, image: Image, *, is_copied: bool) -> None:
        """Have the disk hold again what it held once."""
        self.disk.put_back(image, is_copied=is_copied)
        self.world.rules.disk_replaced(self.name)

    @property
    def is_sound(self) -> bool:
        """Whether the node runs on a voter's disk with its whole log and a state."""
        if self.process is None or not self.process.node.raft.state.may_lead or self.disk.pending_lie is not None:
            return False
        # A new disk that was just admitted may end before it knows that.
        return self.disk.image().standing.is_voter

    def crashed(self, why: str, *, loses_power: bool = False) -> None:
        """End the process and have it started again later."""
        process, self.process = self.process, None
        if process is None:
            return
        world = self.world
        world.say(f"{self.name} dies: {why}")
        world.counts["lives ended"] += 1
        if why.startswith("crash_at_point"):
            world.faults["crash_at_point"] += 1
            world.counts[why] += 1
        elif why.startswith("stops: ") and "simulated" in why:
            world.faults["disk_error" if "EIO" in why else "full_disk"] += 1
        process.end(loses_power=loses_power or self.disk.lie is not None)
        if loses_power or self.disk.lie is not None:
            self.disk.power_cut()
            self.clock.jump(self._rng.uniform(-1000, 0))
        world.links_change(self.name, is_up=False)
        pause = int(self._rng.expovariate(1.0) * world.swarm.election_max_ms * MS * 2) + 1000
        world.at(world.now + (pause if not world.is_healing else 1000), None, self.start)


class SiteDisk:
    """A site's disk as the rules see it."""

    __slots__ = ("_disk",)

    def __init__(self, site: Site) -> None:
        self._disk = site.disk

    @property
    def hard_state(self) -> Any:
        """The flushed term and vote."""
        return self._disk.promised.hard_state

    @property
    def last_index(self) -> int:
        """Index of the last flushed entry."""
        kv = self._disk.kv.meta
        return max(self._disk.promised.last_index, kv.applied.point.index if kv is not None else 0)

    def holds(self, index: int, chain: int) -> bool:
        """Return whether the entry is flushed there."""
        held = (self._disk.promised, *self._disk.former)
        return any(each.holds(index, chain) for each in held) or self._disk.kv.covers(index)
