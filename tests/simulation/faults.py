"""The faults of one run: what strikes, whom, and when. A fault is counted when it has struck, not when it was planned.

Damage (a lying disk, a lost state, a wiped disk) strikes a minority at a time: the next ones when the last are healed.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from durable_raft.raft.types import NodeId
from durable_raft.server.agreed_clock import READING_LIFE_MS
from durable_raft.server.crash_points import CRASH_POINTS
from durable_raft.storage.log.records import LOG
from tests.simulation.disk import JOURNAL_LIE, OWNED_BYTES, Image
from tests.simulation.disk import LIES as DISK_LIES
from tests.simulation.lies import LIES
from tests.simulation.swarm import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.process import Process
    from tests.simulation.site import Site
    from tests.simulation.world import World


class Faults:
    """Draws faults from the seed's own subset until told to end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(world.rng_of("faults"))
        self._journal_rng = random.Random(world.rng_of("rotten journals"))
        self._is_over = False
        self._read_wrong: dict[str, int] = {}
        """Nodes whose clock was set right, and until when a wrong reading of it may count."""
        self._liars: list[tuple[Site, int]] = []
        """Sites that were damaged, and in which of their lives; until they are sound in a later one."""
        self._rotten: list[tuple[Site, bytes, bytes]] = []
        """Payloads that rotted: where, key and rotten value; until another value is there."""

    def begin(self) -> None:
        """Plan the first fault."""
        if self._world.swarm.fault_interval:
            self._plan_next()
            if "journal" in self._world.swarm.commits:
                self._rot_journal()

    def end(self) -> None:
        """Undo every fault that lasts."""
        self._is_over = True
        world = self._world
        world.network.heal()
        for site in world.sites.values():
            site.disk_factor, site.hung_until = 1, 0
            site.clock.set_wall(0)
            site.disk.fails = site.disk.pending_lie = None
            site.disk.free_bytes = 1 << 40
            if site.process is not None:
                site.process.platform.crash_points.arm("", 0)
                site.process.resume()

    def _plan_next(self) -> None:
        world = self._world
        pause = int(self._rng.expovariate(1.0) * world.swarm.fault_interval) + 1
        world.at(world.now + pause, None, self._strike)

    def _strike(self) -> None:
        if self._is_over:
            return
        swarm = self._world.swarm
        name = self._rng.choices(swarm.faults, swarm.faults_weights)[0]
        strike = getattr(self, f"_{name}") if name not in DISK_LIES else None
        if strike is None:
            self._lie(name)
        else:
            strike()
        self._plan_next()

    def _struck(self, name: str, what: str) -> None:
        self._world.faults[name] += 1
        self._world.say(f"** {name}: {what}")

    def _victim(self) -> Site | None:
        """Return a running node, the leader more often than its share."""
        up = self._world.up()
        leader = self._world.leader()
        if leader is not None and self._rng.random() < 0.3:
            return leader
        return self._rng.choice(up) if up else None

    def _later(self, low: float, high: float) -> int:
        """Return a time so many election timeouts ahead."""
        return self._world.now + int(self._rng.uniform(low, high) * self._world.swarm.election_max_ms * MS)

    # -- processes ------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        if site := self._victim():
            self._struck("crash", site.name)
            site.crashed("killed")

    def _crash_at_point(self) -> None:
        site = self._victim()
        if site is not None and site.process is not None:
            site.process.platform.crash_points.arm(self._rng.choice(CRASH_POINTS), self._rng.randint(1, 12))

    def _power_cut(self) -> None:
        self._struck("power_cut", "all nodes")
        for site in self._world.up():
            site.crashed("power cut", loses_power=True)

    def _pause(self) -> None:
        site = self._victim()
        if site is not None and (process := site.process) is not None and not process.is_paused:
            self._struck("pause", site.name)
            process.is_paused = True
            self._world.at(self._later(0.1, 5), None, process.resume)

    def _starved(self) -> None:
        """Let a node have a processor only now and then, for some time: its timers, messages and flushes come late."""
        site = self._victim()
        if site is not None and (process := site.process) is not None and not process.is_paused:
            self._struck("starved", site.name)
            self._starve(process, self._later(3, 30))

    def _starve(self, process: Process, until: int) -> None:
        world = self._world
        if process.is_alive and not self._is_over and world.now < until:
            process.is_paused = True
            world.at(self._later(0.02, 0.8), None, self._feed, process, until)

    def _feed(self, process: Process, until: int) -> None:
        process.resume()
        slice_us = int(self._rng.uniform(0, 0.2) * self._world.swarm.heartbeat_ms * MS)
        self._world.at(self._world.now + slice_us, None, self._starve, process, until)

    # -- network --------------------------------------------------------------------------------------------------

    def _partition(self) -> None:
        names = list(self._world.names)
        if len(names) > 1:
            self._rng.shuffle(names)
            group = names[: self._rng.randrange(1, len(names))]
            self._struck("partition", f"{sorted(group)} alone")
            self._world.network.split(group)
            self._world.at(self._later(0.5, 6), None, self._join)

    def _isolate_leader(self) -> None:
        leader = self._world.leader()
        if leader is not None and len(self._world.names) > 1:
            self._struck("isolate_leader", leader.name)
            self._world.network.split([leader.name])
            self._world.at(self._later(0.5, 6), None, self._join)

    def _one_way(self) -> None:
        wires = list(self._world.network.wires.items())
        if wires:
            (source, target), wire = self._rng.choice(wires)
            self._struck("one_way", f"{source} -> {target}")
            wire.is_cut = True
            self._world.at(self._later(0.5, 8), None, self._join)

    def _join(self) -> None:
        self._world.say("** all wires joined")
        self._world.network.join()

    def _slow_link(self) -> None:
        wires = list(self._world.network.wires.items())
        if wires:
            (source, target), wire = self._rng.choice(wires)
            wire.factor = self._rng.choice((1, 5, 20))
            self._struck("slow_link", f"{source} -> {target} x {wire.factor}")

    # -- disks ----------------------------------------------------------------------------------------------------

    def _slow_disk(self) -> None:
        if site := self._victim():
            site.disk_factor = self._rng.choice((1, 4, 20))
            self._struck("slow_disk", f"{site.name} x {site.disk_factor}")

    def _hung_disk(self) -> None:
        if site := self._victim():
            site.hung_until = self._later(0.5, 4)
            self._struck("hung_disk", f"{site.name} until {site.hung_until / 1e6:.3f}")

    def _disk_error(self) -> None:
        if site := self._victim():
            site.disk.fails = "EIO"

    def _full_disk(self) -> None:
        site = self._victim()
        if site is None:
            return
        if self._rng.random() < 0.5:
            site.disk.fails = "ENOSPC"
        else:
            self._struck("full_disk", f"{site.name} has no room but the reserve")
            site.disk.free_bytes = 1 << 20
            self._world.at(self._later(1, 10), None, setattr, site.disk, "free_bytes", 1 << 40)

    def _no_room(self) -> None:
        """Take the last byte from every disk, or from one; what a node owns stays its own."""
        up = self._world.up()
        if not up:
            return
        struck = up if self._rng.random() < 0.4 else [self._rng.choice(up)]
        self._struck("no_room", " ".join(site.name for site in struck))
        until = self._later(2, 12)
        for site in struck:
            site.disk.free_bytes = 0
            site.disk.kept_bytes = site.disk.owned_bytes = self._rng.choice((0, 1024, OWNED_BYTES))
            self._world.at(until, None, setattr, site.disk, "free_bytes", 1 << 40)

    def _next_liar(self) -> Site | None:
        """Return a sound site that may be damaged while all others but a minority are sound."""
        candidates = [site for site in self._world.present() if self._may_be_damaged(site)]
        if not candidates:
            return None
        site = self._rng.choice(candidates)
        self._liars.append((site, site.lives))
        return site

    def _may_be_damaged(self, site: Site) -> bool:
        """Return whether ``site`` is sound, and all others but a minority are."""
        self._forget_healed()
        damaged = [site.name for site, _ in self._liars]
        is_free = not self._rotten and site.name not in damaged
        return is_free and site.is_sound and self._world.tolerates(damaged, site.name)

    def is_damaged(self, site: Site) -> bool:
        """Return whether ``site`` was damaged and is not known to be sound again."""
        return site.is_lost or any(site is each for each, _ in self._liars)

    def damaged_ids(self) -> list[NodeId]:
        """Return who is damaged at this moment."""
        self._forget_healed()
        return [site.name for site in self._world.sites.values() if self.is_damaged(site)]

    def misled_ids(self) -> list[NodeId]:
        """Return whose time of day is wrong, or was and may still count."""
        now = self._world.now
        return [
            name
            for name, each in self._world.sites.items()
            if each.clock.is_wrong or self._read_wrong.get(name, 0) > now
        ]

    def _may_lie(self, site: Site) -> bool:
        """Note that ``site`` is damaged now, if it may be."""
        if self._is_over or not self._may_be_damaged(site):
            return False
        self._liars.append((site, site.lives))
        return True

    def _forget_healed(self) -> None:
        """Forget the damage that is healed: a life that began after it found nothing, or what it found is mended."""
        liars = self._liars
        self._liars = [
            (site, life)
            for site, life in liars
            if not site.is_sound or site.lives <= max(life, site.disk.lied_in)
            if not self._world.is_left_behind(site)
        ]
        for site, _ in liars:
            if all(site is not other for other, _ in self._liars):
                site.disk.lie = None
        self._rotten = [
            (site, key, value)
            for site, key, value in self._rotten
            if site.disk.durable[LOG].get(key) == value and not self._world.is_left_behind(site)
        ]
        for site in {id(site): site for site, _, _ in self._rotten}.values():
            site.disk.lie = "payload_rot"

    def _payload_rot(self) -> None:
        """Rot payloads on every node, at different places, so that an intact copy of each entry stays."""
        self._forget_healed()
        if self._liars or self._rotten or len(self._world.names) == 1:
            return
        struck: set[int] = set()
        for site in self._world.present():
            for _ in range(self._rng.randint(0, 3) if site.is_sound else 0):
                key = site.disk.rot_payload(struck | self._world.lone_entries(site))
                if key is not None:
                    struck.add(int.from_bytes(key[:8], "big"))
                    self._rotten.append((site, key, site.disk.durable[LOG][key]))
                    self._world.at(self._later(0.2, 3), None, self._reveal, site)
        if struck:
            self._struck("payload_rot", f"indexes {sorted(struck)}")

    def rotten_payloads(self) -> list[tuple[Site, int]]:
        """Return where payloads are rotten at this moment, and the index of each."""
        self._forget_healed()
        return [(site, int.from_bytes(key[:8], "big")) for site, key, _ in self._rotten]

    def _tail_rot(self) -> None:
        """Cut a leader off, so that it stores what nobody else has; then rot some of that, and start it again."""
        leader = self._world.leader()
        if leader is not None and len(self._world.names) > 1 and self._may_be_damaged(leader):
            self._world.network.split([leader.name])
            self._world.at(self._later(0.3, 3), None, self._rot_tail, leader)

    def _rot_tail(self, site: Site) -> None:
        self._join()
        if (process := site.process) is None:
            return
        log = process.node.raft.log
        if log.flushed > log.commit_index and self._may_lie(site):
            key = site.disk.rot_payload(set(range(log.commit_index + 1)))
            if key is not None:
                self._struck("tail_rot", f"{site.name}, index {int.from_bytes(key[:8], 'big')}")
            site.crashed("looks at its disk again")

    def _moved(self) -> None:
        """Move the whole cluster to other machines: every directory is copied after the end of its node."""
        sites = self._world.present()
        if self._is_over or len(sites) == 1 or not all(map(self._may_be_damaged, sites)):
            return
        if not self._world.is_one_configuration():
            return
        self._struck("moved", "all nodes")
        for site in sites:
            # None of them knows its place any more: until they have agreed who they are, nothing else may go wrong.
            self._liars.append((site, site.lives))
            site.crashed("is moved")
            site.disk.move()
            site.accepts_old_copy = self._rng.random() < 0.1

    def _disk_wiped(self) -> None:
        """Put an empty disk in a node's place; its id stays."""
        if site := self._next_liar():
            self._struck("disk_wiped", site.name)
            site.crashed("loses its disk")
            churn = self._world.churn
            if churn is None or churn.may_begin_anew(site):
                site.wipe()
            else:
                churn.lose(site, "an empty disk gets a new id")

    def _old_copy(self) -> None:
        """Copy a sound node's directory; later put the copy in its place."""
        self._take_image(self._put_copy_back)

    def _volume_back(self) -> None:
        """Roll a node's volume back, once all others know a later life of its directory."""
        self._take_image(self._roll_back)

    def _take_image(self, put_back: Callable[[Site, Image], None]) -> None:
        site = self._victim()
        if site is not None and site.is_sound and site.disk.lie is None and len(self._world.names) > 1:
            self._world.at(self._later(0.5, 12), None, put_back, site, site.disk.image())

    def _put_copy_back(self, site: Site, image: Image) -> None:
        if site.disk.node_uuid == image.node_uuid and self._would_be_told(site, image) and self._may_lie(site):
            self._struck("old_copy", site.name)
            site.crashed("comes back as an old copy")
            site.went_back(image, is_copied=True)

    def _would_be_told(self, site: Site, image: Image) -> bool:
        """Return whether enough of those whom an old copy asks are members still; they know that it went back."""
        churn, configuration = self._world.churn, image.configuration
        return churn is None or (configuration is not None and churn.rules.can_tell(site.name, configuration))

    def _roll_back(self, site: Site, image: Image) -> None:
        """Roll back if everybody will know it; else after its next life."""
        if self._is_over or site.disk.node_uuid != image.node_uuid or not self._would_be_told(site, image):
            return
        others = [other for other in self._world.present() if other is not site and self._world.concerns(other)]
        known = [other.disk.image().standing.peer(site.name) for other in others]
        lives = image.standing.lives
        if not lives or not all(peer and peer.life and peer.life.number > lives[-1].number for peer in known):
            self._world.at(self._later(0.5, 3), None, self._roll_back, site, image)
        elif self._may_lie(site):
            self._struck("volume_back", site.name)
            site.crashed("its volume is rolled back")
            site.went_back(image, is_copied=False)

    def _state_lost(self) -> None:
        """Take a node's state from its disk; the log stays. Nobody can give one in a cluster of one."""
        site = self._next_liar()
        if site is None:
            return
        self._struck("state_lost", site.name)
        site.crashed("loses its state")
        site.disk.kv.meta = site.disk.kv.waiting = site.disk.kv.partial = None

    def _lie(self, name: str) -> None:
        site = self._next_liar()
        if site is None:
            return
        self._struck(name, site.name)
        if name == "bit_rot":
            site.disk.rot()
            if site.disk.lie == JOURNAL_LIE:
                # What is in the journal is in LMDB soon, and then of no interest.
                site.crashed("loses a group of its journal")
        else:
            site.disk.pending_lie = name
        self._world.at(self._later(0.2, 3), None, self._reveal, site)

    def _rot_journal(self) -> None:
        """Put rubbish into one page of a journal now and then, before it is read: that loses nothing, ever."""
        if self._is_over:
            return
        up = self._world.up()
        site = self._journal_rng.choice(up) if up else None
        if site is not None and (file := site.disk.journal.sim_file) is not None and file.rot_page(self._journal_rng):
            self._world.counts["pages of journals rotten"] += 1
            if self._journal_rng.random() < 0.7:
                site.crashed("a page of its journal rots", loses_power=self._journal_rng.random() < 0.5)
        pause = int(self._journal_rng.expovariate(0.5) * self._world.swarm.fault_interval) + 1
        self._world.at(self._world.now + pause, None, self._rot_journal)

    def _reveal(self, site: Site) -> None:
        """Have a lie found before the log moves on, more often than chance would."""
        if site.disk.lie is not None and self._rng.random() < 0.6:
            site.crashed("looks at its disk again")

    # -- liars ----------------------------------------------------------------------------------------------------

    def _false_frame(self) -> None:
        """Have a node hear what no correct node says, as if a peer had said it on its own link."""
        site = self._victim()
        if site is None or (process := site.process) is None or process.is_paused:
            return
        node = process.node
        if not node.raft.state.peers:
            return
        source = self._rng.choice(node.raft.state.peers)
        made = [lie(node.raft.state, source, node._now_ms(), self._rng) for lie in LIES]
        message = self._rng.choice([each for each in made if each is not None])
        self._struck("false_frame", f"{source} -> {site.name}: {message!r:.120}")
        process.hear_lie(source, message)

    # -- clocks ---------------------------------------------------------------------------------------------------

    def _clock_jump(self) -> None:
        if site := self._victim():
            seconds = self._rng.expovariate(1.0) * self._world.swarm.election_max_ms / 500
            self._struck("clock_jump", f"{site.name} {seconds:.3f} s ahead")
            site.clock.jump(seconds)
            self._world.time_rules.monotonic_jumped(seconds)

    def _wall_wrong(self) -> None:
        """Set a node's time of day wrong, or right if it is wrong; what others have read of it counts for a while."""
        site, now = self._victim(), self._world.now
        if site is None:
            return
        if site.clock.is_wrong:
            site.clock.set_wall(0)
            self._read_wrong[site.name] = now + READING_LIFE_MS * MS
            return
        if not self._world.tolerates(self.misled_ids(), site.name) and not self._world.swarm.most_clocks_err:
            return
        seconds = self._rng.choice((-3600.0, -600.0, 600.0, 3600.0, 174 * 365 * 86400.0))
        rate = self._rng.choice((0.0, 0.0, 1.0, -0.5))
        self._struck("wall_wrong", f"{site.name} {seconds:+.0f} s, {rate:+.1f} s each second")
        site.clock.set_wall(seconds, rate)

    def _time_reset(self) -> None:
        """An operator asks the leader to set the cluster time: to the agreed clock, or to what is just as wrong."""
        leader = self._world.leader()
        if leader is not None and (process := leader.process) is not None:
            far_ms = self._world.time_rules.true_ms() + self._rng.choice((-3_600_000, 3_600_000, 5 * 10**12))
            is_blind = self._world.swarm.most_clocks_err and self._rng.random() < 0.5
            process.run(self._ask_to_reset_time, (process, far_ms if is_blind else None))

    def _ask_to_reset_time(self, process: Process, asked_ms: int | None) -> None:
        if isinstance(time_ms := process.node.reset_time(asked_ms), int):
            self._struck("time_reset", f"{process.site.name} proposes {time_ms}")
