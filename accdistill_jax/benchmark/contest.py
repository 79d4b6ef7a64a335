"""Measures contenders in turn. Each runs in its own process, which idles while the others are measured."""

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

PATIENCE_S = 900.0  # longest wait for a worker's answer, compilation included


class Worker:
    """A measuring process. It runs `module`, which answers the order and then every message."""

    def __init__(
        self,
        module: str,
        order: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
        patience_s: float | Callable[[], float] = PATIENCE_S,
        python: str = "",
    ):
        """Starts the process.

        Args:
            module: module to run.
            order: first message, a JSON object.
            environment: variables in addition to those of this process.
            cores: cores that the process may run on; it pins itself to them. Empty: the cores of this process.
            patience_s: how long `answer` waits, in seconds; a function is asked at every answer.
            python: executable of another environment's Python; empty: this process's.
        """
        # Several processes share a device's memory. Without JAX's filter the last line of a traceback is the error.
        shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        environment = shared | {"JAX_TRACEBACK_FILTERING": "off"} | dict(environment or {})
        self._errors, self._patience_s = tempfile.TemporaryFile("w+"), patience_s
        self._child = Child(module, environment=environment, output=self._errors, python=python)
        self.send({**order, "cores": list(cores)})

    def send(self, message: Any) -> None:
        """Sends a message (a JSON value) and does not wait for the answer."""
        if not self._child.send(message):
            raise self._failure("ended")

    def answer(self) -> Any:
        """The answer to a message; waits at most `patience_s`.

        Raises:
            UserError: the process failed, ended or did not answer; the message ends with its last line of output.
        """
        patience_s = self._patience_s() if callable(self._patience_s) else self._patience_s
        try:
            return self._child.receive(patience_s)
        except TimeoutError:
            raise self._failure(f"did not answer within {patience_s:.0f} s") from None
        except ChildDied as death:
            raise self._failure(f"ended ({death})") from None
        except ChildError as error:
            self.close(patience_s=1.0)
            raise UserError(f"a measuring process failed: {error}") from None

    def _failure(self, event: str) -> UserError:
        self._child.close(patience_s=1.0)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        self.close(patience_s=0.0)
        return UserError(f"a measuring process {event}: {lines[-1] if lines else 'no output'}")

    def finish(self) -> None:
        """Tells the process that no measurement follows."""
        self._child.finish()

    def close(self, *, patience_s: float) -> None:
        """Waits for the process to end, and kills it after `patience_s`; may be called again."""
        self._child.close(patience_s=patience_s)
        self._errors.close()


class Contender(NamedTuple):
    """A program that takes part in a comparison.

    Attributes:
        name: name in tables.
        module: module that calls `serve` when it is run.
        order: its settings, a JSON object.
        environment: variables of its process.
        cores: cores that it may run on; empty: all.
        patience_s: longest wait for an answer (its preparation, or a single measurement), in seconds.
        python: executable of another environment's Python; empty: that of this process.
    """

    name: str
    module: str
    order: Mapping[str, Any]
    environment: Mapping[str, str] = {}
    cores: Sequence[int] = ()
    patience_s: float = PATIENCE_S
    python: str = ""


class Measured(NamedTuple):
    """Measurements of a contender.

    Attributes:
        facts: values that it reported when it was ready; "skipped" (a reason) means that nothing was measured.
        seconds: time of an iteration, a number per round; contenders of the same contest have the same number of rounds.
        peak_bytes: largest resident memory of its process so far.
    """

    facts: dict[str, Any]
    seconds: list[float]
    peak_bytes: int


class Skipped(Exception):
    """Raised by a contender that cannot take part on this machine or with this config; the message gives the reason."""


def compete(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    round_s: float = 2.0,
    least: int = 1,
    enough_s: float = float("inf"),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Measured]:
    """Measures contenders in turn. Every round measures all of them and starts with a different contender.

    Args:
        contenders: contenders with different names. They are prepared in sequence, so that none disturbs another's preparation.
        rounds: measurements of each contender.
        round_s: approximate duration of a measurement, in seconds; the work is repeated to fill it.
        least: smallest number of repetitions. Use 3 or more if the first repetition after a pause is slower than the rest.
        enough_s: for a single contender only: if its first iteration takes this long, that is the only measurement.
        say: receives lines of progress.

    Returns:
        Measurements by name, in the given order.

    Raises:
        UserError: a contender's process failed; the message ends with its last line of output.
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
                python=contender.python,
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
    """Runs the worker's side: prepares the work of its order, then measures on request.

    Args:
        prepare: maps the order to facts (JSON) and a function `run(count)`, which does the work `count` times and waits until
            it is done. The work is compiled and warm when `prepare` returns. It raises Skipped if it cannot take part.
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


class MedianRange(NamedTuple):
    """Median of repeated measurements, with the lower and upper end of their range (usually the quartiles)."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "MedianRange":
        """All three numbers multiplied by a factor."""
        return MedianRange(*(factor * value for value in self))

    def text(self, form: str = "{:.3g}") -> str:
        """Formats the three numbers as `median (low to high)`."""
        return f"{form.format(self.median)} ({form.format(self.low)} to {form.format(self.high)})"


def spread(values: Sequence[float]) -> MedianRange:
    """Median and quartiles; for fewer than three values the smallest and the largest in place of quartiles."""
    ordered = sorted(values)
    if len(ordered) < 3:
        return MedianRange(statistics.median(ordered), ordered[0], ordered[-1])
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return MedianRange(median, low, high)


def rates(measured: Measured, *, per_iteration: float) -> MedianRange:
    """Units of work per second; `per_iteration` is the number of units in an iteration."""
    return spread([per_iteration / seconds for seconds in measured.seconds])


def ratios(base: Measured, other: Measured) -> MedianRange:
    """Speed of `other` relative to `base`, computed round by round."""
    return spread([b / o for b, o in zip(base.seconds, other.seconds, strict=True)])
