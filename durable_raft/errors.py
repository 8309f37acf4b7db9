"""Every error this package raises on purpose, in one tree; a class says whose fault it is.

::

    DurableRaftError
    ├── ConfigError               the operator: flags, files, timeouts that cannot work
    ├── Refused                   (tools/raftlog/repair.py) the operator: what was asked of a tool cannot be done safely
    ├── NoBeginning               (tools/raftlog/beginning.py) no new cluster can be made from what is left of one
    ├── ClientError               a client; the message is the RESP error line without its "-"
    │   └── ProtocolError         malformed RESP: the connection is closed after the error
    ├── PeerError                 another node: its bytes are not believed
    │   ├── DamagedFrame          checksum, length or shape of a frame is wrong
    │   ├── UnknownFrameVersion   a frame of a version this build does not speak
    │   ├── DiskReplaced          the disk at one end of a link was replaced by another under the same node id
    │   ├── PeerRemoved           the node at one end of a link was removed from the cluster
    │   ├── ForeignCluster        a frame that carries another cluster's id
    │   ├── PeerTooOld            a node whose program cannot the version that the cluster has
    │   ├── Unproven              the node at one end of a link does not prove the cluster's secret
    │   ├── ForgedFrame           a frame that the node which proved the secret did not send, or not there
    │   └── PeerMisbehaved        a frame that is whole and says what no correct node says
    ├── NodeRemoved               this node was removed from its cluster
    ├── ChangeRefused             the operator: a change of members, or a transfer, that is not begun, and why
    │   ├── NotLeading            (raft/changes.py) ask the leader
    │   ├── NotReady              (raft/changes.py) ask again later
    │   ├── StaleConfiguration    (raft/changes.py) made against another configuration than the present one
    │   ├── ChangeInProgress      (raft/changes.py) another change is not complete
    │   ├── NotCaughtUp           (raft/changes.py) a learner that does not hold what it has to, and how far it is
    │   ├── NoWorkingMajority     (raft/changes.py) too few voters would answer
    │   └── IdUsed                (raft/changes.py) a node id that another node had
    ├── MalformedConfiguration    an entry that should hold a configuration and does not, or a newer version's
    ├── MalformedVersion          an entry that should hold a version of the cluster and does not
    ├── RequestError              what our own commands meet when they ask a node over its client port
    │   ├── NodeUnreachable       nobody answers there, or no leader is found in time
    │   ├── ErrorAnswered         the node answered with an error line
    │   ├── ChangeLost            (cli/member.py) a change of members was lost with its leader, or takes too long
    │   └── CheckpointGone        (cli/backup.py) the node has a newer checkpoint than the one that is being read
    ├── StorageError              the disk or the data directory
    │   ├── DirectoryRefused      wrong cluster, wrong node, in use, or not a data directory
    │   ├── DirectoryLost         removed, moved, covered or unmounted under a node that runs on it
    │   ├── CorruptRecord         bytes that fail their checksum, chain, order or shape
    │   │   ├── WoundedLog        (storage/wounds.py) with every wound that was found
    │   │   ├── WoundedState      (storage/wounds.py) the same, of the KV state at a checkpoint
    │   │   ├── EntriesLost       (raft/log.py) payloads that rotted, of entries that are known: another node has them
    │   │   ├── StateBehindLog    (server/start/recovery.py) the entries between the state and the log are missing
    │   │   └── LogWentBack       (server/start/recovery.py) the log is older than the state that was made from it
    │   ├── KilledBySignal        (storage/isolation.py) a damaged page killed the child process that read it
    │   ├── Unreadable            (tools/raftlog/gather.py) a directory that a tool can tell nothing of, and why
    │   ├── UnknownFormatVersion  a record written by a newer version: not damage
    │   │   └── NewerFormat       (storage/wounds.py) with every record that is
    │   ├── EntryUnavailable      an index that is compacted away or not yet stored
    │   │   └── NotReplayable     (tools/raftlog/replaying.py) a state that cannot be made again from the log
    │   ├── EntryUnread           a large entry that is being read on another thread: it is to be asked for again
    │   ├── DiskFull              there is no room for a write, which was not begun: it may be tried again
    │   └── StoragePoisoned       a write or sync failed: nothing may be promised any more
    └── InvariantViolation        our own bug: never caught, the node stops
"""

from __future__ import annotations


class DurableRaftError(Exception):
    """Root of every error raised on purpose."""


class ConfigError(DurableRaftError):
    """The configuration cannot work; the message says which setting, its value, and what was expected."""


class ClientError(DurableRaftError):
    """A client's request cannot be served; ``str(error)`` is the RESP error line without the leading ``-``."""


class ProtocolError(ClientError):
    """A malformed RESP frame; the connection is closed after the error is sent."""

    def __init__(self, line: str, *, close_silently: bool = False) -> None:
        super().__init__(line)
        self.close_silently = close_silently
        """Whether the connection is closed without the error being sent: the other end does not speak RESP."""


class PeerError(DurableRaftError):
    """Bytes from another node that are not believed; the link is dropped, nothing else changes."""


class DamagedFrame(PeerError):
    """A peer frame whose checksum, length or shape is wrong."""


class UnknownFrameVersion(PeerError):
    """A peer frame of a version this build does not speak; not damage."""


class DiskReplaced(PeerError):
    """A link cannot be had because the disk at one of its ends was replaced by another under the same node id."""


class PeerRemoved(PeerError):
    """A link cannot be had because the node at one of its ends is no member any more."""


class ForeignCluster(PeerError):
    """A peer frame that carries another cluster's id."""


class PeerTooOld(PeerError):
    """The program of the node at one end of a link cannot what this cluster writes: a newer one is to be installed."""


class Unproven(PeerError):
    """A link whose ends do not prove the same cluster secret to each other."""


class ForgedFrame(PeerError):
    """A frame without the tag that only the other end of the link can make: somebody between made or moved it."""


class PeerMisbehaved(PeerError):
    """A message that no correct node sends: its sender is buggy, of another version, or a liar. Nothing has changed."""


class NodeRemoved(DurableRaftError):
    """This node was removed from its cluster: it has no part in it any more, and stops."""


class ChangeRefused(DurableRaftError):
    """A change of the configuration, or a transfer of leadership, that was not begun; the message says why."""


class MalformedConfiguration(DurableRaftError):
    """The payload of a configuration entry says nothing that this build understands; what it read was not used."""


class MalformedVersion(DurableRaftError):
    """The payload of an entry that should raise the version of the cluster is none."""


class RequestError(DurableRaftError):
    """A request that one of our own commands sent to a node could not be carried out."""


class NodeUnreachable(RequestError):
    """Nobody answers at an address, or no leader was found in time; a write may or may not have had its effect."""


class ErrorAnswered(RequestError):
    """A node answered with an error; ``str(error)`` is its line without the leading ``-``."""


class StorageError(DurableRaftError):
    """The disk or the data directory."""


class DirectoryRefused(StorageError):
    """The directory may not be used: wrong cluster, wrong node, in use by another process, or not ours."""


class DirectoryLost(StorageError):
    """The data directory is not there any more, or another one is. Final: what is written nobody would find again."""


class CorruptRecord(StorageError):
    """Stored bytes that fail their checksum, chain, order or shape: rot or a lie of the disk, never a torn tail."""


class UnknownFormatVersion(StorageError):
    """A record of a format version this build cannot read; the message says which it found and which it knows."""


class EntryUnavailable(StorageError):
    """An index outside what the log holds: compacted away, or not yet stored."""


class EntryUnread(StorageError):
    """A large entry is being read on another thread; whoever asked is told when it can be had."""


class DiskFull(StorageError):
    """There may be no room for a transaction. Nothing was begun, nothing is lost: it may be tried again later."""


class StoragePoisoned(StorageError):
    """A write or sync failed. Final: the node stops and never acknowledges again (durability contract 6)."""


class InvariantViolation(DurableRaftError):
    """A rule of Raft or of our own was broken by our own code. Never caught: the node stops."""
