"""A writer that copies metrics to a tracking service, without ever holding up or ending the training.

One thread talks to the service. The training only puts records into a queue. When the service fails or does not keep up, one
warning says so, and the service gets nothing more until the run is started again; the JSON lines hold everything.

`<workdir>/metrics/<stage>.<service>.json` keeps the service's run id and the last step it has of each kind of record. A
continued run therefore goes on in the same run of the service, and steps that are computed again after the last checkpoint,
which have the same values, are not sent twice.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.training.metrics_sums import tags
from accdistill_jax.training.services import Service, Session, StageOutcome, Start

_log = logging.getLogger(__name__)
QUEUED_RECORDS = 1000
CLOSE_S = 20.0  # within which a service must take what is queued, when the stage ends


class Tracker:
    """A `MetricsWriter` that copies to one service."""

    def __init__(
        self,
        service: Service,
        workdir: str | os.PathLike,
        stage: str,
        *,
        config: Mapping[str, Any],
        close_s: float = CLOSE_S,
    ):
        """Describes the run; nothing is sent before the first record.

        Args:
            service: the service.
            workdir: work directory of the run.
            stage: "teacher" or "student".
            config: plain values by dotted key, shown by the service.
            close_s: how long leaving the context waits for the service.
        """
        self._service, self._close_s = service, close_s
        self._workdir, self._stage, self._config = Path(workdir).absolute(), stage, config
        self._path = self._workdir / "metrics" / f"{stage}.{service.name}.json"
        self._queue: queue.Queue[tuple[int, str, dict[str, float]] | StageOutcome] = queue.Queue(QUEUED_RECORDS)
        self._off = False
        self._warning = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"metrics to {service.name}", daemon=True)

    def write(
        self, step: int, kind: str, scalars: Mapping[str, Any], *, timing: Mapping[str, Any] | None = None
    ) -> None:
        """Queues one record; see `MetricsWriter`."""
        values = {tag: float(value) for tag, value in tags("metrics", kind, scalars).items()}
        values |= {tag: float(value) for tag, value in tags("timing", kind, timing or {}).items()}
        self._put((step, kind, values))

    def flush(self) -> None:
        """Does nothing: the thread sends records as they come."""

    def __enter__(self) -> "Tracker":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            outcome = StageOutcome.FINISHED
        else:
            outcome = StageOutcome.INTERRUPTED if issubclass(kind, Interrupted) else StageOutcome.FAILED
        self._put(outcome)
        self._thread.join(self._close_s)
        if self._thread.is_alive():
            self._give_up(f"it did not take the last records within {self._close_s:g} s")

    def _put(self, item: tuple[int, str, dict[str, float]] | StageOutcome) -> None:
        if self._off:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._give_up(f"it is {QUEUED_RECORDS} records behind")

    def _give_up(self, reason: str) -> None:
        with self._warning:
            if self._off:
                return
            self._off = True
        _log.warning(
            "%s: %s gets no more metrics of this training: %s. The files in %s hold all of them; the training goes on",
            self._stage,
            self._service.name,
            reason,
            self._path.parent,
        )

    def _work(self) -> None:
        """Sends what is queued, in the thread."""
        session: Session | None = None
        try:
            while not self._off:
                try:
                    item = self._queue.get(timeout=1.0)
                except queue.Empty:
                    continue
                if isinstance(item, StageOutcome):
                    if session is not None:
                        session.close(item)
                    return
                step, kind, values = item
                state = self._read()
                if session is None:
                    session = self._service.open(
                        Start(self._workdir, self._stage, self._config, run_id=state["run"] or None)
                    )
                    state["run"] = session.run_id
                if step > state["steps"].get(kind, 0):
                    session.log(step, values)
                    state["steps"][kind] = step
                self._keep(state)
        except Exception as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._give_up(f"{type(error).__name__}: {first_line}")

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads(self._path.read_text())
            return {"run": str(state["run"]), "steps": {str(k): int(v) for k, v in state["steps"].items()}}
        except FileNotFoundError:
            return {"run": "", "steps": {}}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._path} is unreadable ({error}); delete it to begin a new run there") from error

    def _keep(self, state: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._path)
