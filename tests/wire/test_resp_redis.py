"""The request parser beside a real Redis 7: the same bytes give the same commands and the same error."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from durable_raft.wire.resp_requests import ParserLimits
from tests.support.waiting import WAIT_S, wait_until
from tests.wire.resp_inputs import CASES, HTTP_CASES, Case, Parsed, encode_request, parse

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

REDIS_LIMITS = ParserLimits(request_bytes_max=1 << 60, args_max=2**31 - 1)


def _version() -> tuple[int, ...]:
    out = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in out.split("v=")[1].split()[0].split("."))


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[Path]:
    """Path of the socket of a fresh Redis 7."""
    if _version()[0] != 7:
        pytest.skip(f"the texts are those of Redis 7, this is {_version()}")
    with tempfile.TemporaryDirectory(prefix="resp") as folder:
        path = Path(folder, "s")
        arguments = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        with subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL) as server:
            try:
                wait_until(lambda: _answers(path), "redis-server")
                yield path
            finally:
                server.kill()


def _answers(path: Path) -> bool:
    try:
        return b"PONG" in ask(path, b"PING\r\n")
    except OSError:
        return False


def ask(path: Path, data: bytes) -> bytes:
    """Send ``data``, say that no more follows, and return all that Redis answers."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(WAIT_S)
        link.connect(str(path))
        answer = b""
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            while got := link.recv(1 << 16):
                answer += got
        except (BrokenPipeError, ConnectionResetError):
            pass  # Redis closed before it had read everything.
        return answer


def _last_line(answer: bytes) -> str:
    return answer.removesuffix(b"\r\n").rpartition(b"\r\n")[2].decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(redis_socket: Path, case: Case) -> None:
    """Every known case has the error that Redis gives, or none where Redis gives none."""
    last = _last_line(ask(redis_socket, case.data))
    found = last[1:] if last.startswith("-ERR Protocol error") else None
    assert found == case.error


@pytest.mark.parametrize("data", HTTP_CASES)
def test_http(redis_socket: Path, data: bytes) -> None:
    """Redis too closes without a word when HTTP is spoken to it."""
    assert ask(redis_socket, data) == b""
    assert parse([data]).close_silently


def unknown_command_answer(args: list[bytes]) -> bytes:
    """Return how Redis 7 answers a command that it does not know, from its source."""
    beginning = b""
    for arg in args[1:]:
        if len(beginning) >= 128:
            break
        beginning += b"'%b' " % arg[: 128 - len(beginning)]
    line = b"-ERR unknown command '%b', with args beginning with: %b" % (args[0][:128], beginning)
    return line.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"


def expected_answer(parsed: Parsed) -> bytes:
    """Return what Redis answers when it parses as we do."""
    answer = b"".join(map(unknown_command_answer, parsed.commands))
    if parsed.error is not None:
        answer += b"-" + parsed.error.encode("utf-8", "surrogateescape") + b"\r\n"
    return answer


# No letter but q, x and z, so that no command is one that Redis knows.
_BYTES = st.sampled_from(b"*$\r\n0123-+ \t\v\"'\\xqz\xff").map(lambda byte: bytes([byte]))
_ARGUMENTS = st.lists(_BYTES, max_size=6).map(b"".join) | st.integers(0, 200).map(lambda size: b"z" * size)
_PIECES = st.one_of(
    st.lists(_ARGUMENTS, min_size=1, max_size=4).map(encode_request),
    st.sampled_from([b"\r\n", b"*1\r\n", b"*2\r\n", b"*0\r\n", b"*-1\r\n", b"$1\r\nz\r\n", b"$-1\r\n", b"$2\rXzzab"]),
    st.sampled_from([b'"z q"', b"'z q'", b"\\x7a", b"\\n", b"\\'", b'\\"', b" ", b"z\r\n", b"q\n"]),
    _BYTES,
)


@given(data=st.lists(_PIECES, max_size=12).map(b"".join))
@settings(max_examples=300)
def test_random_input(redis_socket: Path, data: bytes) -> None:
    """Random requests, inline commands and rubbish give Redis's commands, argument by argument, and its error."""
    parsed = parse([data], REDIS_LIMITS)
    # Redis prints arguments as C strings: what is behind a NUL cannot be compared.
    assume(not any(b"\x00" in arg for command in parsed.commands for arg in command))
    assert ask(redis_socket, data) == expected_answer(parsed)
