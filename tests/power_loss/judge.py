"""What must be found after a power cut: the states that are allowed at each cut, and whether an outcome is one of them.

A state is JSON text of what recovery returns (recovery.py); two states are the same when the texts are.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from durable_raft.raft.versions import FIRST
from tests.power_loss.members import grown
from tests.power_loss.operations import ABSENT, Flush, Link, Marker, Operation, Recording, Write
from tests.power_loss.pool import Outcome

ABSENT_STATE: Final = json.dumps(ABSENT)

CREATION: Final = "creation"
APPEND: Final = "append"
HARD_STATE: Final = "hard state"
TRUNCATION: Final = "truncation"
COMPACTION: Final = "compaction"
MOVE: Final = "move into LMDB"
BETWEEN: Final = "between transactions"
SERVING: Final = "commands of clients"
CHECKPOINT: Final = "checkpoint"
CONFIGURATION: Final = "configuration"
JOINT: Final = "joint configuration"
CONFIGURATION_CUT: Final = "configuration cut"
CONFIGURATION_PASSED: Final = "configuration compacted"
RAISED: Final = "version of the cluster"

MEMBER_ACTIVITIES: Final = (CONFIGURATION, JOINT, CONFIGURATION_CUT, CONFIGURATION_PASSED)
STORE_ACTIVITIES: Final = (CREATION, APPEND, HARD_STATE, TRUNCATION, COMPACTION, BETWEEN, *MEMBER_ACTIVITIES)
NODE_ACTIVITIES: Final = (CREATION, SERVING, CHECKPOINT, CONFIGURATION, RAISED)


KV_PREFIX: Final = "kv"
"""Of the names under which a KV state lies, is made, received or replaced."""

NOTHING: Final = -1
"""Last index where there is no log."""


def as_text(state: Any) -> str:
    """Return the text of a state."""
    return json.dumps(state, sort_keys=True)


class Judge(Protocol):
    """Knows what one recording promised."""

    def learn(self, cut: int, outcome: Outcome) -> None:
        """Take what a killed process (nothing lost) would have left at ``cut``; called for all cuts, in order."""

    def activities(self, cut: int) -> tuple[str, ...]:
        """Return what was in flight."""

    def allowed(self, cut: int) -> tuple[str, ...]:
        """Return the states that may be found."""


def verdict(judge: Judge, cut: int, outcome: Outcome) -> str | None:
    """Return what is wrong with an outcome at a cut, None when nothing is."""
    allowed = judge.allowed(cut)
    if outcome.state in allowed:
        return None
    if outcome.state is None:
        return f"recovery failed: {outcome.error}"
    if not allowed:
        return f"promised before it was even written; found {_short(json.loads(outcome.state))}"
    return "; nor ".join(_difference(json.loads(outcome.state), json.loads(state)) for state in allowed)


def _difference(found: Any, expected: Any) -> str:
    if ABSENT in (found, expected):
        return f"found {_short(found)}, expected {_short(expected)}"
    different = [key for key in expected if found[key] != expected[key]]
    parts = [f"{key} {found[key]} instead of {expected[key]}" for key in different if key != "entries"]
    if "entries" in different:
        parts.append(f"{_short(found)} instead of {_short(expected)}")
    return ", ".join(parts)


def _short(state: Any) -> str:
    if state == ABSENT:
        return "no log"
    first = state["base"][0]
    last = state["entries"][-1] if state["entries"] else state["base"][1:]
    return f"a log ({first}, {first + len(state['entries'])}] ending in term {last[0]} chain {last[1]:#010x}"


class StoreJudge:
    """The scripted workload tells each transaction before it begins and when it has been promised.

    Exactly the state before the one under way or exactly the state after it is allowed, nothing in between.
    """

    def __init__(self, recording: Recording) -> None:
        self._allowed: list[tuple[str, ...]] = [(ABSENT_STATE,)]
        self._activities: list[tuple[str, ...]] = [(CREATION,)]
        promised = ABSENT_STATE
        for operation in recording.operations:
            allowed, activities = self._allowed[-1], self._activities[-1]
            if isinstance(operation, Marker):
                state = as_text(operation.fields["state"])
                if operation.kind == "submit":
                    allowed = (promised, state) if state != promised else (promised,)
                    activities = tuple(operation.fields["activities"])
                else:
                    promised = state
                    allowed, activities = (promised,), (BETWEEN,)
            self._allowed.append(allowed)
            self._activities.append(activities)

    def learn(self, cut: int, outcome: Outcome) -> None:
        """Nothing: the markers say it all."""

    def activities(self, cut: int) -> tuple[str, ...]:
        """See the protocol."""
        return self._activities[cut]

    def allowed(self, cut: int) -> tuple[str, ...]:
        """See the protocol."""
        return self._allowed[cut]


class NodeJudge:
    """A real node tells only its clients: with each OK one more command must be found for ever.

    The states that the node went through are taken from what a killed process would have left at each cut: a power cut
    may leave one of them, not older than the last OK and not newer than the cut, and no other. As the log of the last
    of them holds every command that was sent, in order (the recorder looked), each of them up to the entry
    of an acknowledged command holds that command. The KV state beside the log has promised nothing by itself: recovery
    (recovery.py) opens it, fits it to the log and walks it.
    """

    def __init__(self, recording: Recording) -> None:
        entry_of: list[int] = recording.reference["entry_of_command"]
        self._needed = [NOTHING]
        """Last index that must be found at each cut."""
        self._states: list[str] = []
        self._lasts: list[int] = []
        self._members: list[int] = []
        """Index of the configuration that each state goes by."""
        self._versions: list[int] = []
        """Of the cluster, in each state."""
        self._newest: list[int] = []
        """Position of the newest state at each cut."""
        self._is_checkpoint = pending_below(recording.operations, KV_PREFIX)
        replies = 0
        for operation in recording.operations:
            if isinstance(operation, Marker):
                replies += operation.fields["ok"]
            self._needed.append(entry_of[replies - 1] if replies else NOTHING)

    def learn(self, cut: int, outcome: Outcome) -> None:
        """Take the states of the node, in order; one that did not open is a failure at ``verdict``."""
        if outcome.state is not None and outcome.state not in self._states[-1:]:
            if self._states and self._states[-1] != ABSENT_STATE:
                _check_grows(json.loads(self._states[-1]), json.loads(outcome.state))
            self._states.append(outcome.state)
            state = json.loads(outcome.state)
            self._lasts.append(_last_index(state))
            self._members.append(NOTHING if isinstance(state, str) else state["goes_by"][0])
            self._versions.append(FIRST if isinstance(state, str) else state["version"])
        assert cut == len(self._newest), f"cut {cut} after {len(self._newest)}"
        self._newest.append(len(self._states) - 1)

    def activities(self, cut: int) -> tuple[str, ...]:
        """See the protocol."""
        newest = self._newest[cut]
        if newest < 0 or self._lasts[newest] <= 0:
            return (CREATION,)
        found = [SERVING]
        if self._is_checkpoint[cut]:
            found.append(CHECKPOINT)
        possible = range(self._oldest(cut), newest + 1)
        if len({self._members[state] for state in possible}) > 1:
            found.append(CONFIGURATION)
        if len({self._versions[state] for state in possible}) > 1:
            found.append(RAISED)
        return tuple(found)

    def _oldest(self, cut: int) -> int:
        """Return the position of the first state that may be found."""
        return bisect.bisect_left(self._lasts, self._needed[cut], hi=self._newest[cut] + 1)

    def allowed(self, cut: int) -> tuple[str, ...]:
        """See the protocol."""
        return tuple(self._states[self._oldest(cut) : self._newest[cut] + 1])


def pending_below(operations: Sequence[Operation], prefix: str) -> list[bool]:
    """Return for each cut whether a write is pending to a file made in a directory whose name began with ``prefix``."""
    inodes: set[int] = set()
    pending: set[int] = set()
    found = [False]
    for operation in operations:
        match operation:
            case Link(directory=directory, name=name, inode=inode, is_directory=is_directory):
                if directory in inodes or (is_directory and name.startswith(prefix)):
                    inodes.add(inode)
            case Write(number=number, inode=inode) if inode in inodes:
                pending.add(number)
            case Flush(covers=covers):
                pending.difference_update(covers)
        found.append(bool(pending))
    return found


def _check_grows(old: Mapping[str, Any], new: Mapping[str, Any] | str) -> None:
    """Check that a killed node of a cluster of one loses no entry, term, vote, configuration or version, ever."""
    if isinstance(new, str):
        raise AssertionError(f"{_short(old)} was there, and then no log")
    same_from = new["base"][0] - old["base"][0]
    kept = old["entries"][same_from:]
    is_vote_kept = new["term"] > old["term"] or new["vote"] == old["vote"]
    if same_from < 0 or new["entries"][: len(kept)] != kept or new["term"] < old["term"] or not is_vote_kept:
        raise AssertionError(f"term {new['term']}, {_short(new)} after term {old['term']}, {_short(old)}")
    if new["version"] < old["version"]:
        raise AssertionError(f"{_short(new)}, version {new['version']} after {_short(old)}, version {old['version']}")
    if not grown(old["configurations"], new["configurations"], _last_index(old), new["base"][0]):
        raise AssertionError(f"{_short(new)}, {new['configurations']} after {_short(old)}, {old['configurations']}")


def _last_index(state: Mapping[str, Any] | str) -> int:
    if isinstance(state, str):
        return NOTHING
    return int(state["base"][0]) + len(state["entries"])


def judge_of(recording: Recording) -> Judge:
    """Return the judge of a recording's source."""
    return StoreJudge(recording) if recording.source == "store" else NodeJudge(recording)
