"""Tables of the embedded minutes of a run: whose minute, which split, embedding and predictions."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import accdistill_jax as ad
from accdistill_jax.run import run

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_rows_say_whose_minute_they_are_and_hold_predictions(finished, smoke_store, part):
    table = pq.read_table(finished / f"embeddings/main-{part}.parquet")
    first = ["participant", "recording", "split", "start", "quality", "motion", "embedding"]
    assert table.column_names[:7] == first
    assert table.column_names[7:11] == ["hr_bpm", "hr_bpm_low", "hr_bpm_high", "hr_bpm_unknown"]
    with np.load(finished / "embeddings/main.npz") as saved:  # the arrays keep their place and their order
        arrays = [saved[f"{part}/{split}/embedding"] for split in SPLITS]
    embeddings = np.stack(table["embedding"].to_numpy())
    np.testing.assert_array_equal(embeddings, np.concatenate(arrays))
    assert table["split"].to_pylist() == [split for split, rows in zip(SPLITS, arrays, strict=True) for _ in rows]
    store = ad.open_store(smoke_store)
    of_store = set(zip(*(store.segments[name] for name in ("participant", "recording", "start_unix_s")), strict=True))
    whose = [table[name].to_pylist() for name in ("participant", "recording", "start")]
    assert {(who, recording, start.timestamp()) for who, recording, start in zip(*whose, strict=True)} <= of_store
    assert table["start"].to_pylist()[0].tzinfo is not None and 0 <= min(table["quality"].to_pylist()) <= 1
    motion = table["motion"].to_numpy()
    expected = ad.load(finished, part=part).predict_embeddings(embeddings, motion_g=motion)["hr_bpm"]
    np.testing.assert_array_equal(table["hr_bpm_low"].to_numpy(zero_copy_only=False), expected.low)
    assert table["hr_bpm_unknown"].to_pylist() == expected.reason.tolist()


def test_a_damaged_table_is_written_again_and_a_whole_one_stays(copy, smoke_config, no_training):
    damaged, whole = copy / "embeddings/main-student.parquet", copy / "embeddings/main-teacher.parquet"
    content, before = damaged.read_bytes(), whole.stat().st_mtime_ns
    damaged.write_bytes(content[:1000] + b"\0" + content[1001:])
    run(smoke_config(stages=("data", "teacher", "student", "evaluation")), copy)
    assert damaged.read_bytes() == content and whole.stat().st_mtime_ns == before


def test_the_stage_report_alone_writes_tables_of_the_embeddings_that_it_makes(copy, smoke_config, no_training):
    run(smoke_config(**{"stages": ("report",), "evaluation.train_segments": 20}), copy)
    table = pq.read_table(copy / "embeddings/main-student.parquet")
    with np.load(copy / "embeddings/main.npz") as saved:
        arrays = [saved[f"student/{split}/embedding"] for split in SPLITS]
    assert len(arrays[0]) == 20
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), np.concatenate(arrays))
