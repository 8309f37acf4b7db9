"""A small CA, and what it signs: certificates for the nodes of a test cluster and for its clients.

All keys are ECDSA on P-256. A node's certificate names its hosts, and in a URI who it is: ``durable-raft://CLUSTER/ID``.
It is good for both ends of a connection. A client's names the client in its subject, and is good for that end only.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from durable_raft.addresses import refuse
from durable_raft.cli.private import write_private
from durable_raft.errors import ConfigError

BEGINS_BEFORE: Final = timedelta(hours=1)
"""Clocks of other machines may be behind this one."""

NODE_USES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
CLIENT_USES: Final = (ExtendedKeyUsageOID.CLIENT_AUTH,)


def node_uri(cluster: str, node_id: str) -> str:
    """Return how a certificate names a node of a cluster."""
    return f"durable-raft://{cluster}/{node_id}"


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, stem: Path) -> list[Path]:
        """Write ``STEM.crt`` and ``STEM.key``; raises ConfigError when one of them is there."""
        parts = {
            stem.with_name(stem.name + ".crt"): self.certificate.public_bytes(Encoding.PEM),
            stem.with_name(stem.name + ".key"): self.key.private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
        }
        for path, data in parts.items():
            try:
                write_private(path, data)
            except FileExistsError:
                raise ConfigError(f"{path}: expected no file; nothing is overwritten") from None
        return list(parts)


def make_directory(directory: Path) -> None:
    """Make a directory for keys, or check the one that is there.

    Raises:
        ConfigError: others than its owner may look into it, or it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"{directory}: expected a place for a directory, got {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        refuse("DIR", directory, f"a directory that only its owner may look into (chmod 700), found mode {mode:04o}")


class Authority:
    """A CA that signs for one cluster."""

    def __init__(self, signed: Signed, days: int) -> None:
        """Sign with ``signed``, for so many days; nothing outlives the CA."""
        self.signed = signed
        now = datetime.now(UTC)
        self._begins = max(now - BEGINS_BEFORE, signed.certificate.not_valid_before_utc)
        self._ends = min(now + timedelta(days=days), signed.certificate.not_valid_after_utc)

    @classmethod
    def make(cls, cluster: str, days: int) -> Authority:
        """Return a new one."""
        key, name = ec.generate_private_key(ec.SECP256R1()), _name(f"durable-raft test CA of {cluster}")
        now = datetime.now(UTC)
        builder = (
            _builder(name, name, key, now - BEGINS_BEFORE, now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(Signed(builder.sign(key, SHA256()), key), days)

    @classmethod
    def load(cls, stem: Path, days: int) -> Authority:
        """Return the one whose files ``write`` made.

        Raises:
            ConfigError: they are not there, are no CA's, or it has ended.
        """
        certificate_path, key_path = stem.with_name(stem.name + ".crt"), stem.with_name(stem.name + ".key")
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = load_pem_private_key(key_path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{stem}.crt, .key: expected the CA that this command made, got {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{key_path}: expected the key of {certificate_path}")
        if certificate.not_valid_after_utc < datetime.now(UTC):
            raise ConfigError(f"{certificate_path}: expected a CA that is valid, but it has ended; use a new DIR")
        return cls(Signed(certificate, key), days)

    def sign_node(self, cluster: str, node_id: str, hosts: Sequence[str]) -> Signed:
        """Return a certificate for a node that is reached by ``hosts`` (names or addresses)."""
        names = [*map(_general_name, hosts), x509.UniformResourceIdentifier(node_uri(cluster, node_id))]
        return self._sign(node_id, NODE_USES, names)

    def sign_client(self, name: str) -> Signed:
        """Return a certificate for a client."""
        return self._sign(name, CLIENT_USES, [])

    def _sign(self, name: str, uses: Sequence[x509.ObjectIdentifier], names: Sequence[x509.GeneralName]) -> Signed:
        key, authority = ec.generate_private_key(ec.SECP256R1()), self.signed
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        builder = (
            _builder(_name(name), authority.certificate.subject, key, self._begins, self._ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(identifier, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Signed(builder.sign(authority.key, SHA256()), key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
