"""Where settings come from: flags before environment before the TOML file before defaults; and how text becomes values.

Every setting has one name. It is the key in the TOML file as it stands, ``--name-with-dashes`` as a flag, and
``DURABLE_RAFT_NAME`` in the environment. A key in the file that names no setting is refused, because a misspelt limit
that is silently ignored is found out about too late. The environment is read by name only: a Kubernetes service called
``durable-raft`` fills it with variables of the same prefix that are none of ours.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from durable_raft.addresses import refuse
from durable_raft.errors import ConfigError
from durable_raft.raft.types import PRIORITY_MAX

ENVIRONMENT_PREFIX: Final = "DURABLE_RAFT_"

CONFIG_FILE: Final = "config"
"""The one setting that cannot stand in the file: the file's own path."""

Parse = Callable[[str, object], object]
"""``parse(setting, raw) -> value``; raises ConfigError."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing an operator can set."""

    name: str
    parse: Parse
    help: str
    """One sentence or two, without a full stop at the end; shown by ``--help``."""
    metavar: str
    default: object = None
    """None: there is no default, or it depends on other settings and the help says on which."""

    @property
    def flag(self) -> str:
        """The flag's name, ``--like-this``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable's name."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.parse is parse_switch

    @property
    def shown_default(self) -> str:
        """The default as an operator may write it; empty when there is none."""
        size = self.default
        if isinstance(size, bool):
            return str(size).lower()
        if self.metavar == "BYTES" and isinstance(size, int):
            gib, rest = divmod(size, 1 << 30)
            return "0" if not size else f"{size >> 20}MiB" if rest else f"{gib}GiB"
        return "" if size is None else str(size)


def tunable(default: object, parse: Parse, metavar: str, text: str) -> Any:
    """Return a field of ``NodeConfig`` that is a setting, with what ``Setting`` has of it."""
    return field(default=default, metadata={"parse": parse, "metavar": metavar, "help": text})


# -- text to values ---------------------------------------------------------------------------------------------------

_UNITS: Final = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_COUNT: Final = re.compile(r"[0-9]{1,15}")
_BYTES: Final = re.compile(r"([0-9]{1,15})\s*([A-Za-z]*)")
_TRUE_WORDS: Final = ("true", "yes", "on", "1")
_FALSE_WORDS: Final = ("false", "no", "off", "0")


def parse_text(setting: str, raw: object) -> str:
    """Return a non-empty text."""
    if not isinstance(raw, str) or not raw.strip():
        refuse(setting, repr(raw), "a text that is not empty")
    return raw.strip()


def parse_path(setting: str, raw: object) -> str | None:
    """Return the path of a file; None: none."""
    return None if raw is None else parse_text(setting, raw)


def parse_text_or_none(setting: str, raw: object) -> str:
    """Return a text; an empty one stands for none."""
    return "" if raw == "" else parse_text(setting, raw)


def parse_list(setting: str, raw: object) -> str:
    """Return a comma-separated list, which in TOML may also be an array of texts."""
    if isinstance(raw, list):
        return ",".join(parse_text(setting, item) for item in raw)
    return parse_text(setting, raw)


def parse_count(setting: str, raw: object) -> int:
    """Return a whole number from 1 on."""
    return _whole_number(setting, raw, lambda number: number >= 1, "from 1 on")


def parse_priority(setting: str, raw: object) -> int:
    """Return an election priority."""
    return _whole_number(setting, raw, lambda number: number <= PRIORITY_MAX, f"from 0 to {PRIORITY_MAX}")


def _whole_number(setting: str, raw: object, is_within: Callable[[int], bool], bounds: str) -> int:
    text = str(raw).strip()
    if isinstance(raw, bool) or not _COUNT.fullmatch(text) or not is_within(int(text)):
        refuse(setting, repr(raw), f"a whole number {bounds}")
    return int(text)


def parse_bytes(setting: str, raw: object) -> int:
    """Return a number of bytes from 1 on; ``64MiB`` and the like are understood (KiB, MiB, GiB, TiB)."""
    return _bytes_from(1, setting, raw)


def parse_bytes_or_none(setting: str, raw: object) -> int:
    """Return a number of bytes as ``parse_bytes`` does, or 0."""
    return _bytes_from(0, setting, raw)


def _bytes_from(least: int, setting: str, raw: object) -> int:
    match = _BYTES.fullmatch(str(raw).strip())
    unit = match and _UNITS.get(match[2].upper())
    if isinstance(raw, bool) or not match or not unit or int(match[1]) < least:
        refuse(setting, repr(raw), f"a number of bytes from {least} on, plain or with KiB, MiB, GiB or TiB (64MiB)")
    return int(match[1]) * unit


def parse_switch(setting: str, raw: object) -> bool:
    """Return a truth value: true/false, yes/no, on/off, 1/0."""
    word = str(raw).strip().lower()
    if word not in _TRUE_WORDS + _FALSE_WORDS:
        refuse(setting, repr(raw), "true or false")
    return word in _TRUE_WORDS


def choice(*words: str) -> Parse:
    """Return a parser that takes one of ``words`` (in any case)."""

    def parse_choice(setting: str, raw: object) -> str:
        word = str(raw).strip().lower()
        if word not in words:
            refuse(setting, repr(raw), f"one of {', '.join(words)}")
        return word

    return parse_choice


# -- sources ----------------------------------------------------------------------------------------------------------


def read_settings(
    settings: Iterable[Setting], flags: Mapping[str, object], environment: Mapping[str, str]
) -> dict[str, object]:
    """Return the parsed value of each setting that a flag, the environment or the file gives.

    Args:
        flags: raw values by setting name; None where a flag was not given. ``config`` names the file.
        environment: usually ``os.environ``. An empty variable counts as not set.

    Raises:
        ConfigError: a value cannot be parsed, or the file cannot be read or holds a key that is no setting.
    """
    known = {setting.name: setting for setting in settings}
    raw: dict[str, tuple[object, str]] = {}
    path = flags.get(CONFIG_FILE) or environment.get(ENVIRONMENT_PREFIX + CONFIG_FILE.upper())
    if path:
        for key, value in _read_file(Path(str(path)), known).items():
            raw[key] = value, str(path)
    for setting in known.values():
        if environment.get(setting.variable):
            raw[setting.name] = environment[setting.variable], f"environment variable {setting.variable}"
        if flags.get(setting.name) is not None:
            raw[setting.name] = flags[setting.name], f"flag {setting.flag}"
    return {name: _parse(known[name], value, origin) for name, (value, origin) in raw.items()}


def _parse(setting: Setting, value: object, origin: str) -> object:
    try:
        return setting.parse(setting.name, value)
    except ConfigError as error:
        raise ConfigError(f"{error} (from {origin})") from None


def _read_file(path: Path, known: Mapping[str, Setting]) -> dict[str, object]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{CONFIG_FILE}={path}: expected a readable file, got {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{CONFIG_FILE}={path}: expected TOML, got {error}") from error
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            refuse(CONFIG_FILE, path, f"only keys that name settings, got {key!r}{hint}")
    return table
