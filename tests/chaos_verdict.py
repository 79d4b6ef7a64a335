"""Judges starts and runs that were disturbed, and counts what was seen."""

import collections
import dataclasses
import hashlib
import json
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from accdistill_jax.errors import ExitStatus
from accdistill_jax.storage.arrays import flatten_arrays
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params
from tests.chaos_processes import LAUNCHER, Job, load, marked
from tests.test_resume import STAGES, result

TOLERANCE = 1e-5  # of parameters after a change of topology: max |a - b| / max |b| in each array
ORPHAN_S = 10.0  # for the processes that a killed one had started
STOPS = {
    signal.SIGTERM: ExitStatus.TERMINATED,
    signal.SIGINT: ExitStatus.INTERRUPTED,
}  # in order, and with which status


@dataclasses.dataclass
class Tally:
    """Counts and violations so far."""

    violations: list[str] = dataclasses.field(default_factory=list)
    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # by (signal, stage)
    slowest_s: dict[str, float] = dataclasses.field(default_factory=dict)  # by signal
    lost_unprovoked: int = 0  # starts that ended without a kill and had not finished
    relaunch_unprovoked: int = 0  # those of them all of whose processes ended with 75
    completed: int = 0
    largest_difference: float = 0.0

    def violate(self, text: str) -> None:
        self.violations.append(text)
        print(f"VIOLATION: {text}", flush=True)

    def summary(self) -> str:
        names = sorted({name for name, _ in self.kills})
        table = [f"{'signal':22}" + "".join(f"{stage:>12}" for stage in STAGES) + f"{'all':>8}{'slowest end':>14}"]
        for name in names:
            counts = [self.kills[name, stage] for stage in STAGES]
            cells = "".join(f"{count:12}" for count in counts)
            table.append(f"{name:22}{cells}{sum(counts):8}{self.slowest_s[name]:12.1f} s")
        total = [sum(self.kills[name, stage] for name in names) for stage in STAGES]
        table.append(f"{'all':22}" + "".join(f"{count:12}" for count in total) + f"{sum(total):8}")
        return "\n".join(table)


def broken_checkpoints(workdir: Path) -> list[str]:
    """Faults of the checkpoints of a run that nobody works on, in words; works on a copy."""
    wrong = []
    for folder in sorted(workdir.glob("*/checkpoints")):
        name = f"{workdir.name}/{folder.parent.name}"
        whole = []
        for sidecar in folder.glob("*.json"):
            files = json.loads(sidecar.read_text())["files"]
            for file, expected in files.items():
                path = folder / sidecar.stem / file
                if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                    wrong.append(f"{name}: checkpoint {sidecar.stem} is not whole ({file})")
                    break
            else:
                whole.append(int(sidecar.stem))
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "checkpoints"
            shutil.copytree(folder, copy)
            with Checkpointer(copy) as checkpointer:
                step = checkpointer.latest_valid_step()
            left = {path.name for path in copy.iterdir()}
        if step != max(whole, default=None):
            wrong.append(f"{name}: step {step} is taken for the newest checkpoint, {max(whole, default=None)} is")
        if strangers := left - {text for kept in whole for text in (str(kept), f"{kept}.json")}:
            wrong.append(f"{name}: {', '.join(sorted(strangers))} stays beside the checkpoints")
    return wrong


def check_end(job: Job, tally: Tally, what: str) -> None:
    """Notes what is not as it should be after all processes of a start have ended."""
    for path in job.logs:
        for words in ("Traceback", "Exception ignored", "Segmentation fault", "Fatal Python error"):
            if words in path.read_text(errors="replace"):
                tally.violate(f"{what}: {path.name} holds {words!r}")
    end = time.monotonic() + ORPHAN_S * load()
    while (left := marked(job.mark)) and time.monotonic() < end:
        time.sleep(0.1)
    if left:
        tally.violate(f"{what}: left running: {left}")
        job.kill()


def check_statuses(job: Job, tally: Tally, start: int, *, number: signal.Signals, target: int, name: str) -> None:
    """Notes exit statuses that do not follow from a signal to process `target`; `name` is the signal's, with what followed it."""
    for k, status in enumerate(job.statuses):
        allowed = {ExitStatus.FINISHED, STOPS.get(number, ExitStatus.RELAUNCH)}
        if number not in STOPS and target == (LAUNCHER if job.launched else k):
            allowed = {ExitStatus.RELAUNCH} if name.endswith("SIGCONT") else {-signal.SIGKILL}
        if status not in allowed:
            tally.violate(f"start {start}: {name}: {job.logs[k].name} ended with status {status}")


def compare(workdir: Path, reference: Path, tally: Tally, *, change_topology: bool) -> None:
    """Compares a finished run with the reference: to the bit, or to `TOLERANCE` where its devices changed."""
    tally.completed += 1
    for stage in ("teacher", "student"):
        params, expected = (flatten_arrays(load_params(path / stage / "export").state) for path in (workdir, reference))
        for name in expected:
            scale = np.max(np.abs(expected[name]))
            difference = float(np.max(np.abs(params[name] - expected[name])) / (scale or 1.0))
            tally.largest_difference = max(tally.largest_difference, difference)
            if difference > (TOLERANCE if change_topology else 0.0):
                tally.violate(f"{workdir.name}: {stage} {name} differs by {difference:.2g} of {scale:.2g}")
    if not change_topology:
        results, expected = result(workdir), result(reference)
        for name in expected:
            if results[name] != expected[name]:
                tally.violate(f"{workdir.name}: {name} is not the reference's")
    if left := sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*tmp*")):
        tally.violate(f"{workdir.name}: temporaries are left in it: {', '.join(left)}")
    print(f"{workdir.name} finished", flush=True)
