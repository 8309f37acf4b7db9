"""The command group: finds commands by name, imports only the one that is asked for, turns errors into exit codes.

Commands of other packages are mounted from the entry-point group ``durable_raft.commands``, so that the tools come
along without the node importing them.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

from durable_raft import __version__
from durable_raft.errors import DurableRaftError

PLUGIN_GROUP: Final = "durable_raft.commands"

_COMMANDS: Final = {
    "serve": "durable_raft.cli.serve:serve",
    "dev": "durable_raft.cli.dev:dev",
    "demo": "durable_raft.cli.demo:demo",
    "status": "durable_raft.cli.status:status",
    "member": "durable_raft.cli.member:member",
    "secret": "durable_raft.cli.secret:secret",
    "transfer": "durable_raft.cli.member:transfer",
    "raise-version": "durable_raft.cli.raise_version:raise_version",
    "backup": "durable_raft.cli.backup:backup",
    "restore": "durable_raft.cli.backup:restore",
    "certs": "durable_raft.cli.certs:certs",
}
"""Our own commands, in the order in which ``--help`` shows them: name -> module:object."""

_EXIT_CODES: Final = """\b
Exit codes:
  0    done
  1    the answer is no, or an error without a code of its own
  2    the command line or the configuration cannot work
  3    stored data are damaged
  4    no node answers, or there is no leader
  5    the directory may not be used: in use, of another node or cluster, newer
  6    a write or sync failed, and the node stopped
  7    the data directory was lost under the node: removed, replaced or unmounted
  8    the node was removed from its cluster, and stopped
  70   an invariant was broken: our bug
  130  Ctrl-C
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our own commands, then the plug-ins by name."""
        del ctx
        from importlib.metadata import entry_points

        return [*_COMMANDS, *sorted(entry_points(group=PLUGIN_GROUP).names - _COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        del ctx
        target = _COMMANDS.get(cmd_name)
        if target is not None:
            module, _, name = target.partition(":")
            command: object = getattr(importlib.import_module(module), name)
        else:
            command = _plugin(cmd_name)
        return command if isinstance(command, click.Command) else None

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error raised on purpose becomes one line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except (DurableRaftError, KeyboardInterrupt) as error:
            from durable_raft.server.exit_codes import exit_code_of

            text = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            click.echo(f"durable-raft: {text}", err=True)
            ctx.exit(exit_code_of(error))


def _plugin(name: str) -> object:
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=PLUGIN_GROUP, name=name):
        return entry_point.load()
    return None


@click.group(cls=LazyGroup, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="durable-raft")
def main() -> None:
    """A replicated, durable key-value store that any Redis client can talk to.

    See it work: durable-raft demo
    """
