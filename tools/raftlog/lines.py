"""How one index of the log is shown: a line for people, or a JSON object."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Final

from durable_raft.errors import DurableRaftError
from durable_raft.kv.batch import decode_batch
from durable_raft.raft.types import EntryKind
from durable_raft.storage.walk import Walked

_PLAIN: Final = re.compile(rb"[!#-&(-\[\]-~]+")
"""Bytes that need no quotes: printable ASCII without space, quotes and backslash."""


def commands_of(walked: Walked) -> list[list[bytes]] | str | None:
    """Return the commands of an entry; None when it has none, a text when its payload cannot be decoded."""
    if walked.payload is None or walked.ident is None or walked.ident.kind != EntryKind.COMMANDS:
        return None
    try:
        return decode_batch(walked.payload)
    except (DurableRaftError, ValueError) as error:
        return f"payload cannot be decoded: {error}"


def as_text(walked: Walked) -> str:
    """Return ``index=.. term=.. kind=.. time=.. bytes=.. crc=.. chain=..``, then the commands, then the wounds."""
    parts = [f"index={walked.index}"]
    ident = walked.ident
    if ident is not None:
        time = datetime.fromtimestamp(ident.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
        parts += [f"term={ident.term}", f"kind={EntryKind(ident.kind).name}", f"time={time}", f"bytes={ident.length}"]
        parts += [f"crc={ident.crc:08x}", f"chain={ident.chain:08x}"]
    commands = commands_of(walked)
    if isinstance(commands, str):
        parts.append(commands)
    elif commands is not None:
        parts.append(" ; ".join(" ".join(map(quoted, command)) for command in commands))
    parts += [f"WOUND[{wound}]" for wound in walked.wounds]
    return " ".join(part for part in parts if part)


def quoted(argument: bytes) -> str:
    """Return an argument as redis-cli would take it: plain, or in double quotes with escapes."""
    if _PLAIN.fullmatch(argument):
        return argument.decode()
    escaped = argument.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    text = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in escaped)
    return f'"{text}"'


def as_json(walked: Walked) -> str:
    """Return one JSON object on one line; arguments are text with ``\\xNN`` for bytes that are not UTF-8."""
    shown: dict[str, object] = {"index": walked.index}
    ident = walked.ident
    if ident is not None:
        shown |= {"term": ident.term, "kind": EntryKind(ident.kind).name, "timestamp_ms": ident.timestamp_ms}
        shown |= {"length": ident.length, "crc": ident.crc, "chain": ident.chain}
    commands = commands_of(walked)
    if isinstance(commands, str):
        shown["undecodable"] = commands
    elif commands is not None:
        shown["commands"] = [
            [argument.decode(errors="backslashreplace") for argument in command] for command in commands
        ]
    if walked.wounds:
        shown["wounds"] = [
            {
                "table": wound.table,
                "index": wound.index,
                "term": wound.term,
                "what": wound.what.value,
                "expected": wound.expected,
                "found": wound.found,
            }
            for wound in walked.wounds
        ]
    return json.dumps(shown, ensure_ascii=False)
