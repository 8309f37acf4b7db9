"""The file of the cluster secret: made, read, refused with what is wrong with it, and read again when it changes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable_raft.cli.main import main
from durable_raft.errors import ConfigError
from durable_raft.server import cluster_secret
from durable_raft.server.cluster_secret import ClusterSecrets, SecretState, read_secrets
from durable_raft.wire.proof import Stance

ONE = "one secret that is long enough to be one"
TWO = "two: another one, which is long enough, too"


def written(path: Path, *lines: str, mode: int = 0o600) -> Path:
    """Write a file of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(mode)
    return path


def test_lines_are_secrets(tmp_path: Path) -> None:
    """The first is proven; empty lines, comments and spaces around a secret say nothing."""
    file = written(tmp_path / "secret", "# of the cluster", "", f"  {ONE} ", "\t", "  # the old one:", TWO)
    assert read_secrets(file) == (ONE.encode(), TWO.encode())
    secrets = ClusterSecrets(file)
    assert secrets.proven == ONE.encode()
    assert secrets.stance is Stance.MUST
    assert [secrets.accepts(each) for each in (ONE.encode(), TWO.encode(), b"another", None)] == [
        True,
        True,
        False,
        True,
    ]


def test_what_a_node_does_without_and_with_the_switch() -> None:
    """No file: no secret."""
    assert ClusterSecrets().stance is Stance.NONE
    assert ClusterSecrets().accepted == ()
    assert not ClusterSecrets().refresh()


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "expected one secret, or 2 while it is being changed, got 0; 'durable-raft secret FILE' makes one"),
        (["# nothing"], "got 0"),
        ([ONE, TWO, ONE + "!"], "expected one secret, or 2 while it is being changed, got 3"),
        ([ONE, "x" * 31], "expected a secret of at least 32 characters in line 2, got 31"),
        (["x" * (16 << 10)], "expected at most 16384 bytes, got more"),
    ],
)
def test_what_is_no_secret_is_refused(tmp_path: Path, lines: list[str], complaint: str) -> None:
    """With the file, what was expected and what was found; never with what a line holds."""
    file = written(tmp_path / "secret", *lines)
    with pytest.raises(ConfigError, match="cluster_secret_file=") as error:
        ClusterSecrets(file)
    assert str(file) in str(error.value)
    assert complaint in str(error.value)
    assert not any(line in str(error.value) for line in lines if len(line) > 12)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o610])
def test_a_file_of_others_is_refused(tmp_path: Path, mode: int) -> None:
    """The message names the mode, and what to do."""
    file = written(tmp_path / "secret", ONE, mode=mode)
    with pytest.raises(ConfigError, match=f"got {mode:#06o}: others than its owner may use it; run 'chmod 600 {file}'"):
        read_secrets(file)
    file.chmod(0o400)
    assert read_secrets(file) == (ONE.encode(),)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Nothing, a directory, or a pipe, which must not be waited for."""
    with pytest.raises(ConfigError, match=r"expected a file that this node can read, got .*No such file"):
        read_secrets(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="expected a file, got something else"):
            read_secrets(path)


# -- while the node runs ----------------------------------------------------------------------------------------------


def replaced(path: Path, *lines: str) -> None:
    """Put another file in the place of the one at ``path``, as tools do that write whole files."""
    written(path.with_name("other"), *lines).replace(path)


def test_a_change_is_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new second secret, the other order, the old one gone; each is said in the log, without the secret."""
    caplog.set_level("INFO")
    file = written(tmp_path / "secret", ONE)
    secrets = ClusterSecrets(file)
    assert not secrets.refresh()
    for lines in ([ONE, TWO], [TWO, ONE], [TWO]):
        replaced(file, *lines)
        assert secrets.refresh()
        assert not secrets.refresh()
        assert secrets.accepted == tuple(line.encode() for line in lines)
    assert [record.message for record in caplog.records] == ["cluster_secret_read"] * 3
    assert not any(ONE in str(record.__dict__) or TWO in str(record.__dict__) for record in caplog.records)


def test_the_same_secrets_in_another_file_change_nothing(tmp_path: Path) -> None:
    """Its links go on."""
    file = written(tmp_path / "secret", ONE)
    secrets = ClusterSecrets(file)
    replaced(file, "# another comment", ONE)
    assert not secrets.refresh()


@pytest.mark.parametrize("damage", ["absent", "readable by others", "no secret"])
def test_a_file_that_became_wrong_changes_nothing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good secrets count; the log says it once, and the node for as long as it is so."""
    file = written(tmp_path / "secret", ONE)
    secrets = ClusterSecrets(file)
    if damage == "absent":
        file.unlink()
    elif damage == "no secret":
        written(file, "short")
    else:
        file.chmod(0o644)
    assert not secrets.refresh()
    assert not secrets.refresh()
    assert secrets.accepted == (ONE.encode(),)
    assert str(file) in secrets.state.problem
    assert [record.message for record in caplog.records] == ["cluster_secret_unread"]
    file.unlink(missing_ok=True)
    written(file, TWO)
    assert secrets.refresh()
    assert (secrets.state, secrets.accepted) == (SecretState(1), (TWO.encode(),))


def test_a_file_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it looks the same: its disk had an error. That is said once."""
    file = written(tmp_path / "secret", ONE)
    secrets = ClusterSecrets(file)

    def fail(_: Path) -> tuple[int, bytes]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(cluster_secret, "_read", fail)
        replaced(file, TWO)
        assert not secrets.refresh()
        assert not secrets.refresh()
    assert [record.message for record in caplog.records] == ["cluster_secret_unread"]
    assert secrets.refresh()
    assert secrets.state == SecretState(1)


# -- the command that makes it ----------------------------------------------------------------------------------------


def run(*words: str) -> tuple[int, str]:
    """Run ``durable-raft``; return its exit code and all that it said."""
    result = CliRunner().invoke(main, list(words))
    return result.exit_code, result.output


def test_a_secret_is_made(tmp_path: Path) -> None:
    """32 random bytes in base64, for its owner only, whatever the umask; each time other ones."""
    before = os.umask(0)
    try:
        for name in ("one", "two"):
            code, said = run("secret", str(tmp_path / name))
            assert code == 0, said
            assert "--cluster-secret-file" in said
    finally:
        os.umask(before)
    one, two = read_secrets(tmp_path / "one"), read_secrets(tmp_path / "two")
    assert [len(each) for each in one + two] == [44, 44]
    assert one != two
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert one[0].decode() not in said


def test_a_secret_is_never_overwritten(tmp_path: Path) -> None:
    """Nor is one made where no file can be."""
    file = written(tmp_path / "secret", ONE)
    code, said = run("secret", str(file))
    assert code == 2
    assert "exists: expected a path where nothing is; --add adds a second secret" in said
    assert read_secrets(file) == (ONE.encode(),)
    code, said = run("secret", str(tmp_path / "absent" / "secret"))
    assert code == 2
    assert "expected a path where a file can be made" in said


def test_a_second_secret_is_added(tmp_path: Path) -> None:
    """Behind the one that is there, which is proven as before; a third is refused."""
    file = tmp_path / "secret"
    file.write_text(f"# ours\n{ONE}")
    file.chmod(0o600)
    code, said = run("secret", "--add", str(file))
    assert code == 0, said
    assert "copy it to every node" in said
    first, second = read_secrets(file)
    assert first == ONE.encode()
    assert len(second) == 44
    assert file.read_text().startswith("# ours\n")
    code, said = run("secret", "--add", str(file))
    assert code == 2
    assert "holds 2 secrets" in said
    assert read_secrets(file) == (first, second)
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_secret_is_long_enough() -> None:
    """What is made passes what is asked for."""
    assert len(cluster_secret.new_secret(b"x" * cluster_secret.SECRET_BYTES)) >= cluster_secret.SECRET_CHARACTERS_MIN


def test_what_takes_long_to_load_is_there_before_the_first_link_and_only_where_it_is_needed(tmp_path: Path) -> None:
    """Loaded in the middle of a handshake it would hold the loop; a node without a secret has no use for it."""
    file = written(tmp_path / "secret", ONE)
    script = (
        "import sys, durable_raft.server.process\n"
        "from pathlib import Path\n"
        "from durable_raft.server.cluster_secret import ClusterSecrets\n"
        "ClusterSecrets(None)\n"
        "print('cryptography' in sys.modules)\n"
        "ClusterSecrets(Path(sys.argv[1]))\n"
        "before = set(sys.modules)\n"
        "from durable_raft.wire.proof import derive, Transcript\n"
        "derive(b's' * 32, Transcript(b'c' * 16, 'n1', b'u' * 16, 'n2', '1', b'x' * 16, b'y' * 16))\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n[]\n"
