"""Settings and addresses: what an operator may say, and what is refused with which reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from durable_raft.errors import ConfigError
from durable_raft.raft.types import Member, Membership, NodeId
from durable_raft.server.settings.cluster_id import derive_cluster_id
from durable_raft.server.settings.config import SETTINGS, NodeConfig, load_config

THREE = "n1=10.0.0.1:7001,n2=10.0.0.2:7001,n3=10.0.0.3:7001@9000"


def load(environment: Mapping[str, str] | None = None, **flags: object) -> NodeConfig:
    """Load with a directory given, which every configuration needs."""
    return load_config({"dir": "data", **flags}, environment or {})


def complaint(environment: Mapping[str, str] | None = None, **flags: object) -> str:
    """Return what is said against a configuration."""
    with pytest.raises(ConfigError) as caught:
        load(environment, **flags)
    return str(caught.value)


def no_random(count: int) -> bytes:
    """Stand for a source of randomness that must not be asked."""
    raise AssertionError(f"{count} random bytes were asked for")


# -- who we are and where we listen -----------------------------------------------------------------------------------


def test_own_entry_gives_the_listen_addresses() -> None:
    """With --cluster alone a node listens on its own client and peer addresses."""
    config = load(id="n3", cluster=THREE)
    assert (config.client_host, config.client_port) == ("10.0.0.3", 7001)
    assert (config.peer_host, config.peer_port) == ("10.0.0.3", 9000)
    assert config.client_address == "10.0.0.3:7001"


def test_listen_may_differ_from_the_own_entry() -> None:
    """Behind NAT a node listens elsewhere than others reach it; a wildcard is fine there."""
    config = load(id="n1", cluster=THREE, listen="0.0.0.0:6000")
    assert (config.client_host, config.client_port) == ("0.0.0.0", 6000)
    assert (config.peer_host, config.peer_port) == ("0.0.0.0", 17001)
    assert config.self_member == Member(NodeId("n1"), "10.0.0.1:7001", "10.0.0.1:17001")
    other = load(id="n1", cluster=THREE, listen="0.0.0.0:6000", peer_listen="192.168.0.1:7")
    assert (other.peer_host, other.peer_port) == ("192.168.0.1", 7)


def test_without_cluster_the_node_is_a_cluster_of_one() -> None:
    """No --cluster: one voter with defaults for id and address."""
    config = load()
    assert config.node_id == "n1"
    assert config.membership == Membership((Member(NodeId("n1"), "127.0.0.1:6379", "127.0.0.1:16379"),))
    assert config.directory == Path("data")


def test_wildcard_listen_needs_an_address_for_clients() -> None:
    """Clients cannot be sent to 0.0.0.0: without --cluster such a node must be told what to advertise."""
    assert "--advertise" in complaint(listen="0.0.0.0:7001")
    assert "--advertise" in complaint(listen="[::]:7001")
    assert "advertise=0.0.0.0:1" in complaint(listen="0.0.0.0:7001", advertise="0.0.0.0:1")
    config = load(listen="0.0.0.0:7001", advertise="db.example:7001")
    assert config.client_address == "db.example:7001"
    assert config.client_host == "0.0.0.0"


def test_advertise_must_agree_with_the_cluster_list() -> None:
    """Other nodes send clients to the address in their --cluster, so a different --advertise is refused."""
    assert "10.0.0.1:7001" in complaint(id="n1", cluster=THREE, advertise="10.9.9.9:7001")
    assert load(id="n1", cluster=THREE, advertise="10.0.0.1:7001").client_address == "10.0.0.1:7001"


def test_own_id_must_be_in_the_cluster_list() -> None:
    """An id that --cluster lacks is refused with the ids it has; no id at all is refused too."""
    assert complaint(id="n4", cluster=THREE) == "id=n4: expected one of the ids in --cluster: n1, n2, n3"
    assert "id is not set" in complaint(cluster=THREE)


def test_directory_must_be_given() -> None:
    """There is no default data directory: where data lie is said, not guessed."""
    with pytest.raises(ConfigError, match="dir is not set"):
        load_config({}, {})


def test_client_and_peer_listen_addresses_must_differ() -> None:
    """One socket cannot serve both ports."""
    assert "another address than --listen" in complaint(
        listen="127.0.0.1:7001", peer_listen="127.0.0.1:7001", advertise="other:9"
    )


OFF_AT_ZERO = ("scrub_bytes_per_second", "log_cache_bytes_max")
"""Settings that 0 turns off."""

# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [each for each in SETTINGS if each.metavar in ("MS", "N", "BYTES")])
@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1.5", "9" * 5000])
def test_numbers_that_cannot_work_are_refused(setting: object, value: str) -> None:
    """Zero, negative, fractional, endless and non-numeric values are refused, naming the setting."""
    name = getattr(setting, "name", "")
    if value == "0" and name in (*OFF_AT_ZERO, "memory_max", "election_priority"):
        return
    with pytest.raises(ConfigError) as caught:
        load_config({"dir": "data", name: value}, {})
    assert str(caught.value).startswith(f"{name}={value!r}: expected a ")


def test_byte_sizes_take_units() -> None:
    """Sizes are plain numbers of bytes or carry a binary unit, in any case."""
    assert load(request_bytes_max="32MiB").request_bytes_max == 32 << 20
    assert load(request_bytes_max="32 mib").request_bytes_max == 32 << 20
    assert load(append_bytes_max="4096").append_bytes_max == 4096
    assert "KiB, MiB" in complaint(append_bytes_max="4MB")


def test_an_election_priority_is_bounded() -> None:
    """As MongoDB's are."""
    assert [load(election_priority=value).election_priority for value in (0, 1000)] == [0, 1000]
    assert "expected a whole number from 0 to 1000" in complaint(election_priority=1001)


def test_nothing_may_be_scrubbed_or_cached() -> None:
    """0 turns the scrubber or the cache off; where it would make no sense it is refused."""
    for name in OFF_AT_ZERO:
        assert getattr(load_config({"dir": "data", name: "0"}, {}), name) == 0
    assert "from 1 on" in complaint(append_bytes_max="0")


def test_a_batch_fits_into_a_peer_frame() -> None:
    """With the largest request on top of it."""
    assert load(batch_bytes_max="32MiB").batch_bytes_max == 32 << 20
    assert complaint(batch_bytes_max="33MiB").startswith("batch_bytes_max=34603008: expected at most 33554432")


def test_heartbeat_must_fit_twice_into_the_shortest_election_timeout() -> None:
    """One late heartbeat must not depose a leader: twice the interval is allowed, less is refused."""
    assert load(heartbeat_ms="75").heartbeat_ms == 75
    assert complaint(heartbeat_ms="76").startswith(
        "heartbeat_ms=76: expected at most half of election_timeout_min_ms=150"
    )


def test_election_timeouts_need_a_spread() -> None:
    """Longest above shortest: equal or reversed timeouts make elections end in a draw."""
    for value in ("150", "149"):
        assert f"election_timeout_max_ms={value}" in complaint(election_timeout_max_ms=value)
    assert load(election_timeout_max_ms="151").election_timeout_max_ms == 151


def test_limits_that_contradict_each_other_are_refused() -> None:
    """A request larger than the queue or than a peer frame, and a reserve larger than the map, cannot work."""
    assert "pending_bytes_max" in complaint(pending_bytes_max="1MiB")
    assert "one peer frame" in complaint(request_bytes_max="1GiB", pending_bytes_max="2GiB")
    assert "map_bytes" in complaint(map_bytes="64MiB")


def test_a_secret_can_only_be_optional_where_there_is_one(tmp_path: Path) -> None:
    """Else an operator would believe that something is proven. The file itself is read when the node starts."""
    assert "expected cluster_secret_file beside it" in complaint(cluster_secret_optional="true")
    config = load(cluster_secret_optional="true", cluster_secret_file=f" {tmp_path} ")
    assert (config.cluster_secret_file, config.cluster_secret_optional) == (str(tmp_path), True)
    assert load().cluster_secret_file is None


def test_a_configuration_made_by_hand_is_checked_too() -> None:
    """A NodeConfig that exists has passed the checks, whoever made it."""
    good = load()
    with pytest.raises(ConfigError, match="heartbeat_ms"):
        dataclasses.replace(good, heartbeat_ms=200)
    with pytest.raises(ConfigError, match="id=n9"):
        dataclasses.replace(good, node_id=NodeId("n9"))
    with pytest.raises(ConfigError, match="cluster_id"):
        dataclasses.replace(good, cluster_id=b"short")
    with pytest.raises(ConfigError, match="cluster_name"):
        dataclasses.replace(good, cluster_name="two words")


# -- sources ----------------------------------------------------------------------------------------------------------


def test_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source is stronger than the one below it, setting by setting."""
    file = tmp_path / "node.toml"
    file.write_text("heartbeat_ms = 11\nclients_max = 22\nlog_level = 'debug'\n")
    environment = {
        "DURABLE_RAFT_HEARTBEAT_MS": "33",
        "DURABLE_RAFT_CLIENTS_MAX": "44",
        "DURABLE_RAFT_CONFIG": str(file),
    }
    config = load(environment, heartbeat_ms="55")
    assert (config.heartbeat_ms, config.clients_max, config.log_level) == (55, 44, "debug")
    assert config.append_inflight_max == 64


def test_every_setting_is_a_line_of_the_file(tmp_path: Path) -> None:
    """A file that sets every setting is understood, with TOML's own numbers, truth values and arrays."""
    values: dict[str, str] = {
        "id": "'n1'",
        "dir": "'elsewhere'",
        "listen": "'127.0.0.1:5000'",
        "peer_listen": "'127.0.0.1:5001'",
        "advertise": "'a:1'",
        "cluster": "['n1=a:1', 'n2=b:1']",
        "cluster_id": f"'{'ab' * 16}'",
        "cluster_name": "'test'",
        **dict.fromkeys(("tls_cert_file", "tls_key_file", "tls_ca_cert_file", "tls_crl_file"), "'file.pem'"),
        "tls_clients": "'optional'",
        "tls_auth_clients": "'yes'",
        "tls_protocols": "['TLSv1.3']",
        "log_commit": "'journal'",
        "log_format": "'json'",
        "log_level": "'error'",
        "allow_network_fs": "true",
        "accept_new_addresses": "false",
        "accept_old_copy": "false",
        "cluster_secret_file": "'secret'",
        "cluster_secret_optional": "true",
    }
    for setting in SETTINGS:
        if setting.name != "join":  # In place of ``cluster``.
            values.setdefault(setting.name, str(setting.default))
    file = tmp_path / "node.toml"
    file.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    config = load_config({"config": str(file)}, {})
    assert config.directory == Path("elsewhere")
    assert config.membership.ids() == ("n1", "n2")
    assert config.cluster_id == b"\xab" * 16
    assert config.allow_network_fs is True
    assert config.accept_new_addresses is False
    assert (config.client_port, config.peer_port, config.log_format) == (5000, 5001, "json")


def test_a_node_that_joins_says_where_it_is_and_whom_it_asks() -> None:
    """It has an id and an address of its own, and the cluster says who the others are."""
    flags = {"dir": "d", "id": "n4", "listen": "0.0.0.0:7001", "advertise": "DB4:7001", "join": "DB1:7001"}
    config = load_config(flags, {})
    assert (config.join, config.client_address, config.membership.ids()) == ("db1:7001", "db4:7001", ("n4",))
    assert config.first_members == Membership(())
    for wrong, reason in (
        ({"cluster": "n4=db4:7001,n1=db1:7001"}, "no --cluster beside it"),
        ({"id": None}, "an id that no node of the cluster ever had"),
        ({"join": "db1"}, "HOST:PORT"),
        ({"advertise": None}, "an address that clients can be sent to"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_config({**flags, **wrong}, {})


@pytest.mark.parametrize("setting", [each for each in SETTINGS if each.default is not None], ids=lambda each: each.name)
def test_every_setting_is_an_environment_variable(setting: object) -> None:
    """DURABLE_RAFT_NAME sets it, and an error names the variable."""
    name = getattr(setting, "name", "")
    variable = f"DURABLE_RAFT_{name.upper()}"
    message = complaint({variable: "two words!"})
    assert message.startswith(f"{name}=")
    if name != "cluster_name" and not name.endswith("_file"):  # any text parses; it is checked with the rest
        assert f"from environment variable {variable}" in message


def test_unknown_keys_of_the_file_are_refused(tmp_path: Path) -> None:
    """A misspelt key is refused by name, with the key that was probably meant."""
    file = tmp_path / "node.toml"
    file.write_text("hartbeat_ms = 50\n")
    message = complaint(config=str(file))
    assert "'hartbeat_ms'" in message
    assert "did you mean 'heartbeat_ms'" in message


def test_foreign_environment_variables_are_left_alone() -> None:
    """Variables that only share the prefix (Kubernetes makes some) change nothing; an empty one counts as not set."""
    environment = {"DURABLE_RAFT_PORT": "tcp://10.0.0.1:6379", "DURABLE_RAFT_SERVICE_HOST": "x", "DURABLE_RAFT_ID": ""}
    assert load(environment) == load()


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe"])
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is not TOML, not UTF-8 or not there is refused with its path."""
    file = tmp_path / "node.toml"
    file.write_bytes(content)
    assert str(file) in complaint(config=str(file))
    assert "absent.toml" in complaint(config=str(tmp_path / "absent.toml"))


def test_wrong_types_in_the_file_are_refused(tmp_path: Path) -> None:
    """A truth value is no number, a number is no truth value or text, a table is nothing; the file is named."""
    file = tmp_path / "node.toml"
    for line in ("heartbeat_ms = true", "allow_network_fs = 2", "id = 5", "[cluster]\nn1 = 'a:1'", "map_bytes = 1.5"):
        file.write_text(line)
        assert f"(from {file})" in complaint(config=str(file))


# -- cluster id -------------------------------------------------------------------------------------------------------


def test_nodes_with_the_same_flags_derive_the_same_cluster_id() -> None:
    """All nodes of one --cluster agree without talking, in whatever order it is written, by nothing random."""
    shuffled = ",".join(reversed(THREE.split(",")))
    ids = {
        derive_cluster_id(load(id=node, cluster=text), no_random) for node in ("n1", "n2") for text in (THREE, shuffled)
    }
    assert len(ids) == 1
    assert len(ids.pop()) == 16


def test_cluster_id_is_golden() -> None:
    """The derivation never changes: a node that is replaced by a newer version must still find its cluster."""
    config = load(id="n1", cluster="n1=a:1,n2=b:2@3")
    assert derive_cluster_id(config, no_random).hex() == "0034883c8544ca5daf55cec787148a0a"


def test_other_names_and_addresses_derive_other_cluster_ids() -> None:
    """Name, ids, client and peer addresses all count."""
    texts = [
        THREE,
        THREE.replace("9000", "9001"),
        THREE.replace("n3", "n4"),
        THREE.replace("10.0.0.2:7001", "10.0.0.2:7002"),
    ]
    ids = {derive_cluster_id(load(id="n1", cluster=text), no_random) for text in texts}
    ids.add(derive_cluster_id(load(id="n1", cluster=THREE, cluster_name="other"), no_random))
    assert len(ids) == 5


def test_cluster_of_one_gets_a_random_cluster_id() -> None:
    """Two single nodes started alike are two clusters."""
    assert derive_cluster_id(load(), lambda count: b"r" * count) == b"r" * 16


def test_given_cluster_id_replaces_the_derived_one() -> None:
    """--cluster-id counts as it is, 32 hex digits, and nothing else is one."""
    assert derive_cluster_id(load(cluster_id="0f" * 16), no_random) == b"\x0f" * 16
    for bad in ("0f" * 15, "zz" * 16, "0f" * 17):
        assert "32 hex digits" in complaint(cluster_id=bad)
