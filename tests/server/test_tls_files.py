"""What a node makes of certificates, keys, CAs and lists: at its start, and when they change."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from durable_raft.errors import ConfigError
from durable_raft.server import tls
from durable_raft.server.settings.config import load_config
from durable_raft.server.settings.tls import TlsSettings
from durable_raft.server.tls import DAY_S, TlsKeeper, load
from tests.support.certificates import Certificates, crt, key, put_in_place
from tests.support.waiting import WAIT_S


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    """A CA in an own directory."""
    return Certificates(tmp_path / "tls")


def settings_of(made: Certificates, node: Path, **more: object) -> TlsSettings:
    """Return the settings of a node with these files."""
    flags = {"dir": "unused", **made.settings(node)} | more
    return load_config(flags, {})


# -- what makes no sense together -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"tls_clients": "off"}, "tls_cert_file=.*: expected no file while tls_clients=off"),
        ({"tls_key_file": ""}, "tls_clients=required: expected a file in tls_key_file"),
        ({"tls_cert_file": ""}, "tls_clients=required: expected a file in tls_cert_file"),
        ({"tls_ca_cert_file": ""}, "tls_auth_clients=yes: expected the CA .* in tls_ca_cert_file"),
        ({"tls_ca_cert_file": "", "tls_auth_clients": "optional"}, "tls_auth_clients=optional: expected the CA"),
        ({"tls_auth_clients": "no", "tls_crl_file": "x"}, "tls_crl_file=x: expected no file while tls_auth_clients=no"),
        ({"tls_clients": "on"}, "tls_clients='on': expected one of off, optional, required"),
        ({"tls_protocols": "TLSv1.1"}, "tls_protocols='TLSv1.1': expected one or more of TLSv1.2, TLSv1.3"),
        ({"tls_protocols": ""}, "tls_protocols='': expected one or more of"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(
    made: Certificates, more: dict[str, object], complaint: str
) -> None:
    """Each with what was found and what was expected, before any file is read."""
    with pytest.raises(ConfigError, match=complaint):
        settings_of(made, Path("nowhere"), **more)


def test_asking_no_client_for_a_certificate_needs_no_authority(made: Certificates) -> None:
    """TLS that proves the node only."""
    settings = settings_of(made, made.node(), tls_ca_cert_file="", tls_auth_clients="no")
    assert load(settings, time.time()).context.verify_mode is ssl.CERT_NONE


def test_memory_is_kept_for_what_tls_takes_of_a_connection() -> None:
    """A third as many connections fit into the same memory; more are refused, and the default is cut down."""
    flags: dict[str, object] = {"dir": "x", "memory_max": "256MiB"}
    files = {"tls_clients": "optional", "tls_cert_file": "c", "tls_key_file": "k", "tls_auth_clients": "no"}
    plain, encrypted = load_config(flags, {}), load_config(flags | files, {})
    assert encrypted.clients_max == plain.clients_max // 3 == 256
    with pytest.raises(ConfigError, match=r"clients_max=257: expected at most 256, .* 48 KiB a connection with TLS"):
        load_config(flags | files | {"clients_max": 257}, {})


# -- what is wrong with a file ----------------------------------------------------------------------------------------


def _without_key(made: Certificates) -> None:
    key(made.directory / "node").unlink()


def _directory(made: Certificates) -> None:
    crt(made.directory / "node").unlink()
    crt(made.directory / "node").mkdir()


def _no_pem(made: Certificates) -> None:
    crt(made.directory / "node").write_text("certificate")


def _key_no_pem(made: Certificates) -> None:
    key(made.directory / "node").write_text("key")


def _other_key(made: Certificates) -> None:
    key(made.directory / "node").write_bytes(key(made.node("other")).read_bytes())


def _open_key(made: Certificates) -> None:
    key(made.directory / "node").chmod(0o640)


def _locked_key(made: Certificates) -> None:
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    key(made.directory / "node").write_bytes(locked)


def _expired(made: Certificates) -> None:
    put_in_place(made.expired(), made.directory / "node")


def _early(made: Certificates) -> None:
    put_in_place(made.early(), made.directory / "node")


def _no_authority(made: Certificates) -> None:
    made.ca.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_without_key, "tls_key_file=.*node.key: expected a readable file, got .*No such file"),
        (_directory, "tls_cert_file=.*node.crt: expected a readable file, got .*Is a directory"),
        (_no_pem, "tls_cert_file=.*: expected certificates in PEM"),
        (_key_no_pem, "tls_key_file=.*: expected a private key in PEM"),
        (_other_key, "tls_key_file=.*: expected the key of the first certificate in tls_cert_file="),
        (_open_key, r"tls_key_file=.*: expected a file that only its owner may read \(chmod 600\), found mode 0640"),
        (_locked_key, "tls_key_file=.*: expected a private key without a passphrase"),
        (_expired, "tls_cert_file=.*: expected a certificate that is valid now, but this one ended at 20"),
        (_early, "tls_cert_file=.*: expected a certificate that is valid now, but this one begins at 20"),
        (_no_authority, "tls_ca_cert_file=.*: expected certificates in PEM"),
    ],
)
def test_file_that_is_wrong_is_named(
    made: Certificates, damage: Callable[[Certificates], None], complaint: str
) -> None:
    """With what was found and what was expected; and nothing but that was wrong."""
    node = made.node()
    settings = settings_of(made, node)
    load(settings, time.time())
    damage(made)
    with pytest.raises(ConfigError, match=complaint):
        load(settings, time.time())


@pytest.mark.parametrize(
    ("text", "days", "complaint"),
    [
        ("nothing", None, "tls_crl_file=.*: expected at least one list of revoked certificates in PEM"),
        ("-----BEGIN X509 CRL-----\nAAAA\n", None, "tls_crl_file=.*: expected lists of revoked certificates in PEM"),
        (None, -1, "tls_crl_file=.*: expected a list that is up to date, but the next one was due at 20"),
    ],
)
def test_list_of_revoked_certificates_that_is_wrong_is_named(
    made: Certificates, text: str | None, days: int | None, complaint: str
) -> None:
    """OpenSSL would let nobody in by one that is out of date, and by none at all whomever it likes."""
    path = made.revoke([], days=days or 30)
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load(settings_of(made, made.node(), tls_crl_file=str(path)), time.time())


def test_whatever_goes_wrong_with_a_file_is_an_error_of_the_settings(
    made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running node reads them, too, and must not end by it: a key that is gone between two looks, say."""
    settings = settings_of(made, made.node())

    def gone(*_: object) -> None:
        raise FileNotFoundError("gone")

    monkeypatch.setattr(tls, "_check_key", gone)
    with pytest.raises(ConfigError, match=r"tls_cert_file=.*: expected usable files, got FileNotFoundError"):
        load(settings, time.time())


def test_old_versions_and_weak_ciphers_are_not_spoken(made: Certificates) -> None:
    """TLS 1.2 and 1.3 by default, or one of them; forward secrecy, no compression, no renegotiation."""
    node = made.node()
    context = load(settings_of(made, node), time.time()).context
    assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert all(re.match("TLS_|ECDHE-", cipher["name"]) and cipher["aead"] for cipher in context.get_ciphers())
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    newest = load(settings_of(made, node, tls_protocols=["TLSv1.3"]), time.time()).context
    assert newest.minimum_version is newest.maximum_version is ssl.TLSVersion.TLSv1_3


# -- files that change ------------------------------------------------------------------------------------------------


async def looked(keeper: TlsKeeper, until: Callable[[], bool]) -> None:
    """Let a node look at its files until something holds."""
    async with asyncio.timeout(WAIT_S):
        while not until():
            keeper.look()
            await asyncio.sleep(0.001)


def names(keeper: TlsKeeper) -> list[str]:
    """Return the alarms that stand."""
    return [alarm.name for alarm in keeper.alarms()]


def test_new_files_are_used_and_broken_ones_are_not(made: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """The good ones of before stay, an alarm tells what is wrong, and goes when it is mended."""
    node = made.node()
    keeper = TlsKeeper(settings_of(made, node))

    async def main() -> None:
        first = keeper.context
        put_in_place(made.node("second"), node)
        await looked(keeper, lambda: keeper.context is not first)
        second = keeper.context
        assert (keeper.reloads, names(keeper)) == (1, [])
        key(node).write_text("no key")
        await looked(keeper, lambda: bool(names(keeper)))
        assert names(keeper) == ["tls_files_refused"]
        assert "expected a private key in PEM" in keeper.alarms()[0].text
        assert keeper.context is second
        crt(node).unlink()
        await looked(keeper, lambda: "No such file" in keeper.alarms()[0].text)
        assert keeper.context is second
        put_in_place(made.node("third"), node)
        await looked(keeper, lambda: not names(keeper))
        assert keeper.context is not second
        assert keeper.reloads == 2

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    said = [record.msg for record in caplog.records if record.name == tls.__name__]
    assert said == ["tls_reloaded", "tls_reload_failed", "tls_reload_failed", "tls_reloaded"]


def test_files_that_stand_still_are_loaded_once(made: Certificates) -> None:
    """Looking costs a system call for each file; loading costs milliseconds."""
    keeper = TlsKeeper(settings_of(made, made.node()))

    async def main() -> None:
        context = keeper.context
        for _ in range(20):
            keeper.look()
            await asyncio.sleep(0)
        assert keeper.context is context
        assert not keeper._is_loading

    asyncio.run(main())


def test_files_are_loaded_when_they_have_stood_still_for_a_look(made: Certificates) -> None:
    """Between a new certificate and its key nothing is tried: that would be an alarm about nothing."""
    node = made.node()
    keeper = TlsKeeper(settings_of(made, node))

    async def main() -> None:
        crt(node).write_bytes(crt(made.node("second")).read_bytes())
        keeper.look()
        assert not keeper._is_loading
        key(node).write_bytes(key(made.directory / "second").read_bytes())
        keeper.look()
        assert not keeper._is_loading
        await looked(keeper, lambda: keeper.reloads == 1)

    asyncio.run(main())


def test_end_of_a_certificate_is_told_thirty_and_seven_days_before(
    made: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Once at either, then every day; the alarm stands all the time, and is another one when it has ended."""
    present = time.time()
    keeper = TlsKeeper(settings_of(made, made.node(days=100)), lambda: present)
    begin, told = present, []
    for day in range(102):
        present = begin + day * DAY_S + 1
        for _ in range(3):
            keeper.look()
        told.append(names(keeper))
    left = [record.__dict__["fields"]["days"] for record in caplog.records if record.msg == "certificate_ends"]
    assert left == [29, 6, 5, 4, 3, 2, 1, 0, -1, -2]
    assert told.count([]) == 70
    assert told.count(["certificate_ends"]) == 30
    assert told[-2:] == [["certificate_ended"]] * 2


def test_list_that_is_out_of_date_is_told(made: Certificates) -> None:
    """OpenSSL refuses every certificate then."""
    present = time.time()
    path = made.revoke([], days=10)
    keeper = TlsKeeper(settings_of(made, made.node(), tls_crl_file=str(path)), lambda: present)
    assert names(keeper) == []
    present += 11 * DAY_S
    assert names(keeper) == ["revocations_ended"]
