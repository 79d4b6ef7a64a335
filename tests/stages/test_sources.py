"""Pairs of one participant, and labels of a share of the segments."""

import dataclasses

import numpy as np
import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.schema import SAME_NAMES
from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.store.labels import labelled_subset
from accdistill_jax.data.store.opening import segment_columns
from accdistill_jax.data.store.separation import SAME_PERSON
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.objectives.base import LABEL, SECOND
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.sources import labelled_rows, labelled_source, paired_source
from accdistill_jax.stages.teacher import embedding_statistics


@pytest.fixture
def run(smoke_config, smoke_store, tmp_path):
    return Run(smoke_config(), tmp_path, (Store.open(smoke_store),), Parallel(), Peers.alone(), print)


def owner(run, signals):
    """Participant of each segment, found by its content."""
    store = run.stores[0]
    everything = store.read(np.arange(store.num_segments))["ppg"]
    found = {row.tobytes(): number for number, row in enumerate(everything)}
    rows = np.array([found[np.ascontiguousarray(one).tobytes()] for one in signals])
    return rows, store.segments["participant"][rows]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_second_segment_is_another_one_of_the_same_participant(run, split):
    source = paired_source(run, "ppg")
    pipeline = Pipeline(run.stores, Sampling(split, 0), batch_size=16, reader=source.reader(split))
    seen = set()
    for step in range(4):
        batch = pipeline.batch(step)
        assert not any(name.startswith("accel") for name in batch)
        rows, people = owner(run, batch["ppg"])
        others, same = owner(run, batch[f"{SECOND}ppg"])
        assert (people == same).all() and (rows != others).all()
        assert set(others) <= set(run.stores[0].indices(split))
        seen |= set(zip(rows.tolist(), others.tolist(), strict=True))
    assert len(seen) > 40  # not always the same partner


def test_pairs_do_not_depend_on_the_number_of_hosts(run):
    source = paired_source(run, "accel")
    make = lambda host, hosts: Pipeline(
        run.stores, Sampling("train", 0), batch_size=16, reader=source.reader("train"), host=host, hosts=hosts
    )
    whole = make(0, 1).batch(3)
    parts = [make(host, 2).batch(3) for host in range(2)]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_a_share_of_the_labels_keeps_participants_together_and_grows(run):
    store = run.stores[0]
    same = run.config.data.same_names
    of = lambda fraction: labelled_rows(
        run.stores, "train", same_names=same, target="hr_bpm", fraction=fraction, subset=1
    )[0]
    half, whole = of(0.5), of(1.0)
    assert set(half) < set(whole) <= set(store.indices("train"))
    assert set(of(0.3)) <= set(half)
    assert np.isfinite(store.segments["hr_bpm"][whole]).all()
    people, counts = np.unique(store.segments["participant"][half], return_counts=True)
    everybody, total = np.unique(store.segments["participant"][whole], return_counts=True)
    complete = [
        count == dict(zip(everybody, total, strict=True))[name] for name, count in zip(people, counts, strict=True)
    ]
    assert complete.count(False) <= 1 and len(half) == round(0.5 * len(whole))


@pytest.mark.parametrize("same_names", SAME_NAMES)
def test_stores_with_common_people_give_probes_and_supervised_training_the_same_labels(run, same_names):
    stores = (run.stores[0], run.stores[0])  # so both have the same people
    rows = labelled_rows(stores, "train", same_names=same_names, target="hr_bpm", fraction=0.3, subset=1)
    columns = segment_columns(stores, [store.indices("train") for store in stores], same_names=same_names)
    known = np.isfinite(columns["hr_bpm"])
    drawn = labelled_subset(columns["participant"], known, 0.3, 1).rows  # as reproduce/measure/probing.py draws them
    np.testing.assert_array_equal(
        columns["hr_bpm"][drawn], np.concatenate([stores[0].segments["hr_bpm"][of] for of in rows])
    )
    people = [set(stores[0].segments["participant"][of]) for of in rows]
    assert (len(people[0] ^ people[1]) <= 1) == (
        same_names == SAME_PERSON
    )  # the last person's share may be of one store


def test_labelled_batches_have_their_segments_labels_and_no_ppg(run):
    source, statistics = labelled_source(run, target="sdnn_ms", fraction=0.5, subset=0)
    rows = source.rows("train")
    labels = run.stores[0].segments["sdnn_ms"][rows[0]]
    np.testing.assert_allclose(statistics["label_mean"], labels.mean(), rtol=1e-5)
    np.testing.assert_allclose(statistics["label_std"], labels.std(), rtol=1e-5)
    pipeline = Pipeline(run.stores, Sampling("train", 0, rows=rows), batch_size=8, reader=source.reader("train"))
    assert pipeline.num_segments == len(rows[0])
    batch = pipeline.batch(0)
    _, chosen = pipeline.global_indices(0)
    np.testing.assert_array_equal(batch[LABEL], run.stores[0].segments["sdnn_ms"][chosen].astype(np.float32))
    assert {name for name in batch} == {"accel", "accel_scale", "accel_offset", LABEL, "position"}


def test_a_label_that_nobody_has_is_an_error(run, monkeypatch):
    monkeypatch.setitem(run.stores[0].segments, "sdnn_ms", np.full(run.stores[0].num_segments, np.nan, np.float32))
    with pytest.raises(UserError, match="config.student.supervised.target = 'sdnn_ms': no training segment"):
        labelled_source(run, target="sdnn_ms", fraction=1.0, subset=0)


def capped(run, **caps):
    return dataclasses.replace(run, config=changed(run.config, {f"data.{name}": value for name, value in caps.items()}))


def test_caps_bind_the_second_segments_of_pairs(run):
    run = capped(run, participant_cap=3)
    store, source = run.stores[0], paired_source(run, "ppg")
    rows = [run.training_rows(store)]
    pipeline = Pipeline(run.stores, Sampling("train", 0, rows=rows), batch_size=16, reader=source.reader("train"))
    batches = [pipeline.batch(step) for step in range(8)]
    rows, _ = owner(run, np.concatenate([batch["ppg"] for batch in batches]))
    others, people = owner(run, np.concatenate([batch[f"{SECOND}ppg"] for batch in batches]))
    assert set(others) == set(rows) == set(run.training_rows(store))
    assert max(len(set(others[people == name])) for name in set(people)) == 3


def test_caps_bind_the_statistics_of_labels_and_embeddings(run, monkeypatch):
    run = capped(run, store_cap=7)
    source, statistics = labelled_source(run, target="sdnn_ms", fraction=1.0, subset=0)
    labels = run.stores[0].segments["sdnn_ms"][source.rows("train")[0]]
    assert len(labels) == 7
    np.testing.assert_allclose(statistics["label_mean"], labels.mean(), rtol=1e-5)
    used = []
    monkeypatch.setattr(
        "accdistill_jax.stages.teacher.embed",
        lambda apply, params, pairs, **rest: used.extend(pairs) or {"z": np.zeros((1, 1), np.float32)},
    )
    embedding_statistics(run, None, None)
    ((_, rows),) = used
    np.testing.assert_array_equal(rows, run.training_rows(run.stores[0]))
    assert len(rows) == 7
