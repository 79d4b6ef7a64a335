"""Independent work in fresh processes, one thread each, that end with their parent."""

import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import spawn
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.child import (
    Child,
    ChildDied,
    ChildError,
    Parent,
    pack,
    unpack,
    wait_for_any,
    work_for_parent,
)
from accdistill_jax.runtime.interrupt import hold

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
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
    pool: list[_Worker] = []
    waiting = list(reversed(items))
    try:
        while waiting or any(worker.is_busy for worker in pool):
            while len(pool) < min(workers, len(waiting) + sum(worker.is_busy for worker in pool)):
                with hold():  # a worker that is not in the pool could not be ended
                    pool.append(_Worker(function))
            for worker in _answering(pool):
                item, (result, cause) = worker.item, worker.answer()
                if cause:
                    worker.child.close()
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
                    worker.child.close()
                    pool.remove(worker)
                if item is not _START:
                    yield item, result
    finally:
        with hold():
            for worker in pool:
                if worker.is_busy:
                    worker.child.kill()
                worker.child.finish()
            for worker in pool:
                worker.child.close()


class _Worker:
    """A process that calls a function on one item after the other. It answers when it is ready, and after each item."""

    def __init__(self, function: Callable[[Any], Any]):
        main = spawn.get_preparation_data(
            __name__
        )  # how to import the module that runs as `__main__`, for the function
        del main["authkey"]
        self.child = Child(__name__, environment=dict.fromkeys(_THREAD_VARIABLES, "1"))
        self.child.send({"main": pack(main), "function": pack(function)})
        self.item: Any = _START

    @property
    def is_busy(self) -> bool:
        return self.item is not _NOTHING

    def give(self, item: Any) -> bool:
        """Has it work on an item; false if it has ended."""
        if not self.child.send(pack(item)):
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
            return unpack(self.child.receive()), None
        except ChildDied as death:
            return None, str(death)
        except ChildError as error:
            raise error.original() from None


def _answering(pool: Sequence[_Worker]) -> list[_Worker]:
    """Waits for workers that are ready, have finished or have died."""
    busy = {worker.child: worker for worker in pool if worker.is_busy}
    return [busy[child] for child in wait_for_any(list(busy))]


def check_workers(workers: int) -> None:
    """Raises UserError for fewer than one worker."""
    if workers < 1:
        raise UserError(f"workers {workers}: at least 1 is needed")


def _serve(parent: Parent) -> None:
    order = parent.receive()
    spawn.prepare(unpack(order["main"]))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    function = unpack(order["function"])
    parent.reply(pack(None))
    while (item := parent.receive()) is not None:
        try:
            parent.reply(pack(function(unpack(item))))
        except Exception as error:
            parent.fail(error)


if __name__ == "__main__":
    work_for_parent(_serve)
