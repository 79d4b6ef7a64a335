"""Tracking services that can get a copy of the metrics: one adapter each.

Their packages are optional extras, imported when a training first writes to them. Addresses and keys are each service's own
environment variables, so no secret is in a config: WANDB_API_KEY, WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY;
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. Without them, MLflow writes to `<workdir>/mlflow.db`.

An adapter is used from one thread. Whatever it raises is a warning, see `tracker.Tracker`.
"""

import enum
import importlib
import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from accdistill_jax.errors import UserError

PROJECT = "accdistill_jax"


class StageOutcome(enum.Enum):
    """Outcome of a stage."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Start(NamedTuple):
    """Description of the run that a service begins or continues.

    Attributes:
        workdir: work directory, absolute.
        stage: "teacher" or "student".
        config: plain values by dotted key.
        run_id: id that the service gave to the run when it began; None begins one.
    """

    workdir: Path
    stage: str
    config: Mapping[str, Any]
    run_id: str | None


class Session(Protocol):
    """A run that a service has open.

    Attributes:
        run_id: id of the run at the service.
    """

    run_id: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends values by tag, for example "train/loss"."""

    def close(self, outcome: StageOutcome) -> None:
        """Sends what is left and closes the run."""


class Service(Protocol):
    """A tracking service.

    Attributes:
        name: its name in the config; also the package that it needs and the extra that installs it.
    """

    name: str

    def open(self, start: Start) -> Session:
        """Begins or continues a run."""


class Wandb:
    """Weights & Biases. Values are drawn over the metric "step", so that a continued run may log in any order."""

    name = "wandb"

    def open(self, start: Start) -> "_WandbSession":
        """See `Service`."""
        wandb = importlib.import_module(self.name)

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(start.workdir)),
            id=start.run_id,
            resume="allow",
            name=f"{start.workdir.name}/{start.stage}",
            group=start.workdir.name,
            job_type=start.stage,
            config=dict(start.config),
            settings=wandb.Settings(console="off", silent=True),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return _WandbSession(run)


class _WandbSession:
    def __init__(self, run: Any):
        self._run = run
        self.run_id: str = run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Session`."""
        self._run.log({"step": step, **values})

    def close(self, outcome: StageOutcome) -> None:
        """See `Session`."""
        self._run.finish(exit_code=0 if outcome is StageOutcome.FINISHED else 1)


class Mlflow:
    """MLflow, by its client alone: nothing global is set, so that a caller's own MLflow run stays as it is."""

    name = "mlflow"

    @staticmethod
    def address(workdir: Path) -> str:
        """Address of the tracking server or database."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir / 'mlflow.db'}"

    def open(self, start: Start) -> "_MlflowSession":
        """See `Service`."""
        client = importlib.import_module(self.name).MlflowClient(self.address(start.workdir))
        if start.run_id is not None:
            client.update_run(start.run_id, status="RUNNING")
            return _MlflowSession(client, start.run_id)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(name)
        experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
        run = client.create_run(experiment_id, run_name=f"{start.workdir.name}/{start.stage}")
        for key, value in start.config.items():
            client.log_param(run.info.run_id, key, value)
        return _MlflowSession(client, run.info.run_id)


class _MlflowSession:
    def __init__(self, client: Any, run_id: str):
        self._client, self.run_id = client, run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Session`."""
        metric = importlib.import_module("mlflow.entities").Metric
        now_ms = time.time_ns() // 1_000_000
        self._client.log_batch(self.run_id, metrics=[metric(tag, value, now_ms, step) for tag, value in values.items()])

    def close(self, outcome: StageOutcome) -> None:
        """See `Session`."""
        status = {StageOutcome.FINISHED: "FINISHED", StageOutcome.INTERRUPTED: "KILLED", StageOutcome.FAILED: "FAILED"}
        self._client.set_terminated(self.run_id, status[outcome])


SERVICES: dict[str, Service] = {service.name: service for service in (Wandb(), Mlflow())}


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError where the config names a service whose package is not installed."""
    for name in names:
        if name in SERVICES and importlib.util.find_spec(name) is None:
            raise UserError(
                f"config.runtime.metrics names {name!r}, which is not installed: "
                f"pip install 'accdistill_jax[{name}]', or leave it out"
            )
