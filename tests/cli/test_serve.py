"""cli/serve.py: every setting is a flag, and its help says what it needs to."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from durable_raft.cli.main import main
from durable_raft.cli.serve import serve
from durable_raft.server.settings.config import SETTINGS
from durable_raft.server.settings.sources import Setting


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_a_flag(setting: Setting) -> None:
    """The flag passes its value on under the setting's name, untouched, and nothing when it is not given."""
    option = next(each for each in serve.params if each.name == setting.name)
    assert isinstance(option, click.Option)
    assert setting.flag in option.opts
    argument = [setting.flag] if setting.is_switch else [setting.flag, "0x"]
    with serve.make_context("serve", argument) as context:
        assert context.params[setting.name] == (True if setting.is_switch else "0x")
    with serve.make_context("serve", []) as context:
        assert context.params[setting.name] is None


def test_help_shows_every_flag_with_its_default() -> None:
    """``serve --help`` names every flag and what it is when not given."""
    text = " ".join(CliRunner().invoke(main, ["serve", "--help"], terminal_width=1000).output.split())
    for setting in SETTINGS:
        assert setting.flag in text
        assert setting.help in text
    assert "[default: 50]" in text
    assert "[default: 64GiB]" in text
    assert "[default: 512MiB]" in text
