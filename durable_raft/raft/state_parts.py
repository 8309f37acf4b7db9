"""What the state of a node is made of beside its log: small records, each of one rule."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from durable_raft.raft.messages import ResumeResponse
from durable_raft.raft.types import Configuration, Index, NodeId, Term


class RoomLeft:
    """What this node's disk can still take of entries (room.py)."""

    __slots__ = ("free_bytes", "is_low", "is_refusing")

    def __init__(self) -> None:
        self.free_bytes = 1 << 62
        """Unbounded before the disk was looked at for the first time."""
        self.is_low = False
        self.is_refusing = False
        """Whether an entry found no room since there last was some."""


class Observer(Protocol):
    """Is told of every change worth a line in a log or a trace; must not call back into the core."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Note ``event``, a name such as ``became_leader``, with its values."""


class Transfer:
    """Leadership on its way to another node (transfer.py)."""

    __slots__ = ("ask_from", "target", "until")

    def __init__(self, target: NodeId, until: int) -> None:
        self.target = target
        self.until = until
        """When it is given up (ms)."""
        self.ask_from = -(1 << 62)
        """When to ask the other node, again, to campaign (ms)."""


class HandOver:
    """When this leader may hand over by itself again (ms), and to whom for the sake of priority (hand_over.py)."""

    __slots__ = ("attempts", "committed_then", "full_from", "hung_from", "keeping_up", "preferred_from", "term")

    def __init__(self) -> None:
        self.full_from = self.hung_from = -(1 << 62)
        """For want of room, and because its disk hangs."""
        self.begin(Term(0))

    def begin(self, term: Term) -> None:
        """Forget what was known in an earlier term of those with a higher priority."""
        self.term = term
        self.preferred_from = -(1 << 62)
        """To one of them."""
        self.attempts = 0
        """How often one of them did not take over in this term."""
        self.keeping_up: dict[NodeId, tuple[int, int]] = {}
        """Since when each of them keeps up, and when it was last seen to hold what was committed (ms)."""
        self.committed_then = Index(0)
        """What was committed at the last look: who holds that keeps up."""


class PendingRead:
    """A read that waits for a majority to confirm that this node still leads (Ongaro §6.4)."""

    __slots__ = ("read_id", "read_index", "read_round")

    def __init__(self, read_id: int, read_index: Index, read_round: int) -> None:
        self.read_id = read_id
        self.read_index = read_index
        self.read_round = read_round


class Search:
    """The search for entries that are lost here, started again with each loss (healing.py)."""

    __slots__ = ("absences", "behind", "lost_term", "rounds")

    def __init__(self, lost_term: Term) -> None:
        self.rounds = 0
        """How often somebody was asked since an entry was last found."""
        self.lost_term = lost_term
        """What this node acknowledged of these entries, it acknowledged in this term or before."""
        self.absences: dict[Index, set[NodeId]] = {}
        """By entry: the voters whose log does not hold it and who have left ``lost_term`` behind."""
        self.behind: set[NodeId] = set()
        """Peers whose last answer came from ``lost_term`` or before, so that it proves nothing."""


class Contradiction(NamedTuple):
    """A leader whose log has another entry where this node's has a committed one (contradiction.py)."""

    leader: NodeId
    leader_term: Term
    log_index: Index
    """Where."""
    term: Term
    """Of the leader's entry there."""


class Found(NamedTuple):
    """How a life found the log of a voter (lives.py)."""

    last: tuple[Term, Index]
    """Term and index of the last entry."""
    cut_in: Term
    """Term of the leader for whom it was cut last."""


class Doubts:
    """What speaks against this disk, or against what another disk said, in this life."""

    __slots__ = (
        *("answered", "answers", "contradiction", "found", "highest_life", "is_resumed", "told"),
        *("void_nonces", "void_votes"),
    )

    def __init__(self) -> None:
        self.is_resumed = True
        """Whether enough peers know of this life of the directory, and none objects (lives.py)."""
        self.found: Found | None = None
        """None where no voter began this life, and once it is known for a copy."""
        self.answers: dict[NodeId, ResumeResponse] = {}
        """What each peer knows of this directory, as its present disk said in this life."""
        self.answered: set[NodeId] = set()
        """Peers that have answered in this life, whichever disk they had: what they say again may be owed by it."""
        self.told: dict[NodeId, Configuration] = {}
        """By which configuration each node goes that said so."""
        self.highest_life = 0
        """Number of the latest life of this directory that any peer knew when this disk was introduced to it."""
        self.void_votes: dict[NodeId, Term] = {}
        """Peers that forgot what they promised: their votes up to this term do not count (admission.py)."""
        self.void_nonces: dict[NodeId, bytes] = {}
        """The life of each such peer that said so."""
        self.contradiction: Contradiction | None = None
        """The newest leader that contradicts what is known here to be committed; None once one agrees."""


class Reluctance:
    """Whether others are to lead rather than this node (reluctance.py)."""

    __slots__ = ("holds", "let_pass")

    def __init__(self) -> None:
        self.holds = False
        self.let_pass = 0
        """Election timeouts that this node let pass since it heard a leader."""
