"""Batches of a training: none of its own copies in validation, and a line about copies in training."""

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.fit import validation_batch_size, validation_batches
from accdistill_jax.stages.sources import Source
from accdistill_jax.stages.teacher import run_stage


@pytest.fixture
def make_run(smoke_config, smoke_store, tmp_path):
    def make(said, **changes):
        return Run(
            smoke_config(**changes), tmp_path, (Store.open(smoke_store),), Parallel(), Peers.alone(), said.append
        )

    return make


@pytest.mark.parametrize("batch_size", [16, 512])
def test_a_validation_batch_has_no_segment_twice(make_run, batch_size):
    said = []
    run = make_run(said, **{"student.train.batch_size": batch_size, "student.train.validation_batches": 4})
    batches = validation_batches(run, "student", Source())
    segments = len(run.stores[0].indices("validation"))
    signals = np.concatenate([batch["accel"] for batch in batches])
    assert len({one.tobytes() for one in signals}) == len(signals) <= segments < 512
    assert len(signals) >= min(4 * batch_size, (segments + 1) // 2) and not said


def test_the_size_of_a_validation_batch():
    assert validation_batch_size(128, segments=5000, devices=8) == 128
    assert (
        validation_batch_size(128, segments=60, devices=1) == validation_batch_size(128, segments=60, devices=8) == 32
    )
    assert validation_batch_size(96, segments=60, devices=4) == 48
    assert validation_batch_size(96, segments=3, devices=4) == 4  # each device needs a segment


def test_fewer_validation_segments_than_devices_are_named(make_run):
    said = []
    run = make_run(said)
    run.parallel.num_devices = 64
    few = Source(rows=lambda split: [run.stores[0].indices(split)[:3]])
    validation_batches(run, "student", few)
    assert said == ["student: 3 validation segments for 64 devices, so segments repeat in validation"]


ONE_STEP = {"stages": ("teacher",), "teacher.train.duration": "1 steps", "teacher.train.warmup": "0 steps"}


def test_the_best_parameters_without_validation_are_named(make_run):
    said = []
    run_stage(make_run(said, **{"teacher.train.keep": "best", "teacher.train.validation_batches": 0} | ONE_STEP))
    (line,) = [line for line in said if "keep" in line]
    assert line.startswith("warning: teacher: config.teacher.train.keep = 'best' has no effect without validation")


def test_copies_in_a_batch_of_training_are_named(make_run):
    said = []
    run = make_run(said, **{"teacher.train.batch_size": 64} | ONE_STEP)
    run_stage(run)
    (line,) = [line for line in said if "copies" in line]
    segments = len(run.stores[0].indices("train"))
    assert line.startswith(f"teacher: {64 - segments} of 64 segments of a batch are copies of others in it")
