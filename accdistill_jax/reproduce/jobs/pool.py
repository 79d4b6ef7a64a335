"""The parent's side of a worker process: starts it, hands it jobs, notices its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accdistill_jax.reproduce.jobs.schedule import Job
from accdistill_jax.reproduce.jobs.worker import LOG
from accdistill_jax.runtime.child import Child, ChildDied


class JobWorker:
    """A process that does one job after another. It starts with the first job, and again after it died.

    Args:
        work: "package.module:function".
        environment: environment variables besides those of this process.

    Attributes:
        job: the running job; None while idle.
        began: start of the job, by the caller's clock.
    """

    def __init__(self, work: str, environment: Mapping[str, str]):
        self._work, self._environment = work, dict(environment)
        self._child: Child | None = None
        self.job: Job | None = None
        self.began = 0.0

    def begin(self, job: Job, folder: Path, needs: Mapping[str, Path], *, now: float) -> None:
        """Starts a job.

        Raises:
            OSError: the process cannot be started, or the job's folder cannot be created.
        """
        if self._child is None or not self._child.is_alive:
            self.close()
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as log:
                self._child = Child("accdistill_jax.reproduce.jobs.worker", environment=self._environment, output=log)
        self.job, self.began = job, now
        paths = {name: str(path) for name, path in needs.items()}
        message = {"name": job.name, "key": job.key, "order": job.order, "folder": str(folder), "needs": paths}
        self._child.send(message | {"work": self._work})  # if the process has died, `reply` reports it

    def stop(self, number: int) -> None:
        """Asks the running job to stop as the signal `number` would; does not wait."""
        if self._child is not None:
            self._child.stop(number)

    def fileno(self) -> int:
        """File descriptor that becomes readable when there is a reply; -1 without a process."""
        return -1 if self._child is None else self._child.fileno()

    def reply(self) -> dict[str, Any] | None:
        """Returns the outcome of the job and frees this worker; None while the job runs. Does not block.

        If the process died, "status" is "died" and "reason" names the cause.
        """
        if self._child is None:
            return None
        try:
            answer = self._child.receive(0.0)
        except TimeoutError:
            return None
        except ChildDied as death:
            answer = {"status": "died", "reason": f"its process died ({death}); see {LOG}"}
        self.job = None
        if answer["status"] != "finished":  # the next job gets a fresh process
            self.close()
        return answer

    def close(self) -> None:
        """Ends the process, at once if a job is running."""
        if self._child is not None:
            self._child.close()
        self._child = self.job = None
