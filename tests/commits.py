"""Whether the messages of commits keep the rules of CONTRIBUTING.md "Commits".

Usage: ``python -m tests.commits RANGE`` (``origin/main..``). Exit code 1 when one does not.
"""

from __future__ import annotations

import subprocess
from typing import Final

import click

SUBJECT_MAX: Final = 72


def complaints(message: str) -> list[str]:
    """Return what is wrong with a message; what only a reader can tell (the mood of the verb) is left to one."""
    subject, _, rest = message.strip().partition("\n")
    found = []
    if len(subject) > SUBJECT_MAX:
        found.append(f"the subject has {len(subject)} characters, at most {SUBJECT_MAX}")
    if subject.endswith("."):
        found.append("the subject ends with a full stop")
    if ";" in subject:
        found.append("the subject names more than one change")
    if rest and not rest.startswith("\n"):
        found.append("no empty line under the subject")
    if not rest.strip():
        found.append("no body that says why and how it was checked")
    return found


@click.command()
@click.argument("commits", metavar="RANGE")
def main(commits: str) -> None:
    """Check every commit of RANGE, merges left out."""
    command = ["git", "log", "--no-merges", "--format=%h%x00%B%x01", commits]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wrong = False
    for each in log.split("\x01")[:-1]:
        name, _, message = each.strip().partition("\0")
        for complaint in complaints(message):
            wrong = True
            click.echo(f"{name}: {complaint}")
    raise SystemExit(wrong)


if __name__ == "__main__":
    main()
