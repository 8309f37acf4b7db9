"""One run: a cluster, its clients and its faults, on one thread, in virtual time, from one seed.

Time jumps from event to event. Everything random comes from one root generator, split by name, so a run is the same
every time. A run ends by healing: faults stop, and the cluster must elect, agree, serve, and hold what it acknowledged.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any, Final

from durable_raft.errors import InvariantViolation
from durable_raft.kv.batch import decode_commands, drop_max_of
from durable_raft.kv.machine import Machine
from durable_raft.kv.records import StateSummary
from durable_raft.raft.hand_over import DOUBLINGS_MAX, KEEPING_UP
from durable_raft.raft.invariants import ClusterInvariants, FlushedLog
from durable_raft.raft.quorum import majority
from durable_raft.raft.types import Configuration, Entry, EntryKind, Member, Membership, NodeId, Role
from durable_raft.raft.versions import decode_version
from tests.simulation.campaigns import check_calm
from tests.simulation.clients import Client, FinalReader, Operation
from tests.simulation.disk import OWNED_BYTES
from tests.simulation.faults import Faults
from tests.simulation.judgement import Judged, judge
from tests.simulation.log_events import told_to
from tests.simulation.member_rules import MemberInvariants
from tests.simulation.members import Churn
from tests.simulation.network import Network
from tests.simulation.parts import Callback
from tests.simulation.process import Livelock, Process
from tests.simulation.site import EPOCH_MS, Site, SiteDisk
from tests.simulation.swarm import MS, Swarm, draw_swarm
from tests.simulation.time_rules import TimeRules
from tests.simulation.upgrades import Upgrades
from tests.simulation.workload import OpenChanges
from tests.support.raft_trace import event_words

PATIENCE_MOST = 40
"""So many times its patience a cluster is waited for that gets on, however slowly: a leader that keeps two entries of
thousands in memory reads one after the other from a slow disk, for each member that is behind."""

EVENTS_MAX: Final = 2_000_000
"""Events of one run before it is called a livelock."""

DIGEST_EVERY: Final = 16
"""The machines' states are compared at every index that this divides."""


class StatesDiffer(AssertionError):
    """Two machines that applied the same entries hold different states."""


class World:
    """See the module docstring."""

    def __init__(
        self,
        seed: int,
        *,
        is_traced: bool = False,
        swarm: Swarm | None = None,
        commit: str | None = None,
        changes_members: bool = True,
    ) -> None:
        """Draw what ``seed`` switches on, unless ``swarm`` is given.

        Args:
            seed: of everything.
            is_traced: whether the timeline is kept.
            swarm: in place of what the seed draws.
            commit: what makes writes durable in every life of a node; None: what the seed draws.
            changes_members: whether members come and go where the seed draws that.
        """
        self.seed = seed
        self._root = random.Random(f"durable_raft simulation {seed}")
        self._salt = self._root.getrandbits(64)
        self.swarm = draw_swarm(seed, random.Random(self.rng_of("swarm"))) if swarm is None else swarm
        if commit is not None:
            self.swarm = replace(self.swarm, commits=(commit,))
        if not changes_members:
            self.swarm = replace(self.swarm, churn_interval=0)
        self.is_traced = is_traced
        self.trace: list[str] = []
        self.now = 0
        self.running: Process
        """Whose turn it is; there once the first node was started."""
        self.events = self.messages = self.requests = self.replies = 0
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._heap: list[tuple[int, int, Process | None, Callback, tuple[Any, ...]]] = []
        self._sequence = 0
        self.is_healing = False
        self.history: list[Operation] = []
        self._forgotten: set[int] = set()
        self.judged = Judged()
        self.changes = OpenChanges(self.swarm)
        self.committed: list[Entry] = []
        """Every entry applied anywhere, the first has index 1."""
        self._digests: dict[int, tuple[bytes, StateSummary]] = {}

        members = tuple(
            Member(NodeId(f"n{i}"), f"127.0.0.1:{7000 + i}", f"127.0.0.1:{17000 + i}")
            for i in range(1, self.swarm.nodes + 1)
        )
        self.names = [member.node_id for member in members]
        self.sites = {member.node_id: Site(self, member, Membership(members)) for member in members}
        self.epoch_ms = EPOCH_MS
        self.time_rules = TimeRules(self)
        disks: dict[NodeId, FlushedLog] = {name: SiteDisk(site) for name, site in self.sites.items()}
        self.rules = ClusterInvariants(disks)
        self.churn: Churn | None = None
        if self.swarm.churn_interval:
            self.rules = invariants = MemberInvariants(disks, Configuration.initial(Membership(members)))
            self.churn = Churn(self, invariants)
        self._disks = disks
        self.upgrades = Upgrades(self) if self.swarm.upgrade_interval else None
        self.network = Network(self)
        self.clients = [Client(self, number) for number in range(1, self.swarm.clients + 1)]
        self.faults_driver = Faults(self)

    # -- tools ----------------------------------------------------------------------------------------------------

    def rng_of(self, name: str) -> str:
        """Return the seed of the generator called ``name``: independent of every other's use."""
        return f"{self._salt} {name}"

    def at(self, time: int, owner: Process | None, callback: Callback, *args: object) -> None:
        """Have something happen at ``time`` (microseconds), to ``owner`` if it lives then."""
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, owner, callback, args))

    def _note_event(self, name: str, fields: Mapping[str, object]) -> None:
        """Count an event that the running node logged."""
        self.counts[name] += 1
        self.running.campaigns.note(self.running, name)
        disk = self.running.site.disk
        if name == "admitted":
            disk.may_be_old = False
        if name == "went_back" and not disk.may_be_old:
            raise InvariantViolation(f"{self.running.site.name} takes itself for an old copy: {fields['reason']}")
        if name == "cluster_time_begins":
            self.time_rules.begins(fields)
        if name == "state_differs":
            raise StatesDiffer(f"{self.running.site.name} accuses {fields['nodes']} at {fields['index']}: none differs")
        if self.is_traced:
            self.say(f"    {self.running.site.name} {event_words(name, fields)}")

    def say(self, line: str) -> None:
        """Add a line to the timeline."""
        if self.is_traced:
            self.trace.append(f"{self.now / 1e6:12.6f}  {line}")

    def forget(self, operation: Operation) -> None:
        """Take an operation out of the history: it certainly had no effect, and nobody learned anything from it."""
        self._forgotten.add(id(operation))
        self.changes.answered(operation.args)

    def name_at(self, address: str) -> NodeId | None:
        """Return the node that clients reach at ``address``."""
        return next((site.name for site in self.sites.values() if site.member.client_address == address), None)

    def up(self) -> list[Site]:
        """Return the sites whose process runs."""
        return [site for site in self.sites.values() if site.process is not None]

    def leader(self) -> Site | None:
        """Return the site that leads in the highest term."""
        leaders = [site for site in self.up() if site.process and site.process.node.raft.role is Role.LEADER]
        return max(leaders, key=lambda site: site.process.node.raft.current_term if site.process else 0, default=None)

    def present(self) -> list[Site]:
        """Return the sites whose nodes run, or may be started."""
        return [site for site in self.sites.values() if not site.is_gone]

    def in_service(self) -> list[Site]:
        """Return the sites that are members, and have to work in the end."""
        return list(self.sites.values()) if self.churn is None else self.churn.members()

    def tolerates(self, failed: Collection[NodeId], name: NodeId) -> bool:
        """Return whether ``name`` may fail beside ``failed``, and all others but a minority are well."""
        if self.churn is not None:
            return self.churn.rules.tolerates(failed, name)
        return len(failed) < len(self.names) - majority(len(self.names))

    def concerns(self, site: Site) -> bool:
        """Return whether a site is or was a member's, or may become one's."""
        return self.churn is None or self.churn.rules.concerns(site.name)

    def lone_entries(self, site: Site) -> set[int]:
        """Return the entries of ``site`` of which the members may have no other copy, whichever of them leave."""
        return set() if self.churn is None else self.churn.rules.lone_entries(site)

    def is_left_behind(self, site: Site) -> bool:
        """Return whether a site is gone, and no configuration names it that may count."""
        if self.churn is None or not site.is_gone:
            return False
        return all(site.name not in each.ids() for each in self.churn.rules.in_force())

    def is_one_configuration(self) -> bool:
        """Return whether all nodes are members of one configuration, and go by no other."""
        if self.churn is None:
            return True
        known = self.churn.rules.in_force()
        return len(known) == 1 and known[0].is_at_rest and {*known[0].ids()} == {site.name for site in self.present()}

    def prepare(self, member: Member) -> Site:
        """Have a machine ready for a node that is to join; it is not started yet."""
        site = Site(self, member, Membership((member,)), joins=True)
        self.sites[site.name] = site
        self._disks[site.name] = SiteDisk(site)
        self.network.connect(site.name)
        self.names.append(site.name)
        return site

    def links_change(self, name: NodeId, *, is_up: bool) -> None:
        """Have every other node learn, a little later, that ``name`` came or went."""
        low, high = self.swarm.link_delay
        for other in self.sites.values():
            if other.process is not None and other.name != name:
                peers: Any = other.process.node.peers
                self._sequence += 1
                event = (lambda peers=peers: peers.link_changed(name, is_up=is_up)), ()
                heappush(self._heap, (self.now + low + high, self._sequence, other.process, *event))

    def entry_applied(self, process: Process, entry: Entry) -> None:
        """Compare machines as they apply."""
        if entry.index == len(self.committed) + 1:
            self.committed.append(entry)
        if entry.index % DIGEST_EVERY == 0:
            machine = process.node.keeper.machine
            # What is expired and not dropped yet is in the summary only.
            digest = machine.digest(), machine.summary()
            if self._digests.setdefault(entry.index, digest) != digest:
                raise StatesDiffer(f"{process.site.name} before {entry.index}: another state than another node's")

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Play the whole seed; raises what was found."""
        with told_to(self._note_event):
            self.say(f"{self.swarm}")
            for site in self.sites.values():
                site.start()
            for client in self.clients:
                self.at(self.now + self.swarm.election_max_ms * MS, None, client.begin)
            self.faults_driver.begin()
            if self.churn is not None:
                self.churn.begin()
            if self.upgrades is not None:
                self.upgrades.begin()
            self.run_until(self.swarm.duration)
            self._heal()

    def run_until(self, end: int) -> None:
        """Let everything happen up to ``end``."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            time, _, owner, callback, args = heappop(heap)
            self.now = time
            self.events += 1
            if owner is None:
                callback(*args)
            else:
                owner.run(callback, args)
            if self.events > EVENTS_MAX:
                raise Livelock(f"more than {EVENTS_MAX} events in {self.now / 1e6:.3f} s")
        self.now = end

    def _heal(self) -> None:
        """End all faults, then require that the cluster works and has kept its word."""
        self.say("-- healing: no more faults --")
        self.is_healing = True
        self.faults_driver.end()
        if self.upgrades is not None:
            self.upgrades.end()
        for site in self.present():
            site.start()
            if site.process is not None:
                site.process.learn()
        self._settle("elect and serve", self._serves)
        if (churn := self.churn) is not None:
            churn.settle(self._settle)
            self._settle("end those that were removed", lambda: not churn.rules.must_end(), has_work=False)
        for client in self.clients:
            client.is_stopping = True
        self._settle("answer every client", lambda: all(client.is_idle for client in self.clients))
        done: list[bool] = []
        reader = FinalReader(self, lambda: done.append(True))
        reader.begin()
        self._settle("read every key", lambda: bool(done))
        if "no_room" in self.swarm.faults:
            self._live_without_room()
        self._settle("heal every disk", lambda: all(site.is_sound for site in self.in_service()))
        if not self.faults["time_reset"]:
            self._settle("let expire what has a time to live", self._has_nothing_to_expire)
        if self.swarm.priorities:
            self._settle("be led by whom an operator prefers", self._is_led_by_preferred, patience=self._way_patience)
        self._settle("agree", self._agrees)
        self._check_states()
        self._check_timeouts()
        if self.upgrades is not None:
            self.upgrades.judge()
        if self.churn is not None:
            self.churn.rules.check_end()
        self.judged = judge(each for each in self.history if id(each) not in self._forgotten)

    def _live_without_room(self) -> None:
        """With not a byte left anywhere, require an election, reads, and all nodes alive; then give the room back."""
        self._settle("heal every disk", lambda: all(site.is_sound for site in self.in_service()))
        self.say("-- not a byte left on any disk --")
        self.faults["no_room"] += 1
        for site in self.sites.values():
            site.disk.free_bytes = 0
            site.disk.kept_bytes = site.disk.owned_bytes = OWNED_BYTES
        leader = self.leader()
        if leader is not None:
            leader.crashed("killed")
        self._settle("elect with full disks", self._serves)
        done: list[bool] = []
        FinalReader(self, lambda: done.append(True)).begin()
        self._settle("read with full disks", lambda: bool(done))
        for site in self.sites.values():
            site.disk.free_bytes = 1 << 40

    @property
    def patience(self) -> int:
        """For how long a cluster without faults may get nowhere."""
        return (self.swarm.election_max_ms * 60 + self.swarm.hold_ms * 8) * MS

    @property
    def _way_patience(self) -> int:
        """For how long a leader may lead that is to make way: it may have tried in vain while there were faults."""
        return (KEEPING_UP << DOUBLINGS_MAX + 1) * self.swarm.bound_ms * MS + self.patience

    def _settle(self, what: str, holds: Any, *, has_work: bool = True, patience: int | None = None) -> None:
        """Let time pass until ``holds``; ``has_work``: there may be a log to work off before it does."""
        patience = patience or self.patience
        end, last = self.now + patience, self.now + patience * PATIENCE_MOST
        most = 0
        while not holds():
            if has_work and self._worked_off() > most and self.now < last:
                # Slow disks may have much to work off; what is stuck gets nowhere.
                most, end = self._worked_off(), self.now + patience
            if self.now >= end:
                raise Livelock(f"Liveness: healed, but the cluster does not {what} within {patience / 1e6:.1f} s")
            self.run_until(self.now + self.swarm.heartbeat_ms * MS)

    def _worked_off(self) -> int:
        """Return how many entries are committed, and flushed and executed by each node: after a start from the log too.

        A node that starts over again and again never gets beyond what it had once.
        """
        nodes = [site.process.node for site in self.up() if site.process]
        return len(self.committed) + sum(node.raft.log.flushed + node.keeper.applied_index for node in nodes)

    def _serves(self) -> bool:
        """Return whether a leader of its own term has committed something new."""
        leader = self.leader()
        if leader is None or leader.process is None:
            return False
        log = leader.process.node.raft.log
        return bool(log.commit_index) and log.term_at(log.commit_index) == leader.process.node.raft.current_term

    def _is_led_by_preferred(self) -> bool:
        """Return whether no voter that could lead has a higher election priority than the leader."""
        leader = self.leader()
        if leader is None or leader.process is None:
            return False
        voters = leader.process.node.raft.configuration.voters
        able = [s for s in self.up() if s.name in voters and s.process and s.process.node.raft.state.may_lead]
        return leader.config.election_priority >= max(site.config.election_priority for site in able)

    def _has_nothing_to_expire(self) -> bool:
        """Return whether every key with a deadline is gone: after a reset, those given in the future are not."""
        nodes = [site.process.node for site in self.in_service() if site.process]
        return not any(node.keeper.machine.summary().expires_count for node in nodes)

    def _agrees(self) -> bool:
        """Return whether all nodes are up, hold one log, and have executed all of it: it is applied in slices."""
        sites = self.in_service()
        nodes = [site.process.node for site in sites if site.process]
        logs = [node.raft.log for node in nodes]
        if len(logs) < len(sites) or any(node.keeper.applied_index < node.raft.log.last.index for node in nodes):
            return False
        return all(log.last == logs[0].last and log.last_applied == log.last.index == log.flushed for log in logs)

    def _check_states(self) -> None:
        """Every machine holds what the committed log, applied once and in order, makes."""
        reference = Machine(random.Random(0))
        for entry in self.committed:
            if entry.kind is EntryKind.TIME_RESET:
                reference.reset_time(entry.timestamp_ms)
            else:
                reference.advance_time(entry.timestamp_ms, drop_max_of(entry.payload))
            if entry.kind is EntryKind.VERSION:
                reference.raise_version(decode_version(entry.index, entry.payload))
            if entry.kind is EntryKind.COMMANDS:
                for args in decode_commands(entry.payload):
                    reference.execute(args)
        expected = reference.digest(), reference.summary()
        for site in self.in_service():
            if site.process is None:
                continue
            machine = site.process.node.keeper.machine
            if (machine.digest(), machine.summary()) != expected:
                raise StatesDiffer(f"{site.name} holds another state than the committed log makes")

    def _check_timeouts(self) -> None:
        """What the faults have taught is forgotten again, and terms were used as little as the faults allow."""
        for site in self.in_service():
            if site.process is not None:
                configured = (self.swarm.election_min_ms, self.swarm.election_max_ms)
                check_calm(site.name, site.process.node.raft.state.timeouts, site.process.node._now_ms(), configured)

    def trace_digest(self) -> str:
        """Return a short name of the whole timeline."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]
