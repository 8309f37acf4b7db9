"""What the msgpack body of a kind of frame between nodes must look like: its message, and a check for each field."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from durable_raft.raft.messages import (
    FETCH_ENTRIES_MAX,
    FetchEntries,
    FetchEntriesResponse,
    InstallSnapshot,
    Introduce,
    IntroduceResponse,
    RequestVote,
    RequestVoteResponse,
    Resume,
    ResumeResponse,
    TimeoutNow,
)
from durable_raft.wire.fields import (
    ARRAY,
    FLAG,
    HASH,
    INDEX,
    KEY,
    KEYS,
    LIFE,
    LIVES_MAX,
    NAME,
    NONCE,
    NUMBER,
    NUMBERS,
    PAYLOAD,
    PRIORITY,
    PROOF,
    SUM,
    SUMS,
    TEXT,
    TIME,
    UUID,
    VERSION,
    Check,
)
from durable_raft.wire.messages import (
    SNAPSHOT_RECORDS_MAX,
    AskTime,
    Challenge,
    Confirm,
    Confirmed,
    FetchSnapshot,
    FrameKind,
    Hello,
    HelloReply,
    Proof,
    SnapshotChunk,
    StateHash,
    TellMembers,
    TellTime,
)


class Shape(NamedTuple):
    """What a body must look like: the class of its message and a check for each of its fields."""

    message: type[Any]
    checks: tuple[Check, ...]
    array_max: int = 16
    """Elements of any array in it. Arrays within arrays that only announce elements would take memory without it."""
    optional: int = 0
    """Up to so many of the last fields may be missing: a message that does not need them is sent without, as ever."""


SHAPES: Final[dict[int, Shape]] = {
    FrameKind.HELLO: Shape(Hello, (NAME, UUID, NAME, TEXT, UUID)),
    FrameKind.HELLO_REPLY: Shape(HelloReply, (FLAG, TEXT, NAME, UUID, FLAG, FLAG, PRIORITY), optional=2),
    FrameKind.REQUEST_VOTE: Shape(RequestVote, (NUMBER, INDEX, NUMBER, FLAG, FLAG), optional=1),
    FrameKind.REQUEST_VOTE_RESPONSE: Shape(RequestVoteResponse, (NUMBER, FLAG, FLAG)),
    FrameKind.INSTALL_SNAPSHOT: Shape(InstallSnapshot, (NUMBER, INDEX, NUMBER, SUM, INDEX)),
    FrameKind.FETCH_SNAPSHOT: Shape(FetchSnapshot, (INDEX, FLAG, KEY, INDEX)),
    FrameKind.SNAPSHOT_CHUNK: Shape(
        SnapshotChunk,
        (INDEX, NUMBER, SUM, TIME, INDEX, INDEX, HASH, FLAG, KEY, KEYS, KEYS, NUMBERS, SUMS, FLAG, ARRAY, VERSION),
        SNAPSHOT_RECORDS_MAX,
        optional=2,
    ),
    FrameKind.STATE_HASH: Shape(StateHash, (INDEX, SUM, INDEX, HASH)),
    FrameKind.INTRODUCE: Shape(Introduce, (UUID, INDEX, LIFE)),
    FrameKind.INTRODUCE_RESPONSE: Shape(IntroduceResponse, (UUID, FLAG, UUID, LIFE, INDEX)),
    FrameKind.RESUME: Shape(Resume, (UUID, ARRAY, FLAG, FLAG), LIVES_MAX),
    FrameKind.RESUME_RESPONSE: Shape(ResumeResponse, (NONCE, FLAG, FLAG, NUMBER, NUMBER, INDEX, NUMBER)),
    FrameKind.ASK_TIME: Shape(AskTime, (NUMBER,)),
    FrameKind.TELL_TIME: Shape(TellTime, (NUMBER, TIME, TIME, INDEX)),
    FrameKind.FETCH_ENTRIES: Shape(FetchEntries, (ARRAY,), FETCH_ENTRIES_MAX),
    FrameKind.FETCH_ENTRIES_RESPONSE: Shape(
        FetchEntriesResponse, (NUMBER, ARRAY, ARRAY, ARRAY, ARRAY), FETCH_ENTRIES_MAX
    ),
    FrameKind.CONFIRM: Shape(Confirm, (UUID,)),
    FrameKind.CONFIRMED: Shape(Confirmed, (UUID,)),
    FrameKind.TIMEOUT_NOW: Shape(TimeoutNow, (NUMBER,)),
    FrameKind.TELL_MEMBERS: Shape(TellMembers, (INDEX, PAYLOAD)),
    FrameKind.CHALLENGE: Shape(Challenge, (UUID,)),
    FrameKind.PROOF: Shape(Proof, (PROOF,)),
}
