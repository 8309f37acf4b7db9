"""The single binary: one file, one process, no Python where it runs, and the node and all commands inside.

Building takes half a minute and a package index, so these tests run only when a built file is named::

    tools/build_binary --test
    DURABLE_RAFT_BINARY=dist/durable-raft pytest tests/test_binary.py
    DURABLE_RAFT_BINARY=dist/durable-raft pytest tests/cluster/test_survival.py tests/cluster/test_crash_points.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import redis

from durable_raft import __version__
from durable_raft.addresses import PEER_PORT_OFFSET
from durable_raft.cli.local_cluster import HOST, free_ports, is_free
from tests.cluster.harness import BINARY
from tests.support.waiting import WAIT_S, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(BINARY is None, reason="DURABLE_RAFT_BINARY names no built file; tools/build_binary --test"),
]

SIZE_MAX: Final = 20_000_000
STARTS: Final = 8
COMMANDS: Final = ("serve", "dev", "demo", "status", "backup", "restore", "log")

TOOLS: Final = ("sh", "tar", "gzip", "mkdir", "mv", "rm", "stat", "id", "mktemp", "tail", "find")
"""What the file needs from the system, found on the PATH of this machine; all Essential in Debian."""
SYSTEM_LIBRARIES: Final = ("libz.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libm.so.6")
"""What the unpacked program takes from the system, beside what ``TOOLS`` need: parts of glibc, and zlib."""


@pytest.fixture
def binary() -> Path:
    """The built file."""
    assert BINARY is not None
    return Path(BINARY).resolve()


def environment_of(home: Path, **variables: str) -> dict[str, str]:
    """Return a small environment: no PATH to a Python of ours, and nothing unpacked before."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home)} | variables


def run(*command: str | Path, environment: dict[str, str], timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False)


def unpacked(cache: Path) -> list[Path]:
    """Return the unpacked programs in a cache directory, and fail when there is anything else in it or in them."""
    found = sorted(cache.iterdir())
    assert all(path.name.startswith(f"{__version__}-") for path in found), found
    for program in found:
        assert {path.name for path in program.iterdir()} <= {"durable-raft", "_internal"}
    return found


def assert_works(done: subprocess.CompletedProcess[str]) -> None:
    """Check the answer to ``--version``."""
    assert (done.returncode, done.stdout, done.stderr) == (0, f"durable-raft, version {__version__}\n", "")


# -- the file ---------------------------------------------------------------------------------------------------------


def test_it_is_one_small_executable_file(binary: Path) -> None:
    """Under 20 MB, and executable."""
    assert binary.stat().st_size < SIZE_MAX
    assert os.access(binary, os.X_OK)


def test_it_is_unpacked_once(binary: Path, tmp_path: Path) -> None:
    """The first start unpacks the program; all others run what is there, and change nothing of it."""
    seen = set()
    for _ in range(STARTS):
        assert_works(run(binary, "--version", environment=environment_of(tmp_path)))
        (program,) = unpacked(tmp_path / ".cache/durable-raft")
        files = sorted(path for path in program.rglob("*") if path.is_file())
        seen.add(tuple((path, path.stat().st_ino, path.stat().st_mtime_ns) for path in files))
    assert len(seen) == 1


def test_it_has_all_commands(binary: Path, tmp_path: Path) -> None:
    """Our own commands are inside, and the tools that are mounted by an entry point."""
    said = run(binary, "--help", environment=environment_of(tmp_path)).stdout
    assert re.findall(r"^  ([a-z]+)  ", said, re.MULTILINE) == list(COMMANDS)
    for command in COMMANDS:
        done = run(binary, command, "--help", environment=environment_of(tmp_path))
        assert done.returncode == 0, done.stderr
        assert f"durable-raft {command} " in done.stdout


# -- unpacking --------------------------------------------------------------------------------------------------------


def test_first_starts_at_the_same_time_are_safe(binary: Path, tmp_path: Path) -> None:
    """All succeed, one unpacked program is left, and nothing of the others."""
    starts = [
        subprocess.Popen(
            [str(binary), "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment_of(tmp_path)
        )
        for _ in range(STARTS)
    ]
    answers = [(*start.communicate(timeout=WAIT_S), start.returncode) for start in starts]
    assert answers == [(f"durable-raft, version {__version__}\n".encode(), b"", 0)] * STARTS
    assert len(unpacked(tmp_path / ".cache/durable-raft")) == 1


@pytest.mark.parametrize("damage", ["program", "library", "missing"])
def test_incomplete_program_is_not_run(binary: Path, tmp_path: Path, damage: str) -> None:
    """A file that a power failure left empty, or that a cleaner took away, is noticed; another copy is made."""
    environment = environment_of(tmp_path)
    run(binary, "--version", environment=environment)
    (program,) = unpacked(tmp_path / ".cache/durable-raft")
    library = next(program.glob("_internal/libpython3*"))
    if damage == "missing":
        library.unlink()
    else:
        (library if damage == "library" else program / "durable-raft").write_bytes(b"")
    for _ in range(2):
        assert_works(run(binary, "--version", environment=environment))
    assert [path.name for path in unpacked(tmp_path / ".cache/durable-raft")] == [program.name, f"{program.name}.1"]


def test_it_unpacks_elsewhere_when_home_cannot_be_written(binary: Path, tmp_path: Path) -> None:
    """Without a usable home the temporary directory serves, in a directory that nobody else may enter."""
    fallback = tmp_path / f"durable-raft-{os.getuid()}"
    for home in (Path("/dev/null"), Path("/proc"), Path()):
        assert_works(run(binary, "--version", environment=environment_of(home, TMPDIR=str(tmp_path))))
        assert len(unpacked(fallback)) == 1
        assert stat.S_IMODE(fallback.stat().st_mode) == 0o700


def test_it_does_not_run_what_others_put_there(binary: Path, tmp_path: Path) -> None:
    """A directory of the right name that is somebody else's, or a link, is not used; with no other place it says so."""
    home = tmp_path / "home"
    run(binary, "--version", environment=environment_of(home))
    trap = tmp_path / f"durable-raft-{os.getuid()}"
    trap.symlink_to(home / ".cache/durable-raft")
    nowhere = environment_of(Path("/dev/null"), TMPDIR=str(tmp_path))
    done = run(binary, "--version", environment=nowhere)
    assert done.returncode == 1
    assert "no place to unpack" in done.stderr
    if os.getuid() == 0:
        trap.unlink()
        shutil.copytree(home / ".cache/durable-raft", trap)
        assert_works(run(binary, "--version", environment=nowhere))
        os.chown(trap, 12345, 12345)
        assert run(binary, "--version", environment=nowhere).returncode == 1


def run_on_mount(options: str, home: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a fresh file system on ``home``, where it is for that script only."""
    home.mkdir()
    environment = environment_of(home, TMPDIR=str(home.parent), PATH="/usr/sbin:/usr/bin:/sbin:/bin")
    mount = f"mount -t tmpfs -o {options} none {home}"
    if run("unshare", "--mount", "sh", "-c", mount, environment=environment).returncode != 0:
        pytest.skip("mounting a file system needs root")
    return run("unshare", "--mount", "sh", "-c", f"{mount} && {script}", environment=environment)


def test_it_passes_a_file_system_without_programs(binary: Path, tmp_path: Path) -> None:
    """Where nothing may be executed (noexec), the next place is taken; the user is told once."""
    home = tmp_path / "home"
    done = run_on_mount("noexec", home, f"{binary} --version && {binary} --version")
    assert (done.returncode, done.stdout) == (0, f"durable-raft, version {__version__}\n" * 2)
    assert done.stderr == f"durable-raft: programs cannot be run in {home}/.cache/durable-raft\n"


def test_it_passes_a_full_file_system(binary: Path, tmp_path: Path) -> None:
    """Where there is no room, the next place is taken, the reason is one line, and what was unpacked is removed."""
    home = tmp_path / "home"
    done = run_on_mount("size=8m", home, f"{binary} --version && ls -A {home}/.cache/durable-raft")
    assert (done.returncode, done.stdout) == (0, f"durable-raft, version {__version__}\n")
    assert re.fullmatch(r"durable-raft: cannot unpack .*\n", done.stderr), done.stderr


def test_cut_off_file_says_so(binary: Path, tmp_path: Path) -> None:
    """A file that was not copied to its end is refused, and leaves nothing behind that looks like a program."""
    short = tmp_path / "short"
    short.write_bytes(binary.read_bytes()[:-1000])
    short.chmod(0o755)
    done = run(short, "--version", environment=environment_of(tmp_path, TMPDIR=str(tmp_path)))
    assert done.returncode == 1
    assert f"cannot unpack {short}" in done.stderr
    assert list((tmp_path / ".cache/durable-raft").iterdir()) == []


# -- without Python ---------------------------------------------------------------------------------------------------


class BareRoot:
    """A root directory with the file, a shell, the few tools that it needs, the C library, and nothing else."""

    def __init__(self, root: Path, binary: Path) -> None:
        self.root = root
        self._started: list[subprocess.Popen[bytes]] = []
        for directory in ("bin", "tmp", "dev", "root"):
            (root / directory).mkdir(parents=True)
        libraries: set[Path] = set()
        for name in TOOLS:
            program = shutil.which(name)
            assert program is not None, f"{name} is not on this machine"
            shutil.copy(program, root / "bin" / name)
            linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            libraries |= {Path(path) for path in re.findall(r"(/\S+) \(0x", linked)}
        (libc,) = (path for path in libraries if path.name == "libc.so.6")
        libraries |= {libc.with_name(name) for name in SYSTEM_LIBRARIES}
        for library in libraries:
            (root / library.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.relative_to("/"))
        shutil.copy(binary, root / "bin/durable-raft")
        os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (root / "dev/null").write_bytes(b"")

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs durable-raft inside."""
        return ["chroot", str(self.root), "/bin/durable-raft", *arguments]

    def run(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run a command inside to its end, which must be a good one; return what it printed."""
        done = run(*self.command(*arguments), environment=ENVIRONMENT, timeout_s=timeout_s)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command inside; what it says goes to the file ``log``."""
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(self.command(*arguments), stdout=log, stderr=log, env=ENVIRONMENT)
        self._started.append(process)
        return process

    def processes(self) -> list[int]:
        """Return the ids of all processes whose root this is."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "root").readlink() == self.root:
                    found.append(int(process.name))
        return found

    def close(self) -> None:
        """Kill what still runs inside."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait(WAIT_S)


ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


@pytest.fixture
def bare(binary: Path, tmp_path: Path) -> Iterator[BareRoot]:
    """A root directory without Python, which needs root to build and enter."""
    if os.getuid() != 0:
        pytest.skip("chroot needs root")
    try:
        bare = BareRoot(tmp_path.resolve() / "bare", binary)
    except OSError as error:
        pytest.skip(f"no devices can be made here: {error}")
    yield bare
    bare.close()


def client_of(port: int) -> redis.Redis:
    """Return a client that waits until the node there answers."""
    client = redis.Redis(host=HOST, port=port, socket_timeout=10.0)

    def answers() -> bool:
        with suppress(redis.RedisError):
            return bool(client.ping())
        return False

    wait_until(answers, f"an answer on {port}")
    return client


def test_bare_root_has_no_python(bare: BareRoot) -> None:
    """Nothing named after Python is in there, neither before nor, outside of what is unpacked, after."""
    assert [path for path in bare.root.rglob("*") if "python" in path.name.lower()] == []
    assert bare.run("--version") == f"durable-raft, version {__version__}\n"
    found = [path for path in bare.root.rglob("*") if "python" in path.name.lower()]
    assert found
    assert all(path.is_relative_to(bare.root / "root/.cache/durable-raft") for path in found)


def serve_arguments(port: int, peer_port: int) -> Sequence[str]:
    """Return the command line of a cluster of one."""
    return ("serve", "--id", "n1", "--dir", "/data", "--cluster", f"n1={HOST}:{port}@{peer_port}")


def test_node_without_python_survives_kill_9(bare: BareRoot) -> None:
    """The started process id is the node: killed, it leaves nothing; started again, it has what it acknowledged."""
    port, peer_port = free_ports(2)
    process = bare.start(*serve_arguments(port, peer_port))
    with client_of(port) as client:
        assert bare.processes() == [process.pid]
        assert all(client.set(f"key:{number}", f"value-{number}") for number in range(200))
        about = client.info("raft")
        assert about["raft_checksum"] == "google-crc32c", about
        maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        for extension in ("lmdb/cpython", "uvloop/loop", "msgpack/_cmsgpack", "google_crc32c/_crc32c"):
            assert f"_internal/{extension}." in maps, f"{extension} is not what runs"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(WAIT_S) == -signal.SIGKILL
    assert bare.processes() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=5.0)
    assert is_free(peer_port)

    overview = bare.run("log", "stat", "/data")
    assert "raft_node_id:n1\n" in overview
    assert "wounds:0\n" in overview
    dumped = [json.loads(line) for line in bare.run("log", "dump", "/data", "--json").splitlines()]
    assert dumped[-1]["index"] == int(re.findall(r"raft_last_log_index:(\d+)", overview)[0])
    assert "value-199" in bare.run("log", "dump", "/data", "--key", "key:199")

    process = bare.start(*serve_arguments(port, peer_port))
    with client_of(port) as client:
        assert [client.get(f"key:{number}") for number in range(200)] == [
            f"value-{number}".encode() for number in range(200)
        ]
    process.terminate()
    assert process.wait(WAIT_S) == 0, (bare.root / "log").read_text(encoding="utf-8")


def test_demo_without_python(bare: BareRoot) -> None:
    """``demo`` starts its nodes from the binary itself, kills them, and loses nothing."""
    said = bare.run("demo", "--keys", "60", timeout_s=100.0)
    assert said.count("60 of 60 acknowledged writes are there.") == 2
    assert said.endswith("Nothing was lost.\n")
    assert bare.processes() == []


def test_dev_status_backup_and_restore_without_python(bare: BareRoot) -> None:
    """The other commands: a local cluster, asked for its status, backed up, and the backup restored and verified."""
    port = next(port for port in free_ports(50) if is_free(port + PEER_PORT_OFFSET))
    process = bare.start("dev", "--nodes", "1", "--port", str(port), "--dir", "/dev-data")
    with client_of(port) as client:
        assert client.set("city", "Paris")
        (status,) = json.loads(bare.run("status", "--at", f"{HOST}:{port}", "--json"))["nodes"]
        assert (status["id"], status["role"]) == ("n1", "leader")
        bare.run("backup", "--at", f"{HOST}:{port}", "/backup")
        assert len(bare.processes()) == 2, "the command and its one node"
    process.terminate()
    assert process.wait(WAIT_S) == 0, (bare.root / "log").read_text(encoding="utf-8")
    assert bare.processes() == []
    assert "1 keys" in bare.run("backup", "verify", "/backup")

    port, peer_port = free_ports(2)
    arguments = serve_arguments(port, peer_port)
    bare.run("restore", "/backup", *arguments[1:])
    process = bare.start(*arguments)
    with client_of(port) as client:
        assert client.get("city") == b"Paris"
    process.terminate()
    assert process.wait(WAIT_S) == 0
