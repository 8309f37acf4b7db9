"""Members that come and go in a simulated cluster: two operators, the nodes that join, and those that were removed.

An operator looks at what some node says of the members, and asks the leader for what it wants of them a moment later:
more nodes, fewer, others in the place of those that are down or have lost their disks, leadership elsewhere. It names
the configuration it saw, mostly. So the two get in each other's way. Each node that is added has a new id and begins as
``serve --join`` does.

An operator asks for nothing that the damage of the moment would take a majority from: no node would survive that.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_raft.errors import ChangeRefused, InvariantViolation
from durable_raft.raft.changes import AddLearner, Demote, IdUsed, Promote, Readdress, Remove, StaleConfiguration, Step
from durable_raft.raft.configuration import decode
from durable_raft.raft.types import Configuration, Index, Member, NodeId, Role
from durable_raft.server.process import DRAIN_S, HANDOVER_S
from durable_raft.server.settings.config import Seeds
from tests.simulation.dialled import SECOND_US
from tests.simulation.member_rules import MemberRules, outcome
from tests.simulation.swarm import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.member_rules import MemberInvariants
    from tests.simulation.process import Process
    from tests.simulation.site import Site
    from tests.simulation.world import World

OPERATORS: Final = 2
JOINERS_MAX: Final = 9
"""Nodes that are added in one run."""
LOOK_MS: Final = 50
RETURNS: Final = 0.4
"""Chance that somebody starts a node again that has ended because it was removed."""


class Churn:
    """All that happens to the members of one world."""

    def __init__(self, world: World, invariants: MemberInvariants) -> None:
        self._world = world
        self._rng = random.Random(world.rng_of("members"))
        self.rules = MemberRules(world, invariants)
        self._joined = 0
        self._target = world.swarm.nodes
        """How many voters the operators want."""
        self._first_voters = world.swarm.nodes
        self.is_changed = False
        """Whether any change was begun: then --cluster says nothing of the members any more."""

    def begin(self) -> None:
        """Plan the first look of each operator."""
        for number in range(OPERATORS):
            self._plan_next(number)
        self._world.at(self._world.now + LOOK_MS * MS, None, self._judge)

    def _plan_next(self, number: int) -> None:
        pause = int(self._rng.expovariate(1.0) * self._world.swarm.churn_interval) + 1
        self._world.at(self._world.now + pause, None, self._look, number)

    def _judge(self) -> None:
        self.rules.judge()
        self._world.at(self._world.now + LOOK_MS * MS, None, self._judge)

    def _look(self, number: int) -> None:
        if self._world.is_healing:
            return
        act = self._rng.choices(
            (self._change, self._transfer, self._stop, self._bring_back, self._use_an_id_again), (14, 2, 1, 1, 1)
        )[0]
        act()
        self._plan_next(number)

    # -- changes --------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        """See who the members are, and ask for something."""
        seen = self._seen()
        if seen is None:
            return
        if self._rng.random() < 0.1:
            self._target = self._rng.choice((1, 3, 3, 5))
        steps = self._plan(seen)
        if steps:
            against = None if self._rng.random() < 0.1 else seen.index
            delay = self._rng.choice((1, 1, 10)) * self._world.swarm.link_delay[1]
            self._world.at(self._world.now + delay, None, self._ask, against, steps)

    def _seen(self) -> Configuration | None:
        """Return what the leader says of the members, or now and then whatever node."""
        site = self._world.leader()
        if site is None or self._rng.random() < 0.2:
            up = [site for site in self._world.up() if self.rules.concerns(site.name)]
            site = self._rng.choice(up) if up else None
        process = None if site is None else site.process
        if process is None or process.is_paused or not process.node.raft.configuration.voters:
            return None
        return process.node.members.configuration

    def _plan(self, seen: Configuration) -> list[Step]:
        """Return what an operator wants next of the members that it sees."""
        rng, world = self._rng, self._world
        learners = [name for name in seen.learners if name not in seen.leaving]
        down = [name for name in seen.voters if world.sites[name].process is None]
        lost = [name for name in seen.ids() if world.sites[name].is_lost and name not in seen.leaving]
        if lost and (rng.random() < 0.4 or not learners):
            return self._add(seen, 1) if rng.random() < 0.5 else [Remove(name) for name in lost]
        if lost:
            return (
                [Promote(learners[0]), *[Remove(name) for name in lost]]
                if lost[0] in seen.voters
                else [Remove(lost[0])]
            )
        wish = rng.random()
        if wish < 0.08:
            return [Readdress(self._moved(rng.choice(seen.members)))]
        if wish < 0.14 and len(seen.voters) > 1:
            return [Demote(rng.choice(seen.voters))]
        if wish < 0.22 and learners:
            return [Remove(rng.choice(learners))]
        missing = self._target - len(seen.voters)
        if missing > 0:
            if learners and rng.random() < 0.85:
                return [Promote(name) for name in learners[: rng.randint(1, missing)]]
            return self._add(seen, rng.choice((1, 1, missing)))
        if missing < 0:
            return [Remove(name) for name in rng.sample(seen.voters, rng.randint(1, -missing))]
        if not learners:
            return self._add(seen, 1)
        # One goes for each that comes: those that are down first, and the leader now and then.
        leader = world.leader()
        going = down or ([leader.name] if leader is not None and rng.random() < 0.4 else []) or list(seen.voters)
        coming = learners[: rng.randint(1, 2)]
        leave = Remove if rng.random() < 0.8 else Demote
        steps: list[Step] = [leave(name) for name in rng.sample(going, min(len(going), len(coming)))]
        return [*[Promote(name) for name in coming], *steps]

    def _moved(self, member: Member) -> Member:
        return replace(member, peer_address=f"moved-{self._rng.randrange(10**6)}:17000")

    def _add(self, seen: Configuration, count: int) -> list[Step]:
        """Have nodes added that wait for it, or new ones; those are started at about the same time."""
        known = {*seen.ids(), *seen.former}
        waiting = [site for site in self._world.present() if site.joins and site.name not in known]
        steps: list[Step] = [AddLearner(site.member) for site in waiting[:count]]
        for _ in range(min(count - len(steps), JOINERS_MAX - self._joined)):
            self._joined += 1
            number = self._world.swarm.nodes + self._joined
            site = self._world.prepare(Member(NodeId(f"n{number}"), f"127.0.0.1:{7000 + number}", f"p{number}:17000"))
            self._world.at(self._world.now + self._rng.randrange(20 * MS), None, site.start)
            steps.append(AddLearner(site.member))
        return steps

    def _ask(self, against: Index | None, steps: list[Step]) -> None:
        leader = self._world.leader()
        if leader is not None and leader.process is not None and not self._world.is_healing:
            leader.process.run(self._ask_leader, (leader, leader.process, against, steps))

    def _ask_leader(self, leader: Site, process: Process, against: Index | None, steps: list[Step]) -> None:
        raft = process.node.raft
        if raft.role is not Role.LEADER:
            return
        before, world = raft.configuration, self._world
        if not self._is_sparing(before, steps):
            world.counts["changes that damage forbids"] += 1
            return
        promoted = [step.node_id for step in steps if isinstance(step, Promote) and step.node_id in before.learners]
        if before.is_at_rest:
            self.rules.promotion_asked(raft.current_term, promoted, raft.log.commit_index)
        try:
            process.node.change_members(steps, against, is_dry=False)
        except ChangeRefused as refusal:
            world.counts[f"refused: {type(refusal).__name__}"] += 1
            if isinstance(refusal, StaleConfiguration) and against == before.index:
                raise InvariantViolation(f"Members: {against} is the present one, and was called stale") from refusal
            return
        (entry,) = raft.log.entries(raft.log.last.index, Index(raft.log.last.index + 1), 0)
        self._note_begun(before, decode(entry.index, entry.payload), steps)
        self.rules.begun(leader, before, against, steps, entry)

    def _note_begun(self, before: Configuration, after: Configuration, steps: list[Step]) -> None:
        world = self._world
        self.is_changed = True
        world.counts["changes"] += 1
        world.counts["joint configurations"] += bool(after.outgoing)
        for step in steps:
            world.counts[f"step {type(step).__name__}"] += 1
        world.say(f"** members: {steps} of the configuration at {before.index} is begun at {after.index}")

    def _is_sparing(self, before: Configuration, steps: list[Step]) -> bool:
        """Return whether the voters that would be are a working majority, damaged disks and wrong clocks apart."""
        driver = self._world.faults_driver
        voters = outcome(before, steps)[0] & {*before.ids()}
        after = replace(before, voters=tuple(sorted(voters)), outgoing=before.voters)
        is_sparing = bool(voters) and self.rules.can_spare(after, driver.damaged_ids())
        is_sparing = is_sparing and self._leaves_copies(before, steps)
        return is_sparing and (self._world.swarm.most_clocks_err or self.rules.can_spare(after, driver.misled_ids()))

    def _leaves_copies(self, before: Configuration, steps: list[Step]) -> bool:
        """Return whether those who stay have an intact copy of each entry that is rotten at one of them."""
        _, members, leaving = outcome(before, steps)
        staying = members - leaving
        return all(
            self.rules.is_held_elsewhere(site, index, staying)
            for site, index in self._world.faults_driver.rotten_payloads()
            if site.name in staying
        )

    def _use_an_id_again(self) -> None:
        """Ask for a new member under the id of another, present or former: it is refused."""
        leader = self._world.leader()
        if leader is not None and leader.process is not None:
            leader.process.run(self._ask_for_used_id, (leader.process,))

    def _ask_for_used_id(self, process: Process) -> None:
        raft = process.node.raft
        known = [*raft.configuration.ids(), *raft.configuration.former]
        if raft.role is not Role.LEADER or not known:
            return
        name = self._rng.choice(known)
        try:
            process.node.change_members([AddLearner(Member(name, "again:1", "again:2"))], None, is_dry=True)
        except IdUsed:
            self._world.counts["refused: IdUsed"] += 1
        except ChangeRefused:
            pass
        else:
            raise InvariantViolation(f"Members: {name} was used, and may be used again")

    # -- leadership, and nodes that stop --------------------------------------------------------------------------

    def _transfer(self) -> None:
        leader = self._world.leader()
        if leader is not None and leader.process is not None:
            voters = leader.process.node.raft.configuration.voters
            target = self._rng.choice([None, *voters])
            leader.process.run(self._ask_to_transfer, (leader.process, target))

    def _ask_to_transfer(self, process: Process, target: NodeId | None) -> None:
        try:
            chosen = process.node.transfer(target)
        except ChangeRefused as refusal:
            self._world.counts[f"refused: {type(refusal).__name__}"] += 1
        else:
            self._world.say(f"** members: {process.site.name} hands leadership to {chosen}")

    def _stop(self) -> None:
        """Have a node stop as SIGTERM has it stop: the leader, more often than not."""
        leader, up = self._world.leader(), self._world.up()
        site = leader if leader is not None and self._rng.random() < 0.7 else self._rng.choice(up) if up else None
        if site is not None and site.process is not None and not site.process.is_paused:
            self._world.say(f"** members: {site.name} is told to stop")
            self._world.counts["clean stops"] += 1
            self._hand_over(site.process, set(), self._world.now + int(HANDOVER_S * SECOND_US))

    def _hand_over(self, process: Process, asked: set[NodeId], until: int) -> None:
        """Ask others to lead, as server/process.py does, and go on when one does, or nobody."""
        if not process.is_alive or process.is_paused:
            return
        target: list[NodeId | None] = []
        if not process.node.raft.is_transferring:
            process.run(lambda: target.append(process.node.hand_over(asked)), ())
        if target and target[0] is not None:
            asked.add(target[0])
        is_over = bool(target) and target[0] is None
        if process.is_alive and not is_over and self._world.now < until:
            self._world.at(self._world.now + 5 * MS, None, self._hand_over, process, asked, until)
        elif process.is_alive:
            self._drain(process, self._world.now + int(DRAIN_S * SECOND_US))

    def _drain(self, process: Process, until: int) -> None:
        if not process.is_alive:
            return
        if process.node.dispatcher.is_idle() or self._world.now >= until:
            process.run(process.node.remember, ())
            if process.is_alive:
                process.site.crashed("stops cleanly")
        else:
            self._world.at(self._world.now + 5 * MS, None, self._drain, process, until)

    # -- nodes that come and go -----------------------------------------------------------------------------------

    def may_start(self, site: Site) -> bool:
        """Have a node that joins ask the cluster, as ``serve --join`` does; return whether it may start."""
        if not site.joins:
            return True
        asked = [other for other in self._world.up() if other is not site and self._knows_members(other)]
        found = self._told_by(self._rng.choice(asked)) if asked else None
        if found is None:
            knows_any = not site.is_new and (site.disk.promised.last_index > 0 or not site.disk.kv.covers(1))
            if not knows_any:
                self._world.at(self._world.now + 100 * MS, None, site.start)
            return knows_any
        is_another = site.name in found.former or (site.name in found.ids() and site.name not in found.learners)
        if site.is_new and is_another:
            self.lose(site, "its disk is new, and another node has that id")
            return False
        others = tuple(member for member in found.members if member.node_id != site.name)
        if others:
            site.seeds = Seeds(found.index, others, site.identity.cluster_id)
        return bool(others) or not site.is_new

    @staticmethod
    def _told_by(site: Site) -> Configuration | None:
        return None if site.process is None else site.process.node.members.configuration

    @staticmethod
    def _knows_members(site: Site) -> bool:
        return (
            site.process is not None and not site.process.is_paused and bool(site.process.node.raft.configuration.ids())
        )

    def may_begin_anew(self, site: Site) -> bool:
        """Return whether a node goes on with an empty disk: once members have changed it does so by oversight only."""
        if not self.is_changed:
            return True
        if site.joins or self._first_voters == 1 or self._rng.random() < 0.5:
            # With --join it is refused under its old id, if it was more than a learner.
            return site.joins
        return True

    def lose(self, site: Site, why: str) -> None:
        """Give a node up that cannot come back: another has to take its place."""
        site.is_lost = True
        self._world.counts["nodes lost for good"] += 1
        self._world.say(f"{site.name} is lost for good: {why}")
        self._world.names.remove(site.name)

    def ended_as_removed(self, site: Site) -> None:
        """Judge a node that says that it was removed; it is not started again, or by oversight."""
        if not self.rules.was_removed(site.name):
            raise InvariantViolation(f"Members: {site.name} ends because it was removed, and it was not")
        self._world.counts["removed nodes ended"] += 1
        site.is_retired = True
        self._world.names.remove(site.name)

    def _bring_back(self) -> None:
        """Have somebody start a node again that was removed."""
        retired = [site for site in self._world.sites.values() if site.is_retired]
        if retired and self._rng.random() < RETURNS:
            site = self._rng.choice(retired)
            site.is_retired = False
            self._world.names.append(site.name)
            self._world.counts["removed nodes started again"] += 1
            site.start()

    # -- the end --------------------------------------------------------------------------------------------------

    def members(self) -> list[Site]:
        """Return the sites of the newest configuration that is committed."""
        return [self._world.sites[name] for name in self.rules.newest.ids()]

    def settle(self, settle: Callable[[str, Callable[[], bool]], None]) -> None:
        """When all faults are over: complete what was begun, let the lost go, and hand leadership over."""
        settle("complete the change that was begun", self._is_at_rest)
        settle("let those go that are lost", self._lets_the_lost_go)
        settle("complete the last change", self._is_at_rest)
        settle("heal every disk", self._is_sound)
        self._settle_transfer(settle)

    def _is_sound(self) -> bool:
        self._start_strangers_again()
        # A lie of a disk may come out at its node's next start only.
        are_here = self._lets_the_lost_go() and self._is_at_rest()
        return are_here and all(site.is_sound for site in self.members())

    def _start_strangers_again(self) -> None:
        """Have members ask again who is there, if all whom they know are gone: the leader is a stranger to them.

        They were told of others at their start, or their volume went back to where others were members. An operator
        starts such a one with --join, whatever it was started with before; and again, if whom it asked is gone as well.
        """
        for site in self.members():
            process, newest = site.process, self.rules.newest
            if process is None or process.node.raft.configuration.index >= newest.index:
                continue
            if not {*process.node.peers.links}.intersection(newest.ids()):
                self._world.counts["members that knew nobody any more"] += 1
                site.joins = True
                site.crashed("is started again to ask who is there")

    def _is_at_rest(self) -> bool:
        leader = self._world.leader()
        if leader is None or leader.process is None:
            return False
        raft = leader.process.node.raft
        return (
            raft.configuration.is_at_rest
            and raft.is_configuration_committed
            and raft.configuration == self.rules.newest
        )

    def _lets_the_lost_go(self) -> bool:
        lost = [name for name in self.rules.newest.ids() if self._world.sites[name].is_lost]
        leader = self._world.leader()
        if lost and leader is not None and leader.process is not None and self._is_at_rest():
            leader.process.run(
                self._ask_leader, (leader, leader.process, self.rules.newest.index, [*map(Remove, lost)])
            )
        return not lost

    def _settle_transfer(self, settle: Callable[[str, Callable[[], bool]], None]) -> None:
        """Hand leadership over in calm: clients wait or are sent elsewhere, and are told of nothing else.

        An operator looks at LAG first. A link may carry less than clients write, and who is behind it never leads.
        """
        leader, world = self._world.leader(), self._world
        others = [site for site in self.members() if site.name in self.rules.newest.voters and site is not leader]
        if leader is None or not others:
            return
        target = max(others, key=lambda site: (site.disk.promised.last_index, self._rng.random()))
        errors = ("answered -UNKNOWN", "answered -CLUSTERDOWN", "answered -TRYAGAIN")
        before = {name: world.counts[name] for name in errors}

        def is_handed_over() -> bool:
            now = world.leader()
            process = None if now is None or now is target else now.process
            if process is not None and not process.node.raft.is_transferring:
                process.run(self._ask_to_transfer, (process, target.name))
            return now is target

        settle("hand leadership over", is_handed_over)
        world.counts["transfers in calm"] += 1
        told = {name: world.counts[name] - before[name] for name in errors if world.counts[name] != before[name]}
        if told:
            world.counts["errors at a transfer in calm"] += 1
            world.say(f"at the transfer clients were told {told}")
