"""server/commands/classify.py: which command a request is, and how requests are cut into runs."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_raft.kv.commands import COMMANDS
from durable_raft.kv.replies import ErrorReply
from durable_raft.server.commands.classify import ALL_COMMANDS, RUN_MAX, Request, classify, runs

REQUESTS = st.lists(
    st.builds(
        lambda name, count: [name, *[b"x"] * count],
        st.sampled_from([b"GET", b"get", b"Get", b"SET", b"set", b"mget", b"PING", b"client", b"nosuch", b""]),
        st.integers(0, 3),
    ),
    max_size=80,
)


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_name_is_found_in_any_case_and_becomes_lower_case(name: bytes) -> None:
    """Whoever executes the request has its name as the tables have it."""
    spec = ALL_COMMANDS[name]
    for spelling in (name, name.upper(), name.capitalize()):
        request = [spelling, *[b"Arg"] * (abs(spec.arity) - 1)]
        assert classify(request) is spec
        assert request == [name, *[b"Arg"] * (abs(spec.arity) - 1)]
    assert spec.is_connections == (name not in COMMANDS)


@pytest.mark.parametrize("name", [name for name, spec in ALL_COMMANDS.items() if abs(spec.arity) > 1])
def test_wrong_arity_is_refused(name: bytes) -> None:
    """Of the machine's commands and of the connection's, with the name in lower case; the request stays as it is."""
    request = [name.upper()]
    assert classify(request) == ErrorReply(f"ERR wrong number of arguments for '{name.decode()}' command")
    assert request == [name.upper()]


@given(REQUESTS)
def test_runs_are_the_requests_in_order(requests: list[Request]) -> None:
    """Nothing is lost, moved or changed but for the case of names; each run has what one request of it has."""
    copies = [list(request) for request in requests]
    cut = list(runs(requests))
    assert [request for _, run in cut for request in run] == requests
    for verdict, run in cut:
        assert 1 <= len(run) <= (1 if isinstance(verdict, ErrorReply) else RUN_MAX)
        for request in run:
            again = classify(list(request))
            assert again == verdict
    told = [verdict for verdict, run in cut for _ in run]
    assert told == [classify(copy) for copy in copies]


@given(REQUESTS)
def test_runs_are_as_long_as_may_be(requests: list[Request]) -> None:
    """Those of one command that follow each other make full runs and one rest."""
    for verdict, same in groupby(runs(requests), key=lambda each: each[0]):
        lengths = [len(run) for _, run in same]
        assert isinstance(verdict, ErrorReply) or all(length == RUN_MAX for length in lengths[:-1])
