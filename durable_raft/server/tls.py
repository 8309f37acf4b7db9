"""Certificates, keys, CAs and revocation lists of the client port: loaded, and loaded again when they change.

A connection that is open goes on with what it began with. A new one begins with the newest files that are whole: broken
ones change nothing, and are told as an alarm. So a rotation needs neither a restart nor an order in which the files are
put in place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from durable_raft.addresses import refuse
from durable_raft.errors import ConfigError
from durable_raft.server.alarms import ALARMS, Alarm
from durable_raft.server.logs import event
from durable_raft.server.settings.tls import AUTH_NO, AUTH_OPTIONAL, AUTH_YES, TlsSettings

LOOK_S: Final = 1.0
"""How often the files are looked at."""

DAY_S: Final = 86_400.0

WARN_DAYS: Final = (30, 7)
"""So many days before a certificate ends it is said, and then once a day."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those with forward secrecy and authenticated encryption. With them a private key is used once for each
handshake, when the client's first message is there. TLS 1.3 has no others."""

_FILES: Final = ("tls_cert_file", "tls_key_file", "tls_ca_cert_file", "tls_crl_file")

_VERIFY: Final = {AUTH_NO: ssl.CERT_NONE, AUTH_OPTIONAL: ssl.CERT_OPTIONAL, AUTH_YES: ssl.CERT_REQUIRED}

_logger = logging.getLogger(__name__)

Fingerprint = tuple[tuple[int, int, int] | None, ...]
"""What tells that a file is another one: time of change (ns), size, inode; None where there is none."""


class Loaded(NamedTuple):
    """What new connections begin with."""

    context: ssl.SSLContext
    ends_at: float
    """When the node's certificate ends, seconds since the epoch."""
    revocations_end_at: float | None
    """When the list of revoked certificates is out of date: from then on OpenSSL refuses every client."""


# -- loading ----------------------------------------------------------------------------------------------------------


def load(settings: TlsSettings, now: float) -> Loaded:
    """Return what the files hold at ``now`` (seconds since the epoch).

    Raises:
        ConfigError: a file is missing, is not what it has to be, or does not fit another; which, and what was expected.
    """
    try:
        return _load(settings, now)
    except ConfigError:
        raise
    except Exception as error:
        # Whatever is in a file, and whatever becomes of it meanwhile: it ends no node that runs.
        raise ConfigError(f"tls_cert_file={settings.tls_cert_file}: expected usable files, got {error!r}") from error


def _load(settings: TlsSettings, now: float) -> Loaded:
    chain = _certificates("tls_cert_file", settings.tls_cert_file)
    _check_key(settings, chain[0])
    _check_now("tls_cert_file", settings.tls_cert_file, chain[0], now)
    if settings.tls_ca_cert_file:
        authorities = _certificates("tls_ca_cert_file", settings.tls_ca_cert_file)
        _check_now("tls_ca_cert_file", settings.tls_ca_cert_file, max(authorities, key=_end_of), now)
    lists = _revocations(settings, now) if settings.tls_crl_file else []
    ends = [_seconds(each.next_update_utc) for each in lists if each.next_update_utc is not None]
    return Loaded(_context(settings), _end_of(chain[0]), min(ends, default=None))


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}={path}: expected a readable file, got {error}") from error


def _certificates(setting: str, path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(setting, path))
    except ValueError as error:
        refuse(setting, path, f"certificates in PEM, got {error!s:.200}")


def _check_key(settings: TlsSettings, certificate: x509.Certificate) -> None:
    path = settings.tls_key_file
    data = _read("tls_key_file", path)
    if (mode := stat.S_IMODE(Path(path).stat().st_mode)) & (stat.S_IRWXG | stat.S_IRWXO):
        refuse("tls_key_file", path, f"a file that only its owner may read (chmod 600), found mode {mode:04o}")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        refuse("tls_key_file", path, "a private key without a passphrase: nobody is there to type it at a start")
    except (ValueError, UnsupportedAlgorithm) as error:
        refuse("tls_key_file", path, f"a private key in PEM, got {error!s:.200}")
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        refuse("tls_key_file", path, f"the key of the first certificate in tls_cert_file={settings.tls_cert_file}")


def _check_now(setting: str, path: str, certificate: x509.Certificate, now: float) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins.timestamp():
        refuse(setting, path, f"a certificate that is valid now, but this one begins at {begins:%Y-%m-%d %H:%M} UTC")
    if now > ends.timestamp():
        refuse(setting, path, f"a certificate that is valid now, but this one ended at {ends:%Y-%m-%d %H:%M} UTC")


def _revocations(settings: TlsSettings, now: float) -> list[x509.CertificateRevocationList]:
    setting, path = "tls_crl_file", settings.tls_crl_file
    marker = b"-----BEGIN X509 CRL-----"
    try:
        _, *parts = _read(setting, path).split(marker)
        lists = [x509.load_pem_x509_crl(marker + part) for part in parts]
    except ValueError as error:
        refuse(setting, path, f"lists of revoked certificates in PEM, got {error!s:.200}")
    if not lists:
        refuse(setting, path, "at least one list of revoked certificates in PEM (X509 CRL), found none")
    for each in lists:
        if each.next_update_utc is not None and now > _seconds(each.next_update_utc):
            end = f"{each.next_update_utc:%Y-%m-%d %H:%M} UTC"
            refuse(
                setting, path, f"a list that is up to date, but the next one was due at {end}: no client gets in by it"
            )
    return lists


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _end_of(certificate: x509.Certificate) -> float:
    return _seconds(certificate.not_valid_after_utc)


def _context(settings: TlsSettings) -> ssl.SSLContext:
    """Return what connections are made with; the files have been looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions = [ssl.TLSVersion[name.replace(".", "_")] for name in settings.tls_protocols.split()]
    context.minimum_version, context.maximum_version = versions[0], versions[-1]
    context.set_ciphers(CIPHERS)
    # A compressed secret can be guessed by its length (CRIME). A renegotiation costs the server a signature each time.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = _VERIFY[settings.tls_auth_clients]
    try:
        # The passphrase is never asked for: OpenSSL would read it from the terminal.
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password=lambda: "")
        if settings.tls_ca_cert_file:
            context.load_verify_locations(settings.tls_ca_cert_file)
        if settings.tls_crl_file:
            context.load_verify_locations(settings.tls_crl_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (ssl.SSLError, OSError) as error:
        # What OpenSSL takes is less than what can be parsed: a key that is too short, say.
        raise ConfigError(
            f"tls_cert_file={settings.tls_cert_file}: expected what OpenSSL takes, got {error}"
        ) from error
    return context


def fingerprint(settings: TlsSettings) -> Fingerprint:
    """Return what tells whether one of the files has changed."""
    return tuple(_mark(path) for path in (getattr(settings, name) for name in _FILES) if path)


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        facts = os.stat(path)  # noqa: PTH116 - once a second for each file
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


# -- keeping ----------------------------------------------------------------------------------------------------------


class TlsKeeper:
    """What new connections begin with at present; belongs to the event loop, and loads on another thread."""

    def __init__(self, settings: TlsSettings, wall: Callable[[], float] = time.time) -> None:
        """Load the files for the first time.

        Args:
            wall: seconds since the epoch; certificates are dated by the time of day.

        Raises:
            ConfigError: as ``load``.
        """
        self._settings = settings
        self._wall = wall
        self._seen = self._tried = fingerprint(settings)
        """Of the last look; of the last that was loaded, or tried."""
        self._loaded = load(settings, wall())
        self._problem: str | None = None
        """Why the newest files are not used."""
        self._said_days: int | None = None
        """How many days were left when that was said last."""
        self._is_loading = False
        self._timer: asyncio.TimerHandle | None = None
        self.reloads = 0
        """How often new files took the place of others."""

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection is made with."""
        return self._loaded.context

    def start(self) -> None:
        """Look at the files from now on, on the loop that runs; a load that another one began is forgotten."""
        self._is_loading = False
        self._look_on()

    def _look_on(self) -> None:
        self.look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_on)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Begin to load files that have changed since they were loaded or tried, and say what is due.

        They must have stood still for one look: who replaces several does it one after the other.
        """
        before, self._seen = self._seen, fingerprint(self._settings)
        self._say_end()
        if self._seen == before and self._seen != self._tried and not self._is_loading:
            self._is_loading, self._tried = True, self._seen
            task = asyncio.get_running_loop().run_in_executor(None, self._try)
            task.add_done_callback(lambda done: None if done.cancelled() else self._take(done.result()))

    def _try(self) -> Loaded | ConfigError:
        try:
            return load(self._settings, self._wall())
        except ConfigError as error:
            return error

    def _take(self, loaded: Loaded | ConfigError) -> None:
        self._is_loading = False
        if isinstance(loaded, ConfigError):
            self._problem = str(loaded)
            event(_logger, logging.ERROR, "tls_reload_failed", reason=loaded)
            return
        self._loaded, self._problem, self._said_days = loaded, None, None
        self.reloads += 1
        event(_logger, logging.INFO, "tls_reloaded", certificate_ends=_date(loaded.ends_at))
        self._say_end()

    @property
    def _days_left(self) -> int:
        """Whole days until the certificate ends; negative when it has."""
        return int((self._loaded.ends_at - self._wall()) // DAY_S)

    def _say_end(self) -> None:
        """Say that the certificate is about to end, at each of ``WARN_DAYS`` and every day from the last of them on."""
        days = self._days_left
        step = days if days < WARN_DAYS[-1] else next((each for each in reversed(WARN_DAYS) if days < each), None)
        if step is not None and step != self._said_days:
            event(_logger, logging.WARNING, "certificate_ends", file=self._settings.tls_cert_file, days=days)
        self._said_days = step

    def alarms(self) -> tuple[Alarm, ...]:
        """Return what somebody has to act on; the node serves whom it can meanwhile."""
        return tuple(Alarm(name, f"{text}: {ALARMS[name]}") for name, text in self._troubles())

    def _troubles(self) -> Iterator[tuple[str, str]]:
        if self._problem is not None:
            yield "tls_files_refused", self._problem
        days, ends_at = self._days_left, _date(self._loaded.ends_at)
        if days < WARN_DAYS[0]:
            name = "certificate_ended" if days < 0 else "certificate_ends"
            yield name, f"tls_cert_file={self._settings.tls_cert_file} ends at {ends_at}"
        until = self._loaded.revocations_end_at
        if until is not None and self._wall() > until:
            yield "revocations_ended", f"tls_crl_file={self._settings.tls_crl_file} was valid until {_date(until)}"


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
