"""The hub in process 0, which connects the processes of a run; see `peers.Peers` for its purpose.

Every process, 0 included, has one connection to the hub, with one JSON object per line. Messages to the hub:

    hello   token, rank: the first line of a connection; without the right token it is dropped
    beat    slack: the process is alive; `slack` says that it gets ten times the deadline
    gather  number, name, value
    leave   status, reason, stacks: this process ends in order, so its closed connection is no loss
    seen    id: this process has read a piece of news, so the hub's process may end

A connection without a valid hello is a stranger. The hub keeps few strangers, for a short time, and their data can close only their
own connection.

Messages from the hub:

    refused  reason: a process with the number of this hello is connected already
    welcome  all processes are connected
    beat     slack: True if any process has slack
    result   number and values; or error and status if a gather cannot be completed
    news     id, rank, left, status, text, stacks: that process left or was lost
    done     all processes know that this process leaves
"""

import hmac
import selectors
import socket
import threading
import time
from typing import Any, NamedTuple

from accdistill_jax.errors import ExitStatus
from accdistill_jax.runtime.peers.wire import Wire, close_in_forks

MESSAGE_LIMIT = 64 * 2**20  # bytes of one value
_ENVELOPE = 4096  # bytes of a message besides its value, and of a stranger's first line
MOST_STRANGERS = 64  # connections at a time without a valid hello
HELLO_S = 10.0  # time for a stranger to send its hello
_NO_DESCRIPTOR_S = 0.05
_SEEN_S = 2.0  # time that process 0 waits until the others have read why the run ends
_OTHERS_GO_ON = (ExitStatus.FINISHED, ExitStatus.INTERRUPTED, ExitStatus.TERMINATED)
CLOSED = "its connection closed: killed or crashed"
_MALFORMED = "its connection sent what no process of this program says"
# Messages from connected processes, with the fields that each must have.
_MESSAGES = {
    "beat": {"slack": bool},
    "gather": {"number": int, "name": str, "value": object},
    "leave": {"status": int, "reason": str, "stacks": bool},
    "seen": {"id": int},
}


def beat_interval_s(silence_s: float) -> float:
    return min(1.0, silence_s / 5)


def silent(seconds: float) -> str:
    return f"silent for {seconds:.0f} s: stopped or its machine is gone"


def _well_formed(message: dict[str, Any]) -> bool:
    kind = message.get("kind")
    parts = _MESSAGES.get(kind) if isinstance(kind, str) else None
    return parts is not None and all(
        name in message and isinstance(message[name], type_) for name, type_ in parts.items()
    )


class _News(NamedTuple):
    message: dict[str, Any]
    unseen: set[int]
    deadline: float


class _Malformed(ConnectionError):
    """A connected process has sent a message that does not follow the protocol."""


class Hub:
    """Serves until process 0 closes its connection.

    Args:
        listener: socket to which the others connect; closed when all are connected.
        first: the hub's end of process 0's connection.
        count: number of processes.
        token: secret that a hello must hold.
        silence_s: a process that sends nothing for so many seconds is lost.
        start_timeout_s: a process that has not connected within so many seconds is lost.
    """

    def __init__(
        self,
        listener: socket.socket,
        first: socket.socket,
        *,
        count: int,
        token: str,
        silence_s: float,
        start_timeout_s: float,
    ):
        self._thread = threading.Thread(target=self._run, name="peers-hub", daemon=True)
        self._count, self._token, self._silence_s = count, token, silence_s
        self._start_timeout_s, self._begin = start_timeout_s, time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        listener.setblocking(False)
        close_in_forks(listener)
        self._selector.register(listener, selectors.EVENT_READ)
        self._wires: dict[int, Wire] = {}  # connected processes, by rank
        self._joined: set[int] = set()  # ranks that are or were connected
        self._strangers: dict[Wire, float] = {}  # oldest first, with the time by which they must send a hello
        self._turned_away = 0  # number of dropped strangers
        self._slack: dict[int, bool] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}  # gathers under way, by number and rank
        self._failed_calls: set[int] = set()
        self._left: dict[int, dict[str, Any]] = {}  # news of processes that left, by rank
        self._told: list[dict[str, Any]] = []  # all news, for processes that connect late
        self._untold: list[_News] = []  # news that process 0 has not been sent yet
        self.alone = threading.Event()  # all processes but 0 have closed their connections
        self._ending = False  # a process was lost or left early; the others that follow are not reported
        self._first = first
        self._register(first)

    def start(self) -> None:
        """Starts the thread that serves."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits until process 0's connection is closed."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        interval_s = beat_interval_s(self._silence_s)
        next_turn = time.monotonic()
        try:
            while self._first.fileno() >= 0:
                for key, _ in self._selector.select(max(0.0, next_turn - time.monotonic())):
                    if key.data is None:
                        self._accept()
                    else:
                        self._serve(key.data)
                now = time.monotonic()
                if now >= next_turn:
                    next_turn = now + interval_s
                    self._turn(now)
                self._tell_process_0(now)
                self._flush()
        finally:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()

    def _turn(self, now: float) -> None:
        """Sends beats; notices silent processes and processes that never connected."""
        slack = any(self._slack.values())
        for rank, wire in list(self._wires.items()):
            wire.put({"kind": "beat", "slack": slack})
            if now - wire.heard > self._silence_s and rank not in self._left:
                self._drop(wire)
                self._lose(rank, silent(now - wire.heard), stacks=True)
        for wire, deadline in list(self._strangers.items()):
            if now > deadline:
                self._drop(wire)
        missing = set(range(self._count)) - self._joined
        if missing and now - self._begin > self._start_timeout_s:
            others = f", {self._turned_away} other connections were turned away" if self._turned_away else ""
            self._lose(min(missing), f"it did not connect within {self._start_timeout_s:.0f} s{others}")

    def _flush(self) -> None:
        for wire in self._wires.values():
            wire.flush()
            wire.select_on(self._selector)

    def _accept(self) -> None:
        try:
            connection = self._listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return  # gone again
        except OSError:  # no descriptor free
            if not self._drop_oldest_stranger():
                time.sleep(_NO_DESCRIPTOR_S)
            return
        if len(self._strangers) >= MOST_STRANGERS:
            self._drop_oldest_stranger()
        self._strangers[self._register(connection)] = time.monotonic() + min(HELLO_S, self._silence_s)

    def _drop_oldest_stranger(self) -> bool:
        """Makes room for a connection; False if there is no stranger to drop."""
        oldest = next(iter(self._strangers), None)
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _register(self, connection: socket.socket) -> Wire:
        wire = Wire(connection, limit=_ENVELOPE)
        self._selector.register(connection, selectors.EVENT_READ, wire)
        return wire

    def _join(self, wire: Wire, rank: int) -> None:
        wire.rank, wire.limit = rank, MESSAGE_LIMIT + _ENVELOPE
        self._strangers.pop(wire, None)
        self._wires[rank] = wire
        self._joined.add(rank)
        for news in self._told:
            wire.put(news)
        if len(self._joined) == self._count:
            self._selector.unregister(self._listener)
            self._listener.close()
            for stranger in list(self._strangers):
                self._drop(stranger)
            self._broadcast({"kind": "welcome"})

    def _broadcast(self, message: dict[str, Any]) -> None:
        for wire in self._wires.values():
            wire.put(message)

    def _drop(self, wire: Wire) -> None:
        self._selector.unregister(wire.socket)
        wire.close()
        self._strangers.pop(wire, None)
        if wire.rank is None:
            self._turned_away += 1
            return
        self._wires.pop(wire.rank, None)
        if not self._wires.keys() - {0}:
            self.alone.set()
        for news in self._untold:
            news.unseen.discard(wire.rank)

    def _serve(self, wire: Wire) -> None:
        if wire.socket.fileno() < 0:
            return  # dropped after the selector reported it
        try:
            for message in wire.read():
                self._handle(wire, message)
        except OSError as error:
            self._drop(wire)
            if wire.rank is not None and wire.rank not in self._left:
                self._lose(wire.rank, _MALFORMED if isinstance(error, _Malformed) else CLOSED)

    def _handle(self, wire: Wire, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if wire.rank is None:
            rank, token = message.get("rank"), str(message.get("token")).encode(errors="replace")
            known = hmac.compare_digest(token, self._token.encode())
            if type(rank) is not int or kind != "hello" or not known or rank not in range(self._count):
                raise ConnectionError("a stranger")
            if rank in self._joined - self._wires.keys():
                raise ConnectionError("a stranger")
            if rank in self._wires:
                self._refuse_second(wire, rank)
            self._join(wire, rank)
        elif not _well_formed(message):
            raise _Malformed
        elif kind == "beat":
            self._slack[wire.rank] = message["slack"]
        elif kind == "gather":
            number = message["number"]
            self._calls.setdefault(number, {})[wire.rank] = message
            self._answer(number)
        elif kind == "leave":
            self._leave(wire.rank, message)
        elif kind == "seen":
            for news in self._untold:
                if news.message["id"] == message["id"]:
                    news.unseen.discard(wire.rank)

    def _refuse_second(self, wire: Wire, rank: int) -> None:
        """Refuses a second process with the same number, and tells all processes, as one number is then missing."""
        reason = (
            f"two processes were started as process {rank}; give each its own number (--process_id) and start all again"
        )
        wire.put({"kind": "refused", "reason": reason})
        wire.flush()
        self._wires[rank].put({"kind": "refused", "reason": reason})
        if not self._ending:
            self._ending = True
            self._announce(rank, left=True, status=ExitStatus.USER_ERROR, text=reason, stacks=False)
        raise ConnectionError("a second one")

    def _answer(self, number: int) -> None:
        """Answers a gather that all processes have joined, or that not all can join any more."""
        calls = self._calls[number]
        first, name = next((rank, call["name"]) for rank, call in calls.items())
        others = [rank for rank, call in calls.items() if call["name"] != name]
        # a process that left for another reason ends all processes
        absent = [n for rank, n in self._left.items() if rank not in calls and n["status"] in _OTHERS_GO_ON]
        answer: dict[str, Any] = {"kind": "result", "number": number}
        if number in self._failed_calls:
            del self._calls[number]
            return
        if others:
            other_name = calls[others[0]]["name"]
            text = f"process {others[0]} calls {other_name!r} where process {first} calls {name!r}"
            answer |= {"error": f"{text} (call {number})", "status": ExitStatus.FINISHED}
        elif len(calls) == self._count:
            answer |= {"values": [calls[rank]["value"] for rank in range(self._count)]}
        elif absent:
            news = absent[0]
            text = f"process {news['rank']} stopped: {news['text']}"
            if news["status"] == ExitStatus.FINISHED:
                text = f"process {news['rank']} has finished and takes no part in {name!r} (call {number})"
            answer |= {"error": text, "status": news["status"]}
        else:
            return
        if "error" in answer:
            self._failed_calls.add(number)
        del self._calls[number]
        self._broadcast(answer)

    def _leave(self, rank: int, message: dict[str, Any]) -> None:
        status, reason, stacks = message["status"], message["reason"], message["stacks"]
        self._left[rank] = self._announce(rank, left=True, status=status, text=reason, stacks=stacks)
        self._slack.pop(rank, None)
        self._ending |= status != ExitStatus.FINISHED
        for number in list(self._calls):
            self._answer(number)

    def _lose(self, rank: int, how: str, *, stacks: bool = False) -> None:
        if not self._ending:
            self._ending = True
            self._announce(rank, left=False, status=ExitStatus.RELAUNCH, text=how, stacks=stacks)

    def _announce(self, rank: int, *, left: bool, status: int, text: str, stacks: bool) -> dict[str, Any]:
        """Sends news to the others; to process 0 only when they have read it, because the hub ends with process 0."""
        news = {"kind": "news", "id": len(self._told), "rank": rank, "left": left, "status": int(status)}
        news |= {"text": text, "stacks": stacks}
        self._told.append(news)
        others = set(self._wires) - {0, rank}
        for other in others:
            self._wires[other].put(news)
        self._untold.append(_News(news, others, time.monotonic() + _SEEN_S))
        return news

    def _tell_process_0(self, now: float) -> None:
        for news in list(self._untold):
            if not news.unseen or now > news.deadline:
                self._untold.remove(news)
                rank = news.message["rank"]
                if rank != 0 and 0 in self._wires:
                    self._wires[0].put(news.message)
                if rank in self._wires:
                    self._wires[rank].put({"kind": "done"})
