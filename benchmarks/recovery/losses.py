"""What a campaign of kills found about our own nodes, read off the rows of benchmarks/recovery/lost.py.

Apart from the campaign, so that figures can be read where the peers' clients are not installed.
"""

from __future__ import annotations

from typing import Any


def ours_lost(result: dict[str, Any]) -> int:
    """Return how many acknowledged writes of ours are missing."""
    return sum(row["lost"] for row in result["systems"] if row["system"] == "durable_raft")


def ours_kills(result: dict[str, Any]) -> int:
    """Return how many times nodes of ours were killed."""
    return sum(sum(row["kills"].values()) for row in result["systems"] if row["system"] == "durable_raft")
