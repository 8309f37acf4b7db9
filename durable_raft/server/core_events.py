"""What the core says that it does: counted for INFO, logged, and kept by the flight recorder."""

from __future__ import annotations

import logging
from collections.abc import Callable

from durable_raft.server.logs import CORE_EVENT_LEVELS, event

_logger = logging.getLogger(__name__)


class CoreEvents:
    """Those of one node; it is the core's observer."""

    def __init__(self, note: Callable[..., None]) -> None:
        """Begin to count; ``note`` keeps an event for whoever asks after the node's death."""
        self._note = note
        self.elections = 0
        """Elections this node stood for."""
        self.chain_mismatches = 0
        """AppendEntries whose chain contradicted this log: one of the two logs is wounded."""

    def __call__(self, name: str, /, **fields: object) -> None:
        """Take note of an event."""
        if name == "became_candidate":
            self.elections += 1
        elif name == "chain_mismatch":
            self.chain_mismatches += 1
        event(_logger, CORE_EVENT_LEVELS.get(name, logging.INFO), name, **fields)
        self._note(name, **fields)
