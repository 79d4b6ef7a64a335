"""Kills processes of a run at random moments, again and again, and compares what it ends with.

    python -m tests.chaos --kills 30                      # two processes, one device each; ends with the same bits
    python -m tests.chaos --kills 30 --change-topology    # every start on other processes and devices; to 1e-5
    python -m tests.chaos --kills 10 --through-launcher   # started by launch/local, which is killed as well

A first run is left alone: the reference. Then the same command is started and disturbed: in a random stage, at a random step
of it, a random process gets SIGKILL, SIGTERM, SIGINT, or SIGSTOP (followed by SIGKILL or SIGCONT once the others have
noticed). All processes have to end by themselves in time, with the documented statuses and without a traceback; nothing may be left
running; every checkpoint has to be whole. Then the command is started again. A run gets at most --kills-per-run kills and is
then left to finish, its results are compared with the reference's, and the next run begins in a new folder.

Exit status: 0 if all of this held; 1 if not, each violation told in a line; the folder is kept then.
"""

import argparse
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from accdistill_jax.config.record import source_hash
from accdistill_jax.errors import ExitStatus
from tests.chaos_processes import LAUNCHER, STEPS, UNITS, Job, load, send
from tests.chaos_verdict import Tally, broken_checkpoints, check_end, check_statuses, compare
from tests.test_resume import STAGES, finished

TOPOLOGIES = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4))  # processes, devices of each
UNDISTURBED_S = 1500.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a kill is due: a stage, how far in it (steps, units of data; seconds in stages without), a delay more."""

    stage: str
    after: float
    delay_s: float

    @classmethod
    def draw(cls, stage: str, durations_s: dict[str, float], rng: random.Random) -> "Moment":
        """A moment in a stage; `durations_s` are those of the reference's stages."""
        seconds = durations_s[stage]
        if stage == "data":
            return cls(stage, rng.randrange(UNITS), rng.uniform(0, seconds / UNITS))
        if stage in ("teacher", "student"):
            # most of the time passes before the first step, in which the step is compiled
            after = rng.choice((0, rng.randrange(1, STEPS), rng.randrange(1, STEPS)))
            return cls(stage, after, rng.uniform(0, 0.3 if after else seconds / 2))
        return cls(stage, 0, rng.uniform(0, seconds))

    def reached(self, workdir: Path, log: str) -> bool:
        """True if the start that writes `log` has come so far; what earlier ones have left does not count."""
        if self.stage == "data":
            units = len(list((workdir / "data" / "synthetic.partial" / "units").glob("*.npz")))
            return "data: " in log and (units >= self.after or finished(workdir, "data"))
        if self.stage in ("teacher", "student"):
            begun = re.search(rf"{self.stage}: \d+ steps .*?(?:continuing from step (\d+))?\n", log)
            if not begun:
                return finished(workdir, self.stage)
            first = int(begun[1] or 0)
            return position(workdir, self.stage) >= first + self.after * (STEPS - first) / STEPS
        before = STAGES[STAGES.index(self.stage) - 1]
        return "student: " in log and finished(workdir, before)


def position(workdir: Path, stage: str) -> int:
    """The last step in a stage's metrics."""
    path = workdir / "metrics" / f"{stage}.jsonl"
    return max(map(int, re.findall(r'"step": (\d+)', path.read_text())), default=0) if path.exists() else 0


def stage_now(workdir: Path) -> tuple[str, str]:
    """The stage that a run is in, and how far it is in words."""
    stage = next((stage for stage in STAGES if not finished(workdir, stage)), STAGES[-1])
    return stage, f"{stage} step {position(workdir, stage)}" if stage in ("teacher", "student") else stage


class Chaos:
    """One test: a reference and disturbed runs until enough kills have hit.

    Args:
        options: the command line's.
        folder: where the runs go.
    """

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder, self.tally = options, folder, Tally()
        self.rng = random.Random(options.seed)
        self.starts = self.killed = 0
        self.cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder / "xla")

    def start(self, workdir: Path, topology: tuple[int, int]) -> Job:
        self.starts += 1
        return Job(
            workdir,
            processes=topology[0],
            devices=topology[1],
            peer_timeout_s=self.options.peer_timeout,
            launched=self.options.through_launcher,
            number=self.starts,
            cache=self.cache,
        )

    def run(self) -> None:
        """Makes the reference and disturbs runs; what comes out is in `tally`."""
        topology = (self.options.processes, self.options.devices)
        reference = self.options.reference or self.folder / "reference"
        made_by = reference.with_name(f"{reference.name}.source")  # other code may round otherwise
        if not finished(reference, STAGES[-1]):
            self.leave_alone(reference, topology)
            made_by.write_text(source_hash())
        elif made_by.read_text() != source_hash():
            sys.exit(f"{reference} was made by another version of the source code; delete it")
        self.durations_s = json.loads((reference / "stages.json").read_text())
        run = 0
        while self.killed < self.options.kills and not self.tally.violations:
            run += 1
            workdir = self.folder / f"run{run}"
            if self.finish_disturbed(workdir, run, topology):
                compare(workdir, reference, self.tally, change_topology=self.options.change_topology)

    def leave_alone(self, workdir: Path, topology: tuple[int, int]) -> None:
        """Makes the reference."""
        began = time.monotonic()
        job = self.start(workdir, topology)
        try:
            job.wait(UNDISTURBED_S)
        finally:
            job.kill()
        if set(job.statuses) != {0}:
            sys.exit(f"the undisturbed run ended with {job.statuses}; see {job.logs[0]}")
        check_end(job, self.tally, "undisturbed run")
        print(f"undisturbed run: {time.monotonic() - began:.0f} s, load {load():.1f}", flush=True)

    def finish_disturbed(self, workdir: Path, run: int, usual: tuple[int, int]) -> bool:
        """Starts and disturbs a run until it is finished; False where it is not to be."""
        unprovoked, before = 0, len(self.tally.violations)
        plan = sorted(self.rng.choices(STAGES, k=self.options.kills_per_run), key=STAGES.index)
        while len(self.tally.violations) == before:
            topology = self.rng.choice(TOPOLOGIES) if self.options.change_topology else usual
            plan = [stage for stage in plan if not finished(workdir, stage)]
            left_alone = not plan or self.killed == self.options.kills
            moment = None if left_alone else Moment.draw(plan[0], self.durations_s, self.rng)
            job = self.start(workdir, topology)
            try:
                hit = self.disturb(job, workdir, run, topology, moment)
            finally:
                job.kill()
            check_end(job, self.tally, f"start {self.starts}")
            for text in broken_checkpoints(workdir):
                self.tally.violate(f"start {self.starts}: {text}")
            if set(job.statuses) == {0}:
                return len(self.tally.violations) == before
            if hit:
                del plan[0]
            else:
                unprovoked += 1
                self.tally.lost_unprovoked += 1
                self.tally.relaunch_unprovoked += set(job.statuses) == {ExitStatus.RELAUNCH}
                print(f"start {self.starts} ended with {job.statuses} without a kill, load {load():.1f}", flush=True)
                if set(job.statuses) != {ExitStatus.RELAUNCH} or load() < 2 or unprovoked > 3:
                    self.tally.violate(
                        f"start {self.starts} ended with {job.statuses} without a kill; see {job.logs[0]}"
                    )
        return False

    def disturb(self, job: Job, workdir: Path, run: int, topology: tuple[int, int], moment: Moment | None) -> bool:
        """Waits for the moment and kills; whether the kill has hit a live run. Returns when all processes have ended."""
        moment_is_there = (lambda: moment.reached(workdir, job.log)) if moment else lambda: False
        if not job.wait(UNDISTURBED_S, moment_is_there):
            self.tally.violate(f"start {self.starts} has not ended within {UNDISTURBED_S:.0f} s")
            return False
        if moment is None or not job.poll() or job.wait(moment.delay_s):
            return False
        target = self.rng.randrange(LAUNCHER if job.launched else 0, topology[0])
        number = self.rng.choice(SIGNALS[:-1] if target == LAUNCHER else SIGNALS)
        stage, where = stage_now(workdir)
        pid = job.pid(target)
        if pid is None or not send(pid, number):
            job.wait(self.limit_s())
            return False
        name, began = number.name, time.monotonic()
        limit_s = self.limit_s()
        if number == signal.SIGSTOP:
            after = signal.SIGKILL
            if topology[0] > 1:
                after = self.rng.choice((signal.SIGKILL, signal.SIGCONT))
                # the launcher ends when the stopped one has
                others = [rank for rank in range(topology[0]) if rank != target]
                noticed = job.wait(limit_s, lambda: all(job.pid(rank) is None for rank in others))
                if not noticed:
                    self.tally.violate(f"start {self.starts}: the silence was not noticed within {limit_s:.0f} s")
            noticed_at = time.monotonic()
            name += f" then {after.name}"
            send(pid, after)
        in_time = job.wait(limit_s)
        if not in_time:
            self.tally.violate(
                f"start {self.starts}: {name} to process {target}: {job.statuses} after {limit_s:.0f} s; see {job.logs[0]}"
            )
            job.kill()
            job.poll()
        if job.statuses[0 if job.launched else target] == 0:
            return False  # it had done its work
        self.killed += 1
        slowest = max(job.ended_at.values()) - began
        if number == signal.SIGSTOP and topology[0] > 1:
            slowest = noticed_at - began
        self.tally.kills[name, stage] += 1
        self.tally.slowest_s[name] = max(slowest, self.tally.slowest_s.get(name, 0.0))
        ended = ", ".join(
            f"{'launcher' if job.launched else k}: {status} after {job.ended_at[k] - began:.1f} s"
            for k, status in enumerate(job.statuses)
        )
        victim = "launcher" if target == LAUNCHER else f"process {target}"
        print(
            f"kill {self.killed}/{self.options.kills}  run {run}  {where}  {name}  {victim} of {topology[0]}x{topology[1]}"
            f"  ended: {ended}  load {load():.1f}",
            flush=True,
        )
        check_statuses(job, self.tally, self.starts, number=number, target=target, name=name)
        return True

    def limit_s(self) -> float:
        """Seconds that the processes may take to end."""
        return (self.options.peer_timeout + 10.0) * load()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kills", type=int, default=30, help="that hit a live run (30)")
    add("--kills-per-run", type=int, default=8, help="before a run is left to finish (8)")
    add("--seed", type=int, default=0, help="of what is random (0)")
    add("--processes", type=int, default=2, help="of the run (2)")
    add("--devices", type=int, default=1, help="of each process (1)")
    add("--peer-timeout", type=float, default=3.0, help="seconds of silence after which a process is lost (3)")
    add("--change-topology", action="store_true", help="start on other processes and devices each time")
    add("--through-launcher", action="store_true", help="start by launch/local, and kill it too")
    add("--keep", type=Path, metavar="FOLDER", help="empty or new folder for the runs, kept afterwards")
    add(
        "--reference",
        type=Path,
        metavar="FOLDER",
        help="work directory of the undisturbed run; made where not finished",
    )
    options = parser.parse_args(argv)
    if options.kills < 1 or options.kills_per_run < 1 or options.processes < 1 or options.devices < 1:
        parser.error("--kills, --kills-per-run, --processes and --devices must be at least 1")
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # by way of the clean-up
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.reference:
        options.reference = options.reference.absolute()
        options.reference.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    chaos = Chaos(options, folder)
    tally = chaos.tally
    try:
        chaos.run()
    finally:
        print(tally.summary())
        print(
            f"{tally.completed} disturbed runs finished; largest difference of a parameter {tally.largest_difference:.2g}; "
            f"{tally.lost_unprovoked} starts ended without a kill, {tally.relaunch_unprovoked} of them with 75; {len(tally.violations)} violations; "
            f"{time.monotonic() - began:.0f} s"
        )
    if tally.violations:
        print(f"kept: {folder}")
    elif not options.keep:
        shutil.rmtree(folder)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
