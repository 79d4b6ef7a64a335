"""Independent work in fresh processes, one thread each, that end with their parent."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.interrupt import hold

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_all(function: Callable[[Any], Any], items: Sequence, *, workers: int) -> Iterator[tuple[Any, Any]]:
    """Calls `function` on every item and yields (item, result) as they finish, in any order.

    Stopping early (Ctrl-C, an exception, closing the iterator) cancels what has not begun and ends the workers.

    Args:
        function: picklable, as are the items and results.
        items: what to call it on.
        workers: processes; 1 works in this process, in order.

    Raises:
        UserError: fewer than one worker, or a worker process died.
    """
    check_workers(workers)
    if workers == 1 or len(items) <= 1:
        for item in items:
            yield item, function(item)
        return
    # Fresh interpreters: a forked copy of a process with threads (JAX, TensorStore) can hang.
    context = _Spawn()
    with _environment(dict.fromkeys(_THREAD_VARIABLES, "1")):
        pool, finished = None, False
        try:
            # Half-made, neither could be taken down again. The processes inherit the blocked signal: a Ctrl-C in the
            # terminal is for their parent alone.
            with hold():
                pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_start_worker)
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    futures = {pool.submit(function, item): item for item in items}
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for future in as_completed(futures):
                yield futures[future], future.result()
            finished = True
        except BrokenProcessPool as error:
            raise UserError("a worker process died (out of memory, or killed); what is done so far is kept: "
                            "run the same command again, with fewer --workers if memory is short") from error
        finally:
            with hold():
                if not finished:
                    for process in context.started:
                        if process.is_alive():
                            process.terminate()
                if pool is not None:  # waits for its thread too, which holds what Python misses in a process that leaves at once
                    pool.shutdown(wait=True, cancel_futures=True)


class _Spawn(multiprocessing.context.SpawnContext):
    """Knows the processes that were started through it."""

    def __init__(self):
        super().__init__()
        self.started: list[multiprocessing.process.BaseProcess] = []

    def Process(self, *args, **kwargs) -> multiprocessing.process.BaseProcess:
        self.started.append(super().Process(*args, **kwargs))
        return self.started[-1]


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


def _start_worker() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without it, the workers of a parent killed with -9 would stay for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
