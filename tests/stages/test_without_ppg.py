"""Stores without PPG: students train and are evaluated on acceleration alone; what needs PPG says so."""

import dataclasses
import json
import math

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import CRC, Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError
from accdistill_jax.run import run
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.build_objective import check_ppg
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import unseen_stores

ALONE = {"stages": ("data", "student", "evaluation", "report")}


def without_ppg(store: Store, path, *, rename: str = "", move: float = 0.0) -> str:
    """A store with the acceleration (moved by so many g, in noise), the labels and the splits of another one."""
    rng = np.random.default_rng(0)
    table = store.participants
    splits = dict(zip(table["participant"].to_pylist(), table["split"].to_pylist(), strict=True))
    rule = SplitRule(assignment={rename + name: split for name, split in splits.items()})
    writer = StoreWriter(path, settings=PreprocessSettings(), source="bench", split=rule)
    left_out = {CRC, "ppg_quality", "ppg_clipped"}
    for name in splits:
        rows = np.flatnonzero(store.segments["participant"] == name)
        accel = store.read_signals(rows)["accel"]
        if move:
            accel = accel + rng.normal(0, move, accel.shape).astype(np.float32)
        columns = {key: values[rows] for key, values in store.segments.items() if key not in left_out}
        columns["participant"] = np.full(len(rows), rename + name)
        batch = SegmentBatch(np.zeros((*accel.shape[:2], 0)), accel, columns, Participant(rename + name), len(rows), {})
        writer.add(rename + name, batch)
    return writer.commit([rename + name for name in splits]).path


@pytest.fixture(scope="module")
def accel_store(smoke_store, tmp_path_factory) -> str:
    """The smoke store without its PPG."""
    return without_ppg(Store.open(smoke_store), tmp_path_factory.mktemp("accel") / "accel")


@pytest.mark.parametrize(
    ("changes", "reader"),
    [
        ({}, "the student's objective 'distillation'"),
        ({"student.objective": "joint"} | ALONE, "the student's objective 'joint'"),
        ({"student.objective": "masked"}, "the stage teacher"),
    ],
)
def test_what_reads_ppg_is_refused_in_a_line_before_a_folder_is_made(
    smoke_config, accel_store, tmp_path, no_training, changes, reader
):
    with pytest.raises(
        UserError, match=f"accel has no PPG, but {reader} reads it; .*objective=masked.*--config.stages="
    ):
        run(smoke_config(**{"data.stores": (accel_store,)} | changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["masked", "contrastive", "supervised"])
def test_objectives_on_acceleration_alone_are_not_refused(smoke_config, accel_store, objective):
    check_ppg(smoke_config(**{"student.objective": objective} | ALONE), [Store.open(accel_store)])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked", "contrastive", "supervised"])
def test_a_student_trained_without_ppg_is_the_one_trained_beside_it(
    smoke_config, smoke_store, accel_store, tmp_path, objective
):
    reports = {}
    for name, stores in {"paired": (str(smoke_store),), "accel": (accel_store,)}.items():
        run(smoke_config(**{"student.objective": objective, "data.stores": stores} | ALONE), tmp_path / name)
        reports[name] = json.loads((tmp_path / name / "report.json").read_text())["evaluation"]
    assert reports["accel"]["encoders"] == ["student", "untrained"] and not reports["accel"]["retrieval"]
    probes = [report["targets"]["hr_bpm"]["probes"] for report in reports.values()]
    assert probes[0] == probes[1]


@pytest.mark.slow
def test_stores_with_and_without_ppg_train_a_student_together(smoke_config, smoke_store, tmp_path):
    paired = Store.open(smoke_store)
    alone = without_ppg(paired, tmp_path / "alone", rename="other-", move=0.01)
    stores = (str(smoke_store), alone)
    run(smoke_config(**{"student.objective": "supervised", "data.stores": stores} | ALONE), tmp_path / "run")
    splits = json.loads((tmp_path / "run" / "report.json").read_text())["evaluation"]["splits"]
    assert splits["test"]["segments"] == 2 * len(paired.indices("test"))


@pytest.mark.slow
def test_a_distilled_student_is_evaluated_on_an_unseen_store_without_ppg(copy, smoke_config, smoke_store, capsys):
    unseen = without_ppg(Store.open(smoke_store), copy.parent / "watch", rename="other-", move=0.01)
    run(smoke_config(**{"data.unseen_stores": (unseen,)}), copy)
    assert "watch has no PPG, so the teacher is not evaluated on it" in capsys.readouterr().out
    report = json.loads((copy / "unseen" / "watch" / "report.json").read_text())["evaluation"]
    assert report["encoders"] == ["student", "untrained"] and not report["retrieval"]
    labelled = np.isfinite(Store.open(unseen).segments["hr_bpm"]).sum()
    assert report["targets"]["hr_bpm"]["test_segments"] == labelled > 80 and math.isfinite(
        report["health"]["student"]["effective_rank"]
    )


class SecondProcess(Peers):
    """The second of two processes; process 0 has the work directory, with a finished student."""

    def __init__(self):
        super().__init__(rank=1, count=2)

    def from_first(self, name, fn):
        return True


def test_processes_without_the_work_directory_know_of_its_student(smoke_config, smoke_store, accel_store, tmp_path):
    """A student is evaluated on stores without PPG, a teacher alone is not."""
    config = smoke_config(**{"data.unseen_stores": (accel_store,), "stages": ("evaluation", "report")})
    stores = (Store.open(smoke_store),)
    ours = Run(config, tmp_path, stores, Parallel(), SecondProcess(), lambda line: None)
    assert list(unseen_stores(ours)) == ["accel"]
    with pytest.raises(UserError, match="PPG channels"):
        unseen_stores(dataclasses.replace(ours, peers=Peers.alone()))
