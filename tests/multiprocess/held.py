"""The training command, paused at a known place so that a test can act at a known moment; python -m tests.multiprocess.held.

Environment, all of it optional and for each process apart:
    HOLD_UNTIL      the file to wait for; HOLD_UNTIL.reached says that the place was reached
    HOLD_AT         hold before reading this batch of training, counted from 0
    HOLD_IN_REPORT  hold before the report is written (process 0 writes it)
    HOLD_IN_SEARCH  hold before the pool of test segments is searched
    FILE_LIMIT      bytes to which a file may grow, which the system reports much as a full disk
    START_TIMEOUT_S how long to wait for the other processes
    SLACK           how many times config.runtime.hang_timeout_s is granted where there are no steps
"""

import os
import resource
import time
from pathlib import Path

from absl import app

from accdistill_jax import main
from accdistill_jax.data.pipeline import Pipeline
from accdistill_jax.runtime import distributed
from accdistill_jax.runtime.watchdog import HangWatch
from accdistill_jax.stages import embedding, reporting


def hold() -> None:
    until = Path(os.environ["HOLD_UNTIL"])
    until.with_suffix(".reached").touch()
    parent = os.getppid()
    while not until.exists():
        if os.getppid() != parent:
            os._exit(1)  # the test was killed and will never release it
        time.sleep(0.02)


def hold_training(at: int) -> None:
    batch = Pipeline.batch

    def held(self: Pipeline, step: int):
        if self.sampling.split == "train" and step >= at:
            hold()  # in a reading thread
        return batch(self, step)

    Pipeline.batch = held


def hold_before(module, name: str) -> None:
    function = getattr(module, name)

    def held(*args):
        hold()
        return function(*args)

    setattr(module, name, held)


if __name__ == "__main__":
    if "HOLD_AT" in os.environ:
        hold_training(int(os.environ["HOLD_AT"]))
    if "HOLD_IN_REPORT" in os.environ:
        hold_before(reporting, "write_reports")
    if "HOLD_IN_SEARCH" in os.environ:
        hold_before(embedding, "search_pool")
    if "FILE_LIMIT" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_LIMIT"]), resource.RLIM_INFINITY))
    if "START_TIMEOUT_S" in os.environ:
        distributed.START_TIMEOUT_S = int(os.environ["START_TIMEOUT_S"])
    if "SLACK" in os.environ:
        HangWatch.SLACK = float(os.environ["SLACK"])
    app.run(main.main, flags_parser=main.parse_flags)
