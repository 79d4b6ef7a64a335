"""Orders jobs by their dependencies: checks the graph and says which job comes next."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Job(NamedTuple):
    """One named piece of work.

    Attributes:
        name: unique, fit for a folder's name: "student-s0".
        key: hash (hexadecimal, at least 12 digits) of everything that decides the result, its needs' keys included.
        order: plain JSON values; what the work function is told.
        needs: names of jobs that must be finished before.
        cost_s: roughly expected duration, in seconds, for the order of the jobs and the time left.
    """

    name: str
    key: str
    order: dict
    needs: tuple[str, ...] = ()
    cost_s: float = 1.0


class Schedule:
    """The order of jobs: of those that can begin, the one with the longest path behind it comes first.

    Args:
        jobs: in the order in which equals are taken.

    Raises:
        ValueError: two jobs of one name, a need that nobody meets, needs in a circle, a name or key that makes no folder;
            a mistake of the program that made the jobs.
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
        """By name: the expected seconds from a job's begin to the end of the last one that follows from it."""

    def next(self, waiting: Collection[str], finished: Collection[str]) -> Job | None:
        """The job of `waiting` to begin now, all of whose needs are in `finished`; None while there is none."""
        able = [
            self.jobs[name] for name in self.jobs if name in waiting and set(self.jobs[name].needs) <= set(finished)
        ]
        return max(able, key=lambda job: self.path_s[job.name], default=None)

    def dependents(self, name: str) -> list[str]:
        """All that follows from a job, near ones first."""
        found = list(self._dependents[name])
        for near in found:
            found += [far for far in self._dependents[near] if far not in found]
        return found

    def left_s(
        self, waiting: Collection[str], running: Mapping[str, float], *, workers: int, scale: float = 1.0
    ) -> float:
        """Expected seconds until all is done.

        Args:
            waiting: names of jobs that have not begun.
            running: seconds since the begin of those that have.
            workers: jobs done at a time.
            scale: seconds that an expected second took so far.
        """
        rest = {name: max(0.0, scale * self.jobs[name].cost_s - elapsed) for name, elapsed in running.items()}
        rest |= {name: scale * self.jobs[name].cost_s for name in waiting}
        behind = {
            name: scale * (self.path_s[name] - self.jobs[name].cost_s) if name in running else 0.0 for name in rest
        }
        longest = max((rest[name] + behind[name] for name in running), default=0.0)
        longest = max([longest, *(scale * self.path_s[name] for name in waiting)])
        return max(longest, sum(rest.values()) / workers)

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
