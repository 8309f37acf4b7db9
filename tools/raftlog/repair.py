"""``raftlog repair`` and ``raftlog recover``: new directories from what survived, with the argument for them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from durable_raft.addresses import format_cluster, parse_cluster
from durable_raft.errors import ConfigError, DurableRaftError, StorageError
from durable_raft.raft.configuration import describe_stored
from durable_raft.raft.quorum import halves, has_quorum, majority
from durable_raft.raft.types import ORIGIN, Configuration, HardState, Identity, Membership, Standing, Term
from durable_raft.storage.directory import running_node
from durable_raft.storage.time_request import request_time_reset
from raftlog.beginning import NoBeginning, begin, beginning_of
from raftlog.choose import DIRECTORY, DIRECTORY_PATH, value_bytes_option
from raftlog.gather import Unreadable
from raftlog.merging import Merged, merge
from raftlog.rebuild import rebuild
from raftlog.resetting import TERM_MAX, Reset, argument, forgotten, objection
from raftlog.running import CLEAN, REFUSED, WOUNDED, complain
from raftlog.survivors import Survivor, read_survivor

_REPAIR_EPILOG = """\b
Examples:
  raftlog repair n1 --peers n2 --peers n3            what would be done, and why
  raftlog repair n1 --peers n2 --peers n3 --apply    write n1.repaired-DATE and so on
  raftlog repair n1 --lose-from-index 4711 --apply   give up what follows: may lose acknowledged writes
  raftlog repair n1 --peers n2 --peers n3 --reset-term --apply
                                                     begin again below a term that no election can pass

\b
Exit codes:
  0  written, or nothing is wounded
  1  a dry run that would write
  2  refused, or wrong usage
"""

_RECOVER_EPILOG = """\b
Examples:
  raftlog recover n2 --cluster m1=10.0.0.1:7001,m2=10.0.0.2:7001,m3=10.0.0.3:7001 --output new
  raftlog recover n2 --cluster m1=10.0.0.1:7001 --output new --apply

\b
Exit codes:
  0  written
  1  a dry run
  2  refused, or wrong usage
"""


def _membership(ctx: click.Context, param: click.Parameter, text: str) -> Membership:
    """Return the membership of a ``--cluster`` list; one that no node would take is wrong usage."""
    try:
        return parse_cluster(text)
    except ConfigError as error:
        raise click.BadParameter(str(error), ctx, param) from error


class Refused(DurableRaftError):
    """What was asked for cannot be done; the text says why."""


@click.command(epilog=_REPAIR_EPILOG)
@DIRECTORY
@click.option(
    "--peers", type=DIRECTORY_PATH, multiple=True, help="Another surviving directory of the cluster; repeat it."
)
@click.option("--apply", "applies", is_flag=True, help="Write; else only say what would be written.")
@click.option("--lose-from-index", "lose_from", type=int, help="Leave out everything from this index on.")
@click.option(
    "--reset-time", "resets_time", is_flag=True, help="Have the next leader set the cluster time to the nodes' clocks."
)
@click.option("--reset-term", is_flag=True, help="Forget a term that leaves none above it; needs every directory.")
@click.option(
    "--reset-disks", is_flag=True, help="Take these directories for the nodes' disks, whatever the others know."
)
def repair(
    directory: Path,
    peers: tuple[Path, ...],
    lose_from: int | None,
    *,
    applies: bool,
    resets_time: bool,
    reset_term: bool,
    reset_disks: bool,
) -> None:
    """Make whole directories from DIRECTORY and its peers, when the nodes cannot heal each other.

    Says what was certainly committed, possibly committed, and certainly not, and why; takes each entry from whoever has
    an intact copy; writes a new directory beside each old one, which is kept. Nodes that run are refused.

    --reset-term and --reset-disks heal what a node that lied or was broken has said in its peers' name. All nodes must
    be stopped, and all be started from the new directories.

    With --reset-time a request is left in the directories for their nodes: whichever leads next sets the cluster time,
    back or ahead, to the clock that a majority agrees on. No entry is changed.
    """
    reset = Reset(reset_term, reset_disks)
    _end(lambda: _repair([directory, *peers], lose_from, reset, applies=applies, resets_time=resets_time))


@click.command(epilog=_RECOVER_EPILOG)
@click.argument("directories", nargs=-1, required=True, type=DIRECTORY_PATH)
@click.option(
    "--cluster",
    "membership",
    required=True,
    callback=_membership,
    metavar="ID=HOST:PORT[@PEER_PORT],...",
    help="The nodes of the new cluster.",
)
@click.option("--output", required=True, type=DIRECTORY_PATH, help="Where the new directories go, by node id.")
@click.option("--apply", "applies", is_flag=True, help="Write; else only say what would be written.")
@click.option("--lose-from-index", "lose_from", type=int, help="Leave out everything from this index on.")
@value_bytes_option("As the old nodes had it; needed where entries are applied.")
def recover(
    directories: tuple[Path, ...],
    membership: Membership,
    output: Path,
    lose_from: int | None,
    value_bytes_max: int,
    *,
    applies: bool,
) -> None:
    """Make a new cluster from the surviving DIRECTORIES, when a majority is gone for good.

    What only the lost nodes held is lost: the argument says what may be. The new cluster has a new id, so that nodes of
    the old one that come back are not heard.

    Its members are those of --cluster. No entry says so: none is added, because a log holds what leaders wrote. The
    configurations of the old cluster stay behind. The new log begins after the last of them, with the state there.
    Where the state is older, the entries in between are applied to it.
    """
    _end(lambda: _recover(directories, membership, output, lose_from, value_bytes_max, applies=applies))


def _end(work: Callable[[], int]) -> None:
    """Exit with what ``work`` returns; what it refuses is told and has an exit code of its own."""
    try:
        sys.exit(work())
    except (Refused, NoBeginning, StorageError) as error:
        complain(str(error))
        sys.exit(REFUSED)


# -- repair -----------------------------------------------------------------------------------------------------------


def _repair(
    directories: Sequence[Path], lose_from: int | None, reset: Reset, *, applies: bool, resets_time: bool
) -> int:
    survivors, unreadable = _read(directories)
    merged = merge(survivors, is_all=not unreadable, lose_from=lose_from)
    if reset.is_asked and (why := objection(survivors, merged.possible, is_all=not unreadable)) is not None:
        raise Refused(why)
    _tell(survivors, unreadable, merged)
    if not has_quorum(merged.newest, {each.node_id for each in survivors}) and lose_from is None and merged.missing:
        raise Refused(_alone(survivors, merged))
    _require_whole(merged)
    _require_nobody_absent(survivors, merged)
    for line in argument(survivors, merged.newest, reset):
        click.echo(line)
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    members = [each for each in survivors if each.node_id in merged.configuration.ids()]
    targets = {each.node_id: each.directory.with_name(f"{each.directory.name}.repaired-{date}") for each in members}
    for each in survivors:
        if each not in members:
            click.echo(f"{each.directory}: {each.node_id} is no member by that log: nothing is written for it")
    if not unreadable and not merged.given_up and _are_sound(survivors) and not reset.is_asked:
        click.echo("nothing is wounded: nothing to be written")
        return _request_reset([each.directory for each in survivors], applies=applies) if resets_time else CLEAN
    term = max(merged.last.term, *(each.meta.hard_state.current_term for each in survivors))
    for each in members:
        click.echo(f"{'writing' if applies else 'would write'} {targets[each.node_id]}")
        if applies:
            own, standing = forgotten(each, survivors, reset)
            held = own if reset.term or own.current_term == term else HardState(term, None)
            meta = each.meta
            rebuild(targets[each.node_id], merged, meta.identity, meta.membership, held, _moved(standing, held))
    if resets_time:
        _request_reset(list(targets.values()), applies=applies)
    if applies:
        click.echo("start each node with its new directory; keep the old ones until the cluster serves")
    return CLEAN if applies else WOUNDED


def _request_reset(directories: Sequence[Path], *, applies: bool) -> int:
    """Leave the request beside the log: an entry that is edited or added here would be another than the absent have."""
    for directory in directories:
        click.echo(f"{'asking' if applies else 'would ask'} the node of {directory} to set the time when it leads")
        if applies:
            request_time_reset(directory)
    return CLEAN if applies else WOUNDED


def _are_sound(survivors: Sequence[Survivor]) -> bool:
    """Return whether every directory can be started as it is."""
    return all(not each.wounds and (each.state is not None or not each.meta.base.point.index) for each in survivors)


def _alone(survivors: Sequence[Survivor], merged: Merged) -> str:
    first = merged.missing[0]
    here = {each.node_id for each in survivors}
    counted = " and ".join(
        f"{len([voter for voter in half if voter in here])} of {len(half)}" for half in halves(merged.newest)
    )
    return (
        f"{counted} voters are here, no majority, and {len(merged.missing)} entries from index"
        f" {first.index} on have no intact copy. Name the others with --peers. With --lose-from-index {first.index}"
        f" everything from there on is left out: that may lose acknowledged writes"
    )


def _require_whole(merged: Merged) -> None:
    if not merged.missing:
        return
    named = ", ".join(f"index {p.index} term {p.term} chain {p.chain:08x}" for p in merged.missing[:20])
    raise Refused(
        f"{len(merged.missing)} entries that may have been committed have no intact copy, and no sound state covers"
        f" them: {named}. --lose-from-index {merged.missing[0].index} leaves them and all that follows out: that may"
        " lose acknowledged writes"
    )


def _require_nobody_absent(survivors: Sequence[Survivor], merged: Merged) -> None:
    """Give a configuration up only where nobody who votes by it, or by the one before, is away.

    Raises:
        Refused: somebody is. The absent may go by it, and the others would go by another: two majorities.
    """
    if not merged.lost_configurations or merged.is_end_hopeless:
        return
    absent = _absent(survivors, merged.configuration, *merged.lost_configurations)
    if absent:
        lost = ", ".join(map(describe_stored, merged.lost_configurations))
        raise Refused(
            f"a configuration would be given up that may have been committed: {lost}. {', '.join(absent)} may go by it,"
            " so two majorities could come about. Name their directories with --peers. If they are gone for good,"
            " raftlog recover with the same --lose-from-index makes a new cluster, which they do not hear"
        )


# -- recover ----------------------------------------------------------------------------------------------------------


def _recover(
    directories: Sequence[Path],
    membership: Membership,
    output: Path,
    lose_from: int | None,
    value_bytes_max: int,
    *,
    applies: bool,
) -> int:
    survivors, unreadable = _read(directories)
    merged = merge(survivors, is_all=not unreadable, lose_from=lose_from)
    _tell(survivors, unreadable, merged)
    _require_whole(merged)
    beginning = beginning_of(merged)
    gone = _absent(survivors, merged.newest)
    if gone:
        click.echo(f"may be lost: what only {', '.join(gone)} held behind index {merged.last.index}")
    for line in beginning.lines():
        click.echo(line)
    cluster_id = os.urandom(16)
    term = Term(max(merged.last.term, *(each.meta.hard_state.current_term for each in survivors)) + 1)
    for member in membership.voters:
        target = output / member.node_id
        click.echo(f"{'writing' if applies else 'would write'} {target} of the new cluster {cluster_id.hex()}")
        if applies:
            identity = Identity(cluster_id, member.node_id, os.urandom(16))
            begin(target, beginning, identity, membership, term, value_bytes_max)
    if applies:
        click.echo(f"start each node with --cluster {format_cluster(membership)} --cluster-id {cluster_id.hex()}")
    return CLEAN if applies else WOUNDED


# -- both -------------------------------------------------------------------------------------------------------------


def _read(directories: Sequence[Path]) -> tuple[list[Survivor], dict[str, str]]:
    """Return what can be read, and why the others cannot."""
    survivors: list[Survivor] = []
    unreadable: dict[str, str] = {}
    for directory in directories:
        if (holder := running_node(directory)) is not None:
            raise Refused(f"{directory} is in use by {holder}: stop the node first")
        try:
            survivors.append(read_survivor(directory))
        except Unreadable as error:
            unreadable[str(directory)] = str(error)
    if not survivors:
        raise Refused("; ".join(f"{name}: {reason}" for name, reason in unreadable.items()))
    clusters = {each.meta.identity.cluster_id for each in survivors}
    nodes = [each.node_id for each in survivors]
    # That of a node that joined names nobody.
    memberships = {each.meta.membership.ids() for each in survivors if each.meta.membership.voters}
    if len(clusters) > 1 or len(memberships) > 1:
        raise Refused("the directories are of different clusters")
    if len(set(nodes)) != len(nodes):
        raise Refused(f"the same node twice: {', '.join(nodes)}")
    return survivors, unreadable


def _tell(survivors: Sequence[Survivor], unreadable: dict[str, str], merged: Merged) -> None:
    for line in _argument(survivors, unreadable, merged):
        click.echo(line)


def _argument(survivors: Sequence[Survivor], unreadable: dict[str, str], merged: Merged) -> Iterator[str]:
    """Yield the argument, a line each."""
    newest = merged.newest
    if newest.index:
        yield f"configuration: {describe_stored(newest)}"
    for half in halves(newest):
        yield f"voters: {', '.join(half)}; a majority is {majority(len(half))}"
    for each in survivors:
        meta, state = each.meta, each.state
        applied = "no sound state" if state is None else f"state at index {state.applied.point.index}"
        yield (
            f"{each.directory}: node {each.node_id}, term {meta.hard_state.current_term}, log"
            f" ({meta.base.point.index}, {each.last.index}] ending in term {each.last.term}, intact"
            f" {len(each.entries)}, wounds {each.wounds}, {applied}{'' if meta.standing.is_voter else ', not a voter'}"
        )
        for note in each.notes:
            yield f"{each.directory} note: {note}"
    for name, reason in unreadable.items():
        yield f"{name}: unreadable: {reason}"
    gone = _absent(survivors, newest)
    if gone:
        yield f"not here: {', '.join(gone)}"
    yield (
        f"the log of {merged.best.directory} would win an election: its last entry is index {merged.best.last.index} of"
        f" term {merged.best.last.term}; whatever is committed is in it, if a majority is here (Raft §5.4)"
    )
    for judged in merged.verdicts:
        yield f"index {judged.range}: {judged.verdict}: {judged.why}"
    if merged.state_of is not None and merged.state_of.state is not None:
        summary = merged.state_of.state.summary
        index = merged.state_of.state.applied.point.index
        yield f"state: from {merged.state_of.directory}, at index {index}, {summary.key_count} keys"
    for name, count in merged.taken.items():
        yield f"entries: {count} from {name}"
    for point in merged.given_up:
        yield f"given up: index {point.index} term {point.term} chain {point.chain:08x}"
    for configuration in merged.lost_configurations:
        yield f"given up: {describe_stored(configuration)}; what counts then is {_counts(merged.configuration)}"


def _counts(configuration: Configuration) -> str:
    return describe_stored(configuration if configuration.index else None)


def _absent(survivors: Sequence[Survivor], *configurations: Configuration) -> list[str]:
    """Return the voters of any of ``configurations`` whose directory is not here."""
    here = {each.node_id for each in survivors}
    return sorted({voter for each in configurations for voter in (*each.voters, *each.outgoing)} - here)


def _moved(standing: Standing, held: HardState) -> Standing:
    """Return the standing for a log that is written again elsewhere, and may be a shorter one.

    So nobody is owed what was acknowledged before: whoever leads from now on does so in a newer term (raft/lives.py).
    """
    return replace(standing, committed=ORIGIN, place=b"", cut_in=Term(min(held.current_term + 1, TERM_MAX)))
