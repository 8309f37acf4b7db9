"""``durable-raft certs``: what it makes can be used for TLS, is readable by its owner alone, and overwrites nothing."""

from __future__ import annotations

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from durable_raft.cli.certificates import Authority
from durable_raft.cli.main import main
from durable_raft.errors import ConfigError
from durable_raft.server.exit_codes import ExitCode


def certs(directory: Path, *words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["certs", str(directory), *words])


def read(path: Path) -> x509.Certificate:
    """Return a certificate."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_certificates_name_who_they_are_for(tmp_path: Path) -> None:
    """A node's hosts, its id and its cluster; a client's name; each for what it is used for, signed by the CA."""
    place = tmp_path / "tls"
    result = certs(place, "--cluster-name", "east", "--node", "n1=db1.example.org,10.0.0.1,::1", "--client", "the app")
    assert result.exit_code == 0, result.output
    node, client, ca = (read(place / f"{name}.crt") for name in ("node-n1", "client-the app", "ca"))
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["db1.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["durable-raft://east/n1"]
    server, own = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    for certificate, uses in ((node, [server, own]), (client, [own])):
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == uses
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        certificate.verify_directly_issued_by(ca)
    assert [each.value for each in client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["the app"]


def test_openssl_believes_them(tmp_path: Path) -> None:
    """Python's own TLS, with its strictest check, and the program where it is there."""
    place = tmp_path / "tls"
    assert certs(place, "--node", "n1", "--client", "app").exit_code == 0
    context = ssl.create_default_context(cafile=str(place / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(place / "client-app.crt", place / "client-app.key")
    paths = [str(place / name) for name in ("node-n1.crt", "client-app.crt")]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(place / "ca.crt"), *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr


def test_only_the_owner_reads_them(tmp_path: Path) -> None:
    """Directory 0700, files 0600, whatever the umask; a directory that others may look into is refused."""
    place = tmp_path / "tls"
    assert certs(place, "--node", "n1").exit_code == 0
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    place.chmod(0o750)
    result = certs(place, "--node", "n2")
    assert result.exit_code == ExitCode.USAGE
    assert "chmod 700), found mode 0750" in result.output
    assert not (place / "node-n2.crt").exists()


def test_nothing_is_overwritten_and_the_authority_stays(tmp_path: Path) -> None:
    """A later run signs with the CA that is there; one file that is there already stops it before anything is made."""
    place = tmp_path / "tls"
    assert certs(place, "--node", "n1").exit_code == 0
    before = {path: path.read_bytes() for path in place.iterdir()}
    (place / "client-app.key").touch()
    result = certs(place, "--node", "n2", "--client", "app")
    assert result.exit_code == ExitCode.USAGE
    assert "client-app.key: expected no file; nothing is overwritten" in result.output
    assert not (place / "node-n2.crt").exists()
    (place / "client-app.key").unlink()
    assert certs(place, "--node", "n2", "--client", "app").exit_code == 0
    assert {path: path.read_bytes() for path in before} == before
    read(place / "node-n2.crt").verify_directly_issued_by(read(place / "ca.crt"))


def test_a_file_that_came_in_the_meantime_is_not_overwritten_either(tmp_path: Path) -> None:
    """Between the look and the write another may have made one."""
    signed = Authority.make("east", 10).signed
    signed.write(tmp_path / "ca")
    with pytest.raises(ConfigError, match=r"ca\.crt: expected no file; nothing is overwritten"):
        Authority.make("west", 10).signed.write(tmp_path / "ca")
    assert read(tmp_path / "ca.crt") == signed.certificate


def test_days_are_kept_and_nothing_outlives_the_authority(tmp_path: Path) -> None:
    """A certificate that is good for longer than its CA would fail one day for no visible reason."""
    place, now = tmp_path / "tls", datetime.now(UTC)
    assert certs(place, "--days", "30", "--node", "n1").exit_code == 0
    assert certs(place, "--days", "300", "--node", "n2").exit_code == 0
    end = read(place / "ca.crt").not_valid_after_utc
    assert now + timedelta(days=29) < end < now + timedelta(days=31)
    assert read(place / "node-n2.crt").not_valid_after_utc == end


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--node", "n 1"], "node='n 1': expected"),
        (["--node", "n1=bad host"], "node=bad host:1: expected"),
        (["--node", "n1", "--node", "n1=10.0.0.1"], "node=n1,n1=10.0.0.1: expected each id once"),
        (["--client", "../evil"], "client='../evil': expected a name"),
        (["--client", "x" * 65], "expected a name of 1 to 64 printable characters"),
        (["--cluster-name", "a b"], "cluster_name='a b': expected"),
    ],
)
def test_bad_names_are_refused_before_anything_is_made(tmp_path: Path, words: list[str], complaint: str) -> None:
    """With what was found and what was expected."""
    place = tmp_path / "tls"
    result = certs(place, *words)
    assert result.exit_code == ExitCode.USAGE
    assert complaint in result.output
    assert not place.exists()


def test_authority_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Its key is gone, or is another one's: no second CA is made beside the first."""
    place = tmp_path / "tls"
    assert certs(place, "--node", "n1").exit_code == 0
    (place / "ca.key").write_bytes((place / "node-n1.key").read_bytes())
    assert "expected the key of" in certs(place, "--node", "n2").output
    (place / "ca.key").unlink()
    assert "expected the CA that this command made" in certs(place, "--node", "n2").output
