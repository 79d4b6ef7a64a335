"""Measures contenders in turn, each in a process of its own that waits without work while others are measured."""

import contextlib
import json
import os
import resource
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from accdistill_jax.errors import UserError

PATIENCE_S = 900.0  # for a worker's answer, compilation included


class Worker:
    """A process `python -m module` that answers lines with lines; its first line is an order, as JSON."""

    def __init__(
        self,
        module: str,
        order: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
        patience_s: float = PATIENCE_S,
    ):
        """Starts the process.

        Args:
            module: what runs.
            order: handed over first.
            environment: variables besides those of this process.
            cores: it may run on, which it sets itself by the order; empty: all of this process's.
            patience_s: how long `answer` waits.
        """
        # without jax's filter the last line of a traceback is the error; several processes share a device's memory
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        environment = shared | {"JAX_TRACEBACK_FILTERING": "off"} | dict(environment or {})
        self._errors, self._patience_s = tempfile.TemporaryFile("w+"), patience_s
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=environment,
        )
        self.send(json.dumps({**order, "cores": list(cores)}))

    def send(self, line: str) -> None:
        """Hands over one line without waiting."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None

    def answer(self) -> str:
        """The next line, waiting as long as was said.

        Raises:
            UserError: none came; with the last line of what the worker said.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._patience_s):
                raise self._failure(f"did not answer within {self._patience_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("ended")
        return line.strip()

    def _failure(self, what: str) -> UserError:
        self._end(patience_s=1.0)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        self.close(patience_s=0.0)
        return UserError(f"a measuring process {what}: {lines[-1] if lines else 'it said nothing'}")

    def finish(self) -> None:
        """Tells it that nothing more is to be measured."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self, *, patience_s: float) -> None:
        """Waits for it to end, and ends it when it does not; may be called again."""
        self._end(patience_s=patience_s)
        self._process.stdout.close()
        self._errors.close()

    def _end(self, *, patience_s: float) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Contender(NamedTuple):
    """One way of doing the work that is compared.

    Attributes:
        name: in tables.
        module: a module that calls `serve` when it is run.
        order: what it is told, JSON.
        environment: variables of its process.
        cores: it may run on; empty: all.
        patience_s: for one of its answers: preparation, or one measurement.
    """

    name: str
    module: str
    order: Mapping[str, Any]
    environment: Mapping[str, str] = {}
    cores: Sequence[int] = ()
    patience_s: float = PATIENCE_S


class Measured(NamedTuple):
    """Measurements of a contender.

    Attributes:
        facts: what it said of itself when it was ready; with "skipped" (a reason) nothing was measured.
        seconds: per iteration, one number per round; contenders of one contest have equally many, in the same order.
        peak_bytes: largest resident memory of its process so far.
    """

    facts: dict[str, Any]
    seconds: list[float]
    peak_bytes: int


class Skipped(Exception):
    """Raised by a contender that cannot take part here; the message says why."""


def compete(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    round_s: float = 2.0,
    least: int = 1,
    enough_s: float = float("inf"),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Measured]:
    """Measures contenders in turn; every round goes through all of them, beginning with another each time.

    Args:
        contenders: of different names. They are prepared one after another, so that none disturbs another's preparation.
        rounds: measurements of each.
        round_s: a measurement repeats the work for about so many seconds.
        least: times that it is repeated at least; from 3 on, where the first time after the others' turn is slower than the rest.
        enough_s: of a contender that stands alone, the first iteration is all that is measured when it takes so long.
        say: told of progress, a line each.

    Returns:
        By name, in the order given.

    Raises:
        UserError: a contender's process failed; with its last words.
    """
    workers: dict[str, Worker] = {}
    facts: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    peaks = dict.fromkeys(seconds, 0)
    counts: dict[str, int] = {}

    def measure(name: str, count: int) -> float:
        workers[name].send(str(count))
        answer = json.loads(workers[name].answer())
        peaks[name] = answer["peak_bytes"]
        return answer["seconds"] / count

    try:
        for contender in contenders:
            say(f"preparing {contender.name}")
            name = contender.name
            workers[name] = Worker(
                contender.module,
                contender.order,
                environment=contender.environment,
                cores=contender.cores,
                patience_s=contender.patience_s,
            )
            facts[name] = json.loads(workers[name].answer())
            if "skipped" in facts[name]:
                say(f"{name} is left out: {facts[name]['skipped']}")
                workers.pop(name).close(patience_s=10.0)
            else:
                first = measure(name, 1)
                counts[name] = max(least, round(round_s / max(first, 1e-9)))
                if len(contenders) == 1 and first >= enough_s:
                    seconds[name].append(first)
                    rounds = 0
        names = list(workers)
        for number in range(rounds if names else 0):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                seconds[name].append(measure(name, counts[name]))
            say(f"round {number + 1} of {rounds}")
        for worker in workers.values():
            worker.finish()
    finally:
        for worker in workers.values():
            worker.close(patience_s=10.0 if sys.exception() is None else 0.0)
    return {name: Measured(facts[name], seconds[name], peaks[name]) for name in seconds}


def serve(prepare: Callable[[dict[str, Any]], tuple[dict[str, Any], Callable[[int], None]]]) -> None:
    """The worker's side: prepares what the order on standard input says, then measures as often as it is asked.

    Args:
        prepare: gives facts (JSON) and a function that does the work so many times and waits until it is done; both are
            warm. Raises Skipped when it cannot take part here.
    """
    receive, reply = replies_to_parent()
    order = receive()
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])  # before a library counts them
    try:
        facts, run = prepare(order)
    except Skipped as reason:
        reply({"skipped": str(reason)})
        return
    reply(facts)
    while (count := receive()) is not None:
        start = time.perf_counter()
        run(count)
        elapsed = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        reply({"seconds": elapsed, "peak_bytes": peak})


def replies_to_parent() -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """The worker's ends of the line to its parent: JSON values in (None at the end), JSON values out.

    Standard output is taken away from libraries, which would print into it: it goes to standard error.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def receive() -> Any:
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    return receive, lambda value: print(json.dumps(value), file=replies)


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Spread":
        """All three times a factor."""
        return Spread(*(factor * value for value in self))

    def text(self, form: str = "{:.3g}") -> str:
        """ "median (low to high)"."""
        return f"{form.format(self.median)} ({form.format(self.low)} to {form.format(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of fewer than three values the smallest and the largest."""
    ordered = sorted(values)
    if len(ordered) < 3:
        return Spread(statistics.median(ordered), ordered[0], ordered[-1])
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(median, low, high)


def rates(measured: Measured, *, per_iteration: float) -> Spread:
    """Units per second, each iteration doing `per_iteration` of them."""
    return spread([per_iteration / seconds for seconds in measured.seconds])


def ratios(base: Measured, other: Measured) -> Spread:
    """Speed relative to `base`, round by round."""
    return spread([b / o for b, o in zip(base.seconds, other.seconds, strict=True)])
