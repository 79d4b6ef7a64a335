"""Copies of metrics at tracking services: continued runs, no step twice, and failures that cost a warning alone."""

import json
import logging
import sys
import threading
import types

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.training import tracker as tracker_module
from accdistill_jax.training.metrics import read_metrics
from accdistill_jax.training.services import SERVICES, Mlflow, StageOutcome, Wandb, check_installed
from accdistill_jax.training.tracker import Tracker
from accdistill_jax.training.writer import open_writers


class Kept:
    """A service that keeps what it gets, and fails or waits where it is asked to."""

    name = "kept"

    def __init__(self, *, fails_at=None, waits=None):
        self.runs, self.logged, self.outcomes = [], [], []
        self._fails_at, self._waits = fails_at, waits

    def open(self, start):
        self.runs.append(start.run_id)
        self.run_id = start.run_id or f"run-{len(self.runs)}"
        return self

    def log(self, step, values):
        if self._waits is not None:
            self._waits.wait(60.0)
        if step == self._fails_at:
            raise ConnectionError("no answer from the server\nmore of it")
        self.logged.append((step, dict(values)))

    def close(self, outcome):
        self.outcomes.append(outcome)


def send(service, folder, steps, *, raises=None, **options):
    with Tracker(service, folder, "teacher", config={"seed": 1}, **options) as writer:
        for step in steps:
            writer.write(step, "train", {"loss": 1 / step}, timing={"seconds": 0.5})
            if step % 2 == 0:
                writer.write(step, "validation", {"loss": 2 / step})
        if raises is not None:
            raise raises


def test_values_have_the_tags_of_tensorboard(tmp_path):
    service = Kept()
    send(service, tmp_path, [1, 2])
    assert service.logged == [
        (1, {"train/loss": 1.0, "train_timing/seconds": 0.5}),
        (2, {"train/loss": 0.5, "train_timing/seconds": 0.5}),
        (2, {"validation/loss": 1.0}),
    ]
    assert service.outcomes == [StageOutcome.FINISHED]


def test_a_continued_training_goes_on_in_the_same_run_and_repeats_no_step(tmp_path):
    first, second = Kept(), Kept()
    with pytest.raises(Interrupted):
        send(first, tmp_path, range(1, 6), raises=Interrupted("stopped", 15))
    send(second, tmp_path, range(3, 9))  # from the checkpoint of step 2: steps 3 to 5 are computed again
    assert first.outcomes == [StageOutcome.INTERRUPTED] and second.outcomes == [StageOutcome.FINISHED]
    assert first.runs == [None] and second.runs == ["run-1"]
    sent = [(step, *values) for step, values in first.logged + second.logged]
    assert len(sent) == len(set(sent)) == 12
    assert [step for step, values in first.logged + second.logged if "train/loss" in values] == list(range(1, 9))


def test_a_kill_between_the_records_of_one_step_loses_neither(tmp_path):
    send(Kept(fails_at=None), tmp_path, [1])
    with Tracker(killed := Kept(), tmp_path, "teacher", config={}) as writer:
        writer.write(2, "train", {"loss": 0.5})  # and no validation any more
    service = Kept()
    send(service, tmp_path, [2])
    assert [values for _, values in killed.logged] == [{"train/loss": 0.5}]
    assert service.logged == [(2, {"validation/loss": 1.0})]


def test_a_failed_training_is_told_to_the_service(tmp_path):
    service = Kept()
    with pytest.raises(UserError):
        send(service, tmp_path, [1], raises=UserError("loss not finite"))
    assert service.outcomes == [StageOutcome.FAILED]


def test_a_service_that_fails_costs_one_warning_and_gets_nothing_more(tmp_path, caplog):
    service = Kept(fails_at=3)
    with caplog.at_level(logging.WARNING):
        send(service, tmp_path, range(1, 50))
    assert [step for step, _ in service.logged] == [1, 2, 2]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == (
        "teacher: kept gets no more metrics of this training: ConnectionError: no answer from the server. The files in "
        f"{tmp_path}/metrics hold all of them; the training goes on"
    )
    later = Kept()  # the next start tries again, from the step that failed
    send(later, tmp_path, range(1, 5))
    assert later.runs == ["run-1"] and [step for step, _ in later.logged] == [3, 4, 4]


def test_a_service_that_hangs_holds_nothing_up(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tracker_module, "QUEUED_RECORDS", 5)
    answer = threading.Event()
    try:
        with caplog.at_level(logging.WARNING):
            send(Kept(waits=answer), tmp_path, range(1, 4), close_s=0.05)
            assert "it did not take the last records within 0.05 s" in caplog.text
            caplog.clear()
            send(Kept(waits=answer), tmp_path, range(1, 100), close_s=0.05)
            assert "it is 5 records behind" in caplog.text and len(caplog.records) == 1
    finally:
        answer.set()


def test_an_unreadable_state_is_a_warning_that_names_the_file(tmp_path, caplog):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "teacher.kept.json").write_text("[]")
    send(Kept(), tmp_path, [1])
    assert f"{tmp_path}/metrics/teacher.kept.json is unreadable" in caplog.text
    assert "delete it to begin a new run there" in caplog.text


def test_nothing_is_sent_before_the_first_record(tmp_path):
    service = Kept()
    send(service, tmp_path, [])
    assert not service.runs and not (tmp_path / "metrics").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_that_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError) as caught:
        check_installed(("tensorboard", name))
    assert str(caught.value) == (
        f"config.runtime.metrics names '{name}', which is not installed: pip install 'accdistill_jax[{name}]', or leave it out"
    )
    check_installed(("tensorboard",))


def test_files_come_first_and_their_failure_stops_the_training(tmp_path):
    with open_writers((), tmp_path, "teacher", resume_step=0, config={}) as writer:
        writer.write(1, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics" / "teacher.jsonl")) == 1 and not (tmp_path / "tensorboard").exists()
    with open_writers(("tensorboard",), tmp_path, "teacher", resume_step=0, config={}) as writer:
        writer.write(1, "train", {"loss": 1.0})
    assert list((tmp_path / "tensorboard" / "teacher").iterdir())
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(UserError, match="cannot write metrics"):
        open_writers((), tmp_path / "blocked", "teacher", resume_step=0, config={})


class FakeWandbRun:
    def __init__(self, options):
        self.id, self.options, self.logged, self.exit_code = options["id"] or "new-id", options, [], None

    def define_metric(self, name, **options):
        pass

    def log(self, values):
        self.logged.append(values)

    def finish(self, *, exit_code):
        self.exit_code = exit_code


def test_weights_and_biases_gets_the_step_as_a_value_and_the_id_to_continue(tmp_path, monkeypatch):
    runs = []
    fake = types.SimpleNamespace(
        init=lambda **options: runs.append(FakeWandbRun(options)) or runs[-1],
        Settings=lambda **options: options,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    send(Wandb(), tmp_path, [1, 2])
    send(Wandb(), tmp_path, [2, 3])
    first, second = runs
    assert first.options["id"] is None and second.options["id"] == "new-id" and second.options["resume"] == "allow"
    assert first.options["config"] == {"seed": 1} and first.exit_code == 0
    assert [values["step"] for values in first.logged + second.logged] == [1, 2, 2, 3]


def test_a_disk_that_is_full_at_a_service_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    def init(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=lambda **options: options))
    with open_writers(("wandb",), tmp_path, "student", resume_step=0, config={}) as writer:
        for step in range(1, 20):
            writer.write(step, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics" / "student.jsonl")) == 19
    assert (
        "student: wandb gets no more metrics of this training: OSError: [Errno 28] No space left on device"
        in caplog.text
    )


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    send(Wandb(), tmp_path, [1, 2])
    send(Wandb(), tmp_path, [2, 3])
    wandb.teardown()
    state = json.loads((tmp_path / "metrics" / "teacher.wandb.json").read_text())
    assert state["steps"] == {"train": 3, "validation": 2}
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(state["run"] in folder.name for folder in folders)


@pytest.mark.filterwarnings("default")  # its own libraries warn
def test_mlflow_in_a_local_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    send(Mlflow(), tmp_path, [1, 2])
    send(Mlflow(), tmp_path, [2, 3])
    state = json.loads((tmp_path / "metrics" / "teacher.mlflow.json").read_text())
    client = mlflow.MlflowClient(Mlflow.address(tmp_path))
    run = client.get_run(state["run"])
    assert run.info.status == "FINISHED" and run.data.params["seed"] == "1"
    assert [one.step for one in client.get_metric_history(state["run"], "train/loss")] == [1, 2, 3]
    assert set(SERVICES) == {"wandb", "mlflow"}
