"""``python -m durable_raft`` is ``durable-raft``."""

from durable_raft.cli.main import main

main(prog_name="durable-raft")
