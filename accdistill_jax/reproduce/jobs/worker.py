"""A process that does one job after another: `python -m accdistill_jax.reproduce.jobs.worker MODULE:FUNCTION FD`.

Orders are JSON lines on standard input: {"name", "key", "order", "folder", "needs"} is a job, {"stop": SIGNAL} asks the one
under way to stop as that signal would. The end of input means that the parent is gone: so is this process, at once. One
JSON line for each job goes to the file descriptor FD; what the job prints goes to its log.txt.
"""

from accdistill_jax.reproduce.jobs.devices import keep_to_cores  # isort: skip

if __name__ == "__main__":
    keep_to_cores()  # before what counts them is imported

import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.runtime import interrupt
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.storage.locking import file_lock

FINISHED, ERROR, LOG = "finished.json", "error.txt", "log.txt"
_REASON_CHARACTERS = 500


class Orders:
    """Standard input, read in a thread of its own: a stop, or the parent's end, is noticed during a job too.

    Attributes:
        stop: signal that a stop stands for, None as long as none is asked for.
    """

    def __init__(self):
        self.stop: int | None = None
        self._jobs: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._input = os.fdopen(os.dup(0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # else what a job starts could read the orders
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict | None:
        """The next job; None when there will be none."""
        return self._jobs.get()

    def done(self) -> None:
        """To be called after each job."""
        self._busy.clear()

    def _read(self) -> None:
        for line in self._input:
            message = json.loads(line)
            if "stop" in message:
                self.stop = message["stop"]
                interrupt.request(self.stop)
            else:
                self._busy.set()
                self._jobs.put(message)
        if self._busy.is_set():
            os._exit(1)
        self._jobs.put(None)


def main(argv: Sequence[str]) -> None:
    """Does jobs until there are no more."""
    work, descriptor = argv
    os.set_inheritable(int(descriptor), False)
    replies = os.fdopen(int(descriptor), "w", buffering=1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # between jobs; the parent decides what a Ctrl-C means
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)
    orders = Orders()
    while (message := orders.next()) is not None:
        answer = do(work, message, orders)
        orders.done()  # before the parent can send another
        print(json.dumps(answer), file=replies)
    sys.stdout.flush()
    os._exit(0)  # libraries' threads need not be waited for: all jobs are done


def do(work: str, message: Mapping[str, Any], orders: Orders) -> dict[str, Any]:
    """Does one job.

    Args:
        work: "package.module:function", called with the order, the job's folder and the folders of its needs by name.
        message: the job.
        orders: asked whether to stop.

    Returns:
        "status" ("finished", "failed", "interrupted"), "seconds" and "reason", one line.
    """
    folder, begin = Path(message["folder"]), time.monotonic()

    def reply(status: str, reason: str = "") -> dict[str, Any]:
        return {"status": status, "seconds": time.monotonic() - begin, "reason": reason}

    interruption = Interruption(at_once=True)
    try:
        open_log(folder, message["name"])
        with (
            interruption,
            file_lock(folder / ".lock", waiting=lambda: print("waiting for the process before", flush=True)),
        ):
            if orders.stop is not None:
                interruption.raise_for(orders.stop, "nothing was begun")
            (folder / ERROR).unlink(missing_ok=True)
            needs = {name: Path(path) for name, path in message["needs"].items()}
            _resolve(work)(message["order"], folder, needs)
        record = {"name": message["name"], "key": message["key"], "seconds": time.monotonic() - begin}
        write_atomically(folder / FINISHED, json.dumps(record) + "\n")
    except BaseException as error:
        if orders.stop is not None or interruption.requested:
            print(_one_line(error), flush=True)
            return reply("interrupted", _one_line(error))
        trace = traceback.format_exc()
        print(trace, file=sys.stderr, flush=True)
        try:
            write_atomically(folder / ERROR, trace)
        except OSError as problem:  # the reason is what matters, and it is in the reply
            print(f"cannot write {ERROR}: {problem}", file=sys.stderr, flush=True)
        return reply("failed", _one_line(error))
    return {"status": "finished", "seconds": record["seconds"], "reason": ""}  # as it is told of a job that is cached


def open_log(folder: Path, name: str) -> None:
    """Lets this process's output go to the job's log, which is appended to."""
    sys.stdout.flush()
    sys.stderr.flush()
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    print(f"--- {name}, begun {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)


def _resolve(work: str) -> Any:
    module, _, function = work.partition(":")
    return getattr(importlib.import_module(module), function)


def _one_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not isinstance(error, UserError | interrupt.Interrupted):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:_REASON_CHARACTERS]


if __name__ == "__main__":
    main(sys.argv[1:])
