"""Planted bugs of changes of members (raft/membership.py): whose majority counts, what a change may be, who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from durable_raft.errors import ChangeRefused
from durable_raft.raft import changes, configuration, election, membership, replication
from durable_raft.raft import state as state_module
from durable_raft.raft.changes import Readdress, Step, next_configuration
from durable_raft.raft.configuration import Configurations
from durable_raft.raft.core import Raft
from durable_raft.raft.quorum import has_quorum, majority_value, quorum_value
from durable_raft.raft.state import RaftState
from durable_raft.raft.types import LEADER, Configuration, Index, Member, NodeId, StoredLog
from durable_raft.server.members import Members
from durable_raft.server.state import snapshot_source
from tests.simulation.planting import Patch, mutant


def _new_half(of: Configuration) -> Configuration:
    return replace(of, outgoing=())


def _old_half(of: Configuration) -> Configuration:
    return replace(of, voters=of.outgoing or of.voters, outgoing=())


# -- whose majority counts ---------------------------------------------------------------------------------------------


def _counted_by(half: Callable[[Configuration], Configuration]) -> Callable[[Configuration, Any], int]:
    return lambda of, values: quorum_value(half(of), values)


def _elected_by(half: Callable[[Configuration], Configuration]) -> Callable[[Configuration, Any], bool]:
    return lambda of, ids: has_quorum(half(of), ids)


@mutant
def joint_committed_by_the_new() -> Sequence[Patch]:
    """A leader commits by the new voters alone while a change is joint."""
    return [(state_module, "quorum_value", _counted_by(_new_half))]


@mutant
def joint_committed_by_the_old() -> Sequence[Patch]:
    """A leader commits by the voters of before alone while a change is joint."""
    return [(state_module, "quorum_value", _counted_by(_old_half))]


@mutant
def joint_elected_by_the_new() -> Sequence[Patch]:
    """A candidate counts the new voters alone while a change is joint."""
    return [(election, "has_quorum", _elected_by(_new_half))]


@mutant
def joint_elected_by_the_old() -> Sequence[Patch]:
    """A candidate counts the voters of before alone while a change is joint."""
    return [(election, "has_quorum", _elected_by(_old_half))]


@mutant
def voters_changed_in_one_step() -> Sequence[Patch]:
    """Any set of voters takes the place of another, without a joint configuration."""

    def at_once(before: Configuration, steps: Sequence[Step]) -> Configuration:
        after = next_configuration(before, steps)
        return configuration.next_stage(after) or after if after.outgoing else after

    return [(membership, "next_configuration", at_once)]


@mutant
def learners_counted() -> Sequence[Patch]:
    """A leader counts learners as if they voted."""

    return [(RaftState, "quorum_value", lambda _self, of_peers, own: majority_value([*of_peers, own]))]


@mutant
def leader_without_a_vote_counts_itself() -> Sequence[Patch]:
    """A leader that is not among the voters any more counts its own copy as one of theirs."""
    sound = RaftState.quorum_value

    def with_itself(self: RaftState, of_peers: list[int], own: int) -> int:
        if self.has_vote:
            return sound(self, of_peers, own)
        values = dict(zip(self.progress, of_peers, strict=True))
        return majority_value([*[values[voter] for voter in self.configuration.voters][1:], own])

    return [(RaftState, "quorum_value", with_itself)]


@mutant
def candidate_without_a_vote_counts_itself() -> Sequence[Patch]:
    """A candidate that is not among the voters any more counts its own vote as one of theirs."""

    def with_itself(of: Configuration, ids: list[NodeId]) -> bool:
        strangers = [name for name in ids if not of.has_voter(name)]
        return has_quorum(of, [*ids, *[name for name in of.voters if name not in ids][: len(strangers)]])

    return [(election, "has_quorum", with_itself)]


@mutant
def batch_committed_by_the_configuration_before() -> Sequence[Patch]:
    """Entries that come with a configuration are committed by the majority of the one before it."""

    def advance(state: RaftState) -> None:
        matched = [progress.match_index if progress.is_voter else 0 for progress in state.progress.values()]
        values = dict(zip(state.progress, matched, strict=True)) | {state.config.node_id: state.log.flushed}
        counting = state.log.configurations.at(state.log.commit_index)
        complete = {name: values.get(name, 0) for name in {*counting.ids(), *values}}
        index = Index(quorum_value(counting, complete))
        if index > state.log.commit_index and state.log.term_at(index) == state.current_term:
            state.log.commit_to(index)

    return [(replication, "advance_commit_index", advance)]


# -- from when to when a configuration counts --------------------------------------------------------------------------


@mutant
def configuration_counts_when_committed() -> Sequence[Patch]:
    """A node goes by a configuration once it knows that it is committed, and not from its append on."""
    advance, change = membership.advance, RaftState._change_configuration

    def wait(self: RaftState, newest: Configuration) -> None:
        if newest.index <= self.log.commit_index:
            change(self, newest)
        else:
            self.is_changing = True

    def late(state: RaftState, now: int) -> None:
        newest = state.log.configurations.newest
        if newest.index <= state.log.commit_index and newest is not state.configuration:
            change(state, newest)
        advance(state, now)

    return [(RaftState, "_change_configuration", wait), (membership, "advance", late)]


@mutant
def cut_keeps_the_configuration() -> Sequence[Patch]:
    """A configuration counts on when its entry is cut."""
    return [(Configurations, "cut", lambda _self, _index: None)]


@mutant
def cut_keeps_the_index() -> Sequence[Patch]:
    """When a configuration is cut the one before counts again, but under the index of the one that went."""
    cut = Configurations.cut

    def keep(self: Configurations, index: Index) -> None:
        gone = self.newest
        cut(self, index)
        if self.newest is not gone:
            self._all[-1] = replace(self._all[-1], index=Index(index - 1))
            self.changed(self.newest)

    return [(Configurations, "cut", keep)]


@mutant
def restart_forgets_what_is_not_committed() -> Sequence[Patch]:
    """A start goes by the configurations that are known to be committed, whatever the log holds behind them."""
    begin = RaftState.__init__

    def forget(self: RaftState, config: Any, stored: StoredLog, *rest: Any, **named: Any) -> None:
        committed = max(stored.standing.committed.index, stored.base.index)
        known = tuple(each for each in stored.configurations if each.index <= committed)
        begin(self, config, replace(stored, configurations=known), *rest, **named)

    return [(RaftState, "__init__", forget)]


@mutant
def checkpoint_names_the_newest() -> Sequence[Patch]:
    """A checkpoint, and a snapshot made of it, names a configuration that lies behind it and may be cut."""

    def newest(self: Raft, index: Index) -> Configuration | None:
        del index
        return self.configuration if self.configuration.index else None

    return [(Raft, "stored_configuration_at", newest)]


@mutant
def checkpoint_without_configuration() -> Sequence[Patch]:
    """A checkpoint names no configuration: where the log behind it is gone, the first one counts again."""
    return [(Raft, "stored_configuration_at", lambda _self, _index: None)]


@mutant
def snapshot_without_configuration() -> Sequence[Patch]:
    """Whoever installs a snapshot goes by the first configuration."""
    piece_of = snapshot_source._piece_of
    return [(snapshot_source, "_piece_of", lambda *given: piece_of(*given)._replace(configuration=None))]


@mutant
def compaction_forgets_the_configuration() -> Sequence[Patch]:
    """What counted at the log's base is forgotten with the entries before it."""

    def forget(self: Configurations, base: Index) -> None:
        self._all = [self._initial, *[each for each in self._all if each.index > base]]

    return [(Configurations, "compact", forget)]


# -- what a change may be ----------------------------------------------------------------------------------------------


@mutant
def promoted_before_it_has_caught_up() -> Sequence[Patch]:
    """A learner gets a vote whatever it holds."""
    return [(membership, "_require_caught_up", lambda _state, _node_id: None)]


@mutant
def new_address_gives_a_vote() -> Sequence[Patch]:
    """Who is named with another address is a voter from then on: that it was a learner is not copied."""

    def forget(before: Configuration, steps: Sequence[Step]) -> Configuration:
        after = next_configuration(before, steps)
        moved = {step.member.node_id for step in steps if isinstance(step, Readdress)}
        return replace(
            after,
            voters=tuple(sorted({*after.voters, *moved} - {*after.leaving})),
            learners=tuple(name for name in after.learners if name not in moved),
        )

    return [(membership, "next_configuration", forget)]


def _planned_with(steps_of: Callable[[RaftState, Index], Index]) -> Sequence[Patch]:
    plan = membership.plan

    def changed(state: RaftState, now: int, against: Index, steps: Sequence[Step]) -> Configuration:
        return plan(state, now, steps_of(state, against), steps)

    return [(membership, "plan", changed)]


@mutant
def against_not_checked() -> Sequence[Patch]:
    """Of two operators the second changes what it has not seen."""
    return _planned_with(lambda state, _against: state.configuration.index)


def _hurried(refusal: type[ChangeRefused]) -> Sequence[Patch]:
    """Return a plan of a change that passes over one refusal."""
    plan = membership.plan

    def hurry(state: RaftState, now: int, against: Index, steps: Sequence[Step]) -> Configuration:
        try:
            return plan(state, now, against, steps)
        except refusal:
            if state.role is not LEADER or state.transfer is not None or against != state.configuration.index:
                raise
            return next_configuration(state.configuration, steps)

    return [(membership, "plan", hurry)]


@mutant
def two_changes_at_once() -> Sequence[Patch]:
    """A change is begun while another is not complete."""
    return _hurried(changes.ChangeInProgress)


@mutant
def changed_before_the_term_began() -> Sequence[Patch]:
    """A leader changes members before it has committed anything in its term (raft-dev, 2015-07-10)."""
    return _hurried(changes.NotReady)


@mutant
def id_used_again() -> Sequence[Patch]:
    """Who went is not remembered: another node may have its id."""

    def is_present(of: Configuration, node_id: NodeId) -> bool:
        return node_id in of.ids()

    return [(changes, "was_used", is_present)]


@mutant
def former_members_not_listed() -> Sequence[Patch]:
    """A configuration does not say who went."""
    return [(configuration, "_with_former", lambda of, _gone: of)]


# -- who goes on with it, and who is told ------------------------------------------------------------------------------


@mutant
def change_lost_with_its_leader() -> Sequence[Patch]:
    """A leader goes on with the changes only that it has begun itself."""
    become = RaftState.become_leader

    def ignore(self: RaftState, now: int) -> None:
        become(self, now)
        self.is_changing = False

    return [(RaftState, "become_leader", ignore)]


@mutant
def leader_without_a_vote_stays() -> Sequence[Patch]:
    """A leader whose vote is gone leads on."""
    return [(membership, "_leave_office", lambda _state, _now: None)]


@mutant
def those_who_leave_are_not_waited_for() -> Sequence[Patch]:
    """Who loses its vote is let go at once, told or not."""
    return [(membership, "_are_told", lambda _state, _now: True)]


@mutant
def removed_leader_cannot_campaign() -> Sequence[Patch]:
    """Who has no vote in its newest configuration never campaigns, though nobody else may hold that configuration."""
    return [(RaftState, "may_campaign", property(lambda self: self.has_vote))]


@mutant
def links_to_removed_nodes_go_on() -> Sequence[Patch]:
    """Whoever was reached once is dialled, heard and told for ever."""
    reached = Members.reached

    def all_ever(self: Any) -> tuple[Member, ...]:
        ever = getattr(self, "_ever", {}) | {member.node_id: member for member in reached(self)}
        self._ever = ever
        return tuple(ever[name] for name in sorted(ever))

    return [(Members, "reached", all_ever)]


@mutant
def removed_nodes_are_not_told() -> Sequence[Patch]:
    """A removed node that dials is a stranger like any other."""
    return [(Members, "was_removed", lambda _self, _node_id: False)]


SHOWN_BY_SCRIPT: Final = {
    "candidate_without_a_vote_counts_itself": "removed_leader_campaigns",
    "removed_leader_cannot_campaign": "removed_leader_campaigns",
    "leader_without_a_vote_stays": "leader_without_vote",
    "change_lost_with_its_leader": "joint_left_by_next_leader",
    "those_who_leave_are_not_waited_for": "removed_node_is_left_alone",
}
"""What these break, the simulation meets too seldom: the script of tests/raft/scripts that tells of it."""
