"""What an operator sets of TLS on the client port, and what of it makes sense together.

Names and words are Redis's (``tls-cert-file``, ``tls-auth-clients``). Redis has a port of its own for TLS. Here one
port serves both, for a member has one client address that MOVED and CLUSTER SLOTS tell: ``tls_clients`` says who is
served there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from durable_raft.addresses import refuse
from durable_raft.server.settings.sources import choice, parse_text_or_none, tunable

OFF: Final = "off"
OPTIONAL: Final = "optional"
REQUIRED: Final = "required"

AUTH_NO: Final = "no"
AUTH_OPTIONAL: Final = "optional"
AUTH_YES: Final = "yes"

PROTOCOLS: Final = ("TLSv1.2", "TLSv1.3")
"""Oldest first. Those before have been broken or withdrawn (RFC 8996)."""


def parse_protocols(setting: str, raw: object) -> str:
    """Return versions of TLS as Redis writes them, oldest first: ``TLSv1.2 TLSv1.3``."""
    words = raw if isinstance(raw, list) else str(raw).replace(",", " ").split()
    known = {name.lower(): name for name in PROTOCOLS}
    if not words or any(str(word).lower() not in known for word in words):
        refuse(setting, repr(raw), f"one or more of {', '.join(PROTOCOLS)}")
    given = {known[str(word).lower()] for word in words}
    return " ".join(name for name in PROTOCOLS if name in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """The part of a node's configuration that is about TLS; an empty path stands for none."""

    tls_clients: str = tunable(
        OFF,
        choice(OFF, OPTIONAL, REQUIRED),
        "off|optional|required",
        "TLS on the client port. off: none; optional: served beside plain RESP; required: nothing else is served",
    )
    tls_cert_file: str = tunable(
        "",
        parse_text_or_none,
        "FILE",
        "The node's certificate for clients in PEM, with the certificates between it and the CA behind it; read again "
        "when it changes, as the next three files are",
    )
    tls_key_file: str = tunable(
        "", parse_text_or_none, "FILE", "Its private key in PEM, without a passphrase; nobody but its owner may read it"
    )
    tls_ca_cert_file: str = tunable(
        "", parse_text_or_none, "FILE", "The CA, or several, that sign clients' certificates, in PEM"
    )
    tls_crl_file: str = tunable(
        "",
        parse_text_or_none,
        "FILE",
        "What these CAs have revoked, a list of each in PEM; a client with such a certificate is refused",
    )
    tls_auth_clients: str = tunable(
        AUTH_YES,
        choice(AUTH_NO, AUTH_OPTIONAL, AUTH_YES),
        "no|optional|yes",
        "Whether a client that speaks TLS has to show a certificate that the CA signed; "
        "optional: it may show none, but no other one",
    )
    tls_protocols: str = tunable(
        " ".join(PROTOCOLS), parse_protocols, "LIST", "Versions of TLS that are spoken with clients"
    )


def check_tls(settings: TlsSettings) -> None:
    """Check what depends on each other; the files themselves are looked at in server/tls.py.

    Raises:
        ConfigError: something is missing, or would have no effect.
    """
    if settings.tls_clients == OFF:
        for name in ("tls_cert_file", "tls_key_file", "tls_ca_cert_file", "tls_crl_file"):
            if path := getattr(settings, name):
                # Whoever gives a certificate believes that it is used.
                refuse(name, path, "no file while tls_clients=off; say tls_clients=required or tls_clients=optional")
        return
    for name in ("tls_cert_file", "tls_key_file"):
        if not getattr(settings, name):
            refuse("tls_clients", settings.tls_clients, f"a file in {name}, which TLS needs")
    is_asked = settings.tls_auth_clients != AUTH_NO
    if is_asked and not settings.tls_ca_cert_file:
        refuse(
            "tls_auth_clients",
            settings.tls_auth_clients,
            "the CA that signs clients' certificates in tls_ca_cert_file; or tls_auth_clients=no, which asks for none",
        )
    if settings.tls_crl_file and not is_asked:
        refuse("tls_crl_file", settings.tls_crl_file, "no file while tls_auth_clients=no: no certificate is looked at")
