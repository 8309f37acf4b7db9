"""Wounds that a peer's lie left: a term that uses up all terms, a disk that never was. They heal while no node runs.

*The term.* A term is forgotten, and the vote in it. Why that is safe when every member's directory is here and stopped:
a vote matters for an election that is under way, and none is, as nobody runs and no message of these terms is on its
way to anybody. An entry matters in whatever log it is, and all logs are here. The new term is above that of every
entry, of every state, and of every leader that anything was acknowledged to. So no two leaders of one term can have
written different entries (Raft §5.2), and whoever is elected next holds what is committed (§5.4): the logs are as they
were. Hence all are given, and all are used from then on. One old directory that is started beside them brings the
wound back, and a vote of its term that was forgotten.

*The disks.* Each node knows which disk speaks under which id. Where others know another disk than the directory that is
given, either that one was replaced, and it is the wrong directory, or the other never was. Only an operator knows. What
was committed stays whichever it is as long as so few are in doubt that every majority has one that is not: a committed
entry is in the log of one of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from durable_raft.raft.quorum import can_be_held, halves
from durable_raft.raft.types import Configuration, HardState, KnownDisk, Standing, Term
from raftlog.survivors import Survivor

TERM_MAX: Final = 1 << 62
"""A log whose entries are of later terms than this cannot be helped: no term above them would last."""


@dataclass(frozen=True, slots=True)
class Reset:
    """What an operator has asked to be forgotten."""

    term: bool
    disks: bool

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be forgotten."""
        return self.term or self.disks


def objection(survivors: Sequence[Survivor], possible: Sequence[Configuration], *, is_all: bool) -> str | None:
    """Return why nothing may be forgotten; None when it may. ``possible``: by which somebody may go."""
    here = {each.node_id for each in survivors}
    absent = sorted({node_id for each in possible for node_id in each.ids() if node_id not in here})
    if absent or not is_all:
        return f"every member's directory is needed to forget a term or a disk, readable: missing {', '.join(absent)}"
    if (highest := lowest_safe_term(survivors)) > TERM_MAX:
        return f"an entry or an acknowledgement is of term {highest - 1}: there is no room for terms above it"
    return None


def lowest_safe_term(survivors: Sequence[Survivor]) -> Term:
    """Return the term above every entry, state and acknowledgement that is here."""
    terms = [0]
    for each in survivors:
        standing = each.meta.standing
        terms += [each.last.term, each.meta.base.point.term, standing.committed.term]
        terms += [0 if each.state is None else each.state.applied.point.term]
        terms += [max(known.owed_in, known.owed_term) for known in standing.peers]
    return Term(max(terms) + 1)


def doubted(survivors: Sequence[Survivor]) -> dict[str, list[str]]:
    """Return the nodes whose directory is not the disk that others know, and who these are."""
    found: dict[str, list[str]] = {}
    for each in survivors:
        for known in each.meta.standing.peers:
            for other in survivors:
                if other.node_id == known.node_id and other.meta.identity.node_uuid != known.node_uuid:
                    found.setdefault(other.node_id, []).append(each.node_id)
    return found


def argument(survivors: Sequence[Survivor], newest: Configuration, reset: Reset) -> Iterator[str]:
    """Yield what is forgotten and why that is safe, a line each."""
    if reset.term:
        terms = ", ".join(f"{each.node_id} {each.meta.hard_state.current_term}" for each in survivors)
        yield (
            f"terms: {terms}; all begin again in term {lowest_safe_term(survivors)}, which is above every entry, state"
            " and acknowledgement here. Votes of other terms are forgotten: safe while no node runs, and only if all"
            " are started from the new directories"
        )
    if reset.disks:
        in_doubt = doubted(survivors)
        for node_id, by in sorted(in_doubt.items()):
            yield f"disks: {', '.join(by)} know another disk of {node_id}: its directory counts from now on"
        for half in halves(newest):
            if can_be_held(half, in_doubt):
                continue
            doubtful = [voter for voter in half if voter in in_doubt]
            yield (
                f"disks: {len(doubtful)} of {len(half)} are in doubt. If they were replaced by others that ran, what"
                " only those others held is lost: make sure that each directory is the newest of its node"
            )


def forgotten(survivor: Survivor, survivors: Sequence[Survivor], reset: Reset) -> tuple[HardState, Standing]:
    """Return what ``survivor`` begins with once that is forgotten; its place and its commit index are the caller's."""
    meta = survivor.meta
    held, standing = meta.hard_state, meta.standing
    if reset.term:
        held = HardState(lowest_safe_term(survivors), None)
    if reset.disks:
        peers = tuple(_known(known, survivors) for known in standing.peers)
        standing = replace(standing, peers=peers)
    return held, standing


def _known(known: KnownDisk, survivors: Sequence[Survivor]) -> KnownDisk:
    """Return what is known of a peer when the directory that is given is its disk."""
    found = (each.meta.identity.node_uuid for each in survivors if each.node_id == known.node_id)
    uuid = next(found, known.node_uuid)  # Of one that is no member any more there may be no directory.
    if uuid == known.node_uuid:
        return known
    former = tuple(each for each in (*known.former, known.node_uuid) if each != uuid)
    return replace(known, node_uuid=uuid, former=former, life=None)
