"""The control plane between the processes of a run, over TCP: all communication except array data.

It has three purposes. The processes exchange values (`gather` and the methods built on it). They learn at once when one of them is
killed, stops or hangs, instead of waiting for it in a collective. One line names the process at fault.

Process 0 runs the hub (`hub`); a control thread in every process holds its connection to it (`client`).
"""

import contextlib
import dataclasses
import json
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.runtime.peers.agreement import disagreement
from accdistill_jax.runtime.peers.client import GRACE_S, Client, Judge
from accdistill_jax.runtime.peers.hub import MESSAGE_LIMIT, Hub
from accdistill_jax.runtime.peers.wire import Exchange, Wire, listen, reach
from accdistill_jax.runtime.watchdog import HangWatch, end_process

JSON = Any  # None, bool, int, float, str, and lists and dicts of such
_ADDRESS_KEY = "peers"


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Time limits of the control plane, in seconds.

    Attributes:
        silence_s: a process that sends nothing for so long is lost.
        hang_s: a process may wait for the others ten times so long, see `Peers.waiting`.
        start_s: a process that has not connected by then is lost.
    """

    silence_s: float
    hang_s: float = 600.0
    start_s: float = 300.0


class Peers:
    """The processes of a run, seen from one of them; created by `alone` or `connect`.

    `gather`, `share`, `from_first`, `barrier` and `agree` wait until every process has called them. Call them in the main thread, in
    the same order on all processes. They raise Interrupted if a signal has stopped another process, and RuntimeError for a bug, such
    as another order of calls. `waiting` limits the wait.

    When a process is lost (its connection closes before `leave`, or it is silent), the control thread of every other process reports
    it on standard error and ends its process with `ExitStatus.RELAUNCH`.

    Attributes:
        rank: number of this process, in [0, count).
        count: number of processes.
    """

    def __init__(self, *, rank: int, count: int):
        self.rank, self.count = rank, count
        self._client: Client | None = None
        self._hub: Hub | None = None
        self._watch: HangWatch | None = None
        self._hang_s = 0.0

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def alone(cls) -> "Peers":
        """A run of one process: it never waits for others, but `progress` still watches it."""
        return cls(rank=0, count=1)

    @classmethod
    def connect(
        cls,
        *,
        rank: int,
        count: int,
        exchange: Exchange,
        host: str,
        timeouts: Timeouts,
    ) -> "Peers":
        """Connects this process with the others; waits until all are connected.

        Args:
            rank: number of this process, in [0, count).
            count: number of processes.
            exchange: key-value store through which process 0 tells the others its address.
            host: name or address of process 0's machine, as the others reach it.
            timeouts: limits of silence and of waiting.

        Raises:
            UserError: process 0 cannot be reached.
        """
        if count == 1:
            return cls.alone()
        peers = cls(rank=rank, count=count)
        peers._hang_s = timeouts.hang_s
        if peers.first:
            token, listener = secrets.token_hex(16), listen(host)
            connection, other_end = socket.socketpair()
            peers._hub = Hub(
                listener,
                other_end,
                count=count,
                token=token,
                silence_s=timeouts.silence_s,
                start_timeout_s=timeouts.start_s,
            )
            peers._hub.start()
            exchange.set(_ADDRESS_KEY, f"{host}:{listener.getsockname()[1]} {token}")
        else:
            connection, token = reach(exchange, _ADDRESS_KEY, rank=rank, timeout_s=timeouts.start_s)
        peers._client = Client(
            Wire(connection, limit=count * MESSAGE_LIMIT),
            rank=rank,
            token=token,
            silence_s=timeouts.silence_s,
            watch=lambda: peers._watch,
        )
        peers._client.join_others()
        return peers

    def gather(self, name: str, value: JSON) -> list[JSON]:
        """Every process's value, in order of rank.

        Args:
            name: name of the value, equal on all processes; names may repeat.
            value: at most 64 MiB of JSON.
        """
        return self._gather(name, value)

    def share(self, name: str, value: JSON) -> JSON:
        """The value of process 0."""
        return self.gather(name, value if self.first else None)[0]

    def from_first(self, name: str, fn: Callable[[], JSON]) -> JSON:
        """Calls `fn` on process 0 and returns its result on all processes.

        Raises:
            UserError: on every process, if `fn` raises it. Other exceptions reach the other processes through `leave`.
        """
        outcome = None
        if self.first:
            try:
                outcome = {"value": fn()}
            except UserError as error:
                outcome = {"error": str(error)}
        return self._gather(name, outcome, judge=lambda values: values[0].get("error"))[0]["value"]

    def barrier(self, name: str) -> None:
        """Waits for all processes."""
        self.gather(name, None)

    def agree(self, facts: Mapping[str, JSON]) -> None:
        """Checks that all processes hold the same facts.

        Args:
            facts: values by name; the error names the first one that differs.

        Raises:
            UserError: on every process; names the first fact that differs, the processes and both values.
        """
        self._gather("agree", dict(facts), judge=disagreement)

    def _gather(self, name: str, value: JSON, *, judge: Judge | None = None) -> list[JSON]:
        """As `gather`; if `judge` returns a line for the values, every process raises it as UserError."""
        text = json.dumps(value)
        if len(text) > MESSAGE_LIMIT:
            raise ValueError(f"{name}: {len(text)} bytes of JSON, more than {MESSAGE_LIMIT}")
        if self._client:
            with self.waiting(f"the wait for all processes ({name!r})"):
                values, verdict = self._client.gather(name, value, judge)
        else:
            values = [json.loads(text)]
            verdict = judge(values) if judge else None
        if verdict:
            raise UserError(verdict)
        return values

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Context for work, outside of `progress`, in which this process may wait for others.

        If it takes more than ten times `hang_s`, every process writes the stacks of its threads and ends with
        `ExitStatus.RELAUNCH`. It has no effect in a run of one process.

        Args:
            what: name of the work, for the message: "the pool search".
        """
        if not self._client:
            yield
            return
        with HangWatch(what, within_s=self._hang_s, hung=self._hung, slack_elsewhere=lambda: False, in_steps=False):
            yield

    @contextlib.contextmanager
    def progress(self, what: str, *, within_s: float) -> Iterator[HangWatch]:
        """Context in which `beat(step)` must be called every `within_s` seconds; see `watchdog.HangWatch`.

        Otherwise every process writes the stacks of its threads and ends with `ExitStatus.RELAUNCH`.
        """
        client = self._client
        self._watch = HangWatch(
            what,
            within_s=within_s,
            hung=self._hung,
            slack_elsewhere=lambda: client is not None and client.slack_elsewhere,
        )
        with self._watch:
            yield self._watch

    def _hung(self, where: str) -> None:
        who = "all processes" if self.count > 1 else "the run"
        reason = f"{where}; the last checkpoint is kept: start {who} again to continue"
        if self._client:
            self._client.leave_hung(reason)
        end_process(ExitStatus.RELAUNCH, f"error: process {self.rank} stopped: {reason}", stacks=True)

    def set_stop_handler(self, fn: Callable[[str, int], None], *, grace_s: float = GRACE_S) -> None:
        """Sets the reaction to a signal that stopped another process; without a handler this process ends at once.

        Args:
            fn: called in the control thread as fn(reason, status); it must return at once.
            grace_s: time for this process to call `leave`, in seconds; after it the process ends with that status.
        """
        if self._client:
            self._client.set_stop_handler(fn, grace_s)

    def explain(self, error: BaseException, wait_s: float = 5.0) -> None:
        """Waits, after a failure of the runtime, for the news that another process caused it.

        If another process was lost, this process ends. Otherwise the method returns after `wait_s` seconds.

        Raises:
            Interrupted: another process was stopped by a signal.
        """
        if self._client:
            self._client.explain(error, wait_s)

    def leave(self, status: int, reason: str) -> None:
        """Tells the others that this process is about to end; call `close` afterwards.

        Args:
            status: exit status. The others stop with it too (in order after 130 and 143), but go on after 0.
            reason: one line.
        """
        if self._client:
            self._client.leave(status, reason)

    def outlast(self, within_s: float) -> None:
        """On process 0, waits until the others have ended, at most `within_s` seconds; call it after `leave`.

        The runtime of the others depends on a service in process 0: without it they would be killed before they have ended in order.
        """
        if self._hub:
            self._hub.alone.wait(within_s)

    def close(self) -> None:
        """Closes the connections; if `leave` was not called, the others count this process as lost."""
        if self._client:
            self._client.close()
        if self._hub:
            self._hub.join(2.0)
