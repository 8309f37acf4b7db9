"""Every error that ends a command has the exit code that is documented for it."""

from __future__ import annotations

import pytest

from durable_raft import errors
from durable_raft.server.exit_codes import ExitCode, exit_code_of
from durable_raft.server.start.recovery import LogWentBack
from durable_raft.storage.wounds import NewerFormat, WoundedLog


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.CorruptRecord("x"), 3),
        (WoundedLog([]), 3),
        (LogWentBack("x"), 3),
        (errors.NodeUnreachable("x"), 4),
        (errors.DirectoryRefused("x"), 5),
        (errors.UnknownFormatVersion("x"), 5),
        (NewerFormat([]), 5),
        (errors.StoragePoisoned("x"), 6),
        (errors.InvariantViolation("x"), 70),
        (KeyboardInterrupt(), 130),
        (errors.ErrorAnswered("x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_an_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """Scripts depend on them: none ever changes."""
    assert exit_code_of(error) == ExitCode(code)
