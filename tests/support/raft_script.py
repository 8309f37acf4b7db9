"""Scripts for the algorithm: events go in, what happened comes out, and a person can read both.

A script is a text file. A line that begins with ``> `` is an event; the lines under it are what it must cause, word for
word. Lines that begin with ``#`` and empty lines are prose.

What a line of the trace says:

    n1 -> n2  AppendEntries term 3, after 4/t2: 5/t3, commit 4
        A message arrives. ``5/t3`` is the entry at index 5, of term 3; here it follows entry 4 of term 2. The sender
        has committed up to 4. ``lost:`` before it: it does not arrive.
        n1 becomes leader of term 3; its log ends at 4
        Indented: what a node does because of the line above it.

The events. A cluster and what it finds when it starts:

    cluster n1 n2 n3 [/ n4] [limit=N ...]   a new cluster, of voters with empty disks; limits are fields of RaftConfig;
                                       behind the stroke are nodes on new disks that wait to be added
    given n1 log 1 1 2 term 3 [vote n2]   what n1 finds on its disk: the terms of its entries, its term, its vote
    given n1 new                       n1 finds a disk that nobody ever used

Time and messages:

    timeout n1 | run MS | wait MS      n1's timer runs out | time passes with everything delivered | time passes only
    deliver n1 n2 | drop n1 n2 | double n1 n2   what is on the way from n1 to n2 arrives | is lost | is there twice
    settle | votes | talk n1 n2        deliver all | only votes | only between these two: until nothing is on the way
    partition n1 / n2 n3 | deaf n1 | heal   only nodes of one group hear each other | n1 hears nobody | all as before

Clients:

    propose n1 WORD | read n1          ask n1 for a write | for a linearizable read

Members (raft/changes.py):

    change n1 add n4, promote n5, remove n3, demote n2   ask n1 for a change, made of these steps
    change n1 against 5 add n4         the same, made against the configuration at 5; else against the one of n1
    transfer n1 n2                     ask n1 to hand its leadership to n2

A node and its disk:

    crash n1 | restart n1              n1 loses its memory and what was not flushed | starts from its disk
    slow n1 | flush n1 | fast n1       n1's writes stay in flight | the oldest is flushed | all, and each at once again
    prefer n1 5 | link                 n1 is started with that election priority | all know who runs, and with which one
    full n1 | roomy n1                 n1's disk has less room than is held in reserve | enough
    doom n1                            n1 will crash at its next write: after the flush, before anything is sent
    rot n1 2 3 | scrub n1              entries 2 and 3 rot on n1's disk, unnoticed | n1 reads all its disk, and notices
    wipe n1                            n1, which is down, gets an empty disk in place of its own
    checkpoint n1 4                    n1's state at 4 is durable, and its log begins behind 4
    install n1                         n1 has fetched the snapshot that it was offered, and goes on from it

Looking:

    logs                               the terms in each log; ``*``: not flushed, ``x``: rotten, ``.``: compacted away
    members                            the configuration that each node goes by
    quietly EVENT                      the event, without its trace

An AppendEntries leaves the leader before its own write is flushed (Ongaro §10.2.1); ``doom`` turns that round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from durable_raft.errors import ChangeRefused
from durable_raft.raft.changes import AddLearner, Demote, Promote, Remove, Step
from durable_raft.raft.configuration import describe
from durable_raft.raft.messages import RequestVote, RequestVoteResponse
from durable_raft.raft.types import Index, Member, NodeId
from tests.support.raft_cluster import Cluster
from tests.support.raft_disk import Disk
from tests.support.raft_nodes import Limits, Node


def run_script(text: str) -> str:
    """Run a script and return it with what really happened under each event."""
    return played(text, Script().event)


def played(text: str, event: Callable[[str], list[str]]) -> str:
    """Return a script with what ``event`` returns under each of its events; raises AssertionError, naming the line."""
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("> "):
            lines.append(line)
            try:
                lines.extend(event(line[2:]))
            except Exception as error:
                raise AssertionError(f"line {number}: {line}: {error!r}") from error
        elif not line or line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


class Script:
    """The state between two lines."""

    def __init__(self) -> None:
        self._voters = self._joiners = ""
        self._limits = Limits()
        self._disks: dict[str, Disk] = {}
        self._cluster: Cluster | None = None
        self._disks_of: dict[str, int] = {}
        """By node: how many disks it has had."""

    def event(self, line: str) -> list[str]:
        """Do one event and return the trace it caused."""
        verb, *words = line.split()
        if verb == "quietly":
            self.event(" ".join(words))
            return []
        if verb == "cluster":
            voters, _, joiners = " ".join(word for word in words if "=" not in word).partition("/")
            self._voters, self._joiners = voters.strip(), joiners.strip()
            limits = {key: int(value) for key, _, value in (word.partition("=") for word in words if "=" in word)}
            self._limits = cast("Limits", limits)
            self._cluster, self._disks_of = None, {}
            self._disks = {name: self._disk_of(name, []) for name in self._voters.split()}
            self._disks |= {name: self._disk_of(name, ["new"]) for name in self._joiners.split()}
            return []
        if verb == "given":
            self._disks_of[words[0]] = 0
            self._disks[words[0]] = self._disk_of(words[0], words[1:])
            return []
        if self._cluster is None:
            self._cluster = Cluster(self._voters, joiners=self._joiners, disks=self._disks, **self._limits)
        if verb == "wipe":
            self._cluster.wipe(words[0], self._disk_of(words[0], ["new"]))
            return [f"{words[0]} has an empty disk"]
        if verb == "logs":
            return _draw_logs(self._cluster)
        if verb == "members":
            return _members(self._cluster)
        _VERBS[verb](self._cluster, *words)
        trace, self._cluster.trace = self._cluster.trace, []
        return trace

    def _disk_of(self, name: str, words: list[str]) -> Disk:
        """Return the next disk of ``name``, whose uuid says which one it is."""
        number = self._disks_of[name] = self._disks_of.get(name, 0) + 1
        values: dict[str, list[str]] = {}
        key = ""
        for word in words:
            if word in ("log", "term", "vote", "new"):
                key = word
                values[key] = []
            else:
                values[key].append(word)
        return Disk(
            " ".join(values.get("log", [])),
            term=int(values["term"][0]) if "term" in values else None,
            vote=values["vote"][0] if "vote" in values else None,
            node_uuid=f"{name}'s disk {number}".encode().ljust(16, b"\0"),
            is_voter="new" not in values,
        )


def _votes(cluster: Cluster) -> None:
    """Deliver votes, requests and answers, until none is on the way."""
    kinds = (RequestVote, RequestVoteResponse)
    while positions := [number for number, packet in enumerate(cluster.packets) if isinstance(packet.message, kinds)]:
        cluster.arrive(cluster.packets.pop(positions[0]))


def _talk(cluster: Cluster, one: str, other: str) -> None:
    """Deliver between two nodes until nothing is on the way between them."""
    while cluster.deliver(one, other) + cluster.deliver(other, one):
        pass


def _wait(cluster: Cluster, ms: str) -> None:
    cluster.now += int(ms)


def _double(cluster: Cluster, source: str, target: str) -> None:
    """Put a copy of all that is on the way from ``source`` to ``target`` behind it."""
    cluster.packets += [packet for packet in cluster.packets if (packet.source, packet.target) == (source, target)]


def _deafen(cluster: Cluster, name: str) -> None:
    for source in cluster.nodes:
        cluster.cut(source, name)


def _partition(cluster: Cluster, *words: str) -> None:
    cluster.partition(*(group.split() for group in " ".join(words).split("/")))


def _propose(cluster: Cluster, name: str, word: str) -> None:
    entry = cluster.propose(name, word)
    if entry is None:
        why = "it hands its leadership over" if cluster[name].is_transferring else "it does not lead"
        cluster.say(f"    {name} refuses the write: {why}")


def _change(cluster: Cluster, name: str, *words: str) -> None:
    against = int(words[1]) if words[0] == "against" else None
    asked = " ".join(words[2:] if words[0] == "against" else words)
    steps = [_step(*each.split()) for each in asked.split(", ")]
    try:
        cluster.change(name, *steps, against=against)
    except ChangeRefused as error:
        cluster.say(f"    {name} refuses the change: {error}")


def _step(verb: str, name: str) -> Step:
    node_id = NodeId(name)
    if verb == "add":
        return AddLearner(Member(node_id, f"{name}:1", f"{name}:2"))
    steps: dict[str, Callable[[NodeId], Step]] = {"promote": Promote, "demote": Demote, "remove": Remove}
    return steps[verb](node_id)


def _transfer(cluster: Cluster, name: str, target: str) -> None:
    try:
        cluster.transfer(name, target)
    except ChangeRefused as error:
        cluster.say(f"    {name} refuses the transfer: {error}")


def _members(cluster: Cluster) -> list[str]:
    """Say what each node goes by; one that is down goes by nothing."""
    lines = []
    for node in cluster.nodes.values():
        if node.raft is None:
            lines.append(f"{node.name}: down")
            continue
        configuration = node.raft.configuration
        committed = "" if node.raft.is_configuration_committed else ", not known to be committed"
        lines.append(f"{node.name}: {describe(configuration)} (at {configuration.index}{committed})")
    return lines


def _doom(cluster: Cluster, name: str) -> None:
    cluster.node(name).dies_before_send = True


def _full(cluster: Cluster, name: str) -> None:
    cluster[name].note_room(_ROOM_BYTES, is_low=True)


def _roomy(cluster: Cluster, name: str) -> None:
    cluster[name].note_room(_ROOM_BYTES, is_low=False)


def _rot(cluster: Cluster, name: str, *indexes: str) -> None:
    cluster.disk(name).rotten |= {int(index) for index in indexes}


_ROOM_BYTES = 1 << 20

_VERBS: dict[str, Callable[..., object]] = {
    "change": _change,
    "checkpoint": lambda cluster, name, upto: cluster.checkpoint(name, int(upto)),
    "crash": Cluster.crash,
    "deaf": _deafen,
    "deliver": Cluster.deliver,
    "doom": _doom,
    "double": _double,
    "drop": Cluster.drop,
    "fast": Cluster.fast,
    "flush": Cluster.flush,
    "full": _full,
    "heal": Cluster.heal,
    "install": Cluster.install,
    "link": Cluster.link,
    "partition": _partition,
    "prefer": lambda cluster, name, priority: cluster.prefer(**{name: int(priority)}),
    "propose": _propose,
    "read": Cluster.read,
    "restart": Cluster.restart,
    "roomy": _roomy,
    "rot": _rot,
    "run": lambda cluster, ms: cluster.run(int(ms)),
    "scrub": Cluster.scrub,
    "settle": Cluster.settle,
    "slow": Cluster.slow,
    "talk": _talk,
    "timeout": Cluster.timeout,
    "transfer": _transfer,
    "votes": _votes,
    "wait": _wait,
}


EVENTS = ("cluster", "given", "logs", "members", "quietly", "wipe", *_VERBS)
"""All that a script may say."""


def _draw_logs(cluster: Cluster) -> list[str]:
    """Draw every log, one row a node, as Figure 7 does."""
    rows = [(node, _cells_of(node)) for node in cluster.nodes.values()]
    width = max([len(cells) for _, cells in rows] + [1])
    name_width = max(len(node.name) for node, _ in rows)
    lines = [" " * name_width + " |" + "".join(f"{index:>3} " for index in range(1, width + 1)) + "|"]
    for node, cells in rows:
        drawn = "".join(f"{cell:<4}" for cell in cells + [""] * (width - len(cells)))
        lines.append(f"{node.name:<{name_width}} |{drawn}| {_standing_of(node)}".rstrip())
    return lines


def _cells_of(node: Node) -> list[str]:
    """Return a cell for each entry: its term, and a mark when something is wrong with it."""
    first, last = node.disk.base.index + 1, node.disk.last.index
    if node.raft is None:
        terms = dict(enumerate(node.disk.terms(), start=first))
        flushed, lost = last, node.disk.rotten
    else:
        log = node.raft.log
        first, last, flushed, lost = log.first_index, log.last.index, log.flushed, set(log.lost)
        terms = {index: log.term_at(Index(index)) for index in range(first, last + 1)}
    compacted = ["  ."] * (first - 1)
    marks = {index: "*" if index > flushed else "x" if index in lost else "" for index in terms}
    return compacted + [f"{term:>3}{marks[index]}" for index, term in terms.items()]


def _standing_of(node: Node) -> str:
    if node.raft is None:
        return f"down, term {node.disk.hard_state.current_term}"
    own = node.raft.state.config.node_id
    voter = "" if node.raft.is_voter else ", not a voter yet"
    if node.raft.configuration.index and not node.raft.configuration.has_voter(own):
        voter += ", a learner" if own in node.raft.configuration.learners else ", no member"
    return f"{node.raft.role.value}, term {node.raft.current_term}, commit {node.raft.log.commit_index}{voter}"
