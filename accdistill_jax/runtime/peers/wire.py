"""Sockets of the control plane (`peers`): connecting to process 0, and JSON lines over the connection."""

import json
import os
import selectors
import socket
import time
import weakref
from collections import deque
from typing import Any, Protocol

from accdistill_jax.errors import UserError

_RETRY_S = 0.2
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Wire:
    """JSON lines over a socket, non-blocking. Any thread may call `put`; a single thread calls the other methods.

    Args:
        connection: a connected socket, owned by this object from now on.
        limit: size of the longest accepted line, in bytes.
    """

    def __init__(self, connection: socket.socket, *, limit: int):
        connection.setblocking(False)
        if connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        close_in_forks(connection)
        self.socket, self.limit = connection, limit
        self.rank: int | None = None
        self.heard = time.monotonic()
        self._in, self._out = bytearray(), deque()
        self._events = selectors.EVENT_READ

    def put(self, message: dict[str, Any]) -> None:
        """Queues a message for `flush`."""
        self._out.append(json.dumps(message).encode() + b"\n")

    def flush(self) -> None:
        """Sends as much as the socket accepts now."""
        try:
            while self._out:
                piece = memoryview(self._out[0])
                sent = self.socket.send(piece, _NO_SIGNAL)
                self._out[0] = piece[sent:]
                if sent == len(piece):
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # `read` returns the last messages and then finds the connection closed

    def select_on(self, selector: selectors.BaseSelector) -> None:
        """Registers with `selector` for messages and, while messages are queued, for room to send."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        if events != self._events:
            self._events = events
            selector.modify(self.socket, events, self)

    def read(self) -> list[dict[str, Any]]:
        """Reads the messages that have arrived.

        Raises:
            ConnectionError: the connection is closed, or its data does not follow the protocol.
        """
        try:
            # at most one byte over the limit, so that neither the buffer nor a message can be longer
            chunk = self.socket.recv(min(2**20, self.limit + 1 - len(self._in)))
        except BlockingIOError:
            return []
        if not chunk:
            raise ConnectionError("closed")
        self.heard = time.monotonic()
        messages = []
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._in += end
            if len(self._in) > self.limit:
                raise ConnectionError("too long")
            try:
                messages.append(json.loads(self._in))
            except (ValueError, RecursionError) as error:
                raise ConnectionError("not JSON") from error
            self._in.clear()
        self._in += rest
        if len(self._in) > self.limit or not all(isinstance(message, dict) for message in messages):
            raise ConnectionError("not a message")
        return messages

    def close(self) -> None:
        self.socket.close()


class Exchange(Protocol):
    """A key-value store that all processes can reach."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str, timeout_s: float) -> str:
        """Waits for the value; raises any exception after the timeout."""


def listen(host: str) -> socket.socket:
    """Listens on a free port: of the loopback interface if `host` is its address, else of all interfaces."""
    if host in ("localhost", "::1") or host.startswith("127."):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, 0), family=family, backlog=1024)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def reach(exchange: Exchange, key: str, *, rank: int, timeout_s: float) -> tuple[socket.socket, str]:
    """Connects to process 0, whose "host:port token" is in `exchange`; returns the connection and the token."""
    end = time.monotonic() + timeout_s
    try:
        address, token = exchange.get(key, timeout_s).split()
    except Exception as error:
        text = f"process {rank} did not learn the address of process 0 within {timeout_s:g} s"
        raise UserError(f"{text}; see what process 0 says") from error
    host, _, port = address.rpartition(":")
    while True:
        left_s = end - time.monotonic()
        try:
            return socket.create_connection((host, int(port)), timeout=min(10.0, max(0.1, left_s))), token
        except OSError as error:
            if left_s < _RETRY_S:
                raise UserError(
                    f"process {rank} cannot reach process 0 at {address} within {timeout_s:g} s "
                    f"({error.strerror or error}); all TCP ports must be open between the machines of a run"
                ) from error
            time.sleep(_RETRY_S)


_SOCKETS: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_forks(connection: socket.socket) -> None:
    """Closes `connection` in forked children, so that they do not keep it open after this process (exec closes it anyway)."""
    _SOCKETS.add(connection)


def _close_all() -> None:
    for connection in list(_SOCKETS):
        connection.close()


os.register_at_fork(after_in_child=_close_all)
