"""The rules of configurations over a whole run: whose majorities count, and what a change may be.

The arithmetic is this file's own, not the product's (raft/quorum.py): a bug there must not excuse itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from durable_raft.errors import InvariantViolation
from durable_raft.raft.changes import AddLearner, Demote, Promote, Readdress, Remove, Step
from durable_raft.raft.configuration import decode, describe
from durable_raft.raft.invariants import ClusterInvariants, FlushedLog
from durable_raft.raft.types import CONFIGURATION, Configuration, Entry, Index, NodeId, Term
from tests.simulation.places import PlaceRules

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World

Half = frozenset[NodeId]


def halves(configuration: Configuration) -> list[Half]:
    """Return the sets of voters each of which has to give a majority."""
    return [frozenset(half) for half in (configuration.voters, configuration.outgoing) if half]


def spare(half: Half) -> int:
    """Return how many of ``half`` may fail."""
    return (len(half) - 1) // 2


def has_majorities(configuration: Configuration, ids: Collection[NodeId]) -> bool:
    """Return whether ``ids`` has a majority of each half."""
    return all(len(half.intersection(ids)) > len(half) // 2 for half in halves(configuration))


def may_be_apart(one: Half, other: Half) -> bool:
    """Return whether a majority of one and a majority of the other may share nobody."""
    need_one, need_other = len(one) // 2 + 1, len(other) // 2 + 1
    shared = len(one & other)
    return max(0, need_one - len(one - other)) + max(0, need_other - len(other - one)) <= shared


class Seen(NamedTuple):
    """A configuration that some node has had in its log."""

    configuration: Configuration
    term: Term
    chain: int


class MemberInvariants(ClusterInvariants):
    """The rules of Figure 3, which also note what configurations there are."""

    def __init__(self, disks: dict[NodeId, FlushedLog], first: Configuration) -> None:
        super().__init__(disks)
        self.disks = disks
        self.seen: dict[tuple[Index, Term], Seen] = {(Index(0), Term(0)): Seen(first, Term(0), 0)}
        """By index and term; ``first`` counts from the beginning."""
        self.terms: dict[tuple[int, int], Term] = {}
        """The term of an entry, by its index and chain value."""

    def entries_accepted(self, name: NodeId, entries: Iterable[Entry]) -> None:
        """Note the configurations among them, too."""
        entries = list(entries)
        super().entries_accepted(name, entries)
        for entry in entries:
            self.terms[entry.index, entry.chain] = entry.term
            if entry.kind is CONFIGURATION and (entry.index, entry.term) not in self.seen:
                found = decode(entry.index, entry.payload)
                self.seen[entry.index, entry.term] = Seen(found, entry.term, entry.chain)

    def is_committed(self, index: Index) -> bool:
        """Return whether an entry at ``index`` is known to be committed anywhere."""
        return index <= len(self.committed_chains)


class MemberRules:
    """Judges one world whose members change."""

    def __init__(self, world: World, invariants: MemberInvariants) -> None:
        self._world = world
        self._invariants = invariants
        self.places = PlaceRules(world)
        self._newest = invariants.seen[Index(0), Term(0)].configuration
        """The newest that is committed and was looked at."""
        self._used = set(self._newest.ids())
        self._asked: dict[tuple[Term, NodeId], Index] = {}
        """What was committed when the promotion of a learner was first asked for, by the leader's term."""

    @property
    def newest(self) -> Configuration:
        """The newest configuration that is committed."""
        self._take_committed()
        return self._newest

    def concerns(self, name: NodeId) -> bool:
        """Return whether ``name`` is or was a member, or may become one by an entry that some node has."""
        if name in self._used:
            return True
        return any(
            name in each.configuration.ids()
            for (index, _), each in self._invariants.seen.items()
            if index > self._newest.index
        )

    def was_removed(self, name: NodeId) -> bool:
        """Return whether a configuration says so that is committed, applied or not."""
        chains = self._invariants.committed_chains
        return any(
            name in each.configuration.former
            for (index, _), each in self._invariants.seen.items()
            if 0 < index <= len(chains) and chains[index - 1] == each.chain
        )

    # -- what may fail --------------------------------------------------------------------------------------------

    def in_force(self) -> list[Configuration]:
        """Return all configurations that any node may still go by, and some more.

        Those are: the newest one that is committed and that every disk holds which may be started again; and all that
        any node ever had behind it.
        """
        rules, sites = self._invariants, [site for site in self._world.present() if self.concerns(site.name)]
        found: list[Configuration] = []
        for index, _ in sorted(rules.seen, reverse=True):
            each = rules.seen[index, _]
            found.append(each.configuration)
            if self._is_known(each, sites):
                break
        return found

    def _is_known(self, seen: Seen, sites: Sequence[Site]) -> bool:
        """Return whether a configuration is committed, and no disk would start with one before it."""
        index, chains = seen.configuration.index, self._invariants.committed_chains
        if index == 0:
            return True
        if index > len(chains) or chains[index - 1] != seen.chain:
            return False
        return all(site.disk.promised.holds(index, seen.chain) or site.disk.kv.covers(index) for site in sites)

    def tolerates(self, failed: Collection[NodeId], name: NodeId) -> bool:
        """Return whether ``name`` may fail beside ``failed``, whichever configuration counts."""
        return all(
            len(half.intersection(failed) - {name}) < spare(half)
            for configuration in self.in_force()
            for half in halves(configuration)
            if name in half
        )

    @staticmethod
    def can_spare(configuration: Configuration, failed: Collection[NodeId]) -> bool:
        """Return whether ``failed`` is a minority of each half."""
        return all(len(half.intersection(failed)) <= spare(half) for half in halves(configuration))

    def can_tell(self, name: NodeId, configuration: Configuration) -> bool:
        """Return whether of each half of ``configuration`` a majority besides ``name`` is in service.

        Else a node that goes back to it could serve with nobody, or with others that were removed, and nobody would
        say that it went back. An operator must not do that.
        """
        serving = set.intersection(*({*each.ids()} for each in self.in_force()))
        return has_majorities(configuration, serving - {name})

    def lone_entries(self, site: Site) -> set[int]:
        """Return the indexes at ``site`` of which nobody else has a copy who stays a member in all configurations."""
        log, all_staying = site.disk.promised, [{*each.ids()} - {*each.leaving} for each in self.in_force()]
        return {
            index
            for index in range(1, log.last_index + 1)
            if not all(self.is_held_elsewhere(site, index, staying) for staying in all_staying)
        }

    def is_held_elsewhere(self, site: Site, index: int, names: Collection[NodeId]) -> bool:
        """Return whether another of ``names`` has flushed the entry that ``site`` has at ``index``."""
        log, sites = site.disk.promised, self._world.sites
        if not log.base.index < index <= log.last_index:
            return False
        chain = log.chains[index - log.base.index - 1]
        others = [sites[name] for name in names if name != site.name and not sites[name].is_gone]
        return any(other.disk.promised.holds(index, chain) for other in others)

    # -- what a change may be -------------------------------------------------------------------------------------

    def promotion_asked(self, term: Term, names: Iterable[NodeId], committed: Index) -> None:
        """Note that a leader was asked to promote ``names`` when so much was committed there."""
        for name in names:
            self._asked.setdefault((term, name), committed)

    def begun(
        self, leader: Site, before: Configuration, seen: Index | None, steps: Sequence[Step], entry: Entry
    ) -> None:
        """Judge a change that a leader has begun, when ``before`` counted there."""
        name, after = leader.name, decode(entry.index, entry.payload)
        if seen is not None and before.index != seen:
            _broken(f"{name} changes the configuration at {before.index}, and was asked to change the one at {seen}")
        if before.outgoing or before.leaving or not self._invariants.is_committed(before.index):
            _broken(f"{name} begins a change while another is under way: {describe(before)}")
        if leader.process is not None:
            log = leader.process.node.raft.log
            if not log.commit_index or log.term_at(log.commit_index) != entry.term:
                _broken(f"{name} begins a change, and has committed nothing of its term {entry.term}")
        expected = outcome(before, steps)
        if (set(after.voters), set(after.ids()), set(after.leaving)) != expected:
            _broken(f"{steps} of ({describe(before)}) became ({describe(after)})")
        for step in steps:
            if isinstance(step, Promote):
                self._check_caught_up(entry.term, step.node_id)

    def _check_caught_up(self, term: Term, name: NodeId) -> None:
        """Who gets a vote holds what was committed when that was first asked for, on an admitted disk (§4.2.1)."""
        index, site = self._asked[term, name], self._world.sites[name]
        disk = site.disk
        chain = self._invariants.committed_chains[index - 1] if index else 0
        is_held = not index or disk.promised.holds(index, chain) or disk.kv.covers(index)
        # A disk that was lost since it acknowledged is no fault of the leader's.
        if not is_held and not self._world.faults_driver.is_damaged(site):
            _broken(f"{name} is promoted, and its disk ends at {disk.promised.last_index}, before {index}")

    def _take_committed(self) -> None:
        for each in self.places.look():
            self._check_step(self._newest, each)
            self._newest = each

    def _check_step(self, before: Configuration, after: Configuration) -> None:
        """Check that ``after`` may follow ``before`` in a log (Raft §6)."""
        old, new = set(before.ids()), set(after.ids())
        if again := (new - old) & self._used:
            _broken(f"{again} are members again at {after.index}: an id is used once")
        if not old - new <= {*after.former}:
            _broken(f"{old - new} went at {after.index}, and are not listed as former members")
        self._used |= new
        if after.outgoing:
            is_lawful = not before.outgoing and not before.leaving and after.outgoing == before.voters
            is_lawful = is_lawful and not set(after.voters) - set(before.voters) - set(before.learners)
        else:
            is_lawful = after.voters == before.voters
        if not is_lawful:
            _broken(f"({describe(before)}) is followed by ({describe(after)})")

    # -- every now and then ---------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Judge what is on the disks, what was committed, and whose elections could be won at this moment."""
        self._take_committed()
        self.places.judge()
        self._check_majorities_meet()

    def _check_majorities_meet(self) -> None:
        """Two nodes that could be elected, or lead, at the same moment go by configurations whose majorities meet.

        Whoever could vote is counted as if it would: a disk that was damaged must not, and a newer log refuses.
        """
        ends = {site.name: self._end_of(site) for site in self._world.present() if self.concerns(site.name)}
        damaged = self._world.faults_driver.damaged_ids()
        sound = {name: end for name, end in ends.items() if name not in damaged}
        found: list[tuple[NodeId, Configuration]] = []
        for site in self._world.up():
            process = site.process
            if process is None or site.name not in sound or not process.node.raft.state.may_campaign:
                continue
            own = sound[site.name]
            voters = [name for name, end in sound.items() if end <= own]
            configuration = process.node.raft.configuration
            if has_majorities(configuration, voters):
                found.append((site.name, configuration))
        for place, (name, one) in enumerate(found):
            for other_name, other in found[:place]:
                if one.index != other.index and all(
                    may_be_apart(half, other_half) for half in halves(one) for other_half in halves(other)
                ):
                    _broken(
                        f"two majorities share nobody: {name} can be elected by ({describe(one)}) at {one.index}, and"
                        f" {other_name} by ({describe(other)}) at {other.index}"
                    )

    def _end_of(self, site: Site) -> tuple[Term, int]:
        """Return term and index of the end of a node's log, as a vote compares it (§5.4.1)."""
        if site.process is not None and site.process.is_alive:
            last = site.process.node.raft.log.last
            return last.term, last.index
        promised, kv = site.disk.promised, site.disk.kv.meta
        index, chain = promised.last_index, promised.last_chain
        end = self._invariants.terms.get((index, chain), Term(0)), index
        return end if kv is None else max(end, (kv.applied.point.term, kv.applied.point.index))

    # -- in the end -----------------------------------------------------------------------------------------------

    def check_end(self) -> None:
        """Judge a cluster that is at rest: all members go by the newest configuration, and reach nobody else."""
        self.judge()
        newest, world = self._newest, self._world
        for name in newest.ids():
            process = world.sites[name].process
            if process is None:
                _broken(f"{name} is a member in the end, and is down")
            elif process.node.raft.configuration != newest:
                _broken(f"{name} goes by ({describe(process.node.raft.configuration)}), not by ({describe(newest)})")
            elif {*process.node.peers.links} != {*newest.ids()} - {name}:
                _broken(f"{name} reaches {sorted(process.node.peers.links)}; the members are {newest.ids()}")

    def must_end(self) -> list[NodeId]:
        """Return the nodes that are up, were removed, and are told so by enough of those whom they know."""
        newest = self.newest
        return [site.name for site in self._world.up() if site.name in newest.former and self._is_told(site, newest)]

    def _is_told(self, site: Site, newest: Configuration) -> bool:
        if site.process is None:
            return False
        own = site.process.node.raft.configuration
        members = [name for name in site.process.node.peers.links if name in newest.ids()]
        if site.name in own.leaving or site.name in own.former:
            return bool(members)
        known = {*own.voters, *own.outgoing} - {site.name} or {*site.process.node.peers.links}
        return len(known.intersection(members)) > len(known) // 2


def outcome(before: Configuration, steps: Sequence[Step]) -> tuple[set[NodeId], set[NodeId], set[NodeId]]:
    """Return the voters, the members and those who leave, as ``steps`` ask for them."""
    voters, members, leaving = set(before.voters), set(before.ids()), set(before.leaving)
    for step in steps:
        match step:
            case AddLearner(member):
                members.add(member.node_id)
            case Promote(name):
                voters.add(name)
            case Demote(name):
                voters.discard(name)
            case Remove(name):
                voters.discard(name)
                leaving.add(name)
            case Readdress(_):
                pass
    return voters, members, leaving


def _broken(rule: str) -> None:
    raise InvariantViolation(f"Members: {rule}")
