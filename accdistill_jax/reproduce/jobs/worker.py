"""A process that does one job after another for its parent (`runtime/child.py`).

A message is a job: {"work": "package.module:function", "name", "key", "order", "folder", "needs"}. The reply is its outcome. The
job's output goes to its log.txt.
"""

from accdistill_jax.reproduce.jobs.devices import keep_to_cores  # isort: skip

if __name__ == "__main__":
    keep_to_cores()  # before libraries that count the cores are imported

import faulthandler
import importlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.runtime import interrupt
from accdistill_jax.runtime.child import Parent, work_for_parent
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.storage.locking import file_lock

FINISHED, ERROR, LOG = "finished.json", "error.txt", "log.txt"
_REASON_CHARACTERS = 500


def do_jobs(parent: Parent) -> None:
    """Runs jobs until the parent sends no more."""
    faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    while (message := parent.receive()) is not None:
        parent.reply(do_job(message, parent))
    sys.stdout.flush()
    os._exit(0)  # all jobs are done: do not wait for threads of libraries


def do_job(message: Mapping[str, Any], parent: Parent) -> dict[str, Any]:
    """Runs one job.

    Args:
        message: the job; its work function is called with the order, the job's folder and the folders of needed jobs.
        parent: knows if the job shall stop.

    Returns:
        "status" ("finished", "failed", "interrupted"), "seconds" and "reason" (one line).
    """
    folder, begin = Path(message["folder"]), time.monotonic()

    def reply(status: str, reason: str = "") -> dict[str, Any]:
        return {"status": status, "seconds": time.monotonic() - begin, "reason": reason}

    interruption = Interruption(at_once=True)
    try:
        open_log(folder, message["name"])
        with (
            interruption,
            file_lock(
                folder / ".lock", waiting=lambda: print("waiting for an earlier process of this job", flush=True)
            ),
        ):
            if parent.stop is not None:
                interruption.raise_for(parent.stop, "the job had not begun")
            (folder / ERROR).unlink(missing_ok=True)
            needs = {name: Path(path) for name, path in message["needs"].items()}
            _resolve(message["work"])(message["order"], folder, needs)
        record = {"name": message["name"], "key": message["key"], "seconds": time.monotonic() - begin}
        write_atomically(folder / FINISHED, json.dumps(record) + "\n")
    except BaseException as error:
        if parent.stop is not None or interruption.requested:
            print(_one_line(error), flush=True)
            return reply("interrupted", _one_line(error))
        trace = traceback.format_exc()
        print(trace, file=sys.stderr, flush=True)
        try:
            write_atomically(folder / ERROR, trace)
        except OSError as problem:  # the reply holds the reason anyway
            print(f"cannot write {ERROR}: {problem}", file=sys.stderr, flush=True)
        return reply("failed", _one_line(error))
    return {"status": "finished", "seconds": record["seconds"], "reason": ""}  # the same duration as in finished.json


def open_log(folder: Path, name: str) -> None:
    """Appends the output of this process to the job's log."""
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
    work_for_parent(do_jobs)
