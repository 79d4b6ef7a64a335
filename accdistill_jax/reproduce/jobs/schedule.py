"""Orders jobs by their dependencies: checks the graph and selects the next job."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

_DOUBT = 0.1  # weight of what was known before against what this start measures, as a share of the expected durations


class Job(NamedTuple):
    """A named piece of work.

    Attributes:
        name: unique and valid as a folder's name, for example "student-s0".
        key: hash (hexadecimal, at least 12 digits) of everything that decides the result, including the keys of needed jobs.
        order: plain JSON values for the work function.
        needs: names of jobs that must be finished before.
        cost_s: rough expected duration in seconds, used for the order of jobs and the time left.
    """

    name: str
    key: str
    order: dict
    needs: tuple[str, ...] = ()
    cost_s: float = 1.0


class Schedule:
    """The order of jobs: among the jobs that can start, the one with the longest path of dependents comes first.

    Args:
        jobs: their order decides between equals.

    Raises:
        ValueError: a duplicate name, an unknown need, a circle of needs, or a name or key that is not valid for a folder.
    """

    def __init__(self, jobs: Sequence[Job]):
        self.jobs: dict[str, Job] = {}
        for job in jobs:
            if job.name in self.jobs:
                raise ValueError(f"two jobs are named {job.name!r}")
            if not job.name or job.name.startswith((".", "-")) or "/" in job.name or len(job.key) < 12:
                raise ValueError(f"job {job.name!r} with key {job.key!r} makes no folder's name")
            self.jobs[job.name] = job
        self._dependents: dict[str, list[str]] = {name: [] for name in self.jobs}
        for job in jobs:
            for need in dict.fromkeys(job.needs):
                if need not in self.jobs:
                    raise ValueError(f"job {job.name!r} needs {need!r}, which is no job")
                self._dependents[need].append(job.name)
        self.path_s = self._paths()
        """Name -> expected seconds from the start of a job to the end of its last dependent."""

    def next(self, waiting: Collection[str], finished: Collection[str]) -> Job | None:
        """The next job of `waiting` whose needs are all in `finished`; None if there is none."""
        able = [
            self.jobs[name] for name in self.jobs if name in waiting and set(self.jobs[name].needs) <= set(finished)
        ]
        return max(able, key=lambda job: self.path_s[job.name], default=None)

    def dependents(self, name: str) -> list[str]:
        """All direct and indirect dependents of a job, the direct ones first."""
        dependents = list(self._dependents[name])
        for direct in dependents:
            dependents += [indirect for indirect in self._dependents[direct] if indirect not in dependents]
        return dependents

    def left_s(
        self, waiting: Collection[str], running: Mapping[str, float], *, workers: int, scale: float = 1.0
    ) -> float:
        """Expected seconds until all jobs are done.

        Args:
            waiting: names of jobs that have not started.
            running: name of each running job -> seconds since its start.
            workers: number of jobs that run at the same time.
            scale: measured seconds for each expected second so far.
        """
        rest = {name: max(0.0, scale * self.jobs[name].cost_s - elapsed) for name, elapsed in running.items()}
        rest |= {name: scale * self.jobs[name].cost_s for name in waiting}
        behind = {
            name: scale * (self.path_s[name] - self.jobs[name].cost_s) if name in running else 0.0 for name in rest
        }
        longest = max((rest[name] + behind[name] for name in running), default=0.0)
        longest = max([longest, *(scale * self.path_s[name] for name in waiting)])
        return max(longest, sum(rest.values()) / workers)

    def scale(
        self, finished: Mapping[str, float], running: Mapping[str, float], *, before: Mapping[str, float]
    ) -> float:
        """Measured seconds for each expected second.

        Args:
            finished: name of each job finished in this start -> its seconds.
            running: name of each running job -> seconds since its start. It counts once it is late, because a slow
                machine must not look fast until its longest job ends.
            before: name of each job finished in an earlier start -> its seconds. They count less than those of this
                start, because the machine may have had other work.
        """
        doubt_s = _DOUBT * self._expected_s(self.jobs)
        earlier_s = self._expected_s(before)
        earlier = (sum(before.values()) + doubt_s) / (earlier_s + doubt_s) if doubt_s else 1.0
        late = {name: elapsed for name, elapsed in running.items() if elapsed > self.jobs[name].cost_s}
        took_s = sum(finished.values()) + sum(late.values())
        expected_s = self._expected_s(finished) + self._expected_s(late)
        doubt_s = _DOUBT * max(self._expected_s(self.jobs) - earlier_s, 0.0)
        return (took_s + earlier * doubt_s) / (expected_s + doubt_s) if expected_s + doubt_s > 0 else earlier

    def _expected_s(self, names: Collection[str]) -> float:
        return sum(self.jobs[name].cost_s for name in names)

    def _paths(self) -> dict[str, float]:
        lengths: dict[str, float] = {}
        under_way: list[str] = []

        def length(name: str) -> float:
            if name in under_way:
                raise ValueError("needs in a circle: " + " -> ".join([*under_way[under_way.index(name) :], name]))
            if name not in lengths:
                under_way.append(name)
                behind = max(map(length, self._dependents[name]), default=0.0)
                lengths[name] = self.jobs[name].cost_s + behind
                under_way.pop()
            return lengths[name]

        for name in self.jobs:
            length(name)
        return lengths
