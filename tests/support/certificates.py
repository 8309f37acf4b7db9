"""Certificates for tests: a CA, a node, clients good and bad, and a list of what was revoked."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from durable_raft.cli.certificates import NODE_USES, Authority, Signed

CLUSTER = "default"
HOSTS = ("127.0.0.1", "::1", "localhost")


class Certificates:
    """A directory of them; each file is made when it is first asked for, under a name of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.authority = Authority.make(CLUSTER, 400)
        self.authority.signed.write(directory / "ca")

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self.directory / "ca.crt"

    def node(self, name: str = "node", *, days: int = 300) -> Path:
        """Make a node's certificate and key; return the path of both without its end."""
        return self._write(name, self._for(days).sign_node(CLUSTER, "n1", HOSTS))

    def client(self, name: str = "app", *, days: int = 300) -> Path:
        """Make a client's."""
        return self._write(name, self._for(days).sign_client(name))

    def expired(self, name: str = "expired") -> Path:
        """Make one that was good for both ends until yesterday."""
        return self._dated(name, -2, -1)

    def early(self, name: str = "early") -> Path:
        """Make one that will be from tomorrow on."""
        return self._dated(name, 1, 2)

    def _for(self, days: int) -> Authority:
        return Authority(self.authority.signed, days)

    def _dated(self, name: str, begins_days: int, ends_days: int) -> Path:
        authority, now = Authority(self.authority.signed, 300), datetime.now(UTC)
        authority._begins = now + timedelta(days=begins_days)
        authority._ends = now + timedelta(days=ends_days)
        names = [x509.DNSName("localhost")]
        return self._write(name, authority._sign(name, NODE_USES, names))

    def _write(self, name: str, signed: Signed) -> Path:
        stem = self.directory / name
        for end in (".crt", ".key"):
            stem.with_name(name + end).unlink(missing_ok=True)
        signed.write(stem)
        return stem

    def revoke(self, stems: Sequence[Path], *, days: int = 30, name: str = "revoked") -> Path:
        """Make the list of what was revoked, which is good for ``days``; return its path."""
        signed, now = self.authority.signed, datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(signed.certificate.subject)
            .last_update(now - timedelta(days=20))
            .next_update(now + timedelta(days=days))
        )
        for stem in stems:
            certificate = x509.load_pem_x509_certificate(crt(stem).read_bytes())
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        path = self.directory / f"{name}.crl"
        new = path.with_suffix(".new")
        new.write_bytes(builder.sign(signed.key, SHA256()).public_bytes(Encoding.PEM))
        new.rename(path)
        return path

    def settings(self, node: Path, clients: str = "required", **more: object) -> dict[str, object]:
        """Return the settings of a node with these files."""
        return {
            "tls_clients": clients,
            "tls_cert_file": str(crt(node)),
            "tls_key_file": str(key(node)),
            "tls_ca_cert_file": str(self.ca),
            **more,
        }

    def client_context(self, client: Path | None = None) -> ssl.SSLContext:
        """Return what a client connects with, that trusts the CA and shows ``client``."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if client is not None:
            context.load_cert_chain(crt(client), key(client))
        return context


def crt(stem: Path) -> Path:
    """Return where the certificate is."""
    return stem.with_name(stem.name + ".crt")


def key(stem: Path) -> Path:
    """Return where its key is."""
    return stem.with_name(stem.name + ".key")


def put_in_place(source: Path, target: Path) -> None:
    """Replace one certificate and its key by another, one file after the other, as a rotation does."""
    for path in (crt, key):
        new = path(target).with_suffix(".new")
        new.write_bytes(path(source).read_bytes())
        new.chmod(0o600)
        os.replace(new, path(target))  # noqa: PTH105 - atomic, and says so
