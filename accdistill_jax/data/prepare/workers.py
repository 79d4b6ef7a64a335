"""Independent work in fresh processes, one thread each, that end with their parent."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.interrupt import hold

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ENDING_S = 10.0
_ASKED_TO_END = ("SIGTERM", "SIGINT", "SIGHUP")  # as a whole job is; its items are not to blame
_START, _NOTHING = object(), object()  # what a worker does that has no item


def run_all(
    function: Callable[[Any], Any],
    items: Sequence,
    *,
    workers: int,
    apart: bool = False,
    died: Callable[[Any, str], Any] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Calls `function` on every item and yields (item, result) as they finish, in any order.

    Stopping early (Ctrl-C, an exception, closing the iterator) cancels what has not begun and ends the workers.

    Args:
        function: picklable, as are the items and results.
        items: what to call it on.
        workers: processes; 1 works in this process, in order.
        apart: work in another process even with one worker or item: a crash of `function` then does not end this process.
        died: gives the result of an item whose process died, from the item and the cause in words; another process goes on
            with the other items. None: that is an error, as is a process that was asked to end.

    Raises:
        UserError: fewer than one worker, or a worker process died (with `died`: while it started, or because it was asked to).
    """
    check_workers(workers)
    if (workers == 1 or len(items) <= 1) and not apart:
        for item in items:
            yield item, function(item)
        return
    with _environment(dict.fromkeys(_THREAD_VARIABLES, "1")):
        pool: list[_Worker] = []
        waiting = list(reversed(items))
        try:
            while waiting or any(worker.is_busy for worker in pool):
                while len(pool) < min(workers, len(waiting) + sum(worker.is_busy for worker in pool)):
                    with hold():  # half-made, none could be taken down again
                        pool.append(_Worker(function))
                for worker in _answering(pool):
                    item, (result, cause) = worker.item, worker.answer()
                    if cause:
                        pool.remove(worker)
                        if died is None or item is _START or cause in _ASKED_TO_END:
                            raise UserError(
                                f"a worker process died ({cause}); what is done so far is kept: "
                                "run the same command again, with fewer --workers if memory is short"
                            )
                        result = died(item, cause)
                    elif waiting and worker.give(waiting[-1]):
                        waiting.pop()
                    elif waiting:  # it ended meanwhile
                        pool.remove(worker)
                    if item is not _START:
                        yield item, result
        finally:
            with hold():
                for worker in pool:
                    worker.end()
                for worker in pool:
                    worker.join()


class _Worker:
    """A process that calls a function on one item after the other. It calls back when it is ready, and after each item."""

    def __init__(self, function: Callable[[Any], Any]):
        # Fresh interpreters: a forked copy of a process with threads (JAX, TensorStore) can hang.
        context = multiprocessing.get_context("spawn")
        multiprocessing.resource_tracker.ensure_running()  # its start unblocks signals
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.item: Any = _START
        # The process inherits the blocked signal: a Ctrl-C in the terminal is for its parent alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that its end is noticed

    @property
    def is_busy(self) -> bool:
        return self.item is not _NOTHING

    def give(self, item: Any) -> bool:
        """Has it work on an item; false if it has ended."""
        try:
            self.connection.send(item)
        except OSError:
            return False
        self.item = item
        return True

    def answer(self) -> tuple[Any, str | None]:
        """The result of its item and None, or None and why the process died.

        Raises:
            Exception: what the function raised.
        """
        self.item = _NOTHING
        try:
            result, error = self.connection.recv()
        except (EOFError, OSError):
            self.join()
            return None, _cause(self._process.exitcode)
        if error is not None:
            raise error
        return result, None

    def end(self) -> None:
        """Has it end: at once if it works, else as soon as it notices."""
        if self.is_busy and self._process.is_alive():
            self._process.terminate()
        self.connection.close()

    def join(self) -> None:
        """Waits for its end."""
        self._process.join(_ENDING_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _answering(pool: Sequence[_Worker]) -> list[_Worker]:
    """Waits for workers that are ready, have finished or have died."""
    busy = {worker.connection: worker for worker in pool if worker.is_busy}
    return [busy[connection] for connection in multiprocessing.connection.wait(busy)]


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    if exit_code == -signal.SIGKILL:
        return "SIGKILL: out of memory, or killed"
    return signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"


def check_workers(workers: int) -> None:
    """Raises UserError for fewer than one worker."""
    if workers < 1:
        raise UserError(f"workers {workers}: at least 1 is needed")


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(connection: multiprocessing.connection.Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send((None, None))
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = pickle.dumps((function(item), None))
        except Exception as error:
            answer = pickle.dumps((None, _portable(error)))
        connection.send_bytes(answer)


def _portable(error: Exception) -> Exception:
    """The error with its trace as a note, or one that says the same where it cannot be sent to another process."""
    trace = "".join(traceback.format_exception(error))
    try:
        if pickle.loads(pickle.dumps(error)).args != error.args:
            raise ValueError
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in another process:\n{trace}")
    return error


def _end_with_parent() -> None:
    """Without it, the workers of a parent killed with -9 would stay for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
