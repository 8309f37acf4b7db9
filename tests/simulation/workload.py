"""What the clients of a run ask. The first letter of a key says how its history is judged.

======  =====================  ===============================================================================
letter  object                 commands
======  =====================  ===============================================================================
``r``   a register             GET, SET (also NX, XX, XX GET), GETSET, GETDEL, DEL, and INCR, mostly of text
``c``   a counter              INCR and GET only: on one connection it never shows less than before
``g``   a small group of keys  MSET, MGET, EXISTS and DEL of several, all a register has of one; one object
``t``   keys that expire       SET PX; no history, but replicas must agree on them whatever their clocks say
======  =====================  ===============================================================================

In some runs a group is the whole store, which makes DBSIZE one of its commands. Values are written once.

Which of many partial changes of a group took effect, when nobody was told, is too much for any judge. So while several
are open, clients change a group only as a whole, as if it were one register.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulation.swarm import Swarm

Command = tuple[bytes, ...]

PARTIAL_CHANGES_MAX: Final = 8
"""Changes of some of a group's keys that may be open, or of unknown outcome, when a client begins another."""

READS: Final = frozenset({b"get", b"mget", b"exists", b"dbsize"})


def object_of(args: Command) -> bytes | None:
    """Return the object whose history a command belongs to; None when it has none."""
    if args[0] == b"dbsize":
        return b"g0"
    key = args[1]
    if key[:1] == b"g":
        return key.partition(b".")[0]
    return key if key[:1] in b"rc" else None


def group_keys(swarm: Swarm, group: int) -> list[bytes]:
    """Return the keys of a group."""
    return [b"g%d.%d" % (group, number) for number in range(swarm.group_keys)]


def final_reads(swarm: Swarm) -> list[Command]:
    """Return commands that read every key with a history."""
    reads: list[Command] = [(b"mget", *group_keys(swarm, group)) for group in range(swarm.groups)]
    if swarm.is_group_all:
        return [*reads, (b"dbsize",)]
    return [*reads, *((b"get", kind + b"%d" % number) for kind in (b"r", b"c") for number in range(swarm.keys))]


class OpenChanges:
    """How many partial changes of each group have no answer."""

    def __init__(self, swarm: Swarm) -> None:
        self._keys = swarm.group_keys
        self._open: Counter[bytes] = Counter()

    def may_begin(self, group: int) -> bool:
        """Return whether one more may begin."""
        return self._open[b"g%d" % group] < PARTIAL_CHANGES_MAX

    def asked(self, args: Command, change: int = 1) -> None:
        """Note that a command was sent; with -1: that it is not open any more."""
        if args[0] in READS or args[1][:1] != b"g":
            return
        named = len(args) // 2 if args[0] == b"mset" else len(args) - 1
        if args[0] not in (b"mset", b"del") or named < self._keys:
            self._open[args[1].partition(b".")[0]] += change

    def answered(self, args: Command) -> None:
        """Note that the outcome of a command is known."""
        self.asked(args, -1)


class Workload:
    """Draws one client's commands."""

    def __init__(self, swarm: Swarm, changes: OpenChanges, client: int, rng: random.Random) -> None:
        self._swarm = swarm
        self._changes = changes
        self._client = client
        self._rng = rng
        self._values = 0

    def draw(self) -> Command:
        """Return the next command."""
        rng, swarm = self._rng, self._swarm
        if swarm.groups and rng.random() < swarm.group_share:
            return self._of_group()
        key = b"%d" % rng.randrange(swarm.keys)
        if rng.random() < swarm.reads:
            return (b"get", rng.choice((b"r", b"c")) + key)
        choice = rng.random()
        if choice < 0.45:
            return (b"incr", b"c" + key)
        if choice < 0.92:
            return self._change_of(b"r" + key)
        return (b"set", b"t" + key, self._value(), b"px", b"%d" % rng.randint(1, 2_000))

    def _value(self) -> bytes:
        self._values += 1
        return b"%d.%d" % (self._client, self._values)

    def _change_of(self, key: bytes) -> Command:
        """Return a command that changes one key, or looks whether to."""
        choice = self._rng.random()
        if choice < 0.45:
            return (b"set", key, self._value())
        if choice < 0.60:
            return (b"set", key, self._value(), b"nx")
        if choice < 0.66:
            return (b"set", key, self._value(), b"xx")
        if choice < 0.73:
            return (b"set", key, self._value(), b"xx", b"get")
        if choice < 0.80:
            return (b"getset", key, self._value())
        if choice < 0.87:
            return (b"getdel", key)
        return (b"del", key) if choice < 0.95 else (b"incr", key)

    def _of_group(self) -> Command:
        rng, swarm = self._rng, self._swarm
        group = rng.randrange(swarm.groups)
        keys = group_keys(swarm, group)
        if rng.random() < swarm.reads:
            return self._look_at(rng.sample(keys, rng.randint(2, len(keys))))
        choice = rng.random()
        is_partial = self._changes.may_begin(group)
        if is_partial and choice < 0.25:
            return self._change_of(rng.choice(keys))
        some = rng.sample(keys, rng.randint(2, len(keys)) if is_partial else len(keys))
        if choice < 0.8:
            return (b"mset", *(word for key in some for word in (key, self._value())))
        return (b"del", *some)

    def _look_at(self, keys: list[bytes]) -> Command:
        choice = self._rng.random()
        if self._swarm.is_group_all and choice < 0.25:
            return (b"dbsize",)
        if choice < 0.45:
            # A key named twice is counted twice.
            return (b"exists", *keys, *keys[:1]) if self._rng.random() < 0.2 else (b"exists", *keys)
        return (b"mget", *keys) if choice < 0.85 else (b"get", keys[0])
