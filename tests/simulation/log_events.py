"""The events that nodes log, heard where any logging handler hears them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

PRODUCT: Final = "durable_raft"

Hear = Callable[[str, Mapping[str, object]], None]


class _Ear(logging.Handler):
    def __init__(self, hear: Hear) -> None:
        super().__init__(logging.DEBUG)
        self._hear = hear

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass the record on at once: there is one thread, and nothing to lock."""
        self._hear(str(record.msg), getattr(record, "fields", {}))
        return True


@contextmanager
def told_to(hear: Hear) -> Iterator[None]:
    """Have ``hear`` called with the name and fields of every event of the product, and nobody else."""
    logger = logging.getLogger(PRODUCT)
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [_Ear(hear)], False
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
