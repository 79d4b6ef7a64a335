"""The hub and connections from strangers, with real sockets in this process."""

import contextlib
import json
import random
import socket
import threading
import time

import pytest

from accdistill_jax.errors import ExitStatus
from accdistill_jax.runtime.peers import hub
from accdistill_jax.runtime.peers.hub import MESSAGE_LIMIT, Hub
from accdistill_jax.runtime.peers.wire import Wire, listen

TOKEN = "right"
WAIT_S = 30.0


class Meeting:
    """A hub for a number of processes, and the sockets that tests connect to it."""

    def __init__(self, count: int = 2, *, silence_s: float = 60.0):
        listener = listen("127.0.0.1")
        self.port = listener.getsockname()[1]
        self.first, other_end = socket.socketpair()
        self.hub = Hub(listener, other_end, count=count, token=TOKEN, silence_s=silence_s, start_timeout_s=60.0)
        self._open: list[socket.socket] = [self.first]
        self.first.settimeout(WAIT_S)
        self.hub.start()
        self.say(self.first, hello(0))

    def connect(self, *lines: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        self._open.append(connection)
        for line in lines:
            self.say(connection, line)
        return connection

    def say(self, connection: socket.socket, line: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # dropped in the middle of it
            connection.sendall(line)

    def close(self) -> None:
        for connection in self._open:
            connection.close()
        self.hub.join(WAIT_S)


@pytest.fixture
def meet():
    made: list[Meeting] = []

    def make(count: int = 2, **options) -> Meeting:
        made.append(Meeting(count, **options))
        return made[-1]

    yield make
    for meeting in made:
        meeting.close()


def hello(rank, token=TOKEN) -> bytes:
    return json.dumps({"kind": "hello", "rank": rank, "token": token}).encode() + b"\n"


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def heard(connection: socket.socket, kind: str) -> dict:
    """The next message of a kind."""
    for line in connection.makefile("rb"):
        message = json.loads(line)
        if message["kind"] == kind:
            return message
    pytest.fail(f"closed without {kind}")


MALFORMED = [
    b"\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b"5\n",
    b'"hello"\n',
    b"\xff\xfe\n",
    b"\0\0\0\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"{" * 3000 + b"\n",
    b"9" * 4000 + b"\n",
    b'{"kind": "hello", "rank": ' + b"9" * 3900 + b"}\n",
    hello([1]),
    hello({"1": 1}),
    hello(None),
    hello(True),
    hello(1.0),
    hello("1"),
    hello(-1),
    hello(2),
    hello(10**30),
    hello(1, token=None),
    hello(1, token=["right"]),
    hello(1, token="\ud800"),
    hello(1, token=""),
    hello(1, token={}),
    b'{"kind": ["hello"], "rank": 1, "token": "right"}\n',
    b'{"kind": {}, "rank": 1, "token": "right"}\n',
    b'{"kind": "beat", "slack": true}\n',
    b'{"kind": "hello", "rank": NaN, "token": "right"}\n',
    hello(1, token="wrong") + hello(1),
    b"x" * 5000,
]


@pytest.mark.parametrize("line", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_hello_ends_its_connection_alone(meet, line):
    meeting = meet()
    assert closed(meeting.connect(line))
    assert heard(meeting.connect(hello(1)), "welcome") and heard(meeting.first, "welcome")


def test_random_bytes_and_flipped_hellos_end_their_connections_alone(meet):
    meeting, rng, right = meet(), random.Random(0), hello(1, token="wrong")
    for _ in range(200):
        line = bytearray(right)
        for _ in range(rng.randrange(1, 4)):
            line[rng.randrange(len(line))] = rng.randrange(256)
        stranger = meeting.connect(rng.choice([bytes(line), rng.randbytes(rng.randrange(1, 300)) + b"\n"]))
        stranger.shutdown(socket.SHUT_WR)
        assert closed(stranger)
    assert heard(meeting.connect(hello(1)), "welcome")


def test_idle_connections_keep_no_process_out(meet):
    """More connections than the hub keeps: the oldest are closed, even in the middle of a message."""
    meeting = meet()
    idle = [meeting.connect(*([b'{"kind": '] if number % 2 else [])) for number in range(400)]
    assert heard(meeting.connect(hello(1)), "welcome")
    assert all(closed(connection) for connection in idle), "whoever is left when all are there is a stranger"


def test_few_strangers_are_kept_and_not_for_long(meet, monkeypatch):
    monkeypatch.setattr(hub, "HELLO_S", 0.5)
    monkeypatch.setattr(hub, "MOST_STRANGERS", 4)
    meeting = meet(silence_s=1.0)
    idle = [meeting.connect() for _ in range(6)]
    assert closed(idle[0]) and closed(idle[1])
    drop = time.monotonic() + WAIT_S
    while time.monotonic() < drop and any(
        open_end(connection) for connection in idle
    ):  # not by saying something now and then either
        for connection in idle:
            meeting.say(connection, b" ")
        meeting.say(meeting.first, b'{"kind": "beat", "slack": false}\n')
        time.sleep(0.1)
    assert not any(map(open_end, idle))


def open_end(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(10) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_a_number_given_twice_is_told_to_both_and_to_the_others(meet):
    meeting = meet(4)
    one, two = meeting.connect(hello(1)), meeting.connect(hello(2))
    time.sleep(0.1)  # connections are served in any order
    second = meeting.connect(hello(1))
    reason = "two processes were started as process 1; give each its own number (--process_id) and start all again"
    assert heard(second, "refused")["reason"] == heard(one, "refused")["reason"] == reason
    news = heard(two, "news")
    assert (news["text"], news["status"], news["left"]) == (reason, ExitStatus.USER_ERROR, True)
    meeting.say(two, json.dumps({"kind": "seen", "id": news["id"]}).encode() + b"\n")
    assert heard(meeting.first, "news")["text"] == reason


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"kind": "gather"}',
        b'{"kind": "gather", "number": [], "name": "x", "value": 1}',
        b'{"kind": "leave", "status": "x"}',
        b'{"kind": "seen"}',
        b'{"kind": "beat"}',
        b'{"kind": ["beat"]}',
        hello(1)[:-1],
        b"[" * 100_000,
    ],
)
def test_a_known_process_that_says_nonsense_is_lost_in_one_line(meet, line):
    meeting = meet(3)
    broken, other = meeting.connect(hello(1)), meeting.connect(hello(2))
    heard(other, "welcome")
    meeting.say(broken, line + b"\n")
    news = heard(other, "news")
    assert (news["rank"], news["left"], news["status"]) == (1, False, ExitStatus.RELAUNCH)
    assert news["text"] in (
        "its connection sent what no process of this program says",
        "its connection closed: killed or crashed",
    )
    meeting.say(other, json.dumps({"kind": "seen", "id": news["id"]}).encode() + b"\n")
    assert heard(meeting.first, "news")["rank"] == 1


class CountingSocket(socket.socket):
    received = 0

    def recv(self, *arguments):
        data = super().recv(*arguments)
        self.received += len(data)
        return data


@pytest.mark.parametrize("limit", [10, 4096])
def test_no_more_is_taken_in_than_the_limit(limit):
    """Refused with and without a line end."""
    for line in (b" " * 10 * limit, b'"' + b"x" * 2 * limit + b'"\n', b" " * limit + b"{}\n"):
        here, there = socket.socketpair()
        sender = threading.Thread(
            target=lambda line=line, there=there: contextlib.suppress(OSError) and there.sendall(line), daemon=True
        )
        sender.start()
        counted = CountingSocket(fileno=here.detach())
        wire = Wire(counted, limit=limit)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                wire.read()
                time.sleep(0.001)
        assert counted.received <= limit + 1
        wire.close()
        there.close()


def test_a_message_at_the_limit_is_read_in_pieces():
    here, there = socket.socketpair()
    wire, value = Wire(here, limit=MESSAGE_LIMIT), {"value": "x" * 3_000_000}
    threading.Thread(target=there.sendall, args=(json.dumps(value).encode() + b"\n{}\n",), daemon=True).start()
    messages, end = [], time.monotonic() + WAIT_S
    while len(messages) < 2 and time.monotonic() < end:
        messages += wire.read()
    assert messages == [value, {}]
    wire.close()
    there.close()
