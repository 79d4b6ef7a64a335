"""The parent's side of a worker process: starting it, handing it a job, noticing its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accdistill_jax.reproduce.jobs.schedule import Job
from accdistill_jax.reproduce.jobs.worker import LOG
from accdistill_jax.runtime.child import Child, ChildDied


class JobWorker:
    """A process that does one job after another; started with its first, and anew after it died.

    Args:
        work: "package.module:function".
        environment: variables besides those of this process.

    Attributes:
        job: under way; None while idle.
        began: when it was handed over, as the caller's clock said.
    """

    def __init__(self, work: str, environment: Mapping[str, str]):
        self._work, self._environment = work, dict(environment)
        self._child: Child | None = None
        self.job: Job | None = None
        self.began = 0.0

    def begin(self, job: Job, folder: Path, needs: Mapping[str, Path], *, now: float) -> None:
        """Hands a job over.

        Raises:
            OSError: no process can be started, or the job's folder not made.
        """
        if self._child is None or not self._child.is_alive:
            self.close()
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as log:
                self._child = Child("accdistill_jax.reproduce.jobs.worker", environment=self._environment, output=log)
        self.job, self.began = job, now
        paths = {name: str(path) for name, path in needs.items()}
        message = {"name": job.name, "key": job.key, "order": job.order, "folder": str(folder), "needs": paths}
        self._child.send(message | {"work": self._work})  # `reply` says it if the process has died

    def stop(self, number: int) -> None:
        """Asks the job under way to stop as the signal `number` would; does not wait."""
        if self._child is not None:
            self._child.stop(number)

    def fileno(self) -> int:
        """File descriptor that becomes readable when there is a reply; -1 without a process."""
        return -1 if self._child is None else self._child.fileno()

    def reply(self) -> dict[str, Any] | None:
        """Outcome of the job, None while it goes on; takes the job off this worker. Does not block.

        If the process died, "status" is "died" and "reason" says of what.
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
        """Ends the process: at once where a job is under way."""
        if self._child is not None:
            self._child.close()
        self._child = self.job = None
