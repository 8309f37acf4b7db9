"""How an entry and a wound are shown: a line for people, or a JSON object."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from durable_raft.errors import DurableRaftError, MalformedConfiguration, MalformedVersion
from durable_raft.kv.batch import decode_commands
from durable_raft.raft.configuration import decode, describe
from durable_raft.raft.types import EntryKind, Index
from durable_raft.raft.versions import decode_version
from durable_raft.storage.log.walk import Walked
from durable_raft.storage.wounds import Wound
from raftlog.running import code_of

_PLAIN: Final = re.compile(rb"[!#-&(-\[\]-~]+")
"""Bytes that need no quotes: printable ASCII without space, quotes and backslash."""

_SHOWN_MS_MAX: Final = 253_402_300_799_999
"""The last moment that a date can be written of: the end of the year 9999."""


def commands_of(walked: Walked) -> list[list[bytes]] | str | None:
    """Return the commands of an entry; None when it has none, a text when its payload cannot be decoded."""
    if walked.payload is None or walked.ident is None or walked.ident.kind != EntryKind.COMMANDS:
        return None
    try:
        return decode_commands(walked.payload)
    except (DurableRaftError, ValueError) as error:
        return f"payload cannot be decoded: {error}"


def configuration_of(walked: Walked) -> str | None:
    """Return the configuration of an entry in words, with the addresses of its members; None when it has none."""
    if walked.payload is None or walked.ident is None or walked.ident.kind != EntryKind.CONFIGURATION:
        return None
    try:
        found = decode(Index(walked.index), walked.payload)
    except MalformedConfiguration as error:
        return f"payload cannot be decoded: {error}"
    members = " ".join(f"{each.node_id}={each.client_address}@{each.peer_address}" for each in found.members)
    return f"{describe(found)}; members {members}"


def version_of(walked: Walked) -> int | None:
    """Return to which version an entry raises the cluster's; None when it does not, or says none."""
    if walked.payload is None or walked.ident is None or walked.ident.kind != EntryKind.VERSION:
        return None
    try:
        return decode_version(Index(walked.index), walked.payload)
    except MalformedVersion:
        return None


def as_text(walked: Walked, *, raw: bool = False) -> str:
    """Return ``index=.. term=.. kind=.. time=.. bytes=.. crc=.. chain=..``, then the commands, then the wounds.

    With ``raw`` the payload stands in place of the commands, as ``payload=`` and hexadecimal digits.
    """
    parts = [f"index={walked.index}"]
    ident = walked.ident
    if ident is not None:
        shown_ms = min(ident.timestamp_ms, _SHOWN_MS_MAX)
        time = datetime.fromtimestamp(shown_ms / 1000, UTC).isoformat(timespec="milliseconds")
        parts += [f"term={ident.term}", f"kind={EntryKind(ident.kind).name}", f"time={time}", f"bytes={ident.length}"]
        parts += [f"crc={ident.crc:08x}", f"chain={ident.chain:08x}"]
    commands = None if raw else commands_of(walked)
    if raw and walked.payload is not None:
        parts.append(f"payload={walked.payload.hex()}")
    if isinstance(commands, str):
        parts.append(commands)
    elif (configuration := configuration_of(walked)) is not None and not raw:
        parts.append(configuration)
    elif (version := version_of(walked)) is not None and not raw:
        parts.append(f"cluster_version={version}")
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


def as_json(walked: Walked, *, raw: bool = False) -> str:
    """Return one JSON object on one line; arguments are as ``text_of`` shows them.

    With ``raw`` it has ``payload``, in hexadecimal digits, in place of ``commands``.
    """
    shown: dict[str, object] = {"index": walked.index}
    ident = walked.ident
    if ident is not None:
        shown |= {"term": ident.term, "kind": EntryKind(ident.kind).name, "timestamp_ms": ident.timestamp_ms}
        shown |= {"length": ident.length, "crc": ident.crc, "chain": ident.chain}
    commands = None if raw else commands_of(walked)
    if raw and walked.payload is not None:
        shown["payload"] = walked.payload.hex()
    if isinstance(commands, str):
        shown["undecodable"] = commands
    elif (configuration := configuration_of(walked)) is not None and not raw:
        shown["configuration"] = configuration
    elif (version := version_of(walked)) is not None and not raw:
        shown["cluster_version"] = version
    elif commands is not None:
        shown["commands"] = [[text_of(argument) for argument in command] for command in commands]
    if walked.wounds:
        shown["wounds"] = [wound_object(wound) for wound in walked.wounds]
    return json.dumps(shown, ensure_ascii=False)


def print_entries(walk: Iterable[Walked], show: Callable[[Walked], str]) -> int:
    """Print each entry as ``show`` says, tell how many wounds they have, and return the exit code."""
    wounds: list[Wound] = []
    for walked in walk:
        sys.stdout.write(show(walked) + "\n")
        wounds += walked.wounds
    return code_of(wounds)


def wound_object(wound: Wound) -> dict[str, object]:
    """Return a wound as the members of a JSON object; ``key`` is there only for wounds of the KV state."""
    shown: dict[str, object] = {
        "table": wound.table,
        "index": wound.index,
        "term": wound.term,
        "what": wound.what.value,
        "expected": wound.expected,
        "found": wound.found,
    }
    if wound.key is not None:
        shown["key"] = text_of(wound.key)
    return shown


def text_of(argument: bytes) -> str:
    """Return an argument or key as JSON shows it: text, with ``\\xNN`` for bytes that are not UTF-8."""
    return argument.decode(errors="backslashreplace")
