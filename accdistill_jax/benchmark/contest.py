"""Measures contenders in turn, each in a process of its own that waits without work while others are measured."""

import functools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.child import Child, ChildDied, ChildError, Parent, work_for_parent

PATIENCE_S = 900.0  # for a worker's answer, compilation included


class Worker:
    """A measuring process: it runs `module`, answers its order, and then each message."""

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
            order: the first message.
            environment: variables besides those of this process.
            cores: it may run on, which it sets itself by the order; empty: all of this process's.
            patience_s: how long `answer` waits.
        """
        # without jax's filter the last line of a traceback is the error; several processes share a device's memory
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        environment = shared | {"JAX_TRACEBACK_FILTERING": "off"} | dict(environment or {})
        self._errors, self._patience_s = tempfile.TemporaryFile("w+"), patience_s
        self._child = Child(module, environment=environment, output=self._errors)
        self.send({**order, "cores": list(cores)})

    def send(self, message: Any) -> None:
        """Hands over one message (a JSON value) without waiting."""
        if not self._child.send(message):
            raise self._failure("ended")

    def answer(self) -> Any:
        """The answer to a message; waits at most `patience_s`.

        Raises:
            UserError: the process failed, ended or did not answer; with the last line of what it said.
        """
        try:
            return self._child.receive(self._patience_s)
        except TimeoutError:
            raise self._failure(f"did not answer within {self._patience_s:.0f} s") from None
        except ChildDied as death:
            raise self._failure(f"ended ({death})") from None
        except ChildError as error:
            self.close(patience_s=1.0)
            raise UserError(f"a measuring process failed: {error}") from None

    def _failure(self, what: str) -> UserError:
        self._child.close(patience_s=1.0)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        self.close(patience_s=0.0)
        return UserError(f"a measuring process {what}: {lines[-1] if lines else 'it said nothing'}")

    def finish(self) -> None:
        """Tells it that nothing more is to be measured."""
        self._child.finish()

    def close(self, *, patience_s: float) -> None:
        """Waits for it to end, and ends it when it does not; may be called again."""
        self._child.close(patience_s=patience_s)
        self._errors.close()


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
        workers[name].send(count)
        answer = workers[name].answer()
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
            facts[name] = workers[name].answer()
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
    """The worker's side: prepares as its order says, then measures as often as it is asked.

    Args:
        prepare: gives facts (JSON) and a function that does the work so many times and waits until it is done; both are
            warm. Raises Skipped when it cannot take part here.
    """
    work_for_parent(functools.partial(_measure_for, prepare=prepare))


def _measure_for(
    parent: Parent, prepare: Callable[[dict[str, Any]], tuple[dict[str, Any], Callable[[int], None]]]
) -> None:
    order = parent.receive()
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])  # before a library counts them
    try:
        facts, run = prepare(order)
    except Skipped as reason:
        parent.reply({"skipped": str(reason)})
        return
    parent.reply(facts)
    while (count := parent.receive()) is not None:
        start = time.perf_counter()
        run(count)
        elapsed = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        parent.reply({"seconds": elapsed, "peak_bytes": peak})


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
