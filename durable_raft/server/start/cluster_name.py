"""The name of the cluster that a directory belongs to, beside its id: an operator gives the name with every start.

The id is derived from name and addresses once (settings/cluster_id.py), and addresses may change. So the id cannot tell
whether another name was given; the name is kept for that, in a file of its own. Directories that were made before this
rule, or by a tool, take the name of their next start. The file is there wholly, or not at all: a part of a name, left
by a power cut, would refuse its own cluster at each start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from durable_raft.errors import DirectoryRefused
from durable_raft.storage.directory import sync_path

CLUSTER_NAME: Final = "cluster-name"


def expect_name(directory: Path, name: str) -> None:
    """Check that ``directory`` belongs to the cluster called ``name``, and keep that.

    Raises:
        DirectoryRefused: it belongs to a cluster of another name.
        OSError: it cannot be read or written.
    """
    path = directory / CLUSTER_NAME
    # A version before this rule could leave an empty file behind when it was cut.
    stored = path.read_text(errors="backslashreplace").strip() if path.exists() else ""
    if not stored:
        creating = directory / f"{CLUSTER_NAME}.creating"
        creating.write_text(f"{name}\n")
        sync_path(creating)
        creating.rename(path)
        sync_path(directory)
    elif stored != name:
        message = f"{directory} belongs to the cluster {stored!r}, but --cluster-name is {name!r}"
        raise DirectoryRefused(f"{message}; the name is kept in {path}")
