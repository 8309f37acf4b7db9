"""``durable-raft serve``: one node. Its flags are made from the table of settings in server/settings/config.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import click

from durable_raft.server.logs import start_logging
from durable_raft.server.settings.config import SETTINGS, load_config
from durable_raft.server.settings.sources import CONFIG_FILE, Setting


def _shown(setting: Setting) -> str:
    if not setting.shown_default or setting.is_switch:
        return setting.help
    return f"{setting.help}  [default: {setting.shown_default}]"


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Add one option per setting; values stay as they are given, server/settings/sources.py parses them all alike."""
    for setting in reversed(SETTINGS):
        if setting.is_switch:
            declaration = f"{setting.flag}/--no-{setting.flag[2:]}"
            option = click.option(declaration, setting.name, default=None, help=_shown(setting))
        else:
            option = click.option(setting.flag, setting.name, metavar=setting.metavar, help=_shown(setting))
        function = option(function)
    return function


@click.command(short_help="Run one node.")
@click.option(f"--{CONFIG_FILE}", CONFIG_FILE, metavar="FILE", help="TOML file with any of the settings below")
@_options
def serve(**flags: object) -> None:
    """Run one node until SIGTERM or Ctrl-C.

    Every option is also a line of the --config file (heartbeat_ms = 50) and an environment variable
    (DURABLE_RAFT_HEARTBEAT_MS=50). A flag is stronger than the environment, the environment than the file.

    \b
    A cluster of one:
      durable-raft serve --dir data
    One of three:
      durable-raft serve --id n1 --dir d1 --cluster n1=10.0.0.1:7001,n2=10.0.0.2:7001,n3=10.0.0.3:7001
    One more, which joins a running cluster and is added there with 'durable-raft member add':
      durable-raft serve --id n4 --dir d4 --listen 10.0.0.4:7001 --join 10.0.0.1:7001
    """
    config = load_config(flags, os.environ)
    if config.join is not None:
        from durable_raft.cli.membership import joined

        config = joined(config)
    output = start_logging(node_id=config.node_id, level=config.log_level, log_format=config.log_format)
    # From the first moment on: by default it would end the process.
    signal.signal(signal.SIGHUP, lambda *_: output.reopen())
    try:
        # Imported late: a mistake in the configuration is told before the whole server is loaded.
        from durable_raft.server.process import run

        code = run(config)
    finally:
        output.close()
    click.get_current_context().exit(code)
