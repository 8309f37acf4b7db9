"""Whether a file that is open is still the one that its path names.

A file can be removed while it is open, its directory moved away, its disk unmounted or covered by another. LMDB goes on
writing without an error, into what nobody finds again. What is promised then is lost when the process ends. So each
store asks after each flush, before it says that anything is durable, and the node asks at each look at its room.
"""

from __future__ import annotations

from pathlib import Path

from durable_raft.errors import DirectoryLost


class Presence:
    """Remembers which file a path named when this was made."""

    def __init__(self, path: Path) -> None:
        """Look at ``path``, which has just been opened.

        Raises:
            DirectoryLost: there is nothing.
        """
        self._path = path
        self._file = self._look()

    def require(self) -> None:
        """Go on only if the path still names that file; takes some microseconds.

        Raises:
            DirectoryLost: it names another one, or none that this process can see.
        """
        if self._look() != self._file:
            raise DirectoryLost(f"{self._path} is not the file that was opened; it was replaced or covered")

    def _look(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise DirectoryLost(f"{self._path} is gone: {error}; it was removed, moved or unmounted") from error
        return found.st_dev, found.st_ino
