"""How many handshakes go on at once, how fast, and which are given up: with a loop and a clock that are played."""

from __future__ import annotations

from collections.abc import Callable

from durable_raft.server.handshakes import DEADLINE_S, GIVE_WAY_S, LOOK_S, OPEN_MAX, Handshakes


class Alarm:
    """Something that is to be called."""

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None


class Loop:
    """A loop whose time goes on when it is told to, or when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alarms: list[Alarm] = []
        self.turns = 0

    def call_soon(self, callback: Callable[[], None], /) -> Alarm:
        """Call in the next turn."""
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Alarm:
        """Call after ``delay`` seconds."""
        self.alarms.append(Alarm(self.now + delay, callback))
        return self.alarms[-1]

    def turn(self) -> None:
        """Call what is due."""
        self.turns += 1
        due = [alarm for alarm in self.alarms if alarm.at <= self.now]
        self.alarms = [alarm for alarm in self.alarms if alarm.at > self.now]
        for alarm in due:
            if alarm.callback is not None:
                alarm.callback()

    def go_on(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while (upcoming := min((alarm.at for alarm in self.alarms), default=float("inf"))) <= until:
            self.now = max(self.now, upcoming)
            self.turn()
        self.now = max(self.now, until)


class Client:
    """A handshake that takes ``steps`` steps of ``cost_s`` each."""

    def __init__(self, house: Handshakes, loop: Loop, steps: int = 1, cost_s: float = 0.0) -> None:
        self._house, self._loop = house, loop
        self.steps_left, self.cost_s = steps, cost_s
        self.reason = ""
        self.stepped_in: list[int] = []
        """The turns in which it went on."""

    def go_on(self) -> None:
        """Take the next step."""
        self._loop.now += self.cost_s
        self.stepped_in.append(self._loop.turns)
        self.steps_left -= 1
        if not self.steps_left:
            self._house.end(self)

    def give_up(self, why: str) -> None:
        """Note that it was closed."""
        self.reason = why


def house() -> tuple[Loop, Handshakes]:
    """Return a loop and nobody on it."""
    loop = Loop()
    return loop, Handshakes(loop, lambda: loop.now)


def test_a_turn_of_the_loop_has_time_for_one_long_step_or_some_short_ones() -> None:
    """Whatever comes at once: the loop turns in between."""
    for cost_s, most in ((0.005, 1), (0.0004, 3)):
        loop, handshakes = house()
        clients = [Client(handshakes, loop, cost_s=cost_s) for _ in range(30)]
        for client in clients:
            handshakes.expect(client)
            handshakes.heard(client)
        loop.go_on(1.0)
        turns = [turn for client in clients for turn in client.stepped_in]
        assert len(turns) == 30
        assert max(turns.count(turn) for turn in turns) == most


def test_handshakes_take_half_of_the_loops_time_at_most() -> None:
    """Also when each of them comes after the one before it is done."""
    for waits in (False, True):
        loop, handshakes = house()
        clients = [Client(handshakes, loop, cost_s=0.004) for _ in range(100)]
        for client in clients:
            handshakes.expect(client)
            handshakes.heard(client)
            if waits:
                while client.steps_left:
                    loop.go_on(0.0001)
        loop.go_on(0.0)
        while any(client.steps_left for client in clients):
            loop.go_on(0.001)
        assert loop.now >= 2 * 99 * 0.004
        assert loop.now <= 3 * 100 * 0.004


def test_who_comes_when_all_places_are_taken_waits_and_has_its_turn() -> None:
    """In the order in which they came; nobody has memory of OpenSSL's meanwhile."""
    loop, handshakes = house()
    slow = [Client(handshakes, loop, steps=2) for _ in range(OPEN_MAX)]
    late = [Client(handshakes, loop) for _ in range(3)]
    for client in (*slow, *late):
        handshakes.expect(client)
        handshakes.heard(client)
    loop.go_on(0.0)
    assert handshakes.open == OPEN_MAX
    assert [client.stepped_in for client in late] == [[], [], []]
    handshakes.heard(slow[0])
    loop.go_on(0.0)
    assert late[0].stepped_in
    assert not late[1].stepped_in or late[0].stepped_in <= late[1].stepped_in
    loop.go_on(0.0)
    assert all(client.steps_left == 0 for client in late)
    assert not any(client.reason for client in (*slow, *late))


def test_who_stands_still_makes_room_for_who_waits() -> None:
    """Half-open handshakes keep nobody out for longer than a moment, and nobody goes while there is room."""
    loop, handshakes = house()
    silent = [Client(handshakes, loop, steps=2) for _ in range(OPEN_MAX)]
    for client in silent:
        handshakes.expect(client)
        handshakes.heard(client)
    loop.go_on(GIVE_WAY_S + 2 * LOOK_S)
    assert not any(client.reason for client in silent)
    late = Client(handshakes, loop)
    handshakes.expect(late)
    handshakes.heard(late)
    loop.go_on(0.0)
    assert late.steps_left == 0
    assert [bool(client.reason) for client in silent] == [True, *[False] * (OPEN_MAX - 1)]
    assert "stood still" in silent[0].reason


def test_who_was_heard_a_moment_ago_makes_no_room() -> None:
    """A client whose round trip is long is not pushed out by others; who waits is there when its time has come."""
    loop, handshakes = house()
    busy = [Client(handshakes, loop, steps=9) for _ in range(OPEN_MAX)]
    for client in busy:
        handshakes.expect(client)
        handshakes.heard(client)
    late = Client(handshakes, loop)
    handshakes.expect(late)
    handshakes.heard(late)
    for _ in range(4):
        loop.go_on(GIVE_WAY_S / 2)
        for client in busy:
            handshakes.heard(client)
    assert not any(client.reason for client in busy)
    assert late.steps_left == 1
    loop.go_on(GIVE_WAY_S + 2 * LOOK_S)
    assert late.steps_left == 0


def test_handshake_that_takes_too_long_is_given_up() -> None:
    """From the connection on, whether it has said anything or not; and nothing is looked for when nobody is there."""
    loop, handshakes = house()
    silent, half, done = Client(handshakes, loop), Client(handshakes, loop, steps=2), Client(handshakes, loop)
    for client in (silent, half, done):
        handshakes.expect(client)
    handshakes.heard(half)
    handshakes.heard(done)
    loop.go_on(DEADLINE_S - 2 * LOOK_S)
    assert not silent.reason
    assert not half.reason
    loop.go_on(3 * LOOK_S)
    assert "longer than 10 s" in silent.reason
    assert "longer than 10 s" in half.reason
    assert not done.reason
    assert handshakes.open == 0
    assert loop.alarms == []


def test_who_waits_for_the_node_is_not_late() -> None:
    """Clients that all come back at once are served one after the other, however long the last one waits."""
    loop, handshakes = house()
    many = [Client(handshakes, loop, steps=2, cost_s=0.05) for _ in range(2 * OPEN_MAX)]
    for client in many:
        handshakes.expect(client)
        handshakes.heard(client)
    answers: dict[Client, float] = {}
    while any(client.steps_left for client in many) and not any(client.reason for client in many):
        loop.go_on(0.05)
        for client in many:
            if client.steps_left == 1 and client not in answers:
                answers[client] = loop.now + 2.5 * LOOK_S
        for client, at in answers.items():
            if client.steps_left == 1 and loop.now >= at:
                handshakes.heard(client)
    assert not any(client.reason for client in many)
    assert loop.now > 2 * DEADLINE_S


def test_a_client_that_dribbles_has_no_more_time() -> None:
    """Its waits for the node are short, and its own time goes on between them."""
    loop, handshakes = house()
    client = Client(handshakes, loop, steps=1000, cost_s=0.0001)
    handshakes.expect(client)
    while not client.reason:
        handshakes.heard(client)
        loop.go_on(0.1)
    assert loop.now < DEADLINE_S + 3 * LOOK_S


def test_nothing_is_left_of_a_client_that_has_gone() -> None:
    """Wherever it was: waiting, due, or with its next step awaited."""
    loop, handshakes = house()
    clients = [Client(handshakes, loop, steps=2) for _ in range(OPEN_MAX + 2)]
    for client in clients:
        handshakes.expect(client)
        handshakes.heard(client)
    for client in reversed(clients):
        handshakes.end(client)
    loop.go_on(1.0)
    assert handshakes.open == 0
    assert not handshakes._since
    assert not handshakes._waiting
    assert not handshakes._due
    assert loop.alarms == []
    assert not any(client.reason for client in clients)


def test_all_are_given_up_at_the_end() -> None:
    """A node that stops closes them."""
    loop, handshakes = house()
    clients = [Client(handshakes, loop, steps=2) for _ in range(3)]
    for client in clients:
        handshakes.expect(client)
    handshakes.heard(clients[0])
    handshakes.stop()
    assert all(client.reason == "the node stops" for client in clients)
    assert handshakes.open == 0
