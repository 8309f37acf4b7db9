"""``raftlog timeline``: what it tells of flight recorders that the tests write, and of those that real nodes leave."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from raftlog.lanes import Lane

from durable_raft.raft.types import ORIGIN
from durable_raft.storage.flight import FLIGHT, FlightWriter, Flown, read_flight
from durable_raft.storage.log.records import LOG, LOG_KEY
from tests.cluster.harness import Cluster
from tests.storage.raw import flip_bit
from tests.tools.directories import make_log, raftlog, sets

T = 1_763_900_000_000
"""2025-11-23T12:13:20Z."""

Told = tuple[int, str, dict[str, object]]

LIFE: list[Told] = [
    (0, "started", {"node": "n1", "pid": 1}),
    (1, "recovered", {"term": 4, "voted_for": None}),
    (100, "became_follower", {"term": 4, "leader": "n2", "was": "follower"}),
    (500, "became_pre_candidate", {"term": 4}),
    (510, "became_candidate", {"term": 5}),
    (520, "became_leader", {"term": 5, "last_log_index": 9}),
    (900, "progress", {"last": 20, "commit": 19, "applied": 19}),
]


def recorded(directory: Path, events: list[Told], node_id: str = "n1") -> Path:
    """Make a directory with a flight recorder's file only; the events' times are ms after ``T``."""
    directory.mkdir(exist_ok=True)
    writer = FlightWriter(directory, node_id)
    for at, event, fields in events:
        writer.write(T + at, at, event, fields)
    writer.close()
    return directory


def spans(events: list[Told], end: int) -> list[tuple[int, int, str, int | None]]:
    """Return begin, end, role and term of the spans of a lane; ``?`` before the role when nothing was recorded."""
    flown = [Flown(number, at, at, event, fields) for number, (at, event, fields) in enumerate(events)]  # type: ignore[arg-type]
    return [
        (each.begin_ms, each.end_ms, each.role if each.is_recorded else f"?{each.role}", each.term)
        for each in Lane("n1", flown).spans(end)
    ]


class _Tags(HTMLParser):
    """Collects the tags of a page, and what its titles say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "title":
            self.titles.append(data)


def test_roles_are_followed_through_lives() -> None:
    """A role lasts until the next one, a stop, or the last word of a life that was killed."""
    led = [(500, 510, "pre-candidate", 4), (510, 520, "candidate", 5), (520, 900, "leader", 5)]
    life = [(0, 500, "follower", 4), *led]
    assert spans(LIFE, 900) == life
    assert spans(LIFE, 2_000) == [*life, (900, 2_000, "?leader", 5)]
    assert spans([*LIFE, (950, "stopped", {})], 2_000) == [*life[:-1], (520, 950, "leader", 5)]
    again: list[Told] = [(1_500, "started", {}), (1_501, "recovered", {"term": 5}), (1_600, "stopped", {})]
    assert spans([*LIFE, *again], 2_000) == [*life, (900, 1_500, "?leader", 5), (1_500, 1_600, "follower", 5)]


def test_a_higher_term_makes_a_follower() -> None:
    """Votes and terms that came in silence end a span; the same term again does not."""
    votes: list[Told] = [
        (1_000, "granted_vote", {"term": 6, "candidate": "n3"}),
        (1_100, "became_follower", {"term": 6, "leader": "n3"}),
        (1_200, "term_changed", {"term": 7}),
        (1_300, "progress", {}),
    ]
    assert spans([*LIFE, *votes], 1_300)[-3:] == [
        (520, 1_000, "leader", 5),
        (1_000, 1_200, "follower", 6),
        (1_200, 1_300, "follower", 7),
    ]


def test_a_ring_that_went_round_begins_amid_a_life() -> None:
    """Before the first role the role is not known; a clock that is set back breaks nothing."""
    assert spans([(5, "progress", {}), *LIFE[5:]], 900) == [(5, 520, "unknown", None), (520, 900, "leader", 5)]
    back: list[Told] = [(100, "became_follower", {"term": 6, "leader": "n2"}), (200, "stopped", {})]
    assert spans([*LIFE, *back], 900)[-1] == (100, 200, "follower", 6)


def test_text_is_merged_by_time(tmp_path: Path) -> None:
    """One line for each event: time, node, event and fields, in the order of the time of day."""
    one = recorded(tmp_path / "a", LIFE[:3])
    two = recorded(tmp_path / "b", [(50, "stopped", {"reason": 'no "room"\n'})], "n2")
    found = raftlog("timeline", one, two)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines() == [
        "2025-11-23T12:13:20.000Z n1 started node=n1 pid=1",
        "2025-11-23T12:13:20.001Z n1 recovered term=4 voted_for=none",
        '2025-11-23T12:13:20.050Z n2 stopped reason="no \\"room\\"\\n"',
        "2025-11-23T12:13:20.100Z n1 became_follower term=4 leader=n2 was=follower",
    ]
    found = raftlog("timeline", one, "--json")
    assert json.loads(found.stdout.splitlines()[1]) == {
        "time": "2025-11-23T12:13:20.001Z",
        "node": "n1",
        "event": "recovered",
        "term": 4,
        "voted_for": None,
    }


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--since", "2025-11-23T12:13:20.500Z"], 4),
        (["--until", "2025-11-23 12:13:20.001"], 2),
        (["--since", "2025-11-23T13:13:20.100+01:00", "--until", "2025-11-23T12:13:20.510"], 3),
    ],
)
def test_a_part_of_the_time(tmp_path: Path, options: list[str], shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends are included; a time is UTC unless it names a zone, wherever the reader is."""
    monkeypatch.setenv("TZ", "EST5")
    found = raftlog("timeline", recorded(tmp_path / "a", LIFE), *options)
    assert (found.returncode, len(found.stdout.splitlines())) == (0, shown)


def test_a_page_of_a_part_knows_the_role_from_before(tmp_path: Path) -> None:
    """Who was elected before --since is drawn as the leader."""
    page = tmp_path / "page.html"
    since = "2025-11-23T12:13:20.700Z"
    found = raftlog("timeline", recorded(tmp_path / "a", LIFE), "--since", since, "--html", page)
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""
    told = [title.splitlines()[0] for title in _Tags(page.read_text()).titles[1:]]
    assert told == ["leader term 5"]


def test_trouble_is_told(tmp_path: Path) -> None:
    """What cannot be read, written or understood is named, with an exit code and no traceback."""
    one = recorded(tmp_path / "a", LIFE)
    nowhere = tmp_path / "nowhere"
    found = raftlog("timeline", one, nowhere)
    assert (found.returncode, len(found.stdout.splitlines())) == (1, len(LIFE))
    assert f"{nowhere} is not a data directory" in found.stderr
    assert raftlog("timeline", nowhere).returncode == 2
    found = raftlog("timeline", one, "--since", "2026-01-01")
    assert (found.returncode, found.stderr) == (2, "no events to be shown\n")
    found = raftlog("timeline", one, "--until", "yesterday")
    assert found.returncode == 2
    assert "'yesterday' is no date and time; expected one such as" in found.stderr
    found = raftlog("timeline", one, "--html", nowhere / "page.html")
    assert found.returncode == 2
    assert "the page cannot be written" in found.stderr
    data = bytearray((one / FLIGHT).read_bytes())
    data[256 + 30] ^= 1
    (one / FLIGHT).write_bytes(data)
    found = raftlog("timeline", one)
    assert (found.returncode, len(found.stdout.splitlines())) == (0, len(LIFE) - 1)
    assert found.stderr == "n1: 1 records of the flight recorder are damaged, or were just being written\n"


def test_without_a_recorder_the_log_tells_the_terms(tmp_path: Path) -> None:
    """Terms, wounds and the end of a log, when there is no flight recorder's file or it cannot be read."""
    directory = make_log(tmp_path / "n1", sets(ORIGIN, [1, 1, 3, 3, 3]))
    flip_bit(directory, LOG, LOG_KEY.pack(4, 0), 40 * 8)
    (directory / FLIGHT).mkdir()
    found = raftlog("timeline", directory, "--json")
    assert found.returncode == 0
    assert "the flight recorder's file cannot be read" in found.stderr
    assert "only the terms that begin in the log are known" in found.stderr
    events = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(each["event"], each["index"], each.get("term")) for each in events] == [
        ("term_begins_in_log", 1, 1),
        ("term_begins_in_log", 3, 3),
        ("wound_in_log", 4, None),
        ("log_ends", 5, 3),
    ]
    assert [each["time"][-5:] for each in events] == [".000Z", ".002Z", ".003Z", ".004Z"]
    page = tmp_path / "page.html"
    assert raftlog("timeline", directory, "--html", page).returncode == 0
    assert "term, from the log term 1" in page.read_text()


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    """Lanes, roles, marks, commit index and leaders are there; texts from the recorders are never markup."""
    hostile = "<script>alert(1)</script>\"'&"
    one = recorded(tmp_path / "a", [*LIFE, (950, "entry_lost", {"index": 7, "why": hostile}), (960, hostile, {})])
    two = recorded(tmp_path / "b", LIFE, hostile)
    page = tmp_path / "page.html"
    assert raftlog("timeline", one, two, one, "--html", page).returncode == 0
    text = page.read_text()
    tags = _Tags(text)
    assert tags.tags.count("script") == 1
    assert "alert(1)<" not in text
    assert not {"src", "onload", "onclick"} & tags.attributes
    assert not {"link", "img", "iframe", "object"} & set(tags.tags)
    assert "http" not in text
    assert tags.tags.count("polyline") == 3
    assert f">n1 ({one})</text>" in text, "two lanes of one name are told apart"
    assert sum(title.startswith("leader term 5\n2025-11-23T12:13:20.520 to") for title in tags.titles) >= 3
    assert any("entry_lost index=7" in title for title in tags.titles)
    assert text.count("<td>5<td>") == 3, "a row for each leader"


def test_a_page_of_thousands_of_events_stays_small(tmp_path: Path) -> None:
    """What lies upon each other is drawn once, and says how much it is."""
    many: list[Told] = [(1_000 + n // 100, "entry_lost", {"index": n}) for n in range(4_000)]
    moved: list[Told] = [(1_000 + n, "progress", {"last": n, "commit": n, "applied": n}) for n in range(12_000)]
    page = tmp_path / "page.html"
    found = raftlog("timeline", recorded(tmp_path / "a", [*LIFE, *many, *moved]), "--html", page)
    assert found.returncode == 0, found.stderr
    text = page.read_text()
    assert len(text) < 150_000
    assert " more</title>" in text


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes."""
    cluster = Cluster(3, tmp_path / "cluster")
    yield cluster
    cluster.close()


@pytest.mark.cluster
def test_leaders_that_were_killed(cluster: Cluster, tmp_path: Path) -> None:
    """After two kill -9 the recorders of the dead tell all up to the end, and the leaders are those that INFO named."""
    seen: list[tuple[str, int]] = []
    for number in range(3):
        leader = cluster.wait_ready()
        info = cluster.info(leader)
        assert info is not None
        seen.append((leader, int(info["raft_current_term"])))
        cluster.client(leader).set(f"key:{number}", "value")
        if number == 2:
            break
        cluster.wait_converged()
        info = cluster.info(leader)
        assert info is not None
        directory = cluster.nodes[leader].directory
        reached = (int(info["raft_last_log_index"]), int(info["raft_commit_index"]))
        cluster.wait(lambda: _progress(directory) == reached, f"{leader}'s recorder to say {reached}")  # noqa: B023
        before = read_flight(directory)
        cluster.kill9(leader)
        killed_ms = time.time_ns() // 1_000_000
        after = read_flight(directory)
        assert after[: len(before)] == before
        assert _progress(directory) == reached
        assert 0 <= killed_ms - after[-1].wall_ms < 30_000
        cluster.leader(other_than=leader)
        cluster.start(leader)
    directories = [cluster.nodes[node_id].directory for node_id in cluster.node_ids]
    found = raftlog("timeline", *directories, "--json")
    assert found.returncode == 0, found.stderr
    events = [json.loads(line) for line in found.stdout.splitlines()]
    elected = [(each["node"], each["term"]) for each in events if each["event"] == "became_leader"]
    assert [each for each in elected if each in seen] == seen
    assert [term for _, term in elected] == sorted({term for _, term in elected}), "one leader in a term"
    for leader, term in seen:
        voters = {
            e["node"] for e in events if e["event"] == "granted_vote" and (e["candidate"], e["term"]) == (leader, term)
        }
        assert voters - {leader}, f"nobody voted for {leader} in term {term}"
    page = tmp_path / "page.html"
    found = raftlog("timeline", *directories, "--html", page)
    assert found.returncode == 0, found.stderr
    text = page.read_text()
    assert [f"<td>{term}<td>{leader}<" in text for leader, term in seen] == [True] * 3
    assert text.count("the last record of a life without a stop") == 2
    assert (directories[0] / FLIGHT).stat().st_size == 4 << 20


def _progress(directory: Path) -> tuple[object, object]:
    """Return the newest last and commit index that a recorder tells."""
    newest = [each for each in read_flight(directory) if each.event == "progress"][-1:]
    return (newest[0].fields["last"], newest[0].fields["commit"]) if newest else (None, None)
