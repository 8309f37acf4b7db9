"""A request, left in a data directory, that the cluster time be set to the agreed clock as soon as its node leads.

Entries of a log are never edited: another node may hold the same ones, and their chains would differ. So whoever has
only directories (``raftlog repair``, ``durable-raft restore``) leaves this request, and the next leader proposes an
entry, which every replica applies at the same place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

REQUEST: Final = "reset-time"


def request_time_reset(directory: Path) -> None:
    """Leave the request in ``directory``; whoever does so looks after its durability."""
    (directory / REQUEST).touch()


def is_time_reset_requested(directory: Path) -> bool:
    """Return whether the request is there."""
    return (directory / REQUEST).exists()


def forget_time_request(directory: Path) -> None:
    """Take the request away. Were it to come back after a power cut, it would change nothing: the time is right."""
    (directory / REQUEST).unlink(missing_ok=True)
